"""Outcome files, and the commands that read them."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from starloom.bench import Options, run
from starloom.bench.route import split, subject_prior, tfidf_ridge
from starloom.cli.main import app
from starloom.serve.route import BadOutcomes, RouteModel
from starloom.serve.route.measure import apgr
from starloom.serve.route.outcomes import Outcomes, joined, part_of, read, synthetic

HEADER = "prompt,small,large\n"


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_outcome_files_are_read_by_case_and_topic(tmp_path):
    """The folder names the case, the file its topic; contaminated prompts are left out."""
    write(
        tmp_path, "mmlu_responses/mmlu_law.csv", HEADER + '"Is it, so?",True,False\nB?,False,True\n'
    )
    write(tmp_path, "gsm8k/gsm8k_responses.csv", "prompt,small,large,text\nC?,False,True,x\n")
    write(tmp_path, "mmlu_contaminated_prompts.jsonl", json.dumps({"eval_prompt": "b?"}) + "\n")
    found = read(tmp_path)
    assert set(found) == {"mmlu", "gsm8k"}
    assert found["mmlu"].prompts == ("Is it, so?",)
    assert found["mmlu"].topics == ("law",)
    assert found["mmlu"].gain.tolist() == [-1]
    assert found["gsm8k"].gain.tolist() == [1]
    assert len(joined(found.values())) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("question,a,b\nA?,True,True\n", "must begin with prompt"),
        ("", "they are absent"),
        (HEADER + "A?,True,maybe\n", ":2: the second and third column must be True or False"),
        (HEADER + "A?,True\n", ":2:"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, said):
    """With its line, where one is to blame."""
    path = write(tmp_path, "mmlu_responses/mmlu_law.csv", text)
    with pytest.raises(BadOutcomes) as caught:
        read(tmp_path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_folder_without_outcomes_is_told(tmp_path):
    with pytest.raises(BadOutcomes, match="no outcomes found"):
        read(tmp_path)
    with pytest.raises(BadOutcomes, match="no such folder"):
        read(tmp_path / "absent")


def test_a_part_depends_on_words_alone():
    """Case and punctuation do not move a question, so that near copies stay on one side."""
    assert part_of("What is Law?", 4) == part_of("what is  law", 4)
    parts = np.bincount([part_of(prompt, 4) for prompt in synthetic(0, 2000).prompts])
    assert parts.min() > 400


def texts(outcomes: Outcomes) -> set[str]:
    return set(outcomes.prompts)


def test_the_split_keeps_train_and_test_apart():
    """Home alone: its fixed part against the rest. Other questions: all of home against them.

    Home within more: its fixed part against everything else.
    """
    home, other = synthetic(0, 400), synthetic(1, 100)
    learn, test = split(home, home)
    assert texts(learn) | texts(test) == texts(home)
    assert not texts(learn) & texts(test)
    learn_all, test_other = split(home, other)
    assert texts(learn_all) == texts(home)
    assert texts(test_other) == texts(other)
    learn_both, test_both = split(home, joined([home, other]))
    assert texts(learn_both) == texts(learn)
    assert texts(test_both) == texts(test) | texts(other)


def test_baselines_learn():
    """Both baselines that learn beat chance on fresh made-up questions: they are no straw men."""
    learn, test = synthetic(0, 1000), synthetic(1, 1000)
    for system in (subject_prior(learn), tfidf_ridge(learn)):
        pairs = zip(test.prompts, test.topics, strict=True)
        scores = np.array([system.score(prompt, topic) for prompt, topic in pairs])
        assert apgr(scores, test.gain) > 0.53


def test_the_bench_measures_without_data(tmp_path, monkeypatch):
    """Made-up questions stand in, and a note says so."""
    monkeypatch.setenv("STARLOOM_DATA", str(tmp_path))
    report = run("route", Options(quick=True))
    rows = {(row["system"], row["metric"]): row["value"] for row in report["rows"]}
    assert {row["case"] for row in report["rows"]} == {"synthetic"}
    assert rows["starloom", "apgr_low"] < rows["starloom", "apgr_high"]
    assert rows["starloom", "apgr"] > 0.5
    assert rows["starloom", "decision_ms_8k"] > 0
    assert any("made-up" in note for note in report["notes"])


def test_a_router_is_trained_by_a_command(tmp_path):
    """Outcome files in, one file out, which decides."""
    made = synthetic(0, 150)
    lines = [
        f"{prompt},{small},{large}"
        for prompt, small, large in zip(made.prompts, made.small, made.large, strict=True)
    ]
    write(tmp_path, "data/mine/mine_all.csv", HEADER + "\n".join(lines) + "\n")
    out = tmp_path / "router.npz"
    arguments = ["route", "train", "--data", str(tmp_path / "data"), "--out", str(out), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert RouteModel.load(out).about.rows == 150
    asked = CliRunner().invoke(app, ["route", "ask", str(out), "Is a ring a group?", "--cost", "1"])
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["size"] == "large"


@pytest.mark.data
def test_real_outcomes_are_read(data_dir):
    """57 subjects of MMLU and GSM8K, without the contaminated prompts."""
    found = read(data_dir / "routellm")
    assert len(set(found["mmlu"].topics)) == 57
    assert set(found["gsm8k"].topics) == {"gsm8k"}
    assert 0.1 < found["mmlu"].gain.mean() < 0.15
