"""The sending end of a flow: what may leave, what has arrived, what must go again."""

from starloom.fabric.jit import step
from starloom.fabric.packet import grants
from starloom.fabric.packet.balancing import CUT, GOOD, MARKED, TIMED_OUT, feedback, next_entropy
from starloom.fabric.packet.congestion import dispatch
from starloom.fabric.packet.events import at
from starloom.fabric.packet.layout import (
    AGAIN,
    DATA,
    E_TIMER,
    F_AGAIN,
    F_ASKS,
    F_LAST_HOP,
    F_MARKED,
    FF_BASE_RTT,
    FF_CWND,
    FF_RATE,
    FLYING,
    G_FINISHED,
    G_GO_BACK,
    G_RTO,
    G_WIRE,
    GOT,
    HEAP,
    KINDS,
    LANE_TIMER,
    NONE,
    P_CUM,
    P_ENTROPY,
    P_FLAGS,
    P_FLOW,
    P_KIND,
    P_MAP,
    P_PSN,
    P_RECEIVED,
    P_REF,
    P_SIZE,
    P_UTIL,
    S_AGAIN,
    S_AGAIN_BYTES,
    S_AGAIN_LOW,
    S_BACKLOG,
    S_CREDIT,
    S_CUM,
    S_DONE_AT,
    S_FIRST,
    S_HIGHEST,
    S_IN_FLIGHT,
    S_LAST_SIZE,
    S_NEW,
    S_NEXT_SEND,
    S_PACKETS,
    S_RECEIVED,
    S_RESENT,
    S_REWIND,
    S_TIMER,
    T_SENT,
    T_STATE,
    T_TRIES,
    T_WORDS,
    WAITING,
    Reals,
    Words,
)
from starloom.fabric.packet.queues import new_packet


@step
def size_of(m: Words, f: int, psn: int) -> int:
    """Bytes of a packet of a flow on the wire; the last carries the rest."""
    if psn == m[f + S_PACKETS] - 1:
        return m[f + S_LAST_SIZE]
    return m[G_WIRE]


@step
def next_psn(m: Words, f: int) -> int:
    """The packet that goes next: the lowest that must go again, else the next new one."""
    if m[f + S_AGAIN] > 0:
        psn = m[f + S_AGAIN_LOW]
        first = m[f + S_FIRST]
        while m[first + T_WORDS * psn + T_STATE] != AGAIN:
            psn += 1
        m[f + S_AGAIN_LOW] = psn
        return psn
    if m[f + S_HIGHEST] < m[f + S_PACKETS]:
        return m[f + S_HIGHEST]
    return NONE


@step
def may_send(m: Words, x: Reals, f: int) -> bool:
    """Whether window and credit let the next packet go; the rate is the caller's to see to."""
    if m[f + S_CREDIT] <= 0:
        return False
    psn = next_psn(m, f)
    return psn != NONE and m[f + S_IN_FLIGHT] + size_of(m, f, psn) <= x[f + FF_CWND]


@step
def send(m: Words, x: Reals, f: int, now: int) -> int:
    """Make the next packet; `may_send` has said that there is one."""
    psn = next_psn(m, f)
    size = size_of(m, f, psn)
    row = m[f + S_FIRST] + T_WORDS * psn
    p = new_packet(m)
    flags = 0
    m[f + S_IN_FLIGHT] += size
    m[f + S_CREDIT] -= size
    if m[row + T_STATE] == AGAIN:
        m[f + S_AGAIN] -= 1
        m[f + S_AGAIN_BYTES] -= size
        flags = F_ASKS | F_AGAIN
        m[row + T_TRIES] = m[row + T_TRIES] + 1
        m[f + S_RESENT] += 1
    else:
        m[f + S_HIGHEST] = psn + 1
        m[f + S_BACKLOG] -= size
        if psn < m[f + S_REWIND]:
            flags = F_AGAIN
            m[f + S_RESENT] += 1
            m[row + T_TRIES] = m[row + T_TRIES] + 1
        else:
            m[f + S_NEW] += 1
        last = psn + 1 == m[f + S_PACKETS]
        if last or m[f + S_CREDIT] <= 0 or m[f + S_IN_FLIGHT] + size >= x[f + FF_CWND]:
            flags |= F_ASKS
    m[row + T_STATE] = FLYING
    m[row + T_SENT] = now
    if x[f + FF_RATE] < 1e18:
        m[f + S_NEXT_SEND] = max(now, m[f + S_NEXT_SEND]) + int(size / x[f + FF_RATE])
    m[p + P_FLOW] = f
    m[p + P_SIZE] = size
    m[p + P_KIND] = DATA
    m[p + P_ENTROPY] = next_entropy(m, f, now)
    m[p + P_FLAGS] = flags
    m[p + P_PSN] = psn
    m[p + P_UTIL] = 0
    m[p + P_RECEIVED] = grants.wanted(m, x, f)
    if m[f + S_TIMER] == 0:
        m[f + S_TIMER] = 1
        at(m, LANE_TIMER, now + m[G_RTO], E_TIMER + KINDS * f)
    return p


@step
def on_ack(m: Words, x: Reals, p: int, now: int) -> None:
    """An answer of the receiver: cumulative, a map of 64 packets, and bytes so far."""
    f = m[p + P_FLOW]
    if m[f + S_DONE_AT] >= 0:
        return
    grants.heard(m, f)
    first = m[f + S_FIRST]
    acked = max(0, m[p + P_RECEIVED] - m[f + S_RECEIVED])
    m[f + S_RECEIVED] += acked
    m[f + S_IN_FLIGHT] -= acked
    rtt = _sample(m, x, f, p, now)
    cum = m[p + P_CUM]
    for psn in range(m[f + S_CUM], cum):
        _arrived(m, f, first, psn)
    if cum > m[f + S_CUM]:
        m[f + S_CUM] = cum
        m[f + S_HIGHEST] = max(m[f + S_HIGHEST], cum)
    bits = m[p + P_MAP]
    psn = m[p + P_REF]
    while bits != 0:
        if bits & 1:
            _arrived(m, f, first, psn)
        bits = (bits >> 1) & 0x7FFFFFFFFFFFFFFF
        psn += 1
    marked = (m[p + P_FLAGS] & F_MARKED) != 0
    feedback(m, f, m[p + P_ENTROPY], MARKED if marked else GOOD, now)
    dispatch.on_ack(m, x, f, now, marked, rtt, acked, m[p + P_UTIL] * 1e-6)
    if cum >= m[f + S_PACKETS]:
        m[f + S_DONE_AT] = now
        m[G_FINISHED] += 1


@step
def _sample(m: Words, x: Reals, f: int, p: int, now: int) -> float:
    """The round trip of the packet that is answered; 0 where it is not known which sending."""
    row = m[f + S_FIRST] + T_WORDS * m[p + P_PSN]
    again = 1 if (m[p + P_FLAGS] & F_AGAIN) != 0 else 0
    if m[row + T_STATE] != FLYING or m[row + T_TRIES] != again:
        return 0.0
    rtt = float(now - m[row + T_SENT])
    x[f + FF_BASE_RTT] = min(x[f + FF_BASE_RTT], rtt)
    return rtt


@step
def _arrived(m: Words, f: int, first: int, psn: int) -> None:
    state = m[first + T_WORDS * psn + T_STATE]
    if state == AGAIN:  # it was taken off the bytes in flight when it was given up
        size = size_of(m, f, psn)
        m[f + S_AGAIN] -= 1
        m[f + S_AGAIN_BYTES] -= size
        m[f + S_IN_FLIGHT] += size
    m[first + T_WORDS * psn + T_STATE] = GOT


@step
def _give_up(m: Words, f: int, psn: int) -> int:
    """A packet that flew must go again; its bytes."""
    size = size_of(m, f, psn)
    m[m[f + S_FIRST] + T_WORDS * psn + T_STATE] = AGAIN
    m[f + S_IN_FLIGHT] -= size
    if m[f + S_AGAIN] == 0 or psn < m[f + S_AGAIN_LOW]:
        m[f + S_AGAIN_LOW] = psn
    m[f + S_AGAIN] += 1
    m[f + S_AGAIN_BYTES] += size
    return size


@step
def on_nack(m: Words, x: Reals, p: int, now: int) -> None:
    """A packet was trimmed on its way; or, with go back N, a gap."""
    f = m[p + P_FLOW]
    psn = m[p + P_PSN]
    if m[f + S_DONE_AT] >= 0:
        return
    grants.heard(m, f)
    if m[G_GO_BACK] == 1:
        acked = max(0, m[p + P_RECEIVED] - m[f + S_RECEIVED])
        m[f + S_RECEIVED] += acked
        _rewind(m, f, psn)
        dispatch.on_trim(m, x, f, now, m[G_WIRE], m[p + P_UTIL] * 1e-6)
        return
    row = m[f + S_FIRST] + T_WORDS * psn
    if m[row + T_STATE] != FLYING:
        return
    x[f + FF_BASE_RTT] = min(x[f + FF_BASE_RTT], float(now - m[row + T_SENT]))
    last_hop = (m[p + P_FLAGS] & F_LAST_HOP) != 0
    dispatch.on_trim(m, x, f, now, size_of(m, f, psn), m[p + P_UTIL] * 1e-6)
    _give_up(m, f, psn)
    marked = (m[p + P_FLAGS] & F_MARKED) != 0
    what = CUT if not last_hop else MARKED if marked else GOOD
    feedback(m, f, m[p + P_ENTROPY], what, now)


@step
def _rewind(m: Words, f: int, psn: int) -> None:
    """Go back N: all from `psn` on are sent again."""
    first = m[f + S_FIRST]
    highest = m[f + S_HIGHEST]
    for done in range(m[f + S_CUM], psn):
        m[first + T_WORDS * done + T_STATE] = GOT
    m[f + S_CUM] = max(m[f + S_CUM], psn)
    for back in range(psn, highest):
        m[first + T_WORDS * back + T_STATE] = WAITING
        m[f + S_BACKLOG] += size_of(m, f, back)
    m[f + S_REWIND] = max(m[f + S_REWIND], highest)
    m[f + S_HIGHEST] = psn
    m[f + S_IN_FLIGHT] = 0


@step
def on_timer(m: Words, x: Reals, f: int, now: int) -> None:
    """The retransmission timer: give up what has flown for too long, and set it anew."""
    m[f + S_TIMER] = 0
    if m[f + S_DONE_AT] >= 0:
        return
    first = m[f + S_FIRST]
    due = now - m[G_RTO]
    earliest = now + 1
    for psn in range(m[f + S_CUM], m[f + S_HIGHEST]):
        row = first + T_WORDS * psn
        if m[row + T_STATE] != FLYING:
            continue
        if m[row + T_SENT] > due:
            earliest = min(earliest, m[row + T_SENT])
            continue
        feedback(m, f, NONE, TIMED_OUT, now)
        if m[G_GO_BACK] == 1:
            _rewind(m, f, psn)
            dispatch.on_timeout(m, x, f, now, m[G_WIRE])
            return
        dispatch.on_timeout(m, x, f, now, _give_up(m, f, psn))
    if earliest <= now:
        m[f + S_TIMER] = 1
        at(m, HEAP, earliest + m[G_RTO], E_TIMER + KINDS * f)
