"""The Voigt profile, by Weideman's rational approximation of the Faddeeva function.

Own code for sixteen lines: `scipy.special.wofz` is the only thing of SciPy that this room would
use, and SciPy is a wheel of 35 MB. With 32 terms the error is below 1e-6 of the peak (tested
against the integral), where line strengths are known to a percent.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from starloom.optics.base import Floats

_TERMS = 32


@cache
def _coefficients() -> tuple[float, Floats]:
    """Scale L and polynomial of J. A. C. Weideman, SIAM J. Numer. Anal. 31, 1497 (1994)."""
    points = 2 * _TERMS
    scale = float(np.sqrt(_TERMS / np.sqrt(2)))
    t = scale * np.tan(np.arange(-points + 1, points) * np.pi / points / 2)
    f = np.concatenate([[0.0], np.exp(-(t**2)) * (scale**2 + t**2)])
    a = np.real(np.fft.fft(np.fft.fftshift(f))) / (2 * points)
    return scale, a[1 : _TERMS + 1][::-1]


def faddeeva(z: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """w(z) = exp(-z^2) erfc(-iz), for Im z >= 0."""
    scale, polynomial = _coefficients()
    below = scale - 1j * z
    ratio = (scale + 1j * z) / below
    w: NDArray[np.complex128] = (
        2 * np.polyval(polynomial, ratio) / below**2 + (1 / np.sqrt(np.pi)) / below
    )
    return w


def voigt(offset: Floats, doppler: Floats, lorentz: Floats) -> Floats:
    """Profile of area 1 at `offset` from a line's centre, broadcast over lines.

    `doppler` is the half width at 1/e of the Gaussian, `lorentz` the half width at half maximum of
    the Lorentzian, all in one unit; the value is in the inverse of that unit.
    """
    shape = faddeeva(np.asarray((offset + 1j * lorentz) / doppler, dtype=np.complex128))
    profile: Floats = shape.real / (doppler * np.sqrt(np.pi))
    return profile
