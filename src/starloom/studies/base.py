"""A study: one published claim as a file that runs, with the source's figures beside ours.

A claim that does not hold is a result like any other: `Figure.holds` says so, and `why` says what
follows from what.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Told = Callable[[str], None]


class StudyError(Exception):
    """A study cannot run; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """What every study is asked with."""

    data: Path | None = None
    """Data of the study's form; without it, seeded data are drawn."""
    seed: int = 0
    quick: bool = False
    """Smaller, within a minute."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the source beside ours."""

    what: str
    unit: str
    stated: float | None
    """None: the source gives none, and ours stands beside for the reading."""
    ours: float
    holds: bool | None
    """None where there is nothing to judge."""
    why: str = ""

    @property
    def difference(self) -> float | None:
        """Ours less the source's, in the figure's unit."""
        return None if self.stated is None else self.ours - self.stated


Draw = Callable[[Any], None]
"""Draws on a matplotlib `Axes`."""


@dataclass(slots=True)
class Findings:
    """What a study found."""

    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    draw: Draw | None = None

    def at_least(self, what: str, unit: str, stated: float, ours: float, why: str = "") -> None:
        """A figure that the source says is reached."""
        self.figures.append(Figure(what, unit, stated, ours, ours >= stated, why))

    def at_most(self, what: str, unit: str, stated: float, ours: float, why: str = "") -> None:
        """A figure that the source says is not exceeded."""
        self.figures.append(Figure(what, unit, stated, ours, ours <= stated, why))

    def about(
        self, what: str, unit: str, stated: float, ours: float, within: float, why: str = ""
    ) -> None:
        """A figure that should agree, `within` in its own unit."""
        holds = abs(ours - stated) <= within
        self.figures.append(Figure(what, unit, stated, ours, holds, why))

    def beside(self, what: str, unit: str, ours: float, why: str = "") -> None:
        """A figure of ours that helps to read the others."""
        self.figures.append(Figure(what, unit, None, ours, None, why))


class Study(Protocol):
    """A module of this room that is registered under its name."""

    TITLE: str
    CLAIM: str
    """What the source says, in our words."""
    SOURCE: str

    def run(self, options: Options, told: Told) -> Findings:
        """Compute ours. Raises `StudyError`."""
