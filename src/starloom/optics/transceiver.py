"""What the ends of a link add, whatever lies between: converters, lasers, polarisation.

Noise is over signal, in the symbol rate.
"""

import math

import numpy as np

from starloom.optics.base import C_M_PER_S, Floats, Transceiver


def converter_noise(transceiver: Transceiver) -> float:
    """Quantisation of one DAC and one ADC: SNR = 6.02 ENOB + 4.77 dB - PAPR each (Bennett 1948)."""
    snr_db = 6.02 * transceiver.enob_bits + 4.77 - transceiver.papr_db
    return float(2 * 10 ** (-snr_db / 10))


def phase_noise(transceiver: Transceiver, baud_gbd: Floats) -> Floats:
    """What carrier recovery leaves of two lasers' phase walk.

    Phase is known at pilots N symbols apart and drawn as a line between them. The walk's variance
    over that time is 2 pi (2 linewidth) N / baud, and a Brownian bridge leaves a sixth of it.
    """
    walk = 2 * np.pi * 2 * transceiver.linewidth_khz * 1e3 * transceiver.pilot_every
    return walk / (baud_gbd * 1e9) / 6


def eepn(transceiver: Transceiver, thz: Floats, baud_gbd: Floats, cd_ps_per_nm: Floats) -> Floats:
    """Equalisation-enhanced phase noise.

    The receiver's filter against dispersion spreads the local oscillator's phase over symbols:
    pi lambda^2 |D L| linewidth baud / (2 c) (Shieh and Ho, Optics Express 16, 15718, 2008).
    """
    wavelength_m = C_M_PER_S / (thz * 1e12)
    cd_s_per_m = np.abs(cd_ps_per_nm) * 1e-3
    width = transceiver.linewidth_khz * 1e3 * baud_gbd * 1e9
    noise: Floats = np.pi * wavelength_m**2 * cd_s_per_m * width / (2 * C_M_PER_S)
    return noise


def floor(transceiver: Transceiver, baud_gbd: Floats) -> Floats:
    """Noise of the ends back to back, which a mode's required OSNR already pays for."""
    return converter_noise(transceiver) + phase_noise(transceiver, baud_gbd)


def pdl_penalty_db(pdl_db: float) -> float:
    """Bound on what polarisation-dependent loss costs.

    All noise comes behind it, and the signal of the unlucky polarisation is 1 - (r - 1) / (r + 1)
    of the mean, for a ratio r.
    """
    ratio = 10 ** (pdl_db / 10)
    return -10 * math.log10(2 / (1 + ratio))
