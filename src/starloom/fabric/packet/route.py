"""Which link comes next: the arithmetic of `Clos.paths`, one step at a time.

A switch with a choice hashes (flow, direction, entropy) with a salt of its own, or, when it routes
adaptively, looks for the shortest queue. What is known to be dead is passed over where a live way
is left.
"""

from starloom.fabric.clos import Stage
from starloom.fabric.jit import step
from starloom.fabric.packet.layout import (
    ACK,
    ADAPTIVE,
    DATA,
    G_AVOIDED,
    G_BALANCING,
    G_CORES,
    G_HOSTS,
    G_NOW,
    G_SALT,
    G_SPINES,
    G_START_1,
    L_AVOIDED,
    L_BASE,
    L_ENTERS,
    L_HI_BYTES,
    L_LEVEL,
    L_LEVEL_AT,
    L_LO_BYTES,
    L_ROOM,
    L_STAGE,
    L_WORDS,
    NONE,
    P_ENTROPY,
    P_FLOW,
    P_KIND,
    S_DST,
    S_DST_LEAF,
    S_DST_POD,
    S_SRC,
    S_SRC_LEAF,
    S_SRC_POD,
    Words,
)
from starloom.fabric.packet.rand import draw, pick

HOST_UP = int(Stage.HOST_UP)
LEAF_UP = int(Stage.LEAF_UP)
SPINE_DOWN = int(Stage.SPINE_DOWN)
SPINE_UP = int(Stage.SPINE_UP)
LOOK_AGAIN_PS = 100_000
"""A switch reads its queues every 0.1 us, in four levels: below 5, 10 and 20 % of the room, and
above. As the UET reference simulator."""


@step
def next_link(m: Words, link: int, p: int) -> int:
    """The queue that a packet goes to from the far end of `link`, which is a switch."""
    flow = m[p + P_FLOW]
    kind = m[p + P_KIND]
    forth = kind < ACK
    dst_leaf = m[flow + S_DST_LEAF] if forth else m[flow + S_SRC_LEAF]
    base = m[link + L_BASE]
    stage = m[link + L_STAGE]
    node = m[link + L_ENTERS]
    spines = m[G_SPINES]
    if stage in (HOST_UP, SPINE_DOWN):
        if node == dst_leaf:
            host = m[flow + S_DST] if forth else m[flow + S_SRC]
            return base + m[G_START_1] + L_WORDS * host
        dst_pod = m[flow + S_DST_POD] if forth else m[flow + S_SRC_POD]
        src_pod = m[flow + S_SRC_POD] if forth else m[flow + S_DST_POD]
        far = base + m[G_START_1 + 2] + L_WORDS * dst_leaf * spines if dst_pod == src_pod else NONE
        up = base + m[G_START_1 + 1] + L_WORDS * node * spines
        return up + L_WORDS * _choose(m, up, far, spines, p, forth, node)
    cores = m[G_CORES]
    dst_pod = m[flow + S_DST_POD] if forth else m[flow + S_SRC_POD]
    if stage == LEAF_UP and cores > 0 and node // spines != dst_pod:
        up = base + m[G_START_1 + 3] + L_WORDS * node * cores
        far = base + m[G_START_1 + 4] + L_WORDS * (dst_pod * spines + node % spines) * cores
        return up + L_WORDS * _choose(m, up, far, cores, p, forth, m[G_HOSTS] + node)
    if stage == SPINE_UP:
        spine = node // cores
        at = (dst_pod * spines + spine) * cores + node % cores
        return base + m[G_START_1 + 4] + L_WORDS * at
    return base + m[G_START_1 + 2] + L_WORDS * (dst_leaf * spines + node % spines)


@step
def _choose(m: Words, up: int, far: int, count: int, p: int, forth: bool, switch: int) -> int:
    """One of `count` links from `up` on; `far` is the first of the links down that follow them."""
    if m[G_BALANCING] == ADAPTIVE and m[p + P_KIND] == DATA:
        return _shortest(m, up, far, count)
    flow = 2 * m[p + P_FLOW] + (1 if forth else 0)
    salt = m[G_SALT] + switch
    chosen = pick(flow, m[p + P_ENTROPY], salt, count)
    if m[G_AVOIDED] > 0:
        for tried in range(count):
            if not _avoided(m, up, far, chosen):
                break
            if tried < 8:
                chosen = pick(flow + (tried + 1) * 7919, m[p + P_ENTROPY], salt, count)
            else:
                chosen = (chosen + 1) % count
    return chosen


@step
def _avoided(m: Words, up: int, far: int, way: int) -> bool:
    if m[up + L_WORDS * way + L_AVOIDED] != 0:
        return True
    return far != NONE and m[far + L_WORDS * way + L_AVOIDED] != 0


@step
def _shortest(m: Words, up: int, far: int, count: int) -> int:
    """The link whose queue is on the lowest level; a draw among equals."""
    best = 4
    equals = 0
    chosen = 0
    now = m[G_NOW]
    for way in range(count):
        link = up + L_WORDS * way
        if now - m[link + L_LEVEL_AT] > LOOK_AGAIN_PS:
            m[link + L_LEVEL_AT] = now
            held = 100 * (m[link + L_LO_BYTES] + m[link + L_HI_BYTES])
            room = m[link + L_ROOM]
            level = 0 if held < 5 * room else 1 if held < 10 * room else 2
            m[link + L_LEVEL] = level if held < 20 * room else 3
        level = m[link + L_LEVEL]
        if m[G_AVOIDED] > 0 and _avoided(m, up, far, way):
            level = 4
        if level < best:
            best = level
            equals = 0
        if level == best:
            equals += 1
            if draw(m, equals) == 0:
                chosen = way
    return chosen
