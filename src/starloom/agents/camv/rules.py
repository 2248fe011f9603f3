"""Declared rules of a domain: what breaks one is pruned before anyone is asked, with the reason.

A rule is a statement about all answers of a domain that its owner makes and stands for; it is not
learned. What only makes an answer less likely (a step that does not compute) is evidence instead.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starloom.agents.camv.base import Question, Rule
from starloom.agents.camv.calculator import evaluate, near, number
from starloom.agents.errors import ExpressionError


@dataclass(frozen=True, slots=True)
class Option:
    """The answer is a letter of one of the question's options."""

    def broken(self, question: Question, value: str) -> str | None:
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(question.options)]
        return None if value in letters else f"{value} is none of the options {letters}"


@dataclass(frozen=True, slots=True)
class Number:
    """The answer is a number within a range, whole if `integer`."""

    low: float | None = None
    high: float | None = None
    integer: bool = False

    def broken(self, question: Question, value: str) -> str | None:  # noqa: ARG002
        n = number(value)
        if n is None:
            return f"{value!r} is no number"
        if self.integer and n.denominator != 1:
            return f"{value} is not a whole number"
        if self.low is not None and n < self.low:
            return f"{value} is below {self.low:g}"
        if self.high is not None and n > self.high:
            return f"{value} is above {self.high:g}"
        return None


@dataclass(frozen=True, slots=True)
class Pattern:
    """The answer has a form, such as a date or an identifier."""

    regex: str
    what: str

    def broken(self, question: Question, value: str) -> str | None:  # noqa: ARG002
        return None if re.fullmatch(self.regex, value) else f"{value!r} is not {self.what}"


@dataclass(frozen=True, slots=True)
class Quantity:
    """The answer is a number with one of these units, `12 km`; units by size in the first."""

    units: Mapping[str, float]
    low: float | None = None
    high: float | None = None

    def broken(self, question: Question, value: str) -> str | None:
        figure, _, unit = value.partition(" ")
        if unit not in self.units:
            return f"unit {unit or 'none'!r} is not one of {', '.join(self.units)}"
        n = number(figure)
        if n is None:
            return f"{figure!r} is no number"
        base = next(iter(self.units))
        scaled = float(n) * self.units[unit]
        plain = f"{scaled:.12f}".rstrip("0").rstrip(".")
        said = Number(self.low, self.high).broken(question, plain)
        return f"{said} {base}" if said else None


@dataclass(frozen=True, slots=True)
class Formula:
    """`total = price * count` over named values; those not given leave it undecided."""

    equation: str

    def check(self, values: Mapping[str, str]) -> str | None:
        """Why the values contradict the formula, or None (also where one is missing)."""
        sides = self.equation.split("=")
        if len(sides) != 2:
            raise ExpressionError(f"{self.equation!r} is no equation: write `name = expression`")
        missing = False

        def given(match: re.Match[str]) -> str:
            nonlocal missing
            n = number(values.get(match[0], ""))
            missing |= n is None
            return f"({n})"

        left, right = (re.sub(r"[A-Za-z_]\w*", given, side) for side in sides)
        if missing:
            return None
        a, b = evaluate(left), evaluate(right)
        return None if near(a, b) else f"{self.equation}: {float(a):g} is not {float(b):g}"


def broken(rules: Sequence[Rule], question: Question, value: str) -> str | None:
    """The first reason for which a value cannot be the answer, or None."""
    return next((why for rule in rules if (why := rule.broken(question, value))), None)
