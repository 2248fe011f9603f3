"""Swift (Kumar et al., SIGCOMM 2020): a window that keeps the round trip at a target.

    target   base + range * f(cwnd), f falling from 1 at `fs_min` packets to 0 at `fs_max`, as
             1 / sqrt(cwnd): many flows at a link get a longer target
    below    cwnd += ai * acked / cwnd   (packets; below one packet: += ai * acked)
    above    once a round trip: cwnd *= max(1 - beta (rtt - target) / rtt, 1 - max_mdf)

A window below one packet becomes a rate. The paper states the form; of its constants only
max_mdf 0.5 is public. Base and range in round trips are assumed here.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from starloom.fabric.clos import Floats
from starloom.fabric.jit import step
from starloom.fabric.packet.congestion.base import Control, Network
from starloom.fabric.packet.layout import FF_CC, FF_CWND, FF_RATE, GF_PARAMETERS, SWIFT, Reals

BASE, FS_ALPHA, FS_BETA, FS_RANGE, AI, BETA, MAX_MDF, MTU, MOST, LEAST = range(
    GF_PARAMETERS, GF_PARAMETERS + 10
)
DECREASED_AT, WINDOW = range(FF_CC, FF_CC + 2)


@dataclass(frozen=True)
class Swift(Control):
    """Windows in parameters are in packets."""

    code: ClassVar[int] = SWIFT

    base_rtts: float = 1.25
    range_rtts: float = 2.0
    fs_min: float = 0.1
    fs_max: float = 100.0
    ai: float = 1.0
    beta: float = 0.8
    max_mdf: float = 0.5

    def numbers(self, network: Network) -> list[float]:
        span = self.range_rtts * network.rtt_ps
        alpha = span / (self.fs_min**-0.5 - self.fs_max**-0.5)
        return [
            self.base_rtts * network.rtt_ps,
            alpha,
            -alpha * self.fs_max**-0.5,
            span,
            self.ai,
            self.beta,
            self.max_mdf,
            network.wire_bytes,
            1.5 * network.bdp_bytes / network.wire_bytes,
            0.01,
        ]

    def begin(self, network: Network, rows: Floats) -> None:
        super().begin(network, rows)
        rows[:, FF_CWND] = network.bdp_bytes
        rows[:, WINDOW] = network.bdp_bytes / network.wire_bytes


@step
def target_ps(x: Reals, f: int) -> float:
    """The round trip aimed at, by the window."""
    more = x[FS_ALPHA] / math.sqrt(x[f + WINDOW]) + x[FS_BETA]
    return x[BASE] + min(max(more, 0.0), x[FS_RANGE])


@step
def on_ack(x: Reals, f: int, now: int, rtt: float, acked: int) -> None:
    """One acknowledgement; without a sample the window stands."""
    if rtt <= 0.0:
        return
    window = x[f + WINDOW]
    target = target_ps(x, f)
    packets = acked / x[MTU]
    if rtt < target:
        window += x[AI] * packets / max(window, 1.0)
    elif now - x[f + DECREASED_AT] > rtt:
        window *= max(1.0 - x[BETA] * (rtt - target) / rtt, 1.0 - x[MAX_MDF])
        x[f + DECREASED_AT] = now
    _set(x, f, window, rtt)


@step
def on_loss(x: Reals, f: int, now: int) -> None:
    """A trim or a timeout: the largest decrease, once a round trip."""
    if now - x[f + DECREASED_AT] > x[BASE]:
        x[f + DECREASED_AT] = now
        _set(x, f, x[f + WINDOW] * (1.0 - x[MAX_MDF]), x[BASE])


@step
def _set(x: Reals, f: int, window: float, rtt: float) -> None:
    window = min(max(window, x[LEAST]), x[MOST])
    x[f + WINDOW] = window
    x[f + FF_CWND] = max(window, 1.0) * x[MTU]
    x[f + FF_RATE] = window * x[MTU] / rtt if window < 1.0 else 1e30
