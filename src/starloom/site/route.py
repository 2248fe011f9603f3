"""Two models behind one name."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from starloom.site.base import Count, Name, Noun, Positive, Share


class RouteDial(Noun):
    """How much of the large model is wanted; exactly one of the three."""

    cost: Share | None = None
    """Share of the requests that go to the large model."""
    quality: Share | None = None
    """Share of what the large model is better by that is kept (PGR)."""
    threshold: Share | None = None
    """To the large model from this probability on that it alone is right."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        stated = [name for name, at in self if at is not None]
        if len(stated) != 1:
            said = " and ".join(stated) or "nothing"
            raise ValueError(f"a dial is one of cost, quality and threshold; {said} is stated")
        return self

    @property
    def by(self) -> Literal["cost", "quality", "threshold"]:
        """Which of the three is stated."""
        if self.cost is not None:
            return "cost"
        return "quality" if self.quality is not None else "threshold"

    @property
    def at(self) -> float:
        """Where it stands."""
        return max(at for at in (self.cost, self.quality, self.threshold) if at is not None)


class RouteLanes(Noun):
    """Turns of quick and thinking requests where both wait, by expected cost."""

    quick_weight: Positive = 3.0
    thinking_weight: Positive = 1.0
    at_once: Count = 64
    """Requests of the route that the workers have at one time; the others wait in their lanes."""
    waiting: Count = 4096
    """Requests that may wait in each lane; one more is answered 429."""


class Route(Noun):
    """A name that clients ask for, behind which a small and a large model share the requests."""

    name: Name
    small: Name
    large: Name
    """Names of models of this site."""
    router: str
    """A file that `starloom route train` wrote; relative to the site file."""
    dial: RouteDial = RouteDial(cost=0.5)
    lanes: RouteLanes | None = None
    """By default quick and thinking requests wait together."""
    drift_window: Annotated[int, Field(ge=200, le=1_000_000)] = 2000
    """Scores that are compared with those of the training."""

    @model_validator(mode="after")
    def _has_two(self) -> Self:
        if self.small == self.large:
            raise ValueError(f"small and large are both {self.small!r}: there is nothing to choose")
        return self
