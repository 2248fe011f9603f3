"""What a fact and a note look like as database rows: one place for both backends."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starloom.agents.facts.base import Fact, Note, Side

NOTE_COLUMNS = (
    "id",
    "key",
    "subject",
    "predicate",
    "value",
    "source",
    "start_byte",
    "end_byte",
    "at_s",
    "unit",
    "confidence",
    "author",
    "method",
    "checks",
    "rests_on",
)
FACT_COLUMNS = (
    "key",
    "subject",
    "predicate",
    "version",
    "status",
    "value",
    "confidence",
    "sides",
    "because",
    "at_s",
)


def note_row(note: Note) -> tuple[Any, ...]:
    return (
        note.id,
        note.key,
        note.subject,
        note.predicate,
        note.value,
        note.source,
        note.start,
        note.end,
        note.at_s,
        note.unit,
        note.confidence,
        note.author,
        note.method,
        int(note.checks),
        json.dumps(note.rests_on),
    )


def note_of(row: Sequence[Any]) -> Note:
    it: Mapping[str, Any] = dict(zip(NOTE_COLUMNS, row, strict=True))
    return Note(
        it["subject"],
        it["predicate"],
        it["value"],
        it["source"],
        it["start_byte"],
        it["end_byte"],
        it["at_s"],
        it["unit"],
        it["confidence"],
        it["author"],
        it["method"],
        bool(it["checks"]),
        tuple(json.loads(it["rests_on"])),
    )


def fact_row(fact: Fact) -> tuple[Any, ...]:
    sides = json.dumps([asdict(it) for it in fact.sides], ensure_ascii=False, sort_keys=True)
    return (
        fact.key,
        fact.subject,
        fact.predicate,
        fact.version,
        fact.status,
        fact.value,
        fact.confidence,
        sides,
        fact.because,
        fact.at_s,
    )


def fact_of(row: Sequence[Any]) -> Fact:
    it: Mapping[str, Any] = dict(zip(FACT_COLUMNS, row, strict=True))
    sides = tuple(
        Side(side["value"], tuple(side["notes"]), side["sources"], side["checked"])
        for side in json.loads(it["sides"])
    )
    return Fact(
        it["subject"],
        it["predicate"],
        it["version"],
        it["status"],
        it["value"],
        it["confidence"],
        sides,
        it["because"],
        it["at_s"],
    )
