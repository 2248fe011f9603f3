"""What every congestion control is: parameters in Python, steps in compiled code.

A control opens or closes three gates of a sender: a window (`FF_CWND`, bytes in flight), a rate
(`FF_RATE`, bytes per ps) and credit (`S_CREDIT`, bytes a receiver has granted). A gate that a
control does not use stays open. Its own state stands in the columns from `FF_CC` on.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Self

from starloom.fabric.clos import Floats
from starloom.fabric.errors import BadScenario
from starloom.fabric.packet.layout import FF_BASE_RTT, FF_CWND, FF_MAX_CWND, FF_RATE


@dataclass(frozen=True, slots=True)
class Network:
    """What a control is told of its network."""

    rtt_ps: float
    """Unloaded, over the longest way."""
    byte_ps: float
    """Of a host, over all its planes."""
    wire_bytes: int
    """Of a full packet."""
    payload_bytes: int
    trims: bool
    hops: int
    """Links of the longest way."""

    @property
    def bdp_bytes(self) -> float:
        return self.rtt_ps / self.byte_ps


@dataclass(frozen=True)
class Control:
    """A congestion control with its parameters; subclasses are frozen dataclasses of floats."""

    code: ClassVar[int]
    """Its number in compiled code."""
    credits: ClassVar[bool] = False
    """Receivers grant what may be sent."""
    telemetry: ClassVar[bool] = False
    """Switches write their utilisation into packets."""
    cnp: ClassVar[bool] = False
    """Receivers send a congestion notification for marked packets."""

    @classmethod
    def of(cls, options: dict[str, float]) -> Self:
        """With some parameters other than by default. Raises `BadScenario` for unknown ones."""
        known = {parameter.name for parameter in fields(cls)}
        for name in options:
            if name not in known:
                what = f"congestion_options.{name}: {cls.__name__.lower()} has no such parameter"
                raise BadScenario(f"{what}; it has: {', '.join(sorted(known)) or 'none'}")
        return cls(**options)

    pace: float = 0.99
    """With credits: share of the receiver's link that it grants."""

    def numbers(self, network: Network) -> list[float]:
        """The parameters as the compiled steps read them."""
        raise NotImplementedError

    def begin(self, network: Network, rows: Floats) -> None:
        """The state of senders before their first packet: window and rate wide open by default."""
        rows[:, FF_CWND] = 1e18
        rows[:, FF_RATE] = float("inf")
        rows[:, FF_BASE_RTT] = network.rtt_ps
        rows[:, FF_MAX_CWND] = 1.5 * network.bdp_bytes

    def first_bytes(self, network: Network) -> int:
        """What a sender may send before it has heard of any credit."""
        return int(1.5 * network.bdp_bytes)
