"""The fact base: records what tools returned, takes notes, promotes them to facts, says why."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from starloom.agents.errors import SpanMismatch, UnknownFact
from starloom.agents.facts.base import Backend, Embedder, Fact, Hit, Note, Query, Source, fact_key
from starloom.agents.facts.promote import promote
from starloom.agents.facts.tokens import query_words


@dataclass(frozen=True, slots=True)
class Ground:
    """What one note stands on, down to the bytes."""

    note: Note
    source: Source
    quote: bytes
    retracted: str = ""


@dataclass(frozen=True, slots=True)
class Why:
    """A fact's why-chain: its version, and what each note quotes from which tool output."""

    fact: Fact
    grounds: tuple[Ground, ...]

    def lines(self) -> list[str]:
        """The chain for people."""
        out = [f"{self.fact.text} [{self.fact.status} v{self.fact.version}: {self.fact.because}]"]
        for it in self.grounds:
            gone = f" RETRACTED: {it.retracted}" if it.retracted else ""
            quote = it.quote.decode("utf-8", "replace")
            out.append(
                f"  {it.note.said!r} by {it.note.author}/{it.note.method} from {it.source.tool}"
                f"({it.source.arguments}) sha256 {it.source.id[:12]} bytes {it.note.start}"
                f"-{it.note.end}: {quote!r}{gone}"
            )
        return out


class FactBase:
    """Three levels over any backend. The clock is the caller's: every write says when."""

    def __init__(self, backend: Backend, embedder: Embedder) -> None:
        self.backend = backend
        self.embedder = embedder

    def record(self, source: Source) -> str:
        """Keep a tool's output; its id."""
        with self.backend.atomic():
            self.backend.add_source(source)
        return source.id

    def take(self, notes: Iterable[Note], at_s: float) -> list[Fact]:
        """Add notes and return the new versions of facts that follow.

        Raises UnknownFact for a source that is not recorded, SpanMismatch for a note whose value is
        not in the bytes that it cites; then nothing of it is kept.
        """
        with self.backend.atomic():
            keys: dict[str, None] = {}
            for note in notes:
                self._cited(note)
                if self.backend.add_note(note):
                    keys[note.key] = None
            return self._promoted(list(keys), at_s)

    def retract(self, note: str, reason: str, at_s: float) -> list[Fact]:
        """Take a note back, and every note that rests on it; the new versions that follow.

        Nothing is deleted: why-chains of older versions still show it.
        """
        keys: dict[str, None] = {}
        with self.backend.atomic():
            waiting = [(note, reason)]
            while waiting:
                at, why = waiting.pop()
                held = self.backend.note(at)
                if held is None:
                    raise UnknownFact(f"no note {at}")
                self.backend.add_retraction(at, why, at_s)
                keys[held.key] = None
                waiting.extend((it, f"rests on {at}") for it in self.backend.dependents(at))
            return self._promoted(list(keys), at_s)

    def fact(self, subject: str, predicate: str, as_of_s: float | None = None) -> Fact | None:
        """The newest version, now or as of a time."""
        versions = self.backend.versions(fact_key(subject, predicate))
        known = [it for it in versions if as_of_s is None or it.at_s <= as_of_s]
        return known[-1] if known else None

    def versions(self, subject: str, predicate: str) -> list[Fact]:
        return self.backend.versions(fact_key(subject, predicate))

    def search(self, query: Query) -> list[Hit]:
        """Filter, full text and vectors in one answer, fused by rank."""
        vector = self.embedder.embed([query.text])[0]
        return self.backend.search(query, query_words(query.text), vector)

    def why(self, fact: Fact) -> Why:
        """All that this version rests on; raises UnknownFact where the base does not hold it."""
        grounds = []
        for side in fact.sides:
            for id in side.notes:  # noqa: A001
                note = self.backend.note(id)
                source = self.backend.source(note.source) if note else None
                if note is None or source is None:
                    raise UnknownFact(f"no note {id}, or not its source: another fact base's fact")
                gone = self.backend.retraction(id)
                quote = source.content[note.start : note.end]
                grounds.append(Ground(note, source, quote, gone[0] if gone else ""))
        return Why(fact, tuple(grounds))

    def digest(self) -> str:
        """SHA-256 over the newest facts without times: equal for runs that concluded the same."""
        sha = hashlib.sha256()
        for it in self.backend.facts():
            sides = sorted((side.value, sorted(side.notes)) for side in it.sides)
            row = [it.key, it.status, it.value, sides]
            sha.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return sha.hexdigest()

    def _cited(self, note: Note) -> None:
        source = self.backend.source(note.source)
        if source is None:
            raise UnknownFact(f"no source {note.source[:12]}: record the tool's output first")
        quote = source.content[note.start : note.end].decode("utf-8", "replace")
        if not 0 <= note.start < note.end <= len(source.content) or note.value not in quote:
            raise SpanMismatch(
                f"{note.subject} {note.predicate}: {note.value!r} is not in bytes {note.start}-"
                f"{note.end} of {source.tool}'s output: {quote[:80]!r}"
            )

    def _promoted(self, keys: Sequence[str], at_s: float) -> list[Fact]:
        made = []
        for key in keys:
            versions = self.backend.versions(key)
            fact = promote(self.backend.notes(key), versions[-1] if versions else None, at_s)
            if fact is not None:
                made.append(fact)
        if made:
            vectors = self.embedder.embed([it.text for it in made])
            for fact, vector in zip(made, vectors, strict=True):
                self.backend.add_version(fact, vector)
        return made
