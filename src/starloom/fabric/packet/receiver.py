"""The receiving end of a flow: what has arrived, and what to answer when.

An answer goes out for the first packet, after `ack_every_bytes`, for a mark, when the sender asks,
and when the last gap closes after it has asked. Behaviour of the UET reference simulator.
"""

from starloom.fabric.jit import step
from starloom.fabric.packet.layout import (
    ACK,
    CNP,
    DATA,
    F_AGAIN,
    F_ASKS,
    F_LAST_HOP,
    F_MARKED,
    G_ACK,
    G_ACK_EVERY,
    G_CNP_EVERY,
    G_GO_BACK,
    NACK,
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
    R_BYTES,
    R_CNP_AT,
    R_EXPECTED,
    R_NACKED,
    R_OUT_OF_ORDER,
    R_OWES,
    R_SINCE_ACK,
    S_FIRST,
    S_PACKETS,
    T_ARRIVED,
    T_WORDS,
    Words,
)
from starloom.fabric.packet.queues import new_packet


@step
def answer(m: Words, p: int, kind: int) -> int:
    """A packet back to the sender about packet `p`."""
    f = m[p + P_FLOW]
    a = new_packet(m)
    m[a + P_FLOW] = f
    m[a + P_KIND] = kind
    m[a + P_SIZE] = m[G_ACK]
    m[a + P_ENTROPY] = m[p + P_ENTROPY]
    m[a + P_FLAGS] = m[p + P_FLAGS] & (F_MARKED | F_AGAIN | F_LAST_HOP)
    m[a + P_PSN] = m[p + P_PSN]
    m[a + P_CUM] = m[f + R_EXPECTED]
    m[a + P_REF] = 0
    m[a + P_MAP] = 0
    m[a + P_RECEIVED] = m[f + R_BYTES]
    m[a + P_UTIL] = m[p + P_UTIL]
    return a


@step
def _ack(m: Words, p: int, from_here: bool) -> int:
    """With a map of the 64 packets from this one on, or up to it."""
    a = answer(m, p, ACK)
    f = m[p + P_FLOW]
    psn = m[p + P_PSN]
    base = psn if from_here else max(psn - 63, m[f + R_EXPECTED] + 1)
    first = m[f + S_FIRST]
    count = min(64, m[f + S_PACKETS] - base)
    bits = 0
    if m[f + R_OUT_OF_ORDER] > 0:
        for bit in range(count):
            if m[first + T_WORDS * (base + bit) + T_ARRIVED] == 1:
                bits |= 1 << bit
    m[a + P_REF] = base
    m[a + P_MAP] = bits
    m[f + R_SINCE_ACK] = 0
    return a


@step
def on_data(m: Words, p: int) -> int:
    """A packet has arrived whole; the answer, or NONE."""
    f = m[p + P_FLOW]
    psn = m[p + P_PSN]
    size = m[p + P_SIZE]
    flags = m[p + P_FLAGS]
    marked = (flags & F_MARKED) != 0
    row = m[f + S_FIRST] + T_WORDS * psn
    m[f + R_SINCE_ACK] += size
    if m[row + T_ARRIVED] == 1:
        return _ack(m, p, marked)
    asks = (flags & F_ASKS) != 0
    now_due = marked or asks or m[f + R_BYTES] == 0
    expected = m[f + R_EXPECTED]
    if m[G_GO_BACK] == 1 and psn != expected:
        if m[f + R_NACKED] == expected:
            return NONE
        m[f + R_NACKED] = expected
        m[p + P_PSN] = expected
        return answer(m, p, NACK)
    m[row + T_ARRIVED] = 1
    m[f + R_BYTES] += size
    if asks:
        m[f + R_OWES] = 1
    if psn == expected:
        first = m[f + S_FIRST]
        packets = m[f + S_PACKETS]
        expected += 1
        while expected < packets and m[first + T_WORDS * expected + T_ARRIVED] == 1:
            expected += 1
            m[f + R_OUT_OF_ORDER] -= 1
        m[f + R_EXPECTED] = expected
        if m[f + R_OUT_OF_ORDER] == 0 and m[f + R_OWES] == 1:
            now_due = True
            m[f + R_OWES] = 0
    else:
        m[f + R_OUT_OF_ORDER] += 1
    if now_due or m[f + R_SINCE_ACK] >= m[G_ACK_EVERY]:
        return _ack(m, p, marked or asks)
    return NONE


@step
def on_trimmed(m: Words, p: int) -> int:
    """Only the header has arrived: ask for the packet again, if it is still missing."""
    f = m[p + P_FLOW]
    if m[m[f + S_FIRST] + T_WORDS * m[p + P_PSN] + T_ARRIVED] == 1:
        return _ack(m, p, False)
    return answer(m, p, NACK)


@step
def notification(m: Words, p: int, now: int) -> int:
    """DCQCN: a congestion notification for a marked packet, one in a while for each flow."""
    f = m[p + P_FLOW]
    marked = m[p + P_KIND] == DATA and (m[p + P_FLAGS] & F_MARKED) != 0
    if not marked or now - m[f + R_CNP_AT] < m[G_CNP_EVERY]:
        return NONE
    m[f + R_CNP_AT] = now
    return answer(m, p, CNP)
