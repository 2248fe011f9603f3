"""A circuit breaker for each worker: one that keeps failing is left alone for a while.

closed ──failures in a row, or their share in the window──▶ open ──pause over──▶ half-open
   ▲                                                         ▲                      │
   └───────────────── a probe is answered ───────────────────┴── a probe fails ─────┘

Half-open lets one request through at a time. Each opening after another, without a quiet window
between, doubles the pause, jittered so that replicas do not probe together. Verdicts on requests
that went out before the last opening change nothing: they tell of the past.

Pure: `now` is any one clock, in seconds; `draw` gives numbers from 0 to 1. Both are injected.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Literal

from starloom.site import BreakerRules

State = Literal["closed", "half_open", "open"]
_BUCKETS = 10
_MUCH_WORSE = 0.1
"""Of open breakers, those whose share of failures is within this of the least are tried."""


class Window:
    """Successes and failures of the last `window_s` seconds, in steps of a tenth of that."""

    def __init__(self, window_s: float) -> None:
        self._step_s = window_s / _BUCKETS
        self._buckets: deque[list[int]] = deque()
        """[step, successes, failures], oldest first."""

    def add(self, now_s: float, *, failed: bool) -> None:
        step = int(now_s // self._step_s)
        if not self._buckets or self._buckets[-1][0] != step:
            self._buckets.append([step, 0, 0])
        self._buckets[-1][1 + failed] += 1
        self._forget(step)

    def counts(self, now_s: float) -> tuple[int, int]:
        """Successes and failures."""
        self._forget(int(now_s // self._step_s))
        return sum(b[1] for b in self._buckets), sum(b[2] for b in self._buckets)

    def clear(self) -> None:
        self._buckets.clear()

    def _forget(self, step: int) -> None:
        while self._buckets and self._buckets[0][0] <= step - _BUCKETS:
            self._buckets.popleft()


class Breaker:
    """One worker's."""

    def __init__(
        self,
        rules: BreakerRules,
        now: Callable[[], float],
        draw: Callable[[], float],
        tripped: Callable[[bool], object] = bool,
    ) -> None:
        """`tripped` is told when it opens, and when it closes again."""
        self.opened = 0
        """How often it opened; a verdict counts for the opening in which its request began."""
        self.pause_s = 0.0
        """Of the last opening."""
        self.first_token_s = rules.first_token_s
        self.now = now
        self._rules = rules
        self._draw = draw
        self._tripped = tripped
        self._window = Window(rules.window_s)
        self._in_a_row = 0
        self._until_s: float | None = None
        """When the pause ends; None while closed."""
        self._closed_s = float("-inf")
        self._repeats = 0
        self._probe: Permit | None = None

    @property
    def state(self) -> State:
        if self._until_s is None:
            return "closed"
        return "half_open" if self.now() >= self._until_s else "open"

    @property
    def lets(self) -> bool:
        """Whether a request may go to the worker: any, none, or one probe."""
        state = self.state
        return state == "closed" or (state == "half_open" and self._probe is None)

    @property
    def share(self) -> float:
        """Failures among all verdicts in the window; 1 where it is open and there are none."""
        good, bad = self._window.counts(self.now())
        if good + bad:
            return bad / (good + bad)
        return 0.0 if self._until_s is None else 1.0

    def begin(self) -> "Permit":
        """A request goes to the worker, whether the breaker lets it or nobody else is left."""
        permit = Permit(self, self.opened)
        if self._until_s is not None and self.lets:
            self._probe = permit
        return permit

    def verdict(self, permit: "Permit", *, failed: bool) -> None:
        """A permit's: the worker answered, or broke."""
        if permit.opening != self.opened:
            return
        self._window.add(self.now(), failed=failed)
        if not failed:
            self._in_a_row = 0
            if self._until_s is not None:
                self._close()
            return
        self._in_a_row += 1
        state = self.state
        if state == "half_open" or (state == "closed" and self._too_many()):
            self._open()

    def left(self, permit: "Permit") -> None:
        """A permit's request is over."""
        if self._probe is permit:
            self._probe = None

    def _too_many(self) -> bool:
        rules = self._rules
        if not rules.enabled:
            return False
        if self._in_a_row >= rules.failures:
            return True
        good, bad = self._window.counts(self.now())
        return good + bad >= rules.min_requests and bad / (good + bad) >= rules.error_share

    def _open(self) -> None:
        rules, now_s = self._rules, self.now()
        if self._until_s is None and now_s - self._closed_s > rules.window_s:
            self._repeats = 0
        pause_s = min(rules.pause_s * 2.0 ** min(self._repeats, 32), rules.longest_pause_s)
        self.pause_s = pause_s * (1 + rules.jitter * (2 * self._draw() - 1))
        self._until_s = now_s + self.pause_s
        self._repeats += 1
        self.opened += 1
        self._in_a_row = 0
        self._probe = None
        self._tripped(True)

    def _close(self) -> None:
        self._until_s = self._probe = None
        self._closed_s = self.now()
        self._window.clear()
        self._tripped(False)


class Permit:
    """One request on one worker, and what became of it.

    Its calls may come more than once, and `failed` after `ended`. A request that neither failed
    nor ended well says nothing: what the client did wrong, a 429, a client that left.
    """

    __slots__ = ("_begun_s", "_breaker", "_failed", "_heard", "_well", "opening")

    def __init__(self, breaker: Breaker, opening: int) -> None:
        self.opening = opening
        self._breaker = breaker
        self._begun_s = breaker.now()
        self._heard = self._well = self._failed = False

    def first_token(self) -> None:
        """The worker answers: enough for a probe. Too late is a failure, where rules say so."""
        if self._heard:
            return
        self._heard = True
        if self._late():
            self.failed()
        elif self._breaker.state != "closed":
            self._good()

    def failed(self) -> None:
        """The worker broke: it cannot be reached, answers 5xx, or broke off."""
        if not self._failed:
            self._failed = True
            self._breaker.verdict(self, failed=True)

    def ended(self, *, well: bool) -> None:
        """The request is over."""
        if well:
            self._good()
        elif not self._heard and self._late():
            self.failed()
        self._breaker.left(self)

    def _good(self) -> None:
        if not (self._well or self._failed):
            self._well = True
            self._breaker.verdict(self, failed=False)

    def _late(self) -> bool:
        limit_s = self._breaker.first_token_s
        return limit_s is not None and self._breaker.now() - self._begun_s > limit_s


class Breakers:
    """Breakers by worker."""

    def __init__(
        self, rules: BreakerRules, now: Callable[[], float], draw: Callable[[], float]
    ) -> None:
        self._new = partial(Breaker, rules, now, draw)
        self._breakers: dict[str, Breaker] = {}
        self._tripped: set[str] = set()
        """Workers whose breakers are not closed."""

    def of(self, worker: str) -> Breaker:
        breaker = self._breakers.get(worker)
        if breaker is None:
            breaker = self._breakers[worker] = self._new(partial(self._trip, worker))
        return breaker

    def shut(self) -> Collection[str]:
        """Workers that are to be left alone now."""
        if not self._tripped:
            return ()
        return [name for name in self._tripped if not self._breakers[name].lets]

    def least_bad(self, workers: Iterable[str]) -> list[str]:
        """Those of `workers` that fail least, where all of them are to be left alone."""
        shares = {name: self.of(name).share for name in workers}
        least = min(shares.values(), default=0.0)
        return [name for name, share in shares.items() if share <= least + _MUCH_WORSE]

    def forget(self, worker: str) -> None:
        """The worker is gone, or it is a new process now."""
        self._breakers.pop(worker, None)
        self._tripped.discard(worker)

    def _trip(self, worker: str, tripped: bool) -> None:
        if tripped:
            self._tripped.add(worker)
        else:
            self._tripped.discard(worker)
