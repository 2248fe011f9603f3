"""A training run over several sites, as its file states it.

Sites stand on a ring in the order of the list: the last one's leg goes back to the first. With two
sites there is one leg, which is crossed both ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from starloom.optics import VACUUM_US_PER_KM, catalogue
from starloom.optics import us_per_km as delay_of_index
from starloom.site import BadNames
from starloom.site.base import Count, Name, Noun, Positive, Share
from starloom.site.errors import Loc
from starloom.site.files import load

Strategy = Literal["dp-ring", "dp-hierarchical", "dp-in-network", "pp", "local"]
LatencyMode = Literal["dependency", "barrier", "calibrated"]
HALF_BYTES = 2
"""Of a weight or a gradient in 16 bits."""


class TrainingSite(Noun):
    """One data centre's part of the cluster."""

    name: Name
    gpus: Count
    tflops: Positive | None = None
    """What one GPU reaches here; the job's where absent. Another figure makes stages uneven."""


class Leg(Noun):
    """Fibre between two neighbours on the ring of sites."""

    km: Annotated[float, Field(ge=0, le=40_000)]
    fibre: Name | None = None
    """Of the optics catalogue; its group index gives the delay."""
    us_per_km: Positive | None = None
    """Instead of `fibre`; taken as given, also where it is faster than light, and flagged then."""
    equipment_us: Annotated[float, Field(ge=0)] = 0.0
    """One way, of transponders, switches and encryption."""
    varied: bool = True
    """Whether sweeps over distance change this leg."""

    @model_validator(mode="after")
    def _one_delay(self) -> "Leg":
        if (self.fibre is None) == (self.us_per_km is None):
            raise ValueError("give either `fibre` or `us_per_km`")
        known = {fibre.name for fibre in catalogue().fibres}
        if self.fibre is not None and self.fibre not in known:
            raise ValueError(f"no fibre {self.fibre!r}; there are: {', '.join(sorted(known))}")
        return self

    @property
    def delay_us_per_km(self) -> float:
        if self.us_per_km is not None:
            return self.us_per_km
        index = next(f.group_index for f in catalogue().fibres if f.name == self.fibre)
        return delay_of_index(index)

    @property
    def one_way_s(self) -> float:
        return (self.km * self.delay_us_per_km + self.equipment_us) * 1e-6

    @property
    def faster_than_light(self) -> bool:
        return self.delay_us_per_km < VACUUM_US_PER_KM


class Across(Noun):
    """The run: model, cuts, sites, legs, and what crosses them."""

    name: Name
    base: Path = Path()
    params_b: Positive
    """Weights in 10^9."""
    layers: Count = 80
    hidden: Count = 8192
    batch: Count
    """Sequences of one batch of a replica (`b`)."""
    sequence: Count
    """Tokens."""
    global_batch: Count
    """Sequences of one step (`GBS`)."""
    pipeline: Count
    tensor: Count
    data: Count
    chunks: Count = 5
    """Virtual stages on each pipeline rank (`v`, interleaved 1F1B)."""
    tflops: Positive
    """What one GPU reaches, of dense 16-bit peak."""
    sites: Annotated[tuple[TrainingSite, ...], Field(min_length=2, max_length=16)]
    legs: Annotated[tuple[Leg, ...], Field(min_length=1, max_length=16)]
    line_tbps: Positive
    """Capacity between neighbours, one way."""
    nic_gbps: Positive = 200.0
    """Of one GPU within its site."""
    overlap: Share = 0.0
    """Share of a collective's time that is hidden behind the backward pass."""
    buckets: Count = 1
    """Parts that gradients are sent in."""
    local_steps: Count = 50
    """Of `local`: steps between two exchanges (DiLoCo's H)."""
    ring_round_trips: Positive = 60.0
    """Of the `calibrated` mode: round trips of waiting in one T_batch."""
    background: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the line that others use, in simulations."""
    strategies: Annotated[tuple[Strategy, ...], Field(min_length=1)] = ("dp-ring", "pp")
    distances_km: tuple[Annotated[float, Field(ge=0, le=40_000)], ...] = ()
    """Sweep: each replaces the length of every varied leg."""
    gpu_speeds: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    """Sweep: GPUs so many times as fast."""

    @classmethod
    def load(cls, path: Path) -> "Across":
        """Read a file; raises `SiteError` with the line and the fix of every problem."""
        return load(cls, path)

    @model_validator(mode="after")
    def _adds_up(self) -> "Across":
        found: list[tuple[Loc, str, str]] = []
        world, held = self.pipeline * self.tensor * self.data, sum(s.gpus for s in self.sites)
        if world != held:
            what = f"the cuts need {world} GPUs, the sites have {held}"
            found.append((("sites",), what, f"make them {world} together, or cut otherwise"))
        wanted = 1 if len(self.sites) == 2 else len(self.sites)
        if len(self.legs) != wanted:
            what = f"{len(self.legs)} legs for a ring of {len(self.sites)} sites"
            found.append((("legs",), what, f"give {wanted}, in the order of the sites"))
        if self.global_batch % (self.batch * self.data):
            what = f"a global batch of {self.global_batch} is not whole batches of each replica"
            fix = f"give a multiple of {self.batch * self.data}"
            found.append((("global_batch",), what, fix))
        needs_replicas = any(strategy.startswith("dp") for strategy in self.strategies)
        for at, site in enumerate(self.sites):
            if needs_replicas and site.gpus % self.replica_gpus:
                what = f"{site.gpus} GPUs are not whole replicas of {self.replica_gpus}"
                found.append((("sites", at, "gpus"), what, "give a multiple, or use `pp` alone"))
            if "pp" in self.strategies and site.gpus % self.stage_gpus:
                what = f"{site.gpus} GPUs are not whole stages of {self.stage_gpus}"
                found.append((("sites", at, "gpus"), what, "give a multiple, or leave `pp` out"))
        if found:
            raise BadNames(found)
        return self

    @property
    def replica_gpus(self) -> int:
        return self.pipeline * self.tensor

    @property
    def stage_gpus(self) -> int:
        """GPUs of one pipeline stage over all replicas."""
        return self.tensor * self.data

    @property
    def replicas(self) -> list[int]:
        """Of each site, where replicas are kept whole."""
        return [site.gpus // self.replica_gpus for site in self.sites]

    @property
    def stages(self) -> list[int]:
        """Of each site, where the pipeline is cut between sites."""
        return [site.gpus // self.stage_gpus for site in self.sites]

    @property
    def speeds(self) -> list[float]:
        """TFLOPS of one GPU at each site."""
        return [site.tflops or self.tflops for site in self.sites]

    def at_km(self, km: float) -> "Across":
        """With every varied leg of this length."""
        legs = tuple(leg.model_copy(update={"km": km}) if leg.varied else leg for leg in self.legs)
        return self.model_copy(update={"legs": legs})

    def in_fibre(self, *, fibre: str | None = None, us_per_km: float | None = None) -> "Across":
        """With every leg of another fibre, or of a stated delay."""
        change = {"fibre": fibre, "us_per_km": us_per_km}
        return self.model_copy(
            update={"legs": tuple(leg.model_copy(update=change) for leg in self.legs)}
        )

    def with_gpus(self, speed: float) -> "Across":
        """With GPUs so many times as fast."""
        sites = tuple(
            site.model_copy(update={"tflops": site.tflops * speed}) if site.tflops else site
            for site in self.sites
        )
        return self.model_copy(update={"tflops": self.tflops * speed, "sites": sites})


@dataclass(frozen=True, slots=True)
class Crossings:
    """One-way delays of the ring's edges that leave a site; two sites have two of equal length."""

    one_way_s: Sequence[float]

    @property
    def lap_s(self) -> float:
        """Once around the ring: with two sites a round trip."""
        return sum(self.one_way_s)

    @property
    def longest_s(self) -> float:
        return max(self.one_way_s)


def ring_crossings(run: Across) -> Crossings:
    """Of a ring through all sites and back."""
    delays = [leg.one_way_s for leg in run.legs]
    return Crossings(delays * 2 if len(run.sites) == 2 else delays)
