"""The next token out of logits: greedy, temperature, top-k, top-p, seeded, with logprobs.

Draw `i` of a request comes from Philox4x64 keyed by the request's seed at counter `i`: it is the
same whatever shares the batch, and after a preemption.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from starloom.serve.base import Sampling
from starloom.serve.engines.executor import Choice

Floats = NDArray[np.float64]

_FIRST_LOOK = 1024
"""Most likely tokens that top-p looks at before it sorts a whole vocabulary."""


def choose(
    logits: NDArray[np.float32], sampling: Sampling, position: int, eos: Collection[int] = ()
) -> Choice:
    """Draw number `position` (from 0) of a request out of `logits` [vocab].

    Tokens in `eos` cannot be drawn before `min_tokens` others were.
    """
    scores = logits.astype(np.float64)
    allowed = scores
    if position < sampling.min_tokens and eos:
        allowed = scores.copy()
        allowed[list(eos)] = -np.inf
    token = draw(allowed, sampling, position)
    if sampling.logprobs is None:
        return Choice(token)
    logprobs = log_softmax(scores)
    return Choice(token, float(logprobs[token]), _top(logprobs, sampling.logprobs))


def draw(scores: Floats, sampling: Sampling, position: int) -> int:
    """A token: the likeliest at temperature 0, else by inverse transform of one uniform number."""
    if sampling.temperature == 0:
        return int(scores.argmax())
    with np.errstate(over="ignore"):  # a tiny temperature: all but the likeliest go to -inf
        tempered = (scores - scores.max()) / sampling.temperature
    ids, probabilities = _nucleus(tempered, sampling.top_k, sampling.top_p)
    mass = np.cumsum(probabilities)
    at = int(np.searchsorted(mass, uniform(sampling.seed, position) * mass[-1], side="right"))
    return int(ids[min(at, len(ids) - 1)])


def uniform(seed: int, position: int) -> float:
    """Number `position` in [0, 1) of the stream that `seed` names."""
    generator = np.random.Philox(key=seed % (1 << 128), counter=position)
    return float(np.random.Generator(generator).random())


def log_softmax(scores: Floats) -> Floats:
    """Natural logarithms: scores - log(sum(exp(scores))), shifted by the maximum."""
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _nucleus(scores: Floats, top_k: int, top_p: float) -> tuple[NDArray[np.intp], Floats]:
    """Ids and probabilities that may be drawn: the top k, then the fewest with mass `top_p`.

    Equal scores are taken lowest id first.
    """
    limit = min(top_k or len(scores), len(scores))
    probabilities = np.exp(log_softmax(scores))
    if limit == len(scores) and top_p >= 1:
        return np.arange(len(scores)), probabilities
    count = limit if limit < len(scores) else min(_FIRST_LOOK, limit)
    ids = _most(probabilities, count)
    if limit < len(scores):
        probabilities = probabilities / probabilities[ids].sum()
    elif probabilities[ids].sum() < top_p:
        ids = _most(probabilities, len(scores))
    # A token stays while the mass before it is under top_p: at least one always does.
    before = np.cumsum(probabilities[ids]) - probabilities[ids]
    ids = ids[: max(1, int(np.searchsorted(before, top_p, side="left")))]
    return ids, probabilities[ids]


def _most(values: Floats, count: int) -> NDArray[np.intp]:
    """Indices of the `count` largest values, largest first; equal ones lowest index first."""
    if count >= len(values):
        return np.argsort(-values, kind="stable")
    least = np.partition(values, len(values) - count)[len(values) - count]
    among = np.flatnonzero(values >= least)
    return among[np.argsort(-values[among], kind="stable")][:count]


def _top(logprobs: Floats, count: int) -> list[tuple[int, float]]:
    if not count:
        return []
    return [(int(i), float(logprobs[i])) for i in _most(logprobs, min(count, len(logprobs)))]
