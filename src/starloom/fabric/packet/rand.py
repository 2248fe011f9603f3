"""Seeded numbers and hashes inside compiled code."""

import numpy as np

from starloom.fabric.jit import step
from starloom.fabric.packet.layout import G_RANDOM, Words


@step
def draw(m: Words, below: int) -> int:
    """A whole number in [0, below), below <= 2**31 (xorshift64*, Vigna 2016)."""
    x = np.uint64(m[G_RANDOM])
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    m[G_RANDOM] = np.int64(x)  # type: ignore[assignment]
    high = np.int64((x * np.uint64(0x2545F4914F6CDD1D)) >> np.uint64(33))
    return (high * below) >> 31  # type: ignore[return-value]


@step
def pick(a: int, b: int, c: int, below: int) -> int:
    """A hash of three numbers in [0, below): splitmix64's finaliser (Steele et al. 2014)."""
    x = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b)
    x = x * np.uint64(0xD1B54A32D192ED03) + np.uint64(c)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    high = np.int64(x >> np.uint64(33))
    return (high * below) >> 31  # type: ignore[return-value]
