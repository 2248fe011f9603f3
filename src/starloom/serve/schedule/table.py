"""The worker table: who is there, what each has to do, and tickets that keep the counts true.

A ticket is taken when a request goes to a worker and ended exactly once, however the request ends.
A worker that is lost takes its row's counts with it: tickets of an older life change nothing.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Literal

from starloom.serve.errors import Throttled
from starloom.serve.schedule.base import Ask, Decision, Learner, Policy, Shed, Trip, WorkerView
from starloom.serve.schedule.index import PrefixIndex

Tier = Literal["hbm", "dram", "ssd"]
_RECENT = 8
"""Of what an exact worker can hold, the last 1/8 that it was sent is believed before it tells."""
_UNBOUNDED = 1 << 40


class _Row:
    """A worker, and the view of it that policies get."""

    __slots__ = ("changed", "foreign", "life", "model", "number", "ready", "view")

    def __init__(
        self, name: str, model: str, kv_blocks: int, number: int, changed: set[str]
    ) -> None:
        self.model = model
        self.number = number
        """In the model's indexes."""
        self.ready = False
        self.life = 0
        self.view = WorkerView(name=name, kv_blocks=kv_blocks)
        self.foreign = (0, 0, 0, 0)
        """The part of the view's counts that other gateways told of."""
        self.changed = changed
        """The table's own set of rows whose counts changed."""


class Ticket:
    """One request on one worker. `first_token` and `end` may each be called more than once.

    Both take the time where the policy is to learn from it.
    """

    __slots__ = ("_ended", "_life", "_prefill_tokens", "_row", "_tell", "_trip", "why", "worker")

    def __init__(
        self,
        row: _Row,
        ask: Ask,
        prefill_tokens: int,
        decision: Decision,
        tell: Callable[[Trip], None],
    ) -> None:
        view = row.view
        self.worker = view.name
        self.why = decision.why
        self._row = row
        self._life = row.life
        self._prefill_tokens = prefill_tokens
        self._ended = False
        self._tell = tell
        self._trip = Trip(
            worker=view.name,
            begun_s=ask.now_s,
            since_s=view.prefill_since_s if view.prefills else ask.now_s,
            prefill_tokens=prefill_tokens,
            ahead_tokens=view.prefill_tokens,
            outstanding=view.outstanding,
            context_tokens=view.context_tokens + ask.prompt_tokens,
            prompt_tokens=ask.prompt_tokens,
            ttft_target_s=ask.ttft_target_s,
            tpot_target_s=ask.tpot_target_s,
            promised=decision.promised,
        )
        if not view.prefills:
            view.prefill_since_s = ask.now_s
        view.outstanding += 1
        view.prefills += 1
        view.prefill_tokens += prefill_tokens
        view.context_tokens += ask.prompt_tokens
        row.changed.add(view.name)

    def first_token(self, now_s: float | None = None) -> None:
        """The prompt is computed: it is no longer prefill to be done."""
        if not self._prefill_tokens:
            return
        if self._life == self._row.life:
            view = self._row.view
            view.prefill_tokens -= self._prefill_tokens
            view.prefills -= 1
            self._row.changed.add(self.worker)
            if now_s is not None:
                view.prefill_since_s = now_s
        self._prefill_tokens = 0
        if now_s is not None:
            self._trip.first_s = now_s
            self._tell(self._trip)

    def end(self, now_s: float | None = None, answer_tokens: int = 0) -> None:
        """The request is over, in whatever way. `now_s` only where it ended well."""
        if self._ended:
            return
        self._ended = True
        self.first_token()
        trip, view = self._trip, self._row.view
        if self._life == self._row.life:
            trip.outstanding_at_end = view.outstanding - 1
            trip.context_at_end = view.context_tokens
            view.outstanding -= 1
            view.context_tokens -= trip.prompt_tokens
            self._row.changed.add(self.worker)
        if now_s is not None and trip.first_s is not None:
            trip.ended_s, trip.answer_tokens = now_s, answer_tokens
            self._tell(trip)


class WorkerTable:
    """Rows of workers; one policy a model, and indexes of what they hold.

    What a worker was sent it is believed to hold, so that a burst with one prefix stays together.
    `exact` is for workers that tell what they hold (`stored`, `removed`): they are believed, and
    what they were sent counts only while it is recent.
    """

    def __init__(self, policy: Callable[[], Policy], *, exact: bool = False) -> None:
        self._new_policy = policy
        self._recent = _RECENT if exact else 1
        self._policies: dict[str, Policy] = {}
        self._learn: dict[str, Callable[[Trip], None]] = {}
        self._sent: dict[str, PrefixIndex] = {}
        self._told: dict[tuple[str, Tier], PrefixIndex] = {}
        self._rows: dict[str, _Row] = {}
        self._ready: dict[str, list[_Row]] = {}
        self._changed: set[str] = set()

    def add(self, name: str, model: str, kv_blocks: int) -> None:
        """A worker that may come up. `kv_blocks` bounds what it can hold."""
        if model not in self._policies:
            policy = self._policies[model] = self._new_policy()
            self._learn[model] = policy.learn if isinstance(policy, Learner) else _nobody
            self._sent[model] = PrefixIndex()
            self._ready[model] = []
        number = self._sent[model].join(max(kv_blocks // self._recent, 1))
        self._rows[name] = _Row(name, model, kv_blocks, number, self._changed)

    def up(self, name: str) -> None:
        """The worker takes requests."""
        self._set_ready(self._rows[name], ready=True)

    def down(self, name: str) -> None:
        """The worker is lost, with all that it held and had to do."""
        row = self._rows[name]
        self._set_ready(row, ready=False)
        row.life += 1
        view = row.view
        view.outstanding = view.prefill_tokens = view.prefills = view.context_tokens = 0
        row.foreign = (0, 0, 0, 0)
        self._changed.add(name)
        self.cleared(name)

    def ready(self, model: str) -> list[str]:
        """Names of the workers of `model` that take requests."""
        return [row.view.name for row in self._ready.get(model, ())]

    def outstanding(self) -> dict[str, int]:
        """Unfinished requests of every worker."""
        return {name: row.view.outstanding for name, row in self._rows.items()}

    def own(self) -> dict[str, tuple[int, int, int, int]]:
        """What this table's own tickets count on each worker.

        Outstanding requests, prefill tokens, prefills and context tokens.
        """
        return {name: _own(row) for name, row in self._rows.items()}

    def changed(self) -> dict[str, tuple[int, int, int, int]]:
        """The same of those workers whose counts changed since the last call."""
        news = {name: _own(self._rows[name]) for name in sorted(self._changed)}
        self._changed.clear()
        return news

    def others(self, name: str, counts: tuple[int, int, int, int]) -> None:
        """What other gateways have under way on a worker, all together.

        Unknown names are passed over: another gateway may have more workers.
        """
        row = self._rows.get(name)
        if row is None:
            return
        view, old = row.view, row.foreign
        view.outstanding += counts[0] - old[0]
        view.prefill_tokens += counts[1] - old[1]
        view.prefills += counts[2] - old[2]
        view.context_tokens += counts[3] - old[3]
        row.foreign = counts

    def stored(
        self, name: str, parent: bytes | None, keys: Sequence[bytes], tier: Tier = "hbm"
    ) -> None:
        """The worker says that it holds `keys`, which follow `parent` (None: the beginning)."""
        row = self._rows[name]
        index = self._told.get((row.model, tier))
        if index is None:
            index = self._told[row.model, tier] = PrefixIndex(exact=True)
        while not index.has(row.number):
            index.join(_UNBOUNDED)  # it says itself what it removes
        index.stored(row.number, parent, keys)

    def removed(self, name: str, keys: Sequence[bytes], tier: Tier = "hbm") -> None:
        """The worker says that it holds `keys` no longer."""
        row = self._rows[name]
        index = self._told.get((row.model, tier))
        if index is not None and index.has(row.number):
            index.removed(row.number, keys)

    def cleared(self, name: str) -> None:
        """The worker holds nothing any more, in any tier."""
        row = self._rows[name]
        self._sent[row.model].clear(row.number)
        for (model, _), index in self._told.items():
            if model == row.model and index.has(row.number):
                index.clear(row.number)

    def sent(self, name: str, keys: Sequence[bytes]) -> None:
        """The worker was sent a prompt of `keys`, a chain from its beginning."""
        row = self._rows[name]
        self._sent[row.model].add(row.number, keys)

    def views(self, ask: Ask, model: str, exclude: Collection[str] = ()) -> Sequence[WorkerView]:
        """Workers that could take the request. They change with the next call."""
        rows: Sequence[_Row] = self._ready.get(model, ())
        if exclude:
            rows = [row for row in rows if row.view.name not in exclude]
        if rows:
            self._overlap(ask, model, rows)
        return [row.view for row in rows]

    def begin(self, model: str, ask: Ask, exclude: Collection[str] = ()) -> Ticket | None:
        """Choose a worker and count the request to it; None when no worker of the model is up.

        Raises `Throttled` where the policy sheds it.
        """
        views = self.views(ask, model, exclude)
        if not views:
            return None
        decision = self._policies[model].choose(ask, views)
        if isinstance(decision, Shed):
            raise Throttled(decision.why, retry_after_s=decision.retry_after_s)
        row = self._rows[decision.worker]
        held = row.view.overlap_blocks * ask.block_tokens
        self._sent[model].add(row.number, ask.keys)
        own = max(ask.prompt_tokens - held, 1)
        return Ticket(row, ask, own, decision, self._learn[model])

    def _set_ready(self, row: _Row, *, ready: bool) -> None:
        row.ready = ready
        rows = (other for other in self._rows.values() if other.model == row.model)
        self._ready[row.model] = [other for other in rows if other.ready]

    def _overlap(self, ask: Ask, model: str, rows: Sequence[_Row]) -> None:
        held = self._sent[model].overlaps(ask.keys)
        told = self._overlaps_told(model, "hbm", ask, len(held))
        if told is not None:
            held = list(map(max, held, told))
        for row in rows:
            row.view.overlap_blocks = held[row.number]
        dram = self._overlaps_told(model, "dram", ask, len(held))
        ssd = self._overlaps_told(model, "ssd", ask, len(held))
        if dram is None and ssd is None:
            return
        nothing = [0] * len(held)
        for row in rows:
            view, number = row.view, row.number
            fetched = max(view.overlap_blocks, (dram or nothing)[number])
            view.dram_blocks = fetched - view.overlap_blocks
            view.ssd_blocks = max((ssd or nothing)[number] - fetched, 0)

    def _overlaps_told(self, model: str, tier: Tier, ask: Ask, workers: int) -> list[int] | None:
        index = self._told.get((model, tier))
        if index is None:
            return None
        overlaps = index.overlaps(ask.keys)
        return overlaps + [0] * (workers - len(overlaps))


def _own(row: _Row) -> tuple[int, int, int, int]:
    view, foreign = row.view, row.foreign
    return (
        view.outstanding - foreign[0],
        view.prefill_tokens - foreign[1],
        view.prefills - foreign[2],
        view.context_tokens - foreign[3],
    )


def _nobody(_: Trip) -> None:
    """Nobody learns."""
