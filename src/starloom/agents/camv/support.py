"""Support between free-text claims: triplets (subject, relation, object) of several authors.

Two claims support each other as far as their words overlap, and oppose each other where subject and
relation overlap and the objects do not: the other side is kept, never outvoted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\w+")
SAME = 0.8
"""Overlap from which two triplets are taken for one claim."""

NAMES = (
    "best_support",
    "second_best",
    "supporters",
    "near_supporters",
    "opponents",
    "objects_seen",
    "words",
    "claims_of_author",
    "has_figure",
)


@dataclass(frozen=True, slots=True)
class Triplet:
    """One claim of one author, as it stands in its text."""

    author: str
    subject: str
    relation: str
    object: str

    @property
    def words(self) -> frozenset[str]:
        return _words(f"{self.subject} {self.relation} {self.object}")


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def overlap(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard: shared words over all words."""
    return len(a & b) / len(a | b) if a or b else 0.0


def features(claim: Triplet, others: Sequence[Triplet], own_claims: int) -> list[float]:
    """As `NAMES`; `others` are the triplets of other authors on the same prompt."""
    best: dict[str, float] = {}
    against: dict[str, bool] = {}
    seen: dict[str, bool] = {}
    head, tail = _words(f"{claim.subject} {claim.relation}"), _words(claim.object)
    for it in others:
        best[it.author] = max(best.get(it.author, 0.0), overlap(claim.words, it.words))
        same_head = overlap(head, _words(f"{it.subject} {it.relation}")) >= 0.6
        apart = overlap(tail, _words(it.object)) < 0.2
        against[it.author] = against.get(it.author, False) or (same_head and apart)
        seen[it.author] = seen.get(it.author, False) or tail <= it.words
    ranked = [*sorted(best.values(), reverse=True), 0.0, 0.0]
    return [
        ranked[0],
        ranked[1],
        sum(it >= SAME for it in ranked) / 3,
        sum(it >= 0.5 for it in ranked) / 3,
        sum(against[it] and best[it] < SAME for it in best) / 3,
        sum(seen.values()) / 3,
        len(claim.words) / 10,
        min(own_claims, 20) / 10,
        float(any(it.isdigit() for it in claim.object)),
    ]
