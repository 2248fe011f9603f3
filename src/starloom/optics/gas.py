"""What gas in a hollow core absorbs: lines of CO2, and of water only roughly.

    alpha(nu) = x P / (k T) * sum_i S_i(T) Voigt(nu - nu_i - delta_i P; Doppler, gamma_i P)

with the mole fraction x, after the conventions of HITRAN (Rothman et al., JQSRT 1998, appendix A).

| band | lines | exact? |
|---|---|---|
| CO2 30012 near 1572 nm (C6T/L6T seam) | NIST's, `catalogue/co2_1572nm.csv` | yes, to about 1 % |
| CO2 30013 near 1606 nm (L) | those, moved to the band's centre 6227.9 cm^-1, as strong | no |
| CO2 30011 near 1538 nm (C), 30014 near 1646 nm (U) | those, moved, a tenth as strong | no |
| H2O, 1460-1640 nm | a made comb: a line each 3 cm^-1, as strong as weak water lines are | no |

No public-domain lines of the last three were found. They tell that a band may be hit and about how
hard, not which channel; whatever rests on them is flagged `approximate`.
"""

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import resources

import numpy as np

from starloom.optics.base import C_M_PER_S, Floats, Gas
from starloom.optics.voigt import voigt

_THZ_PER_CM = C_M_PER_S * 1e2 * 1e-12
_BOLTZMANN_J_K, _ATM_PA, _AMU_KG = 1.380649e-23, 101_325.0, 1.66053907e-27
_C2_CM_K = 1.438777
"""Second radiation constant h c / k."""
_DB = 10 / np.log(10)
_REFERENCE_K = 296.0
_CENTRE_PER_CM = 6347.85
_MOVED = ((6227.9, 1.0), (6503.1, 0.1), (6076.0, 0.1))
_FAR_WIDTHS = 60.0
"""Beyond this many Doppler and Lorentz widths a Voigt profile is a Lorentzian to 1e-3."""
_WING_THZ = 0.75
"""Lines are cut 25 cm^-1 from their centres, as is the convention with HITRAN."""


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Absorption lines at 296 K; arrays have one value a line, in cm^-1 and cm^-1/atm."""

    nu: Floats
    intensity: Floats
    air: Floats
    exponent: Floats
    shift: Floats
    own: Floats
    lower: Floats
    mass_u: float
    exact: bool

    def moved(self, to: float, strength: float) -> "Lines":
        nu = self.nu - _CENTRE_PER_CM + to
        return replace(self, nu=nu, intensity=self.intensity * strength, exact=False)


@cache
def co2_lines() -> tuple[Lines, ...]:
    """The band that is known, then those made after it."""
    path = resources.files("starloom.optics") / "catalogue" / "co2_1572nm.csv"
    rows = path.read_text(encoding="utf-8").splitlines()
    table = np.loadtxt([r for r in rows if r[0].isdigit()], delimiter=",").T
    nu, intensity, air, exponent, shift, own, lower = table
    known = Lines(nu, intensity, air, exponent, shift, own, lower, mass_u=44.0, exact=True)
    return known, *(known.moved(to, strength) for to, strength in _MOVED)


@cache
def h2o_lines() -> tuple[Lines, ...]:
    """A made comb, evenly spaced with a fixed scatter. Assumed throughout.

    Lines of 1e-25 to 1e-24 cm/molecule, ten times that below 1480 nm and rising; widths are water's
    in air, 0.09 cm^-1/atm.
    """
    rng = np.random.default_rng(1640)
    nu = np.arange(6100.0, 6850.0, 3.0) + rng.uniform(-1.2, 1.2, 250)
    strength = 10 ** (rng.uniform(-25.3, -24.0, nu.size) + np.clip((nu - 6650) / 150, 0, None))
    every = np.ones_like(nu)
    comb = Lines(
        nu, strength, 0.09 * every, 0.7 * every, 0 * every, 0.45 * every, 300 * every, 18.0, False
    )
    return (comb,)


def _partition_co2(kelvin: float) -> float:
    """Partition sum of CO2, up to a factor: a rigid rotor (as T) times harmonic vibrations."""
    bend, stretch, asymmetric = (
        1 / (1 - np.exp(-_C2_CM_K * nu / kelvin)) for nu in (667.4, 1333.0, 2349.1)
    )
    return float(kelvin * bend**2 * stretch * asymmetric)


def _intensity(lines: Lines, kelvin: float) -> Floats:
    """S(T) from S(296 K): population of the lower level and stimulated emission."""
    if lines.mass_u < 40:  # water: an asymmetric rotor, as T^1.5; no vibration below 350 K
        partition = (_REFERENCE_K / kelvin) ** 1.5
    else:
        partition = _partition_co2(_REFERENCE_K) / _partition_co2(kelvin)
    cold = 1 / _REFERENCE_K - 1 / kelvin
    emission = np.expm1(-_C2_CM_K * lines.nu / kelvin) / np.expm1(
        -_C2_CM_K * lines.nu / _REFERENCE_K
    )
    scaled: Floats = lines.intensity * partition * np.exp(_C2_CM_K * lines.lower * cold) * emission
    return scaled


def _of_lines(lines: Lines, share: float, gas: Gas, thz: Floats) -> Floats:
    """Absorption in dB/km at rising frequencies."""
    centre = (lines.nu + lines.shift * gas.pressure_atm) * _THZ_PER_CM
    near = (centre > thz[0] - _WING_THZ) & (centre < thz[-1] + _WING_THZ)
    total = np.zeros(thz.size)
    if share == 0 or not near.any():
        return total
    kelvin, pressure = gas.temperature_k, gas.pressure_atm
    speed = np.sqrt(2 * _BOLTZMANN_J_K * kelvin / (lines.mass_u * _AMU_KG))
    doppler = centre * speed / C_M_PER_S
    broad = (1 - share) * lines.air + share * lines.own
    lorentz = broad * pressure * (_REFERENCE_K / kelvin) ** lines.exponent * _THZ_PER_CM
    per_cm3 = share * pressure * _ATM_PA / (_BOLTZMANN_J_K * kelvin) * 1e-6
    area = per_cm3 * _intensity(lines, kelvin) * _THZ_PER_CM  # of each line, THz/cm
    for at in np.flatnonzero(near):
        low, high = np.searchsorted(thz, (centre[at] - _WING_THZ, centre[at] + _WING_THZ))
        offset = thz[low:high] - centre[at]
        shape = lorentz[at] / np.pi / (offset**2 + lorentz[at] ** 2)
        close = np.abs(offset) < _FAR_WIDTHS * (doppler[at] + lorentz[at])
        shape[close] = voigt(offset[close], doppler[at], lorentz[at])
        total[low:high] += area[at] * shape
    in_db: Floats = total * _DB * 1e5
    return in_db


def absorption_db_per_km(gas: Gas, thz: Floats) -> tuple[Floats, Floats]:
    """What `gas` absorbs at rising frequencies: (all of it, the part that is only approximate)."""
    sure, rough = np.zeros(thz.size), np.zeros(thz.size)
    for share, bands in ((gas.co2_ppm * 1e-6, co2_lines()), (gas.h2o_ppm * 1e-6, h2o_lines())):
        for lines in bands:
            into = sure if lines.exact else rough
            into += _of_lines(lines, share, gas, thz)
    return sure + rough, rough


def line_peaks(gas: Gas, from_thz: float, to_thz: float) -> tuple[Floats, Floats]:
    """(THz, dB/km) at the centre of each known CO2 line in a range: the deepest points."""
    known = co2_lines()[0]
    centre = np.sort((known.nu + known.shift * gas.pressure_atm) * _THZ_PER_CM)
    inside = centre[(centre >= from_thz) & (centre <= to_thz)]
    if not inside.size:
        return inside, inside
    return inside, absorption_db_per_km(gas, inside)[0]


def step_ghz(gas: Gas) -> float:
    """A grid fine enough for this gas's narrowest lines: a sixth of their half width."""
    lorentz = 0.065 * gas.pressure_atm * _THZ_PER_CM * 1e3
    return float(np.clip(np.hypot(lorentz, 0.15) / 6, 0.02, 1.0))


@lru_cache(maxsize=64)
def _cached(gas: Gas, grid: bytes) -> tuple[Floats, Floats]:
    return absorption_db_per_km(gas, np.frombuffer(grid))


def over_channels(gas: Gas, thz: Floats, baud_gbd: Floats, points: int) -> tuple[Floats, Floats]:
    """(all, approximate part) in dB/km over each channel's band, [channel, point].

    At the middles of `points` equal pieces; channels must not overlap. Remembered: the tables of
    one link serve all of its sections and sweeps.
    """
    if not (gas.co2_ppm or gas.h2o_ppm):
        nothing = np.zeros((thz.size, points))
        return nothing, nothing
    across = (np.arange(points) + 0.5) / points - 0.5
    grid = thz[:, None] + across[None, :] * (baud_gbd[:, None] * 1e-3)
    total, rough = _cached(gas, grid.tobytes())
    return total.reshape(grid.shape), rough.reshape(grid.shape)


def mean_loss_db(loss_db: Floats) -> Floats:
    """Loss of a channel's power, [channel], of its loss over its band, [channel, point]."""
    mean: Floats = 0.0 - 10 * np.log10((10 ** (-loss_db / 10)).mean(1))
    return mean


def equalised_snr(loss_db: Floats, snr: Floats, equaliser: str) -> Floats:
    """SNR after a channel's notches are evened out; both as ratios, a value a channel.

    `snr` already has the mean loss in it; noise is taken as white over the channel at the receiver,
    which is true of the last amplifiers and strict on the rest. With h the transmission relative to
    its mean over the band:

    - `none`: what the notch takes off the pulse is noise: h's amplitude has a mean and a variance.
    - `receiver`: the best linear equaliser, 1 / E[1 / (1 + snr h)] - 1 (Cioffi, EE379, MMSE-LE).
    - `both`: the transmitter shapes its spectrum as well, at the same power. The pair of linear
      filters with the least error has S = max(0, m / sqrt(g) - 1 / g) for g = snr h, with m such
      that E[S] = 1 (Berger and Tufts, IEEE Trans. Inf. Theory 13, 1967): it lifts the flanks and
      gives up the bottom of a deep line.
    """
    h = 10 ** (-loss_db / 10)
    h /= h.mean(1, keepdims=True)
    if equaliser == "none":
        amplitude = np.sqrt(h).mean(1) ** 2
        kept: Floats = 1 / (1 / (snr * amplitude) + (1 - amplitude) / amplitude)
        return kept
    received: Floats = 1 / (1 / (1 + snr[:, None] * h)).mean(1) - 1
    if equaliser == "receiver":
        return received
    spectrum = _shaped(snr[:, None] * h)
    shaped: Floats = 1 / (1 / (1 + snr[:, None] * spectrum * h)).mean(1) - 1
    return shaped


def _shaped(gain: Floats) -> Floats:
    """The best transmit spectrum over `gain`, mean 1 a channel: `m` by bisection."""
    root, inverse = 1 / np.sqrt(gain), 1 / gain
    low = np.zeros((gain.shape[0], 1))
    high = (1 + inverse.min(1, keepdims=True)) * gain.shape[1] / root.min(1, keepdims=True)
    for _ in range(60):
        middle = (low + high) / 2
        full = np.maximum(0, middle * root - inverse).mean(1, keepdims=True) > 1
        low, high = np.where(full, low, middle), np.where(full, middle, high)
    return np.maximum(0, low * root - inverse)


def humid_air(relative_humidity: float, kelvin: float, co2_ppm: float = 420.0) -> Gas:
    """Outdoor air as it enters a cut fibre, at 1 atm.

    Water's saturation pressure by Magnus' formula (Alduchov and Eskridge, 1996), good to 0.4 %.
    """
    celsius = kelvin - 273.15
    saturated_pa = 610.94 * np.exp(17.625 * celsius / (celsius + 243.04))
    h2o_ppm = float(relative_humidity * saturated_pa / _ATM_PA * 1e6)
    return Gas(co2_ppm=co2_ppm, h2o_ppm=h2o_ppm, pressure_atm=1.0, temperature_k=kelvin)


def ingress_km(hours: float, core_radius_um: float = 15.0, core_atm: float = 0.0) -> float:
    """How far outside air gets into an open core.

    The pressure difference drives a Poiseuille front, x^2 = r^2 dP t / (4 eta) with a front's mean
    gradient of dP / x (Washburn's form, gas of air's viscosity); beside it water diffuses,
    x^2 = 2 D t. The larger one counts. At 1 atm inside only metres a day are lost.
    """
    seconds = hours * 3600
    flow = (core_radius_um * 1e-6) ** 2 * max(0.0, 1 - core_atm) * _ATM_PA / (4 * 1.82e-5)
    diffusion = 2 * 2.5e-5
    return float(np.sqrt(max(flow, diffusion) * seconds)) * 1e-3
