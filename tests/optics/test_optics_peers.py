"""Against GNPy 3.0.1, run in its own environment on files that our exporter wrote."""

import numpy as np
import pytest

from starloom.bench.optics import GNPY, flat_line, gnpy
from starloom.optics import Section, Span, evaluate

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not GNPY.exists(), reason="needs GNPy: make .venv-gnpy/ready"),
]


def test_ten_spans_against_the_closed_form():
    """OSNR and GSNR of all 96 channels within .1 dB without Raman scattering; faster as well."""
    link = flat_line(10)
    made, theirs = (
        evaluate(link, raman_tilt=False),
        gnpy(link, method="gn_model_analytic", raman=False),
    )
    assert made.spectrum.thz == pytest.approx(theirs["thz"], abs=1e-6)
    assert np.abs(made.osnr_db - theirs["osnr_db"]).max() < 0.1
    assert np.abs(made.gsnr_db - theirs["gsnr_db"]).max() < 0.1
    assert made.cd_ps_per_nm.mean() == pytest.approx(theirs["cd_ps_per_nm"], rel=0.01)


def test_two_spans_against_the_integral():
    """With Raman scattering, on the three channels that GNPy integrates: within .1 dB."""
    link = flat_line(2)
    made, theirs = evaluate(link), gnpy(link, method="ggn_spectrally_separated", raman=True)
    for at in (0, 47, 95):
        assert made.osnr_db[at] == pytest.approx(theirs["osnr_db"][at], abs=0.1)
        assert made.gsnr_db[at] == pytest.approx(theirs["gsnr_db"][at], abs=0.1)


def test_c_and_l_band_with_tilt():
    """160 channels of 75 GHz over C and L band, 80 km: what Raman moves, to .1 dB of OSNR."""
    link = flat_line(1).changed(
        band=("c6t", "l6t"),
        mode="400g",
        spacing_ghz=75,
        amplifier="edfa-cl-26",
        launch_dbm=0,
        spans=(Span(sections=(Section(fibre="smf", km=80, loss_db_per_km=0.2),), gain_db=16),),
    )
    # GNPy's SI is one range: the seam between the bands is filled in both.
    filled = link.changed(
        bands=({"name": "both", "from_thz": 184.4, "to_thz": 196.7},), band=("both",)
    )
    made, theirs = evaluate(filled), gnpy(filled, method="gn_model_analytic", raman=True)
    assert np.abs(made.osnr_db - theirs["osnr_db"]).max() < 0.1


def test_gnpy_cannot_know_hollow_core():
    """Why there is an engine of our own: its latency of 800 km is glass's, 46 % too long."""
    link = flat_line(10)
    hollow = link.changed(
        spans=(
            Span(sections=(Section(fibre="hcf", km=80, loss_db_per_km=0.1),), repeat=10, gain_db=8),
        )
    )
    theirs = gnpy(hollow, method="gn_model_analytic", raman=False)
    assert theirs["latency_ms"] == pytest.approx(3.917, abs=0.01)
    assert theirs["latency_ms"] / (800 * 3.33998e-3) == pytest.approx(1.466, abs=0.01)
