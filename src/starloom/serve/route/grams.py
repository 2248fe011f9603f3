"""Text into hashed n-grams, a whole text at a time: no vocabulary, no loop over characters.

An n-gram's hash is that of its bytes (UTF-8, lower case), a polynomial modulo 2**64, mixed and
cut to the bits of its block. Two n-grams that share a bucket are one feature: with 2**17 buckets
that costs less than what a vocabulary costs to look up.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
Hashes = NDArray[np.uint64]

MAX_CHARS = 6_144
"""A longer text is read at its head and its tail, half of this each."""
CHAR_BITS = 17
WORD_BITS = 16
CHAR_SIZES = (2, 3, 4, 5)
BUCKETS = (1 << CHAR_BITS) + (1 << WORD_BITS)

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2**64
_MAX_BYTES = 4 * MAX_CHARS + 8
_SPACE = 32


def _powers(base: int) -> Hashes:
    steps = np.full(_MAX_BYTES, base, dtype=np.uint64)
    steps[0] = 1
    return np.multiply.accumulate(steps)


_POWERS = _powers(int(_BASE))
_INVERSES = _powers(pow(int(_BASE), -1, 1 << 64))
_IN_WORD = np.array(
    [byte >= 128 or chr(byte).isalnum() for byte in range(256)], dtype=np.bool_
)  # bytes of other scripts count as letters


class Grams(NamedTuple):
    """What a text holds: distinct buckets, ascending, and how often each occurs.

    Buckets below `1 << CHAR_BITS` are character n-grams, the rest are words and pairs of words.
    """

    buckets: Ids
    counts: Floats


def clipped(text: str) -> str:
    """The text itself, or the head and tail of a long one."""
    if len(text) <= MAX_CHARS:
        return text
    half = MAX_CHARS // 2
    return f"{text[:half]} {text[-half:]}"


def grams(text: str) -> Grams:
    """Count a text's character n-grams, words, and pairs of neighbouring words.

    Character n-grams stay inside a word and the spaces around it. Time is bounded by `MAX_CHARS`.
    """
    folded = " ".join(clipped(text).lower().split())
    data = np.frombuffer(f" {folded} ".encode(errors="replace"), dtype=np.uint8)
    hashes = [_char_grams(data), _word_grams(data)]
    buckets = np.concatenate(
        [
            _mixed(hashes[0]) >> np.uint64(64 - CHAR_BITS),
            (_mixed(hashes[1]) >> np.uint64(64 - WORD_BITS)) + np.uint64(1 << CHAR_BITS),
        ]
    ).astype(np.int32)
    found, counts = np.unique(buckets, return_counts=True)
    return Grams(found, counts.astype(np.float32))


def _char_grams(data: NDArray[np.uint8]) -> Hashes:
    """Hashes of all n-grams of `CHAR_SIZES` without a space but at their ends."""
    wide = data.astype(np.uint64)
    inside = data != _SPACE
    hashes, whole = wide, np.ones(len(data), dtype=np.bool_)
    found = []
    for size in range(2, max(CHAR_SIZES) + 1):
        hashes = hashes[:-1] * _BASE + wide[size - 1 :]
        whole = whole[:-1]
        if size > 2:
            whole = whole & inside[size - 2 : -1]
        if size in CHAR_SIZES:
            found.append(hashes[whole] + np.uint64(size))
    return np.concatenate(found)


def _word_grams(data: NDArray[np.uint8]) -> Hashes:
    """Hashes of all words, and of all pairs of neighbouring ones."""
    word = _IN_WORD[data].view(np.int8)
    edges = np.diff(word)  # the text begins and ends with a space
    starts, ends = np.flatnonzero(edges == 1) + 1, np.flatnonzero(edges == -1) + 1
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum(data.astype(np.uint64) * _POWERS[: len(data)], out=sums[1:])
    words = (sums[ends] - sums[starts]) * _INVERSES[starts] + np.uint64(1)
    pairs = _mixed(words[:-1]) * _BASE + words[1:]
    return np.concatenate([words, pairs])


def _mixed(hashes: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
