"""The router: features, learning, calibration, dials, drift, lanes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.serve.route import (
    BadArtifact,
    BadDial,
    BadOutcomes,
    Dial,
    DriftWatch,
    Lanes,
    RouteModel,
    Router,
    Scored,
    Settings,
    decide,
    lane_of,
    train,
)
from starloom.serve.route.calibrate import fit
from starloom.serve.route.dense import Scales
from starloom.serve.route.form import NAMES, form
from starloom.serve.route.grams import BUCKETS, CHAR_BITS, MAX_CHARS, grams
from starloom.serve.route.measure import (
    apgr,
    apgr_11,
    calibration_error,
    calls_for,
    curve,
    paired_bootstrap,
)
from starloom.serve.route.outcomes import Outcomes, synthetic
from starloom.serve.route.ridge import solve
from starloom.serve.route.rows import Rows
from starloom.serve.route.weights import Weights

FAST = Settings(penalties=(10.0,), scales=Scales(wave_count=32))
MODELS = {"small": "loom-s", "large": "loom-l"}


@pytest.fixture(scope="module")
def model() -> RouteModel:
    return train(synthetic(1, 600), settings=FAST)


# --- features ---------------------------------------------------------------------------------


def test_grams_are_those_of_a_naive_count():
    """Vectorised hashing tells n-grams apart as plain Python does, and counts them alike."""
    text = "the cat sat on  the mat, THE end"
    folded = f" {' '.join(text.lower().split())} "
    expected = [
        folded[at : at + size]
        for size in (2, 3, 4, 5)
        for at in range(len(folded) - size + 1)
        if " " not in folded[at + 1 : at + size - 1]
    ]
    words = ["the", "cat", "sat", "on", "the", "mat", "the", "end"]
    pairs = list(pairwise(words))
    found = grams(text)
    chars = found.buckets < 1 << CHAR_BITS
    assert found.counts[chars].sum() == len(expected)
    assert chars.sum() == len(set(expected))
    assert found.counts[~chars].sum() == len(words) + len(pairs)
    assert (~chars).sum() == len(set(words)) + len(set(pairs))


def test_a_word_has_one_bucket_wherever_it_stands():
    """Prefix sums and inverse powers take a word's place out of its hash."""
    alone, late = grams("merge"), grams("so we do then merge")
    words = alone.buckets[alone.buckets >= 1 << CHAR_BITS]
    assert len(words) == 1
    assert words[0] in late.buckets


@given(st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_text_has_features(text):
    """Whatever a client sends, features are finite and buckets in range."""
    found = grams(text)
    assert (found.buckets >= 0).all()
    assert (found.buckets < BUCKETS).all()
    assert (np.diff(found.buckets) > 0).all()
    values = form(text)
    assert values.shape == (len(NAMES),)
    assert np.isfinite(values).all()


def test_a_long_text_is_read_at_both_ends():
    """What is left out lies in the middle, so that cost is bounded."""
    head, tail = "alpha " * (MAX_CHARS // 2), "omega " * (MAX_CHARS // 2)
    short, long = grams(head + tail), grams(head + "middle " * MAX_CHARS + tail)
    assert set(long.buckets) == set(short.buckets)


def test_form_sees_options_and_numbers():
    """A question's options are apart from its text."""
    text = "What is 12 + 30?\nA. 42\nB. forty\nC. 7\nD. 1.5\nAnswer:"
    seen = dict(zip(NAMES, form(text), strict=True))
    assert seen["options"] == 4
    assert seen["numbers"] == 2
    assert seen["asks"] == 1
    assert seen["largest_number"] == pytest.approx(np.log1p(30))


# --- learning ---------------------------------------------------------------------------------


def test_ridge_is_that_of_the_normal_equations():
    """Conjugate gradients in the dual end where the closed form does."""
    random = np.random.default_rng(0)
    texts = [grams(prompt) for prompt in synthetic(3, 60).prompts]
    rows = Weights.learned(texts, 1.0)(texts)
    dense = random.normal(size=(60, 3))
    target = random.normal(size=60)
    solution = solve(rows, dense, target, 2.0, tolerance=1e-9)
    full = np.zeros((60, BUCKETS))
    full[rows.owners, rows.indices] = rows.values
    every = np.concatenate([full, dense], axis=1)
    dual = np.linalg.solve(every @ every.T + 2.0 * np.eye(60), target - target.mean())
    expected = target.mean() + every @ every.T @ dual
    assert np.allclose(solution.predict(rows, dense), expected, atol=1e-5)


def test_a_masked_row_teaches_nothing():
    """A fold that is left out does not change the solution, whatever its targets are."""
    texts = [grams(prompt) for prompt in synthetic(4, 40).prompts]
    rows = Weights.learned(texts, 1.0)(texts)
    target = np.arange(40.0)
    mask = np.arange(40) % 4 != 0
    nothing = np.zeros((40, 0))
    other = np.where(mask, target, -1000.0)
    one = solve(rows, nothing, target, 1.0, mask=mask)
    two = solve(rows, nothing, other, 1.0, mask=mask)
    assert np.array_equal(one.sparse, two.sparse)


def test_rows_multiply_as_their_dense_form():
    """Also a row that holds nothing."""
    rows = Rows(
        np.array([0, 2, 2, 3]),
        np.array([0, 2, 1], np.int32),
        np.array([1.0, 2.0, 3.0], np.float32),
        3,
    )
    assert rows.times(np.array([1.0, 10.0, 100.0])).tolist() == [201, 0, 30]
    assert rows.back(np.array([1.0, 5.0, 2.0])).tolist() == [1, 6, 2]


def test_calibration_rises_and_stays_off_certainty():
    """Isotonic: a better score never means a lower probability, and none is 0 or 1."""
    random = np.random.default_rng(0)
    scores = random.normal(size=2000)
    outcomes = (random.random(2000) < 1 / (1 + np.exp(-2 * scores))).astype(float)
    curve_of = fit(scores, outcomes)
    assert (np.diff(curve_of.probabilities) >= 0).all()
    assert 0 < curve_of(-99) < curve_of(99) < 1
    fresh = random.normal(size=5000)
    truth = (random.random(5000) < 1 / (1 + np.exp(-2 * fresh))).astype(float)
    assert calibration_error(curve_of.many(fresh), truth) < 0.03


def test_training_learns_what_is_hard(model):
    """On fresh questions of the same making it beats length, and its probabilities hold."""
    test = synthetic(99, 800)
    scored = [model.score(prompt) for prompt in test.prompts]
    scores = np.array([one.score for one in scored])
    lengths = np.array([float(len(prompt)) for prompt in test.prompts])
    assert apgr(scores, test.gain) > apgr(lengths, test.gain) + 0.02
    right = np.array([one.small_right for one in scored])
    assert calibration_error(right, test.small.astype(float)) < 0.1


def test_training_repeats_byte_for_byte(model):
    """Seeded throughout: the same outcomes give the same scores."""
    again = train(synthetic(1, 600), settings=FAST)
    for prompt in synthetic(5, 5).prompts:
        assert again.score(prompt) == model.score(prompt)


def test_what_cannot_be_learned_is_refused():
    """Too few questions, or a large model that is no better."""
    with pytest.raises(BadOutcomes, match="100 are the least"):
        train(synthetic(0, 50))
    made = synthetic(0, 200)
    with pytest.raises(BadOutcomes, match="route all to the small one"):
        train(Outcomes(made.prompts, made.topics, made.large, made.small))


def test_a_saved_model_decides_as_before(model, tmp_path):
    """One file, no pickles; half precision where it costs nothing that matters."""
    path = tmp_path / "router.npz"
    model.save(path)
    loaded = RouteModel.load(path)
    assert loaded.about == model.about
    for prompt in synthetic(6, 20).prompts:
        assert loaded.score(prompt).score == pytest.approx(model.score(prompt).score, abs=2e-3)
        topic = model.about.topics[0]
        told = loaded.score(prompt, topic).score
        assert told == pytest.approx(model.score(prompt, topic).score, abs=2e-3)


def test_a_file_that_is_no_router_is_named(model, tmp_path):
    """The message says which file, and what to do."""
    with pytest.raises(BadArtifact, match="starloom route train"):
        RouteModel.load(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(BadArtifact, match="not a router's file"):
        RouteModel.load(tmp_path / "text.npz")
    model.save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadArtifact):
        RouteModel.load(tmp_path / "half.npz")


# --- measures ---------------------------------------------------------------------------------


def test_apgr_by_hand():
    """Gains 1, 0, 1, -1 in order of the score: PGR 0, 1, 1, 2, 1 at 0, 1, 2, 3, 4 calls of 4."""
    gain = np.array([1.0, 0.0, 1.0, -1.0])
    score = np.array([4.0, 3.0, 2.0, 1.0])
    shares, recovered = curve(score, gain)
    assert recovered.tolist() == [0, 1, 1, 2, 1]
    assert shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert apgr(score, gain) == pytest.approx((0.5 + 1 + 1.5 + 1.5) / 4)
    assert calls_for(score, gain, 0.5) == pytest.approx(12.5)


def test_a_constant_score_is_chance():
    """Who knows nothing recovers the share that it spends."""
    gain = np.array([1.0, 1.0, 0.0, -1.0, 0.0, 1.0])
    nothing = np.zeros(6)
    assert apgr(nothing, gain) == pytest.approx(0.5)
    assert apgr_11(nothing, gain) == pytest.approx(0.5)
    assert calls_for(nothing, gain, 0.8) == pytest.approx(80)


def test_both_ways_to_integrate_agree():
    """Ten trapezoids miss little of the area on thousands of questions."""
    made = synthetic(2, 3000)
    score = np.array([float(len(prompt)) for prompt in made.prompts])
    assert apgr_11(score, made.gain) == pytest.approx(apgr(score, made.gain), abs=0.01)


def test_the_bootstrap_is_of_pairs():
    """A score against itself differs by nothing on any draw; a better one leads on all."""
    made = synthetic(2, 500)
    random = np.random.default_rng(0)
    noise = random.normal(size=500)
    assert paired_bootstrap(noise, noise, made.gain, draws=50, seed=0) == (0.0, 0.0)
    low, high = paired_bootstrap(made.gain + 0.1 * noise, noise, made.gain, draws=50, seed=0)
    assert 0 < low < high


# --- decisions --------------------------------------------------------------------------------


def test_a_cost_dial_is_a_share(model):
    """0.3 sends about three in ten requests like the training's to the large model."""
    router = Router(model, **MODELS, dial=Dial("cost", 0.3))
    decisions = [router.decide(prompt) for prompt in synthetic(7, 400).prompts]
    share = sum(decision.size == "large" for decision in decisions) / len(decisions)
    assert share == pytest.approx(0.3, abs=0.08)
    assert router.large_share == share
    assert all(decision.model == MODELS[decision.size] for decision in decisions)


@pytest.mark.parametrize(
    ("by", "at", "size"),
    [("cost", 0.0, "small"), ("cost", 1.0, "large"), ("quality", 0.0, "small")],
)
def test_the_ends_of_the_dial(model, by, at, size):
    """Nothing and everything, also for texts unlike the training's."""
    router = Router(model, **MODELS, dial=Dial(by, at))
    for text in ("", "zzz", "a proof of the theorem", "apples " * 50):
        assert router.decide(text).size == size


def test_quality_costs_calls(model):
    """More quality is never fewer calls; all of it is recovered with fewer than all calls."""
    cuts = [model.cut(Dial("quality", at)) for at in (0.2, 0.5, 0.8, 1.0)]
    assert cuts == sorted(cuts, reverse=True)


def test_a_threshold_is_of_the_probability():
    """As in RouteLLM: the large model where it probably is the only one to be right."""
    scored = Scored(score=-1.0, large_wins=0.4, small_right=0.6)
    dial = Dial("threshold", 0.4)
    assert decide(scored, 0.4, dial=dial, models=MODELS, lane="quick").size == "large"
    assert decide(scored, 0.41, dial=dial, models=MODELS, lane="quick").size == "small"


def test_an_override_ends_the_matter(model):
    """By size or by a model's name; anything else is refused rather than guessed."""
    router = Router(model, **MODELS, dial=Dial("cost", 0.0))
    for wish in ("large", "loom-l"):
        decision = router.decide("1 + 1?", override=wish, override_by="x-starloom-route")
        assert (decision.model, decision.scored) == ("loom-l", None)
    with pytest.raises(BadDial, match="x-starloom-route: 'lage' is none of small, large, loom-s"):
        router.decide("1 + 1?", override="lage", override_by="x-starloom-route")
    with pytest.raises(BadDial):
        Dial("cost", 1.5)


def test_a_cost_dial_follows_what_comes(model):
    """Requests that all look hard still cost the share that was asked for."""
    router = Router(model, **MODELS, dial=Dial("cost", 0.2))
    made = synthetic(8, 3000)
    hard = [p for p, t in zip(made.prompts, made.topics, strict=True) if t == "arithmetic"]
    asked = (hard * 3)[:1200]
    late = [router.decide(prompt).size == "large" for prompt in asked][700:]
    assert sum(late) / len(late) == pytest.approx(0.2, abs=0.08)
    assert router.drift().state == "drifted"


# --- drift ------------------------------------------------------------------------------------


def test_drift_is_seen_and_its_absence_too():
    """The same distribution is steady, a shifted one is drifted, few scores say nothing."""
    random = np.random.default_rng(0)
    reference = np.sort(random.normal(size=5000))
    watch = DriftWatch(reference, window=1000)
    for score in random.normal(size=100):
        watch.note(score)
    assert watch.report().state == "waiting"
    for score in random.normal(size=1000):
        watch.note(score)
    assert watch.report().state == "steady"
    assert watch.report().ks < 0.08
    for score in random.normal(1.0, size=1000):
        watch.note(score)
    report = watch.report()
    assert report.state == "drifted"
    assert report.psi > 0.25
    assert report.requests == 1000


# --- lanes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "lane"),
    [
        ({}, "quick"),
        ({"effort": "high"}, "thinking"),
        ({"effort": "minimal", "answer_tokens": 9000}, "quick"),
        ({"answer_tokens": 9000}, "thinking"),
        ({"small_right": 0.2}, "thinking"),
        ({"small_right": 0.9}, "quick"),
        ({"header": "quick", "effort": "high"}, "quick"),
    ],
)
def test_the_first_that_speaks_names_the_lane(asked, lane):
    """Header, then effort, then length, then what the router expects."""
    assert lane_of(**asked) == lane


def test_an_unknown_lane_is_refused():
    with pytest.raises(BadDial, match="neither quick nor thinking"):
        lane_of(header="slow")


@given(
    st.lists(st.tuples(st.sampled_from(["quick", "thinking"]), st.floats(0.1, 10)), max_size=60),
    st.floats(0.5, 8),
)
@settings(max_examples=60, deadline=None)
def test_lanes_keep_order_and_lose_nothing(put, weight):
    """What goes in comes out once, in order within its lane."""
    lanes: Lanes[int] = Lanes({"quick": weight})
    for number, (lane, cost) in enumerate(put):
        assert lanes.put(lane, number, cost)
    out = [lanes.take() for _ in put]
    assert lanes.take() is None
    for lane in ("quick", "thinking"):
        expected = [number for number, (own, _) in enumerate(put) if own == lane]
        assert [number for own, number in out if own == lane] == expected


def test_neither_lane_starves():
    """Both always waiting, weights 3 and 1, costs 1 and 4: service is 3 to 1 by cost."""
    lanes: Lanes[int] = Lanes()
    served = {"quick": 0.0, "thinking": 0.0}
    cost = {"quick": 1.0, "thinking": 4.0}
    for _ in range(2000):
        for lane in ("quick", "thinking"):
            while lanes.waiting(lane) < 5:
                lanes.put(lane, 0, cost[lane])
        lane, _ = lanes.take()
        served[lane] += cost[lane]
    assert served["quick"] / served["thinking"] == pytest.approx(3, rel=0.02)


def test_an_idle_lane_saves_no_credit():
    """After a quiet hour the thinking lane does not push all quick requests back."""
    lanes: Lanes[str] = Lanes({"quick": 1.0, "thinking": 1.0})
    for _ in range(100):
        lanes.put("quick", "q")
        lanes.take()
    for _ in range(10):
        lanes.put("thinking", "t")
        lanes.put("quick", "q")
    first = [lanes.take()[1] for _ in range(8)]
    assert first.count("q") == 4


def test_a_full_lane_refuses_alone():
    """And a client that has gone leaves its place."""
    lanes: Lanes[object] = Lanes(limit=2)
    one, two = object(), object()
    assert lanes.put("thinking", one)
    assert lanes.put("thinking", two)
    assert not lanes.put("thinking", object())
    assert lanes.put("quick", object())
    assert lanes.drop(one)
    assert not lanes.drop(one)
    assert lanes.put("thinking", object())
