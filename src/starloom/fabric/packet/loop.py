"""The event loop: take the next event, do it, until all flows are done or it is time to look up."""

from starloom.fabric.jit import entry, step
from starloom.fabric.packet import grants, sender, wire
from starloom.fabric.packet.congestion import dispatch
from starloom.fabric.packet.events import first, take
from starloom.fabric.packet.layout import (
    DONE,
    E_ARRIVES,
    E_CC,
    E_PACE,
    E_PAUSE,
    E_PULL,
    E_RESUME,
    E_SENT,
    E_START,
    E_TIMER,
    EMPTY,
    G_EVENTS,
    G_FINISHED,
    G_FLOWS,
    G_FREE_COUNT,
    G_HEAP,
    G_HEAP_ROOM,
    G_NOW,
    G_STOP,
    GF_PULL_PS,
    KINDS,
    L_PAUSED,
    NEEDS_ROOM,
    NONE,
    P_FLOW,
    P_LINK,
    RUNNING,
    S_CREDIT,
    S_DONE_AT,
    S_DST,
    S_PACING,
    S_SRC,
    STOPPED,
    Reals,
    Words,
)
from starloom.fabric.packet.queues import enqueue_control

MARGIN = 16
"""Packets and heap places that one event may need."""


@entry
def run(m: Words, x: Reals, budget: int) -> int:
    """Do at most `budget` events; a status of `layout`."""
    for _ in range(budget):
        if m[G_FREE_COUNT] < MARGIN or m[G_HEAP] + MARGIN > m[G_HEAP_ROOM]:
            return NEEDS_ROOM
        lane, now = first(m)
        if lane == NONE:
            return EMPTY
        if now > m[G_STOP]:
            return STOPPED
        code = take(m, lane)
        m[G_NOW] = now
        m[G_EVENTS] += 1
        kind = code % KINDS
        which = code // KINDS
        if kind == E_SENT:
            wire.sent(m, x, which, now)
        elif kind == E_ARRIVES:
            wire.arrives(m, x, which, now)
            if m[G_FINISHED] == m[G_FLOWS]:
                return DONE
        else:
            _rare(m, x, kind, which, now)
    return RUNNING


@step
def _rare(m: Words, x: Reals, kind: int, which: int, now: int) -> None:
    if kind == E_TIMER:
        sender.on_timer(m, x, which, now)
        _ask(m, x, which, now)
        wire.offer(m, x, which, now)
    elif kind == E_START:
        wire.offer(m, x, which, now)
    elif kind == E_PACE:
        m[which + S_PACING] = 0
        wire.offer(m, x, which, now)
    elif kind == E_PULL:
        p = grants.on_pull(m, x, which, now)
        if p != NONE:
            up = wire.control_up(m, m[m[p + P_FLOW] + S_DST])
            m[p + P_LINK] = up
            enqueue_control(m, up, p)
            wire.kick(m, x, up, now)
    elif kind == E_CC:
        dispatch.on_timer(m, x, which, now)
        wire.offer(m, x, which, now)
    elif kind == E_PAUSE:
        m[which + L_PAUSED] = 1
    elif kind == E_RESUME:
        m[which + L_PAUSED] = 0
        wire.kick(m, x, which, now)


@step
def _ask(m: Words, x: Reals, f: int, now: int) -> None:
    """A sender without credit that has given packets up asks anew: a request may have been lost."""
    if x[GF_PULL_PS] > 0 and m[f + S_DONE_AT] < 0 and m[f + S_CREDIT] <= 0:
        up = wire.control_up(m, m[f + S_SRC])
        p = grants.request(m, x, f)
        m[p + P_LINK] = up
        enqueue_control(m, up, p)
        wire.kick(m, x, up, now)
