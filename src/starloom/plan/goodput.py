"""What failures leave of a run: checkpoints, lost work, restarts.

Young's interval sqrt(2 C M) (CACM 1974), corrected as Daly did (FGCS 2006), for a checkpoint that
stops work C seconds, a mean time M between failures of the whole system, and R seconds to start
again.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starloom.plan.errors import BadPlan

Array = NDArray[np.float64]
LLAMA3_CHIP_HOURS = 419 / (54 * 24 * 16384)
"""Unexpected interruptions a chip-hour of Llama 3's training: 419 in 54 days on 16,384 H100 (arXiv
2407.21783, table 5)."""


@dataclass(frozen=True, slots=True)
class Goodput:
    """Arrays of one shape."""

    interval_s: Array
    """Between two checkpoints."""
    share: Array
    """Of the time that work goes on which is kept."""
    mtbf_s: Array


def goodput(
    chips: ArrayLike,
    checkpoint_s: ArrayLike,
    restart_s: ArrayLike = 600.0,
    failures_per_chip_hour: float = LLAMA3_CHIP_HOURS,
    interval_s: ArrayLike | None = None,
) -> Goodput:
    """Share of time that is kept, at the best interval unless one is given.

    Each interval T costs C; each failure costs R and, in the mean, half an interval and its
    checkpoint: share = T/(T + C) (1 - (R + (T + C)/2) / M). Raises `BadPlan` for times below 0 or
    no failures.
    """
    n, cost, again = (np.asarray(one, dtype=np.float64) for one in (chips, checkpoint_s, restart_s))
    if not failures_per_chip_hour > 0 or n.min() < 1 or cost.min() <= 0 or again.min() < 0:
        raise BadPlan("goodput needs chips >= 1, checkpoint_s > 0, restart_s >= 0, failures > 0")
    mtbf = 3600.0 / (failures_per_chip_hour * n)
    if interval_s is None:
        ratio = cost / (2 * mtbf)
        daly = np.sqrt(2 * cost * mtbf) * (1 + np.sqrt(ratio) / 3 + ratio / 9) - cost
        interval = np.where(cost < 2 * mtbf, daly, mtbf)
    else:
        interval = np.asarray(interval_s, dtype=np.float64) + 0 * mtbf
    kept = interval / (interval + cost)
    lost = (again + (interval + cost) / 2) / mtbf
    return Goodput(interval, np.maximum(kept * (1 - lost), 0.0), mtbf)


def checkpoint_s(parameters: ArrayLike, chips: ArrayLike, gb_per_s_per_chip: float = 1.0) -> Array:
    """Seconds that a synchronous checkpoint stops work: 14 bytes a parameter, all write."""
    size = 14.0 * np.asarray(parameters, dtype=np.float64)
    return size / (1e9 * gb_per_s_per_chip * np.asarray(chips, dtype=np.float64))
