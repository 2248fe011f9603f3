"""The link engine, against figures worked by hand and against what must hold."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.optics import BadLink, Gas, Link, Section, Span, catalogue, design, evaluate, plan
from starloom.optics import fibre as glass
from starloom.optics.engine import dbm
from starloom.optics.nli import fit_tilt, noise_ratio
from starloom.optics.raman import gain_per_w_m, profile
from starloom.site import SiteError

EXAMPLES = Path(__file__).parents[2] / "examples" / "links"
SMF = next(f for f in catalogue().fibres if f.name == "smf")
QUIET = {"enob_bits": 30, "linewidth_khz": 0}


def a_link(spans, **fields):
    asked = {
        "name": "test",
        "band": ("c4.8t",),
        "mode": "100g-32gbd",
        "spacing_ghz": 50,
        "launch_dbm": 0,
        "amplifier": "edfa-23",
        "spans": tuple(spans),
        "transceiver": QUIET,
    }
    return Link.model_validate({**asked, **fields})


def hollow(km, **fields):
    return Section(fibre="hcf", km=km, loss_db_per_km=0.1, **fields)


@pytest.mark.parametrize(("channels", "osnr"), [(1, 41.0), (8, 32.0), (40, 25.0), (80, 22.0)])
def test_five_hundred_km_without_repeaters(channels, osnr):
    """40 dBm shared, 50 dB of fibre, 2 dB of joints, noise figure 5: 58 + 40 - 52 - 5 = 41 dB."""
    span = Span(sections=(hollow(500),), connectors_db=(1, 1))
    link = a_link(
        [span], channels=channels, launch_dbm=40 - 10 * np.log10(channels), amplifier="eydfa-40"
    )
    assert evaluate(link).osnr_db.mean() == pytest.approx(osnr, abs=0.1)


def test_ten_spans_of_standard_fibre():
    """10 x 80 km, 96 channels: GNPy 3.0.1 prints 24.89 and 22.72 dB; 25.0 with the Tx's 40 dB."""
    made = evaluate(Link.load(EXAMPLES / "smf-10x80.yaml"), raman_tilt=False)
    assert made.spectrum.size == 96
    assert made.osnr_db.mean() == pytest.approx(24.89, abs=0.1)
    assert made.gsnr_db.mean() == pytest.approx(22.72, abs=0.1)
    assert made.cd_ps_per_nm.mean() == pytest.approx(13_360, rel=0.01)


def test_one_channel_of_kerr_noise_by_hand():
    """SPM of eq. 120: 16/27 (g L_eff / B)^2 P^2 asinh(pi^2 |b2| B^2 / 2a) / (2 pi |b2| / a)."""
    thz, baud = np.array([193.414]), np.array([32.0])
    alpha = np.array([0.2 * np.log(10) / 10 * 1e-3])
    beta2, gamma = glass.beta2_s2_per_m(SMF, thz), glass.gamma_per_w_m(SMF, thz)
    ratio = noise_ratio(np.array([1e-3]), thz, baud, alpha, beta2, gamma, 500e3)
    b2, a, b = 2.13e-26, alpha[0], 32e9
    psi = np.arcsinh(np.pi**2 / 2 * b2 / a * b**2) / (2 * np.pi * b2 / a)
    by_hand = 16 / 27 * (1.27e-3 / a / b) ** 2 * 1e-6 * psi
    assert ratio[0] == pytest.approx(by_hand, rel=0.02)


def test_noise_of_a_short_pigtail_grows_with_its_length_squared():
    """20 m of glass: the phase mismatch does not matter, so twice the length is 6 dB more."""
    thz, baud = np.array([193.4, 193.45]), np.array([32.0, 32.0])
    alpha = np.full(2, 4.6e-5)
    beta2, gamma = glass.beta2_s2_per_m(SMF, thz), glass.gamma_per_w_m(SMF, thz)
    power = np.full(2, 0.1)
    short, long = (
        noise_ratio(power, thz, baud, alpha, beta2, gamma, length) for length in (20.0, 40.0)
    )
    assert long / short == pytest.approx([4.0, 4.0], rel=0.01)


@given(st.floats(-3, 6), st.floats(20, 120))
@settings(max_examples=20, deadline=None)
def test_raman_scattering_conserves_photons(dbm_each, km):
    """Power moves from high to low frequencies; photons (power over frequency) stay."""
    thz = np.linspace(184.5, 196.5, 40)
    power = np.full(40, 2e-3 * 10 ** (dbm_each / 10))
    alpha = np.full(40, 4.6e-5)
    _, rho = profile(power, alpha, gain_per_w_m(SMF, thz), km * 1e3)
    before, after = (power / thz).sum(), (power * rho[:, -1] / thz).sum()
    assert after / before == pytest.approx(np.exp(-4.6e-5 * km * 1e3), rel=2e-3)
    assert np.all(np.diff(rho[:, -1]) <= 1e-9)


def test_tilt_by_the_triangular_rule():
    """C+L over 80 km: end to end about 4.34 * 0.028 /W/km/THz * 12 THz * P * L_eff (Zirngibl)."""
    thz = np.linspace(184.5, 196.5, 80)
    power = np.full(80, 1e-3)
    alpha = np.full(80, 0.2 * np.log(10) / 1e4)
    z, rho = profile(power, alpha, gain_per_w_m(SMF, thz), 80e3)
    tilt_db = 10 * np.log10(rho[0, -1] / rho[-1, -1])
    assert tilt_db == pytest.approx(4.343 * 0.028 * 12 * 0.08 * 21.2, rel=0.15)
    tilt = fit_tilt(z, rho, alpha)
    one = np.exp(-np.outer(alpha, z))
    assert np.abs((1 - tilt)[:, None] * one + tilt[:, None] * one**2 - rho).max() < 0.01


def test_inter_modal_interference_by_hand():
    """-60 dB/km over 1,600 km leave 60 - 32.04 = 27.96 dB of SNR."""
    link = a_link([Span(sections=(hollow(80),), repeat=20)])
    noise = evaluate(link).noise["imi"]
    assert -10 * np.log10(noise) == pytest.approx([27.96] * 96, abs=0.01)


def test_required_snr_takes_the_ends_off():
    """An ideal receiver needs what OSNR and floor leave together; margin is what is above it."""
    span = Span(sections=(Section(fibre="smf", km=80, loss_db_per_km=0.2),))
    ideal = evaluate(a_link([span]))
    real = evaluate(a_link([span], transceiver={"enob_bits": 5.0, "linewidth_khz": 0}))
    assert ideal.required_snr_db[0] == pytest.approx(12.5 - 10 * np.log10(32 / 12.5), abs=0.01)
    assert real.required_snr_db[0] < ideal.required_snr_db[0]
    assert real.margin_db.max() < ideal.margin_db.max()


def test_amplifiers_give_what_they_can():
    """30 dBm asked of a 23 dBm booster: every channel starts 7 dB lower, and a flag says so."""
    link = a_link([Span(sections=(hollow(80),))], channels=10, launch_dbm=20)
    made = evaluate(link)
    assert made.launch_dbm == pytest.approx([13.0] * 10)
    assert any("7.0 dB lower" in flag for flag in made.flags)


def test_line_amplifiers_have_limits_of_their_own():
    """A booster of 33 dBm, then amplifiers of 23: 10 dB lower from there on, told once."""
    span = Span(sections=(hollow(80),), repeat=3)
    link = a_link([span], channels=10, launch_dbm=23, booster="eydfa-33.5")
    made = evaluate(link)
    assert [flag for flag in made.flags if "amplifiers edfa-23" in flag] == [
        "amplifiers edfa-23: 33.0 dBm are asked for, they give 23: from there on channels are"
        " 10.0 dB lower"
    ]
    first = evaluate(link.changed(spans=(span.model_copy(update={"repeat": 1}),)))
    assert made.noise["ase"] / first.noise["ase"] == pytest.approx([1 + 10 + 10] * 10, rel=1e-6)
    assert not any("amplifiers" in flag for flag in first.flags)  # it only feeds the receiver


def test_a_part_that_may_not_take_the_power_is_named():
    """Connector, splice and glass have limits of their own; glass fuses near 31 dBm."""
    tail = Section(fibre="smf", km=0.02)
    span = Span(sections=(tail, hollow(300), tail), connector_max_dbm=27)
    link = a_link([span], channels=40, launch_dbm=20, amplifier="eydfa-40")
    flags = " ".join(evaluate(link).flags)
    assert "first connector: 36.0 dBm" in flags
    assert "into smf: 36.0 dBm are above the 31 dBm" in flags
    assert "last connector" not in flags


def test_pigtails_make_the_kerr_noise_of_a_hollow_link():
    """At 35 dBm 20 m of glass are worse than 100 km of hollow core."""
    tail = Section(fibre="smf", km=0.02)
    link = a_link([Span(sections=(tail, hollow(100), tail))], launch_dbm=15, amplifier="eydfa-35")
    made = evaluate(link)
    assert made.noise["pigtail"].min() > 100 * made.noise["nli"].max()


def test_joints_and_repairs_are_paid():
    """HCF-SMF 0.3 dB twice, two cuts of two HCF splices 0.05 dB each, ageing 1, connectors .5."""
    tail = Section(fibre="smf", km=1, loss_db_per_km=0.2)
    span = Span(
        sections=(tail, hollow(100), tail),
        connectors_db=(0.5, 0.5),
        ageing_db=1,
        repairs=2,
    )
    loss = evaluate(a_link([span], channels=1, launch_dbm=-20)).span_loss_db[0]
    by_hand = 0.2 + 0.3 + 10 + 0.3 + 0.2 + 1.0 + 1.0 + 4 * 0.02  # mended where it begins: in glass
    assert loss == pytest.approx([by_hand], abs=1e-6)


def test_spans_alike_are_counted_as_often_as_they_stand():
    """Ten written out make what ten by `repeat` make."""
    span = Span(sections=(Section(fibre="smf", km=80, loss_db_per_km=0.2),))
    short = evaluate(a_link([span.model_copy(update={"repeat": 10})]))
    long = evaluate(a_link([span] * 10))
    assert short.snr_db == pytest.approx(long.snr_db, abs=1e-9)
    assert len(short.span_loss_db) == 10


@given(st.floats(-6, 4), st.integers(1, 8))
@settings(max_examples=15, deadline=None)
def test_longer_is_never_better(launch, spans):
    """A span more takes margin from every channel."""
    span = Span(sections=(Section(fibre="smf", km=80, loss_db_per_km=0.2),), repeat=spans)
    more = span.model_copy(update={"repeat": spans + 1})
    near, far = (evaluate(a_link([s], launch_dbm=launch, channels=20)) for s in (span, more))
    assert np.all(far.margin_db < near.margin_db)


def test_gas_is_seen_between_carriers():
    """A line of 4.4 GHz between two carriers: their bands feel it, their centres would not."""
    gas = Gas(co2_ppm=400)
    spaced = {"mode": "800g", "spacing_ghz": None, "band": ("c6t",), "amplifier": "edfa-cl-26"}
    dry = evaluate(a_link([Span(sections=(hollow(100),))], **spaced))
    wet = evaluate(a_link([Span(sections=(hollow(100, gas=gas),))], **spaced))
    hit = wet.gas_peak_db > 10
    assert hit.any()
    assert np.all(wet.margin_db[hit] < dry.margin_db[hit] - 1)
    far = wet.gas_peak_db < 0.01
    assert wet.margin_db[far] == pytest.approx(dry.margin_db[far], abs=0.1)


def test_reach_is_where_the_margin_ends():
    """At the reach the link works, 1 % further it does not."""
    link = a_link([Span(sections=(Section(fibre="smf", km=80),))], mode="400g", spacing_ghz=75)
    km = design.reach_km(link)
    assert evaluate(design.lengthened(link, km)).works
    assert not evaluate(design.lengthened(link, 1.01 * km)).works


def test_the_best_launch_is_a_third_of_noise_from_kerr():
    """Of P / (a + b P^3) the best has ASE twice the Kerr noise (the GN model's rule)."""
    link = a_link([Span(sections=(Section(fibre="smf", km=80),), repeat=5)], channels=9)
    best = link.changed(launch_dbm=design.best_launch_dbm(link))
    made = evaluate(best, raman_tilt=False)
    at = int(made.margin_db.argmin())
    assert made.noise["ase"][at] / made.noise["nli"][at] == pytest.approx(2.0, rel=0.05)


def test_forty_dbm_needs_long_spans():
    """1,600 km at .1 dB/km, 48 channels, 29.5 dB: 80 km spans take 14.3 dBm, 400 km ones 39.3.

    29.5 + 8 + 5 - 57.9 + 13.0 + 16.8 by hand; joints and connectors of a span come on top.
    """
    asked = {"required_osnr_db": 29.5, "channels": 48, "noise_figure_db": 5.0}
    short = design.output_needed_dbm(span_loss_db=8, spans=20, **asked)
    long = design.output_needed_dbm(span_loss_db=40, spans=4, **asked)
    assert short == pytest.approx(14.3, abs=0.1)
    assert long == pytest.approx(39.3, abs=0.1)


def test_hollow_core_beats_glass_where_it_should():
    """The same 10 x 80 km: a fifth of the dispersion, and more OSNR at equal launch."""
    link = Link.load(EXAMPLES / "smf-10x80.yaml")
    made = {name: evaluate(twin) for name, twin in design.twins(link).items()}
    glass_, hollow_ = made["all smf"], made["all hcf"]
    assert hollow_.osnr_db.mean() > glass_.osnr_db.mean() + 5
    assert np.abs(hollow_.cd_ps_per_nm).max() < np.abs(glass_.cd_ps_per_nm).min() / 5


def test_channels_do_not_overlap():
    """A spacing below the baud rate is refused, as are more channels than fit."""
    with pytest.raises(ValueError, match="less than the mode's 32 GBd"):
        a_link([Span(sections=(hollow(80),))], spacing_ghz=25)
    bands, modes = catalogue().bands, catalogue().modes
    with pytest.raises(BadLink, match="97 channels of 50 GHz do not fit: 96 do"):
        plan(bands[:1], modes[0], channels=97)


def test_a_file_that_does_not_hold_is_told_by_line(tmp_path):
    """The place, what is wrong, and what to write instead."""
    file = tmp_path / "link.yaml"
    text = (EXAMPLES / "dci.yaml").read_text().replace("fibre: hcf", "fibre: hcff")
    file.write_text(text)
    with pytest.raises(SiteError, match=r"spans\[0\].sections\[1\].fibre: 'hcff' is not known"):
        Link.load(file)


@pytest.mark.parametrize("name", ["backbone", "dci", "metro", "relay", "smf-10x80", "trading"])
def test_every_scenario_works(name):
    """The shipped scenarios are links that one could build: margin on every channel."""
    assert evaluate(Link.load(EXAMPLES / f"{name}.yaml")).works


def test_catalogue_modes_by_shannon():
    """Modes without a public OSNR are Shannon's SNR plus the gap that their source states."""
    from starloom.optics.spectrum import shannon_osnr_db

    modes = {mode.name: mode for mode in catalogue().modes}
    for name, gap in (("1.2t", 3.5), ("1.6t", 3.3)):
        mode = modes[name]
        assert mode.required_osnr_db == pytest.approx(
            shannon_osnr_db(mode.rate_gbps, mode.baud_gbd, gap), abs=0.05
        )


def test_dbm():
    """A watt is 30 dBm."""
    assert dbm(1.0) == pytest.approx(30.0)
