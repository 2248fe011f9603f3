"""Training across sites: the source's arithmetic, the latency modes, simulations, trials."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from starloom.bench.across import article_run
from starloom.cli.main import app
from starloom.plan.across import (
    SHIPPED,
    Across,
    Pipe,
    Trial,
    arithmetic,
    balance_loss_pct,
    balanced,
    check,
    crossing_km,
    loss,
    read,
    simulate_hierarchical,
    simulate_pipeline,
    simulate_ring,
)
from starloom.plan.across.pipe import step_s
from starloom.plan.errors import BadPlan
from starloom.site import SiteError

EXAMPLES = Path(__file__).parents[2] / "examples" / "across"
RUN = article_run()
HOLLOW = RUN.in_fibre(us_per_km=3.33)


# ------------------------------------------------------------------ arithmetic


def test_the_printed_arithmetic():
    """Every figure of the source: 6.995 s, 27.98 s, 4.375 GB, 3.13-15.64 GB/s, 3.2-16 Tb/s."""
    sums = arithmetic(RUN)
    assert sums.t_batch_s == pytest.approx(6.9954, abs=1e-4)
    assert sums.t_cal_s == pytest.approx(27.98, abs=0.005)
    assert sums.d_dp_bytes == 4.375e9
    assert sums.gpu_gbytes_per_s == pytest.approx((3.127, 15.635), abs=1e-3)
    assert sums.line_tbps == pytest.approx((3.20, 16.01), abs=0.005)
    assert sums.waves_800g == 16
    assert sums.convergence == 8.0
    assert sums.flow_s == pytest.approx(0.350)


def test_tokens_are_divided_by_the_gpus_that_make_them():
    """292.8 a second and GPU, by the batch and by the whole step; as printed 16 times too few."""
    sums = arithmetic(RUN)
    assert sums.tgs == pytest.approx(292.8, abs=0.05)
    assert RUN.global_batch * RUN.sequence / sums.t_cal_s / 1024 == pytest.approx(sums.tgs)
    assert sums.tgs / sums.tgs_printed == pytest.approx(16.0)


def test_the_factor_that_looks_like_a_batch_counts_flows():
    """GBS / d = 128 equals 2 p t; with twice the batch only the latter stays what crosses."""
    assert arithmetic(RUN).flows == 2048 / 16
    twice = RUN.model_copy(update={"global_batch": 4096})
    assert arithmetic(twice).flows == 128
    assert 4096 / 16 == 256


# ------------------------------------------------------------------ formulas


@pytest.mark.parametrize(
    ("km", "mode", "percent"),
    [
        (600, "dependency", 0.043),
        (300, "barrier", 0.161),
        (600, "barrier", 0.321),
        (300, "calibrated", 2.509),
        (600, "calibrated", 4.894),
        (1000, "calibrated", 7.899),
    ],
)
def test_the_ring_by_mode(km, mode, percent):
    """On T_DP,cal, 5.0 us/km: 2 RTT, 30 one-way waits, 60 RTT a batch."""
    assert loss(RUN.at_km(km), "dp-ring", mode).loss_pct == pytest.approx(percent, abs=1e-3)


def test_both_denominators():
    """The literal 2 RTT is .171 % of T_batch; the barrier 1.270 %; the calibrated mode the same."""
    there = RUN.at_km(600)
    assert loss(there, "dp-ring", "dependency").on_batch_pct == pytest.approx(0.171, abs=1e-3)
    assert loss(there, "dp-ring", "barrier").on_batch_pct == pytest.approx(1.270, abs=1e-3)
    assert loss(there, "dp-ring", "calibrated").on_batch_pct == pytest.approx(4.894, abs=1e-3)


def test_hollow_core_and_the_engines_delays():
    """1,000 km: 5.40 % at the printed 3.33 us/km; 600 km at the engine's 4.897: 4.80 %."""
    assert loss(HOLLOW.at_km(1000), "dp-ring", "calibrated").loss_pct == pytest.approx(
        5.404, abs=1e-3
    )
    glass = RUN.in_fibre(fibre="smf").at_km(600)
    assert loss(glass, "dp-ring", "calibrated").loss_pct == pytest.approx(4.80, abs=0.005)


@pytest.mark.parametrize(
    ("run", "kms"), [(RUN, (614, 307, 205)), (HOLLOW, (921, 461, 307))], ids=["glass", "hollow"]
)
def test_where_five_percent_are_lost(run, kms):
    """With GPUs as they are, twice and three times as fast."""
    found = [crossing_km(run.with_gpus(speed), 5.0) for speed in (1, 2, 3)]
    assert found == pytest.approx(kms, abs=0.5)


@pytest.mark.parametrize(("km", "percent"), [(300, 0.096), (600, 0.193)])
def test_the_pipeline(km, percent):
    """2 (2 v - 1) one-way delays with v = 5: 18 x 1.5 ms of 27.98 s at 300 km."""
    assert loss(RUN.at_km(km), "pp").loss_pct == pytest.approx(percent, abs=1e-3)


def test_three_sites_halve_a_lap_and_keep_the_longest_wait():
    """Only one leg has a length: crossed once a lap, not twice; a barrier waits as long as ever."""
    three = article_run(3).at_km(300)
    two = RUN.at_km(300)
    for mode, ratio in (("dependency", 2.0), ("calibrated", 2.0), ("barrier", 1.0)):
        ours = [loss(run, "dp-ring", mode).latency_s for run in (two, three)]
        assert ours[0] / ours[1] == pytest.approx(ratio)
    assert loss(three, "dp-ring", "calibrated").loss_pct == pytest.approx(1.270, abs=1e-3)


def test_fewer_crossings_by_sums_and_switches():
    """Two sites: a round trip where the ring takes two; a local method one in H steps."""
    there = RUN.at_km(600)
    ring = loss(there, "dp-ring").latency_s
    assert loss(there, "dp-hierarchical").latency_s == pytest.approx(ring / 2)
    assert loss(there, "dp-in-network").latency_s == pytest.approx(ring / 2)
    assert loss(there, "local").latency_s == pytest.approx(ring / 2 / 50)


def test_buckets_and_overlap():
    """28 buckets take 28 times the round trips; whatever the overlap, the last one shows."""
    many = RUN.at_km(600).model_copy(update={"buckets": 28})
    one = loss(RUN.at_km(600), "dp-ring").latency_s
    assert loss(many, "dp-ring").latency_s == pytest.approx(28 * one)
    hidden = many.model_copy(update={"overlap": 1.0})
    assert loss(hidden, "dp-ring").latency_s == pytest.approx(one)


def test_a_mode_that_a_strategy_has_not():
    """Only a ring has steps to wait for."""
    with pytest.raises(BadPlan, match="pp has no 'calibrated' latency"):
        loss(RUN, "pp", "calibrated")


@given(st.floats(1, 5000), st.floats(1.01, 3))
def test_farther_is_never_better(km, factor):
    """More distance, and faster GPUs, lose more in every mode."""
    for mode in ("dependency", "barrier", "calibrated"):
        here = loss(RUN.at_km(km), "dp-ring", mode).loss_pct
        assert loss(RUN.at_km(km * factor), "dp-ring", mode).loss_pct > here
        assert loss(RUN.at_km(km).with_gpus(factor), "dp-ring", mode).loss_pct > here


# ------------------------------------------------------------------ simulations


@pytest.mark.parametrize("km", [100, 1000])
def test_the_ring_simulated_is_the_dependency_mode(km):
    """Nothing of 60 round trips comes out of the algorithm: the simulation says 2, as the text."""
    there = RUN.at_km(km)
    ours = simulate_ring(there).loss_pct
    assert ours == pytest.approx(loss(there, "dp-ring").loss_pct, rel=0.02)
    assert ours < loss(there, "dp-ring", "calibrated").loss_pct / 50


def test_a_narrow_line_hides_distance_and_costs_more():
    """3.2 Tb/s: a fortieth of the ports. What bandwidth takes dwarfs what light takes."""
    wide = simulate_ring(RUN.at_km(600))
    narrow = simulate_ring(RUN.at_km(600).model_copy(update={"line_tbps": 3.2}))
    assert narrow.whole_loss_pct > 10 * wide.whole_loss_pct
    assert narrow.loss_pct < wide.loss_pct


def test_background_load_takes_its_share():
    """Six tenths of the line gone, flows at four tenths: 100 Gb/s is what is left of 12.8 Tb/s."""
    full = simulate_hierarchical(RUN.at_km(0))
    busy = simulate_hierarchical(RUN.at_km(0).model_copy(update={"background": 0.6}))
    shown = [run.step_s - arithmetic(RUN).t_cal_s for run in (full, busy)]
    assert shown[1] > 1.5 * shown[0]


def test_the_pipeline_simulated():
    """Interleaved schedules hide the steady state: within 3 % of warm-up and drain alone."""
    there = RUN.at_km(600)
    assert simulate_pipeline(there).loss_pct == pytest.approx(loss(there, "pp").loss_pct, rel=0.03)


def test_without_interleaving_the_steady_state_waits():
    """Plain 1F1B has too few microbatches under way: far more than the formula's two delays."""
    plain = RUN.at_km(600).model_copy(update={"chunks": 1})
    assert simulate_pipeline(plain).loss_pct > 20 * loss(plain, "pp").loss_pct


def test_a_pipeline_by_hand():
    """Two ranks, one chunk, two microbatches, forward 1 and backward 2: 1 + 2 * 3 + 2 = 9.

    With delay 1: rank 1 gets a at 2, works 3; its gradient reaches rank 0 at 6, the last one at 9.
    """
    near = Pipe((1.0, 1.0), (0.0, 0.0), 1, 2)
    assert step_s(near) == 9.0
    far = Pipe((1.0, 1.0), (1.0, 1.0), 1, 2)
    assert step_s(far) == 11.0


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_a_pipeline_is_never_faster_than_its_work(ranks, chunks, rounds, delay):
    """No rank is done before its own passes and the bubble; delays only add."""
    near = Pipe((1.0,) * ranks, (0.0,) * ranks, chunks, rounds * ranks)
    far = Pipe((1.0,) * ranks, (delay,) * ranks, chunks, rounds * ranks)
    work = 3.0 * chunks * rounds * ranks
    assert step_s(near) == pytest.approx(work + 3.0 * (ranks - 1))
    assert step_s(far) >= step_s(near) - 1e-9


# ------------------------------------------------------------------ uneven sites


def test_layers_by_speed():
    """80 layers over four ranks of speed 1 and four of 2: 7 and 13, where 6.67 would be even."""
    counts = balanced(80, [1, 1, 1, 1, 2, 2, 2, 2])
    assert sum(counts) == 80
    assert counts == [7, 7, 7, 7, 13, 13, 13, 13]
    assert balance_loss_pct(80, [1, 1, 1, 1, 2, 2, 2, 2]) == pytest.approx(100 * (1 - 80 / 12 / 7))


def test_even_sites_lose_nothing_by_balance():
    """Equal chips and parts that divide."""
    assert balance_loss_pct(80, [3.0] * 8) == pytest.approx(0.0)


def test_more_workers_than_parts():
    """Somebody would have nothing to do."""
    with pytest.raises(BadPlan, match="3 parts for 4 workers"):
        balanced(3, [1, 1, 1, 1])


def test_a_site_of_slower_chips_in_the_simulation():
    """Half the speed on one side: stages go 1 to 2 by layers, the step takes 4/3 of full speed."""
    slow = tuple(
        site.model_copy(update={"tflops": 122.96 / (1 + at)}) for at, site in enumerate(RUN.sites)
    )
    uneven = RUN.model_copy(update={"sites": slow}).at_km(0)
    even = simulate_pipeline(RUN.at_km(0)).step_s
    assert simulate_pipeline(uneven).step_s / even == pytest.approx(4 / 3, rel=0.06)


# ------------------------------------------------------------------ trials and files


def test_shipped_trials():
    """The calibrated mode meets the 4.9 % it was fitted to; the literal one misses, and says so."""
    found = {(c.trial.id, c.strategy, c.mode): c.holds for c in check(RUN, list(SHIPPED))}
    assert found["seed_dp_600", "dp-ring", "calibrated"]
    assert not found["seed_dp_600", "dp-ring", "dependency"]
    assert found["seed_pp_600", "pp", "dependency"]


@pytest.mark.data
def test_published_trials(data_dir):
    """The bounds that the pipeline must keep, it keeps; rows without distance are named."""
    trials, left_out = read(data_dir / "cross_dc" / "cross_dc_training.csv")
    bounds = [
        item
        for item in check(RUN, trials)
        if item.strategy == "pp" and item.trial.relation in ("<", "<=")
    ]
    assert len(bounds) >= 5
    assert all(item.holds for item in bounds)
    assert any("cm_800g_70b: no distance" in line for line in left_out)


def test_relations():
    """A bound is a bound; an equality holds within a tenth."""
    below = Trial("x", 2, 1, ("pp",), "<", 1.0)
    about = Trial("x", 2, 1, ("pp",), "~", 2.0)
    assert below.holds(0.9)
    assert not below.holds(1.1)
    assert about.holds(2.15)
    assert not about.holds(2.3)


def test_a_file_of_another_form(tmp_path):
    """Columns that lack are named."""
    file = tmp_path / "t.csv"
    file.write_text("id,km\na,1\n")
    with pytest.raises(BadPlan, match=r"t\.csv:1: has no column distance_km, metric, n_dc"):
        read(file)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("gpus: 512}\nlegs", "gpus: 500}\nlegs", "the cuts need 1024 GPUs, the sites have 1012"),
        ("us_per_km: 5.0", "fibre: smff", "no fibre 'smff'"),
        ("global_batch: 2048", "global_batch: 2000", "not whole batches of each replica"),
    ],
)
def test_what_does_not_add_up_is_told(tmp_path, old, new, told):
    """With the file's line."""
    text = (EXAMPLES / "article.yaml").read_text()
    file = tmp_path / "run.yaml"
    file.write_text(text.replace(old, new))
    with pytest.raises(SiteError, match=told):
        Across.load(file)


def test_the_command(tmp_path):
    """JSON names the mode of every figure; the page is whole."""
    page = tmp_path / "a.html"
    asked = ["across", str(EXAMPLES / "three.yaml"), "--html", str(page), "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert {point["mode"] for point in told["points"]} == {"dependency", "barrier", "calibrated"}
    assert all(point["simulated_loss_pct"] is not None for point in told["points"])
    assert page.read_text().count("<svg") == 1
