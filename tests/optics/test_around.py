"""What stands around the engine: placing, ends, OTDR, protection, latency, GNPy's files, pages."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from starloom.cli.main import app
from starloom.optics import (
    BadTopology,
    Gas,
    Link,
    Section,
    Span,
    Transceiver,
    catalogue,
    design,
    encryption_us,
    evaluate,
    from_gnpy,
    latency_budget,
    place,
    plots,
    spectrum_to_gnpy,
    summary,
    survival,
    to_gnpy,
)
from starloom.optics import transceiver as ends
from starloom.optics.base import Otdr
from starloom.optics.budget import limits
from starloom.optics.opgw import rotation_rad_per_s
from starloom.optics.otdr import coverage, reach_km
from starloom.optics.report import Block, page

EXAMPLES = Path(__file__).parents[2] / "examples" / "links"
FIBRES = {fibre.name: fibre for fibre in catalogue().fibres}


def example(name):
    return Link.load(EXAMPLES / f"{name}.yaml")


# ------------------------------------------------------------------ channels around gas lines


@pytest.fixture(scope="module")
def gassy():
    """300 km of hollow core with 120 ppm of CO2, both bands."""
    gas = Gas(co2_ppm=120)
    spans = (Span(sections=(Section(fibre="hcf-low-imi", km=100, gas=gas),), repeat=3),)
    return example("backbone").changed(spans=spans, launch_dbm=4)


def test_placing_never_carries_less(gassy):
    """Every grid of one mode is among the sets that the search chooses from."""
    modes = [mode for mode in gassy.all_modes() if mode.rate_gbps >= 800]
    placed = place(gassy, modes, spare_db=0.2)
    assert placed.design.margin_db.min() > 0
    grids = [evaluate(gassy.changed(mode=mode.name)) for mode in modes]
    assert placed.design.capacity_gbps >= max(made.capacity_gbps for made in grids)
    assert len(placed.modes) == placed.spectrum.size


def test_placing_steps_around_the_lines(gassy):
    """Where only the fastest mode is offered, channels stand where the gas is thin."""
    fast = [gassy.mode_named("1.6t")]
    placed = place(gassy, fast, spare_db=0.2)
    grid = evaluate(gassy)
    assert placed.design.gas_mean_db.max() < grid.gas_mean_db.max()
    assert placed.design.works
    assert not grid.works


def test_air_after_a_cut():
    """A day: 164 m of air on each side of an evacuated core, 2 m at 1 atm; flagged."""
    span = Span(sections=(Section(fibre="hcf", km=100, gas=Gas(pressure_atm=0.05)),))
    link = example("dci").changed(spans=(span,))
    mended = design.after_cut(link, 24)
    assert mended.km == pytest.approx(100)
    assert [p.km for p in mended.spans[0].sections] == pytest.approx(
        [49.836, 0.329, 49.836], abs=1e-3
    )
    before, after = evaluate(link), evaluate(mended)
    assert after.gas_peak_db.max() > 0.05
    assert after.span_loss_db[0].min() > before.span_loss_db[0].max() + 0.04  # two for one
    assert any("approximate" in flag for flag in after.flags)
    full = link.changed(spans=(Span(sections=(Section(fibre="hcf", km=100),)),))
    assert design.after_cut(full, 24).spans[0].sections[1].km == pytest.approx(0.0042, abs=2e-4)


# ------------------------------------------------------------------ the ends


def test_converters_by_hand():
    """6 bits, crest 9 dB: 36.12 + 4.77 - 9 = 31.89 dB each, 28.88 dB both."""
    noise = ends.converter_noise(Transceiver(enob_bits=6, papr_db=9))
    assert -10 * np.log10(noise) == pytest.approx(28.88, abs=0.01)


def test_phase_noise_by_hand():
    """2 x 50 kHz, pilots 32 symbols apart at 100 GBd: 2 pi 1e5 * 32 / 1e11 / 6 = 3.35e-5."""
    found = ends.phase_noise(Transceiver(), np.array([100.0]))
    assert found[0] == pytest.approx(3.351e-5, rel=1e-3)


def test_eepn_by_hand_and_against_hollow_core():
    """17,000 ps/nm, 100 kHz, 32 GBd at 1550 nm: pi l^2 DL dv B / 2c = 6.85e-4; a fifth in HCF."""
    about = Transceiver(linewidth_khz=100)
    thz, baud = np.array([193.414]), np.array([32.0])
    glass = ends.eepn(about, thz, baud, np.array([17_000.0]))
    assert glass[0] == pytest.approx(6.85e-4, rel=0.01)
    assert ends.eepn(about, thz, baud, np.array([3_000.0]))[0] < glass[0] / 5


def test_pdl_bound_by_hand():
    """1 dB: r = 1.2589, 2 / (1 + r) = .8854, .529 dB; nothing costs nothing."""
    assert ends.pdl_penalty_db(1.0) == pytest.approx(0.529, abs=1e-3)
    assert ends.pdl_penalty_db(0.0) == 0.0


def test_qam_by_hand():
    """16-QAM at a bit error rate of 2e-2 needs 12.7 dB: 3/8 erfc(sqrt(SNR / 10)) = .02."""
    assert design.qam_snr_db(16, 2e-2) == pytest.approx(12.7, abs=0.05)


# ------------------------------------------------------------------ OTDR


@pytest.mark.parametrize(("loss", "km"), [(0.10, 105), (0.15, 70), (0.20, 52.5)])
def test_otdr_reach_on_hollow_core(loss, km):
    """28 dB of range, 3 of margin, 14.5 less by backscatter: 10.5 dB."""
    about = Otdr(dynamic_range_db=28, margin_db=3)
    assert reach_km(about, loss, -29.0) == pytest.approx(km)


def test_two_ends_see_twice_as_far():
    """A 160 km span is whole from both ends, not from one."""
    link = example("backbone").changed(otdr={"dynamic_range_db": 28})
    span = Span(sections=(Section(fibre="hcf", km=160, loss_db_per_km=0.1),))
    assert coverage(link, span).whole
    single = link.changed(otdr={"dynamic_range_db": 28, "two_ended": False})
    seen = coverage(single, span)
    assert not seen.whole
    assert seen.covered_km == pytest.approx(105)


def test_glass_in_front_of_a_hollow_core_dazzles():
    """A pulse of 1 us hides 0.15 km of air behind each joint, three times that behind glass."""
    link = example("dci")
    mixed = (Section(fibre="smf", km=1), Section(fibre="hcf", km=9))
    seen = coverage(link, Span(sections=mixed))
    assert seen.blind_zones == 2
    assert seen.blind_km == pytest.approx(0.102 + 3 * 0.1497, abs=1e-3)


# ------------------------------------------------------------------ protection


def test_availability_by_hand():
    """110 km: a cut each 39,818 h, 12 h to mend: .99970; doubled the product of both paths."""
    link = example("trading").changed(protection={"scheme": "channel", "diverse_km": 110})
    alone, kept = survival(link, "none"), survival(link)
    assert alone.unavailability["fibre"] == pytest.approx(12 / (4.38e6 / 110 + 12))
    assert kept.unavailability["fibre"] == pytest.approx(alone.unavailability["fibre"] ** 2)
    assert kept.switch_ms == 50
    assert alone.switch_ms is None


def test_schemes_are_ordered():
    """The more is doubled, the more is available."""
    link = example("dci")
    order = ("none", "section", "channel", "odu-sncp", "client")
    found = [survival(link, scheme).availability for scheme in order]
    assert found == sorted(found)


def test_a_hitless_switch_buffers_the_difference():
    """560 km of glass beside 420 of air: 1.34 ms, at 100 Gb/s 16.7 MB, and the fast copy waits."""
    kept = survival(example("relay"))
    assert kept.difference_us == pytest.approx(560 * 4.8967 - 420 * 3.33998, abs=0.1)
    assert kept.skew_buffer_bytes == pytest.approx(kept.difference_us * 1e-6 * 100e9 / 8)
    assert kept.added_us == kept.difference_us
    assert kept.switch_ms == 0


# ------------------------------------------------------------------ latency and the ground wire


def test_the_trading_line_as_a_file():
    """Two-way .766 ms of fibre; of the published .93 ms, .164 are left beside it."""
    budget = latency_budget(example("trading"))
    assert budget.fibre_round_trip_us == pytest.approx(766, abs=0.5)
    assert 930 - budget.fibre_round_trip_us == pytest.approx(164, abs=0.5)
    assert all(limit.kept for limit in limits(example("trading")))


def test_relay_protection_keeps_its_limits():
    """Below 10 ms one way, and an asymmetry that a differential relay must know of."""
    link = example("relay")
    assert all(limit.kept for limit in limits(link))
    assert latency_budget(link).asymmetry_us == pytest.approx(-0.5 * 3.33998, abs=1e-3)


def test_encryption_takes_frames():
    """Four OTU4 frames at each end: 9.3 us."""
    assert encryption_us(4) == pytest.approx(9.344)


def test_lightning_turns_glass_a_thousand_times_faster():
    """1e11 A/s over 100 m: 10.7 Mrad/s in glass, 11 krad/s in a hollow core."""
    glass, air = (rotation_rad_per_s(FIBRES[n], 1e11, 100) for n in ("smf", "hcf"))
    assert glass == pytest.approx(1.07e7, rel=0.01)
    assert glass / air == pytest.approx(1000)


def test_the_relay_line_rides_out_a_stroke():
    """Its hollow core turns slowly enough for the receiver, glass in the same wire would not."""
    rows = {row["fibre"]: row["followed"] for row in summary.ground_wire(example("relay"))}
    assert rows == {"hcf": True, "smf": False}


# ------------------------------------------------------------------ GNPy's files


def test_a_link_comes_back_from_gnpy_json():
    """Out and in again: what GNPy has no word for included."""
    link = example("dci")
    topology, equipment = json.loads(json.dumps(to_gnpy(link)))
    back = from_gnpy(topology, equipment, spectrum_to_gnpy(link))
    before = [part for span in link.line for part in span.sections]
    after = [part for span in back.line for part in span.sections]
    assert [(p.fibre, p.km, p.gas) for p in after] == [(p.fibre, p.km, p.gas) for p in before]
    assert evaluate(back).spectrum.size == 80
    assert evaluate(back).span_loss_db[0].mean() == pytest.approx(
        evaluate(link).span_loss_db[0].mean(), abs=0.02
    )


def test_a_topology_of_others():
    """Fused, lumped loss, att_in, out_voa and metres are read; a mesh is searched for the way."""
    topology = {
        "elements": [
            {"uid": "A", "type": "Transceiver"},
            {"uid": "B", "type": "Transceiver"},
            {"uid": "C", "type": "Transceiver"},
            {"uid": "r", "type": "Roadm"},
            {
                "uid": "f1",
                "type": "Fiber",
                "type_variety": "NZDF",
                "params": {
                    "length": 40_000,
                    "length_units": "m",
                    "loss_coef": 0.22,
                    "con_in": 0.5,
                    "con_out": 0.3,
                    "att_in": 1,
                    "lumped_losses": [{"position": 10, "loss": 0.7}],
                },
            },
            {"uid": "x", "type": "Fused", "params": {"loss": 0.4}},
            {"uid": "f2", "type": "Fiber", "params": {"length": 20, "loss_coef": 0.2}},
            {
                "uid": "e",
                "type": "Edfa",
                "type_variety": "v",
                "operational": {"gain_target": 16, "out_voa": 1},
            },
        ],
        "connections": [
            {"from_node": a, "to_node": b}
            for a, b in (
                ("A", "r"),
                ("r", "f1"),
                ("f1", "x"),
                ("x", "f2"),
                ("f2", "e"),
                ("e", "C"),
                ("r", "B"),
            )
        ],
    }
    equipment = {
        "Edfa": [
            {"type_variety": "v", "gain_min": 10, "gain_flatmax": 20, "nf_min": 5, "nf_max": 9}
        ],
        "Fiber": [{"type_variety": "NZDF", "dispersion": 5e-6, "effective_area": 72e-12}],
    }
    link = from_gnpy(topology, equipment, ends=("A", "C"))
    span = link.spans[0]
    assert [part.km for part in span.sections] == pytest.approx([10, 30, 20])
    assert span.connectors_db == (1.5, 0.0)
    assert span.gain_db == 15
    assert link.amplifier_noun(span.amplifier).noise_figure_db == pytest.approx(5 + 4 * 0.4)
    loss = evaluate(link, raman_tilt=False).span_loss_db[0]
    assert loss == pytest.approx(1.5 + 40 * 0.22 + 0.7 + 0.3 + 0.4 + 20 * 0.2, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"elements": []}, "two transceivers"),
        ({"connections": []}, "no way from"),
    ],
)
def test_topologies_that_do_not_hold(change, told):
    """The message says what is missing."""
    topology, equipment = to_gnpy(example("metro"))
    with pytest.raises(BadTopology, match=told):
        from_gnpy({**topology, **change}, equipment)


def test_a_roadm_within_the_line_is_refused():
    """Its noise is not modelled, so it must not be passed over in silence."""
    topology, _ = to_gnpy(example("metro"))
    topology["elements"][2]["type"] = "Roadm"
    with pytest.raises(BadTopology, match="'amplifier 1': a Roadm"):
        from_gnpy(topology)


# ------------------------------------------------------------------ commands and pages


def run(*args):
    return CliRunner().invoke(app, ["link", *map(str, args)])


def test_design_as_json():
    """The documented fields; a link that lacks margin exits with 1."""
    done = run("design", EXAMPLES / "metro.yaml", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert told["works"]
    assert told["capacity_gbps"] == 32_000
    assert len(told["channels"]["osnr_db"]) == 40
    done = run("design", EXAMPLES / "smf-10x80.yaml", "--mode", "1.6t", "--json")
    assert done.exit_code == 1
    assert not json.loads(done.stdout)["works"]


def test_design_writes_a_page_and_gnpy_files(tmp_path):
    """The page is whole: pictures inside, nothing fetched, no script."""
    done = run("design", EXAMPLES / "relay.yaml", "--html", tmp_path / "a.html", "--gnpy", tmp_path)
    assert done.exit_code == 0, done.output
    told = (tmp_path / "a.html").read_text()
    assert told.count("<svg") == 4
    assert "<script" not in told
    assert 'src="http' not in told
    again = run(
        "design", tmp_path / "topology.json", "--equipment", tmp_path / "equipment.json", "--json"
    )
    assert json.loads(again.stdout)["km"] == 420


def test_a_picture_is_the_same_twice():
    """Equal designs make equal bytes."""
    made = evaluate(example("relay"))
    assert plots.margins(made) == plots.margins(made)


def test_compare_puts_fibres_side_by_side():
    """The trading line as stated, in glass and in hollow core: latency in that order reversed."""
    done = run("compare", EXAMPLES / "trading.yaml", "--json")
    told = json.loads(done.stdout)
    times = [told[name]["latency"]["round_trip_us"] for name in ("all smf", "as stated", "all hcf")]
    assert times == sorted(times, reverse=True)


def test_what_a_page_is_given_is_escaped():
    """Names in link files are text, whatever they look like."""
    made = page("<b>", [Block("<i>", columns=("<u>",), rows=[["<script>alert(1)</script>"]])])
    assert "<script>" not in made
    assert "&lt;b&gt;" in made
