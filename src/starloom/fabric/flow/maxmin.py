"""Max-min fair rates by progressive filling, on arrays.

All flows grow together until a link is full; its flows stay at that rate, the others grow on. The
next link to fill is the one with the least (capacity left) / (weight that still grows). That share
never falls while others freeze, so a heap may hold old values: what comes off it is computed again,
and goes back if it has grown. Work is (sum of path lengths) x log(links), whatever the number of
distinct rates. Bertsekas and Gallager, "Data Networks", 2nd ed., section 6.5.2.

A flow may stand for `weight` identical ones: it takes weight x rate of each of its links.
"""

import numpy as np

from starloom.fabric.clos import Floats, Ints
from starloom.fabric.jit import jit


@jit
def by_link(
    starts: Ints, links: Ints, flows: Ints, alive: int, link_count: int
) -> tuple[Ints, Ints]:
    """Paths of the first `alive` entries of `flows`, turned round: link -> flows that cross it."""
    first = np.zeros(link_count + 1, dtype=np.int64)
    for at in range(alive):
        flow = flows[at]
        for step in range(starts[flow], starts[flow + 1]):
            first[links[step] + 1] += 1
    for link in range(link_count):
        first[link + 1] += first[link]
    filled = first[:-1].copy()
    members = np.empty(first[link_count], dtype=np.int32)
    for at in range(alive):
        flow = flows[at]
        for step in range(starts[flow], starts[flow + 1]):
            link = links[step]
            members[filled[link]] = flow
            filled[link] += 1
    return first, members


@jit
def _sift_down(heap: Ints, key: Floats, at: int, size: int) -> None:
    moved = heap[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and key[heap[child + 1]] < key[heap[child]]:
            child += 1
        if key[heap[child]] >= key[moved]:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved


@jit
def fill(
    starts: Ints,
    links: Ints,
    weight: Floats,
    cap: Floats,
    cap_order: Ints,
    capacity: Floats,
    flows: Ints,
    alive: int,
    rate: Floats,
) -> int:
    """Rates of the first `alive` entries of `flows`, written into `rate`; returns filled links.

    `starts`, `links`: path of flow f is links[starts[f]:starts[f + 1]]. `cap`: the most a flow may
    take by itself (infinite for none), `cap_order` the flows that have one, by its size.
    `capacity`, `cap` and `rate` in one unit. A flow without links gets its cap.
    """
    link_count = len(capacity)
    first, members = by_link(starts, links, flows, alive, link_count)
    growing = np.zeros(link_count)
    left = capacity.copy()
    for at in range(alive):
        flow = flows[at]
        rate[flow] = -1.0
        for step in range(starts[flow], starts[flow + 1]):
            growing[links[step]] += weight[flow]
    key = np.empty(link_count)
    heap = np.empty(link_count, dtype=np.int64)
    size = 0
    for link in range(link_count):
        if growing[link] > 0:
            key[link] = left[link] / growing[link]
            heap[size] = link
            size += 1
    for at in range(size // 2 - 1, -1, -1):
        _sift_down(heap, key, at, size)
    filled, next_cap, count = 0, 0, len(cap_order)
    while size:
        link = heap[0]
        share = max(left[link], 0.0) / growing[link] if growing[link] > 0 else np.inf
        if share > key[link]:
            if share == np.inf:
                size -= 1
                heap[0] = heap[size]
            else:
                key[link] = share
            _sift_down(heap, key, 0, size)
            continue
        # A flow freezes at its own cap before any link passes that level.
        if next_cap < count and cap[cap_order[next_cap]] <= share:
            flow = cap_order[next_cap]
            next_cap += 1
            if rate[flow] < 0:  # those that ended keep the rate that they had
                rate[flow] = cap[flow]
                _freeze(starts, links, weight, flow, cap[flow], left, growing)
            continue
        filled += 1
        for at in range(first[link], first[link + 1]):
            flow = members[at]
            if rate[flow] < 0:
                rate[flow] = share
                _freeze(starts, links, weight, flow, share, left, growing)
        size -= 1
        heap[0] = heap[size]
        _sift_down(heap, key, 0, size)
    for at in range(alive):
        if rate[flows[at]] < 0:
            rate[flows[at]] = cap[flows[at]]
    return filled


@jit
def _freeze(
    starts: Ints,
    links: Ints,
    weight: Floats,
    flow: int,
    share: float,
    left: Floats,
    growing: Floats,
) -> None:
    for step in range(starts[flow], starts[flow + 1]):
        link = links[step]
        left[link] -= share * weight[flow]
        growing[link] -= weight[flow]
        # Rounding must neither leave a link with a hair of weight nor give it negative room.
        if growing[link] < 1e-9:
            growing[link] = 0.0
