"""The latency budget of a link as its file states it."""

from collections.abc import Iterator
from dataclasses import dataclass

from starloom.optics.latency import LatencyBudget, Stage, fibre_stage
from starloom.optics.link import Link

_AMPLIFIER_INDEX = 1.468
"""Doped fibre is glass."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A latency that must not be passed, and what is left of it."""

    name: str
    limit_us: float
    left_us: float

    @property
    def kept(self) -> bool:
        return self.left_us >= 0


def latency_budget(link: Link) -> LatencyBudget:
    """Fibres, amplifiers, transceivers and equipment, both ways."""
    forth = list(_stages(link))
    extra = link.latency.back_extra_km
    if not extra:
        return LatencyBudget(forth)
    first = link.fibre(link.spans[0].sections[0].fibre)
    more = abs(extra) * first.us_per_km
    back = [*forth, Stage("way back", more if extra > 0 else -more, is_fibre=True)]
    return LatencyBudget(forth, back)


def limits(link: Link) -> list[Limit]:
    """The limits that the file sets."""
    budget, about = latency_budget(link), link.latency
    found: list[Limit] = []
    if about.max_one_way_us is not None:
        slower = max(budget.one_way_us, budget.back_us)
        left = about.max_one_way_us - slower
        found.append(Limit("one way", about.max_one_way_us, left))
    if about.max_round_trip_us is not None:
        left = budget.left_us(about.max_round_trip_us)
        found.append(Limit("round trip", about.max_round_trip_us, left))
    return found


def _stages(link: Link) -> Iterator[Stage]:
    km: dict[str, float] = {}
    doped_m = 0.0
    for span in link.line:
        for part in span.sections:
            km[part.fibre] = km.get(part.fibre, 0.0) + part.km
        doped_m += link.amplifier_noun(span.amplifier).fibre_m
    for name, length in km.items():
        yield fibre_stage(f"{name}, {length:g} km", length, link.fibre(name).group_index)
    if doped_m:
        inside = fibre_stage("", doped_m / 1e3, _AMPLIFIER_INDEX)
        yield Stage(f"amplifiers, {len(link.line)}", inside.us)
    if link.transceiver.latency_us:
        yield Stage("transceivers", link.transceiver.latency_us)
    for stage in link.latency.equipment:
        yield Stage(stage.name, stage.us)
