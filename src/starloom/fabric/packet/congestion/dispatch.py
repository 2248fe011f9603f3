"""From a control's number to its compiled steps.

`rtt` is a round trip in ps, zero where there is no sample; `util` is the way's telemetry.
"""

from starloom.fabric.jit import step
from starloom.fabric.packet.congestion import dcqcn, encc, hpcc, nscc, swift
from starloom.fabric.packet.layout import DCQCN, ENCC, G_CONGESTION, HPCC, NSCC, SWIFT, Reals, Words


@step
def on_ack(
    m: Words, x: Reals, f: int, now: int, marked: bool, rtt: float, acked: int, util: float
) -> None:
    """Packets have arrived."""
    how = m[G_CONGESTION]
    if how == NSCC:
        nscc.on_ack(m, x, f, now, marked, rtt, acked)
    elif how == DCQCN:
        dcqcn.on_ack(x, f, acked)
    elif how == SWIFT:
        swift.on_ack(x, f, now, rtt, acked)
    elif how == HPCC:
        hpcc.on_ack(m, x, f, util)
    elif how == ENCC:
        encc.on_ack(m, x, f, util)


@step
def on_trim(m: Words, x: Reals, f: int, now: int, lost: int, util: float) -> None:
    """A packet came back as a header, or a receiver saw a gap."""
    how = m[G_CONGESTION]
    if how == NSCC:
        nscc.on_trim(m, x, f, now, lost)
    elif how == SWIFT:
        swift.on_loss(x, f, now)
    elif how == HPCC:
        hpcc.on_ack(m, x, f, util)
    elif how == ENCC:
        encc.on_ack(m, x, f, util)


@step
def on_timeout(m: Words, x: Reals, f: int, now: int, lost: int) -> None:
    """A packet was given up."""
    how = m[G_CONGESTION]
    if how == NSCC:
        nscc.on_timeout(x, f, lost)
    elif how == SWIFT:
        swift.on_loss(x, f, now)


@step
def on_cnp(m: Words, x: Reals, f: int, now: int) -> None:
    """A congestion notification."""
    if m[G_CONGESTION] == DCQCN:
        dcqcn.on_cnp(m, x, f, now)


@step
def on_timer(m: Words, x: Reals, f: int, now: int) -> None:
    """A timer of the control's own."""
    if m[G_CONGESTION] == DCQCN:
        dcqcn.on_timer(m, x, f, now)
