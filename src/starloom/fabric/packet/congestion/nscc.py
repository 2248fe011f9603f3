"""NSCC, the sender-based control of Ultra Ethernet: window by queueing delay and marks.

Behaviour and constants as in the reference simulator (ultraethernet/uet-htsim, `uec.cpp`, and UE
specification 1.0). Per acknowledgement of `acked` bytes, with the packet's mark and the queueing
delay (round trip less the lowest ever seen):

    unmarked, delay < target     inc += alpha * acked * (target - delay); a delay below 1 us for a
                                 whole window: the window grows by `fi_scale` of what is acked
    unmarked, delay >= target    inc += fi * acked
    marked,   delay >= target    once a round trip: cwnd *= max(1 - gamma (avg - target) / avg, 1/2)
    marked,   delay < target     nothing: the balancing takes another way
    every 8 packets or round trip    cwnd += inc / cwnd; and each round trip cwnd += eta
    a trimmed packet             cwnd -= its bytes
    quick adapt: each round trip + target, after trims or a delay above 4 targets, when less than
    1/8 of the largest window arrived: cwnd = what arrived, and what was in flight is not counted
"""

from dataclasses import dataclass
from typing import ClassVar

from starloom.fabric.clos import Floats
from starloom.fabric.jit import step
from starloom.fabric.packet.congestion.base import Control, Network
from starloom.fabric.packet.layout import (
    FF_BASE_RTT,
    FF_CC,
    FF_CWND,
    FF_DELAY,
    FF_MAX_CWND,
    GF_PARAMETERS,
    NSCC,
    S_IN_FLIGHT,
    Reals,
    Words,
)

TARGET, ALPHA, FI, ETA, GAMMA, FI_SCALE, MTU, RTT, WINDOW_PER_PS = range(
    GF_PARAMETERS, GF_PARAMETERS + 9
)
INC, ACKED, ADJUSTED_AT, DECREASED_AT, FAST, RISING, ACHIEVED, QA_END, QA_ASKED, IGNORED, IGNORE = (
    range(FF_CC, FF_CC + 11)
)
DELAY_WEIGHT = 0.0125
FAST_BELOW_PS = 1_000_000.0


@dataclass(frozen=True)
class Nscc(Control):
    """Factors of the UE specification; sizes scale with the network's bandwidth-delay product."""

    code: ClassVar[int] = NSCC

    target_rtts: float = 0.0
    """Queueing delay that is aimed at, in base round trips; 0: 0.75 with trimming, else 1."""
    gamma: float = 0.8
    eta_mss: float = 0.15
    fi_mss: float = 5.0
    alpha_mss: float = 4.0
    fi_scale: float = 0.25
    max_window_bdp: float = 1.5

    def target_ps(self, network: Network) -> float:
        """The queueing delay aimed at."""
        rtts = self.target_rtts or (0.75 if network.trims else 1.0)
        return rtts * network.rtt_ps

    def numbers(self, network: Network) -> list[float]:
        """`a` is the BDP over the reference network's (100 Gb/s, 12 us: 150 kB)."""
        a = network.bdp_bytes / 150_000
        target = self.target_ps(network)
        b = target / 12e6
        mss = network.payload_bytes
        return [
            target,
            self.alpha_mss * mss * a * b / target,
            self.fi_mss * mss * a,
            self.eta_mss * mss * a,
            self.gamma,
            self.fi_scale * a,
            network.wire_bytes,
            network.rtt_ps,
            self.max_window_bdp / network.byte_ps,
        ]

    def begin(self, network: Network, rows: Floats) -> None:
        super().begin(network, rows)
        rows[:, FF_MAX_CWND] = self.max_window_bdp * network.bdp_bytes
        rows[:, FF_CWND] = rows[:, FF_MAX_CWND]


@step
def observe(x: Reals, f: int, delay: float, marked: bool) -> None:
    """The mean delay; without a mark, a long delay counts as a quarter of the base round trip."""
    if not marked and delay > x[TARGET]:
        delay = 0.25 * x[f + FF_BASE_RTT]
    x[f + FF_DELAY] += DELAY_WEIGHT * (delay - x[f + FF_DELAY])


@step
def on_ack(m: Words, x: Reals, f: int, now: int, marked: bool, rtt: float, acked: int) -> None:
    """One acknowledgement, as the module says; `rtt` is zero where there is no sample."""
    if rtt > 0:
        delay = rtt - x[f + FF_BASE_RTT]
        x[f + FF_MAX_CWND] = x[WINDOW_PER_PS] * x[f + FF_BASE_RTT]
        observe(x, f, delay, marked)
    else:
        delay = x[f + FF_DELAY]
    x[f + ACHIEVED] += acked
    x[f + ACKED] += acked
    x[f + IGNORED] += acked
    if _quick_adapt(m, x, f, now, False, marked, delay):
        return
    target = x[TARGET]
    if not marked and delay >= target:
        x[f + INC] += x[FI] * acked
    elif not marked:
        _increase(x, f, delay, acked)
    elif delay >= target:
        _decrease(x, f, now)
    _bound(x, f)
    since = now - x[f + ADJUSTED_AT]
    if x[f + ACKED] > 8 * x[MTU] or since > x[RTT]:
        x[f + FF_CWND] += x[f + INC] / x[f + FF_CWND]
        if since >= x[RTT]:
            x[f + FF_CWND] += x[ETA]
            x[f + ADJUSTED_AT] = now
        x[f + INC] = 0.0
        x[f + ACKED] = 0.0
        _bound(x, f)


@step
def on_trim(m: Words, x: Reals, f: int, now: int, lost: int) -> None:
    """A packet came back as a header."""
    x[f + IGNORED] += lost
    observe(x, f, x[RTT], True)
    x[f + QA_ASKED] = 1.0
    if not _quick_adapt(m, x, f, now, True, True, 0.0):
        x[f + FF_CWND] -= lost
        _bound(x, f)


@step
def on_timeout(x: Reals, f: int, lost: int) -> None:
    x[f + FF_CWND] = max(x[f + FF_CWND] - lost, x[MTU])


@step
def _increase(x: Reals, f: int, delay: float, acked: int) -> None:
    if delay < FAST_BELOW_PS:
        x[f + FAST] += acked
        if x[f + FAST] > x[f + FF_CWND] or x[f + RISING] > 0:
            x[f + FF_CWND] += acked * x[FI_SCALE]
            x[f + RISING] = 1.0
            return
    else:
        x[f + FAST] = 0.0
    x[f + RISING] = 0.0
    x[f + INC] += x[ALPHA] * acked * (x[TARGET] - delay)


@step
def _decrease(x: Reals, f: int, now: int) -> None:
    x[f + RISING] = 0.0
    x[f + FAST] = 0.0
    mean = x[f + FF_DELAY]
    if mean > x[TARGET] and now - x[f + DECREASED_AT] > x[f + FF_BASE_RTT]:
        x[f + FF_CWND] *= max(1.0 - x[GAMMA] * (mean - x[TARGET]) / mean, 0.5)
        x[f + FF_CWND] = max(x[f + FF_CWND], x[MTU])
        x[f + DECREASED_AT] = now


@step
def _quick_adapt(
    m: Words, x: Reals, f: int, now: int, lost: bool, marked: bool, delay: float
) -> bool:
    done = False
    if x[f + IGNORED] < x[f + IGNORE] and marked:
        done = True
    elif now > x[f + QA_END]:
        asked = x[f + QA_ASKED] > 0 or lost or delay > 4 * x[TARGET]
        if x[f + QA_END] > 0 and asked and x[f + ACHIEVED] < x[f + FF_MAX_CWND] / 8:
            x[f + FF_CWND] = max(x[f + ACHIEVED], x[MTU])
            x[f + IGNORE] = m[f + S_IN_FLIGHT]
            x[f + IGNORED] = 0.0
            x[f + QA_ASKED] = 0.0
            done = True
        x[f + ACHIEVED] = 0.0
        x[f + QA_END] = now + x[f + FF_BASE_RTT] + x[TARGET]
    if done:
        x[f + INC] = 0.0
        x[f + ACKED] = 0.0
    return done


@step
def _bound(x: Reals, f: int) -> None:
    x[f + FF_CWND] = min(max(x[f + FF_CWND], x[MTU]), x[f + FF_MAX_CWND])
