"""Receiver credits: what a sender wants, and a pacer at each host that grants it in turns.

A packet carries the credit that its sender would like to have in all (`wanted`). The receiving
host serves its senders round robin, `G_PULL_BYTES` at a time, at a little less than its line rate,
and never grants more than was asked for. The credit of a packet that arrives trimmed was spent in
vain and is granted again. Behaviour of RCCC in the UET reference simulator.
"""

from starloom.fabric.jit import step
from starloom.fabric.packet.events import at
from starloom.fabric.packet.layout import (
    CREDIT,
    E_PULL,
    FF_MAX_CWND,
    G_ACK,
    G_HOSTS_AT,
    G_PULL_BYTES,
    G_WIRE,
    GF_PULL_PS,
    H_PULL_HEAD,
    H_PULL_TAIL,
    H_PULLING,
    H_WORDS,
    HEAP,
    KINDS,
    NONE,
    P_CUM,
    P_ENTROPY,
    P_FLOW,
    P_KIND,
    P_RECEIVED,
    P_SIZE,
    R_EXPECTED,
    R_GRANTED,
    R_IN_PULL,
    R_PULL_NEXT,
    R_TARGET,
    REQUEST,
    S_AGAIN_BYTES,
    S_BACKLOG,
    S_CREDIT,
    S_DST,
    S_PACKETS,
    S_PULL,
    S_SPECULATING,
    TRIMMED,
    Reals,
    Words,
)
from starloom.fabric.packet.queues import new_packet
from starloom.fabric.packet.rand import draw


@step
def wanted(m: Words, x: Reals, f: int) -> int:
    """Credit that a sender would have in all: for what it has yet to send, at most a window."""
    want = m[f + S_BACKLOG] + m[f + S_AGAIN_BYTES]
    want = min(want, int(x[f + FF_MAX_CWND])) - m[f + S_CREDIT]
    if m[f + S_SPECULATING] == 1 and want < m[G_WIRE] and m[f + S_BACKLOG] > 0:
        want = m[G_WIRE]
    return m[f + S_PULL] + want


@step
def heard(m: Words, f: int) -> None:
    """The first answer ends a sender's speculation: from now on it spends what was granted."""
    if m[f + S_SPECULATING] == 1:
        m[f + S_SPECULATING] = 0
        m[f + S_CREDIT] = min(0, m[f + S_CREDIT])


@step
def on_credit(m: Words, x: Reals, p: int) -> None:
    """Credit has reached the sender."""
    f = m[p + P_FLOW]
    heard(m, f)
    more = m[p + P_CUM] - m[f + S_PULL]
    if more > 0:
        m[f + S_PULL] += more
        m[f + S_CREDIT] = min(m[f + S_CREDIT] + more, int(x[f + FF_MAX_CWND]))


@step
def on_demand(m: Words, x: Reals, p: int, now: int) -> None:
    """A packet tells the receiving host what its sender wants."""
    if x[GF_PULL_PS] == 0.0:
        return
    f = m[p + P_FLOW]
    target = max(m[f + R_TARGET], m[p + P_RECEIVED])
    if m[p + P_KIND] == TRIMMED:
        target += m[G_WIRE]
    if target <= m[f + R_TARGET]:
        return
    m[f + R_TARGET] = target
    if m[f + R_IN_PULL] == 0:
        _join(m, f)
    host = m[G_HOSTS_AT] + H_WORDS * m[f + S_DST]
    if m[host + H_PULLING] == 0:
        m[host + H_PULLING] = 1
        at(m, HEAP, now, E_PULL + KINDS * host)


@step
def _join(m: Words, f: int) -> None:
    host = m[G_HOSTS_AT] + H_WORDS * m[f + S_DST]
    m[f + R_IN_PULL] = 1
    m[f + R_PULL_NEXT] = NONE
    last = m[host + H_PULL_TAIL]
    if last == NONE:
        m[host + H_PULL_HEAD] = f
    else:
        m[last + R_PULL_NEXT] = f
    m[host + H_PULL_TAIL] = f


@step
def on_pull(m: Words, x: Reals, host: int, now: int) -> int:
    """The pacer of a host grants its next credit; the packet, or NONE where nobody waits."""
    f = m[host + H_PULL_HEAD]
    if f == NONE:
        m[host + H_PULLING] = 0
        return NONE
    after = m[f + R_PULL_NEXT]
    m[host + H_PULL_HEAD] = after
    if after == NONE:
        m[host + H_PULL_TAIL] = NONE
    m[f + R_IN_PULL] = 0
    more = max(0, min(m[G_PULL_BYTES], m[f + R_TARGET] - m[f + R_GRANTED]))
    m[f + R_GRANTED] += more
    done = m[f + R_EXPECTED] >= m[f + S_PACKETS]
    if m[f + R_TARGET] > m[f + R_GRANTED] and not done:
        _join(m, f)
    at(m, HEAP, now + int(max(more, 1024) * x[GF_PULL_PS]), E_PULL + KINDS * host)
    return granted(m, f)


@step
def granted(m: Words, f: int) -> int:
    """A packet that tells a sender all the credit it has been granted so far."""
    p = _control(m, f, CREDIT)
    m[p + P_CUM] = m[f + R_GRANTED]
    return p


@step
def request(m: Words, x: Reals, f: int) -> int:
    """A packet that only says what a sender wants."""
    p = _control(m, f, REQUEST)
    m[p + P_RECEIVED] = wanted(m, x, f)
    return p


@step
def _control(m: Words, f: int, kind: int) -> int:
    p = new_packet(m)
    m[p + P_FLOW] = f
    m[p + P_KIND] = kind
    m[p + P_SIZE] = m[G_ACK]
    m[p + P_ENTROPY] = draw(m, 1 << 16)
    return p
