"""Ridge regression over sparse rows and dense columns, in its dual by conjugate gradients.

The dual has one unknown a row, so that a fold is left out by a mask: nothing is copied.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.serve.route.rows import Rows, Vector

Matrix = NDArray[np.floating]
Mask = NDArray[np.bool_]

_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Solution:
    """What predicts a target: `base + sparse @ sparse_weights + dense @ dense_weights`."""

    base: float
    sparse: Vector
    dense: Vector

    def predict(self, rows: Rows, dense: Matrix) -> Vector:
        return self.base + rows.times(self.sparse) + dense @ self.dense.astype(dense.dtype)


def solve(
    rows: Rows,
    dense: Matrix,
    target: Vector,
    penalty: float,
    *,
    mask: Mask | None = None,
    tolerance: float = 5e-3,
) -> Solution:
    """Minimise the squared error on the rows of `mask` plus `penalty` times the squared weights.

    The dual `(X Xᵀ + penalty I) a = y - mean(y)` gives the weights `Xᵀ a` (Saunders, Gammerman and
    Vovk, "Ridge regression learning algorithm in dual variables", ICML 1998). Stops when the
    residual is `tolerance` of the right side: the ranking has long settled then.
    """
    if penalty <= 0:
        raise ValueError(f"penalty must be positive, not {penalty}")
    chosen = np.ones(len(rows), dtype=np.bool_) if mask is None else mask
    if not chosen.any():
        raise ValueError("the mask leaves no row to learn from")
    base = float(target[chosen].mean())
    right = np.where(chosen, target - base, 0.0)

    def applied(vector: Vector) -> Vector:
        narrow = vector.astype(dense.dtype)  # a product of two types would copy the matrix
        product = rows.times(rows.back(vector)) + dense @ (narrow @ dense) + penalty * vector
        return np.where(chosen, product, 0.0)

    dual = np.zeros_like(right)
    residual, direction = right.copy(), right.copy()
    size = goal = float(residual @ residual)
    for _ in range(_ROUNDS):
        if size <= tolerance**2 * goal:
            break
        image = applied(direction)
        step = size / float(direction @ image)
        dual += step * direction
        residual -= step * image
        smaller = float(residual @ residual)
        direction = residual + (smaller / size) * direction
        size = smaller
    return Solution(base, rows.back(dual), np.asarray(dual.astype(dense.dtype) @ dense, np.float64))


def folds_of(count: int, folds: int, seed: int) -> NDArray[np.int64]:
    """A fold number for each of `count` rows, drawn with `seed`, sizes even to one."""
    return np.random.default_rng(seed).permutation(np.arange(count) % folds)


def out_of_fold(
    rows: Rows, dense: Matrix, target: Vector, penalty: float, folds: NDArray[np.int64]
) -> Vector:
    """Each row's prediction by a solution that did not learn from its fold."""
    predicted = np.zeros(len(rows))
    for fold in np.unique(folds):
        left_out = folds == fold
        solution = solve(rows, dense, target, penalty, mask=~left_out)
        predicted[left_out] = solution.predict(rows, dense)[left_out]
    return predicted
