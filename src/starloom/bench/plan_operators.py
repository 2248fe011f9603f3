"""Tables of single operators: products, experts, collectives, dispatch and combine.

A chip's kernel profile is fitted to every second row of its product table and, where there is one,
of its table of experts; all rows are scored, the others are the check. Collectives are `fabric`'s,
which is fitted elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.bench.plan_cases import network, number, read
from starloom.plan.calibrate import Fit, Free, fit
from starloom.plan.operators import GEMM_BYTES, Kernels
from starloom.plan.profiles import Profile
from starloom.site import catalogue

Array = NDArray[np.float64]
SYSTEMS = {
    "a100_sxm": ("a100-sxm-80gb", "dgx-a100"),
    "h100_sxm": ("h100-sxm", "dgx-h100"),
    "h200_sxm": ("h200-sxm", "dgx-h200"),
    "b200_sxm": ("b200-sxm", "dgx-b200"),
    "b300_sxm": ("b300-sxm", "dgx-b300"),
    "gb200": ("gb200", "gb200-nvl72"),
    "gb300": ("gb300", "gb300-nvl72"),
}
PRECISIONS = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "nvfp4": "nvfp4",
    "sq": "int8",
    "int4_wo": "w4a16",
}
KINDS = {"alltoall": "all_to_all"}
IMBALANCE = {"balanced": 1.0, "power_law_1.01": 1.5, "power_law_1.2": 2.0}
"""Busiest expert-parallel rank over the mean; of the power laws assumed, not fitted."""


@dataclass(frozen=True)
class Table:
    """One operator table: measured and predicted microseconds, and which rows a fit may see."""

    stem: str
    measured_us: Array
    predicted_us: Array
    fitted: NDArray[np.bool_]
    rows: int

    @property
    def errors(self) -> Array:
        """Relative: above 0 where ours is the slower."""
        return self.predicted_us / self.measured_us - 1


@dataclass(frozen=True)
class _Gemms:
    """One system's products in one precision."""

    chip: str
    precision: str
    m: Array
    n: Array
    k: Array
    groups: Array
    factor: Array
    measured_us: Array

    def time_us(self, profile: Profile) -> Array:
        kernels = Kernels(catalogue.chips()[self.chip], profile, self.precision)
        return 1e6 * kernels.gemm_s(self.m, self.n, self.k, groups=self.groups)


def _gemms(data: Path) -> list[_Gemms]:
    found: dict[tuple[str, str], list[list[float]]] = {}
    for row in read(data / "aic_gemm_subset.csv"):
        precision = PRECISIONS.get(row["gemm_dtype"])
        if row["system"] in SYSTEMS and precision is not None:
            values = [number(row, c) for c in ("m", "n", "k", "latency_us")]
            found.setdefault((row["system"], precision), []).append(values)
    gemms = []
    for (system, precision), rows in found.items():
        m, n, k, us = np.array(rows).T
        one = np.ones_like(m)
        gemms.append(_Gemms(SYSTEMS[system][0], precision, m, n, k, one, one, us))
    return gemms


@dataclass(frozen=True)
class _Experts:
    """One system's experts in one precision: two grouped products and the way in and out."""

    chip: str
    precision: str
    tokens: Array
    hidden: Array
    inner: Array
    topk: Array
    experts: Array
    ep: Array
    imbalance: Array
    measured_us: Array

    def time_us(self, profile: Profile) -> Array:
        """Tokens of one rank's experts: of all tokens that enter, each goes to `topk` of them."""
        kernels = Kernels(catalogue.chips()[self.chip], profile, self.precision)
        copies = self.tokens * self.topk / self.ep * self.imbalance
        touched = self.experts * (1 - (1 - self.topk / self.experts) ** self.tokens)
        local = np.maximum(touched / self.ep, np.minimum(copies, 1.0))
        rows = copies / local
        time = kernels.gemm_s(rows, 2 * self.inner, self.hidden, groups=local)
        time = time + kernels.gemm_s(rows, self.hidden, self.inner, groups=local)
        moved = 2.0 * copies * (4 * self.hidden + 3 * self.inner)
        return 1e6 * (time + moved / kernels.bandwidth + 3 * kernels.launch_s)


def _experts(data: Path) -> list[_Experts]:
    found: dict[tuple[str, str], list[list[float]]] = {}
    names = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_ep_size")
    for row in read(data / "aic_moe_subset.csv"):
        precision = PRECISIONS.get(row["moe_dtype"])
        share = IMBALANCE.get(row["distribution"])
        if row["system"] in SYSTEMS and precision is not None and share is not None:
            values = [number(row, c) for c in names] + [share, number(row, "latency_us")]
            found.setdefault((row["system"], precision), []).append(values)
    return [
        _Experts(SYSTEMS[system][0], precision, *np.array(rows).T)
        for (system, precision), rows in found.items()
    ]


def fit_kernels(data: Path) -> Fit | None:
    """Per chip: shares of the peaks, of bandwidth, of waves, launches; on every second row."""
    parts: list[_Gemms | _Experts] = [*_gemms(data), *_experts(data)]
    if not parts:
        return None
    chips = sorted({part.chip for part in parts})
    used = {"bf16": "gemm", "fp8": "gemm_fp8", "int8": "gemm_fp8", "nvfp4": "gemm_fp4"}
    free = []
    for chip in chips:
        own = (f"kernels-{chip}",)
        fields = sorted(
            {used[p.precision] for p in parts if p.chip == chip and p.precision in used}
        )
        free += [Free(name, own, {"gemm": 0.75, "gemm_fp8": 0.6}.get(name, 0.4)) for name in fields]
        free += [Free("memory", own, 0.8), Free("wave", own, 0.5), Free("launch_us", own, 4.0)]
        if any(p.precision in ("fp8", "nvfp4", "int8") for p in parts if p.chip == chip):
            free.append(Free("quantise_us", own, 8.0))
        if any(isinstance(p, _Experts) for p in parts if p.chip == chip):
            free.append(Free("grouped", own, 0.8))
    start = {
        f"kernels-{chip}": Profile(
            name=f"kernels-{chip}",
            chip=chip,
            release="aic-op-tables",
            fitted=tuple(one.field for one in free if f"kernels-{chip}" in one.profiles),
            fitted_on="aic_gemm_subset and aic_moe_subset: every second row",
            source="STARLOOM_DATA ground_truth: ai-dynamo/aiconfigurator @095f58a",
        )
        for chip in chips
    }
    cases = [_Half(part) for part in parts]

    def predict(profiles: Mapping[str, Profile]) -> Array:
        return np.concatenate(
            [case.time_us(profiles[f"kernels-{case.part.chip}"]) for case in cases]
        )

    measured = np.concatenate([case.measured_us for case in cases])
    return fit(start, free, predict, measured, pull=0.05)


class _Half:
    """Every second row of a part, remembered per profile."""

    def __init__(self, part: _Gemms | _Experts) -> None:
        self.part = part
        self.measured_us = part.measured_us[::2]
        self.time_us = cache(self._time_us)

    def _time_us(self, profile: Profile) -> Array:
        return self.part.time_us(profile)[::2]


def operator_tables(data: Path, profiles: Mapping[str, Profile]) -> list[Table]:
    """All operator tables that are there."""
    found = []
    for stem, parts in (("aic_gemm_subset", _gemms(data)), ("aic_moe_subset", _experts(data))):
        if parts:
            found.append(_scored(stem, parts, profiles, len(read(data / f"{stem}.csv"))))
    for make in (_collectives, _exchanges):
        table = make(data)
        if table is not None:
            found.append(table)
    return found


def _scored(
    stem: str, parts: Sequence[_Gemms | _Experts], profiles: Mapping[str, Profile], rows: int
) -> Table:
    predicted = [part.time_us(profiles[f"kernels-{part.chip}"]) for part in parts]
    fitted = [np.arange(len(part.measured_us)) % 2 == 0 for part in parts]
    return Table(
        stem,
        np.concatenate([part.measured_us for part in parts]),
        np.concatenate(predicted),
        np.concatenate(fitted),
        rows,
    )


def _collectives(data: Path) -> Table | None:
    """Sizes are numbers of two bytes, of the whole buffer (README of the folder)."""
    rows = [row for row in read(data / "aic_nccl_intra_domain.csv") if row["system"] in SYSTEMS]
    if not rows:
        return None
    groups: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for row in rows:
        kind = KINDS.get(row["op_name"], row["op_name"])
        size = 2 * number(row, "message_elements_or_bytes")
        values = (size, number(row, "num_gpus"), number(row, "latency_us"))
        groups.setdefault((SYSTEMS[row["system"]][1], kind), []).append(values)
    predicted, measured = [], []
    for (supernode, kind), many in groups.items():
        size, n, us = np.array(many).T
        predicted.append(1e6 * network(supernode).time_s(kind, size, n))
        measured.append(us)
    all_us = np.concatenate(measured)
    return Table(
        "aic_nccl_intra_domain",
        all_us,
        np.concatenate(predicted),
        np.zeros(len(all_us), bool),
        len(rows),
    )


def _exchanges(data: Path) -> Table | None:
    """GB200's dispatch and combine; a token goes to each rank once. `prepare` moves no tokens."""
    sizes = {"bfloat16": 2.0, "fp8": 1.0, "nvfp4": GEMM_BYTES["nvfp4"]}
    every = read(data / "aic_gb200_moe_alltoall.csv")
    predicted, measured = [], []
    for row in every:
        if "GB200" not in row["device"] or row["op_name"] == "alltoall_prepare":
            continue
        ep, topk = number(row, "moe_ep_size"), number(row, "topk")
        combine = row["op_name"] == "alltoall_combine"
        width = 2.0 if combine else sizes.get(row["moe_dtype"], 1.0)
        ranks = ep * (1 - (1 - 1 / ep) ** topk)
        size = number(row, "num_tokens") * number(row, "hidden_size") * width * ranks
        predicted.append(1e6 * float(network("gb200-nvl72").time_s("all_to_all", size, ep)))
        measured.append(number(row, "latency_us"))
    if not measured:
        return None
    us = np.array(measured)
    return Table(
        "aic_gb200_moe_alltoall", us, np.array(predicted), np.zeros(len(us), bool), len(every)
    )


Predict = Callable[[Mapping[str, Profile]], Array]
