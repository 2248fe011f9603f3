"""How a link survives a cut: schemes, availability, and the price of a path that is not as long.

| scheme | doubled | switches at |
|---|---|---|
| `section` | fibre between sites | the optical multiplex section |
| `channel` | fibre and amplifiers | the optical channel, in front of the transponder |
| `odu-sncp` | fibre, amplifiers, line cards | the ODUk cross-connect; client cards are single |
| `client` | everything but the client's port | the client's interface |

All switch within 50 ms of a detected fault, the limit of ITU-T G.841 and G.873.1.
"""

from dataclasses import dataclass
from typing import Literal

from starloom.optics.base import Protection
from starloom.optics.latency import fibre_us
from starloom.optics.link import Link

SWITCH_MS = 50.0
_DOUBLED: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "section": frozenset({"fibre"}),
    "channel": frozenset({"fibre", "amplifiers"}),
    "odu-sncp": frozenset({"fibre", "amplifiers", "line cards"}),
    "client": frozenset({"fibre", "amplifiers", "line cards", "client cards"}),
}
_HOURS_A_YEAR = 8766.0
Scheme = Literal["none", "section", "channel", "odu-sncp", "client"]


@dataclass(frozen=True, slots=True)
class Survival:
    """What a scheme makes of a link."""

    scheme: str
    unavailability: dict[str, float]
    """By part, after doubling; they add."""
    cuts_per_year: float
    """Of the working fibre."""
    switch_ms: float | None
    """Interruption at a cut; None where only a repair helps."""
    difference_us: float
    """One way, protecting path less working path."""
    skew_buffer_bytes: float
    """Of one channel, for a hitless switch; zero where copies are not compared."""
    added_us: float
    """What waiting for the slower copy adds, one way."""

    @property
    def availability(self) -> float:
        return 1 - sum(self.unavailability.values())

    @property
    def down_minutes_per_year(self) -> float:
        return sum(self.unavailability.values()) * _HOURS_A_YEAR * 60


def survival(link: Link, scheme: Scheme | None = None) -> Survival:
    """Availability and latency under a scheme (the link's own where absent).

    A part that fails every MTBF and takes MTTR is down MTTR / (MTBF + MTTR) of the time; of two,
    both at once at the product. Line and client cards share a transponder's failures evenly.
    """
    about = link.protection
    scheme = about.scheme if scheme is None else scheme
    doubled = _DOUBLED[scheme]
    working = _parts(link, link.km, about)
    protecting = _parts(link, about.diverse_km or link.km, about)
    down = {
        name: share * protecting[name] if name in doubled else share
        for name, share in working.items()
    }
    difference = 0.0 if scheme == "none" else _difference_us(link, about)
    hitless = about.hitless and scheme != "none"
    rate = link.mode_noun.rate_gbps * 1e9
    return Survival(
        scheme=scheme,
        unavailability=down,
        cuts_per_year=_HOURS_A_YEAR * link.km / about.fibre_mtbf_km_h,
        switch_ms=None if scheme == "none" else 0.0 if hitless else SWITCH_MS,
        difference_us=difference,
        skew_buffer_bytes=rate * abs(difference) * 1e-6 / 8 if hitless else 0.0,
        added_us=max(0.0, difference) if hitless else 0.0,
    )


def _parts(link: Link, km: float, about: Protection) -> dict[str, float]:
    mended = about.equipment_mttr_h
    amplifiers = sum(
        span.repeat * mended / (mtbf + mended)
        for span in link.spans
        if (mtbf := link.amplifier_noun(span.amplifier).mtbf_h) is not None
    )
    between = about.fibre_mtbf_km_h / km
    cards = mended / (about.equipment_mtbf_h + mended)  # of one end; two ends, two halves each
    return {
        "fibre": about.fibre_mttr_h / (between + about.fibre_mttr_h),
        "amplifiers": amplifiers * km / link.km,
        "line cards": cards,
        "client cards": cards,
    }


def _difference_us(link: Link, about: Protection) -> float:
    first = link.fibre(about.diverse_fibre or link.spans[0].sections[0].fibre)
    working = sum(
        fibre_us(part.km, link.fibre(part.fibre).group_index)
        for span in link.line
        for part in span.sections
    )
    return fibre_us(about.diverse_km or link.km, first.group_index) - working
