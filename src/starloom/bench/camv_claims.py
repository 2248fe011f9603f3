"""Part of `bench camv`: which claims of which model may enter a fact base, on RefChecker's labels.

A claim is right if people found it entailed. `majority` admits what two other models also say;
`starloom` weighs support, opposition and author; `_risk_N` admits under a certified share of claims
that are not entailed. No verifier is asked. `accuracy_pct`: admitted and entailed, or neither.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from starloom.agents.camv import certify, interval
from starloom.agents.camv.anchors import Anchors, Table
from starloom.agents.camv.base import Bools, Floats
from starloom.agents.camv.support import NAMES, SAME, Triplet, features, overlap
from starloom.bench.base import BenchError, Results, Told
from starloom.bench.camv_data import part

FOLDER = "refchecker-claims"
SETTINGS = ("zero_context", "noisy_context", "accurate_context")
RISKS = (0.02, 0.05, 0.10)
TRUE = "entailed"


def run(told: Told, results: Results, where: Path, known: Path) -> None:
    """Rows for each setting that `where` holds; calibrated on the fixed part of `known`."""
    for setting in SETTINGS:
        prompts = _read(where, setting)
        if not prompts:
            continue
        told(f"refchecker_{setting}: {len(prompts)} prompts")
        base = prompts if known.resolve() == where.resolve() else _read(known, setting)
        seen = {it for it in base if part(it) != "test"}
        learn = [it for it in base if part(it) == "learn"]
        certifying = [it for it in base if part(it) == "certify"]
        test = [it for it in prompts if it not in seen]
        if not learn or not certifying or not test:
            raise BenchError(f"{where}: too few prompts of {setting} to calibrate and test on")
        authors = sorted({t.author for it in base.values() for t, _ in it})
        calibration = _table(base, authors, learn), _table(base, authors, certifying)
        _rows(results, setting, *calibration, _table(prompts, authors, test))


Prompts = dict[str, list[tuple[Triplet, bool]]]
Part = tuple[Table, Bools, Bools]
"""Evidence, whether entailed, whether two other models say the same."""


def _read(where: Path, setting: str) -> Prompts:
    out: Prompts = {}
    for path in sorted(where.glob(f"{setting}__*_answers.json.gz")):
        author = path.name.split("__")[1].removesuffix("_answers.json.gz").partition("_")[2]
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                rows = json.load(file)
            for row in rows:
                kept = next((it for it in row if it.endswith("_response_kg")), "")
                for claim in row.get(kept, ()):  # upstream, the key says claude2 for all
                    s, r, o = (str(it) for it in claim["triplet"])
                    label = claim["human_label"] == "Entailment"
                    out.setdefault(row["id"], []).append((Triplet(author, s, r, o), label))
        except (OSError, ValueError, KeyError) as error:
            raise BenchError(f"{path}: not as its README says: {error}") from error
    return out


def _table(prompts: Prompts, authors: Sequence[str], chosen: Sequence[str]) -> Part:
    rows: list[list[float]] = []
    right, supported = [], []
    for key in chosen:
        for claim, label in prompts[key]:
            others = [it for it, _ in prompts[key] if it.author != claim.author]
            own = sum(it.author == claim.author for it, _ in prompts[key])
            shown = features(claim, others, own)
            rows.append([1.0, *shown, *(float(claim.author == it) for it in authors)])
            right.append(label)
            agree = {it.author for it in others if overlap(claim.words, it.words) >= SAME}
            supported.append(len(agree) >= 2)
    evidence: Floats = np.array(rows)[:, None, :]
    present = np.ones((len(rows), 1), dtype=bool)
    return (
        Table(((TRUE,),) * len(rows), evidence, present),
        np.array(right),
        np.array(supported),
    )


def _rows(results: Results, setting: str, learn: Part, certifying: Part, test: Part) -> None:
    truths = [TRUE if it else "" for it in learn[1]]
    anchors = Anchors.learn(learn[0], truths, ridge_per_question=0.01)
    scores = anchors.probabilities(test[0])[:, 0]
    case = f"refchecker_{setting}"
    _row(results, "majority", case, test[1], test[2])
    _row(results, "starloom", case, test[1], scores >= 0.5)
    for risk in RISKS:
        accepted = certify(anchors.probabilities(certifying[0])[:, 0], certifying[1], risk)
        name = f"{case}_risk_{100 * risk:g}"
        least = np.inf if accepted.threshold is None else accepted.threshold
        if accepted.threshold is None:
            results.notes.append(
                f"{name}: not reachable on {len(certifying[1])} certifying claims; admits none"
            )
        _row(results, "starloom", name, test[1], scores >= least)
    results.notes.append(
        f"{case}: {len(learn[1])} learn, {len(certifying[1])} certify, {len(test[1])} test claims, "
        f"{100 * test[1].mean():.1f} % entailed; {len(NAMES)} kinds of evidence beside the author"
    )


def _row(results: Results, system: str, case: str, right: Bools, admitted: Bools) -> None:
    n, kept = len(right), int(admitted.sum())
    judged = int((right == admitted).sum())
    low, high = interval(judged, n)
    wrong = int((admitted & ~right).sum())
    results.add(system, case, "accuracy_pct", 100 * judged / n, "% of claims")
    results.add(system, case, "accuracy_low", 100 * low, "% of claims")
    results.add(system, case, "accuracy_high", 100 * high, "% of claims")
    results.add(system, case, "verifier_call_pct", 0.0, "% of claims")
    results.add(system, case, "coverage_pct", 100 * kept / n, "% of claims")
    results.add(system, case, "wrong_accepted_pct", 100 * wrong / max(kept, 1), "% of admitted")
