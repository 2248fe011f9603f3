"""The words that the serving line speaks: what goes into an engine and what comes out.

All of them are msgspec structs, so that the same objects go down the line in the gateway and over a
socket to a worker process.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

Finish = Literal["stop", "length", "content_filter", "cancelled", "error"]


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen. The gateway has validated every field."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    seed: int = 0
    """Draw i of a request depends on (seed, i) alone, whatever else shares its batch."""
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """None: none. k: the chosen token's and those of the k most likely ones."""
    ignore_eos: bool = False
    min_tokens: int = 0


class Handover(msgspec.Struct, frozen=True, omit_defaults=True):
    """One half of a request whose prompt is computed by one worker and continued by another."""

    name: str
    """Of the transfer: 128 random bits in hex, known to the two workers alone."""
    source: str = ""
    """Where the prefill worker offers it; empty in the prefill worker's own half."""


class EngineRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One sequence to continue. `n > 1` is n of these."""

    id: str
    model: str
    tokens: list[int]
    """Prompt token ids; empty for an engine that takes text (see `body`)."""
    keys: list[bytes] = []
    """Keys of the full blocks of `tokens` (`starloom.kv.keys`); empty switches reuse off."""
    root: bytes = b""
    """The root that `keys` start from, so that a worker can key the tokens that it generates."""
    sampling: Sampling
    priority: int = 0
    """Lower runs first; equal is first come, first served."""
    body: dict[str, Any] | None = None
    """The client's own body, for backends that speak OpenAI's API. Never sent to our workers."""
    passed: bytes = b""
    """Header lines that go with `body`."""
    path: str = ""
    """The API path of `body`, such as `/v1/chat/completions`."""
    handover: Handover | None = None
    """Half a request: the prefill worker answers with a bare delta once the prompt is computed, and
    ends with `stop` when its KV was fetched, with `cancelled` when it will not be; the decode
    worker answers as if it had computed all of it."""


class TokenLogprob(msgspec.Struct, array_like=True):
    """Natural logarithm of one token's probability, and the k most likely alternatives."""

    text: str
    data: bytes
    """The token's own bytes: a token may be a part of a UTF-8 character."""
    logprob: float
    top: list[tuple[str, bytes, float]] = []


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counted tokens of one sequence."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens whose KV was reused, from the worker's own blocks or from the pool."""
    pool_tokens: int = 0
    """The part of `cached_tokens` that came out of the pool."""


class Delta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The next piece of an answer. The last one of a request, and no other, has `finish` set."""

    id: str
    text: str = ""
    """Whole UTF-8 characters; what may begin a stop string is held back until it is decided."""
    tokens: int = 0
    """Tokens generated since the last delta (their text may still be held back)."""
    logprobs: list[TokenLogprob] = []
    finish: Finish | None = None
    stop: str | None = None
    """The stop string that ended the answer."""
    usage: Usage | None = None
    """Set with `finish`, except for errors before the prompt was read."""
    error: str | None = None
    """With `finish="error"`: a message that is safe to show to a client."""


class LoadReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker says of itself, a few times a second."""

    running: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    """Prompt tokens that are not prefilled yet."""
    kv_blocks: int = 0
    kv_blocks_used: int = 0
    """Held by running sequences; the rest may keep cached prefixes but can be taken."""
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    pool_tokens_total: int = 0
    generated_tokens_total: int = 0
    steps_total: int = 0
    busy_s_total: float = 0.0
    arriving: int = 0
    """Sequences whose KV another worker computes or sends. They are not in `running`."""
    kv_blocks_arriving: int = 0
    """The part of `kv_blocks_used` that is set aside for them."""
    fetched_total: int = 0
    """Prompts whose KV came from another worker."""
    fetch_failures_total: int = 0
    """Prompts that it computed, since their KV did not come or not all of it."""
    role: Literal["both", "prefill", "decode"] = "both"
    """Which half it was last asked to take; it can do both."""


class Engine(Protocol):
    """One worker as the gateway sees it: a process here, or a server elsewhere."""

    name: str
    model: str

    @property
    def ready(self) -> bool:
        """Whether a request sent now would be taken."""

    def stream(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """Submit, and yield deltas until the one with `finish`. Closing the iterator cancels.

        Raises `Unavailable` when the worker cannot take it (nothing has been computed: try another)
        and `EngineFailed` when it is lost on the way.
        """

    def report(self) -> LoadReport:
        """The newest load report; zeros when none came yet. Does not wait."""

    async def export_blocks(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """The KV blocks among `keys` that the worker holds."""

    async def import_blocks(self, blocks: Mapping[bytes, bytes]) -> int:
        """Hand KV blocks over; returns how many the worker took."""

    async def start(self) -> None:
        """Begin to connect, and go on reconnecting until `close`. Returns at once."""

    async def close(self) -> None: ...
