"""A fibre's coefficients at given frequencies. Arrays in are THz; out, one value each."""

import math

import numpy as np

from starloom.optics.base import C_M_PER_S, Fibre, Floats

REFERENCE_NM = 1550.0
REFERENCE_THZ = C_M_PER_S * 1e-3 / REFERENCE_NM
NEPER_PER_DB = math.log(10) / 10
_CORE_RADIUS_UM = 4.2
"""Of a standard single-mode fibre; only how its area grows with wavelength hangs on it."""


def loss_db_per_km(fibre: Fibre, thz: Floats, flat_db_per_km: float | None = None) -> Floats:
    """Loss of the glass or the hollow waveguide, gas apart; `flat_db_per_km` overrides it."""
    if flat_db_per_km is not None or not fibre.loss_by_thz:
        return np.full(thz.size, flat_db_per_km or fibre.loss_db_per_km)
    at, loss = np.array(fibre.loss_by_thz).T
    between: Floats = np.interp(thz, at, loss)
    return between


def dispersion_ps_per_nm_km(fibre: Fibre, thz: Floats) -> Floats:
    """D at each frequency, by its slope; without one, as frequency squared."""
    at_reference, slope = fibre.dispersion_ps_per_nm_km, fibre.dispersion_slope_ps_per_nm2_km
    if slope is None:
        return at_reference * (thz / REFERENCE_THZ) ** 2
    return at_reference + slope * (C_M_PER_S * 1e-3 / thz - REFERENCE_NM)


def beta2_s2_per_m(fibre: Fibre, thz: Floats) -> Floats:
    """Group-velocity dispersion: -D c / (2 pi f^2)."""
    dispersion_s_per_m2 = dispersion_ps_per_nm_km(fibre, thz) * 1e-6
    return -dispersion_s_per_m2 * C_M_PER_S / (2 * np.pi * (thz * 1e12) ** 2)


def area_m2(fibre: Fibre, thz: Floats) -> Floats:
    """Effective area.

    A solid core's mode grows with wavelength: w^2 = a^2 / ln V, the Gaussian approximation of a
    step-index fibre (Snyder, 1969), with V such that the area at 1550 nm is the data sheet's. A
    hollow core's mode is held by its walls, and does not grow.
    """
    area = fibre.effective_area_um2
    if fibre.kind == "hollow":
        return np.full(thz.size, area * 1e-12)
    log_v = math.pi * _CORE_RADIUS_UM**2 / area
    return area * 1e-12 * log_v / (log_v + np.log(thz / REFERENCE_THZ))


def gamma_per_w_m(fibre: Fibre, thz: Floats) -> Floats:
    """Kerr coefficient: 2 pi f n2 / (c A_eff)."""
    return 2 * np.pi * thz * 1e12 * fibre.n2_m2_per_w / (C_M_PER_S * area_m2(fibre, thz))
