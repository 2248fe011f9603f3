r"""Exact arithmetic over what texts state: the first and cheapest auditor.

Reads the calculator annotations of GSM8K solutions, `<<16-3=13>>` (Cobbe et al., arXiv 2110.14168),
and plain equations such as `2 * 9 = $18` or `3 \times 4 = 12`. Numbers are fractions: no rounding.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from starloom.agents.errors import ExpressionError

EXPRESSION_CHARS = 120
TOLERANCE = Fraction(1, 100)
"""Stated results are often rounded to two places or to a per cent."""

_NUMBER = r"\d[\d,]*+(?:\.\d++)?|\.\d++"
"""Possessive: digits are never given back, so that a page of digits is read in linear time."""
NUMBER = re.compile(rf"(?<![\w.])-?\$?(?:{_NUMBER})")
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})|(.))", re.DOTALL)
_OPERATOR = r"(?:[-+*/x×÷−]|\\times|\\cdot|\\div)"
_ANNOTATION = re.compile(r"<<([^<>=]{1,120})=([^<>=]{1,40})>>")
_TERM = rf"\(?+\s*+\$?+(?:{_NUMBER})\s*+%?+\s*+\)?+"
_EQUATION = re.compile(
    rf"(?<![\w.^])({_TERM}(?:{_OPERATOR}\s*+{_TERM}){{1,8}}+)(?:=|≈|\\approx)\s*"
    rf"\\?\$?\s*(-?(?:{_NUMBER}))(?![\d^])"
)
_SPELLINGS = (
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\\div", "/"),
    ("×", "*"),
    ("÷", "/"),
    ("−", "-"),
    ("$", ""),
)


def number(text: str) -> Fraction | None:
    """The number that a short text is, thousands' commas and a dollar sign allowed; else None."""
    plain = text.strip().replace(",", "").replace("$", "").removesuffix(".")
    if not plain or len(plain) > 40 or not re.fullmatch(r"-?\d*\.?\d+(?:/\d+)?", plain):
        return None
    try:
        return Fraction(plain)
    except (ValueError, ZeroDivisionError):
        return None


def canonical(value: Fraction) -> str:
    """One text for one number: `18`, `3/2`."""
    return str(value)


@lru_cache(maxsize=512)
def numbers(text: str) -> tuple[Fraction, ...]:
    """All numbers in a text, in order."""
    found = (number(it) for it in NUMBER.findall(text))
    return tuple(it for it in found if it is not None)


def evaluate(expression: str) -> Fraction:
    """The exact value of `+ - * / ( )` and per cent over decimal numbers.

    Raises ExpressionError for anything else, division by zero included.
    """
    for spelling, plain in _SPELLINGS:
        expression = expression.replace(spelling, plain)
    if len(expression) > EXPRESSION_CHARS:
        raise ExpressionError(f"an expression of {len(expression)} characters: give it in steps")
    return _Parser(expression.replace("x", "*")).value()


class _Parser:
    """Recursive descent: sum of products of signed, bracketed or per-cent numbers."""

    def __init__(self, text: str) -> None:
        self._tokens = [m.group(1) or m.group(2) for m in _TOKEN.finditer(text.rstrip())]
        self._at = 0

    def value(self) -> Fraction:
        total = self._sum()
        if self._at < len(self._tokens):
            raise ExpressionError(f"{self._tokens[self._at]!r} does not belong here")
        return total

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _sum(self) -> Fraction:
        total = self._product()
        while self._peek() in ("+", "-"):
            total = total + self._product() if self._take() == "+" else total - self._product()
        return total

    def _product(self) -> Fraction:
        total = self._factor()
        while self._peek() in ("*", "/"):
            if self._take() == "*":
                total *= self._factor()
                continue
            divisor = self._factor()
            if divisor == 0:
                raise ExpressionError("division by zero")
            total /= divisor
        return total

    def _factor(self) -> Fraction:
        head = self._take()
        if head == "-":
            return -self._factor()
        if head == "(":
            inner = self._sum()
            if self._take() != ")":
                raise ExpressionError("a bracket is not closed")
            value: Fraction | None = inner
        else:
            value = number(head)
        if value is None:
            raise ExpressionError(f"{head or 'the end'!r} where a number should stand")
        if self._peek() == "%":
            self._take()
            value /= 100
        return value


@dataclass(frozen=True, slots=True)
class Step:
    """One stated equation. `computed` is None where the calculator cannot follow the expression."""

    expression: str
    stated: Fraction
    computed: Fraction | None
    start: int
    end: int

    @property
    def holds(self) -> bool:
        """False only where the calculator contradicts the text."""
        return self.computed is None or near(self.computed, self.stated)

    @property
    def inputs(self) -> tuple[Fraction, ...]:
        return numbers(self.expression)


def near(a: Fraction, b: Fraction, tolerance: Fraction = TOLERANCE) -> bool:
    """Whether two numbers are the same up to how results are rounded in texts."""
    return abs(a - b) <= tolerance * max(Fraction(1), abs(a), abs(b))


@lru_cache(maxsize=256)
def steps(text: str) -> tuple[Step, ...]:
    """All equations that a text states: its annotations where it has any, else plain equations."""
    return tuple(_read(_ANNOTATION, text) or _read(_EQUATION, text))


def _read(pattern: re.Pattern[str], text: str) -> list[Step]:
    return [
        Step(match[1].strip(), stated, _tried(evaluate, match[1]), match.start(), match.end())
        for match in pattern.finditer(text)
        if (stated := number(match[2]) or _tried(evaluate, match[2])) is not None
    ]


def _tried(how: Callable[[str], Fraction], text: str) -> Fraction | None:
    try:
        return how(text)
    except ExpressionError:
        return None
