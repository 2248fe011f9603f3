"""`bench camv`: recorded answers of real models, replayed through policies that decide whom to ask.

Cases: `mmlu_pro` (Gemini 1.5 Flash, DeepSeek-Coder-V2, Llama 3.1 70B; Gemini 1.5 Pro verifies),
`gsm8k` (GPT-3 175B with a verifier's choice, Mixtral 8x7B; GPT-4 verifies), `refchecker_*`
(claims), `drawn` where there is neither `--data` nor STARLOOM_DATA. Systems:

- `majority`: the most frequent answer; the expert that was best in calibration breaks ties.
- `verify_all`: the verifier's answer, no experts.
- `conflict_only`: the experts' answer where all agree, else the verifier's.
- `two_of_three`: an answer that two experts share, else the verifier's.
- `starloom`: calibrated anchors; the least certain questions are audited; experts' and verifier's
  answers are weighed together.

The case's plain name spends the call budget of its goal (12 % of questions, GSM8K 50 %).
`CASE_fewest`: the smallest budget that calibration finds not inferior to `verify_all` by one point.
`CASE_at_N`: every system at N % calls; the others audit at random within their own order, of which
the expectation stands here.
`CASE_risk_N`: at most N % wrong among accepted, certified with 95 % confidence, or abstained from.

Metrics: `accuracy_pct` with its exact 95 % interval (abstained counts as wrong),
`verifier_call_pct`, `total_cost_rel` (experts included; cost of the verifier alone on everything is
1, an expert's call a tenth of a verifier's), `coverage_pct`, `wrong_accepted_pct`.

Every question falls by its text into learn (50 %), certify (15 %) or test (35 %). Calibration uses
the first two parts of STARLOOM_DATA; the test is the third, or all of `--data` that is not in them.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from starloom.agents.camv import (
    Labelled,
    Outcomes,
    Recorded,
    Weighing,
    budget_threshold,
    certify,
    fewest_calls,
    held_out,
    interval,
    paired_bound,
    read,
)
from starloom.agents.camv.base import Bools, Floats
from starloom.bench import camv_claims, camv_curve
from starloom.bench.base import BenchError, Options, Results, Told
from starloom.bench.camv_data import READERS, Case, divided, drawn, folder, place

PRICE_RATIO = 10.0
"""A verifier's call over an expert's; stated, since the recordings carry no prices."""
MARGIN = 0.01
RISKS = (0.02, 0.05, 0.10, 0.15, 0.20)
CALLS_PCT = (0, 2, 5, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)
QUICK_QUESTIONS = 2000


def bench(options: Options, told: Told) -> Results:
    """Run all cases that the data holds; raises BenchError where it holds none."""
    results = Results()
    results.notes.append(f"cost: a verifier's call is {PRICE_RATIO:g} calls of an expert")
    home = Path(os.environ.get("STARLOOM_DATA", "../shared/data"))
    data = options.data or (home if home.is_dir() else None)
    if data is None:
        count = 1500 if options.quick else 4000
        results.notes.append(f"drawn: {count} questions, seed {options.seed}")
        case = drawn(options.seed, count)
        parts = divided(case.labelled)
        _case(told, results, options, case, parts, parts["test"])
        return results
    found = 0
    for name, reader in READERS.items():
        where = folder(data, name)
        if where is None:
            continue
        found += 1
        case = reader(where)
        told(f"{case.name}: {len(case.labelled)} questions")
        known = folder(home, name) or where
        same = known.resolve() == where.resolve()
        base = case if same else reader(known)
        parts = divided(base.labelled)
        seen = {it.question.text.strip() for it in (*parts["learn"], *parts["certify"])}
        test = [it for it in case.labelled if it.question.text.strip() not in seen]
        test.sort(key=lambda it: place(it.question.text))
        results.notes.append(f"{case.name}: calibrated on {known}, tested on {where}")
        _case(told, results, options, base, parts, test)
    claims = folder(data, camv_claims.FOLDER)
    if claims is not None:
        found += 1
        camv_claims.run(told, results, claims, folder(home, camv_claims.FOLDER) or claims)
    if not found:
        sets = ", ".join((*READERS, camv_claims.FOLDER))
        raise BenchError(f"{data}: none of {sets} is there")
    return results


@dataclass(frozen=True, slots=True)
class Rival:
    """A rule without calibration: its answers unaudited, and in which order it audits."""

    name: str
    alone_right: Bools
    tier: Floats
    """0 is audited first; equal tiers at random; `audits` is how many it audits by its own rule."""
    audits: int

    def audited(self, calls: int) -> Floats:
        """The chance of each question to be audited: within a tier, at random."""
        out = np.zeros(len(self.tier))
        for tier in np.unique(self.tier):
            there = self.tier == tier
            out[there] = min(1.0, calls / there.sum())
            calls = max(0, calls - int(there.sum()))
        return out


def _rivals(test: Sequence[Labelled], best_expert: int) -> tuple[Bools, list[Rival]]:
    """(verifier right, rivals) on the test questions."""
    verifier = np.array([it.verifier.value == it.truth for it in test])
    majority = np.zeros(len(test), dtype=bool)
    votes = np.zeros(len(test))
    unanimous = np.zeros(len(test), dtype=bool)
    for at, it in enumerate(test):
        counts = Counter(e.value for e in it.experts if e.value is not None)
        favourite = it.experts[best_expert].value
        top = max(counts.values(), default=0)
        tied = sorted(value for value, n in counts.items() if n == top)
        chosen = favourite if favourite in tied or not tied else tied[0]
        majority[at] = chosen == it.truth
        votes[at] = top
        unanimous[at] = top == len(it.experts)
    two = votes >= 2
    conflict_tier = unanimous.astype(float)
    two_tier = np.where(unanimous, 2.0, two.astype(float))
    return verifier, [
        Rival("majority", majority, np.zeros(len(test)), 0),
        Rival("verify_all", majority, np.zeros(len(test)), len(test)),
        Rival("conflict_only", majority, conflict_tier, int((~unanimous).sum())),
        Rival("two_of_three", majority, two_tier, int((~two).sum())),
    ]


def _case(
    told: Told,
    results: Results,
    options: Options,
    case: Case,
    parts: dict[str, list[Labelled]],
    test: list[Labelled],
) -> None:
    if options.quick and len(parts["learn"]) > QUICK_QUESTIONS:
        results.notes.append(f"--quick: {case.name} cut to {QUICK_QUESTIONS} questions a part")
        parts = {name: many[:QUICK_QUESTIONS] for name, many in parts.items()}
        test = test[:QUICK_QUESTIONS]
    if not test:
        raise BenchError(f"{case.name}: no question is left to test on")
    told(f"{case.name}: reading")
    learn, certifying, tested = (
        read(case.domain, it) for it in (parts["learn"], parts["certify"], test)
    )
    told(f"{case.name}: calibrating on {len(learn)} questions")
    crossed = held_out(learn, options.seed)
    weighing = Weighing.learn(learn)
    done = weighing.outcomes(tested)
    _Scores(results, options, case, parts["learn"], test, crossed, done).all(
        weighing.outcomes(certifying)
    )
    _notes(results, case, learn, certifying, tested, done)


class _Scores:
    """The rows of one case."""

    def __init__(
        self,
        results: Results,
        options: Options,
        case: Case,
        learn: list[Labelled],
        test: list[Labelled],
        crossed: Outcomes,
        done: Outcomes,
    ) -> None:
        self.results, self.options, self.case = results, options, case
        self.crossed, self.done, self.n = crossed, done, len(test)
        rights = [
            sum(it.experts[at].value == it.truth for it in learn) for at in range(len(case.team))
        ]
        self.verifier, self.rivals = _rivals(test, int(np.argmax(rights)))
        self.verifier_learn = np.array([it.verifier.value == it.truth for it in learn])

    def all(self, certifying: Outcomes) -> None:
        name, budget = self.case.name, self.case.budget
        for rival in self.rivals:
            self._rival(name, rival, rival.audits)
        audited = self._least_certain(budget)
        right = self._starloom(name, audited)
        low, high = paired_bound(right, self.verifier, self.options.seed)
        self.results.notes.append(
            f"{name}: starloom at {100 * audited.mean():.1f} % calls minus verify_all: "
            f"{100 * (right.mean() - self.verifier.mean()):+.2f} points, "
            f"95 % paired bootstrap {100 * low:+.2f} to {100 * high:+.2f}"
        )
        self._fewest()
        self._curve()
        for risk in RISKS:
            self._risk(risk, certifying)

    def _least_certain(self, share: float) -> Bools:
        """The test as one batch: at most this share is audited, by the anchors' probability."""
        out = np.zeros(self.n, dtype=bool)
        order = np.argsort(self.done.alone, kind="stable")
        out[order[: int(share * self.n + 1e-9)]] = True
        return out

    def _fewest(self) -> None:
        name = f"{self.case.name}_fewest"
        share = fewest_calls(self.crossed, self.verifier_learn, MARGIN, self.options.seed)
        if share is None:
            self.results.notes.append(f"{name}: no budget is shown to be not inferior")
            return
        audited = self._least_certain(share)
        right = self._starloom(name, audited)
        low, high = paired_bound(right, self.verifier, self.options.seed)
        self.results.notes.append(
            f"{name}: calibration chose {100 * share:.0f} % calls; on the test "
            f"{100 * (right.mean() - self.verifier.mean()):+.2f} points against verify_all, "
            f"95 % {100 * low:+.2f} to {100 * high:+.2f}: "
            + ("not inferior by 1 point" if low >= -MARGIN else "not shown to be within 1 point")
        )

    def _curve(self) -> None:
        """Every system at the same calls; the drawing where STARLOOM_FIGURES names a folder."""
        ours = self.done.curve() * 100
        drawn: dict[str, list[tuple[float, float]]] = {"starloom": []}
        own = {round(100 * it.audits / self.n, 1) for it in self.rivals}
        for pct in sorted({*map(float, CALLS_PCT), *own}):
            calls = round(self.n * pct / 100)
            case = f"{self.case.name}_at_{pct:g}"
            self._starloom(case, self._least_certain(calls / self.n))
            drawn["starloom"].append((pct, float(ours[calls])))
            for rival in self.rivals[2:]:
                right = self._rival(case, rival, calls)
                drawn.setdefault(rival.name, []).append((pct, 100 * right))
        out = os.environ.get("STARLOOM_FIGURES")
        if out:
            path = Path(out) / f"camv-{self.case.name}.svg"
            level = 100 * float(self.verifier.mean())
            path.write_text(camv_curve.svg(self.case.name, drawn, level), encoding="utf-8")
            self.results.notes.append(f"{self.case.name}: curve in {path}")

    def _risk(self, risk: float, certifying: Outcomes) -> None:
        case = f"{self.case.name}_risk_{100 * risk:g}"
        below = budget_threshold(self.crossed, self.case.budget)
        score, right = certifying.final(certifying.audited(below))
        accepted = certify(score, right, risk)
        if accepted.threshold is None:
            self.results.notes.append(
                f"{case}: not reachable on {len(certifying)} certifying questions; abstains"
            )
        audited = self.done.audited(below)
        score, right = self.done.final(audited)
        least = np.inf if accepted.threshold is None else accepted.threshold
        self._rows("starloom", case, right, score >= least, audited, len(self.case.team))

    def _starloom(self, case: str, audited: Bools) -> Bools:
        right = self.done.final(audited)[1]
        answered = np.ones(self.n, dtype=bool)
        self._rows("starloom", case, right, answered, audited, len(self.case.team))
        return right

    def _rival(self, case: str, rival: Rival, calls: int) -> float:
        audited = rival.audited(calls)
        right = np.where(self.verifier, audited, 0.0) + np.where(rival.alone_right, 1 - audited, 0)
        experts = 0 if rival.name == "verify_all" else len(self.case.team)
        self._rows(rival.name, case, right, np.ones(self.n, dtype=bool), audited, experts)
        return float(right.mean())

    def _rows(
        self,
        system: str,
        case: str,
        right: Bools | Floats,
        accepted: Bools,
        audited: Bools | Floats,
        experts: int,
    ) -> None:
        good, n = float(right[accepted].sum()), int(accepted.sum())
        low, high = interval(round(good), self.n)
        add = self.results.add
        add(system, case, "accuracy_pct", 100 * good / self.n, "% of questions")
        add(system, case, "accuracy_low", 100 * low, "% of questions")
        add(system, case, "accuracy_high", 100 * high, "% of questions")
        calls = float(audited.mean())
        add(system, case, "verifier_call_pct", 100 * calls, "% of questions")
        cost = calls + experts / PRICE_RATIO
        add(system, case, "total_cost_rel", cost, "x verifier alone on everything")
        add(system, case, "coverage_pct", 100 * n / self.n, "% of questions")
        wrong = 100 * (n - good) / n if n else 0.0
        add(system, case, "wrong_accepted_pct", wrong, "% of accepted")


def _notes(
    results: Results,
    case: Case,
    learn: Recorded,
    certifying: Recorded,
    tested: Recorded,
    done: Outcomes,
) -> None:
    gap = abs(float(done.alone.mean()) - float(done.alone_right.mean()))
    results.notes.append(
        f"{case.name}: {len(learn)} learn, {len(certifying)} certify, {len(tested)} test; "
        f"anchors' mean probability {100 * done.alone.mean():.1f} %, "
        f"right {100 * done.alone_right.mean():.1f} % (gap {100 * gap:.1f})"
    )
    results.notes.append(
        f"{case.name}: experts and verifier weighed together on everything: "
        f"{100 * done.joined_right.mean():.2f} %"
    )
