"""`bench guard`: its texts are what they say, and its rows are measured."""

import random

import pytest

from starloom.bench import BENCHES, guard, guard_texts
from starloom.bench.base import BenchError, Options, Results
from starloom.bench.guard import read_texts
from starloom.serve.guard.normal import Normaliser
from starloom.serve.guard.patterns import KINDS


@pytest.mark.parametrize("kind", guard_texts.EVASIONS)
def test_evasions_change_the_text_and_keep_its_letters(kind):
    """Each spelling differs from the phrase, but for `plain`; its letters stay the same."""
    rng = random.Random(1)
    changed = 0
    for phrase in ("balori denusk", "简体中文字"):
        evaded = guard_texts.evaded(rng, phrase, kind)
        changed += evaded != phrase
        if kind not in ("leet", "mixed"):
            letters = [it for it in Normaliser()(evaded).text if it.isalpha()]
            assert "".join(letters) == phrase.replace(" ", "")
    assert (changed > 0) == (kind != "plain")


def test_secrets_of_every_kind_can_be_made():
    rng = random.Random(2)
    assert all(guard_texts.secret(rng, kind) for kind in KINDS)


def test_phrases_are_seeded_and_none_is_ordinary():
    """The same seed gives the same list; no phrase is in the prose that it is tried on."""
    one, other = (guard_texts.phrases(random.Random(3), 2000) for _ in range(2))
    assert one == other
    assert len(set(one)) == 2000
    prose = f" {guard_texts.prose(random.Random(4), 'en', 4096).lower()} "
    assert not [it for it in one if f" {it} " in prose]


def test_the_bench_measures_on_synthetic_texts(monkeypatch, tmp_path):
    """With few phrases and no data: all metrics are there, evasions caught, and a note says so."""
    monkeypatch.setattr(guard, "PHRASES", 2000)
    monkeypatch.setattr(guard, "REGEX_PHRASES", 100)
    monkeypatch.setenv("STARLOOM_DATA", str(tmp_path))
    results: Results = BENCHES["guard"](Options(quick=True), lambda _: None)
    metrics = {row["metric"] for row in results.rows}
    assert {"us_per_4k", "us_per_100b", "caught_pct", "blocked_benign_pct"} <= metrics
    caught = {
        row["case"]: row["value"]
        for row in results.rows
        if row["system"] == "starloom" and row["metric"] == "caught_pct"
    }
    assert min(caught.values()) >= 90
    assert any("no content_guard data" in note for note in results.notes)


def test_data_of_the_same_shape_is_read_and_other_data_refused(tmp_path):
    """JSON and JSONL of `content_guard`; a file without texts is an error that names it."""
    (tmp_path / "a.jsonl").write_text(
        '{"text": "x", "label": "bad"}\n{"text": "y", "label": "benign"}\n'
    )
    assert read_texts(tmp_path / "a.jsonl") == [("x", "attack"), ("y", "harmless")]
    rows = '[{"user_input": "x"}, {"mutated_prompt": "y", "is_malicious": false}]'
    (tmp_path / "b.json").write_text(rows)
    assert read_texts(tmp_path / "b.json") == [("x", "attack"), ("y", "harmless")]
    (tmp_path / "c.json").write_text("{}")
    (tmp_path / "d.json").write_text('[{"other": 1}]')
    with pytest.raises(BenchError, match=r"d\.json: not a list of texts"):
        read_texts(tmp_path / "d.json")
