"""HPCC (Li et al., SIGCOMM 2019) over PINT's telemetry: the window follows the way's utilisation.

    U >= eta, or `stages` rises in a row    W = W_c eta / U + W_ai
    else                                    W = W_c + W_ai
    once a round trip                       W_c = W
    rate                                    W / T

with U the highest utilisation of a link on the way (`packet.telemetry`), W_ai = (1 - eta) BDP / N.
"""

from dataclasses import dataclass
from typing import ClassVar

from starloom.fabric.clos import Floats
from starloom.fabric.jit import step
from starloom.fabric.packet.congestion.base import Control, Network
from starloom.fabric.packet.layout import (
    FF_CC,
    FF_CWND,
    FF_RATE,
    GF_PARAMETERS,
    HPCC,
    S_CUM,
    S_HIGHEST,
    S_ROUND,
    Reals,
    Words,
)

ETA, STAGES, RISE, MTU, MOST, RTT = range(GF_PARAMETERS, GF_PARAMETERS + 6)
REFERENCE, STAGE = range(FF_CC, FF_CC + 2)


@dataclass(frozen=True)
class Hpcc(Control):
    """Parameters of the paper's evaluation."""

    code: ClassVar[int] = HPCC
    telemetry: ClassVar[bool] = True

    eta: float = 0.95
    stages: float = 5.0
    flows: float = 100.0
    """N: flows that may share a link without a standing queue."""

    def numbers(self, network: Network) -> list[float]:
        bdp = network.bdp_bytes
        rise = (1.0 - self.eta) * bdp / self.flows
        return [self.eta, self.stages, rise, network.wire_bytes, bdp, network.rtt_ps]

    def begin(self, network: Network, rows: Floats) -> None:
        super().begin(network, rows)
        rows[:, FF_CWND] = rows[:, REFERENCE] = network.bdp_bytes
        rows[:, FF_RATE] = 1.0 / network.byte_ps


@step
def on_ack(m: Words, x: Reals, f: int, util: float) -> None:
    """One acknowledgement."""
    round_ends = m[f + S_CUM] >= m[f + S_ROUND]
    if util >= x[ETA] or x[f + STAGE] >= x[STAGES]:
        window = x[f + REFERENCE] * x[ETA] / max(util, 1e-3) + x[RISE]
        stage = 0.0
    else:
        window = x[f + REFERENCE] + x[RISE]
        stage = x[f + STAGE] + 1.0
    window = min(max(window, 0.01 * x[MTU]), x[MOST])
    if round_ends:
        x[f + REFERENCE] = window
        x[f + STAGE] = stage
        m[f + S_ROUND] = m[f + S_HIGHEST]
    x[f + FF_CWND] = max(window, x[MTU])
    x[f + FF_RATE] = window / x[RTT]
