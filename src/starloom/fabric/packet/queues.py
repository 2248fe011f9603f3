"""Queues of links: data in one list, answers and trimmed headers in another that goes first.

When data finds its queue full it is cut to its header (NDP, Handley et al., SIGCOMM 2017: the
arriving packet or the last in the queue, by a coin), dropped, or, with PFC, let in: the sender was
told to pause before. Marks are set when a packet leaves, by what stays behind it.
"""

from starloom.fabric.clos import Stage
from starloom.fabric.jit import step
from starloom.fabric.packet.events import at
from starloom.fabric.packet.layout import (
    DATA,
    E_PAUSE,
    E_RESUME,
    F_LAST_HOP,
    F_MARKED,
    G_ACK,
    G_FREE,
    G_FREE_COUNT,
    G_FULL_QUEUE,
    G_LOST,
    G_PAUSES,
    G_TRIMMED,
    G_XOFF,
    G_XON,
    GF_MARK,
    KINDS,
    L_DROPS,
    L_ECN_HIGH,
    L_ECN_LOW,
    L_HI_BYTES,
    L_HI_HEAD,
    L_HI_TAIL,
    L_IN_BYTES,
    L_LANE_LATENCY,
    L_LATENCY,
    L_LO_BYTES,
    L_LO_HEAD,
    L_LO_TAIL,
    L_PAUSING,
    L_PEAK,
    L_ROOM,
    L_STAGE,
    L_TRIMS,
    LF_UTIL,
    NONE,
    P_FLAGS,
    P_INGRESS,
    P_KIND,
    P_LINK,
    P_NEXT,
    P_PREV,
    P_SIZE,
    P_UTIL,
    PAUSE,
    TRIM,
    TRIMMED,
    Reals,
    Words,
)
from starloom.fabric.packet.rand import draw

LEAF_DOWN = int(Stage.LEAF_DOWN)


@step
def new_packet(m: Words) -> int:
    """A free row; the loop sees to it that there is one."""
    p = m[G_FREE]
    m[G_FREE] = m[p + P_NEXT]
    m[G_FREE_COUNT] -= 1
    m[p + P_FLAGS] = 0
    m[p + P_INGRESS] = NONE
    return p


@step
def free(m: Words, p: int) -> None:
    m[p + P_NEXT] = m[G_FREE]
    m[G_FREE] = p
    m[G_FREE_COUNT] += 1


@step
def lose(m: Words, link: int, p: int) -> None:
    """A packet is gone, and nobody is told."""
    m[link + L_DROPS] += 1
    m[G_LOST] += 1
    if m[p + P_INGRESS] != NONE:
        release(m, p, 0)
    free(m, p)


@step
def _append(m: Words, link: int, head: int, tail: int, p: int) -> None:
    last = m[link + tail]
    m[p + P_NEXT] = NONE
    m[p + P_PREV] = last
    if last == NONE:
        m[link + head] = p
    else:
        m[last + P_NEXT] = p
    m[link + tail] = p


@step
def enqueue_control(m: Words, link: int, p: int) -> None:
    """An answer or a header; twice the room of data, then it is lost."""
    m[p + P_LINK] = link
    size = m[p + P_SIZE]
    if m[link + L_HI_BYTES] + size > 2 * m[link + L_ROOM]:
        lose(m, link, p)
        return
    _append(m, link, L_HI_HEAD, L_HI_TAIL, p)
    m[link + L_HI_BYTES] += size


@step
def _trim(m: Words, x: Reals, link: int, p: int) -> None:
    m[link + L_TRIMS] += 1
    m[G_TRIMMED] += 1
    m[p + P_KIND] = TRIMMED
    m[p + P_UTIL] = max(m[p + P_UTIL], int(x[link + LF_UTIL] * 1e6))
    m[p + P_SIZE] = m[G_ACK]
    if m[link + L_STAGE] == LEAF_DOWN:
        m[p + P_FLAGS] |= F_LAST_HOP
    enqueue_control(m, link, p)


@step
def enqueue(m: Words, x: Reals, link: int, p: int, now: int) -> None:
    """A packet reaches the queue of a switch's way out."""
    if m[p + P_KIND] != DATA:
        enqueue_control(m, link, p)
        return
    size = m[p + P_SIZE]
    full = m[link + L_LO_BYTES] + size > m[link + L_ROOM]
    if m[G_FULL_QUEUE] == PAUSE:
        _hold_back(m, p, now)
    elif full and m[G_FULL_QUEUE] == TRIM:
        last = m[link + L_LO_TAIL]
        if last == NONE or draw(m, 2) == 0:
            _trim(m, x, link, p)
            return
        before = m[last + P_PREV]
        m[link + L_LO_TAIL] = before
        if before == NONE:
            m[link + L_LO_HEAD] = NONE
        else:
            m[before + P_NEXT] = NONE
        m[link + L_LO_BYTES] -= m[last + P_SIZE]
        _trim(m, x, link, last)
    elif full:
        lose(m, link, p)
        return
    m[p + P_LINK] = link
    _append(m, link, L_LO_HEAD, L_LO_TAIL, p)
    m[link + L_LO_BYTES] += size
    m[link + L_PEAK] = max(m[link + L_PEAK], m[link + L_LO_BYTES])


@step
def take_control(m: Words, link: int) -> int:
    """The first answer, which stays counted until it has left."""
    p = m[link + L_HI_HEAD]
    after = m[p + P_NEXT]
    m[link + L_HI_HEAD] = after
    if after == NONE:
        m[link + L_HI_TAIL] = NONE
    return p


@step
def take_data(m: Words, link: int) -> int:
    """The first data packet, which stays counted until it has left."""
    p = m[link + L_LO_HEAD]
    after = m[p + P_NEXT]
    m[link + L_LO_HEAD] = after
    if after == NONE:
        m[link + L_LO_TAIL] = NONE
    else:
        m[after + P_PREV] = NONE
    return p


@step
def mark(m: Words, x: Reals, link: int, p: int) -> None:
    """Explicit congestion notification, by the bytes that stay behind a leaving packet."""
    left = m[link + L_LO_BYTES]
    low = m[link + L_ECN_LOW]
    if left > low:
        high = m[link + L_ECN_HIGH]
        if left > high or draw(m, 1 << 30) < x[GF_MARK] * (1 << 30) * (left - low) / (high - low):
            m[p + P_FLAGS] |= F_MARKED


@step
def _hold_back(m: Words, p: int, now: int) -> None:
    """PFC: count what came in by a link, and pause its sender in time."""
    came_by = m[p + P_INGRESS]
    if came_by == NONE:
        return
    m[came_by + L_IN_BYTES] += m[p + P_SIZE]
    if m[came_by + L_IN_BYTES] > m[G_XOFF] and m[came_by + L_PAUSING] == 0:
        m[came_by + L_PAUSING] = 1
        m[G_PAUSES] += 1
        lane = m[came_by + L_LANE_LATENCY]
        at(m, lane, now + m[came_by + L_LATENCY], E_PAUSE + KINDS * came_by)


@step
def release(m: Words, p: int, now: int) -> None:
    """PFC: a packet has left the switch; its way in may be free again."""
    came_by = m[p + P_INGRESS]
    m[p + P_INGRESS] = NONE
    m[came_by + L_IN_BYTES] -= m[p + P_SIZE]
    if m[came_by + L_IN_BYTES] < m[G_XON] and m[came_by + L_PAUSING] == 1:
        m[came_by + L_PAUSING] = 0
        lane = m[came_by + L_LANE_LATENCY]
        at(m, lane, now + m[came_by + L_LATENCY], E_RESUME + KINDS * came_by)
