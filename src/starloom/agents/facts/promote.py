"""The rules by which notes become a fact. Pure: notes in, one version out.

| rule | when | status |
|---|---|---|
| `no note is left` | all were retracted | retracted |
| `a check found it` | the newest check's value; the sides it found wrong stay listed | verified |
| `sources disagree` | several values, none checked, or another one since the check | contested |
| `n sources agree` | one value, at least two independent sources | supported |
| `one source` | one value, one source | proposed |

Independent are sources with different bytes: the same output read twice supports nothing twice.
"""

from collections.abc import Sequence

from starloom.agents.facts.base import Fact, Note, Side, Status

SUPPORTS_NEEDED = 2


def promote(notes: Sequence[Note], before: Fact | None, at_s: float) -> Fact | None:
    """The version that follows from the notes of one fact, or None where nothing changed.

    `notes` are all that are not retracted, in the order in which they came.
    """
    if not notes and before is None:
        return None
    subject = notes[0].subject if notes else before.subject  # type: ignore[union-attr]
    predicate = notes[0].predicate if notes else before.predicate  # type: ignore[union-attr]
    sides = _sides(notes)
    status, value, confidence, because = _judged(notes, sides)
    after = Fact(
        subject,
        predicate,
        before.version + 1 if before else 1,
        status,
        value,
        confidence,
        sides,
        because,
        at_s,
    )
    if before is not None and _same(before, after):
        return None
    return after


def _sides(notes: Sequence[Note]) -> tuple[Side, ...]:
    values: dict[str, list[Note]] = {}
    for note in notes:
        values.setdefault(note.said, []).append(note)
    return tuple(
        Side(
            value,
            tuple(it.id for it in held),
            len({it.source for it in held}),
            any(it.checks for it in held),
        )
        for value, held in values.items()
    )


def _judged(
    notes: Sequence[Note], sides: tuple[Side, ...]
) -> tuple[Status, str | None, float, str]:
    if not notes:
        return "retracted", None, 0.0, "no note is left"
    last_check = max((at for at, it in enumerate(notes) if it.checks), default=-1)
    if last_check >= 0:
        found = notes[last_check]
        settled = {it.source for it in notes[:last_check]}
        reopened = [
            it
            for it in notes[last_check + 1 :]
            if it.said != found.said and it.source not in settled
        ]
        if not reopened:
            return "verified", found.said, found.confidence, f"a check found it: {found.method}"
        return "contested", None, 0.0, "sources disagree: a new one contradicts the check"
    if len(sides) > 1:
        return "contested", None, 0.0, f"sources disagree: {len(sides)} values"
    best = max(it.confidence for it in notes)
    if sides[0].sources >= SUPPORTS_NEEDED:
        return "supported", sides[0].value, best, f"{sides[0].sources} sources agree"
    return "proposed", sides[0].value, best, "one source"


def _same(a: Fact, b: Fact) -> bool:
    return (a.status, a.value, a.sides, a.confidence) == (b.status, b.value, b.sides, b.confidence)
