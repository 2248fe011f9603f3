"""Wanted families out of a Prometheus page, without parsing the rest.

A page of a large server has megabytes, of which a scheduler wants a dozen lines. So names are
looked for, at the beginnings of lines, and only lines that carry one are read. Time is linear in
the page for each name; what is no sample is skipped, never an error.

Source: the text format 0.0.4 and OpenMetrics 1.0 (`name{label="value"} 1.5 [time] [# exemplar]`).
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

MAX_SAMPLES = 4096
"""Of one family. A family with more is not one of those that we want."""
_MAX_LINE_BYTES = 64 << 10
_LABELS = re.compile(rb'\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}')
_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(rb"\\(.)")


class Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float


def samples(page: bytes, names: Iterable[str]) -> dict[str, list[Sample]]:
    """The samples of each of `names` that the page has, but those that are no finite number."""
    found = {name: list(_of_name(page, name.encode())) for name in names}
    return {name: family for name, family in found.items() if family}


def _of_name(page: bytes, name: bytes) -> Iterator[Sample]:
    count = 0
    for line in _lines(page, name):
        rest = line[len(name) :]
        labels: dict[str, str] = {}
        if rest[:1] == b"{":
            match = _LABELS.match(rest)
            if match is None:
                continue
            labels = {key.decode(): _unescaped(text) for key, text in _LABEL.findall(match[1])}
            rest = rest[match.end() :]
        words = rest.split(None, 1)
        try:
            value = float(words[0])
        except (IndexError, ValueError):
            continue
        if math.isfinite(value):
            yield Sample(labels, value)
            count += 1
            if count == MAX_SAMPLES:
                return


def _lines(page: bytes, name: bytes) -> Iterator[bytes]:
    """Lines that begin with just this name."""
    at = 0 if page.startswith(name) else page.find(b"\n" + name) + 1
    while at or page.startswith(name):
        end = page.find(b"\n", at)
        end = len(page) if end < 0 else end
        after = page[at + len(name) : at + len(name) + 1]
        if after in (b"{", b" ", b"\t") and end - at <= _MAX_LINE_BYTES:
            yield page[at:end]
        at = page.find(b"\n" + name, end) + 1
        if not at:
            return


def _unescaped(text: bytes) -> str:
    if b"\\" in text:
        text = _ESCAPE.sub(lambda match: b"\n" if match[1] == b"n" else match[1], text)
    return text.decode("utf-8", "replace")
