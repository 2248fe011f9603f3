"""Anchors, audits and verdicts over drawn questions, and the real recordings where they are."""

import json
from pathlib import Path

import numpy as np
import pytest

from starloom.agents import CalibrationError
from starloom.agents.camv import (
    Anchors,
    Choice,
    Figure,
    MetaVerifier,
    Policy,
    Question,
    Response,
    Weighing,
    budget_threshold,
    claims,
    fewest_calls,
    held_out,
    read,
    table,
)
from starloom.agents.camv.rules import Number
from starloom.bench import camv
from starloom.bench.base import Options
from starloom.bench.camv_data import divided, drawn, part


@pytest.fixture(scope="module")
def case():
    return drawn(3, 900)


@pytest.fixture(scope="module")
def parts(case):
    return divided(case.labelled)


@pytest.fixture(scope="module")
def weighing(case, parts):
    return Weighing.learn(read(case.domain, parts["learn"]))


def test_the_split_is_of_the_text_alone(parts):
    """About half to learn from, and every question always falls into the same part."""
    sizes = {name: len(many) for name, many in parts.items()}
    assert 400 < sizes["learn"] < 500
    assert sizes["test"] > 250
    assert part(parts["test"][0].question.text) == "test"


def test_anchors_are_calibrated_and_beat_the_vote(case, parts, weighing):
    """What is held for p is right in about p of the cases, and the choice beats majority."""
    tested = read(case.domain, parts["test"])
    done = weighing.outcomes(tested)
    assert abs(done.alone.mean() - done.alone_right.mean()) < 0.06
    sure = done.alone > 0.8
    assert sure.sum() > 50
    assert done.alone_right[sure].mean() > 0.8
    unsure = done.alone < 0.5
    assert done.alone_right[unsure].mean() < 0.6
    vote = [
        max({e.value for e in it.experts}, key=[e.value for e in it.experts].count) == it.truth
        for it in parts["test"]
    ]
    assert done.alone_right.mean() > np.mean(vote) - 0.01


def test_auditing_the_least_certain_gains_most(case, parts, weighing):
    """A tenth of the audits brings far more than a tenth of what all audits bring."""
    done = weighing.outcomes(read(case.domain, parts["test"]))
    curve = done.curve()
    assert len(curve) == len(done) + 1
    assert curve[0] == pytest.approx(done.alone_right.mean())
    assert curve[-1] == pytest.approx(done.joined_right.mean())
    assert curve[len(done) // 5] - curve[0] > 0.3 * (curve[-1] - curve[0])


def test_probabilities_share_one(case, parts, weighing):
    """The values and "none of them" are one whole; absent places have nothing."""
    recorded = read(case.domain, parts["certify"])
    p = weighing.alone.probabilities(recorded.alone)
    assert (p.sum(axis=1) <= 1 + 1e-9).all()
    assert (p[~recorded.alone.present] == 0).all()


def test_a_budget_is_a_quantile_and_fewest_calls_a_point_on_the_curve(case, parts):
    crossed = held_out(read(case.domain, parts["learn"]))
    below = budget_threshold(crossed, 0.12)
    assert (crossed.alone < below).mean() == pytest.approx(0.12, abs=0.01)
    assert budget_threshold(crossed, 1.0) > 1
    nothing = np.zeros(len(crossed), dtype=bool)
    assert fewest_calls(crossed, nothing, 0.01) == 0.0
    assert fewest_calls(crossed, ~nothing, 0.01) is None


def test_a_verdict_says_who_claimed_and_who_checked(case, parts, weighing):
    """The pure engine: settled without an audit, or waiting for one, or abstaining."""
    it = parts["test"][0]
    never = weighing.verifier(case.domain, case.team, case.verifier, Policy(0.0))
    opened = never.begin(it.question, it.experts)
    assert opened.settled is not None
    assert opened.settled.status == "anchored"
    assert opened.settled.cost_calls == 0
    best = opened.settled.candidates[0]
    assert best.value == opened.settled.value
    assert set(best.authors) == {e.author for e in it.experts if e.value == best.value}

    always = weighing.verifier(case.domain, case.team, case.verifier, Policy(2.0))
    opened = always.begin(it.question, it.experts)
    assert opened.settled is None
    assert it.experts[0].text not in opened.question_to_verifier, "reasons would lead it"
    verdict = always.conclude(opened, it.verifier)
    assert verdict.status == "audited"
    assert [(c.by, c.found, c.cost_calls) for c in verdict.checks] == [
        ("verifier", it.verifier.value, 1.0)
    ]
    strict = weighing.verifier(case.domain, case.team, case.verifier, Policy(2.0, None))
    assert strict.conclude(strict.begin(it.question, it.experts), it.verifier).value is None


def test_the_engine_and_the_replay_agree(case, parts, weighing):
    """One question at a time gives what the table of all gives."""
    many = parts["test"][:20]
    done = weighing.outcomes(read(case.domain, many))
    engine = weighing.verifier(case.domain, case.team, case.verifier, Policy(0.0))
    for at, it in enumerate(many):
        verdict = engine.begin(it.question, it.experts).settled
        assert verdict is not None
        assert verdict.probability == pytest.approx(done.alone[at])
        assert (verdict.value == it.truth) == done.alone_right[at]


def test_a_calibration_is_stored_and_refuses_other_features(case, weighing):
    kept = weighing.verifier(case.domain, case.team, case.verifier, Policy(0.4, 0.6)).dumps()
    back = MetaVerifier.loads(kept, case.domain)
    assert back.policy == Policy(0.4, 0.6)
    assert back.dumps() == kept
    with pytest.raises(CalibrationError, match="other features"):
        MetaVerifier.loads(kept, Choice(("law",)))


def test_missing_experts_and_strangers(case, parts, weighing):
    """An expert that did not answer supports nothing; one that is not in the team is an error."""
    it = parts["test"][0]
    engine = weighing.verifier(case.domain, case.team, case.verifier, Policy(0.0))
    opened = engine.begin(it.question, it.experts[:1])
    assert [c.value for c in opened.candidates] == [it.experts[0].value]
    with pytest.raises(ValueError, match="not in the team"):
        engine.begin(it.question, [Response("stranger", "A", "A")])
    silent = engine.begin(it.question, [])
    assert silent.settled is None or silent.settled.status == "abstained"


def test_a_pruned_value_keeps_its_reason():
    """2.5 people cannot come: the value goes, who said it and why stay."""
    domain = Figure((Number(low=0, integer=True),))
    said = [Response("a", "5/2 = 2.5 A: 2.5", "5/2"), Response("b", "A: 3", "3")]
    found = claims(domain, Question("q", "How many came?"), said)
    assert found.values == ("3",)
    assert [(it.value, it.authors) for it in found.pruned] == [("5/2", ("a",))]
    assert "whole number" in found.pruned[0].reason


def test_too_little_cannot_be_calibrated(case):
    few = read(case.domain, case.labelled[:10])
    with pytest.raises(CalibrationError, match="at least"):
        Anchors.learn(few.alone, few.truths)
    with pytest.raises(CalibrationError):
        table([])


def test_the_bench_without_data_prints_every_metric(monkeypatch, tmp_path):
    """Rows of all systems with all metrics, ours no worse than the rules at their own calls."""
    monkeypatch.setenv("STARLOOM_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("STARLOOM_FIGURES", str(tmp_path))
    results = camv.bench(Options(quick=True, seed=1), lambda _: None)
    rows = {(r["system"], r["case"], r["metric"]): r["value"] for r in results.rows}
    for system in ("majority", "verify_all", "conflict_only", "two_of_three", "starloom"):
        for metric in (
            "accuracy_pct",
            "accuracy_low",
            "accuracy_high",
            "verifier_call_pct",
            "total_cost_rel",
            "coverage_pct",
            "wrong_accepted_pct",
        ):
            assert (system, "drawn", metric) in rows
    assert rows["verify_all", "drawn", "total_cost_rel"] == 1
    assert rows["starloom", "drawn", "verifier_call_pct"] <= 12
    assert rows["starloom", "drawn_at_50", "accuracy_pct"] >= (
        rows["conflict_only", "drawn_at_50", "accuracy_pct"] - 2
    )
    assert (tmp_path / "camv-drawn.svg").read_text().startswith("<svg")
    json.dumps(results.rows)


@pytest.mark.data
@pytest.mark.slow
def test_the_goals_on_real_recordings(data_dir: Path):
    """At two_of_three's and conflict_only's calls ours is better, on MMLU-Pro and GSM8K."""
    results = camv.bench(Options(data=data_dir), lambda _: None)
    rows = {(r["system"], r["case"], r["metric"]): r["value"] for r in results.rows}
    for case, rival in (
        ("mmlu_pro", "two_of_three"),
        ("mmlu_pro", "conflict_only"),
        ("gsm8k", "conflict_only"),
    ):
        calls = round(rows[rival, case, "verifier_call_pct"], 1)
        at = f"{case}_at_{calls:g}"
        assert rows["starloom", at, "accuracy_pct"] > rows[rival, case, "accuracy_pct"]
