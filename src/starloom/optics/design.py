"""Questions that an engineer asks of a link: which power, how far, how much, which fibre."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, log2, sqrt

import numpy as np

from starloom.optics import gas
from starloom.optics.base import PLANCK_J_S, REFERENCE_GHZ, Floats, Section, Span
from starloom.optics.engine import Design, evaluate
from starloom.optics.errors import BadLink
from starloom.optics.fibre import REFERENCE_THZ
from starloom.optics.link import Link, span_km

MAX_REACH_KM = 20_000.0


@dataclass(frozen=True, slots=True, eq=False)
class PowerSweep:
    """Worst channels by launch power."""

    launch_dbm: Floats
    osnr_db: Floats
    gsnr_db: Floats
    margin_db: Floats

    @property
    def best_dbm(self) -> float:
        """The power with the largest margin."""
        return float(self.launch_dbm[self.margin_db.argmax()])


def power_sweep(link: Link, launch_dbm: Sequence[float]) -> PowerSweep:
    """Evaluate a link at each launch power. Limits of amplifiers hold."""
    designs = [evaluate(link.changed(launch_dbm=float(power))) for power in launch_dbm]
    worst = [(d.osnr_db.min(), d.gsnr_db.min(), d.margin_db.min()) for d in designs]
    osnr, gsnr, margin = np.array(worst).T
    return PowerSweep(np.asarray(launch_dbm, dtype=np.float64), osnr, gsnr, margin)


def best_launch_dbm(link: Link, low: float = -12.0, high: float = 12.0) -> float:
    """The launch power of the largest worst margin, to 0.05 dB, by golden section."""
    ratio = (5**0.5 - 1) / 2

    def worst(power: float) -> float:
        return float(evaluate(link.changed(launch_dbm=power)).margin_db.min())

    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = worst(left), worst(right)
    while high - low > 0.05:
        if at_left < at_right:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = worst(right)
        else:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = worst(left)
    return (low + high) / 2


def reach_km(link: Link, *, best_launch: bool = False) -> float:
    """How far the link's first span, repeated, carries its mode on every channel.

    The last span is as short as it must be. `best_launch`: at each length with the best launch
    power. Zero where not even a kilometre works; at most `MAX_REACH_KM`. Good to 0.1 %.
    """

    def works(km: float) -> bool:
        long = lengthened(link, km)
        if best_launch:
            long = long.changed(launch_dbm=best_launch_dbm(long))
        return evaluate(long).works

    low, high = 1.0, 2.0
    if not works(low):
        return 0.0
    while works(high):
        low, high = high, 2 * high
        if low >= MAX_REACH_KM:
            return MAX_REACH_KM
    while high - low > 1e-3 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if works(middle) else (low, middle)
    return low


def lengthened(link: Link, km: float) -> Link:
    """The link with its first span repeated up to a length, the last one cut to fit."""
    span = link.spans[0]
    each = span_km(span)
    count, rest = divmod(km, each)
    spans: list[Span] = []
    if count >= 1:
        spans.append(span.model_copy(update={"repeat": int(count)}))
    if rest > 1e-6 * each:
        spans.append(_shortened(span, rest / each))
    return link.changed(spans=tuple(spans))


def after_cut(link: Link, hours: float, *, humidity: float = 0.5, kelvin: float = 293.15) -> Link:
    """The link mended after a cut in the middle of its longest hollow section, open for `hours`.

    Outdoor air went in on both sides (`gas.ingress_km`, the core taken as evacuated where its gas
    is below 0.1 atm) and stays; two splices mend the fibre. Raises `BadLink` without a hollow core.
    """
    hollow = [
        (part.km, at, place)
        for at, span in enumerate(link.spans)
        for place, part in enumerate(span.sections)
        if link.fibre(part.fibre).kind == "hollow"
    ]
    if not hollow:
        raise BadLink("no hollow section to cut: gas does not get into glass")
    km, at, place = max(hollow)
    span = link.spans[at]
    part = span.sections[place]
    inside = part.gas.pressure_atm
    wet_km = min(km / 2, gas.ingress_km(hours, core_atm=0.0 if inside < 0.1 else inside))
    air = gas.humid_air(humidity, kelvin)
    pieces = [part.model_copy(update={"km": 2 * wet_km, "gas": air, "joint_db": 0.0})]
    if wet_km < km / 2:
        dry = part.model_copy(update={"km": km / 2 - wet_km, "joint_db": 0.0})
        pieces = [dry, *pieces, dry.model_copy(update={"joint_db": part.joint_db})]
    else:
        pieces[-1] = pieces[-1].model_copy(update={"joint_db": part.joint_db})
    sections = (*span.sections[:place], *pieces, *span.sections[place + 1 :])
    mended = span.model_copy(
        update={"sections": sections, "repairs": span.repairs + 1, "repeat": 1}
    )
    others = [span.model_copy(update={"repeat": span.repeat - 1})] if span.repeat > 1 else []
    return link.changed(spans=(*link.spans[:at], mended, *others, *link.spans[at + 1 :]))


def _shortened(span: Span, share: float) -> Span:
    parts = tuple(part.model_copy(update={"km": part.km * share}) for part in span.sections)
    gain = None if span.gain_db is None else span.gain_db * share
    return span.model_copy(update={"sections": parts, "repeat": 1, "gain_db": gain})


@dataclass(frozen=True, slots=True)
class ModeOffer:
    """What a link would carry in one mode."""

    mode: str
    channels: int
    working: int
    worst_margin_db: float
    capacity_gbps: float
    required_osnr_db: float


def mode_offers(link: Link) -> list[ModeOffer]:
    """Each mode that fits the link's bands, the one with most capacity first.

    The total launch power is kept, so that modes with fewer channels get more for each.
    """
    total = link.launch_dbm + 10 * np.log10(evaluate(link).spectrum.size)
    offers: list[ModeOffer] = []
    for mode in link.all_modes():
        changed = link.changed(mode=mode.name, spacing_ghz=None, channels=None)
        try:
            count = evaluate(changed).spectrum.size
        except BadLink:  # not even one slot fits
            continue
        made = evaluate(changed.changed(launch_dbm=float(total - 10 * np.log10(count))))
        offers.append(offer(made))
    return sorted(offers, key=lambda found: -found.capacity_gbps)


def offer(made: Design) -> ModeOffer:
    """An evaluated link in short."""
    mode = made.link.mode_noun
    return ModeOffer(
        mode=mode.name,
        channels=made.spectrum.size,
        working=int((made.margin_db >= 0).sum()),
        worst_margin_db=float(made.margin_db.min()),
        capacity_gbps=made.capacity_gbps,
        required_osnr_db=mode.required_osnr_db,
    )


def twins(link: Link, fibres: Sequence[str] = ("smf", "hcf")) -> dict[str, Link]:
    """The link as it is, and the same route in one fibre throughout."""
    return {"as stated": link} | {f"all {name}": link.laid_in(name) for name in fibres}


def output_needed_dbm(
    *,
    required_osnr_db: float,
    span_loss_db: float,
    spans: int,
    channels: int,
    noise_figure_db: float,
    thz: float = REFERENCE_THZ,
) -> float:
    """Total output of each amplifier that reaches an OSNR over equal spans, other noise apart.

    OSNR = P - loss - NF - 10 log10(h f B) - 10 log10(spans), with P of one channel; h f B is
    -58 dBm in 0.1 nm.
    """
    quantum_dbm = 10 * np.log10(PLANCK_J_S * thz * 1e12 * REFERENCE_GHZ * 1e9 * 1e3)
    channel = required_osnr_db + span_loss_db + noise_figure_db + quantum_dbm
    return float(channel + 10 * np.log10(spans) + 10 * np.log10(channels))


def qam_snr_db(order: int, error_rate: float) -> float:
    """SNR at which square QAM has a bit error rate, Gray-mapped (Cho and Yoon 2002, first term).

    BER = 2 (1 - 1/sqrt(M)) / log2(M) * erfc(sqrt(3 SNR / (2 (M - 1)))), solved by bisection.
    """
    side = sqrt(order)
    factor = 2 * (1 - 1 / side) / log2(order)
    low, high = -20.0, 80.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        errors = factor * erfc(sqrt(1.5 * 10 ** (middle / 10) / (order - 1)))
        low, high = (middle, high) if errors > error_rate else (low, middle)
    return low


def plain_span(fibre: str, km: float) -> Span:
    """One fibre between two amplifiers."""
    return Span(sections=(Section(fibre=fibre, km=km),))
