"""Where a long text may be cut for one tokenizer, and whether that tokenizer allows it at all."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer

CHUNK_CHARS = 2048
Split = Callable[[str], list[tuple[str, tuple[int, int]]]]
# One blank between a visible character and a letter, or one newline between it and a letter.
_CUT = re.compile(r"(?<=\S)(?= [A-Za-z])|(?<=\S\n)(?=[^\W_])")
_STEPS = {"ByteLevel", "Split", "Digits", "Punctuation"}
_LEFT = (
    "a",
    "Z",
    "é",
    "中",
    "ß1",
    "1",
    "123",
    "12345",
    ".",
    "...",
    "!?",
    "-",
    "'",
    "it's",
    "it'",
    '"',
    ")",
    "_",
)
_LEFT_ALSO = ("😀", "a\u0301", "\u200b", "x  y", "x\n\ny", "  q", "\tq", "//", "🇩🇪", "١", "ा")
_RIGHT = (" a", " Z", " word", " it's", " a1", " s", " ll")
_RIGHT_LINES = ("a", "Z", "1", "123", "中", "é", "s", "'".join("it"))


def chunks(text: str) -> Iterator[str]:
    """`text` in pieces of about `CHUNK_CHARS`; each cut depends on what is left of it alone."""
    start = 0
    while len(text) - start > CHUNK_CHARS:
        cut = _CUT.search(text, start + CHUNK_CHARS)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def cuts_hold(spec: str, tokenizer: Tokenizer, added: Iterable[AddedToken]) -> bool:
    """Whether every cut of `chunks` is a boundary that no token of this tokenizer crosses.

    The tokenizer must look at its text from left to right without looking back (steps known to do
    so, patterns without look-behind), change nothing before, and cut there on all probes.
    """
    data = json.loads(spec)
    steps = list(pre_steps(data.get("pre_tokenizer")))
    normalizer = data.get("normalizer")
    if normalizer is not None and normalizer["type"] != "NFC":
        return False
    if tokenizer.pre_tokenizer is None or any(step["type"] not in _STEPS for step in steps):
        return False
    if data["model"]["type"] != "BPE" or any(step.get("add_prefix_space") for step in steps):
        return False
    if any("(?<" in json.dumps(step.get("pattern", "")) for step in steps):
        return False
    if any(_spans_a_cut(token) for token in added):
        return False
    probes = [(left, right) for left in _LEFT + _LEFT_ALSO for right in _RIGHT]
    probes += [(left + "\n", right) for left in _LEFT + _LEFT_ALSO for right in _RIGHT_LINES]
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    return all(_same(split, left, right) for left, right in probes)


def pre_steps(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The simple steps of a pre-tokenizer in `tokenizer.json`, sequences unfolded."""
    if step is None:
        return
    if step["type"] == "Sequence":
        for part in step["pretokenizers"]:
            yield from pre_steps(part)
    else:
        yield step


def _spans_a_cut(token: AddedToken) -> bool:
    inner = token.content.strip()
    flagged = token.lstrip or token.rstrip or token.single_word
    crosses = inner != token.content and bool(inner)
    return not token.special and (flagged or crosses or len(inner.split()) > 1)


def _same(split: Split, left: str, right: str) -> bool:
    apart = [piece for piece, _ in (*split(left), *split(right))]
    return [piece for piece, _ in split(left + right)] == apart
