"""Load out of a metrics page, by the names that servers export: vLLM, SGLang, and our own gateway.

Sources: vLLM `vllm/v1/metrics/loggers.py` and its page on metrics (label `engine`: a data-parallel
rank; names with `gpu_` are the older ones); SGLang `srt/observability/metrics_collector.py` (label
`dp_rank`; capacity by labels of `cache_config_info`, by gauges of their own from 0.5.11 on); ours
`serve/gateway/metrics.py`.

Ranks of tensor and pipeline parallelism repeat what is one figure: of these the largest is taken.
Over all else (data-parallel ranks, models) counts are added and usage, of caches of one size, is
averaged.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from starloom.serve.signals.base import Load
from starloom.serve.signals.errors import BadPage
from starloom.serve.signals.prometheus import Sample, samples

Kind = Literal["vllm", "sglang", "starloom"]


_REPEATS = {"tp_rank", "attn_tp_rank", "pp_rank", "moe_ep_rank", "pid"}
"""Labels of series that show one figure several times."""
_PARTS = "priority"
"""A label whose non-empty values show parts of a figure that is there as a whole too."""


class Names(NamedTuple):
    """Families of one kind of server; of several the first that the page has is taken."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    usage: tuple[str, ...] = ()
    used_blocks: tuple[str, ...] = ()
    looked_up: tuple[str, ...] = ()
    hit: tuple[str, ...] = ()
    cache_info: str = ""
    """A family whose labels tell the cache's size: those of the next two."""
    blocks_label: str = ""
    block_tokens_label: str = ""
    blocks: tuple[str, ...] = ()
    block_tokens: tuple[str, ...] = ()


NAMES: dict[Kind, Names] = {
    "vllm": Names(
        running=("vllm:num_requests_running",),
        waiting=("vllm:num_requests_waiting",),
        usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        looked_up=(
            "vllm:prefix_cache_queries_total",
            "vllm:prefix_cache_queries",
            "vllm:gpu_prefix_cache_queries_total",
            "vllm:gpu_prefix_cache_queries",
        ),
        hit=(
            "vllm:prefix_cache_hits_total",
            "vllm:prefix_cache_hits",
            "vllm:gpu_prefix_cache_hits_total",
            "vllm:gpu_prefix_cache_hits",
        ),
        cache_info="vllm:cache_config_info",
        blocks_label="num_gpu_blocks",
        block_tokens_label="block_size",
    ),
    "sglang": Names(
        running=("sglang:num_running_reqs",),
        waiting=("sglang:num_queue_reqs",),
        usage=("sglang:token_usage",),
        looked_up=("sglang:prompt_tokens_total",),
        hit=("sglang:cached_tokens_total",),
        cache_info="sglang:cache_config_info",
        blocks_label="num_pages",
        block_tokens_label="page_size",
        blocks=("sglang:num_pages",),
        block_tokens=("sglang:page_size",),
    ),
    "starloom": Names(
        running=("starloom_requests_running",),
        waiting=("starloom_worker_waiting",),
        used_blocks=("starloom_kv_blocks_used",),
        looked_up=("starloom_prompt_tokens_total",),
        hit=("starloom_cached_tokens_total",),
        blocks=("starloom_kv_blocks",),
    ),
}


def load(kind: Kind, page: bytes) -> Load:
    """The load that a page tells. Raises `BadPage` when it is no page of that kind."""
    names = NAMES[kind]
    found = samples(page, _wanted(names))

    def figures(options: tuple[str, ...]) -> list[float]:
        return next((_merged(found[name]) for name in options if name in found), [])

    running, waiting = figures(names.running), figures(names.waiting)
    if not running and not waiting:
        raise BadPage(f"no {names.running[0]} in the page: is `metrics: {kind}` right?")
    info = found.get(names.cache_info, [])
    blocks = sum(_sizes(info, names.blocks_label) or figures(names.blocks))
    block_tokens = max(_sizes(info, names.block_tokens_label) or figures(names.block_tokens) or [0])
    usage, used = figures(names.usage), figures(names.used_blocks)
    kv_usage = sum(usage) / len(usage) if usage else None
    if used and blocks:
        kv_usage = sum(used) / blocks
    looked_up, hit = figures(names.looked_up), figures(names.hit)
    return Load(
        running=_count(running),
        waiting=_count(waiting),
        kv_usage=None if kv_usage is None else min(max(kv_usage, 0.0), 1.0),
        kv_blocks=int(blocks) or None,
        block_tokens=int(block_tokens) or None,
        prefix_tokens_total=_count(looked_up) if looked_up else None,
        prefix_hit_tokens_total=_count(hit) if looked_up else None,
    )


def _wanted(names: Names) -> list[str]:
    lists = (
        names.running,
        names.waiting,
        names.usage,
        names.used_blocks,
        names.looked_up,
        names.hit,
        names.blocks,
        names.block_tokens,
    )
    info = [names.cache_info] if names.cache_info else []
    return [*info, *(name for each in lists for name in each)]


def _merged(family: Sequence[Sample]) -> list[float]:
    """One figure for each set of labels, those apart that only repeat it."""
    if any(not sample.labels.get(_PARTS) for sample in family):
        family = [sample for sample in family if not sample.labels.get(_PARTS)]
    merged: dict[frozenset[tuple[str, str]], float] = {}
    for labels, value in family:
        key = frozenset(pair for pair in labels.items() if pair[0] not in _REPEATS)
        merged[key] = max(value, merged.get(key, value))
    return list(merged.values())


def _sizes(info: Sequence[Sample], label: str) -> list[float]:
    """A size that stands as a label's text, once for each data-parallel rank."""
    sizes: dict[str, float] = {}
    for labels, _ in info:
        text = labels.get(label, "")
        if text.isascii() and text.isdigit():
            rank = labels.get("engine", "") + "/" + labels.get("dp_rank", "")
            sizes[rank] = max(float(text[:18]), sizes.get(rank, 0.0))
    return list(sizes.values())


def _count(figures: Sequence[float]) -> int:
    return max(0, round(sum(figures)))
