"""The contract of a route: what is asked, what a dial means, and what is decided.

Everything here is pure: no socket, no clock, no file. The same objects run in the gateway and in
simulated time.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from starloom.serve.route.errors import BadDial

Size = Literal["small", "large"]
Lane = Literal["quick", "thinking"]


class Dial(msgspec.Struct, frozen=True):
    """How much of the large model is wanted.

    - `cost`: this share of the requests goes to the large model.
    - `quality`: the large model is called just often enough to recover this share of what it is
      better by (PGR), as measured on the training's held-out folds.
    - `threshold`: a request goes to the large model when the probability that it alone is right
      reaches this.
    """

    by: Literal["cost", "quality", "threshold"]
    at: float

    def __post_init__(self) -> None:
        if not 0 <= self.at <= 1:
            raise BadDial(f"dial {self.by}: {self.at:g} is not within 0..1")


class Scored(msgspec.Struct, frozen=True):
    """What a text tells: a score that orders requests, and what it means in probabilities."""

    score: float
    """Expected right(large) - right(small). Orders requests; the thresholds are cut on it."""
    large_wins: float
    """Calibrated probability that the large model is right and the small one is not."""
    small_right: float
    """Calibrated probability that the small model is right."""


class RouteDecision(msgspec.Struct, frozen=True):
    """Which model takes the request, in which lane it waits, and why in words for a log line."""

    model: str
    size: Size
    lane: Lane
    why: str
    scored: Scored | None = None
    """None where an override decided: nothing was computed then."""


class Thresholds(Protocol):
    """Turns a dial into a cut: requests at or above it go to the large model."""

    def cut(self, dial: Dial) -> float: ...


class Scorer(Protocol):
    """Knows texts. Holds no state that a text changes."""

    def score(self, text: str, topic: str | None = None) -> Scored:
        """`topic` is what the caller knows of the subject; unknown names count as None."""


def decide(
    scored: Scored, cut: float, *, dial: Dial, models: Mapping[Size, str], lane: Lane
) -> RouteDecision:
    """The large model when the score (for a threshold: the probability) reaches the cut."""
    by_threshold = dial.by == "threshold"
    value, name = (
        (scored.large_wins, "P(large wins)") if by_threshold else (scored.score, "expected gain")
    )
    size: Size = "large" if value >= cut else "small"
    sign = ">=" if size == "large" else "<"
    why = (
        f"{name} {value:.3f} {sign} {cut:.3f} ({dial.by} {dial.at:g});"
        f" P(small right) {scored.small_right:.2f}"
    )
    return RouteDecision(models[size], size, lane, why, scored)


def overridden(wish: str, models: Mapping[Size, str], lane: Lane, said_by: str) -> RouteDecision:
    """What a client or operator chose: `small`, `large`, or one of the two models by name.

    Raises `BadDial` for anything else, so that a typing error does not choose a model.
    """
    for size, name in models.items():
        if wish in (size, name):
            return RouteDecision(name, size, lane, f"{said_by} asks for {wish}")
    offered = ", ".join(["small", "large", *models.values()])
    raise BadDial(f"{said_by}: {wish!r} is none of {offered}")
