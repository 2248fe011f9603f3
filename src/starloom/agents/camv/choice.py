"""Questions with lettered options: a value is a letter, and an option's text can be looked for."""

import math
import re
from collections.abc import Sequence
from functools import lru_cache

from starloom.agents.camv import texts
from starloom.agents.camv.base import Question, Response, Rule
from starloom.agents.camv.calculator import TOLERANCE, numbers
from starloom.agents.camv.rules import Option

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TAIL_CHARS = 600
_STATED = re.compile(
    r"(?:answer|option|choice)\s*(?:is|:|would be)?[^A-Za-z(]{0,25}\(?\\?(?:boxed\{)?\(?([A-Z])\b"
    r"|boxed\{\(?([A-Z])\b|^\s*\(?([A-Z])\)?[.)]\s",
    re.MULTILINE,
)
_WORD = re.compile(r"[^\W\d_]{3,}")
_NEGATED = re.compile(r"\bnot\b|except|false|least", re.IGNORECASE)


class Choice:
    """Multiple choice. `topics` are the subjects that calibration tells apart."""

    rules: Sequence[Rule] = (Option(),)
    response_names = (
        "states_its_answer",
        "states_several",
        "ends_on_another",
        *texts.NAMES,
        "figures_in_text",
        "figures_of_choice",
        "figures_of_best_other",
        "figures_say_other",
        "figures_say_none",
        "words_in_text",
        "words_of_choice",
        "words_of_best_other",
        "words_say_choice",
        "words_margin",
    )
    mention_names: tuple[str, ...] = ()

    def __init__(self, topics: Sequence[str]) -> None:
        self.topics = tuple(topics)
        self.question_names = (
            *(f"topic_{it}" for it in self.topics),
            "options",
            "length",
            "length_squared",
            "options_with_figures",
            "option_length",
            "negated",
            "gap_to_fill",
            "formula",
        )

    def question_features(self, question: Question) -> list[float]:
        options = question.options
        size = math.log1p(len(question.text)) / 7
        return [
            *(float(question.topic == it) for it in self.topics),
            len(options) / 10,
            size,
            size * size,
            sum(bool(it) for it in _figures(options)) / max(len(options), 1),
            math.log1p(sum(map(len, options)) / max(len(options), 1)) / 5,
            float(bool(_NEGATED.search(question.text))),
            float("____" in question.text),
            float("$" in question.text or "\\" in question.text),
        ]

    def response_features(
        self,
        question: Question,
        response: Response,
        others: Sequence[Response],  # noqa: ARG002
    ) -> list[float]:
        text, value = response.text, response.value
        stated = self.readings(response)
        chosen = LETTERS.find(value) if value else -1
        spoke = len(text) >= texts.SHORT_CHARS and 0 <= chosen < len(question.options)
        figures = _figures(question.options)
        with_figures = sum(1 <= len(it) <= 4 for it in figures) > 0.7 * len(figures)
        return [
            float(value in stated),
            float(len(set(stated)) > 1),
            float(bool(stated) and stated[0] != value),
            *texts.features(text),
            *(_figure_support(text, figures, chosen) if spoke and with_figures else [0.0] * 5),
            *(_word_support(question, text, chosen) if spoke and not with_figures else [0.0] * 5),
        ]

    def mention_features(self, question: Question, response: Response, value: str) -> list[float]:  # noqa: ARG002
        return []

    def readings(self, response: Response) -> list[str]:
        """Letters that the text concludes with, the last one first."""
        found = [m[1] or m[2] or m[3] for m in _STATED.finditer(response.text)]
        return list(dict.fromkeys(reversed(found)))


@lru_cache(maxsize=64)
def _figures(options: tuple[str, ...]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(abs(float(it)) for it in numbers(option)) for option in options)


def _figure_support(text: str, figures: Sequence[Sequence[float]], chosen: int) -> list[float]:
    """Whether the figures that the reasoning ends on are those of the chosen option."""
    said = numbers(text[-TAIL_CHARS:].replace("^", " "))[-12:]
    values = [abs(float(it)) for it in said]

    def found(option: Sequence[float]) -> float:
        hits = sum(any(_close(it, value) for value in values) for it in option)
        return hits / len(option) if option else 0.0

    shares = [found(option) for option in figures]
    own = shares[chosen]
    other = max((it for at, it in enumerate(shares) if at != chosen), default=0.0)
    return [1.0, own, other, float(own < 0.5 and other > 0.9), float(own < 0.5 and other < 0.5)]


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= float(TOLERANCE) * max(a, b)


def _word_support(question: Question, text: str, chosen: int) -> list[float]:
    """Whether the reasoning speaks the words of the chosen option more than those of another."""
    said = set(_WORD.findall(text.lower()))
    asked = set(_WORD.findall(question.text.lower()))
    shares = []
    for option in question.options:
        words = set(_WORD.findall(option.lower())) - asked
        shares.append(len(words & said) / len(words) if words else 0.5)
    own = shares[chosen]
    other = max((it for at, it in enumerate(shares) if at != chosen), default=0.0)
    return [1.0, own, other, float(own >= other), own - other]
