"""A local safety model: logistic regression over hashed character n-grams. NumPy, no downloads.

Train one from your own labelled texts, a JSON object a line:

    {"text": "...", "label": "harmless"}
    {"text": "...", "label": "injection"}

    python -m starloom.serve.guard.train train.jsonl model.npz

Labels named `harmless`, `benign` or `ok` are no category. Texts are normalised as for word lists.
It knows what its training texts show and nothing else: test it on texts from elsewhere.
"""

import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from starloom.serve.guard.model import Scores
from starloom.serve.guard.normal import Normaliser

BITS = 16
HARMLESS = frozenset(("harmless", "benign", "ok"))
_GRAMS = (1, 2, 3, 4, 5)
_PRIME, _SHIFT = np.uint64(0x100000001B3), np.uint64(64 - BITS)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MAX_CHARS = 20_000
_EPOCHS, _STEP, _DECAY = 30, 0.3, 1e-5


class Features(NamedTuple):
    """A sparse vector of length 1: places below 2**BITS, and how much is there."""

    places: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]


def features(text: str) -> Features:
    """Hashed n-grams of 1 to 5 characters, by the logarithm of how often they occur."""
    normal = Normaliser()(text[:_MAX_CHARS]).text
    codes = np.frombuffer(f" {normal} ".encode("utf-32-le"), "<u4").astype(np.uint64)
    hashed: list[npt.NDArray[np.uint64]] = []
    for size in _GRAMS:
        if len(codes) >= size:
            rolled = np.full(len(codes) - size + 1, size, np.uint64)
            for at in range(size):
                rolled = rolled * _PRIME + codes[at : len(codes) - size + 1 + at]
            hashed.append(rolled * _GOLDEN >> _SHIFT)
    places, counts = np.unique(np.concatenate(hashed), return_counts=True)
    values = 1 + np.log(counts)
    return Features(places.astype(np.int64), (values / np.linalg.norm(values)).astype(np.float32))


class LinearModel:
    """Weights by category: `scores` is a `Classifier`'s."""

    def __init__(
        self, names: Sequence[str], weights: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
    ) -> None:
        if weights.shape != (len(names), 1 << BITS) or bias.shape != (len(names),):
            raise ValueError(f"weights of shape {weights.shape} for {len(names)} categories")
        self.names = list(names)
        self._weights = weights
        self._bias = bias

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises OSError, or ValueError when it is no such file."""
        try:
            with np.load(path, allow_pickle=False) as data:
                return cls([str(name) for name in data["names"]], data["weights"], data["bias"])
        except (KeyError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"no model: {error}") from error

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(
                file, names=np.array(self.names), weights=self._weights, bias=self._bias
            )

    def score(self, text: str) -> Scores:
        places, values = features(text)
        sums = self._weights[:, places] @ values + self._bias
        return dict(zip(self.names, (1 / (1 + np.exp(-sums))).tolist(), strict=True))

    async def scores(self, texts: Sequence[str], images: Sequence[str]) -> list[Scores]:  # noqa: ARG002
        return [self.score(text) for text in texts]

    async def close(self) -> None:
        """Nothing is open."""


def train(examples: Iterable[tuple[str, str]], *, seed: int = 0) -> LinearModel:
    """One category against the rest each: Adagrad over shuffled examples, classes weighted alike.

    Duchi et al., Adaptive Subgradient Methods, JMLR 12 (2011). The same examples and seed give the
    same weights.
    """
    pairs = list(examples)
    texts, labels = [text for text, _ in pairs], [label for _, label in pairs]
    vectors = [features(text) for text in texts]
    names = sorted(set(labels) - HARMLESS)
    if not names:
        raise ValueError("no text is labelled with a category")
    weights = np.zeros((len(names), 1 << BITS), np.float32)
    bias = np.zeros(len(names), np.float32)
    for row, name in enumerate(names):
        truth = np.array([label == name for label in labels])
        if truth.all():
            raise ValueError(f"all texts are labelled {name!r}: there is nothing to tell it from")
        share = len(truth) / 2 / np.array([(~truth).sum(), truth.sum()])
        rng = np.random.default_rng((seed, row))
        squares = np.full(1 << BITS, 1e-8, np.float32)
        for _ in range(_EPOCHS):
            for at in rng.permutation(len(vectors)):
                places, values = vectors[at]
                one = weights[row]
                wrong = 1 / (1 + np.exp(-(one[places] @ values + bias[row]))) - truth[at]
                slope = wrong * share[int(truth[at])] * values + _DECAY * one[places]
                squares[places] += slope**2
                one[places] -= _STEP * slope / np.sqrt(squares[places])
                bias[row] -= 0.01 * wrong * share[int(truth[at])]
    return LinearModel(names, weights, bias)


def read_examples(path: Path) -> list[tuple[str, str]]:
    """Texts and labels of a JSONL file. Raises ValueError that names the line."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                entry = json.loads(line)
                found.append((str(entry["text"]), str(entry["label"])))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: not an object with text and label") from error
    return found
