"""The packet core: one compiled event loop over plain arrays."""

from starloom.fabric.packet.congestion import CONTROLS, Control, Network
from starloom.fabric.packet.core import PacketCore, Watch

__all__ = ["CONTROLS", "Control", "Network", "PacketCore", "Watch"]
