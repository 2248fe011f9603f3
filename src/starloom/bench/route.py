"""`bench route`: which model should take a question, against simple baselines on equal labels.

Data: outcome files (`serve/route/outcomes.py`), RouteLLM's by default. Questions are split by a
hash of their text: three quarters are the *fixed part*. With HOME the data of `STARLOOM_DATA` and
DATA what `--data` names (by default HOME):

- train: HOME's fixed part, and those of HOME's other questions that DATA does not hold;
- test: those of DATA's questions that are not in train.

So HOME alone is trained on its fixed part and tested on the rest; other questions are tested with
all of HOME as training. Prompts that RouteLLM lists as contaminated are in neither.
Labels come from the same benchmarks as the test: that is easier than RouteLLM's own setting, whose
routers learned from preferences on other prompts.

Systems; each that learns gets the same training rows of the same case:

- `starloom`: our router, told each file's topic, as `subject_prior` is;
- `starloom_text`: the same router, told nothing but the text;
- `length`: characters of the prompt; learns nothing;
- `tfidf_ridge`: TF-IDF of words and pairs, ridge on the gain, penalty by cross-validation;
- `subject_prior`: mean gain of the file's topic, shrunken by 10 rows of the overall mean (`mmlu`).

Metrics:

- `apgr`: as RouteLLM computes it, 11 thresholds; `apgr_fine`: every number of calls, ties spread.
- `cpt50`, `cpt80`: percentage of calls to the large model that recovers that much of its gain.
- `apgr_low`, `apgr_high`: the central 95 % of the paired bootstrap of (ours - best baseline), each
  added to the best baseline's `apgr`. `apgr_low` above that baseline's `apgr` is a proven lead.
- `ece`: of P(small right), 10 equally filled bins, on the test questions.
- `decision_ms_8k`: CPU time of one decision on a prompt of 32,768 characters (8k tokens at 4
  characters each), median of 30.
"""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.serve.route import Outcomes, RouteError, measure, outcomes, ridge, train
from starloom.serve.route.rows import Rows

Scores = NDArray[np.float64]

HELD_OUT_QUARTER = 0
_QUICK_ROWS = 1200
_MIN_TEST = 50
_LONG_CHARS = 32_768
_WORD = re.compile(r"\b\w\w+\b")


@dataclass(frozen=True, slots=True)
class System:
    """A way to order questions: the higher the score, the sooner the large model is called."""

    name: str
    score: Callable[[str, str], float]
    """Of a prompt and its topic."""


def bench(options: Options, told: Told) -> Results:
    """Train and test each case; raises BenchError where the data teach nothing."""
    results = Results()
    try:
        for case, (learn, test) in _cases(options, results).items():
            _case(case, learn, test, options, told, results)
    except RouteError as error:
        raise BenchError(str(error)) from error
    if not results.rows:
        raise BenchError(f"no case has {_MIN_TEST} questions to test: give --data another folder")
    results.notes.append(
        "labels come from the same benchmarks as the test, which is easier than RouteLLM's own"
        " setting; contaminated prompts are removed"
    )
    results.notes.append(
        "starloom is told each question's topic (its file), as subject_prior is;"
        " starloom_text is not"
    )
    return results


def split(home: Outcomes, data: Outcomes) -> tuple[Outcomes, Outcomes]:
    """(train, test) as the module says; no text is in both."""
    asked = {outcomes.same_text(prompt) for prompt in data.prompts}
    chosen = np.array(
        [
            outcomes.part_of(prompt, 4) != HELD_OUT_QUARTER
            or outcomes.same_text(prompt) not in asked
            for prompt in home.prompts
        ],
        dtype=np.bool_,
    )
    learn = home.where(chosen)
    learned = {outcomes.same_text(prompt) for prompt in learn.prompts}
    fresh = [outcomes.same_text(prompt) not in learned for prompt in data.prompts]
    return learn, data.where(np.array(fresh, dtype=np.bool_))


def _cases(options: Options, results: Results) -> Mapping[str, tuple[Outcomes, Outcomes]]:
    home_folder = Path(os.environ.get("STARLOOM_DATA", "../shared/data")) / "routellm"
    folder = options.data or home_folder
    if not folder.is_dir():
        if options.data is not None:
            raise BenchError(f"{folder}: no such folder of outcome files")
        results.notes.append(
            f"no outcome files at {folder} (give --data DIR or set STARLOOM_DATA):"
            " made-up questions instead"
        )
        made = outcomes.synthetic(options.seed, 600 if options.quick else 4000)
        return {"synthetic": split(made, made)}
    data = outcomes.read(folder)
    home = outcomes.read(home_folder) if home_folder.is_dir() else data
    left_out = outcomes.contaminated(home_folder) if home_folder.is_dir() else frozenset()
    found = {}
    for case, asked in data.items():
        clean = [outcomes.same_text(prompt) not in left_out for prompt in asked.prompts]
        asked_clean = asked.where(np.array(clean, dtype=np.bool_))
        learn, test = split(home.get(case, asked_clean), asked_clean)
        if len(test) < _MIN_TEST:
            results.notes.append(f"{case}: {len(test)} questions to test are too few; left out")
        else:
            found[case] = (learn, test)
    return found


def _case(
    case: str, learn: Outcomes, test: Outcomes, options: Options, told: Told, results: Results
) -> None:
    if options.quick:
        learn, test = _some(learn, options.seed), _some(test, options.seed)
    results.notes.append(f"{case}: {len(learn)} questions to learn from, {len(test)} to test")
    model = train(learn, seed=options.seed, told=lambda line: told(f"{case}: {line}"))
    told(f"{case}: baselines")
    baselines = [System("length", lambda prompt, _: float(len(prompt))), tfidf_ridge(learn)]
    if case == "mmlu":
        baselines.append(subject_prior(learn))
    ours = [
        System("starloom", lambda prompt, topic: model.score(prompt, topic).score),
        System("starloom_text", lambda prompt, _: model.score(prompt).score),
    ]
    told(f"{case}: testing")
    scores = {system.name: _scores(system, test) for system in baselines}
    right = test.small.astype(np.float64)
    for system, topics in zip(ours, (test.topics, [None] * len(test)), strict=True):
        scored = [model.score(*asked) for asked in zip(test.prompts, topics, strict=True)]
        scores[system.name] = np.array([one.score for one in scored])
        claimed = np.array([one.small_right for one in scored])
        error = measure.calibration_error(claimed, right)
        results.add(system.name, case, "ece", error, "1")
    for system in (*ours, *baselines):
        _add(results, case, system, scores[system.name], test)
    best = max(baselines, key=lambda system: measure.apgr_11(scores[system.name], test.gain)).name
    level = measure.apgr_11(scores[best], test.gain)
    for system in ours:
        low, high = measure.paired_bootstrap(
            scores[system.name],
            scores[best],
            test.gain,
            area=measure.apgr_11,
            draws=300 if options.quick else 2000,
            seed=options.seed,
        )
        results.add(system.name, case, "apgr_low", level + low, "1")
        results.add(system.name, case, "apgr_high", level + high, "1")
    results.notes.append(f"{case}: apgr_low and apgr_high are against {best} ({level:.4f})")


def _some(questions: Outcomes, seed: int) -> Outcomes:
    """At most as many as a quick run can bear, drawn with `seed`."""
    order = np.random.default_rng(seed).permutation(len(questions))[:_QUICK_ROWS]
    return questions.where(np.isin(np.arange(len(questions)), order))


def _scores(system: System, test: Outcomes) -> Scores:
    pairs = zip(test.prompts, test.topics, strict=True)
    return np.array([system.score(prompt, topic) for prompt, topic in pairs])


def _add(results: Results, case: str, system: System, scores: Scores, test: Outcomes) -> None:
    gain = test.gain
    results.add(system.name, case, "apgr", measure.apgr_11(scores, gain), "1")
    results.add(system.name, case, "apgr_fine", measure.apgr(scores, gain), "1")
    results.add(system.name, case, "cpt50", measure.calls_for(scores, gain, 0.5), "% of calls")
    results.add(system.name, case, "cpt80", measure.calls_for(scores, gain, 0.8), "% of calls")
    text = _long(test.prompts)
    times_ms = []
    for _ in range(30):
        started = time.process_time()
        system.score(text, test.topics[0])
        times_ms.append(1000 * (time.process_time() - started))
    results.add(system.name, case, "decision_ms_8k", float(np.median(times_ms)), "ms")


def _long(prompts: Sequence[str]) -> str:
    text = "\n".join(prompts)
    return (text * (_LONG_CHARS // len(text) + 1))[:_LONG_CHARS]


def subject_prior(learn: Outcomes) -> System:
    """The mean gain of each topic, as if 10 more rows of the overall mean were in it."""
    gain, overall = learn.gain, float(learn.gain.mean())
    topics = np.array(learn.topics)
    means = {
        str(topic): float(
            (gain[topics == topic].sum() + 10 * overall) / (sum(topics == topic) + 10)
        )
        for topic in np.unique(topics)
    }
    return System("subject_prior", lambda _, topic: means.get(topic, overall))


def tfidf_ridge(learn: Outcomes) -> System:
    """TF-IDF of words and pairs of words with an exact vocabulary, and ridge on the gain.

    Words of two letters or more, smoothed idf `ln((1 + n) / (1 + df)) + 1`, rows of unit length;
    the penalty with the best APGR in 5-fold cross-validation on the training rows.
    """
    place: dict[str, int] = {}
    bags = [_bag(prompt) for prompt in learn.prompts]
    for bag in bags:
        for term in bag:
            place.setdefault(term, len(place))
    holders = np.zeros(len(place))
    for bag in bags:
        holders[[place[term] for term in bag]] += 1
    idf = np.log((1 + len(bags)) / (1 + holders)) + 1

    def row(bag: Mapping[str, int]) -> tuple[list[int], Scores]:
        known = [term for term in bag if term in place]
        columns = [place[term] for term in known]
        values = np.array([bag[term] for term in known], dtype=np.float64) * idf[columns]
        return columns, values / max(float(np.sqrt((values**2).sum())), 1e-12)

    made = [row(bag) for bag in bags]
    starts = np.zeros(len(made) + 1, dtype=np.int64)
    np.cumsum([len(columns) for columns, _ in made], out=starts[1:])
    rows = Rows(
        starts,
        np.array([column for columns, _ in made for column in columns], dtype=np.int32),
        np.concatenate([values for _, values in made]).astype(np.float32),
        len(place),
    )
    nothing = np.zeros((len(rows), 0))
    folds = ridge.folds_of(len(rows), 5, seed=0)
    penalty = max(
        (1.0, 3.0, 10.0, 30.0),
        key=lambda size: measure.apgr(
            ridge.out_of_fold(rows, nothing, learn.gain, size, folds), learn.gain
        ),
    )
    solution = ridge.solve(rows, nothing, learn.gain, penalty)

    def score(prompt: str, _: str) -> float:
        columns, values = row(_bag(prompt))
        return float(values @ solution.sparse[columns])

    return System("tfidf_ridge", score)


def _bag(prompt: str) -> dict[str, int]:
    words = _WORD.findall(prompt.lower())
    bag: dict[str, int] = {}
    for term in [*words, *(f"{first} {second}" for first, second in pairwise(words))]:
        bag[term] = bag.get(term, 0) + 1
    return bag
