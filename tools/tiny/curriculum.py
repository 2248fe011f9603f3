"""The stages that a tiny model goes through while it trains."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One row of a curriculum.

    ``lengths_tokens`` are drawn from at random, each step; a batch holds ``batch_tokens`` tokens.
    The stage ends after ``max_steps`` or when every kind in ``goals`` reaches its accuracy.
    ``kinds`` are the question kinds, repeated to weigh them; ``crowd`` scales how many facts a
    document holds; ``stretch`` is the share of sequences whose positions are spread over the
    window.
    """

    name: str
    lengths_tokens: tuple[int, ...]
    batch_tokens: int
    max_steps: int
    learning_rate: float
    kinds: tuple[str, ...]
    goals: dict[str, float]
    crowd: float = 1.0
    stretch: float = 0.0
    document_share: tuple[float, float] = (0.4, 0.6)


EASY = ("recall", "recall", "copying", "copying")
SMALL_MIX = (*EASY, *EASY, "multi_hop", "arithmetic")
LARGE_MIX = (*EASY, "multi_hop", "multi_hop", "arithmetic", "arithmetic")
SUMS = ("arithmetic",) * 10 + ("recall", "copying", "multi_hop")
HOPS = ("multi_hop",) * 8 + ("recall", "recall", "copying", "arithmetic")
LAST = (*EASY, *("multi_hop",) * 6, "arithmetic")
LISTS = ("recall", *("copying",) * 3, *("multi_hop",) * 2, "arithmetic")
WEAVE = (64, 64, 128, 128, 256, 256, 512, 1024, 2048, 4096)
REACH = (256, 512, 1024, 2048, 4096, 8192)
SURE = {"recall": 0.985, "copying": 0.985}
SURER = SURE | {"multi_hop": 0.97}
CURRICULA: dict[str, tuple[Stage, ...]] = {
    "loom-s": (
        Stage("few", (64,), 4096, 300, 2e-3, ("recall",), {"recall": 0.95}),
        Stage("short", (64, 128), 4096, 800, 3e-3, SMALL_MIX, SURE),
        Stage("crowd", (128, 256), 8192, 300, 2e-3, SMALL_MIX, SURE, 2.0, 0.3),
        Stage("middle", (256, 512, 1024), 8192, 300, 2e-3, EASY, SURE, 2.0, 0.3),
        Stage("reach", REACH, 8192, 360, 1.5e-3, EASY, {}, 1.0, 0.3, (0.6, 0.95)),
    ),
    "loom-l": (
        Stage("few", (64,), 4096, 300, 2e-3, ("recall",), {"recall": 0.95}),
        Stage("short", (64, 128), 4096, 800, 2e-3, LARGE_MIX, SURER),
        Stage("sums", (64,), 4096, 600, 2e-3, SUMS, {"arithmetic": 0.995}, 1.0, 0.0, (0.0, 0.4)),
        Stage("hops", (64, 128), 4096, 350, 2e-3, HOPS, {"multi_hop": 0.98}, 3.0, 0.2),
        Stage("crowd", (128, 256), 4096, 200, 2e-3, LAST, SURER, 2.0, 0.3),
        Stage("middle", (256, 512, 1024), 4096, 120, 2e-3, LAST, SURER, 2.0, 0.3),
        Stage("reach", (64, 128, *REACH), 8192, 100, 1.5e-3, LAST, {}, 1.0, 0.3, (0.5, 0.95)),
        Stage("weave", WEAVE, 4096, 80, 1.5e-3, LAST, {}, 1.0, 0.2, (0.5, 0.9)),
        Stage("lists", REACH[1:], 8192, 45, 1.2e-3, LISTS, {}, 1.0, 0.3, (0.6, 0.95)),
    ),
}
