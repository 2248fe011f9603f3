"""The event loop of the flow core: rates, the next end, start or fault, rates again.

One compiled function between two changes of the fabric. Times are microseconds and rates bytes per
microsecond, as doubles: a fluid has no picoseconds to be exact about.
"""

import numpy as np

from starloom.fabric.clos import Floats, Ints
from starloom.fabric.flow.maxmin import fill
from starloom.fabric.jit import jit


@jit
def advance(
    starts: Ints,
    links: Ints,
    weight: Floats,
    cap: Floats,
    cap_order: Ints,
    capacity: Floats,
    begin: Floats,
    order: Ints,
    left: Floats,
    rate: Floats,
    end: Floats,
    state: Ints,
    alive: Ints,
    now: float,
    until: float,
    slack: float,
) -> tuple[float, int]:
    """Run from `now` to `until`, or until nothing is left; returns (time reached, solves).

    `order` are flows by their start `begin`; `left` bytes to go, `end` times at which flows ended
    (-1: not yet); `state` = [alive count, next of `order`, unfinished].

    Flows that would end within `slack` x (time since 0) of the next end leave with it, at the time
    that their own rate gives: fewer solves for an error of at most that share.
    """
    solves = 0
    while state[2] > 0:
        while state[1] < len(order) and begin[order[state[1]]] <= now:
            alive[state[0]] = order[state[1]]
            state[0] += 1
            state[1] += 1
        starts_at = begin[order[state[1]]] if state[1] < len(order) else np.inf
        count = state[0]
        horizon = min(starts_at, until)
        if count == 0:
            if horizon == np.inf or horizon >= until:
                return until, solves
            now = horizon
            continue
        fill(starts, links, weight, cap, cap_order, capacity, alive, count, rate)
        solves += 1
        soonest = np.inf
        for at in range(count):
            flow = alive[at]
            if rate[flow] > 0:
                soonest = min(soonest, left[flow] / rate[flow])
        step = min(soonest, horizon - now)
        if step == np.inf:
            return now, solves
        window = step
        if step == soonest:
            window = min(step + slack * (now + step), horizon - now)
        window *= 1 + 1e-12
        kept = 0
        for at in range(count):
            flow = alive[at]
            takes = left[flow] / rate[flow] if rate[flow] > 0 else np.inf
            if takes <= window and step == soonest:
                end[flow] = now + takes
                left[flow] = 0.0
                state[2] -= 1
            else:
                left[flow] -= min(rate[flow] * step, left[flow])
                alive[kept] = flow
                kept += 1
        state[0] = kept
        now += step
        if now >= until:
            return until, solves
    return now, solves
