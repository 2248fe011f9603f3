"""ENCC, an end-network cooperative control: receivers grant, switches report, senders obey both.

The name stands for a class of controls that its vendors describe without equations; this is ours.

- *Receiver*: credit as in RCCC, at `pace` of its link. A sender asks first with `first_packets`,
  so that an incast meets an empty queue whatever its degree.
- *Network*: packets carry the highest utilisation on their way. Where its mean over a round trip is
  above `eta` the sender's window shrinks by their ratio; else it grows by `rise` packets. The last
  link runs at `pace` by itself, so `eta` stands above it and only a hot spot in the fabric acts;
  the mean, so that one way of many does not stop a sender that can take the others.
"""

from dataclasses import dataclass
from typing import ClassVar

from starloom.fabric.clos import Floats
from starloom.fabric.jit import step
from starloom.fabric.packet.congestion.base import Control, Network
from starloom.fabric.packet.layout import (
    ENCC,
    FF_CC,
    FF_CWND,
    FF_MAX_CWND,
    GF_PARAMETERS,
    S_CUM,
    S_HIGHEST,
    S_ROUND,
    Reals,
    Words,
)

ETA, MTU, MOST, RISE = range(GF_PARAMETERS, GF_PARAMETERS + 4)
SUM, COUNT = range(FF_CC, FF_CC + 2)


@dataclass(frozen=True)
class Encc(Control):
    """Parameters chosen here, on incast, permutation and all-to-all."""

    code: ClassVar[int] = ENCC
    credits: ClassVar[bool] = True
    telemetry: ClassVar[bool] = True

    pace: float = 0.97
    eta: float = 1.1
    rise: float = 4.0
    first_packets: float = 1.0
    window_bdp: float = 1.25

    def numbers(self, network: Network) -> list[float]:
        rise = self.rise * network.wire_bytes
        return [self.eta, network.wire_bytes, self.window_bdp * network.bdp_bytes, rise]

    def begin(self, network: Network, rows: Floats) -> None:
        super().begin(network, rows)
        rows[:, FF_MAX_CWND] = rows[:, FF_CWND] = self.window_bdp * network.bdp_bytes

    def first_bytes(self, network: Network) -> int:
        return int(self.first_packets * network.wire_bytes)


@step
def on_ack(m: Words, x: Reals, f: int, util: float) -> None:
    """One acknowledgement; the window changes once a round trip."""
    x[f + SUM] += util
    x[f + COUNT] += 1.0
    if m[f + S_CUM] < m[f + S_ROUND]:
        return
    m[f + S_ROUND] = m[f + S_HIGHEST]
    window = x[f + FF_CWND]
    mean = x[f + SUM] / x[f + COUNT]
    if mean > x[ETA]:
        window *= max(x[ETA] / mean, 0.5)
    else:
        window += x[RISE]
    x[f + FF_CWND] = min(max(window, x[MTU]), x[MOST])
    x[f + SUM] = 0.0
    x[f + COUNT] = 0.0
