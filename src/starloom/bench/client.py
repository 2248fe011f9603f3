"""A streaming client that keeps time: one request in, one timed answer out."""

import time
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished chat answer, times on the client's clock."""

    text: str
    ttft_s: float
    """From sending the request to the first piece of text."""
    total_s: float
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    worker: str
    pieces_s: tuple[float, ...] = ()
    """When each piece of text came, from sending the request; with `logprobs`, each token."""

    @property
    def tpot_s(self) -> float | None:
        """Seconds a token after the first one; None for answers of one token."""
        if self.completion_tokens < 2:
            return None
        return (self.total_s - self.ttft_s) / (self.completion_tokens - 1)


class Failed(Exception):
    """The server answered with an error."""


class Client:
    """Asks one server's chat endpoint. Use as an async context manager."""

    def __init__(self, url: str, key: str, timeout_s: float = 300.0) -> None:
        limits = httpx.Limits(max_connections=512, max_keepalive_connections=512)
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout_s, limits=limits, trust_env=False
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def chat(self, model: str, messages: list[dict[str, str]], **fields: Any) -> Answer:
        """Stream one chat completion. Raises `Failed` for an error status or event."""
        body = {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **fields,
        }
        started = time.perf_counter()
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                raise Failed(f"{answer.status_code}: {(await answer.aread()).decode()}")
            first: float | None = None
            text = ""
            pieces_s: list[float] = []
            usage: dict[str, Any] = {}
            async for line in answer.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = msgspec.json.decode(line[6:])
                if "error" in event:
                    raise Failed(event["error"]["message"])
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    piece = choice["delta"].get("content") or ""
                    if first is None and (piece or choice.get("finish_reason")):
                        first = time.perf_counter()
                    if piece or choice.get("logprobs"):
                        pieces_s.append(time.perf_counter() - started)
                    text += piece
            worker = answer.headers.get("x-starloom-worker", "")
        ended = time.perf_counter()
        details = usage.get("prompt_tokens_details") or {}
        return Answer(
            text=text,
            ttft_s=(first or ended) - started,
            total_s=ended - started,
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            cached_tokens=details.get("cached_tokens", 0),
            worker=worker,
            pieces_s=tuple(pieces_s),
        )
