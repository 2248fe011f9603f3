"""The calendar: what happens next, in order of (time, sequence).

Nearly all delays are of a few lengths: a full packet's time on the wire, an answer's, a link's
latency, the retransmission timer. Events of one length come due in the order in which they are
set, so each length has a *lane*, a ring that is never sorted. Only odd delays, and what finds its
lane full, go into a heap. The next event is the least of the lanes' heads and the heap's top: a
few comparisons, at any depth.
"""

from starloom.fabric.jit import step
from starloom.fabric.packet.layout import (
    EVENT_WORDS,
    G_HEAP,
    G_HEAP_AT,
    G_LANES_END,
    G_SEQ,
    HEAP,
    LANES,
    LN_AT,
    LN_COUNT,
    LN_HEAD,
    LN_MASK,
    LN_SEQ,
    LN_TIME,
    LN_WORDS,
    NEVER,
    NONE,
    Words,
)


@step
def at(m: Words, lane: int, time: int, code: int) -> None:
    """Set an event in a lane, whose last event must not be later, or in the heap."""
    seq = m[G_SEQ]
    m[G_SEQ] = seq + 1
    if lane == HEAP or m[lane + LN_COUNT] > m[lane + LN_MASK]:
        _into_heap(m, time, seq, code)
        return
    count = m[lane + LN_COUNT]
    place = (m[lane + LN_HEAD] + count) & m[lane + LN_MASK]
    row = m[lane + LN_AT] + EVENT_WORDS * place
    m[row] = time
    m[row + 1] = seq
    m[row + 2] = code
    m[lane + LN_COUNT] = count + 1
    if count == 0:
        m[lane + LN_TIME] = time
        m[lane + LN_SEQ] = seq


@step
def _into_heap(m: Words, time: int, seq: int, code: int) -> None:
    child = m[G_HEAP]
    m[G_HEAP] = child + 1
    start = m[G_HEAP_AT]
    while child > 0:
        parent = (child - 1) >> 1
        row = start + EVENT_WORDS * parent
        if m[row] < time or (m[row] == time and m[row + 1] < seq):
            break
        _move(m, row, start + EVENT_WORDS * child)
        child = parent
    row = start + EVENT_WORDS * child
    m[row] = time
    m[row + 1] = seq
    m[row + 2] = code


@step
def _move(m: Words, source: int, target: int) -> None:
    m[target] = m[source]
    m[target + 1] = m[source + 1]
    m[target + 2] = m[source + 2]


@step
def first(m: Words) -> tuple[int, int]:
    """The lane of the next event, or HEAP, or NONE; and its time."""
    best = NONE
    time = NEVER
    seq = NEVER
    for lane in range(LANES, m[G_LANES_END], LN_WORDS):
        head = m[lane + LN_TIME]
        if head < time or (head == time and m[lane + LN_SEQ] < seq):
            best = lane
            time = head
            seq = m[lane + LN_SEQ]
    if m[G_HEAP] > 0:
        top = m[G_HEAP_AT]
        if m[top] < time or (m[top] == time and m[top + 1] < seq):
            best = HEAP
            time = m[top]
    return best, time


@step
def take(m: Words, lane: int) -> int:
    """Remove the first event of a lane or of the heap, as `first` says; its code."""
    if lane == HEAP:
        return _out_of_heap(m)
    head = m[lane + LN_HEAD]
    code = m[m[lane + LN_AT] + EVENT_WORDS * head + 2]
    head = (head + 1) & m[lane + LN_MASK]
    count = m[lane + LN_COUNT] - 1
    m[lane + LN_HEAD] = head
    m[lane + LN_COUNT] = count
    if count > 0:
        row = m[lane + LN_AT] + EVENT_WORDS * head
        m[lane + LN_TIME] = m[row]
        m[lane + LN_SEQ] = m[row + 1]
    else:
        m[lane + LN_TIME] = NEVER
    return code


@step
def _out_of_heap(m: Words) -> int:
    start = m[G_HEAP_AT]
    code = m[start + 2]
    last = m[G_HEAP] - 1
    m[G_HEAP] = last
    moved = start + EVENT_WORDS * last
    time, seq = m[moved], m[moved + 1]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= last:
            break
        row = start + EVENT_WORDS * child
        right = row + EVENT_WORDS
        if child + 1 < last and (
            m[right] < m[row] or (m[right] == m[row] and m[right + 1] < m[row + 1])
        ):
            child += 1
            row = right
        if time < m[row] or (time == m[row] and seq < m[row + 1]):
            break
        _move(m, row, start + EVENT_WORDS * hole)
        hole = child
    _move(m, moved, start + EVENT_WORDS * hole)
    return code
