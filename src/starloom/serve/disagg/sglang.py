"""SGLang's hand-over by bootstrap rooms: one body to both servers at once, the answer from decode.

Source: sgl-project/sglang, PD disaggregation guide and its router. The two meet at the prefill
server's bootstrap port in a *room*, a number that no other request of the server may have. A batch
of prompts has a room each. The decode server waits for KV that comes by another way, so that a
prefill leg that fails must end the decode leg.
"""

from collections.abc import Callable, Mapping
from typing import Any

from starloom.serve.disagg.base import Leg, Send, Side, Step, failed

ROOM_BITS = 63
"""Rooms are non-negative 64-bit integers."""


class SglangHandover:
    """As `Handover`. `draw_room` gives a random number of `ROOM_BITS` bits."""

    def __init__(
        self,
        body: Mapping[str, Any],
        request_id: str,
        prefill: Side,
        decode: Side,
        *,
        draw_room: Callable[[], int],
    ) -> None:
        size = _batch(body)
        host, port = prefill.host, prefill.bootstrap_port
        meeting: dict[str, Any]
        if size is None:
            meeting = {
                "bootstrap_host": host,
                "bootstrap_port": port,
                "bootstrap_room": draw_room(),
            }
        else:
            meeting = {
                "bootstrap_host": [host] * size,
                "bootstrap_port": [port] * size,
                "bootstrap_room": [draw_room() for _ in range(size)],
            }
        both = {**body, **meeting}
        headers = {"X-Request-Id": request_id}
        self._legs = (
            Leg("prefill", prefill.worker, both, headers, "read"),
            Leg("decode", decode.worker, both, headers, "stream"),
        )

    def begin(self) -> Step:
        return Send(self._legs)

    def prefilled(self, status: int, reply: Mapping[str, Any] | None) -> Step:
        """Go on, or end the decode leg too: a room is of no use twice, so nothing is retried."""
        return Send() if status == 200 else failed(self._legs[0].worker, status, reply)

    def usage(self, decoded: Mapping[str, Any]) -> dict[str, Any]:
        """Decode's own: prefill hands its count of cached tokens over.

        Some versions add decode's to it (sgl-project/sglang 25972), so it is bounded by the prompt.
        """
        details, prompt = decoded.get("prompt_tokens_details"), decoded.get("prompt_tokens")
        cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
        if not isinstance(cached, int) or not isinstance(prompt, int) or cached <= prompt:
            return dict(decoded)
        return {**decoded, "prompt_tokens_details": {**(details or {}), "cached_tokens": prompt}}


def _batch(body: Mapping[str, Any]) -> int | None:
    """The number of prompts in a body with a list of them; None for a single one.

    None for n answers too: the server counts rooms up from a single one for each, where it would
    use those of a list n times.
    """
    prompt = body.get("prompt")
    if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], int):
        return None
    if (body.get("n") or 1) > 1:
        return None
    return len(prompt)
