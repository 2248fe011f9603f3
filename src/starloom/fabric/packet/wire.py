"""Links at work: what leaves next, what has left, what reaches the far end."""

from starloom.fabric.clos import Stage
from starloom.fabric.jit import step
from starloom.fabric.packet import grants, receiver, sender
from starloom.fabric.packet.congestion import dispatch
from starloom.fabric.packet.events import at
from starloom.fabric.packet.layout import (
    ACK,
    CREDIT,
    DATA,
    E_ARRIVES,
    E_PACE,
    E_SENT,
    ECMP,
    FLOWLET,
    G_ACK,
    G_BALANCING,
    G_CNP_EVERY,
    G_HOPS,
    G_LINKS,
    G_NEXT_UP,
    G_PER_PLANE,
    G_PLANES,
    G_SALT,
    G_START_1,
    G_TELEMETRY,
    G_WIRE,
    HEAP,
    KINDS,
    L_AVOIDED,
    L_BASE,
    L_HI_BYTES,
    L_HI_HEAD,
    L_LANE_ACK,
    L_LANE_FULL,
    L_LANE_LATENCY,
    L_LATENCY,
    L_LO_BYTES,
    L_LO_HEAD,
    L_PAUSED,
    L_READY_HEAD,
    L_READY_TAIL,
    L_SENT,
    L_SERVING,
    L_STAGE,
    L_TURN,
    L_WORDS,
    LF_BYTE_PS,
    LF_CAPACITY,
    LF_LOSS,
    NACK,
    NONE,
    P_FLOW,
    P_INGRESS,
    P_KIND,
    P_LINK,
    P_SIZE,
    S_DONE_AT,
    S_DST,
    S_NEXT_SEND,
    S_PACING,
    S_PLANE,
    S_READY,
    S_READY_NEXT,
    S_SRC,
    TRIMMED,
    Reals,
    Words,
)
from starloom.fabric.packet.queues import (
    enqueue,
    enqueue_control,
    free,
    lose,
    mark,
    release,
    take_control,
    take_data,
)
from starloom.fabric.packet.rand import draw, pick
from starloom.fabric.packet.route import next_link
from starloom.fabric.packet.telemetry import note

HOST_UP = int(Stage.HOST_UP)
LEAF_DOWN = int(Stage.LEAF_DOWN)
CONTROL_TURNS = 10
"""A host sends ten answers for one data packet while it has both."""


@step
def kick(m: Words, x: Reals, link: int, now: int) -> None:
    """Begin to send, if the link is idle and something waits.

    With planes a flow that has sent a packet moves on to the next link up, which may be idle too.
    """
    while link != NONE and m[link + L_SERVING] == NONE:
        m[G_NEXT_UP] = NONE
        _begin(m, x, link, now)
        link = m[G_NEXT_UP]


@step
def _begin(m: Words, x: Reals, link: int, now: int) -> None:
    if m[link + L_STAGE] == HOST_UP:
        p = _from_host(m, x, link, now)
    elif m[link + L_HI_HEAD] != NONE:
        p = take_control(m, link)
    elif m[link + L_LO_HEAD] != NONE and m[link + L_PAUSED] == 0:
        p = take_data(m, link)
    else:
        p = NONE
    if p == NONE:
        return
    m[link + L_SERVING] = p
    size = m[p + P_SIZE]
    capacity = x[link + LF_CAPACITY]
    byte_ps = x[link + LF_BYTE_PS]
    if capacity == 1.0 and size == m[G_WIRE]:
        lane = m[link + L_LANE_FULL]
    elif capacity == 1.0 and size == m[G_ACK]:
        lane = m[link + L_LANE_ACK]
    else:
        lane = HEAP
        byte_ps /= capacity if capacity > 0 else 1.0
    at(m, lane, now + int(size * byte_ps + 0.5), E_SENT + KINDS * link)


@step
def _from_host(m: Words, x: Reals, link: int, now: int) -> int:
    """The next packet out of a host: answers, and data of the flows that are ready, in turns."""
    while True:
        answers = m[link + L_HI_HEAD] != NONE
        f = m[link + L_READY_HEAD]
        if f != NONE and m[link + L_PAUSED] == 1:
            f = NONE
        if answers and f != NONE:
            m[link + L_TURN] = (m[link + L_TURN] + 1) % (CONTROL_TURNS + 1)
            if m[link + L_TURN] != 0:
                return take_control(m, link)
        elif answers:
            return take_control(m, link)
        if f == NONE:
            return NONE
        after = m[f + S_READY_NEXT]
        m[link + L_READY_HEAD] = after
        if after == NONE:
            m[link + L_READY_TAIL] = NONE
        m[f + S_READY] = 0
        if m[f + S_DONE_AT] < 0 and sender.may_send(m, x, f):
            p = sender.send(m, x, f, now)
            m[p + P_LINK] = link
            m[G_NEXT_UP] = _queue_up(m, x, f, now)
            return p


@step
def _queue_up(m: Words, x: Reals, f: int, now: int) -> int:
    """Put a flow into its host's list if it may send now; the link up, or NONE."""
    if m[f + S_READY] == 1 or m[f + S_DONE_AT] >= 0 or not sender.may_send(m, x, f):
        return NONE
    if m[f + S_NEXT_SEND] > now:
        if m[f + S_PACING] == 0:
            m[f + S_PACING] = 1
            at(m, HEAP, m[f + S_NEXT_SEND], E_PACE + KINDS * f)
        return NONE
    link = _way_out(m, f)
    m[f + S_READY] = 1
    m[f + S_READY_NEXT] = NONE
    last = m[link + L_READY_TAIL]
    if last == NONE:
        m[link + L_READY_HEAD] = f
    else:
        m[last + S_READY_NEXT] = f
    m[link + L_READY_TAIL] = f
    return link


@step
def _way_out(m: Words, f: int) -> int:
    """The link up from a flow's host: of its plane with ECMP, else of the planes in turn."""
    planes = m[G_PLANES]
    src = L_WORDS * m[f + S_SRC]
    if planes == 1:
        return m[G_LINKS] + src
    if m[G_BALANCING] == ECMP or m[G_BALANCING] == FLOWLET:
        plane = pick(f, 0, m[G_SALT], planes)
    else:
        plane = (m[f + S_PLANE] + 1) % planes
    for _ in range(planes):
        base = m[G_LINKS] + plane * m[G_PER_PLANE]
        far = base + m[G_START_1] + L_WORDS * m[f + S_DST]
        if m[base + src + L_AVOIDED] == 0 and m[far + L_AVOIDED] == 0:
            break
        plane = (plane + 1) % planes
    m[f + S_PLANE] = plane
    return m[G_LINKS] + plane * m[G_PER_PLANE] + src


@step
def control_up(m: Words, host: int) -> int:
    """The first link up from a host that is not known to be dead."""
    link = m[G_LINKS] + L_WORDS * host
    for plane in range(m[G_PLANES]):
        if m[link + plane * m[G_PER_PLANE] + L_AVOIDED] == 0:
            return link + plane * m[G_PER_PLANE]
    return link


@step
def offer(m: Words, x: Reals, f: int, now: int) -> None:
    """Something has changed for a flow: let it send if it may."""
    link = _queue_up(m, x, f, now)
    if link != NONE:
        kick(m, x, link, now)


@step
def sent(m: Words, x: Reals, link: int, now: int) -> None:
    """The last bit of a packet has left a link's near end."""
    p = m[link + L_SERVING]
    m[link + L_SERVING] = NONE
    size = m[p + P_SIZE]
    m[G_HOPS] += 1
    m[link + L_SENT] += size
    if m[p + P_KIND] != DATA:
        m[link + L_HI_BYTES] -= size
    else:
        if m[link + L_STAGE] != HOST_UP:
            m[link + L_LO_BYTES] -= size
            mark(m, x, link, p)
        if m[p + P_INGRESS] != NONE:
            release(m, p, now)
        if m[G_TELEMETRY] == 1:
            note(m, x, link, p, now)
    loss = x[link + LF_LOSS]
    if x[link + LF_CAPACITY] == 0.0 or (loss > 0.0 and draw(m, 1 << 31) < loss * (1 << 31)):
        lose(m, link, p)
    else:
        time = now + m[link + L_LATENCY]
        at(m, m[link + L_LANE_LATENCY], time, E_ARRIVES + KINDS * p)
    kick(m, x, link, now)


@step
def arrives(m: Words, x: Reals, p: int, now: int) -> None:
    """A packet has reached the far end of its link: a switch, or its host."""
    link = m[p + P_LINK]
    if m[link + L_STAGE] == LEAF_DOWN:
        _at_host(m, x, p, now)
        return
    out = next_link(m, link, p)
    m[p + P_INGRESS] = link if m[p + P_KIND] == DATA else NONE
    enqueue(m, x, out, p, now)
    kick(m, x, out, now)


@step
def _at_host(m: Words, x: Reals, p: int, now: int) -> None:
    f = m[p + P_FLOW]
    kind = m[p + P_KIND]
    if kind >= ACK:
        if kind == ACK:
            sender.on_ack(m, x, p, now)
        elif kind == NACK:
            sender.on_nack(m, x, p, now)
        elif kind == CREDIT:
            grants.on_credit(m, x, p)
        else:
            dispatch.on_cnp(m, x, f, now)
        free(m, p)
        offer(m, x, f, now)
        return
    up = m[m[p + P_LINK] + L_BASE] + L_WORDS * m[f + S_DST]
    grants.on_demand(m, x, p, now)
    if m[G_CNP_EVERY] > 0:
        _answer(m, up, receiver.notification(m, p, now))
    if kind == DATA:
        _answer(m, up, receiver.on_data(m, p))
    elif kind == TRIMMED:
        _answer(m, up, receiver.on_trimmed(m, p))
    else:
        _answer(m, up, grants.granted(m, f))
    free(m, p)
    kick(m, x, up, now)


@step
def _answer(m: Words, up: int, a: int) -> None:
    if a != NONE:
        m[a + P_LINK] = up
        enqueue_control(m, up, a)
