"""`/tokenize` and `/detokenize` in vLLM's shapes: answered here where the model has a tokenizer.

What the tokenizer here cannot render as the model's server would (tools, other templates, images)
goes to that server, where there is one.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from starloom.serve.errors import BadRequest, UnknownModel
from starloom.serve.gateway.api import Asked, Message, parse_as
from starloom.serve.gateway.client import Answering, Client
from starloom.serve.gateway.elsewhere import Elsewhere
from starloom.serve.gateway.prompts import Prompts, Wall
from starloom.serve.gateway.record import Tracker
from starloom.serve.http import RawHeaders
from starloom.serve.tokenise import Tokeniser

TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
_GIVES = "tokens"


class TokenizeBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A prompt, or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(max_length=65536)] | None = None
    add_special_tokens: bool | None = None
    """By default, as the model's prompts have them: yes for a prompt, the template's for a chat."""
    return_token_strs: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: list[dict[str, Any]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class TokenizeAnswer(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeBody(msgspec.Struct, kw_only=True):
    tokens: list[Annotated[int, Meta(ge=0, le=2**63 - 1)]]
    model: str | None = None


class DetokenizeAnswer(msgspec.Struct):
    prompt: str


_tokenize = msgspec.json.Decoder(TokenizeBody)
_detokenize = msgspec.json.Decoder(DetokenizeBody)


class Tokens:
    """Counts and shows tokens."""

    def __init__(self, prompts: Mapping[str, Prompts], elsewhere: Elsewhere) -> None:
        self._prompts = prompts
        self._elsewhere = elsewhere

    async def tokenize(self, path: str, raw: bytes, tracker: Tracker, client: Client) -> None:
        """Tokens of a prompt, or of a chat as the model gets it."""
        body = parse_as(_tokenize, raw)
        if (body.prompt is None) == (body.messages is None):
            raise BadRequest("either `prompt` or `messages` is needed", param="prompt")
        prompts = self._of(body.model)
        if prompts.tokeniser is None or not _here(body):
            await self._send(path, raw, prompts, tracker, client)
            return
        tokens = await _tokens(body, prompts, prompts.tokeniser)
        strings = prompts.tokeniser.names(tokens) if body.return_token_strs else None
        answer = TokenizeAnswer(len(tokens), prompts.model.context_tokens, tokens, strings)
        client.json(200, msgspec.json.encode(answer))

    async def detokenize(self, path: str, raw: bytes, tracker: Tracker, client: Client) -> None:
        """The text of tokens."""
        body = parse_as(_detokenize, raw)
        prompts = self._of(body.model)
        if prompts.tokeniser is None:
            await self._send(path, raw, prompts, tracker, client)
            return
        text = await prompts.run(len(body.tokens), lambda: prompts.decode(body.tokens, "tokens"))
        client.json(200, msgspec.json.encode(DetokenizeAnswer(text)))

    async def count(self, chat: dict[str, Any], tracker: Tracker) -> int:
        """Tokens of a chat's request. Raises `BadRequest` where nobody can count them."""
        fields = TokenizeBody.__struct_fields__
        raw = msgspec.json.encode({name: chat[name] for name in fields if name in chat})
        body = parse_as(_tokenize, raw)
        prompts = self._of(body.model)
        if prompts.tokeniser is not None and _here(body):
            return len(await _tokens(body, prompts, prompts.tokeniser))
        caught = _Caught()
        await self._send(TOKENIZE, raw, prompts, tracker, caught)
        return msgspec.json.decode(caught.body, type=_Counted).count

    def _of(self, model: str | None) -> Prompts:
        """The model that is asked for; the only one where none is named."""
        if model is None:
            if len(self._prompts) != 1:
                raise BadRequest("model: name one, this site has several", param="model")
            return next(iter(self._prompts.values()))
        prompts = self._prompts.get(model)
        if prompts is None:
            raise UnknownModel(f"there is no model {model!r}", param="model")
        return prompts

    async def _send(
        self, path: str, raw: bytes, prompts: Prompts, tracker: Tracker, client: Answering
    ) -> None:
        asked = Asked(model=prompts.model.name)
        await self._elsewhere.send(path, raw, asked, tracker, client, gives=_GIVES, counts=False)


class _Counted(msgspec.Struct):
    count: int


class _Caught:
    """A small answer that goes no further (`client.Answering`)."""

    started = streaming = False

    def __init__(self) -> None:
        self.headers: RawHeaders = []
        self.body = b""

    def json(self, status: int, body: bytes) -> None:  # noqa: ARG002
        self.body = body

    def open(self, frame: bytes = b"") -> None:
        raise AssertionError(frame)  # nobody asked for a stream

    async def event(self, frame: bytes) -> None:
        raise AssertionError(frame)

    def write(self, data: bytes) -> None:
        raise AssertionError(data)

    def finish(self, data: bytes = b"") -> None:
        raise AssertionError(data)

    def slow(self) -> bool:
        return False

    async def drained(self) -> None:
        return


def _here(body: TokenizeBody) -> bool:
    """Whether our tokenizer renders it as the line would."""
    if body.prompt is not None:
        return True
    plain = body.add_generation_prompt and not (body.tools or body.chat_template_kwargs)
    odd = body.continue_final_message or body.chat_template or body.add_special_tokens
    texts = (
        isinstance(message.content, str | None) or all(p.type == "text" for p in message.content)
        for message in body.messages or ()
    )
    return plain and not odd and all(texts)


async def _tokens(body: TokenizeBody, prompts: Prompts, tokeniser: Tokeniser) -> list[int]:
    if body.messages is not None:
        return (await prompts.chat(body.messages, Wall(""))).tokens
    text, special = body.prompt or "", body.add_special_tokens is not False
    return await prompts.run(len(text), lambda: tokeniser.prompt(text, special=special))
