"""Texts to vectors: a small linear embedder that ships with the package, or any `/v1/embeddings`.

`LocalEmbedder` hashes words, their character trigrams, and CJK characters and pairs into buckets.
Two thirds of a vector come from latent semantic indexing over texts joined with their paraphrases
and translations (Dumais et al. 1997, "Automatic cross-language retrieval using LSI"), so that words
of one meaning come close, across languages too, as far as the training lexicon knows them
(`tools/embed/train.py`). The last third is a fixed random projection of the same buckets, which
knows no meaning and therefore serves words that were never trained.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np

from starloom.agents.errors import AgentError
from starloom.agents.facts.base import Vector
from starloom.agents.facts.tokens import runs

WEIGHTS = Path(__file__).with_name("embed_weights.npz")
BUCKETS = 4096
LEARNED = 256
RANDOM = 128
RANDOM_SHARE = 0.1
"""Of a vector's squared length, how much is the random projection's."""


def buckets(text: str) -> tuple[np.ndarray, Vector]:
    """(bucket numbers, weights): sublinear counts of hashed features."""
    counts: dict[int, float] = {}
    for run, cjk in runs(text):
        if cjk:
            grams = [*run, *(run[at : at + 2] for at in range(len(run) - 1))]
        else:
            padded = f"<{run}>"
            grams = [padded, *(padded[at : at + 3] for at in range(len(padded) - 2))]
        share = 1.0 if cjk else 2.0 / len(grams) ** 0.5
        for place, gram in enumerate(grams):
            at = zlib.crc32(gram.encode()) % BUCKETS
            counts[at] = counts.get(at, 0.0) + (1.5 if place == 0 and not cjk else share)
    numbers = np.fromiter(counts, dtype=np.int64, count=len(counts))
    held = np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
    return numbers, np.log1p(held)


def signs() -> Vector:
    """(BUCKETS, RANDOM) of +1 and -1, the same on every machine."""
    drawn = np.random.default_rng(20_240_229).integers(0, 2, size=(BUCKETS, RANDOM), dtype=np.int8)
    return drawn.astype(np.float32) * 2 - 1


class LocalEmbedder:
    """No model server, no torch: 0.7 MB of weights, tens of microseconds a text."""

    dimensions = LEARNED + RANDOM

    def __init__(self, weights: Path = WEIGHTS) -> None:
        with np.load(weights, allow_pickle=False) as held:
            self._learned = held["learned"].astype(np.float32) * held["scale"]
            self._idf = held["idf"].astype(np.float32)
            self.name = f"lsi-{held['name']!s}"
        self._random = signs()

    def embed(self, texts: Sequence[str]) -> Vector:
        out = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            numbers, counts = buckets(text)
            if not len(numbers):
                continue
            weighted = counts * self._idf[numbers]
            learned = weighted @ self._learned[numbers]
            fixed = weighted @ self._random[numbers]
            out[row, :LEARNED] = _unit(learned) * (1 - RANDOM_SHARE) ** 0.5
            out[row, LEARNED:] = _unit(fixed) * RANDOM_SHARE**0.5
            out[row] = _unit(out[row])
        return out


class Endpoint:
    """Any OpenAI-compatible `/v1/embeddings`."""

    def __init__(
        self,
        url: str,
        model: str,
        dimensions: int,
        key: str = "",
        client: httpx.Client | None = None,
    ) -> None:
        """`url` ends before `/embeddings`. The key goes into the header and nowhere else."""
        self.name = f"{model}@{dimensions}"
        self.dimensions = dimensions
        self._url, self._model, self._key = url.rstrip("/"), model, key
        self._client = client or httpx.Client(timeout=30)

    def embed(self, texts: Sequence[str]) -> Vector:
        """Raises AgentError where the server refuses or answers in another shape."""
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        body = {"model": self._model, "input": list(texts)}
        try:
            answer = self._client.post(f"{self._url}/embeddings", json=body, headers=headers)
            answer.raise_for_status()
            rows = sorted(answer.json()["data"], key=lambda it: it["index"])
            out = np.array([it["embedding"] for it in rows], dtype=np.float32)
        except (httpx.HTTPError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise AgentError(f"{self._url}/embeddings: {type(error).__name__}: {error}") from error
        if out.shape != (len(texts), self.dimensions):
            raise AgentError(
                f"{self._url}/embeddings: {out.shape} numbers for {len(texts)} texts of "
                f"{self.dimensions} dimensions"
            )
        lengths = np.linalg.norm(out, axis=1, keepdims=True)
        out /= np.where(lengths > 0, lengths, 1)
        return out


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length > 0 else vector
