"""Recorded answers for `bench camv`: several real models on the same questions, or drawn ones."""

import csv
import gzip
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starloom.agents.camv import Choice, Domain, Figure, Labelled, Question, Response, answer_of
from starloom.agents.camv.calculator import canonical, number
from starloom.agents.camv.rules import Number
from starloom.bench.base import BenchError

MMLU_TEAM = ("gemini-1.5-flash-002", "DeepSeek-Coder-V2", "Meta-Llama-3_1-70B-Instruct")
MMLU_VERIFIER = "gemini-1.5-pro-002"
GSM_TEAM = ("175b_verification", "mistralai/Mixtral-8x7B-Instruct-v0.1")
GSM_VERIFIER = "gpt-4-1106-preview"
LEARN, CERTIFY = 0.5, 0.15
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Case:
    """One team on one set of questions, with the call budget that its goal names."""

    name: str
    domain: Domain
    team: tuple[str, ...]
    verifier: str
    labelled: tuple[Labelled, ...]
    budget: float


def place(question: str) -> float:
    """In [0, 1), by the question's text alone: where it falls in the fixed split."""
    digest = hashlib.sha256(question.strip().encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def part(question: str) -> str:
    """`learn`, `certify` or `test`."""
    at = place(question)
    return "learn" if at < LEARN else "certify" if at < LEARN + CERTIFY else "test"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def folder(data: Path, name: str) -> Path | None:
    """The named set under `data`, or `data` itself where it is that set."""
    return next((it for it in (data / name, data) if it.name == name and it.is_dir()), None)


def mmlu_pro(where: Path) -> Case:
    """Ten options, three experts of like strength, a verifier that often gives no reasons.

    Left out: questions that not all four answered, and those whose upstream files differ.
    """
    try:
        odd = {int(it) for it in json.loads((where / "revision_mismatch_ids.json").read_text())}
        questions = {it["question_id"]: it for it in _lines(where / "questions.jsonl.gz")}
        said = {
            model: {it["question_id"]: it for it in _lines(where / f"outputs_{model}.jsonl.gz")}
            for model in (*MMLU_TEAM, MMLU_VERIFIER)
        }
    except (OSError, ValueError, KeyError) as error:
        raise BenchError(f"{where}: not as its README says: {error}") from error
    labelled = []
    for key, it in questions.items():
        if key in odd or any(key not in rows for rows in said.values()):
            continue
        asked = Question(str(key), it["question"], it["category"], tuple(it["options"]))
        given = [
            Response(model, rows[key]["text"] or "", _letter(rows[key]["pred"]))
            for model, rows in said.items()
        ]
        labelled.append(Labelled(asked, tuple(given[:-1]), given[-1], it["answer"]))
    domain = Choice(sorted({it.question.topic for it in labelled}))
    return Case("mmlu_pro", domain, MMLU_TEAM, MMLU_VERIFIER, tuple(labelled), 0.12)


def _letter(predicted: str | None) -> str | None:
    return predicted if predicted and predicted in LETTERS else None


def gsm8k(where: Path) -> Case:
    """Word problems, two weak experts and a strong verifier.

    Answers are read alike for all: the number behind the mark, else the text's last number.
    """
    try:
        gold = {
            it["question"].strip(): it["answer"].rsplit("####", 1)[-1]
            for it in _lines(where / "test.jsonl.gz")
        }
        solved = {
            it["question"].strip(): it for it in _lines(where / "example_model_solutions.jsonl.gz")
        }
        with gzip.open(where / "routellm_gsm8k_responses.csv.gz", "rt", encoding="utf-8") as rows:
            routed = {it["prompt"].strip(): it for it in csv.DictReader(rows)}
    except (OSError, ValueError, KeyError) as error:
        raise BenchError(f"{where}: not as its README says: {error}") from error
    labelled = []
    for text, answer in gold.items():
        truth = number(answer)
        if text not in solved or text not in routed or truth is None:
            continue
        texts = (
            solved[text][GSM_TEAM[0]]["solution"],
            routed[text][f"{GSM_TEAM[1]}_response"],
            routed[text][f"{GSM_VERIFIER}_response"],
        )
        given = [
            Response(model, said, answer_of(said))
            for model, said in zip((*GSM_TEAM, GSM_VERIFIER), texts, strict=True)
        ]
        asked = Question(hashlib.sha256(text.encode()).hexdigest()[:12], text)
        labelled.append(Labelled(asked, tuple(given[:-1]), given[-1], canonical(truth)))
    domain = Figure((Number(low=0, integer=True),))
    return Case("gsm8k", domain, GSM_TEAM, GSM_VERIFIER, tuple(labelled), 0.5)


READERS = {"mmlu-pro-model-outputs": mmlu_pro, "gsm8k-model-solutions": gsm8k}


def drawn(seed: int, count: int) -> Case:
    """Questions of drawn hardness; experts share part of their luck, so that they err together.

    Who is unsure hedges and rambles more often than not: the texts carry evidence, as real ones do.
    """
    rng = random.Random(seed)
    topics = ("rails", "tides", "weaving")
    skills = {"one": 0.9, "two": 0.7, "three": 0.8}
    labelled = []
    for at in range(count):
        topic = rng.choice(topics)
        hard = rng.gauss(0, 1) + 0.5 * topics.index(topic)
        truth, lure = rng.sample(LETTERS[:6], 2)
        asked = Question(
            str(at),
            f"Question {at} on {topic}: which one holds?",
            topic,
            tuple(f"case {letter}" for letter in LETTERS[:6]),
        )
        shared = rng.gauss(0, 0.7)
        given = [
            _drawn_response(rng, name, skill - hard + shared, truth, lure)
            for name, skill in skills.items()
        ]
        verifier = _drawn_response(rng, "verifier", 1.4 - hard, truth, lure)
        labelled.append(Labelled(asked, tuple(given), verifier, truth))
    return Case("drawn", Choice(topics), tuple(skills), "verifier", tuple(labelled), 0.12)


def _drawn_response(
    rng: random.Random, author: str, margin: float, truth: str, lure: str
) -> Response:
    margin += rng.gauss(0, 0.8)
    wrong = lure if rng.random() < 0.5 else rng.choice([it for it in LETTERS[:6] if it != truth])
    value = truth if margin > 0 else wrong
    unsure = rng.random() < (0.15 if margin > 0.3 else 0.5)
    reason = "However, this may be a mistake; none of the cases fits well. " if unsure else "So. "
    return Response(author, f"{reason * rng.randint(1, 3)}The answer is ({value}).", value)


def divided(many: Sequence[Labelled]) -> dict[str, list[Labelled]]:
    """The fixed split, each part in an order that says nothing of the question."""
    out: dict[str, list[Labelled]] = {"learn": [], "certify": [], "test": []}
    for it in sorted(many, key=lambda it: place(it.question.text)):
        out[part(it.question.text)].append(it)
    return out
