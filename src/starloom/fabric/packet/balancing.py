"""How a sender varies the entropy that switches hash: the way of each packet.

- `ecmp`: never. `flowlet`: anew after a gap in which the packets before have left the network
  (LetFlow, Vanini et al., NSDI 2017).
- `spray`: an oblivious walk over all values, XORed with a number that is drawn anew each round.
- `reps`: values whose packets came back unmarked are used again, first in first out, at most 8 of
  them; otherwise drawn (REPS, Bonato et al. 2024). After a timeout the last good ones are kept.
- `bitmap`: the walk, but passing over values with a penalty: 1 for a mark, 4 for a trim, 15 for a
  timeout; passing over pays one off (UEC multipath).
- `mixed`: good values again where there are any, else the bitmap.
- `adaptive`: the switches choose; answers walk.
"""

from starloom.fabric.jit import step
from starloom.fabric.packet.layout import (
    BITMAP,
    ECMP,
    FLOWLET,
    G_BALANCING,
    G_ENTROPIES,
    G_FLOWLET,
    G_RING,
    MIXED,
    REPS,
    S_CHANGED_AT,
    S_ENTROPY,
    S_FRESH,
    S_FROZEN_UNTIL,
    S_PENALTIES_AT,
    S_RING_AT,
    S_RING_COUNT,
    S_RING_HEAD,
    S_WALK,
    S_XOR,
    Words,
)
from starloom.fabric.packet.rand import draw

GOOD, MARKED, CUT, TIMED_OUT = 0, 1, 2, 3
MAX_PENALTY = 15
FREEZE_PS = 10_000_000_000
"""REPS trusts its last good ways for 10 ms after a timeout."""


@step
def next_entropy(m: Words, f: int, now: int) -> int:
    """For the packet that leaves now."""
    how = m[G_BALANCING]
    if how == ECMP:
        return 0
    if how == FLOWLET:
        if now - m[f + S_CHANGED_AT] > m[G_FLOWLET]:
            m[f + S_ENTROPY] = draw(m, 1 << 16)
        m[f + S_CHANGED_AT] = now
        return m[f + S_ENTROPY]
    if how == REPS:
        return _recycled(m, f, now)
    if how == MIXED and m[f + S_FRESH] > 0:
        return _oldest(m, f)
    if how >= BITMAP:
        return _unpunished(m, f)
    entropy = _at_walk(m, f)
    _step(m, f)
    return entropy


@step
def feedback(m: Words, f: int, entropy: int, what: int, now: int) -> None:
    """What became of a packet of this entropy (unknown for a timeout: -1)."""
    how = m[G_BALANCING]
    if how == REPS:
        if what == TIMED_OUT and m[f + S_FROZEN_UNTIL] < now:
            m[f + S_FROZEN_UNTIL] = now + FREEZE_PS
        elif what == GOOD:
            _remember(m, f, entropy)
    elif how >= BITMAP:
        if entropy >= 0 and what != GOOD:
            more = 1 if what == MARKED else 4 if what == CUT else MAX_PENALTY
            at = m[f + S_PENALTIES_AT] + entropy
            m[at] = min(MAX_PENALTY, m[at] + more)
        if how == MIXED and what == GOOD:
            _remember(m, f, entropy)


@step
def _at_walk(m: Words, f: int) -> int:
    return (m[f + S_WALK] ^ m[f + S_XOR]) & (m[G_ENTROPIES] - 1)


@step
def _step(m: Words, f: int) -> None:
    m[f + S_WALK] += 1
    if m[f + S_WALK] == m[G_ENTROPIES]:
        m[f + S_WALK] = 0
        m[f + S_XOR] = draw(m, m[G_ENTROPIES])


@step
def _unpunished(m: Words, f: int) -> int:
    entropy = _at_walk(m, f)
    if m[m[f + S_PENALTIES_AT] + entropy] > 0:
        m[m[f + S_PENALTIES_AT] + entropy] -= 1
        _step(m, f)
        entropy = _at_walk(m, f)
    passed = 0
    while m[m[f + S_PENALTIES_AT] + entropy] > 0 and passed < m[G_ENTROPIES]:
        passed += 1
        _step(m, f)
        entropy = _at_walk(m, f)
    _step(m, f)
    return entropy


@step
def _remember(m: Words, f: int, entropy: int) -> None:
    """Into the ring; the oldest gives way."""
    size = m[G_RING]
    m[m[f + S_RING_AT] + m[f + S_RING_HEAD]] = entropy
    m[f + S_RING_HEAD] = (m[f + S_RING_HEAD] + 1) % size
    m[f + S_FRESH] = min(size, m[f + S_FRESH] + 1)
    m[f + S_RING_COUNT] = min(size, m[f + S_RING_COUNT] + 1)


@step
def _oldest(m: Words, f: int) -> int:
    size = m[G_RING]
    at = (m[f + S_RING_HEAD] - m[f + S_FRESH] + size) % size
    m[f + S_FRESH] -= 1
    return m[m[f + S_RING_AT] + at]


@step
def _recycled(m: Words, f: int, now: int) -> int:
    if m[f + S_FROZEN_UNTIL] > now and m[f + S_RING_COUNT] > 0:
        m[f + S_WALK] = (m[f + S_WALK] + 1) % m[f + S_RING_COUNT]
        return m[m[f + S_RING_AT] + m[f + S_WALK]]
    if m[f + S_FRESH] > 0:
        return _oldest(m, f)
    return draw(m, m[G_ENTROPIES])
