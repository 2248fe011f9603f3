"""What share of a prompt's KV a pool can find again."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from starloom.kv.policies import Lru, PolicyOf, Starloom
from starloom.studies.base import Findings, Options, StudyError, Told
from starloom.twin import (
    AgentLoad,
    Prompt,
    TraceError,
    agents,
    belady,
    chat_prompts,
    prompts,
    replay_pool,
)

TITLE = "Hit rate of a KV pool"
CLAIM = "adaptive replacement in a shared pool finds at least 70 % of the KV again"
SOURCE = (
    "vendor magazine 'New intelligent computing', article on storage with GPU, DPU and media "
    "together; trace: Mooncake's conversation trace (FAST 2025)"
)
STATED_PCT = 70.0
CAPACITIES = (1000, 2000, 5000, 10_000, 20_000, 30_000, 50_000)


def run(options: Options, told: Told) -> Findings:
    """Replay a trace through LRU, our policy and Belady's bound, and a load of agents."""
    found = Findings()
    trace = _trace(options, found)
    blocks = sum(len(one.blocks) for one in trace)
    infinite = replay_pool(trace, Lru(blocks), blocks).hit_pct
    found.at_least(
        "chats, a pool without end",
        "% of blocks",
        STATED_PCT,
        infinite,
        "what was never seen before cannot be found, whatever the policy",
    )
    sizes = CAPACITIES[:3] if options.quick else CAPACITIES
    curves: dict[str, list[float]] = {}
    for name, make in (("lru", Lru), ("starloom", Starloom), ("belady", belady(trace))):
        for size in sizes:
            told(f"{name} {size}")
            policy: PolicyOf[int] = make(size)
            curves.setdefault(name, []).append(replay_pool(trace, policy, size).hit_pct)
    for at in (2, len(sizes) - 1) if len(sizes) > 3 else (len(sizes) - 1,):
        found.beside(
            f"chats, {sizes[at]} blocks: share of the bound",
            "% of Belady's hits",
            100 * curves["starloom"][at] / curves["belady"][at],
            f"LRU {100 * curves['lru'][at] / curves['belady'][at]:.0f} %",
        )
    load = AgentLoad()
    told("agents")
    work = agents(options.seed, 2000 if options.quick else 8000, load)
    found.at_least(
        "agents of many turns, 1000 blocks",
        "% of blocks",
        STATED_PCT,
        replay_pool(work, Starloom(1000), 1000).hit_pct,
        "round r of a chat finds (r - 1) / r: long conversations reach it by themselves",
    )
    found.notes.append(f"agents: {load}, seed {options.seed}")
    found.draw = partial(_draw, sizes, curves, infinite)
    return found


def _trace(options: Options, found: Findings) -> Sequence[Prompt]:
    count = 2000 if options.quick else 12_000
    if options.data is None:
        found.notes.append(f"chats: {count} drawn, seed {options.seed}")
        return chat_prompts(options.seed, count, per_s=3.4, block_tokens=512)
    path = options.data / "conversation_trace.jsonl" if options.data.is_dir() else options.data
    try:
        return prompts(path)[: count if options.quick else None]
    except TraceError as error:
        raise StudyError(str(error)) from error


def _draw(sizes: Sequence[int], curves: dict[str, list[float]], infinite: float, axes: Any) -> None:
    for name, curve in curves.items():
        axes.plot(sizes, curve, marker="o", label=name)
    axes.axhline(infinite, ls=":", color="grey", label="pool without end")
    axes.axhline(STATED_PCT, ls="--", color="black", label="stated")
    axes.set(xscale="log", xlabel="capacity, blocks of 512 tokens", ylabel="hits, % of blocks")
    axes.set_ylim(0, 100)
    axes.legend()
