"""What a plan is made from: a job, a cluster, cuts of the model, and the efficiencies of kernels.

Cuts are a struct of arrays: every field has the shape (n,), one entry a strategy, so that a million
of them are priced by the same few hundred NumPy calls as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starloom.plan.errors import BadPlan
from starloom.plan.network import Network
from starloom.plan.profiles import Profile
from starloom.site import Chip

Array = NDArray[np.float64]
Precision = Literal["bf16", "fp8", "mxfp8", "nvfp4", "int8"]
RECOMPUTE = ("none", "selective", "full")
SCHEDULES = ("1f1b", "zb-h1", "zb-v", "dualpipe")


@dataclass(frozen=True, slots=True)
class Job:
    """A training run's shape. Arrays beside scalars: see `Cuts`."""

    seq_tokens: int
    precision: Precision = "bf16"
    flash: bool = True
    """Attention in one kernel (FlashAttention, arXiv 2205.14135); else scores go to memory."""
    dropout: bool = False
    """Masks of dropout are kept for the backward pass, as GPT-3 was trained."""
    sequence_parallel: bool = True
    """Norms and residuals are cut along the sequence by the TP group (arXiv 2205.05198)."""
    imbalance: float = 1.0
    """Busiest EP rank's tokens over the mean."""
    frozen: bool = False
    """Weights that get no gradient, as under LoRA: the backward pass has no dW, no optimiser."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Chips of one kind in supernodes of one size."""

    chip: Chip
    profile: Profile
    network: Network
    chips: int
    """Of one supernode; how many there are is `Cuts.world`."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """Strategies, one an entry. All arrays are float64 of one shape (n,)."""

    tp: Array
    pp: Array
    vp: Array
    """Model chunks on each stage; 1 is plain 1F1B."""
    dp: Array
    cp: Array
    ep: Array
    """Expert-parallel group; it lies across TP, CP and DP ranks. Experts are not cut further."""
    mbs: Array
    """Sequences in one microbatch."""
    gbs: Array
    """Sequences in one step of all."""
    zero: Array
    """What the DP group shares out: 0 nothing, 1 optimiser states, 2 gradients too, 3 weights too
    (arXiv 1910.02054)."""
    recompute: Array
    """An index into `RECOMPUTE`; 1.25 recomputes a quarter of the layers in full, the rest
    selectively."""
    schedule: Array
    """An index into `SCHEDULES`."""

    @classmethod
    def of(
        cls,
        *,
        gbs: ArrayLike,
        tp: ArrayLike = 1,
        pp: ArrayLike = 1,
        vp: ArrayLike = 1,
        dp: ArrayLike = 1,
        cp: ArrayLike = 1,
        ep: ArrayLike = 1,
        mbs: ArrayLike = 1,
        zero: ArrayLike = 1,
        recompute: ArrayLike | str = "none",
        schedule: ArrayLike | str = "1f1b",
    ) -> Self:
        """Cuts from numbers or arrays that broadcast; raises `BadPlan` for other shapes."""
        if isinstance(recompute, str):
            recompute = _index(RECOMPUTE, recompute, "recompute")
        if isinstance(schedule, str):
            schedule = _index(SCHEDULES, schedule, "schedule")
        given = (tp, pp, vp, dp, cp, ep, mbs, gbs, zero, recompute, schedule)
        try:
            arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(g, float)) for g in given))
        except ValueError as error:
            raise BadPlan(f"cuts of different lengths: {error}") from error
        return cls(*(np.ascontiguousarray(one) for one in arrays))

    def __len__(self) -> int:
        return len(self.tp)

    @property
    def world(self) -> Array:
        """Chips."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def microbatches(self) -> Array:
        """Of one step, through each pipeline."""
        return self.gbs / (self.dp * self.mbs)

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Some of the entries."""
        return replace(self, **{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def row(self, at: int) -> dict[str, float | str]:
        """One entry as plain values."""
        plain: dict[str, float | str] = {
            f.name: float(getattr(self, f.name)[at]) for f in fields(self)
        }
        again = float(self.recompute[at])
        part = f" ({again - 1:.0%} of layers full)" if 1 < again < 2 else ""
        plain["recompute"] = RECOMPUTE[int(again)] + part
        plain["schedule"] = SCHEDULES[int(self.schedule[at])]
        return {k: int(v) if isinstance(v, float) and v == int(v) else v for k, v in plain.items()}


def _index(names: Sequence[str], name: str, field: str) -> int:
    if name not in names:
        raise BadPlan(f"no {field} {name!r}; there are: {', '.join(names)}")
    return names.index(name)
