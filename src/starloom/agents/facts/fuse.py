"""Fusion of full text and vectors: a sum of two shares, each of the best that could be had.

A rank does not tell whether its list found anything: a question in other words than the facts has a
first place in BM25 too. So BM25 is divided by what a fact with all words of
the question would score, and added to the cosine (a convex combination: Bruch, Gai and Ingber,
"An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023, finds it ahead of rank fusion).
"""

import math
from collections.abc import Mapping, Sequence

K1 = 1.2
"""FTS5's constant for saturation."""


def best_bm25(documents: Sequence[int], total: int) -> float:
    """The most that BM25 can give for words that stand in so many of all facts, as FTS5 counts."""
    idf = (math.log((total - n + 0.5) / (n + 0.5)) for n in documents)
    return sum(max(it, 1e-6) * (K1 + 1) for it in idf)


def fused(
    by_text: Mapping[str, float], best: float, by_cosine: Mapping[str, float]
) -> list[tuple[str, float, float, float]]:
    """(id, score, text share, cosine), the best first; ties by id."""
    out = []
    for it in {**by_text, **by_cosine}:
        text = by_text.get(it, 0.0) / best if best > 0 else 0.0
        cosine = by_cosine.get(it, 0.0)
        out.append((it, text + cosine, text, cosine))
    return sorted(out, key=lambda it: (-it[1], it[0]))
