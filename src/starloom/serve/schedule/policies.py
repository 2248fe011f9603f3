"""The policies of the first cut: a turn, the shortest queue, and prefix with load."""

from collections.abc import Callable, Sequence

from starloom.serve.schedule.base import Ask, Decision, Policy, WorkerView


class RoundRobin:
    """Each worker in its turn, whatever it holds and has to do."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision:  # noqa: ARG002
        worker = workers[self._turn % len(workers)]
        self._turn += 1
        return Decision(worker.name, "its turn")


class LeastOutstanding:
    """The worker with the fewest unfinished requests; the first of equals."""

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision:  # noqa: ARG002
        worker = min(workers, key=lambda view: view.outstanding)
        return Decision(worker.name, f"{worker.outstanding} outstanding")


class PrefixLoad:
    """The least of (prefill tokens to be computed) x (requests sharing the worker).

    The product form of LMetric (arXiv 2603.15202): what a worker holds saves prefill, what it has
    to do costs, and no weight needs tuning. Prefill that already waits on a worker counts as if it
    were ours, since it runs first.
    """

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision:
        def to_prefill(view: WorkerView) -> int:
            held = view.overlap_blocks * ask.block_tokens
            return view.prefill_tokens + max(ask.prompt_tokens - held, 1)

        def cost(view: WorkerView) -> tuple[int, int]:
            return to_prefill(view) * (view.outstanding + 1), view.outstanding

        worker = min(workers, key=cost)
        why = (
            f"{to_prefill(worker)} tokens to prefill x {worker.outstanding + 1} requests,"
            f" {worker.overlap_blocks} blocks held"
        )
        return Decision(worker.name, why)


POLICIES: dict[str, Callable[[], Policy]] = {
    "round_robin": RoundRobin,
    "least_outstanding": LeastOutstanding,
    "prefix_load": PrefixLoad,
}
