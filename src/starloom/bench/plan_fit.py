"""Which profiles are fitted to which rows, and the fit.

`python -m starloom.bench.plan_fit DATA OUT.yaml` fits all and writes them.

Ten physical parameters a profile at the most. Priors of products are what the operator table of the
same chip gives alone (aic_gemm_subset); those of attention stand in FlashAttention's papers; hidden
shares are guesses, and the fit says where the rows move them.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from starloom.bench.plan_cases import Case, answers, grouped
from starloom.bench.plan_operators import fit_kernels
from starloom.bench.plan_serving import fit_serving
from starloom.bench.plan_training import TABLES
from starloom.plan.calibrate import Fit, Free, fit
from starloom.plan.profiles import Profile

GEMM = {"b200": 0.664, "b300": 0.70, "gb200": 0.637, "gb300": 0.743}
GEMM_FP8 = {"b200": 0.579, "b300": 0.606, "gb200": 0.537, "gb300": 0.635}
CHIPS = {
    "a100": "a100-sxm-80gb",
    "h100": "h100-sxm",
    "b200": "b200-sxm",
    "b300": "b300-sxm",
    "gb200": "gb200",
    "gb300": "gb300",
}


@dataclass(frozen=True)
class Family:
    """Profiles that are fitted together."""

    name: str
    table: str
    facts: dict[str, Any]
    """What the software does, as its makers say."""
    free: Callable[[Sequence[str]], list[Free]]
    on: str
    """Which rows; the rest of the table is for checking."""
    match: Callable[[Case], bool] = field(default=lambda _: True)

    def cases(self, data: Path) -> list[Case]:
        """All rows of the table under this family's profiles."""
        return [case for case in TABLES[self.table](data)[0] if self.match(case)]

    def fit(self, data: Path, *, leave_out: bool = True) -> Fit | None:
        """Fitted to the rows of `data`; none where it has none."""
        cases = [case for case in self.cases(data) if case.fitted]
        if not cases:
            return None
        groups = grouped(cases)
        order = [case for group in groups for case in group.cases]
        names = sorted({case.profile for case in self.cases(data)})
        free = self.free(names)
        start = {
            name: Profile(
                name=name,
                chip=CHIPS[name.split("-")[1]],
                release=name.split("-", 3)[-1],
                fitted=tuple(one.field for one in free if name in one.profiles),
                fitted_on=f"{self.table}: {self.on}",
                source=f"STARLOOM_DATA ground_truth/{self.table}.csv, whose rows name their source",
                **self.facts,
            )
            for name in names
        }

        def predict(profiles: "dict[str, Profile] | object") -> np.ndarray:
            assert isinstance(profiles, dict)  # noqa: S101
            return np.array(
                [
                    answer.step_s
                    for group in groups
                    for answer in group.answer(profiles[group.cases[0].profile])
                ]
            )

        labels = [case.model for case in order] if leave_out else []
        return fit(start, free, predict, np.array([case.measured_s for case in order]), labels)


def _all(names: Sequence[str], **priors: float) -> list[Free]:
    return [Free(name, tuple(names), prior) for name, prior in priors.items()]


def _bridge(names: Sequence[str]) -> list[Free]:
    """Products by chip, attention and hidden exchanges by all, experts by release."""

    def of(*chips: str) -> tuple[str, ...]:
        return tuple(name for name in names if name.split("-")[1] in chips)

    chips = sorted({name.split("-")[1] for name in names})
    free = [Free("gemm", of(chip), GEMM.get(chip, 0.793)) for chip in chips]
    free += [Free("gemm_fp8", of(chip), GEMM_FP8.get(chip, 0.657)) for chip in chips]
    for pair, prior in ((("b200", "gb200"), 0.46), (("b300", "gb300"), 0.34)):
        free += [Free("gemm_fp4", of(*pair), prior)] if of(*pair) else []
    for hosts, prior in ((("gb200", "gb300"), 60.0), (("b200", "b300", "h100"), 100.0)):
        free += [Free("issue_us", of(*hosts), prior)] if of(*hosts) else []
    free += _all(names, attention=0.55, tp_hidden=0.5, memory=0.8)
    for release in sorted({name.rsplit("-", 1)[1] for name in names}):
        own = [name for name in names if name.endswith(f"-{release}")]
        free += _all(own, grouped=0.7, ep_hidden=0.3, launch_us=4.0)
    return free


BRIDGE_FACTS: dict[str, Any] = {"dedup": True, "grad_bytes": 2, "straggler": 0.004}
BRIDGE_ON = "pre-training of Llama 3 8B and 70B, Qwen3 30B, GPT-OSS 120B, DeepSeek-V3"

FAMILIES = (
    Family(
        "a100-megatron-2021",
        "megatron_seqsel_2205_05198",
        {"overlap_dp": False, "overlap_pp": False},
        lambda names: _all(names, gemm=0.79, memory=0.8, launch_us=7.0),
        "all 8 rows",
    ),
    Family(
        "b200-megatron-2025",
        "simumax_b200_v1_2",
        {},
        lambda names: _all(
            names, gemm=0.664, memory=0.75, launch_us=4.0, attention=0.5, grouped=0.8, tp_hidden=0.1
        ),
        "all rows, on one node",
    ),
    Family(
        "h100-nemo-2411",
        "nvidia_dgxc_scaling",
        {"grad_bytes": 2},
        lambda names: _all(
            names,
            gemm=0.793,
            gemm_fp8=0.657,
            memory=0.8,
            launch_us=5.0,
            attention=0.55,
            tp_hidden=0.5,
            straggler=0.004,
        ),
        "GPT-3 175B and Nemotron-4 340B",
        lambda case: case.profile == "train-h100-nemo-2411",
    ),
    Family(
        "a100-fsdp-2024",
        "mosaicml_mpt_fsdp",
        {"grad_bytes": 2},
        lambda names: _all(
            names,
            gemm=0.79,
            memory=0.8,
            launch_us=7.0,
            attention=0.6,
            issue_us=20.0,
            straggler=0.004,
        ),
        "8 GPUs, sequences of 2,048 and 16,384",
        lambda case: case.profile == "train-a100-fsdp-2024",
    ),
    Family(
        "h100-fsdp-2024",
        "mosaicml_mpt_fsdp",
        {"grad_bytes": 2},
        lambda names: _all(
            names,
            gemm=0.793,
            gemm_fp8=0.6,
            memory=0.8,
            launch_us=5.0,
            attention=0.5,
            issue_us=20.0,
            straggler=0.004,
        ),
        "8 GPUs, sequences of 2,048 and 16,384",
        lambda case: case.profile == "train-h100-fsdp-2024",
    ),
    Family(
        "h100-bridge",
        "megatron_bridge_training",
        BRIDGE_FACTS,
        _bridge,
        BRIDGE_ON,
        lambda case: "-h100-" in case.profile,
    ),
    Family(
        "blackwell-bridge",
        "megatron_bridge_training",
        BRIDGE_FACTS,
        _bridge,
        BRIDGE_ON,
        lambda case: "-h100-" not in case.profile,
    ),
)


TAKEN_OVER_PCT = 15.0
"""Interval of parameters that were fitted for another software: assumed."""


def taken_over(fitted: dict[str, Profile]) -> list[Profile]:
    """Profiles that no row was fitted for: another's parameters, this software's own facts."""
    made = []
    for name, chip, like, facts, source in (
        (
            "train-a100-megascale",
            "a100-sxm-80gb",
            "train-a100-megatron-2021",
            {"overlap_dp": True, "overlap_pp": True, "attention": 0.6, "tp_hidden": 0.5},
            "MegaScale (NSDI '24) section 3: exchanges overlapped, FlashAttention-2; share assumed",
        ),
        (
            "train-a100-megatron-deepspeed-2021",
            "a100-sxm-80gb",
            "train-a100-megatron-2021",
            {"scatter_gather": False},
            "arXiv 2201.11990: DeepSpeed's pipeline sends whole activations from every TP rank",
        ),
        (
            "train-h100-meta-2024",
            "h100-sxm",
            "train-h100-nemo-2411",
            {"tp_hidden": 0.0, "grad_bytes": 4},
            "arXiv 2407.21783 section 3.3: FSDP and PP overlapped, fp32 gradients",
        ),
        (
            "train-h100-mlperf-2025",
            "h100-sxm",
            "train-h100-nemo-2411",
            {},
            "NeMo 25.01 of mlcommons/training_results_v5.0, taken as 24.11",
        ),
        (
            "train-h200-mlperf-2025",
            "h200-sxm",
            "train-h100-nemo-2411",
            {},
            "the same compute as the H100",
        ),
        (
            "train-h800-deepseek",
            "h800-sxm",
            "train-h100-nemo-2411",
            {"dedup": True, "tp_hidden": 0.0},
            "arXiv 2412.19437: the H100's compute, node-limited dispatch without duplicates",
        ),
    ):
        base = fitted[like]
        made.append(
            base.model_copy(
                update={
                    "name": name,
                    "chip": chip,
                    "release": name.split("-", 2)[-1],
                    "fitted": (),
                    "error_pct": max(base.error_pct, TAKEN_OVER_PCT),
                    "fitted_on": f"nothing of its own; parameters of {like}",
                    "source": source,
                    **facts,
                }
            )
        )
    return made


def as_yaml(profiles: Sequence[Profile], head: str) -> str:
    """Profiles as the package's YAML: what differs from the defaults, four digits."""
    lines = [head]
    for one in profiles:
        data = one.model_dump(exclude_defaults=True, mode="json")
        name = data.pop("name")
        kept = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in data.items()}
        lines.append(yaml.safe_dump({name: kept}, sort_keys=False, width=100))
    return "\n".join(lines)


HEAD = """\
# Efficiency profiles. Made by `python -m starloom.bench.plan_fit`: `fitted` names what a fit set,
# and `fitted_on` the rows. Other figures are defaults of plan/profiles.py or facts of the software.
"""


def main(data: Path, out: Path) -> None:
    """Fit all families to `data` and write the profiles to `out`."""
    fitted: dict[str, Profile] = {}
    for family in FAMILIES:
        result = family.fit(data)
        if result is not None:
            spread = {"error_pct": error_pct(family, data, result)}
            fitted |= {name: one.model_copy(update=spread) for name, one in result.profiles.items()}
            sys.stderr.write(f"{family.name}: fit {result.mape_pct:.1f} %\n")
    every = [*fitted.values(), *taken_over(fitted), *serving(data)]
    out.write_text(as_yaml(every, HEAD), encoding="utf-8")


def error_pct(family: Family, data: Path, result: Fit) -> float:
    """Of rows that were not fitted, or of models left out, whichever is the larger; at least 3."""
    found = answers(
        [case for case in family.cases(data) if not case.fitted], result.profiles.__getitem__
    )
    checked = 100 * float(np.mean([abs(one.error) for one in found])) if found else 0.0
    return round(max(checked, result.left_out_mape_pct if result.left_out else 0.0, 3.0), 1)


def serving(data: Path) -> list[Profile]:
    """Kernel profiles from operator tables, and serving profiles on top of them."""
    kernels = fit_kernels(data)
    if kernels is None:
        return []
    served = fit_serving(data, kernels.profiles, leave_out=False)
    return [*kernels.profiles.values(), *(served.profiles.values() if served else [])]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
