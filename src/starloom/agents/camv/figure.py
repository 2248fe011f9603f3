"""Word problems whose answer is one number: the chain of equations is the evidence."""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from starloom.agents.camv import texts
from starloom.agents.camv.base import Question, Response, Rule
from starloom.agents.camv.calculator import NUMBER, canonical, number, numbers, steps

_SIZE_WORDS = re.compile(r"\b(?:half|third|quarter|twice|times|double|triple)\b", re.IGNORECASE)
_RESULT = re.compile(rf"=\s*\\?\$?\s*({NUMBER.pattern})")
_FINAL = re.compile(r"(?:^|\n)\s*(?:A:|####)\s*([^\n]*)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n+")


class Figure:
    """Open questions with a number for an answer. `rules` are the domain's own declarations."""

    question_names: tuple[str, ...] = ("length", "figures", "per_cent", "size_words", "sentences")
    response_names: tuple[str, ...] = (
        *texts.NAMES,
        "no_answer",
        "no_equation",
        "unused_givens",
        "steps_shared",
        "answer_in_others_chain",
        "answer_is_given",
        "says_answer",
        "magnitude",
        "ends_elsewhere",
        "repeats_a_step",
    )
    mention_names: tuple[str, ...] = (
        "is_last_number",
        "is_last_result",
        "opens_last_sentence",
        "in_last_sentence",
        "last_number_and_result",
        "result_and_opening",
        "nowhere",
    )

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self.rules: Sequence[Rule] = tuple(rules)

    def question_features(self, question: Question) -> list[float]:
        text = question.text
        return [
            math.log1p(len(text)) / 6,
            len(numbers(text)) / 8,
            float("%" in text or "percent" in text),
            float(bool(_SIZE_WORDS.search(text))),
            text.count(".") / 8,
        ]

    def response_features(
        self, question: Question, response: Response, others: Sequence[Response]
    ) -> list[float]:
        given = set(numbers(question.text))
        chain = steps(response.text)
        results = [it.stated for it in chain]
        answer = number(response.value) if response.value else None
        elsewhere = {it.stated for other in others for it in steps(other.text)}
        derived = [it for it in results if it not in given][:-1]
        said = set(numbers(response.text))
        return [
            *texts.features(response.text),
            float(answer is None),
            float(not chain),
            sum(it not in said for it in given) / max(len(given), 1),
            sum(it in elsewhere for it in derived) / len(derived) if derived else 0.5,
            float(answer in elsewhere),
            float(answer in given),
            float(bool(_FINAL.search(response.text))),
            min(math.log1p(abs(float(answer or 0))), 12.0) / 12,
            float(bool(results) and results[-1] != answer),
            float(len(set(results)) < len(results)),
        ]

    def mention_features(self, question: Question, response: Response, value: str) -> list[float]:  # noqa: ARG002
        n = number(value)
        last, result, opening, closing = _conclusions(response.text)
        return [
            float(n == last),
            float(n == result),
            float(n == opening),
            float(n in closing),
            float(n == last == result),
            float(n == result == opening),
            float(n not in closing and n not in numbers(response.text)),
        ]

    def readings(self, response: Response) -> list[str]:
        """The last number, the last result, and the number that opens the last sentence."""
        last, result, opening, _ = _conclusions(response.text)
        found = [canonical(it) for it in (last, result, opening) if it is not None]
        return list(dict.fromkeys(found))


def answer_of(text: str) -> str | None:
    """The number behind `A:` or `####`, else the last number of the text; canonical, or None."""
    marked = _FINAL.findall(text)
    first = numbers(marked[-1])[:1] if marked else []
    found = first or numbers(text)[-1:]
    return canonical(found[0]) if found else None


@lru_cache(maxsize=256)
def _conclusions(
    text: str,
) -> tuple[Fraction | None, Fraction | None, Fraction | None, set[Fraction]]:
    everything = numbers(text)
    results = _RESULT.findall(text)
    closing = numbers(_SENTENCE.split(text.strip())[-1])
    return (
        everything[-1] if everything else None,
        number(results[-1]) if results else None,
        closing[0] if closing else None,
        set(closing),
    )
