"""Which worker takes a request, and when one is left alone."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from starloom.site.base import Count, Noun, Positive


class Schedule(Noun):
    """Which worker of a model takes a request."""

    policy: Literal[
        "round_robin",
        "least_outstanding",
        "cache_aware",
        "kv_cost",
        "product",
        "weighted",
        "prefix_load",
        "starloom",
        "sla",
    ] = "prefix_load"


class BreakerRules(Noun):
    """When a worker that fails is left alone, and for how long."""

    enabled: bool = True
    failures: Count = 5
    """So many in a row, or"""
    error_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """this share of all verdicts in the window."""
    min_requests: Count = 20
    """Fewer verdicts in the window say nothing about a share."""
    window_s: Positive = 30.0
    pause_s: Positive = 1.0
    """The first pause; each further one is twice as long."""
    longest_pause_s: Positive = 30.0
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """A pause is longer or shorter by up to this share."""
    first_token_s: Positive | None = None
    """A later first token is a failure; by default slowness is none. An answer of a server
    elsewhere that is not streamed has its first token when it is whole."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.longest_pause_s < self.pause_s:
            raise ValueError(
                f"longest_pause_s ({self.longest_pause_s:g}) is below pause_s ({self.pause_s:g})"
            )
        return self
