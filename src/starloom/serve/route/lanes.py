"""Quick and thinking requests queue apart, so that a long thought does not hold up a short answer.

A pure policy: who waits is told in, who goes next is told out. Each lane has a weight; a lane is
charged for what it was served over its weight, and the lane that was charged least goes next
(start-time fair queueing, Goyal, Vin and Cheng, SIGCOMM 1996). Neither lane starves: with weights
a and b, a lane that has requests waiting gets at least its a / (a + b) of the cost served, less one
request.
"""

from collections import deque
from collections.abc import Mapping
from typing import Generic, TypeVar

from starloom.serve.route.base import Lane
from starloom.serve.route.errors import BadDial

T = TypeVar("T")

THINKING_EFFORTS = frozenset({"medium", "high", "xhigh", "max"})
QUICK_EFFORTS = frozenset({"none", "minimal", "low"})
THINKING_TOKENS = 2048


def lane_of(
    *,
    header: str | None = None,
    effort: str | None = None,
    answer_tokens: int | None = None,
    small_right: float | None = None,
    thinking_below: float = 0.5,
) -> Lane:
    """The lane of a request; the first of these that speaks decides.

    In order: the header (`quick` or `thinking`, anything else raises `BadDial`), the body's
    `reasoning_effort`, an answer limit over 2,048 tokens, and a request that the small model
    probably gets wrong (`small_right` under `thinking_below`). Else quick.
    """
    if header is not None:
        if header == "quick":
            return "quick"
        if header == "thinking":
            return "thinking"
        raise BadDial(f"lane {header!r} is neither quick nor thinking")
    if effort in THINKING_EFFORTS:
        return "thinking"
    if effort in QUICK_EFFORTS:
        return "quick"
    if answer_tokens is not None and answer_tokens > THINKING_TOKENS:
        return "thinking"
    if small_right is not None and small_right < thinking_below:
        return "thinking"
    return "quick"


class Lanes(Generic[T]):
    """Two first-in-first-out queues with weighted turns. `len` counts who waits."""

    def __init__(self, weights: Mapping[Lane, float] | None = None, *, limit: int = 4096) -> None:
        """`limit` bounds each lane apart: a full lane refuses, the other goes on."""
        self._weights: dict[Lane, float] = {"quick": 3.0, "thinking": 1.0, **(weights or {})}
        for lane, weight in self._weights.items():
            if weight <= 0:
                raise BadDial(f"lane {lane}: weight {weight:g} is not positive, it would starve")
        self._waiting: dict[Lane, deque[tuple[T, float]]] = {"quick": deque(), "thinking": deque()}
        self._charged: dict[Lane, float] = {"quick": 0.0, "thinking": 0.0}
        self._now = 0.0
        self._limit = limit

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def waiting(self, lane: Lane) -> int:
        return len(self._waiting[lane])

    def put(self, lane: Lane, request: T, cost: float = 1.0) -> bool:
        """Queue a request of `cost` (requests, or expected tokens). False when its lane is full."""
        if cost <= 0:
            raise ValueError(f"cost must be positive, not {cost:g}")
        queue = self._waiting[lane]
        if len(queue) >= self._limit:
            return False
        if not queue:  # an idle lane saves up no credit
            self._charged[lane] = max(self._charged[lane], self._now)
        queue.append((request, cost))
        return True

    def take(self) -> tuple[Lane, T] | None:
        """The next request to serve, or None when nobody waits. Ties go to the quick lane."""
        ready: list[Lane] = [lane for lane, queue in self._waiting.items() if queue]
        if not ready:
            return None
        lane = min(ready, key=self._charged.__getitem__)
        request, cost = self._waiting[lane].popleft()
        self._now = self._charged[lane]
        self._charged[lane] += cost / self._weights[lane]
        return lane, request

    def drop(self, request: T) -> bool:
        """Forget a request whose client has gone; False when it does not wait."""
        for queue in self._waiting.values():
            for at, (waiting, _) in enumerate(queue):
                if waiting is request:
                    del queue[at]
                    return True
        return False
