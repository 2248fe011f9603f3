"""Stimulated Raman scattering: how a wide spectrum tilts itself along glass.

Each photon pair moves power from the higher frequency to the lower one:

    d ln P_i / dz = -alpha_i + sum_j C(f_j - f_i) P_j

with C the Raman efficiency of a germanium-doped standard fibre by frequency shift, over the
effective area. A pure silica core has a tenth less below 5 THz.
"""

from functools import lru_cache

import numpy as np

from starloom.optics.base import Fibre, Floats
from starloom.optics.fibre import area_m2

_PUMP_THZ = 206.185
_SHIFT_THZ, _EFFICIENCY_FM_PER_W = np.array(
    [  # every 0.5 or 1 THz of the profile that was measured for GNPy (BSD-3-Clause; 10^-15 m/W)
        *((0, 0), (0.5, 0.852), (1, 2.64), (1.5, 4.41), (2, 6.15), (2.5, 7.48), (3, 8.45)),
        *((3.5, 9.1), (4, 9.58), (4.5, 10), (5, 10.9), (5.5, 11.3), (6, 12.1), (7, 14.6)),
        *((8, 17.5), (9, 21.7), (10, 26.3), (11, 29.7), (12, 32.5), (13, 33.1), (14, 30.6)),
        *((15, 25.2), (16, 9.9), (18, 7.21), (20, 2.76), (24, 5.46), (28, 1.13), (42, 0)),
    ]
).T
_STEPS = 24


def gain_per_w_m(fibre: Fibre, thz: Floats) -> Floats:
    """As `_gain`, remembered: a sweep asks for the same channels again and again."""
    return _gain(fibre, thz.tobytes())


@lru_cache(maxsize=8)
def _gain(fibre: Fibre, channels: bytes) -> Floats:
    """C[i, j]: what a watt of channel j adds to channel i's ln P a metre; below zero it takes.

    In proportion to the higher of the two frequencies, and to the inverse of the mean area. A
    photon that moves down leaves f_low / f_high of its energy: the rest warms the glass.
    """
    thz = np.frombuffer(channels)
    shift = thz[None, :] - thz[:, None]
    per_w = np.interp(np.abs(shift), _SHIFT_THZ, _EFFICIENCY_FM_PER_W) * 1e-15
    high, low = np.maximum(thz[None, :], thz[:, None]), np.minimum(thz[None, :], thz[:, None])
    area = area_m2(fibre, thz)
    height = per_w * high / _PUMP_THZ * 2 / (area[None, :] + area[:, None])
    gain: Floats = np.where(shift >= 0, 1.0, -high / low) * height
    return gain


def profile(
    launch_w: Floats, alpha_per_m: Floats, gain: Floats, length_m: float
) -> tuple[Floats, Floats]:
    """Positions z [m] and power relative to launch, [channel, z]; exact but for the step.

    Steps are even in exp(-alpha z), so that they are short where power is high. Within a step the
    exponent is integrated by Heun's rule over the effective length: second order.
    """
    mean = float(alpha_per_m.mean())
    z = -np.log1p(-np.linspace(0, 1, _STEPS + 1) * -np.expm1(-mean * length_m)) / mean
    log = np.zeros((launch_w.size, z.size))
    power = launch_w.astype(np.float64)
    for at, step in enumerate(np.diff(z)):
        reach = -np.expm1(-alpha_per_m * step) / alpha_per_m  # effective length of the step
        lost = alpha_per_m * step
        first = gain @ (power * reach)
        later = power * np.exp(first)
        exponent = (first + gain @ (later * reach)) / 2
        log[:, at + 1] = log[:, at] - lost + exponent
        power = launch_w * np.exp(log[:, at + 1])
    return z, np.exp(log)
