"""DCQCN (Zhu et al., SIGCOMM 2015): a rate, cut by notifications, raised by timer and bytes.

    notification    R_t = R; R *= 1 - alpha / 2; alpha = (1 - g) alpha + g
    alpha timer     without one: alpha *= 1 - g
    timer or bytes  each counts its rounds since the cut; in both fewer than F: R = (R_t + R) / 2;
                    one beyond: R_t += AI first; both beyond: R_t += HAI first

Constants of the paper as coded in the HPCC authors' ns-3 (alibaba-edu/High-Precision-Congestion-
Control, `dcqcn_paper`), AI and HAI scaled to the link: 5 and 50 Mb/s for each 25 Gb/s.
"""

from dataclasses import dataclass
from typing import ClassVar

from starloom.fabric.clos import Floats
from starloom.fabric.jit import step
from starloom.fabric.packet.congestion.base import Control, Network
from starloom.fabric.packet.events import at
from starloom.fabric.packet.layout import (
    DCQCN,
    E_CC,
    FF_CC,
    FF_RATE,
    GF_PARAMETERS,
    HEAP,
    KINDS,
    S_CC_TIMER,
    Reals,
    Words,
)

LINE, GAIN, AI, HAI, ALPHA_PS, RAISE_PS, RAISE_BYTES, FAST_ROUNDS, LEAST = range(
    GF_PARAMETERS, GF_PARAMETERS + 9
)
TARGET, ALPHA, ALPHA_AT, RAISE_AT, BYTES, TIMER_ROUNDS, BYTE_ROUNDS = range(FF_CC, FF_CC + 7)


@dataclass(frozen=True)
class Dcqcn(Control):
    """Rates in parameters are in Gb/s."""

    code: ClassVar[int] = DCQCN
    cnp: ClassVar[bool] = True

    gain: float = 1 / 256
    alpha_us: float = 55.0
    raise_us: float = 55.0
    raise_bytes: float = 10e6
    fast_rounds: float = 5.0
    ai_gbps_per_25g: float = 0.005
    hai_gbps_per_25g: float = 0.05
    least_gbps: float = 0.1

    def numbers(self, network: Network) -> list[float]:
        line = 1.0 / network.byte_ps
        links = 8000.0 / network.byte_ps / 25.0
        return [
            line,
            self.gain,
            self.ai_gbps_per_25g * links / 8000.0,
            self.hai_gbps_per_25g * links / 8000.0,
            self.alpha_us * 1e6,
            self.raise_us * 1e6,
            self.raise_bytes,
            self.fast_rounds,
            self.least_gbps / 8000.0,
        ]

    def begin(self, network: Network, rows: Floats) -> None:
        super().begin(network, rows)
        rows[:, FF_RATE] = rows[:, TARGET] = 1.0 / network.byte_ps
        rows[:, ALPHA] = 1.0


@step
def on_cnp(m: Words, x: Reals, f: int, now: int) -> None:
    """A packet was marked."""
    x[f + TARGET] = x[f + FF_RATE]
    x[f + FF_RATE] = max(x[f + FF_RATE] * (1.0 - 0.5 * x[f + ALPHA]), x[LEAST])
    x[f + ALPHA] = (1.0 - x[GAIN]) * x[f + ALPHA] + x[GAIN]
    x[f + BYTES] = 0.0
    x[f + TIMER_ROUNDS] = 0.0
    x[f + BYTE_ROUNDS] = 0.0
    x[f + ALPHA_AT] = now + x[ALPHA_PS]
    x[f + RAISE_AT] = now + x[RAISE_PS]
    if m[f + S_CC_TIMER] == 0:
        m[f + S_CC_TIMER] = 1
        _set_timer(m, x, f)


@step
def on_ack(x: Reals, f: int, acked: int) -> None:
    """The byte counter."""
    x[f + BYTES] += acked
    if x[f + BYTES] >= x[RAISE_BYTES]:
        x[f + BYTES] -= x[RAISE_BYTES]
        x[f + BYTE_ROUNDS] += 1.0
        _raise(x, f)


@step
def on_timer(m: Words, x: Reals, f: int, now: int) -> None:
    """Both timers; they stop when the rate is back at the line's."""
    if now >= x[f + ALPHA_AT]:
        x[f + ALPHA] *= 1.0 - x[GAIN]
        x[f + ALPHA_AT] += x[ALPHA_PS]
    if now >= x[f + RAISE_AT]:
        x[f + RAISE_AT] += x[RAISE_PS]
        x[f + TIMER_ROUNDS] += 1.0
        _raise(x, f)
    if x[f + FF_RATE] < x[LINE] or x[f + ALPHA] > 0.001:
        _set_timer(m, x, f)
    else:
        m[f + S_CC_TIMER] = 0


@step
def _raise(x: Reals, f: int) -> None:
    beyond = (x[f + TIMER_ROUNDS] > x[FAST_ROUNDS]) + (x[f + BYTE_ROUNDS] > x[FAST_ROUNDS])
    if beyond == 1:
        x[f + TARGET] += x[AI]
    elif beyond == 2:
        x[f + TARGET] += x[HAI]
    x[f + TARGET] = min(x[f + TARGET], x[LINE])
    x[f + FF_RATE] = min(0.5 * (x[f + TARGET] + x[f + FF_RATE]), x[LINE])


@step
def _set_timer(m: Words, x: Reals, f: int) -> None:
    due = min(x[f + ALPHA_AT], x[f + RAISE_AT])
    at(m, HEAP, int(due) + 1, E_CC + KINDS * f)
