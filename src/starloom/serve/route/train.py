"""From outcomes to a `RouteModel`. Plain NumPy; minutes on one core for 10,000 questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from starloom.serve.route import topics as topic_room
from starloom.serve.route.calibrate import Isotonic, fit
from starloom.serve.route.dense import Dense, Scales
from starloom.serve.route.errors import BadOutcomes
from starloom.serve.route.form import form
from starloom.serve.route.grams import BUCKETS, grams
from starloom.serve.route.measure import apgr, calibration_error, curve
from starloom.serve.route.model import About, Head, RouteModel
from starloom.serve.route.outcomes import Outcomes
from starloom.serve.route.ridge import folds_of, out_of_fold, solve
from starloom.serve.route.rows import Rows
from starloom.serve.route.weights import Weights

Told = Callable[[str], None]

_FOLDS = 5
_LEAST_ROWS = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """Chosen by cross-validation within the training part of RouteLLM's outcomes.

    `docs/route.md` has what else was tried.
    """

    penalties: tuple[float, ...] = (2.0, 10.0, 40.0)
    """Of these the one whose held-out APGR is highest: few questions want a small one."""
    word_share: float = 1.0
    scales: Scales = field(default_factory=Scales)


def train(
    outcomes: Outcomes,
    *,
    seed: int = 0,
    settings: Settings | None = None,
    told: Told = lambda _: None,
) -> RouteModel:
    """Learn to expect right(large) - right(small), and P(small right), of a text.

    Raises `BadOutcomes` when there are under 100 questions, or the large model is no better: there
    is nothing to route then.
    """
    chosen = settings or Settings()
    gain, small = outcomes.gain, outcomes.small.astype(np.float64)
    if len(outcomes) < _LEAST_ROWS:
        raise BadOutcomes(f"{len(outcomes)} questions teach nothing: {_LEAST_ROWS} are the least")
    if gain.sum() <= 0:
        raise BadOutcomes(
            "the large model is right no more often than the small one: route all to the small one"
        )
    told(f"reading {len(outcomes)} questions")
    texts = [grams(prompt) for prompt in outcomes.prompts]
    forms = np.array([form(prompt) for prompt in outcomes.prompts])
    weights = Weights.learned(texts, chosen.word_share)
    rows = weights(texts)
    names = tuple(sorted(set(outcomes.topics)))
    labels = np.array([names.index(topic) for topic in outcomes.topics])
    told("guessing topics")
    guesser, guesses = _topics(rows, labels, names, seed)
    folds = folds_of(len(outcomes), _FOLDS, seed)
    dense = Dense.learned(forms, guesses.shape[1], seed, chosen.scales)

    def head(topics: NDArray[np.float64], told_as: str) -> tuple[Head, NDArray[np.float64], float]:
        told(f"learning with {told_as} topics")
        features = dense(forms, topics).astype(np.float32)
        tried = {
            penalty: out_of_fold(rows, features, gain, penalty, folds)
            for penalty in chosen.penalties
        }
        penalty = max(tried, key=lambda size: apgr(tried[size], gain))
        held_out = (tried[penalty], out_of_fold(rows, features, small, penalty, folds))
        solutions = [solve(rows, features, target, penalty) for target in (gain, small)]
        made = Head(
            np.array([solution.base for solution in solutions]),
            np.stack([solution.sparse for solution in solutions], axis=1).astype(np.float32),
            np.stack([solution.dense for solution in solutions], axis=1).astype(np.float32),
            fit(held_out[0], (gain > 0).astype(np.float64)),
            fit(held_out[1], small),
        )
        return made, held_out[0], _honest_error(held_out[1], small, folds)

    guessed, scores, error = head(guesses, "guessed")
    known = guessed
    if guesses.shape[1]:
        known, _, _ = head(np.eye(len(names))[labels], "known")
    about = About(
        rows=len(outcomes),
        topics=guesser.names,
        seed=seed,
        calibration_error=error,
        apgr=apgr(scores, gain),
    )
    _, recovered = curve(scores, gain)
    return RouteModel(about, weights, guesser, dense, guessed, known, np.sort(scores), recovered)


def _topics(
    rows: Rows, labels: NDArray[np.int64], names: Sequence[str], seed: int
) -> tuple[topic_room.Topics, NDArray[np.float64]]:
    """Who guesses, and what it guesses of each row unseen; nothing where there is one topic."""
    if len(names) < 2:
        nothing = topic_room.Topics((), np.zeros(BUCKETS, np.int32), np.zeros((1, 0), np.float32))
        return nothing, np.zeros((len(rows), 0))
    everything = np.ones(len(rows), dtype=np.bool_)
    guesser = topic_room.learn(rows, labels, names, everything)
    return guesser, topic_room.guess_left_out(rows, labels, names, seed)


def _honest_error(
    scores: NDArray[np.float64], outcome: NDArray[np.float64], folds: NDArray[np.int64]
) -> float:
    """ECE of probabilities that each fold gets from the other folds' calibration."""
    probability = np.zeros(len(scores))
    for fold in np.unique(folds):
        here = folds == fold
        curve_of: Isotonic = fit(scores[~here], outcome[~here])
        probability[here] = curve_of.many(scores[here])
    return calibration_error(probability, outcome)


def scores_of(
    model: RouteModel, prompts: Sequence[str], topics: Sequence[str] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(gain scores, P(small right)) of many texts, as `model.score` gives them one by one."""
    scored = [
        model.score(prompt, None if topics is None else topics[at])
        for at, prompt in enumerate(prompts)
    ]
    return (
        np.array([one.score for one in scored]),
        np.array([one.small_right for one in scored]),
    )
