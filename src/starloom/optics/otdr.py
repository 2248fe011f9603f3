"""What a reflectometer at the amplifier sites can see of each span.

A trace shows power that comes back. Its scale is one way, so a fibre whose backscatter is B dB
below standard fibre takes B / 2 off the dynamic range: -29 dB make the 14.5 dB that are published
for hollow cores. An event at x shows while the range, less a margin, is above the loss up to x.
"""

from dataclasses import dataclass

from starloom.optics.base import Otdr, Span
from starloom.optics.latency import C_KM_PER_S
from starloom.optics.link import Link, span_km

_AFTER_REFLECTION = 3.0
"""Pulse lengths that a trace needs after the reflection where glass meets hollow core; assumed."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is seen of one span."""

    km: float
    seen_from_start_km: float
    seen_from_end_km: float
    """Zero where the far end has no instrument."""
    blind_zones: int
    """Places with a joint or splice; each hides what follows it for a pulse."""
    blind_km: float

    @property
    def covered_km(self) -> float:
        return min(self.km, self.seen_from_start_km + self.seen_from_end_km)

    @property
    def whole(self) -> bool:
        return self.covered_km >= self.km - 1e-9


def coverage(link: Link, span: Span) -> Coverage:
    """What the link's reflectometer sees of a span, from one end or from both."""
    about = link.otdr
    zones, blind = _blind(link, span)
    forth = _seen_km(link, span, about, reverse=False)
    back = _seen_km(link, span, about, reverse=True) if about.two_ended else 0.0
    return Coverage(span_km(span), forth, back, zones, blind)


def reach_km(about: Otdr, loss_db_per_km: float, backscatter_db: float) -> float:
    """How far one end sees along one fibre, both ends' connectors apart."""
    room = about.dynamic_range_db + backscatter_db / 2 - about.margin_db
    return max(0.0, room / loss_db_per_km)


def _seen_km(link: Link, span: Span, about: Otdr, *, reverse: bool) -> float:
    """The last kilometre, from an end, up to which everything shows."""
    order = -1 if reverse else 1
    joints = [*[loss for loss, _ in link.joints(span)][::order], 0.0]
    lost = span.connectors_db[1 if reverse else 0]
    seen = 0.0
    for part, joint in zip(span.sections[::order], joints, strict=True):
        fibre = link.fibre(part.fibre)
        per_km = part.loss_db_per_km or fibre.loss_db_per_km
        per_km += link.splices_db(part) / part.km
        room = about.dynamic_range_db + fibre.backscatter_db / 2 - about.margin_db - lost
        if room <= 0:
            return seen
        if room < per_km * part.km:
            return seen + room / per_km
        seen += part.km
        lost += per_km * part.km + joint
    return seen


def _blind(link: Link, span: Span) -> tuple[int, float]:
    """Joints and splices, and the kilometres behind them that a pulse covers: c t / (2 n_g)."""
    zones, blind = 0, 0.0
    for at, part in enumerate(span.sections):
        fibre = link.fibre(part.fibre)
        pulse_km = C_KM_PER_S * link.otdr.pulse_ns * 1e-9 / (2 * fibre.group_index)
        splices = 0
        if fibre.drum_km is not None:
            splices = max(0, -int(-part.km // fibre.drum_km) - 1)
        mixed = at > 0 and link.fibre(span.sections[at - 1].fibre).kind != fibre.kind
        zones += splices + 1
        blind += (splices + (_AFTER_REFLECTION if mixed else 1.0)) * pulse_km
    return zones, min(blind, span_km(span))
