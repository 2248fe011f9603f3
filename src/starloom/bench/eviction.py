"""`bench eviction`: which blocks a pool should keep, by capacity, in simulated time.

System: the policy (`starloom` is ours; `mq_25k` is MQ with its one parameter chosen for Mooncake's
trace; `belady` is the bound; `returning` knows only whether a block is used again). Case: the
capacity in 512-token blocks, behind the trace's name where there are several. Metrics:

- `hit_pct`: blocks found as a held prefix, of all blocks asked for.
- `late_hit_pct`: the same in the second half of the requests.
- `share_of_bound_pct`: hits of Belady's hits.
- `refused_pct`: blocks that went before they would have been written, of all that missed.
- `infinite_pct` (system `infinite`): what is there to be found at all.

`--data` is a trace in Mooncake's form or a folder of them; without it chats are drawn. Cases
`agents_*` are always drawn: many turns, tools' pauses, shared prompts (`twin/agents.py`).
"""

from collections.abc import Callable, Sequence
from functools import partial

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.kv.policies import (
    Arc,
    Fifo,
    Hazard,
    Lfu,
    Lru,
    Mq,
    PolicyOf,
    S3Fifo,
    Sieve,
    Starloom,
    WTinyLfu,
)
from starloom.twin import (
    AgentLoad,
    Prompt,
    TraceError,
    agents,
    belady,
    chat_prompts,
    prompts,
    replay_pool,
    returning,
)

NewPolicy = Callable[[int], PolicyOf[int]]

CAPACITIES = (1000, 5000, 10000, 30000, 50000)
AGENT_CAPACITIES = (250, 500, 1000, 2000)
SINGLE: dict[str, NewPolicy] = {
    "lru": Lru,
    "fifo": Fifo,
    "lfu": Lfu,
    "sieve": Sieve,
    "s3fifo": S3Fifo,
    "wtinylfu": WTinyLfu,
    "arc": Arc,
    "mq": Mq,
    "mq_25k": partial(Mq, life_blocks=25_000),
    "hazard": Hazard,
    "starloom": Starloom,
}
"""Each with one fixed setting at all capacities."""


def bench(options: Options, told: Told) -> Results:
    """Run all cases; raises BenchError when the data cannot be read."""
    results = Results()
    for name, trace, capacities in _traces(options, results):
        _trace(told, results, name, trace, capacities)
    return results


def _traces(
    options: Options, results: Results
) -> list[tuple[str, Sequence[Prompt], Sequence[int]]]:
    capacities = CAPACITIES[:2] if options.quick else CAPACITIES
    requests = 2000 if options.quick else 12_000
    found: list[tuple[str, Sequence[Prompt], Sequence[int]]] = []
    if options.data is None:
        results.notes.append(f"trace: {requests} drawn chats, seed {options.seed}")
        trace = chat_prompts(options.seed, requests, per_s=3.4, block_tokens=512)
        found.append(("", trace, capacities))
    else:
        paths = sorted(options.data.glob("*.jsonl")) if options.data.is_dir() else [options.data]
        if not paths:
            raise BenchError(f"{options.data}: no *.jsonl there")
        for path in paths:
            try:
                trace = prompts(path)
            except TraceError as error:
                raise BenchError(str(error)) from error
            if options.quick:
                trace = trace[:requests]
                results.notes.append(f"--quick: {path.name} cut to {len(trace)} requests")
            found.append((f"{path.stem}_" if len(paths) > 1 else "", trace, capacities))
    load = AgentLoad()
    results.notes.append(f"agents: {load}, seed {options.seed}")
    count = 2000 if options.quick else 8000
    found.append(
        (
            "agents_",
            agents(options.seed, count, load),
            AGENT_CAPACITIES[-2:] if options.quick else AGENT_CAPACITIES,
        )
    )
    return found


def _trace(
    told: Told, results: Results, name: str, trace: Sequence[Prompt], capacities: Sequence[int]
) -> None:
    everything = sum(len(prompt.blocks) for prompt in trace)
    infinite = replay_pool(trace, Lru(everything or 1), everything)
    results.add("infinite", f"{name}all", "infinite_pct", infinite.hit_pct, "% of blocks")
    bounds: dict[str, NewPolicy] = {"belady": belady(trace), "returning": returning(trace)}
    for capacity in capacities:
        case = f"{name}{capacity}"
        bound = 0
        for policy, make in {**bounds, **SINGLE}.items():
            told(f"{case} {policy}")
            done = replay_pool(trace, make(capacity), capacity)
            bound = bound or done.hits  # the first one is Belady's
            missed = done.blocks - done.hits
            share = 100 * done.hits / bound if bound else 100.0
            refused = 100 * done.refused / missed if missed else 0.0
            results.add(policy, case, "hit_pct", done.hit_pct, "% of blocks")
            results.add(policy, case, "late_hit_pct", done.late_hit_pct, "% of blocks")
            results.add(policy, case, "share_of_bound_pct", share, "% of Belady's hits")
            results.add(policy, case, "refused_pct", refused, "% of missed blocks")
