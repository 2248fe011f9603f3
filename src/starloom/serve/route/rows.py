"""Sparse rows in compressed form: the two products that learning needs, in plain NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.serve.route.grams import Grams

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """`n` sparse rows over `columns` columns: row i is `indices[starts[i]:starts[i + 1]]`."""

    starts: NDArray[np.int64]
    """Length n + 1."""
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    columns: int

    @classmethod
    def of(cls, texts: Sequence[Grams], columns: int) -> "Rows":
        starts = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum([len(grams.buckets) for grams in texts], out=starts[1:])
        indices = np.concatenate([grams.buckets for grams in texts]).astype(np.int32)
        values = np.concatenate([grams.counts for grams in texts])
        return cls(starts, indices, values, columns)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def owners(self) -> NDArray[np.int64]:
        """The row of each stored value."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def times(self, weights: NDArray[np.floating]) -> Vector:
        """`rows @ weights` for weights of length `columns`."""
        sums = np.zeros(len(self.values) + 1)
        np.cumsum(self.values * weights[self.indices], out=sums[1:], dtype=np.float64)
        return sums[self.starts[1:]] - sums[self.starts[:-1]]

    def back(self, vector: NDArray[np.floating]) -> Vector:
        """`rows.T @ vector` for a vector of length n."""
        spread = self.values * np.repeat(vector, np.diff(self.starts))
        return np.asarray(np.bincount(self.indices, weights=spread, minlength=self.columns), float)

    def holders(self) -> Vector:
        """In how many rows each column stands."""
        return np.bincount(self.indices, minlength=self.columns).astype(np.float64)

    def kept(self, mask: NDArray[np.bool_], values: NDArray[np.float32]) -> "Rows":
        """The rows with `values` instead of theirs, without those where `mask` is false."""
        before = np.zeros(len(mask) + 1, dtype=np.int64)
        np.cumsum(mask, out=before[1:])
        return Rows(before[self.starts], self.indices[mask], values[mask], self.columns)

    def where(self, mask: NDArray[np.bool_]) -> "Rows":
        """The rows of `mask` alone."""
        lengths = np.diff(self.starts)
        starts = np.zeros(int(mask.sum()) + 1, dtype=np.int64)
        np.cumsum(lengths[mask], out=starts[1:])
        stored = np.repeat(mask, lengths)
        return Rows(starts, self.indices[stored], self.values[stored], self.columns)
