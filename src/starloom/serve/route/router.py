"""The face that the gateway calls: a model, a dial, and the last scores it has seen."""

from pathlib import Path

import numpy as np

from starloom.serve.route.base import Dial, RouteDecision, Size, decide, overridden
from starloom.serve.route.drift import DriftReport, DriftWatch
from starloom.serve.route.lanes import lane_of
from starloom.serve.route.model import RouteModel, share_cut

_FOLLOW_FROM = 500
_FOLLOW_EVERY = 50


class Router:
    """Chooses between a small and a large model. Reads no clock.

    A long text costs some milliseconds of one core: a gateway scores such texts in a thread.
    """

    def __init__(
        self,
        model: RouteModel,
        *,
        small: str,
        large: str,
        dial: Dial,
        window: int = 2000,
        follow: bool = True,
    ) -> None:
        """`follow`: a cost dial means a share of the requests that really come.

        Once 500 scores are seen, its cut is taken from the window and no longer from the training's
        scores, anew every 50 requests.
        """
        self._model = model
        self._models: dict[Size, str] = {"small": small, "large": large}
        self._dial = dial
        self._cuts: dict[Dial, float] = {}
        self._watch = DriftWatch(model.reference, window)
        self._follow = follow
        self._asked = 0
        self._sent_large = 0

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        small: str,
        large: str,
        dial: Dial,
        window: int = 2000,
        follow: bool = True,
    ) -> "Router":
        """Raises `BadArtifact` when the file is no router's."""
        model = RouteModel.load(path)
        return cls(model, small=small, large=large, dial=dial, window=window, follow=follow)

    @property
    def model(self) -> RouteModel:
        return self._model

    def decide(
        self,
        text: str,
        *,
        topic: str | None = None,
        override: str | None = None,
        override_by: str = "the request",
        dial: Dial | None = None,
        lane: str | None = None,
        effort: str | None = None,
        answer_tokens: int | None = None,
    ) -> RouteDecision:
        """Which model and lane a request takes.

        `text` is what the user asks (the last user message, or all of them joined); `override` is
        `small`, `large` or one of the two models' names and ends the matter unscored; `dial`
        replaces the router's for this request. Raises `BadDial` for an override or lane that means
        nothing.
        """
        if override is not None:
            waits = lane_of(header=lane, effort=effort, answer_tokens=answer_tokens)
            return overridden(override, self._models, waits, override_by)
        scored = self._model.score(text, topic)
        self._watch.note(scored.score)
        self._asked += 1
        wanted = dial or self._dial
        waits = lane_of(
            header=lane,
            effort=effort,
            answer_tokens=answer_tokens,
            small_right=scored.small_right,
        )
        decision = decide(scored, self._cut(wanted), dial=wanted, models=self._models, lane=waits)
        self._sent_large += decision.size == "large"
        return decision

    def drift(self) -> DriftReport:
        """How far the window's scores are from the training's."""
        return self._watch.report()

    @property
    def large_share(self) -> float:
        """Share of all scored requests that went to the large model; 0 before the first."""
        return self._sent_large / max(self._asked, 1)

    def _cut(self, dial: Dial) -> float:
        if self._asked % _FOLLOW_EVERY == 0:
            self._cuts.clear()
        if dial not in self._cuts:
            if len(self._cuts) >= 64:  # dials of single requests must not pile up
                self._cuts.clear()
            self._cuts[dial] = self._fresh_cut(dial)
        return self._cuts[dial]

    def _fresh_cut(self, dial: Dial) -> float:
        recent = self._watch.recent
        if dial.by == "cost" and self._follow and len(recent) >= _FOLLOW_FROM:
            return share_cut(np.sort(recent), dial.at)
        return self._model.cut(dial)
