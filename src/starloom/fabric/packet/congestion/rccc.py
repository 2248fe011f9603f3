"""RCCC, the receiver-credit control of Ultra Ethernet: a receiver grants what its link can take.

A sender begins with 1.5 bandwidth-delay products that nobody granted; the first answer ends that,
and from then on it spends credit (`packet.grants`). The receiver's pacer runs at 0.99 of its link
and serves its senders in turns, so N senders share it equally whatever N is.
"""

from dataclasses import dataclass
from typing import ClassVar

from starloom.fabric.packet.congestion.base import Control, Network
from starloom.fabric.packet.layout import RCCC


@dataclass(frozen=True)
class Rccc(Control):
    """Credits alone; the fabric between is taken to be non-blocking."""

    code: ClassVar[int] = RCCC
    credits: ClassVar[bool] = True

    first_bdp: float = 1.5

    def numbers(self, network: Network) -> list[float]:
        del network
        return []

    def first_bytes(self, network: Network) -> int:
        return int(self.first_bdp * network.bdp_bytes)
