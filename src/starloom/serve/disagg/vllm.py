"""vLLM's hand-over by `kv_transfer_params` (NixlConnector): prefill first, then decode.

Source: vLLM, NixlConnector usage guide and its toy proxy server. The prefill leg computes the
prompt and one token; its answer says where the blocks wait (they are leased for some seconds), and
the decode leg carries that object verbatim. Both legs have one `X-Request-Id`.
"""

from collections.abc import Mapping
from typing import Any

from starloom.serve.disagg.base import ATTEMPTS, RETRIED, Leg, Retry, Send, Side, Step, failed

_PAUSE_S = 0.1
_LEASE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
_NOT_FOR_PREFILL = ("stream_options", "min_tokens", "min_completion_tokens")
"""Contradict one token without a stream."""


def undivided(body: Mapping[str, Any]) -> str:
    """Why a request cannot be handed over, in words; empty where it can.

    An answer's `kv_transfer_params` names the blocks of its first prompt, and they are given back
    after one has read them.
    """
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int):
        return f"{len(prompt)} prompts in one request"
    if (n := body.get("n") or 1) > 1:
        return f"{n} answers to one prompt"
    return ""


class VllmHandover:
    """As `Handover`. `body` is what the upstream server takes, its model's name included.

    Without `decode` the sender chooses who decodes when the decode leg is there.
    """

    def __init__(
        self,
        body: Mapping[str, Any],
        request_id: str,
        prefill: Side,
        decode: Side | None = None,
        *,
        attempts: int = ATTEMPTS,
    ) -> None:
        self._body = {key: value for key, value in body.items() if key != "kv_transfer_params"}
        self._headers = {"X-Request-Id": request_id}
        self._decode = "" if decode is None else decode.worker
        self._left = attempts
        self._cached: int | None = None
        short = {key: value for key, value in self._body.items() if key not in _NOT_FOR_PREFILL}
        short |= {"stream": False, "max_tokens": 1, "max_completion_tokens": 1, "n": 1}
        short["kv_transfer_params"] = dict(_LEASE)
        self._prefill = Leg("prefill", prefill.worker, short, self._headers, "read")

    def begin(self) -> Step:
        self._left -= 1
        return Send((self._prefill,))

    def prefilled(self, status: int, reply: Mapping[str, Any] | None) -> Step:
        """The decode leg, or the prefill leg again.

        An answer without `kv_transfer_params` costs time and no answer: decode then computes the
        prompt by itself.
        """
        if status != 200 or reply is None:
            if status in RETRIED and self._left > 0:
                self._left -= 1
                return Retry(self._prefill, _PAUSE_S)
            return failed(self._prefill.worker, 502 if status == 200 else status, reply)
        self._cached = _cached(reply.get("usage"))
        taken = reply.get("kv_transfer_params")
        if not isinstance(taken, Mapping):
            name = self._prefill.worker
            why = (
                f"prefill worker {name!r} handed no KV over: its one token ended the answer, or it"
                " was not started with --kv-transfer-config"
                ' \'{"kv_connector":"NixlConnector","kv_role":"kv_both"}\''
            )
            return Send((self._decode_leg(self._body),), why)
        return Send((self._decode_leg({**self._body, "kv_transfer_params": taken}),))

    def usage(self, decoded: Mapping[str, Any]) -> dict[str, Any]:
        """Cached tokens are those that prefill found.

        Decode takes all that was handed over for cached (vllm-project/vllm 47136).
        """
        if self._cached is None:
            return dict(decoded)
        details = decoded.get("prompt_tokens_details")
        kept = details if isinstance(details, Mapping) else {}
        return {**decoded, "prompt_tokens_details": {**kept, "cached_tokens": self._cached}}

    def _decode_leg(self, body: Mapping[str, Any]) -> Leg:
        return Leg("decode", self._decode, body, self._headers, "stream")


def _cached(usage: Any) -> int | None:
    """`prompt_tokens_details.cached_tokens`; 0 where usage has no details, None without usage."""
    if not isinstance(usage, Mapping):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return cached if isinstance(cached, int) else 0
