"""The worker table: who is there, what each has to do, and tickets that keep the counts true.

A ticket is taken when a request goes to a worker and ended exactly once, however the request ends.
A worker that is lost takes its row's counts with it: tickets of an older life change nothing.
"""

from collections.abc import Callable, Collection, Sequence

from starloom.serve.schedule.base import Ask, Policy, WorkerView
from starloom.serve.schedule.index import PrefixIndex


class _Row:
    __slots__ = ("index", "life", "model", "name", "outstanding", "prefill_tokens", "ready")

    def __init__(self, name: str, model: str, kv_blocks: int) -> None:
        self.name = name
        self.model = model
        self.ready = False
        self.life = 0
        self.outstanding = 0
        self.prefill_tokens = 0
        self.index = PrefixIndex(kv_blocks)


class Ticket:
    """One request on one worker. `first_token` and `end` may each be called more than once."""

    __slots__ = ("_ended", "_life", "_prefill_tokens", "_row", "why", "worker")

    def __init__(self, row: _Row, prefill_tokens: int, why: str) -> None:
        self.worker = row.name
        self.why = why
        self._row = row
        self._life = row.life
        self._prefill_tokens = prefill_tokens
        self._ended = False
        row.outstanding += 1
        row.prefill_tokens += prefill_tokens

    def first_token(self) -> None:
        """The prompt is computed: it is no longer prefill to be done."""
        if self._life == self._row.life:
            self._row.prefill_tokens -= self._prefill_tokens
        self._prefill_tokens = 0

    def end(self) -> None:
        """The request is over, in whatever way."""
        self.first_token()
        if not self._ended and self._life == self._row.life:
            self._row.outstanding -= 1
        self._ended = True


class WorkerTable:
    """Rows of workers, and one policy a model."""

    def __init__(self, policy: Callable[[], Policy]) -> None:
        self._new_policy = policy
        self._policies: dict[str, Policy] = {}
        self._rows: dict[str, _Row] = {}

    def add(self, name: str, model: str, kv_blocks: int) -> None:
        """A worker that may come up. `kv_blocks` bounds what it can hold."""
        self._rows[name] = _Row(name, model, kv_blocks)
        self._policies.setdefault(model, self._new_policy())

    def up(self, name: str) -> None:
        """The worker takes requests."""
        self._rows[name].ready = True

    def down(self, name: str) -> None:
        """The worker is lost, with all that it held and had to do."""
        row = self._rows[name]
        row.ready = False
        row.life += 1
        row.outstanding = row.prefill_tokens = 0
        row.index.clear()

    def ready(self, model: str) -> list[str]:
        """Names of the workers of `model` that take requests."""
        return [row.name for row in self._rows.values() if row.ready and row.model == model]

    def outstanding(self) -> dict[str, int]:
        """Unfinished requests of every worker."""
        return {row.name: row.outstanding for row in self._rows.values()}

    def views(self, ask: Ask, model: str, exclude: Collection[str] = ()) -> Sequence[WorkerView]:
        return [
            WorkerView(
                name=row.name,
                outstanding=row.outstanding,
                prefill_tokens=row.prefill_tokens,
                overlap_blocks=row.index.overlap(ask.keys),
            )
            for row in self._rows.values()
            if row.ready and row.model == model and row.name not in exclude
        ]

    def begin(self, model: str, ask: Ask, exclude: Collection[str] = ()) -> Ticket | None:
        """Choose a worker and count the request to it; None when no worker of the model is up."""
        views = self.views(ask, model, exclude)
        if not views:
            return None
        decision = self._policies[model].choose(ask, views)
        row = self._rows[decision.worker]
        held = row.index.overlap(ask.keys) * ask.block_tokens
        row.index.add(ask.keys)
        return Ticket(row, max(ask.prompt_tokens - held, 1), decision.why)
