"""Which channels a link carries: frequencies, baud rates, slots."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starloom.optics.base import C_M_PER_S, REFERENCE_GHZ, Band, Floats, Mode
from starloom.optics.errors import BadLink

_ROUNDING_GHZ = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Channels in rising frequency; all arrays have one value a channel."""

    thz: Floats
    baud_gbd: Floats
    slot_ghz: Floats
    required_osnr_db: Floats
    rate_gbps: Floats
    offset_db: Floats
    """Launch power against the link's `launch_dbm`."""

    def __post_init__(self) -> None:
        if not self.thz.size:
            raise BadLink("no channel fits: widen the band, or choose a mode with a smaller slot")
        edges = self.slot_ghz[1:] + self.slot_ghz[:-1]
        gaps = np.diff(self.thz) * 1e3 - edges / 2
        if gaps.size and gaps.min() < -1e-3:
            at = int(gaps.argmin())
            raise BadLink(
                f"channels at {self.thz[at]:.4f} and {self.thz[at + 1]:.4f} THz overlap by"
                f" {-gaps[at]:.3g} GHz: space them by their slots"
            )

    @property
    def size(self) -> int:
        return int(self.thz.size)

    @property
    def nm(self) -> Floats:
        return C_M_PER_S * 1e-3 / self.thz


def plan(
    bands: Sequence[Band], mode: Mode, *, spacing_ghz: float | None = None, channels: int | None
) -> Spectrum:
    """Slots of one mode side by side from each band's lower end; the outermost go first.

    `channels`: how many to keep, those nearest to the middle of all. Raises `BadLink` where fewer
    fit than are asked for.
    """
    spacing = spacing_ghz or mode.slot_ghz
    thz: Floats = np.sort(np.concatenate([_grid(band, spacing) for band in bands]))
    if channels is not None:
        if channels > thz.size:
            raise BadLink(f"{channels} channels of {spacing:g} GHz do not fit: {thz.size} do")
        order = np.argsort(np.abs(thz - thz.mean()), kind="stable")
        thz = np.sort(thz[order[:channels]])
    alike = (mode.baud_gbd, spacing, mode.required_osnr_db, mode.rate_gbps, 0.0)
    baud, slot, osnr, rate, offset = (np.full(thz.size, value) for value in alike)
    return Spectrum(thz, baud, slot, osnr, rate, offset)


def of_modes(thz: Floats, modes: Sequence[Mode], reference: Mode) -> Spectrum:
    """Channels of several modes in their own slots, all with `reference`'s power density."""

    def each(field: str) -> Floats:
        return np.array([getattr(mode, field) for mode in modes], dtype=np.float64)

    baud = each("baud_gbd")
    offset: Floats = 10 * np.log10(baud / reference.baud_gbd)
    required, rate = each("required_osnr_db"), each("rate_gbps")
    return Spectrum(thz, baud, each("slot_ghz"), required, rate, offset)


def _grid(band: Band, spacing_ghz: float) -> Floats:
    width = (band.to_thz - band.from_thz) * 1e3
    count = int((width + _ROUNDING_GHZ) // spacing_ghz)
    first: float = band.from_thz + spacing_ghz / 2e3
    return np.asarray(first + np.arange(count) * (spacing_ghz / 1e3), dtype=np.float64)


def osnr_db(snr_db: Floats, baud_gbd: Floats) -> Floats:
    """SNR in the symbol rate as OSNR in 0.1 nm; both count both polarisations."""
    wider: Floats = 10 * np.log10(baud_gbd / REFERENCE_GHZ)
    return snr_db + wider


def snr_db(osnr_db: Floats, baud_gbd: Floats) -> Floats:
    """The inverse of `osnr_db`."""
    wider: Floats = 10 * np.log10(baud_gbd / REFERENCE_GHZ)
    return osnr_db - wider


def shannon_osnr_db(mode_rate_gbps: float, baud_gbd: float, gap_db: float) -> float:
    """OSNR that a shaped constellation needs: Shannon's SNR for its net bits, and a gap.

    SNR = 2^(rate / (2 baud)) - 1 a polarisation (Shannon 1948).
    """
    bits = mode_rate_gbps / (2 * baud_gbd)
    return float(10 * np.log10((2**bits - 1) * baud_gbd / REFERENCE_GHZ)) + gap_db
