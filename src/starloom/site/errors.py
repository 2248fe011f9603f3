"""What can go wrong in the `site` room.

SiteError            a site file (or a catalogue) cannot be used; holds every problem found
└── problems: [Problem(file, line, field, what, fix)]
BadNames             a ValueError that pydantic carries out of `Site`: names that do not hold
"""

from dataclasses import dataclass

Loc = tuple[str | int, ...]
"""Where a value stands in a document: keys and indexes from the root."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file, where it is and how to mend it."""

    file: str
    line: int
    """Counted from 1."""
    field: str
    """Such as `workers[1].model`; empty for the file as a whole."""
    what: str
    fix: str

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        return f"{self.file}:{self.line}: {field}{self.what}\n    fix: {self.fix}"


class SiteError(Exception):
    """A site file cannot be used. `problems` holds all that was found, in the order of lines."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(map(str, self.problems)))


class BadNames(ValueError):
    """Names in a site that are double, unknown, or lack a part. Each with its place and its fix."""

    def __init__(self, problems: list[tuple[Loc, str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(what for _, what, _ in problems))
