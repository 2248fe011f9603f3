"""A safety model: it gives texts scores by category, and the site says what they mean."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import httpx

from starloom.serve.guard.base import Action, Verdict
from starloom.site import SafetyModel

Scores = dict[str, float]


class ModelFailed(Exception):
    """A safety model gave no scores; the message says why and holds nothing of the texts."""


class Classifier(Protocol):
    """Scores texts. Raises `ModelFailed`, never anything else."""

    async def scores(self, texts: Sequence[str], images: Sequence[str]) -> list[Scores]:
        """From 0 to 1 by category, for each text or for all together. `images` are data URLs."""

    async def close(self) -> None: ...


class ModerationEndpoint:
    """Any server with OpenAI's `POST /moderations`."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        model: str | None = None,
        timeout_s: float = 2.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/") + "/moderations"
        self._model = {} if model is None else {"model": model}
        self._timeout_s = timeout_s
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = httpx.AsyncClient(
            headers=headers, timeout=timeout_s, transport=transport, trust_env=False
        )

    async def scores(self, texts: Sequence[str], images: Sequence[str]) -> list[Scores]:
        said: Any = list(texts)
        if images:
            said = [{"type": "text", "text": text} for text in texts]
            said += [{"type": "image_url", "image_url": {"url": image}} for image in images]
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._client.post(self._url, json={**self._model, "input": said})
            if answer.status_code != httpx.codes.OK:
                raise ModelFailed(f"HTTP {answer.status_code}")
            results = answer.json()["results"]
            scores = [_scores(result) for result in results]
        except TimeoutError as error:
            raise ModelFailed("timeout") from error
        except httpx.TimeoutException as error:
            raise ModelFailed("timeout") from error
        except httpx.HTTPError as error:
            raise ModelFailed(type(error).__name__) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFailed("an answer of another shape") from error
        if not scores or (not images and len(scores) != len(texts)):
            raise ModelFailed(f"{len(scores)} results for {len(texts)} texts")
        return scores

    async def close(self) -> None:
        await self._client.aclose()


def _scores(result: Mapping[str, Any]) -> Scores:
    """The scores of one result; 1 for a category that is set and has none."""
    scores = {name: float(score) for name, score in (result.get("category_scores") or {}).items()}
    for name, is_set in (result.get("categories") or {}).items():
        if is_set and name not in scores:
            scores[name] = 1.0
    if result.get("flagged") and not scores:
        scores["flagged"] = 1.0
    if "flagged" not in result and not scores:
        raise KeyError("flagged")
    return scores


class SafetyCheck:
    """Asks the model, and holds its scores to the site's thresholds."""

    def __init__(self, classifier: Classifier, rules: SafetyModel) -> None:
        self._classifier = classifier
        self._rules = rules
        self.failures = 0
        """Requests that the model gave no scores for."""

    async def check(self, texts: Sequence[str], images: Sequence[str] = ()) -> list[Verdict]:
        """One verdict for each text and category over its threshold, or one that says why not."""
        shown = [text for text in texts if text.strip()]
        seen = list(images) if self._rules.images else []
        if not shown and not seen:
            return []
        try:
            scores = await self._classifier.scores(shown, seen)
        except ModelFailed as error:
            self.failures += 1
            refuse = self._rules.on_failure == "refuse"
            return [_verdict("block" if refuse else "pass", f"no scores: {error}", 0, 0)]
        parts = [part for part, text in enumerate(texts) if text.strip()]
        rules = self._rules
        return [
            _verdict("block", category, part, len(texts[part]) if parts else 0)
            for part, of_text in zip(parts + [0] * len(scores), scores, strict=False)
            for category, score in sorted(of_text.items())
            if score >= (limit := rules.thresholds.get(category, rules.threshold)) and limit < 1
        ]

    async def close(self) -> None:
        await self._classifier.close()


def _verdict(action: Action, what: str, part: int, end: int) -> Verdict:
    return Verdict(
        list="model", phrase=what, action=action, where="input", start=0, end=end, part=part
    )
