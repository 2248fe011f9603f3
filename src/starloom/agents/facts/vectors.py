"""Vectors of facts in one float32 matrix: exact search by one product over rows."""

import numpy as np

from starloom.agents.facts.base import Vector

_GROWTH = 1.5


class VectorIndex:
    """One row a key; what is found is the id that was put with it last."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._ids: list[str] = []
        self._at: dict[str, int] = {}
        self._rows = np.zeros((256, dimensions), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, key: str, id: str, vector: Vector) -> None:  # noqa: A002
        """Add or replace; raises ValueError for a vector of another length."""
        if vector.shape != (self.dimensions,):
            raise ValueError(f"a vector of shape {vector.shape} among {self.dimensions} dimensions")
        at = self._at.get(key)
        if at is None:
            at = self._at[key] = len(self._ids)
            self._ids.append(id)
            if at == len(self._rows):
                grown = np.zeros((int(at * _GROWTH), self.dimensions), dtype=np.float32)
                grown[:at] = self._rows
                self._rows = grown
        self._ids[at] = id
        self._rows[at] = vector

    def nearest(self, vector: Vector, limit: int) -> dict[str, float]:
        """Ids with their cosine, falling; those without any likeness are left out."""
        scores = self._rows[: len(self._ids)] @ vector
        places = np.arange(len(scores))
        if len(scores) > limit:
            places = np.argpartition(-scores, limit)[:limit]
        order = places[np.argsort(-scores[places], kind="stable")]
        return {self._ids[i]: float(scores[i]) for i in order if scores[i] > 0}
