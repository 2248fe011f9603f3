"""Where to put channels, and in which mode, when gas takes bites out of the band.

Every mode may start on every step of a grid. What a place would bring is its rate where its margin
is zero or more, else nothing; the best set of places that do not overlap is a longest path over the
grid (weighted interval scheduling), so it is exact for the margins given.

Margins come from the link without gas, interpolated between its channels, plus each place's own
gas: its mean loss lowers the signal at every amplifier, its shape is evened out as the transceiver
does. All modes are sent with the same power density: noise against signal is theirs alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starloom.optics import gas
from starloom.optics import transceiver as ends
from starloom.optics.base import Band, Floats, Gas, Mode
from starloom.optics.engine import Design, evaluate
from starloom.optics.link import Link
from starloom.optics.spectrum import Spectrum, of_modes, snr_db

GRID_GHZ = 12.5
"""Places of ITU-T G.694.1's flexible grid have widths in these steps."""
_TIE = 1e-6
"""Rate that a dB of margin is worth: between equal rates the safer place wins."""


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A spectrum that steps around gas lines, and what it brings."""

    spectrum: Spectrum
    modes: list[str]
    design: Design
    """Evaluated in full, in this spectrum."""


def place(link: Link, modes: Sequence[Mode], *, spare_db: float = 0.0) -> Placed:
    """Fill a link's bands with the modes that bring most; `spare_db` is kept above the need.

    The result is evaluated in full, where neighbours' noise may differ a little from the estimate;
    `spare_db` of 0.2 covers that.
    """
    clean = evaluate(_without_gas(link))
    centres: list[float] = []
    chosen: list[Mode] = []
    for band in link.band_nouns:
        for centre, mode in _best(band, [_Offer(link, clean, band, m, spare_db) for m in modes]):
            centres.append(centre)
            chosen.append(mode)
    order = np.argsort(centres)
    modes_in_order = [chosen[at] for at in order]
    spectrum = of_modes(np.array(centres)[order], modes_in_order, link.mode_noun)
    names = [mode.name for mode in modes_in_order]
    return Placed(spectrum, names, evaluate(link, spectrum))


class _Offer:
    """Margins of one mode at every start of the grid."""

    def __init__(self, link: Link, clean: Design, band: Band, mode: Mode, spare_db: float) -> None:
        self.mode = mode
        self.steps = int(np.ceil(mode.slot_ghz / GRID_GHZ - 1e-9))
        cells = int((band.to_thz - band.from_thz) * 1e3 / GRID_GHZ + 1e-6)
        starts = np.arange(max(0, cells - self.steps + 1))
        width_thz = self.steps * GRID_GHZ / 1e3
        first = band.from_thz + width_thz / 2
        self.centres = np.asarray(first + starts * GRID_GHZ / 1e3, dtype=np.float64)
        self.margin_db = self._margins(link, clean) - spare_db if starts.size else np.zeros(0)

    def _margins(self, link: Link, clean: Design) -> Floats:
        """One place after the other would overlap: `over_channels` takes them one by one."""
        mode, about = self.mode, link.transceiver
        at = clean.spectrum.thz
        baud = np.full(self.centres.size, mode.baud_gbd)
        loss_db = _gas_db(link, self.centres, mode.baud_gbd)
        mean_db = gas.mean_loss_db(loss_db)
        spans = len(link.line)
        ase = np.interp(self.centres, at, clean.noise["ase"]) * 10 ** (mean_db / spans / 10)
        rest: Floats = np.sum([clean.noise[n] for n in ("nli", "pigtail", "imi", "tx")], axis=0)
        line: Floats = 1 / (ase + np.interp(self.centres, at, rest))
        kept = gas.equalised_snr(loss_db, line, about.equaliser) if loss_db.any() else line
        floor = ends.floor(about, baud)
        cd: Floats = np.interp(self.centres, at, clean.cd_ps_per_nm)
        total = 1 / kept + floor + ends.eepn(about, self.centres, baud, cd)
        needed = 10 ** (snr_db(np.full(baud.size, mode.required_osnr_db), baud) / 10)
        penalty = ends.pdl_penalty_db(clean.pdl_db) + link.margin_db
        margin: Floats = 10 * np.log10((1 / needed + floor) / total) - penalty
        return margin


def _best(band: Band, offers: Sequence[_Offer]) -> list[tuple[float, Mode]]:
    """The set of places with the highest sum of rates, by dynamic programming over the grid."""
    cells = int((band.to_thz - band.from_thz) * 1e3 / GRID_GHZ + 1e-6)
    value = np.zeros(cells + 1)
    took: list[_Offer | None] = [None] * (cells + 1)
    for end in range(1, cells + 1):
        value[end] = value[end - 1]
        for offer in offers:
            start = end - offer.steps
            if start < 0 or offer.margin_db[start] < 0:
                continue
            worth = value[start] + offer.mode.rate_gbps + _TIE * float(offer.margin_db[start])
            if worth > value[end]:
                value[end], took[end] = worth, offer
    found: list[tuple[float, Mode]] = []
    end = cells
    while end > 0:
        offer_taken = took[end]
        if offer_taken is None:
            end -= 1
            continue
        end -= offer_taken.steps
        found.append((float(offer_taken.centres[end]), offer_taken.mode))
    return found[::-1]


def _gas_db(link: Link, centres: Floats, baud_gbd: float) -> Floats:
    """Gas loss of the whole link over each place's band, [place, point]."""
    fills: dict[Gas, float] = {}
    for span in link.line:
        for part in span.sections:
            if link.fibre(part.fibre).kind == "hollow" and (part.gas.co2_ppm or part.gas.h2o_ppm):
                fills[part.gas] = fills.get(part.gas, 0.0) + part.km
    step_ghz = min((gas.step_ghz(fill) for fill in fills), default=baud_gbd)
    points = max(1, int(np.ceil(baud_gbd / step_ghz)))
    across = ((np.arange(points) + 0.5) / points - 0.5) * baud_gbd * 1e-3
    wanted = centres[:, None] + across
    total = np.zeros(wanted.shape)
    if not fills:
        return total
    grid = np.arange(wanted.min(), wanted.max() + step_ghz / 1e3, step_ghz / 2e3)
    for fill, km in fills.items():
        total += np.interp(wanted, grid, gas.absorption_db_per_km(fill, grid)[0]) * km
    return total


def _without_gas(link: Link) -> Link:
    spans = tuple(
        span.model_copy(
            update={
                "sections": tuple(part.model_copy(update={"gas": Gas()}) for part in span.sections)
            }
        )
        for span in link.spans
    )
    return link.changed(spans=spans)
