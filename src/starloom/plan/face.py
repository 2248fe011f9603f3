"""The planner's face: from names of a model and a supernode to the best cut, in one call."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from starloom.plan.base import Cluster, Cuts, Job
from starloom.plan.errors import BadPlan
from starloom.plan.explain import Node, explain
from starloom.plan.hf import shape_of
from starloom.plan.legal import Limits
from starloom.plan.profiles import Profile, profile, profile_of
from starloom.plan.search import Found, search
from starloom.plan.supernode import cluster_of
from starloom.plan.train import Estimate, evaluate
from starloom.site import ModelShape, Site, Supernode, catalogue

Objective = Literal["time", "memory"]
NEAR = 1.05
"""`memory` takes the smallest of the cuts within this of the fastest."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The chosen cut, what it costs, and what else a search found."""

    shape: ModelShape
    job: Job
    cluster: Cluster
    found: Found
    at: int
    """Which of the found cuts was chosen."""

    @property
    def cut(self) -> Cuts:
        return self.found.cuts.take(np.array([self.at]))

    @property
    def estimate(self) -> Estimate:
        return evaluate(self.shape, self.job, self.cluster, self.cut)

    @property
    def interval_s(self) -> tuple[float, float]:
        """Step time less and more the profile's error."""
        error = self.cluster.profile.error_pct / 100
        step = float(self.found.step_s[self.at])
        return step * (1 - error), step * (1 + error)

    def explain(self) -> Node:
        """The tree behind the step time."""
        return explain(self.shape, self.job, self.cluster, self.cut)


def model_shape(name: str, site: Site | None = None) -> ModelShape:
    """A catalogue's shape, a model of the site's, or a path to a `config.json` or its folder.

    Raises `BadPlan` where there is none.
    """
    if name in catalogue.shapes():
        return catalogue.shapes()[name]
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadPlan(f"{path} is no JSON: {error}") from error
        return shape_of(config)
    if site is not None:
        for model in site.models:
            if model.name == name and model.shape is not None:
                shape = site.shape(name)
                if shape is not None:
                    return shape
    known = ", ".join(sorted(catalogue.shapes()))
    raise BadPlan(f"no model {name!r}: give a config.json, or one of {known}")


def supernode_of(name: str) -> Supernode:
    """A supernode of the catalogue. Raises `BadPlan` where there is none."""
    if name not in catalogue.supernodes():
        known = ", ".join(sorted(catalogue.supernodes()))
        raise BadPlan(f"no supernode {name!r}; there are: {known}")
    return catalogue.supernodes()[name]


def site_supernode(site: Site) -> tuple[Supernode, int]:
    """The supernode that a site's chips stand in, and how many chips it has in all."""
    chips = {site.chip(node.name).name for node in site.nodes}
    if len(chips) > 1:
        raise BadPlan(f"site {site.name!r} mixes chips ({', '.join(sorted(chips))}): plan one kind")
    total = sum(node.chips for node in site.nodes)
    if site.supernode is not None:
        return supernode_of(site.supernode), total
    chip = chips.pop()
    alike = [one for one in catalogue.supernodes().values() if one.chip == chip]
    if not alike:
        raise BadPlan(
            f"no supernode of the catalogue has chip {chip!r}: set `supernode` in the site file"
        )
    return alike[0], total


def plan(
    model: str | ModelShape,
    supernode: str | Supernode,
    chips: int,
    batch: int,
    seq_tokens: int = 4096,
    *,
    precision: str = "bf16",
    objective: Objective = "time",
    use: Profile | str | None = None,
    limits: Limits | None = None,
) -> Plan:
    """The best cut of a training job over `chips`, searched exhaustively.

    `use` is an efficiency profile or its name; by default the chip's newest. Raises `BadPlan`,
    `IllegalCut` or `DoesNotFit`.
    """
    shape = model_shape(model) if isinstance(model, str) else model
    node = supernode_of(supernode) if isinstance(supernode, str) else supernode
    job = Job(seq_tokens, precision)  # type: ignore[arg-type]
    chosen = profile(use) if isinstance(use, str) else use or profile_of(node.chip)
    cluster = cluster_of(node, chosen, min(node.chips, max(chips, 1)))
    found = search(shape, job, cluster, chips, batch, limits)
    at = 0
    if objective == "memory":
        near = found.step_s <= NEAR * found.step_s[0]
        at = int(np.argmin(np.where(near, found.memory_bytes, np.inf)))
    return Plan(shape, job, cluster, found, at)
