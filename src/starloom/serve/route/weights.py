"""TF-IDF over hashed n-grams: rare ones weigh more, repeated ones little more, a text one unit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.serve.route.grams import BUCKETS, CHAR_BITS, Grams
from starloom.serve.route.rows import Rows


@dataclass(frozen=True, slots=True)
class Weights:
    """Inverse document frequency by bucket; 0 for what fewer than two training texts hold."""

    idf: NDArray[np.float32]

    @classmethod
    def learned(cls, texts: Sequence[Grams], word_share: float) -> "Weights":
        """`word_share` is the weight of words beside that of character n-grams, 1 for equal."""
        holders = Rows.of(texts, BUCKETS).holders()
        idf = np.where(holders > 1, np.log((1 + len(texts)) / (1 + holders)) + 1, 0.0)
        idf[1 << CHAR_BITS :] *= word_share
        return cls(idf.astype(np.float32))

    def __call__(self, texts: Sequence[Grams]) -> Rows:
        """Rows of unit length: `(1 + ln count) * idf`, divided by the row's length."""
        raw = Rows.of(texts, BUCKETS)
        values = (1 + np.log(raw.values)) * self.idf[raw.indices]
        kept = raw.kept(values != 0, values)
        squares = np.bincount(kept.owners, weights=kept.values**2, minlength=len(kept))
        lengths = np.sqrt(np.maximum(squares, 1e-12))
        return Rows(
            kept.starts,
            kept.indices,
            (kept.values / lengths[kept.owners]).astype(np.float32),
            kept.columns,
        )
