"""The nouns of the fact base: what a tool returned, what was read out of it, what is held for true.

Three levels. A *source* is a tool's raw output, kept by the hash of its bytes. A *note* is one
statement read out of a span of a source. A *fact* is what all notes on one subject and predicate
amount to: its versions are appended, never changed, and opposing sides stay side by side.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Status = Literal["proposed", "supported", "verified", "contested", "retracted"]


@dataclass(frozen=True, slots=True)
class Source:
    """Tool level: raw bytes as they came. `at_s`: Unix time when they came."""

    tool: str
    arguments: str
    content: bytes = field(repr=False)
    at_s: float

    @property
    def id(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Note:
    """Note level: `subject` `predicate` `value` (`unit`), read from `source[start:end]`.

    `source` is a `Source.id`, `start` and `end` are byte offsets. `method` says how the span became
    a statement, `author` who read it. With `checks` it is a check: its value was found right by
    `method` (calculator, verifier, human), which settles what was contested before it.
    """

    subject: str
    predicate: str
    value: str
    source: str
    start: int
    end: int
    at_s: float
    unit: str = ""
    confidence: float = 1.0
    author: str = "parser"
    method: str = "json"
    checks: bool = False
    rests_on: tuple[str, ...] = ()
    """Ids of notes that it was derived from: it falls when one of them is retracted."""

    @property
    def id(self) -> str:
        return _digest(
            "note",
            self.subject,
            self.predicate,
            self.value,
            self.unit,
            self.source,
            f"{self.start}:{self.end}",
            self.author,
            self.method,
            str(self.checks),
        )

    @property
    def key(self) -> str:
        """Which fact it speaks to."""
        return fact_key(self.subject, self.predicate)

    @property
    def said(self) -> str:
        """The value with its unit, as sides of a contradiction are told apart."""
        return f"{self.value} {self.unit}".strip()


@dataclass(frozen=True, slots=True)
class Side:
    """One value of a fact and the notes for it; `checked` where a check found it right."""

    value: str
    notes: tuple[str, ...]
    sources: int
    checked: bool = False


@dataclass(frozen=True, slots=True)
class Fact:
    """Fact level, one version. `value` is None while sides contradict each other or none is left.

    `because` is the promotion rule that made this version. `version` counts from 1.
    """

    subject: str
    predicate: str
    version: int
    status: Status
    value: str | None
    confidence: float
    sides: tuple[Side, ...]
    because: str
    at_s: float

    @property
    def key(self) -> str:
        return fact_key(self.subject, self.predicate)

    @property
    def text(self) -> str:
        """One line for people, for the index, and for a model's context."""
        values = self.value if self.value is not None else " | ".join(it.value for it in self.sides)
        return f"{self.subject} {self.predicate} = {values}"


@dataclass(frozen=True, slots=True)
class Hit:
    """A fact that was found. `text`: share of the best BM25 score; `cosine`: of the vectors."""

    fact: Fact
    score: float
    text: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for: words, and exact conditions. `as_of_s` sees versions of that time."""

    text: str
    subject: str | None = None
    predicate: str | None = None
    statuses: tuple[Status, ...] = ("proposed", "supported", "verified", "contested")
    as_of_s: float | None = None
    limit: int = 10


class Embedder(Protocol):
    """Texts to unit vectors. `name` is stored with them: vectors of two embedders never mix."""

    name: str
    dimensions: int

    def embed(self, texts: Sequence[str]) -> Vector:
        """(texts, dimensions), rows of length one (or zero for a text without words)."""


class Backend(Protocol):
    """A database that appends. Written by `FactBase` alone, inside `atomic`."""

    def atomic(self) -> AbstractContextManager[None]:
        """All or nothing; joins a transaction of the caller's where one is open."""

    def add_source(self, source: Source) -> None:
        """Bytes once, each delivery of them."""

    def add_note(self, note: Note) -> bool:
        """False where the very same note is held already."""

    def add_retraction(self, note: str, reason: str, at_s: float) -> None: ...
    def add_version(self, fact: Fact, vector: Vector) -> None: ...
    def source(self, id: str) -> Source | None: ...  # noqa: A002
    def note(self, id: str) -> Note | None: ...  # noqa: A002
    def notes(self, key: str) -> list[Note]:
        """Those not retracted, in the order in which they came."""

    def versions(self, key: str) -> list[Fact]: ...
    def retraction(self, note: str) -> tuple[str, float] | None:
        """(reason, when), or None while it stands."""

    def dependents(self, note: str) -> list[str]:
        """Ids of notes that rest on it and are not retracted."""

    def facts(self, as_of_s: float | None = None) -> Iterator[Fact]:
        """The newest version of each fact as of a time, by key."""

    def search(self, query: Query, words: Sequence[str], vector: Vector) -> list[Hit]:
        """Filter, full text and vectors in one; `words` are those of `tokens.query_words`."""


def fact_key(subject: str, predicate: str) -> str:
    """Identity of a fact, the same on every machine."""
    return _digest("fact", subject, predicate)


def _digest(*parts: str) -> str:
    joined = b"".join(len(it.encode()).to_bytes(4) + it.encode() for it in parts)
    return hashlib.sha256(joined).hexdigest()[:32]
