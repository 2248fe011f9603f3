"""Kerr noise by the Gaussian-noise (GN) model in closed form, with Raman tilt.

Each channel j shakes channel i by eta[i, j] P_i P_j^2. Along the fibre, power relative to launch is
rho(z); |mu(x)|^2 = |int rho e^{jxz} dz|^2 weighs four-wave mixing with phase mismatch x. For one
exponential it is a Lorentzian, and integrals over a channel's band are arcsinh's (Poggiolini,
arXiv:1209.0394, eq. 120-123). Two steps of our own keep that form where the paper stops:

- Raman tilt: rho is written as c1 e^{-az} + c2 e^{-2az} (as Semrau et al., JLT 37, 2019, expand
  it). |mu|^2 of a sum of exponentials is again a sum of Lorentzians: with
  mu = sum c_m / (a_m - jx), |mu|^2 = sum_m w_m a_m / (a_m^2 + x^2), where
  w_m = 2 c_m sum_n c_n / (a_m + a_n).
- Short pieces: a fibre of length L has |mu(0)|^2 = L_eff^2, and by Parseval
  int |mu|^2 dx = 2 pi int rho^2 dz. A Lorentzian with both has the width a coth(a L / 2): `a` for a
  long span, 2 / L for a pigtail, where eq. 120 would keep `a` and miss the noise.

Noise of spans adds in power (incoherent accumulation).
"""

import numpy as np

from starloom.optics.base import Floats

_SPM, _XPM = 16 / 27, 32 / 27


def noise_ratio(
    launch_w: Floats,
    thz: Floats,
    baud_gbd: Floats,
    alpha_per_m: Floats,
    beta2_s2_per_m: Floats,
    gamma_per_w_m: Floats,
    length_m: float,
    tilt: Floats | None = None,
) -> Floats:
    """NLI over signal power of each channel, in its symbol rate, of one piece of fibre.

    `tilt` is `c2` above (see `fit_tilt`); without it there is a single exponential.
    """
    terms = _lorentzians(alpha_per_m, length_m, tilt)
    hz, baud = thz * 1e12, baud_gbd * 1e9
    beta2 = np.abs(beta2_s2_per_m[:, None] + beta2_s2_per_m[None, :]) / 2
    shift = np.abs(hz[None, :] - hz[:, None])  # psi is even in the shift
    scale = np.pi**2 * beta2 * baud[:, None]
    far, near = scale * (shift + baud[None, :] / 2), scale * (shift - baud[None, :] / 2)
    psi = np.zeros_like(beta2)
    for width, weight in terms:
        right, left = far / width, near / width
        # arcsinh(right) - arcsinh(left), four times as fast as NumPy's arcsinh
        psi += weight * np.log(
            (right + np.sqrt(right * right + 1)) / (left + np.sqrt(left * left + 1))
        )
    psi /= 4 * np.pi * beta2
    share = np.full_like(psi, _XPM)
    np.fill_diagonal(share, _SPM)
    eta = share * psi * (gamma_per_w_m[:, None] / baud[None, :]) ** 2
    ratio: Floats = eta @ launch_w**2
    return ratio


def fit_tilt(z: Floats, rho: Floats, alpha_per_m: Floats) -> Floats:
    """c2 of (1 - c2) e^{-az} + c2 e^{-2az} for each channel: least squares over z."""
    one = np.exp(-np.outer(alpha_per_m, z))
    step = np.gradient(z)
    difference = one**2 - one
    fitted: Floats = ((rho - one) * difference * step).sum(1) / (difference**2 * step).sum(1)
    return fitted


def _lorentzians(
    alpha_per_m: Floats, length_m: float, tilt: Floats | None
) -> list[tuple[Floats, Floats]]:
    """(width, weight) of each Lorentzian of |mu|^2, a value a channel: w a / (a^2 + x^2)."""
    parts = [(alpha_per_m, np.ones_like(alpha_per_m))]
    if tilt is not None:
        parts = [(alpha_per_m, 1 - tilt), (2 * alpha_per_m, tilt)]
    # c / a of the infinite fibre becomes c (1 - e^{-aL}) / a, the area under the finite one.
    ends = [(a / np.tanh(a * length_m / 2), c * -np.expm1(-a * length_m) / a) for a, c in parts]
    finite = [(width, area * width) for width, area in ends]
    return [
        (width, 2 * c * sum(other / (width + wide) for wide, other in finite))
        for width, c in finite
    ]
