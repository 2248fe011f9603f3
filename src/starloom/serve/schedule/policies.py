"""The field's policies, as published: each is a formula over what a worker has to do and holds."""

from collections.abc import Sequence

from starloom.serve.schedule.base import Ask, Decision, WorkerView


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
        def cost(view: WorkerView) -> tuple[int, int]:
            return to_prefill(ask, view) * (view.outstanding + 1), view.outstanding

        worker = min(workers, key=cost)
        why = (
            f"{to_prefill(ask, worker)} tokens to prefill x {worker.outstanding + 1} requests,"
            f" {worker.overlap_blocks} blocks held"
        )
        return Decision(worker.name, why)


class Product:
    """The least of (prefill tokens to be computed) x (KV blocks of its requests + 1).

    LMetric as Dynamo has it (`router_selection_policy=lmetric`, docs/components/router/
    router-concepts.md): the batch is counted in blocks that decoding reads.
    """

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision:
        def cost(view: WorkerView) -> int:
            return to_prefill(ask, view) * (blocks(ask, view.context_tokens) + 1)

        worker = min(workers, key=cost)
        return Decision(worker.name, f"product {cost(worker)}")


class KvCost:
    """Dynamo's KV router: the least of prefill to be computed and blocks in use, in blocks.

    prefill_scale * max(active_prefill + prompt_blocks - overlap_credit, 0) + active_decode
    + incoming_blocks, with credits of 1, .75 and .25 for a block in HBM, DRAM and on SSD. Source:
    ai-dynamo/dynamo, docs/components/router/router-concepts.md, and its defaults.
    """

    def __init__(self, prefill_scale: float = 1.0) -> None:
        self._prefill_scale = prefill_scale

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision:
        incoming = blocks(ask, ask.prompt_tokens)

        def cost(view: WorkerView) -> float:
            credit = view.overlap_blocks + 0.75 * view.dram_blocks + 0.25 * view.ssd_blocks
            prefill = max(view.prefill_tokens / ask.block_tokens + incoming - credit, 0)
            return self._prefill_scale * prefill + blocks(ask, view.context_tokens) + incoming

        worker = min(workers, key=cost)
        return Decision(worker.name, f"cost {cost(worker):.1f}, {worker.overlap_blocks} held")


class CacheAware:
    """SGLang's router: the longest match where it is long enough, unless load is out of balance.

    Out of balance: max - min > 64 requests and max > 1.5 min; then, and where less than .3 of the
    prompt is matched, and among equal matches, the shortest queue. Source: sglang_router 0.3.2,
    router_args.py (defaults) and src/policies/cache_aware.rs; it matches text, we match blocks.
    """

    def __init__(
        self, cache_threshold: float = 0.3, abs_threshold: int = 64, rel_threshold: float = 1.5
    ) -> None:
        self._cache_threshold = cache_threshold
        self._abs_threshold = abs_threshold
        self._rel_threshold = rel_threshold

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision:
        shortest = min(workers, key=lambda view: view.outstanding)
        most = max(view.outstanding for view in workers)
        least = shortest.outstanding
        if most - least > self._abs_threshold and most > self._rel_threshold * least:
            return Decision(shortest.name, f"out of balance: {least} to {most}")
        best = max(workers, key=lambda view: (view.overlap_blocks, -view.outstanding))
        rate = best.overlap_blocks * ask.block_tokens / max(ask.prompt_tokens, 1)
        if rate > self._cache_threshold:
            return Decision(best.name, f"{100 * rate:.0f} % matched")
        return Decision(shortest.name, f"{least} outstanding, {100 * rate:.0f} % matched")


class Weighted:
    """llm-d's default profile: 2 * queue + 2 * free KV + 3 * prefix, each from 0 to 1, the most.

    queue is (max - q) / (max - min), 1 where all are equal; prefix is matched / prompt. Source:
    llm-d/llm-d-router, config/charts/routerlib/templates/_config.yaml and the scorers' READMEs.
    It reads waiting requests from metrics, we count those without a first token.
    """

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision:
        queues = [view.prefills for view in workers]
        most, least = max(queues), min(queues)

        def score(view: WorkerView) -> float:
            queue = (most - view.prefills) / (most - least) if most > least else 1.0
            room = view.kv_blocks * ask.block_tokens
            free = 1 - min(view.context_tokens / room, 1.0) if room else 0.0
            prefix = min(view.overlap_blocks * ask.block_tokens / max(ask.prompt_tokens, 1), 1.0)
            return 2 * queue + 2 * free + 3 * prefix

        worker = max(workers, key=score)
        return Decision(worker.name, f"score {score(worker):.2f} of 7")


def to_prefill(ask: Ask, view: WorkerView) -> int:
    """Prompt tokens that the worker would compute before ours is answered; at least one."""
    held = view.overlap_blocks * ask.block_tokens
    return view.prefill_tokens + max(ask.prompt_tokens - held, 1)


def blocks(ask: Ask, tokens: int) -> int:
    """Blocks that `tokens` tokens fill or begin."""
    return -(-tokens // ask.block_tokens)
