"""A link from end to end: what reaches the receiver, and what is left of it above the need.

Every noise is kept as a ratio to the signal at the place where it arises. Loss and gain after that
move both alike, so ratios of spans add; only what depends on power needs to be taken in order.
Equal spans under equal light are computed once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from starloom.optics import fibre as glass
from starloom.optics import gas, nli, raman
from starloom.optics import transceiver as ends
from starloom.optics.base import PLANCK_J_S, Fibre, Floats, Section, Span
from starloom.optics.link import Link
from starloom.optics.spectrum import Spectrum, osnr_db, plan, snr_db

_PIGTAIL_KM = 1.0
"""Solid fibre shorter than this beside hollow fibre in a span counts as its pigtail."""
_LINE_NOISE = ("ase", "nli", "pigtail", "imi", "tx")
_RAMAN_FLOOR_W = 1e-3
"""Below this total power Raman scattering moves less than 0.01 dB over a span."""


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """Channels at one place: power of each in W."""

    spectrum: Spectrum
    watts: Floats

    @property
    def total_dbm(self) -> float:
        return dbm(float(self.watts.sum()))

    @property
    def key(self) -> bytes:
        """Equal for light that is equal to 1e-7 dB: what rounding adds is no difference."""
        return np.round(10 * np.log10(self.watts), 7).tobytes()

    def through(self, loss_db: Floats | float) -> "Light":
        return Light(self.spectrum, self.watts * 10 ** (-np.asarray(loss_db) / 10))


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What one section does to light; a value a channel."""

    loss_db: Floats
    """Of the fibre with its splices, gas and Raman transfer."""
    nli: Floats


@dataclass(frozen=True, slots=True)
class PowerPoint:
    """Total power at a place, for limits of parts."""

    place: str
    total_dbm: float
    max_dbm: float | None

    @property
    def within(self) -> bool:
        return self.max_dbm is None or self.total_dbm <= self.max_dbm + 1e-9


@dataclass(slots=True, eq=False)
class Design:
    """A link as evaluated. Arrays have one value a channel."""

    link: Link
    spectrum: Spectrum
    noise: dict[str, Floats]
    """Over signal, in the symbol rate: `ase`, `nli`, `pigtail`, `imi`, `tx`; then the receiver's
    `gas` (what equalisation does not win back), `floor` and `eepn`."""
    launch_dbm: Floats
    """Into the first span, as limited by the booster."""
    received_dbm: Floats
    """Into the last amplifier."""
    span_loss_db: list[Floats]
    powers: list[PowerPoint]
    cd_ps_per_nm: Floats
    pmd_ps: float
    pdl_db: float
    gas_db: Floats
    """[channel, point] over each channel's band, of the whole link."""
    gas_approximate: Floats
    """Mean loss that rests on approximate lines, dB."""
    snr_db: Floats
    """All of it, after equalisation and the penalty of polarisation."""
    required_snr_db: Floats
    """Of an ideal receiver: the mode's OSNR less what its ends add back to back."""
    flags: list[str] = field(default_factory=list)

    @property
    def osnr_db(self) -> Floats:
        """In 0.1 nm, amplified spontaneous emission (and the transmitter's) alone."""
        return self._in_osnr("ase", "tx")

    @property
    def gsnr_db(self) -> Floats:
        """In 0.1 nm, all noise of the line: Kerr and inter-modal interference count as noise."""
        return self._in_osnr("ase", "tx", "nli", "pigtail", "imi")

    @property
    def margin_db(self) -> Floats:
        """What is left above the need and the margin kept back."""
        return self.snr_db - self.required_snr_db - self.link.margin_db

    @property
    def gas_peak_db(self) -> Floats:
        deepest: Floats = self.gas_db.max(1)
        return deepest

    @property
    def gas_mean_db(self) -> Floats:
        return gas.mean_loss_db(self.gas_db)

    @property
    def works(self) -> bool:
        return bool(self.margin_db.min() >= 0)

    @property
    def capacity_gbps(self) -> float:
        """Of the channels with a margin of zero or more."""
        return float(self.spectrum.rate_gbps[self.margin_db >= 0].sum())

    def _in_osnr(self, *names: str) -> Floats:
        noise = np.asarray(sum(self.noise[name] for name in names))
        with np.errstate(divide="ignore"):
            return osnr_db(-10 * np.log10(noise), self.spectrum.baud_gbd)


def evaluate(link: Link, spectrum: Spectrum | None = None, *, raman_tilt: bool = True) -> Design:
    """Send a spectrum (the link's own plan where absent) through a link.

    `raman_tilt`: whether glass moves power from high to low frequencies.
    """
    light, flags = _launched(link, spectrum or link_plan(link))
    run = _Run(link, light, raman_tilt, flags)
    number = 0
    for span in link.spans:
        left = span.repeat
        while left:
            light, times = run.pass_span(number + 1, span, light, left)
            number, left = number + times, left - times
    return run.design()


def link_plan(link: Link) -> Spectrum:
    """The spectrum that a link file asks for."""
    return plan(
        link.band_nouns, link.mode_noun, spacing_ghz=link.spacing_ghz, channels=link.channels
    )


def dbm(watts: float) -> float:
    return float(10 * np.log10(watts * 1e3))


def _launched(link: Link, spectrum: Spectrum) -> tuple[Light, list[str]]:
    flags: list[str] = []
    watts = 1e-3 * 10 ** ((link.launch_dbm + spectrum.offset_db) / 10)
    light, limit = Light(spectrum, watts), link.booster_noun.max_output_dbm
    over = light.total_dbm - limit
    if over > 1e-9:
        flags.append(
            f"booster: {light.total_dbm:.1f} dBm are asked for, {link.booster_noun.name} gives"
            f" {limit:g}: every channel is launched {over:.1f} dB lower"
        )
        light = light.through(over)
    return light, flags


@dataclass(slots=True, eq=False)
class _Passed:
    """What one span with its amplifier does to one light."""

    noise: dict[str, Floats]
    cd_ps_per_nm: Floats
    pmd_squared: float
    gas_db: Floats
    gas_rough: Floats
    powers: list[tuple[str, float, float | None]]
    arrived: Light
    """Before the amplifier."""
    loss_db: Floats


class _Run:
    """The sums of one evaluation."""

    def __init__(self, link: Link, launch: Light, raman_tilt: bool, flags: list[str]) -> None:
        self.link, self.launch, self.spectrum = link, launch, launch.spectrum
        self.raman_tilt, self.flags = raman_tilt, flags
        self.arrived = launch
        zero = np.zeros(self.spectrum.size)
        self.noise = {name: zero.copy() for name in _LINE_NOISE}
        self.cd, self.pmd_squared, self.sites = zero.copy(), 0.0, 0
        self.losses: list[Floats] = []
        booster = link.booster_noun.max_output_dbm
        self.powers = [PowerPoint("booster output", launch.total_dbm, booster)]
        fills = [part.gas for span in link.spans for part in span.sections if _hollow(link, part)]
        step = min((gas.step_ghz(f) for f in fills if f.co2_ppm or f.h2o_ppm), default=np.inf)
        points = max(1, int(np.ceil(self.spectrum.baud_gbd.max() / step)))
        self.gas_db = np.zeros((self.spectrum.size, points))
        self.gas_rough = self.gas_db.copy()
        self._count = sum(span.repeat for span in link.spans)
        self._seen: dict[tuple[int, bytes], _Passed] = {}

    def pass_span(self, number: int, span: Span, light: Light, most: int) -> tuple[Light, int]:
        """Add what a span does: (light behind its amplifier, how many spans that was).

        Where the amplifier restores the light, all `most` spans like this one are alike.
        """
        key = (id(span), light.key)
        passed = self._seen.get(key)
        if passed is None:
            passed = self._seen[key] = self._through(span, light)
            name = f"span {number}"
            self.powers += [
                PowerPoint(f"{name} {at}", total, limit) for at, total, limit in passed.powers
            ]
        self.arrived = passed.arrived
        out = self._amplified(span, feeds_receiver=number == self._count)
        times = most if out.key == light.key else 1
        for name, added in passed.noise.items():
            self.noise[name] += times * added
        self.cd += times * passed.cd_ps_per_nm
        self.pmd_squared += times * passed.pmd_squared
        if self.gas_db.shape[1] > 1:
            self.gas_db += times * passed.gas_db
            self.gas_rough += times * passed.gas_rough
        self.losses += [passed.loss_db] * times
        self.sites += times
        return out, times

    def _amplified(self, span: Span, *, feeds_receiver: bool) -> Light:
        """Light behind an amplifier: as launched, or by flat gain, within its limit.

        The last one gives the receiver what it needs, which is little.
        """
        amplifier = self.link.amplifier_noun(span.amplifier)
        out = self.launch if span.gain_db is None else self.arrived.through(-span.gain_db)
        over = out.total_dbm - amplifier.max_output_dbm
        if over <= 1e-9 or feeds_receiver:
            return out
        told = (
            f"amplifiers {amplifier.name}: {out.total_dbm:.1f} dBm are asked for, they give"
            f" {amplifier.max_output_dbm:g}: from there on channels are {over:.1f} dB lower"
        )
        if told not in self.flags:
            self.flags.append(told)
        return out.through(over)

    def _through(self, span: Span, light: Light) -> _Passed:
        link, start, limit = self.link, light, span.connector_max_dbm
        zero = np.zeros(self.spectrum.size)
        noise = {name: zero.copy() for name in _LINE_NOISE if name != "tx"}
        cd, pmd_squared = zero.copy(), 0.0
        gas_db, gas_rough = np.zeros_like(self.gas_db), np.zeros_like(self.gas_db)
        powers = [("first connector", light.total_dbm, limit)]
        light = light.through(span.connectors_db[0])
        mixed = any(_hollow(link, part) for part in span.sections)
        for part, joint in zip(span.sections, [*link.joints(span), None], strict=True):
            fibre = link.fibre(part.fibre)
            powers.append((f"into {part.fibre}", light.total_dbm, fibre.max_total_dbm))
            if fibre.kind == "hollow":
                total, rough = self._gas(part)
                gas_db, gas_rough = gas_db + total, gas_rough + rough
                absorbed = gas.mean_loss_db(total)
            else:
                absorbed = zero
            piece = self._piece(part, fibre, light, absorbed)
            pigtail = mixed and fibre.kind == "solid" and part.km < _PIGTAIL_KM
            noise["pigtail" if pigtail else "nli"] += piece.nli
            if fibre.imi_db_per_km is not None:
                noise["imi"] += 10 ** (fibre.imi_db_per_km / 10) * part.km
            cd += glass.dispersion_ps_per_nm_km(fibre, self.spectrum.thz) * part.km
            pmd_squared += fibre.pmd_ps_per_sqrt_km**2 * part.km
            light = light.through(piece.loss_db)
            if joint is not None:
                powers.append((f"splice {joint[1]}", light.total_dbm, limit))
                light = light.through(joint[0])
        light = light.through(span.ageing_db + link.repairs_db(span))
        powers.append(("last connector", light.total_dbm, limit))
        light = light.through(span.connectors_db[1])
        noise["ase"] += self._ase(span, light)
        loss_db = 10 * np.log10(start.watts / light.watts)
        return _Passed(noise, cd, pmd_squared, gas_db, gas_rough, powers, light, loss_db)

    def _ase(self, span: Span, arrived: Light) -> Floats:
        """An amplifier's noise over signal: h f NF a hertz at its input (Desurvire, 1994)."""
        figure = 10 ** (self.link.amplifier_noun(span.amplifier).noise_figure_db / 10)
        hz, bandwidth = self.spectrum.thz * 1e12, self.spectrum.baud_gbd * 1e9
        noise: Floats = PLANCK_J_S * hz * bandwidth * figure / arrived.watts
        return noise

    def _gas(self, part: Section) -> tuple[Floats, Floats]:
        points, spectrum = self.gas_db.shape[1], self.spectrum
        total, rough = gas.over_channels(part.gas, spectrum.thz, spectrum.baud_gbd, points)
        return total * part.km, rough * part.km

    def _piece(self, part: Section, fibre: Fibre, light: Light, absorbed_db: Floats) -> Piece:
        """A section's loss and Kerr noise. Splices come every few km: as good as spread out."""
        thz, length_m = self.spectrum.thz, part.km * 1e3
        loss_db = glass.loss_db_per_km(fibre, thz, part.loss_db_per_km) * part.km
        loss_db = loss_db + self.link.splices_db(part)
        alpha = loss_db * glass.NEPER_PER_DB / length_m
        tilt, moved_db = None, np.zeros(thz.size)
        if self.raman_tilt and fibre.raman and light.watts.sum() > _RAMAN_FLOOR_W:
            gain = raman.gain_per_w_m(fibre, thz)
            z, rho = raman.profile(light.watts, alpha, gain, length_m)
            tilt = nli.fit_tilt(z, rho, alpha)
            moved_db = -10 * np.log10(rho[:, -1]) - loss_db
        noise = nli.noise_ratio(
            light.watts,
            thz,
            self.spectrum.baud_gbd,
            alpha,
            glass.beta2_s2_per_m(fibre, thz),
            glass.gamma_per_w_m(fibre, thz),
            length_m,
            tilt,
        )
        return Piece(loss_db + moved_db + absorbed_db, noise)

    def design(self) -> Design:
        """Put the receiver behind the line."""
        link, spectrum, about = self.link, self.spectrum, self.link.transceiver
        if about.tx_osnr_db is not None:
            transmitter = snr_db(np.full(spectrum.size, about.tx_osnr_db), spectrum.baud_gbd)
            self.noise["tx"] = 10 ** (-transmitter / 10)
        line = 1 / np.asarray(sum(self.noise.values()))
        clean = gas.equalised_snr(self.gas_db, line, about.equaliser) if self.gas_db.any() else line
        floor = ends.floor(about, spectrum.baud_gbd)
        self.noise |= {
            "gas": np.maximum(1 / clean - 1 / line, 0),
            "floor": floor,
            "eepn": ends.eepn(about, spectrum.thz, spectrum.baud_gbd, self.cd),
        }
        pdl = about.pdl_db * float(np.sqrt(self.sites))
        total = np.asarray(sum(self.noise.values()))
        needed = 10 ** (snr_db(spectrum.required_osnr_db, spectrum.baud_gbd) / 10)
        made = Design(
            link=link,
            spectrum=spectrum,
            noise=self.noise,
            launch_dbm=10 * np.log10(self.launch.watts * 1e3),
            received_dbm=10 * np.log10(self.arrived.watts * 1e3),
            span_loss_db=self.losses,
            powers=self.powers,
            cd_ps_per_nm=self.cd,
            pmd_ps=float(np.sqrt(self.pmd_squared)),
            pdl_db=pdl,
            gas_db=self.gas_db,
            gas_approximate=gas.mean_loss_db(self.gas_rough),
            snr_db=-10 * np.log10(total) - ends.pdl_penalty_db(pdl),
            required_snr_db=-10 * np.log10(1 / needed + floor),
            flags=self.flags,
        )
        made.flags += _flags(made)
        return made


def _hollow(link: Link, part: Section) -> bool:
    return link.fibre(part.fibre).kind == "hollow"


def _flags(design: Design) -> Iterator[str]:
    """What a reader must know before he trusts the figures."""
    mode, link = design.link.mode_noun, design.link
    for point in design.powers:
        if not point.within:
            yield (
                f"{point.place}: {point.total_dbm:.1f} dBm are above the {point.max_dbm:g} dBm"
                " that this part may take"
            )
    if float(np.abs(design.cd_ps_per_nm).max()) > mode.max_cd_ps_per_nm:
        yield (
            f"dispersion of {np.abs(design.cd_ps_per_nm).max():,.0f} ps/nm is above the mode's"
            f" {mode.max_cd_ps_per_nm:,.0f}"
        )
    if 3 * design.pmd_ps > mode.max_pmd_ps:
        yield f"PMD of {design.pmd_ps:.1f} ps, three times of which is above {mode.max_pmd_ps:g}"
    if design.gas_approximate.max() > 0.01:
        yield (
            f"up to {design.gas_approximate.max():.2f} dB of a channel's gas loss rest on"
            " approximate lines (bands without public ones): not a figure to buy by"
        )
    used = {part.fibre for span in link.spans for part in span.sections}
    for name in sorted(used):
        if link.fibre(name).verified == "no":
            yield f"fibre {name!r}: its figures are assumed"
