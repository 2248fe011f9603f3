"""What a request looks like, whatever it is about: lengths, numbers, options, its question.

One pass over its words; the time is bounded by `grams.MAX_CHARS`.
"""

import math
import re
from collections import Counter
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from starloom.serve.route.grams import clipped

_OPTION = re.compile(r"\n\(?([A-J])[.)] ")
_TOKEN = re.compile(r"[^\W\d_]+|\d[\d,.]*")
_SENTENCE = re.compile(r"[.?!](?:\s|$)")
_CALL_FOR_ANSWER = re.compile(r"\s*answer\s*:\s*$", re.IGNORECASE)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORDS: dict[str, frozenset[str]] = {
    "negation": _set("not except least incorrect false never cannot"),
    "which": _set("which"),
    "what": _set("what"),
    "how": _set("how"),
    "why": _set("why"),
    "if": _set("if suppose assume assuming given let"),
    "best": _set("most best likely least primarily"),
    "percent": _set("percent percentage ratio rate"),
    "fraction": _set("half third quarter fourth fifth twice double triple times"),
    "each": _set("each every per"),
    "compare": _set("more less fewer than older younger longer"),
    "total": _set("total altogether left remain remaining remains sum combined"),
    "time": _set(
        "second seconds minute minutes hour hours day days week weeks month months year years"
    ),
    "order": _set("first then after before next last"),
    "person": _set("he she they his her their him them"),
    "prove": _set("prove show derive explain calculate compute find solve determine"),
    "code": _set("def return import class function int print void const"),
}
_MARKS = ',?$%\\^=_"/*'
NAMES: tuple[str, ...] = (
    "chars",
    "words",
    "option_chars",
    "longest_option",
    "shortest_option",
    "option_spread",
    "options",
    "numbers",
    "log_numbers",
    "distinct_numbers",
    "digits_share",
    "option_digits_share",
    "upper_share",
    "mark_share",
    "word_chars",
    "distinct_share",
    "sentences",
    "lines",
    "last_sentence_chars",
    "asks",
    "blank",
    "shouted_negation",
    "of_the_above",
    "statements",
    "decimals",
    "fractions",
    "largest_number",
    "quoted",
    "other_script",
    "short_options",
    "option_overlap",
    *(f"word_{name}" for name in _WORDS),
    *(f"mark_{mark}" for mark in _MARKS),
)


def form(text: str) -> NDArray[np.float64]:
    """One number for each of `NAMES`; counts and lengths as logarithms, shares within 0..1."""
    body = _CALL_FOR_ANSWER.sub("", clipped(text))
    pieces = _OPTION.split(body)
    question, options = pieces[0], pieces[2::2]
    folded = question.lower()
    tokens = _TOKEN.findall(folded)
    counts = Counter(tokens)
    numbers = [token for token in tokens if token[0].isdigit()]
    words = len(tokens) - len(numbers)
    chars = len(question) or 1
    in_tokens = len("".join(tokens))
    offered = " ".join(options)
    lengths = [len(option) for option in options] or [0]
    sentences = _SENTENCE.findall(question)
    general: list[float] = [
        math.log1p(len(question)),
        math.log1p(words),
        math.log1p(sum(lengths)),
        math.log1p(max(lengths)),
        math.log1p(min(lengths)),
        (max(lengths) - min(lengths)) / (1 + max(lengths)),
        len(options),
        min(len(numbers), 12),
        math.log1p(len(numbers)),
        math.log1p(len(set(numbers))),
        _between(question, "09") / chars,
        _between(offered, "09") / (1 + len(offered)),
        _between(question, "AZ") / chars,
        1 - in_tokens / chars - folded.count(" ") / chars,
        in_tokens / (1 + len(tokens)),
        len(counts) / (1 + len(tokens)),
        math.log1p(len(sentences)),
        math.log1p(question.count("\n")),
        math.log1p(_last_sentence(question)),
        folded.rstrip().endswith("?"),
        "__" in question,
        any(f" {word}" in question for word in ("NOT", "EXCEPT", "LEAST")),
        any(f"{word} of the" in offered for word in ("All", "None", "Both", "all", "none")),
        folded.startswith("statement 1"),
        math.log1p(sum("." in number.rstrip(".") for number in numbers)),
        sum(a.isdigit() and b.isdigit() for a, b in pairwise(question.split("/"))),
        math.log1p(max(map(_value, numbers), default=0.0)),
        '"' in question or "“" in question,
        not question.isascii(),
        sum(length <= 6 for length in lengths[: len(options)]),
        _overlap(counts, options),
    ]
    by_word = [
        math.log1p(sum(counts[word] for word in _WORDS[name] if word in counts)) for name in _WORDS
    ]
    by_mark = [math.log1p(question.count(mark)) for mark in _MARKS]
    return np.array(general + by_word + by_mark, dtype=np.float64)


def _between(text: str, ends: str) -> int:
    """How many characters stand from the first to the last of `ends` in ASCII."""
    data = np.frombuffer(text.encode(errors="replace"), dtype=np.uint8)
    return int(((data >= ord(ends[0])) & (data <= ord(ends[1]))).sum())


def _last_sentence(question: str) -> int:
    """Characters of the last sentence, where the question proper mostly stands."""
    stripped = question.rstrip(" \n.?!:")
    begin = max(stripped.rfind(mark) for mark in (". ", "? ", "! ", "\n"))
    return len(stripped) - begin - 1


def _value(number: str) -> float:
    digits = number.replace(",", "").strip(".")
    try:
        return min(float(digits), 1e12)
    except ValueError:  # an address, a version, a date with dots
        return 0.0


def _overlap(counts: Counter[str], options: list[str]) -> float:
    """The mean share of an option's words that the question holds too."""
    shares = [
        sum(word in counts for word in words) / len(words)
        for words in (_TOKEN.findall(option.lower()) for option in options)
        if words
    ]
    return sum(shares) / len(shares) if shares else 0.0
