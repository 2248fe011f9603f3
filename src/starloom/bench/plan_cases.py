"""Rows of measured training tables as questions to the planner, and its answers to many at once.

A row that leaves something open (recomputation, or the microbatch and interleaving of arXiv
2104.04473) is answered with the planner's own optimum over what is open, under memory.
"""

import csv
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.plan.base import RECOMPUTE, SCHEDULES, Cluster, Cuts, Job
from starloom.plan.memory import Memory, fits
from starloom.plan.network import FabricNetwork
from starloom.plan.profiles import Profile
from starloom.plan.train import evaluate
from starloom.site import ModelShape, catalogue

Array = NDArray[np.float64]
Row = Mapping[str, str]
AXES = ("tp", "pp", "vp", "dp", "cp", "ep", "mbs", "gbs", "zero", "recompute", "schedule")


@dataclass(frozen=True)
class Case:
    """One measured row."""

    table: str
    name: str
    model: str
    """What leave-one-model-out leaves out."""
    profile: str
    supernode: str
    shape: ModelShape
    job: Job
    cuts: tuple[tuple[float, ...], ...]
    """In the order of `AXES`; several where the row leaves something open."""
    measured_s: float
    """A step's seconds."""
    fitted: bool = False
    """Whether the profile may be fitted to this row; else it is for checking."""
    allocated_gib: float | None = None
    release: str = ""


def cuts_of(**axes: float | str | Sequence[float] | Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """The product of what is given for each axis; absent ones are 1, `zero` 1, no recomputation."""
    names = {"recompute": RECOMPUTE, "schedule": SCHEDULES}
    default: dict[str, float] = {"recompute": 0.0, "schedule": 0.0}
    columns = []
    for axis in AXES:
        given = axes.get(axis, default.get(axis, 1.0))
        many = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        columns.append(
            [float(names[axis].index(v)) if isinstance(v, str) else float(v) for v in many]
        )
    return tuple(itertools.product(*columns))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of one CSV; none where the file is absent."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(row: Row, column: str, default: float | None = None) -> float:
    """A number in a row; `n/a` and blanks are the default. Raises `ValueError` without one."""
    text = row.get(column, "").strip()
    if text in ("", "n/a"):
        if default is None:
            raise ValueError(f"{column} is blank")
        return default
    return float(text)


@cache
def network(supernode: str, size: int | None = None) -> FabricNetwork:
    """The network of a catalogue supernode, of another size where one is given."""
    return FabricNetwork(catalogue.supernodes()[supernode], size)


@dataclass(frozen=True)
class Answer:
    """The planner's answer to one case."""

    case: Case
    step_s: float
    allocated_gib: float
    fits: bool

    @property
    def error(self) -> float:
        """Relative: above 0 where the planner is too slow."""
        return self.step_s / self.case.measured_s - 1


@dataclass
class Asked:
    """Cases that share shape, job and cluster, so that one call prices all their cuts."""

    cases: list[Case] = field(default_factory=list)
    _known: dict[Profile, list[Answer]] = field(default_factory=dict)
    _memory: dict[int, Memory] = field(default_factory=dict)

    def answer(self, profile: Profile) -> list[Answer]:
        """Each case's fastest cut of those that fit, of all where none does."""
        if profile not in self._known:
            if len(self._known) > 64:
                self._known.clear()
            self._known[profile] = self._answer(profile)
        return self._known[profile]

    def _answer(self, profile: Profile) -> list[Answer]:
        first = self.cases[0]
        supernode = catalogue.supernodes()[first.supernode]
        cluster = Cluster(
            catalogue.chips()[supernode.chip], profile, network(first.supernode), supernode.chips
        )
        rows = np.array([cut for case in self.cases for cut in case.cuts]).T
        cuts = Cuts(*(np.ascontiguousarray(column) for column in rows))
        known = self._memory.get(profile.grad_bytes)
        estimate = evaluate(first.shape, first.job, cluster, cuts, known)
        self._memory[profile.grad_bytes] = estimate.memory
        fitting = fits(estimate.memory, cluster.chip)
        ends = np.cumsum([len(case.cuts) for case in self.cases])
        answers = []
        for case, last in zip(self.cases, ends, strict=True):
            part = slice(last - len(case.cuts), last)
            step, fit = estimate.step_s[part], fitting[part]
            at = int(np.argmin(np.where(fit, step, np.inf) if fit.any() else step))
            gib = float(estimate.memory.allocated[part][at]) / 2**30
            answers.append(Answer(case, float(step[at]), gib, bool(fit[at])))
        return answers


def grouped(cases: Iterable[Case]) -> list[Asked]:
    """Cases gathered by what they share."""
    found: dict[tuple[object, ...], Asked] = {}
    for case in cases:
        key = (case.profile, case.supernode, case.shape.model_dump_json(), case.job)
        found.setdefault(key, Asked()).cases.append(case)
    return list(found.values())


def answers(cases: Iterable[Case], profile: Callable[[str], Profile]) -> list[Answer]:
    """The planner's answers, `profile` giving each name its profile."""
    return [
        one for group in grouped(cases) for one in group.answer(profile(group.cases[0].profile))
    ]


def with_layers(shape: ModelShape, layers: int) -> ModelShape:
    """A cut model: fewer layers, at most one of them dense before those with experts, no MTP."""
    moe = shape.moe
    if moe is not None and layers != shape.layers:
        moe = moe.model_copy(update={"first_dense": min(moe.first_dense, 1)})
    return shape.model_copy(update={"layers": layers, "moe": moe, "mtp_layers": 0})


def replaced(case: Case, **changes: object) -> Case:
    """A case with other fields."""
    return replace(case, **changes)  # type: ignore[arg-type]
