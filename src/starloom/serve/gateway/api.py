"""OpenAI's request bodies, decoded straight into typed structs and checked on the way."""

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from starloom.serve.errors import BadRequest

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
StopText = Annotated[str, Meta(min_length=1, max_length=1024)]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
_AT = " - at `$"
_STOPS = 16


HANDS_OVER = (
    "kv_transfer_params",
    *("bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key"),
    "kv_router_hint",
)
"""Fields by which vLLM and SGLang fetch KV elsewhere: of a client's they would name other tenants'
blocks, so they never go upstream."""


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Part(msgspec.Struct):
    type: str
    text: str | None = None


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    role: Role
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class Asked(msgspec.Struct, kw_only=True):
    """What the two APIs have in common. Fields that are not named here are let through."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Count | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopText | list[StopText] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    max_tokens: Count | None = None
    min_tokens: Natural | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    user: str | None = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None
    """Requests share KV blocks only with those of the same tenant and salt, as in vLLM."""
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    kv_transfer_params: Any = msgspec.UNSET
    bootstrap_host: Any = msgspec.UNSET
    bootstrap_port: Any = msgspec.UNSET
    bootstrap_room: Any = msgspec.UNSET
    bootstrap_pair_key: Any = msgspec.UNSET
    kv_router_hint: Any = msgspec.UNSET

    @property
    def hands_over(self) -> bool:
        """Whether a field of `HANDS_OVER` is there."""
        unset = msgspec.UNSET  # spelt out: every request that is passed on comes by
        return not (
            self.kv_transfer_params is unset
            and self.bootstrap_host is unset
            and self.bootstrap_port is unset
            and self.bootstrap_room is unset
            and self.bootstrap_pair_key is unset
            and self.kv_router_hint is unset
        )

    @property
    def include_usage(self) -> bool:
        options = self.stream_options
        return bool(options is not None and options.include_usage)

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatBody(Asked, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1, max_length=65536)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    reasoning_effort: str | None = None

    @property
    def answer_tokens(self) -> int | None:
        stated = self.max_completion_tokens
        return self.max_tokens if stated is None else stated

    @property
    def top(self) -> int | None:
        """Alternatives to report per token; None without logprobs."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextBody(Asked, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: Count | None = None
    suffix: str | None = None

    @property
    def answer_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def top(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids. Raises `BadRequest` on a mixture."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        kinds = {type(item) for item in self.prompt}
        if kinds == {int}:
            return [[item for item in self.prompt if isinstance(item, int)]]
        if kinds in ({str}, {list}):
            return [item for item in self.prompt if not isinstance(item, int)]
        what = "a prompt is a string, a list of strings, a list of token ids, or a list of those"
        raise BadRequest(what, param="prompt")


Body: TypeAlias = ChatBody | TextBody
_B = TypeVar("_B", ChatBody, TextBody)
_chat = msgspec.json.Decoder(ChatBody)
_text = msgspec.json.Decoder(TextBody)
_object = msgspec.json.Decoder(dict[str, Any])


def parse_chat(raw: bytes) -> ChatBody:
    return _checked(parse_as(_chat, raw))


def parse_text(raw: bytes) -> TextBody:
    return _checked(parse_as(_text, raw))


def parse_object(raw: bytes) -> dict[str, Any]:
    """The body as the client sent it, for backends that speak OpenAI's API."""
    return parse_as(_object, raw)


_D = TypeVar("_D")


def parse_as(decoder: "msgspec.json.Decoder[_D]", raw: bytes) -> _D:
    """A body of one shape. Raises `BadRequest` that names the parameter."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(_AT)
        param = where.rstrip("`").lstrip(".") or None
        raise BadRequest(f"{param or 'the body'}: {what}", param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error


def _checked(body: _B) -> _B:
    if len(body.stops) > _STOPS:
        raise BadRequest(f"stop: at most {_STOPS} strings", param="stop")
    limit = body.answer_tokens
    if limit is not None and (body.min_tokens or 0) > limit:
        raise BadRequest("min_tokens: more than the answer may have", param="min_tokens")
    return body
