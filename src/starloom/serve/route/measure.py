"""How good a ranking of requests is: the share of the large model's gain that its calls buy.

With `gain[i]` = right(large) - right(small) on request i, sending a set of requests to the large
model recovers PGR = sum(gain over the set) / sum(gain) of what it is better by (performance gap
recovered, Ong et al., RouteLLM, arXiv 2406.18665, section 3). A score orders the requests; the more
it has, the earlier a request goes to the large model.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]


def curve(score: Numbers, gain: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(share of calls to the large model, PGR) at every number of calls, from none to all.

    Requests of one score are indistinguishable: their gain is spread evenly over them.
    Raises ValueError when the large model is not better: then PGR has no meaning.
    """
    total = float(gain.sum())
    if total <= 0:
        raise ValueError("the large model answers no more requests right than the small one")
    values, place, sizes = np.unique(-score, return_inverse=True, return_counts=True)
    mean_gain = np.bincount(place, weights=gain, minlength=len(values)) / sizes
    recovered = np.concatenate([[0.0], np.cumsum(np.repeat(mean_gain, sizes))]) / total
    return np.linspace(0.0, 1.0, len(score) + 1), recovered


def apgr(score: Numbers, gain: Numbers) -> float:
    """Area under PGR over the share of calls, by the trapezoid rule over every number of calls."""
    shares, recovered = curve(score, gain)
    return _area(np.asarray(recovered), np.asarray(shares))


def apgr_11(score: Numbers, gain: Numbers) -> float:
    """The same area as RouteLLM computes it: over 11 thresholds, the score's deciles.

    A request is sent to the large model when its score reaches the threshold, but by the highest
    threshold none is. Repeated thresholds (few distinct scores) are taken once.
    """
    thresholds = np.unique(np.quantile(score, np.linspace(0, 1, 11)))
    total = float(gain.sum())
    if total <= 0:
        raise ValueError("the large model answers no more requests right than the small one")
    shares, recovered = [0.0], [0.0]
    for threshold in thresholds[:-1][::-1] if len(thresholds) > 1 else thresholds:
        sent = score >= threshold
        shares.append(float(sent.mean()))
        recovered.append(float(gain[sent].sum()) / total)
    return _area(np.asarray(recovered), np.asarray(shares))


def calls_for(score: Numbers, gain: Numbers, pgr: float) -> float:
    """CPT: the least percentage of calls to the large model that recovers `pgr` of its gain."""
    shares, recovered = curve(score, gain)
    at = int(np.argmax(recovered >= pgr))  # the last point recovers all
    if at == 0:
        return 0.0
    step = (pgr - recovered[at - 1]) / (recovered[at] - recovered[at - 1])
    return float(100 * (shares[at - 1] + step * (shares[at] - shares[at - 1])))


def paired_bootstrap(
    ours: Numbers,
    theirs: Numbers,
    gain: Numbers,
    *,
    area: Callable[[Numbers, Numbers], float] = apgr,
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """The central 95 % of APGR(ours) - APGR(theirs) over `draws` of the questions with replacement.

    Both are measured on the same draw each time, so that what the draw itself does cancels. A draw
    in which the large model is not better is drawn again.
    """
    random = np.random.default_rng(seed)
    differences: list[float] = []
    for _ in range(20 * draws):
        chosen = random.integers(0, len(gain), len(gain))
        if gain[chosen].sum() > 0:
            difference = area(ours[chosen], gain[chosen]) - area(theirs[chosen], gain[chosen])
            differences.append(difference)
        if len(differences) == draws:
            break
    else:
        raise ValueError("the large model is hardly ever better on these questions")
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def calibration_error(probability: Numbers, outcome: Numbers, bins: int = 10) -> float:
    """ECE: mean distance of claimed and observed share over `bins` equally filled bins."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    distances = [abs(probability[part].mean() - outcome[part].mean()) * len(part) for part in parts]
    return float(sum(distances) / len(probability))


def _area(heights: NDArray[np.float64], places: NDArray[np.float64]) -> float:
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(places)).sum())
