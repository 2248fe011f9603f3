"""Gas in a hollow core: lines, profiles, what equalisation wins back, what enters after a cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.optics import Gas
from starloom.optics.gas import (
    absorption_db_per_km,
    co2_lines,
    equalised_snr,
    humid_air,
    ingress_km,
    line_peaks,
    mean_loss_db,
    over_channels,
    step_ghz,
)
from starloom.optics.voigt import faddeeva, voigt


def test_faddeeva_at_known_points():
    """w(0) = 1; w(iy) = exp(y^2) erfc(y): at y = 1 0.427584; Re w(1) = exp(-1)."""
    w = faddeeva(np.array([0j, 1j, 1 + 0j]))
    assert w.real == pytest.approx([1.0, 0.4275836, 0.3678794], abs=1e-6)


@given(st.floats(0.05, 5.0), st.floats(0.05, 5.0))
def test_voigt_is_the_convolution(doppler, lorentz):
    """Against the integral of Gaussian times Lorentzian, to 1e-5 of the peak."""
    offset = np.array([0.0, 0.3, 1.0, 3.0, 10.0])
    t = np.linspace(-6 * doppler, 6 * doppler, 20_001)
    gauss = np.exp(-((t / doppler) ** 2)) / (doppler * np.sqrt(np.pi))
    shape = lorentz / np.pi / ((offset[:, None] - t) ** 2 + lorentz**2)
    integral = (shape * gauss).sum(1) * (t[1] - t[0])
    peak = integral.max()
    assert voigt(offset, doppler, lorentz) == pytest.approx(integral, abs=2e-5 * peak)


def test_the_strongest_line_of_co2():
    """400 ppm at 1 atm: .329 dB/km at 1572.33 nm, which is R16e at 190.667 THz."""
    thz, peaks = line_peaks(Gas(co2_ppm=400), 189.0, 191.5)
    assert peaks.max() == pytest.approx(0.329, abs=1e-3)
    assert 299_792.458 / thz[peaks.argmax()] == pytest.approx(1572.33, abs=0.01)


def test_the_peak_by_hand():
    """S n / (pi gamma): 400 ppm of 2.479e19 cm^-3, 1.76e-23 cm, .0741 cm^-1 make .324 dB/km.

    The rest of the .329 are wings of the neighbours; the Doppler part takes a percent away.
    """
    known = co2_lines()[0]
    strongest = known.intensity.argmax()
    per_cm3 = 400e-6 * 101_325 / (1.380649e-23 * 296) * 1e-6
    peak_per_cm = per_cm3 * known.intensity[strongest] / (np.pi * known.air[strongest])
    assert peak_per_cm * 1e5 * 4.342945 == pytest.approx(0.326, abs=2e-3)


def test_ten_db_over_a_hundred_km_are_122_ppm():
    """What a published 10 dB per 100 km says about the gas in that fibre."""
    _, peaks = line_peaks(Gas(co2_ppm=122), 189.0, 191.5)
    assert 100 * peaks.max() == pytest.approx(10.0, abs=0.05)


def test_pressure_widens_a_notch_and_hardly_deepens_it():
    """From 0.1 to 2 atm the peak rises by a third, a 130 GHz channel's loss many times over."""
    peak, mean = [], []
    for atm in (0.1, 1.0, 2.0):
        gas = Gas(co2_ppm=400, pressure_atm=atm)
        thz, peaks = line_peaks(gas, 190.0, 191.0)
        centre = np.array([thz[peaks.argmax()]])
        loss, _ = over_channels(gas, centre, np.array([130.0]), 4000)
        peak.append(peaks.max())
        mean.append(mean_loss_db(100 * loss)[0])
    assert peak == pytest.approx([0.251, 0.329, 0.341], abs=2e-3)
    assert mean == pytest.approx([0.24, 2.84, 6.91], abs=0.02)


def test_all_that_the_lines_take_is_conserved():
    """The integral over a band is strength times density: pressure moves only the width."""
    thz = np.arange(187.0, 193.0, 0.0005)
    areas = [
        absorption_db_per_km(Gas(co2_ppm=100, pressure_atm=p), thz)[0].sum() / p for p in (0.5, 1.0)
    ]
    assert areas[1] == pytest.approx(areas[0], rel=0.02)


def test_cold_air_moves_strength_to_low_levels():
    """R16e, whose lower level is 106 cm^-1 up, is near its maximum at room temperature."""
    warm = line_peaks(Gas(co2_ppm=400), 190.6, 190.7)[1].max()
    cold = line_peaks(Gas(co2_ppm=400, temperature_k=253), 190.6, 190.7)[1].max()
    assert cold / warm == pytest.approx(1.10, abs=0.12)


def test_made_lines_say_that_they_are_approximate():
    """CO2's other bands and all of water; the measured band is not among them."""
    thz = np.linspace(186.5, 187.5, 2000)
    total, rough = absorption_db_per_km(Gas(co2_ppm=400), thz)
    assert rough.max() > 0.2
    assert (total - rough).max() < 0.01
    total, rough = absorption_db_per_km(Gas(h2o_ppm=10_000), thz)
    assert np.array_equal(total, rough)


def test_equalisers_are_ordered():
    """None, then the receiver, then both ends: each wins back more, none more than was there."""
    gas = Gas(co2_ppm=40)
    loss, _ = over_channels(gas, np.array([190.667]), np.array([118.0]), 400)
    snr = np.array([300.0])
    kept = [equalised_snr(100 * loss, snr, how)[0] for how in ("none", "receiver", "both")]
    assert kept == sorted(kept)
    assert kept[-1] < snr[0] * 1.02


@given(st.floats(1.0, 1e4))
def test_nothing_to_equalise_costs_nothing(snr):
    """A flat loss, however deep, is already in the SNR."""
    flat = np.full((1, 16), 7.0)
    for how in ("none", "receiver", "both"):
        assert equalised_snr(flat, np.array([snr]), how)[0] == pytest.approx(snr, rel=1e-6)


def test_mmse_by_hand():
    """Half of the band lost, SNR 10: h = 2, 0 and 1 / E[1/(1 + snr h)] - 1 = 2/(1/21 + 1) - 1."""
    loss = np.array([[0.0, 200.0]])
    kept = equalised_snr(loss, np.array([10.0]), "receiver")[0]
    assert kept == pytest.approx(2 / (1 / 21 + 1) - 1, rel=1e-6)


def test_humid_air():
    """23 C (296.15 K) and half saturated: 1404 Pa of water, 1.39 %, by Magnus' formula."""
    assert humid_air(0.5, 296.15).h2o_ppm == pytest.approx(13_840, rel=0.005)


def test_air_enters_an_evacuated_core_by_metres_not_kilometres():
    """A day: 164 m of a 15 um core into vacuum, 2 m by diffusion at equal pressure."""
    assert ingress_km(24) == pytest.approx(0.164, abs=0.002)
    assert ingress_km(24, core_atm=1.0) == pytest.approx(0.0021, abs=1e-4)


def test_the_grid_follows_the_narrowest_line():
    """At a hundredth of an atmosphere Doppler's 0.15 GHz is left."""
    assert step_ghz(Gas(pressure_atm=0.01)) == pytest.approx(0.025, abs=0.003)
    assert step_ghz(Gas(pressure_atm=20)) == 1.0
