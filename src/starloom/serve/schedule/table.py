"""The worker table: who is there, what each has to do, and tickets that keep the counts true.

A ticket is taken when a request goes to a worker and ended exactly once, however the request ends.
A worker that is lost takes its row's counts with it: tickets of an older life change nothing.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Literal, Protocol

from starloom.serve.errors import Throttled
from starloom.serve.schedule.base import (
    Ask,
    Decision,
    Forgetful,
    Learner,
    Policy,
    Shed,
    Trip,
    WorkerView,
)
from starloom.serve.schedule.index import PrefixIndex
from starloom.serve.schedule.rates import Mean
from starloom.serve.schedule.strangers import Strangers

Tier = Literal["hbm", "dram", "ssd"]
Role = Literal["both", "prefill", "decode"]
"""Which halves of a request a worker computes."""
Half = Literal["whole", "prefill", "decode"]
"""What of a request a ticket is for."""
_TAKERS: dict[Half, tuple[frozenset[Role], ...]] = {
    "whole": (frozenset({"both"}), frozenset({"decode"}), frozenset({"prefill"})),
    "prefill": (frozenset({"prefill", "both"}),),
    "decode": (frozenset({"decode", "both"}),),
}
"""Who may take it; a later set only where no worker of those before is left."""
_RECENT = 8
"""Of what an exact worker can hold, the last 1/8 that it was sent is believed before it tells."""
_UNBOUNDED = 1 << 40
_Counts = tuple[int, int, int, int]
"""Outstanding requests, prefill tokens, prefills and context tokens."""
_NONE: _Counts = (0, 0, 0, 0)


class _Row:
    """A worker, and the view of it that policies get."""

    __slots__ = (
        *("changed", "draining", "foreign", "life", "model", "number", "ready", "role"),
        *("strange", "strangers", "view"),
    )

    def __init__(
        self, name: str, model: str, kv_blocks: int, number: int, role: Role, changed: set[str]
    ) -> None:
        self.model = model
        self.role = role
        self.number = number
        """In the model's indexes."""
        self.ready = False
        self.draining = False
        self.life = 0
        self.view = WorkerView(name=name, kv_blocks=kv_blocks)
        self.foreign = _NONE
        """The part of the view's counts that other gateways told of."""
        self.strange = _NONE
        """The part of them that is none of any gateway's, judged from what the worker says."""
        self.strangers = Strangers()
        self.changed = changed
        """The table's own set of rows whose counts changed."""


class Watch(Protocol):
    """Follows one request on one worker, as a circuit breaker's permit does."""

    def first_token(self) -> None: ...

    def ended(self, *, well: bool) -> None: ...


class Ticket:
    """One request on one worker. `first_token` and `end` may each be called more than once.

    Both take the time where the policy is to learn from it.
    """

    __slots__ = (
        *("_begun", "_ended", "_half", "_life", "_prefill_tokens", "_row", "_tell", "_trip"),
        *("permit", "why", "worker"),
    )

    def __init__(
        self,
        row: _Row,
        ask: Ask,
        prefill_tokens: int,
        decision: Decision,
        tell: Callable[[Trip], None],
        half: Half,
    ) -> None:
        view = row.view
        self._half = half
        self.worker = view.name
        self.why = decision.why
        self.permit: Watch | None = None
        """Told of the same, where a circuit breaker watches the worker."""
        self._row = row
        self._life = row.life
        self._prefill_tokens = prefill_tokens
        self._begun = self._ended = False
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
        if prefill_tokens:  # none for a decode half
            if not view.prefills:
                view.prefill_since_s = ask.now_s
            view.prefills += 1
            view.prefill_tokens += prefill_tokens
        view.outstanding += 1
        view.context_tokens += ask.prompt_tokens
        row.changed.add(view.name)

    def first_token(self, now_s: float | None = None) -> None:
        """The prompt is computed: it is no longer prefill to be done."""
        if self._begun:
            return
        self._begun = True
        if self._prefill_tokens and self._life == self._row.life:
            view = self._row.view
            view.prefill_tokens -= self._prefill_tokens
            view.prefills -= 1
            self._row.changed.add(self.worker)
            if now_s is not None:
                view.prefill_since_s = now_s
        if now_s is not None:
            self._trip.first_s = now_s
            if self.permit is not None:
                self.permit.first_token()
            if self._half != "decode":  # which had no prompt to compute
                self._tell(self._trip)

    def end(self, now_s: float | None = None, answer_tokens: int = 0) -> None:
        """The request is over, in whatever way. `now_s` only where it ended well."""
        if self._ended:
            return
        self._ended = True
        self.first_token()
        if self.permit is not None:
            self.permit.ended(well=now_s is not None)
        trip, view = self._trip, self._row.view
        if self._life == self._row.life:
            trip.outstanding_at_end = view.outstanding - 1
            trip.context_at_end = view.context_tokens
            view.outstanding -= 1
            view.context_tokens -= trip.prompt_tokens
            self._row.changed.add(self.worker)
        if now_s is not None and trip.first_s is not None and self._half != "prefill":
            trip.ended_s, trip.answer_tokens = now_s, answer_tokens
            self._tell(trip)


class WorkerTable:
    """Rows of workers; one policy a model and half, and indexes of what they hold.

    What a worker was sent it is believed to hold, so that a burst with one prefix stays together.
    `exact` is for workers that tell what they hold (`stored`, `removed`): they are believed, and
    what they were sent counts only while it is recent.
    """

    def __init__(self, policy: Callable[[], Policy], *, exact: bool = False) -> None:
        self._new_policy = policy
        self._recent = _RECENT if exact else 1
        self._policies: dict[tuple[str, Half], Policy] = {}
        self._learn: dict[tuple[str, Half], Callable[[Trip], None]] = {}
        self._sent: dict[str, PrefixIndex] = {}
        self._told: dict[tuple[str, Tier], PrefixIndex] = {}
        self._rows: dict[str, _Row] = {}
        self._ready: dict[str, list[_Row]] = {}
        self._takers: dict[tuple[str, Half], list[list[_Row]]] = {}
        """Ready rows that may take a half, those first that are preferred; no list is empty."""
        self._changed: set[str] = set()
        self._prompt_tokens: dict[str, Mean] = {}
        """Of a model's requests: what a stranger is taken to be like."""
        self._strange_until_s: dict[str, float] = {}
        self._newly: set[str] = set()
        """Workers that others have given a first prefill, or got a first token from, just now."""

    def add(
        self, name: str, model: str, kv_blocks: int, role: Role = "both", *, exact: bool = False
    ) -> None:
        """A worker that may come up. `kv_blocks` bounds what it can hold."""
        if model not in self._sent:
            for half in _TAKERS:
                policy = self._policies[model, half] = self._new_policy()
                learn = policy.learn if isinstance(policy, Learner) else _nobody
                self._learn[model, half] = learn
            self._sent[model] = PrefixIndex()
            self._ready[model] = []
            self._prompt_tokens[model] = Mean(0.0, weight=0)
        recent = _RECENT if exact else self._recent
        number = self._sent[model].join(max(kv_blocks // recent, 1))
        self._rows[name] = _Row(name, model, kv_blocks, number, role, self._changed)

    def set_role(self, name: str, role: Role) -> None:
        """From now on the worker takes these halves. What it has, it keeps."""
        row = self._rows[name]
        row.role = role
        self._set_ready(row, ready=row.ready)

    def roles(self) -> dict[str, Role]:
        """Which halves each worker takes, up or not."""
        return {name: row.role for name, row in self._rows.items()}

    def apart(self, model: str) -> bool:
        """Whether prefill and decode of a request of `model` go to workers of their own."""
        rows = self._ready.get(model, ())
        return any(row.role == "prefill" for row in rows) and bool(self._takers[model, "decode"])

    def takes(self, model: str, exclude: Collection[str], half: Half) -> bool:
        """Whether there is a worker for a ticket now."""
        return bool(self._left(model, half, exclude))

    def up(self, name: str) -> None:
        """The worker takes requests."""
        self._set_ready(self._rows[name], ready=True)

    def drain(self, name: str, *, draining: bool) -> None:
        """The worker gets nothing new while it drains; what it has goes on, and counts."""
        row = self._rows[name]
        row.draining = draining
        self._set_ready(row, ready=row.ready)

    def remove(self, name: str) -> None:
        """The worker is gone for good: its row, what it held, and what it had to do."""
        self.down(name)
        row = self._rows.pop(name)
        self._set_ready(row, ready=False)
        self._sent[row.model].leave(row.number)
        for half in _TAKERS:
            policy = self._policies[row.model, half]
            if isinstance(policy, Forgetful):
                policy.forget(name)
        self._changed.discard(name)

    def down(self, name: str) -> None:
        """The worker is lost, with all that it held and had to do."""
        row = self._rows[name]
        self._set_ready(row, ready=False)
        row.life += 1
        view = row.view
        view.outstanding = view.prefill_tokens = view.prefills = view.context_tokens = 0
        row.foreign = row.strange = _NONE
        row.strangers = Strangers()
        self._strange_until_s.pop(name, None)
        self._changed.add(name)
        self.cleared(name)

    def ready(self, model: str) -> list[str]:
        """Names of the workers of `model` that take requests."""
        return [row.view.name for row in self._ready.get(model, ())]

    def outstanding(self) -> dict[str, int]:
        """Unfinished requests of every worker that came through a gateway of the site."""
        return {name: row.view.outstanding - row.strange[0] for name, row in self._rows.items()}

    def under_way(self, name: str) -> int:
        """Unfinished requests that this table's own tickets count on a worker."""
        return _own(self._rows[name])[0]

    def own(self) -> dict[str, _Counts]:
        """What this table's own tickets count on each worker.

        Outstanding requests, prefill tokens, prefills and context tokens.
        """
        return {name: _own(row) for name, row in self._rows.items()}

    def changed(self) -> dict[str, _Counts]:
        """The same of those workers whose counts changed since the last call."""
        news = {name: _own(self._rows[name]) for name in sorted(self._changed)}
        self._changed.clear()
        return news

    def others(self, name: str, counts: _Counts) -> None:
        """What other gateways have under way on a worker, all together.

        Unknown names are passed over: another gateway may have more workers.
        """
        row = self._rows.get(name)
        if row is not None:
            self._replace(row.view, row.foreign, counts)
            row.foreign = counts

    def told_load(self, name: str, running: int, waiting: int, until_s: float) -> None:
        """The worker says how many requests it runs and has waiting; that counts `until_s`.

        What is more than the gateways sent it comes from others, who share the server. They are
        taken to be as long as ours.
        """
        row = self._rows.get(name)
        if row is None or not row.ready:
            return
        view, old = row.view, row.strange
        others, queued = row.strangers.told(
            running, waiting, view.outstanding - old[0], view.prefills - old[2]
        )
        tokens = self._prompt_tokens[row.model].value
        row.strange = (others, round(queued * tokens), queued, round(others * tokens))
        self._replace(view, old, row.strange)
        self._strange_until_s[name] = until_s

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
        """The worker was sent a prompt of `keys`, a chain from its beginning.

        Unknown names are passed over: another gateway may have more workers.
        """
        row = self._rows.get(name)
        if row is not None:
            self._sent[row.model].add(row.number, keys)

    def views(
        self, ask: Ask, model: str, exclude: Collection[str] = (), half: Half = "whole"
    ) -> Sequence[WorkerView]:
        """Workers that could take the request. They change with the next call."""
        rows = self._left(model, half, exclude)
        if not rows:
            return ()
        if self._strange_until_s:
            self._forget_strangers(ask.now_s)
        if self._newly:
            self._begin_prefills(ask.now_s)
        if half == "decode":
            _handed(ask, rows)
        else:
            self._overlap(ask, model, rows)
        return [row.view for row in rows]

    def begin(
        self, model: str, ask: Ask, exclude: Collection[str] = (), half: Half = "whole"
    ) -> Ticket | None:
        """Choose a worker and count the request to it; None when no worker of the model is up.

        `whole` goes to a worker of one half alone where no other is left: each can compute all of
        it. A `decode` ticket counts no prefill, since the prompt is handed over.
        Raises `Throttled` where the policy sheds it.
        """
        views = self.views(ask, model, exclude, half)
        if not views:
            return None
        decision = self._policies[model, half].choose(ask, views)
        if isinstance(decision, Shed):
            raise Throttled(decision.why, retry_after_s=decision.retry_after_s)
        row = self._rows[decision.worker]
        held = row.view.overlap_blocks * ask.block_tokens
        self._sent[model].add(row.number, ask.keys)
        self._prompt_tokens[model].learn(ask.prompt_tokens)
        own = 0 if half == "decode" else max(ask.prompt_tokens - held, 1)
        return Ticket(row, ask, own, decision, self._learn[model, half], half)

    def _replace(self, view: WorkerView, old: _Counts, new: _Counts) -> None:
        """One part of the view's counts by another, that is by what was just heard of."""
        if new[2] < old[2] or not view.prefills:
            self._newly.add(view.name)
        view.outstanding += new[0] - old[0]
        view.prefill_tokens += new[1] - old[1]
        view.prefills += new[2] - old[2]
        view.context_tokens += new[3] - old[3]

    def _forget_strangers(self, now_s: float) -> None:
        """Of workers that have not said anything for too long."""
        for name in [it for it, until_s in self._strange_until_s.items() if until_s < now_s]:
            row = self._rows[name]
            self._replace(row.view, row.strange, _NONE)
            row.strange = _NONE
            row.strangers = Strangers()
            del self._strange_until_s[name]

    def _begin_prefills(self, now_s: float) -> None:
        for name in self._newly:
            if (row := self._rows.get(name)) is not None:
                row.view.prefill_since_s = now_s
        self._newly.clear()

    def _left(self, model: str, half: Half, exclude: Collection[str]) -> Sequence[_Row]:
        for rows in self._takers.get((model, half), ()):
            left = [row for row in rows if row.view.name not in exclude] if exclude else rows
            if left:
                return left
        return ()

    def _set_ready(self, row: _Row, *, ready: bool) -> None:
        row.ready = ready
        model = row.model
        rows = (other for other in self._rows.values() if other.model == model)
        self._ready[model] = [other for other in rows if other.ready and not other.draining]
        for half, preferred in _TAKERS.items():
            groups = ([r for r in self._ready[model] if r.role in roles] for roles in preferred)
            self._takers[model, half] = [group for group in groups if group]

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


def _own(row: _Row) -> _Counts:
    view, foreign, strange = row.view, row.foreign, row.strange
    return (
        view.outstanding - foreign[0] - strange[0],
        view.prefill_tokens - foreign[1] - strange[1],
        view.prefills - foreign[2] - strange[2],
        view.context_tokens - foreign[3] - strange[3],
    )


def _handed(ask: Ask, rows: Sequence[_Row]) -> None:
    """A decode half's prompt comes from another worker: as good as held, by each alike."""
    blocks = -(-ask.prompt_tokens // ask.block_tokens)
    for row in rows:
        row.view.overlap_blocks = blocks
        row.view.dram_blocks = row.view.ssd_blocks = 0


def _nobody(_: Trip) -> None:
    """Nobody learns."""
