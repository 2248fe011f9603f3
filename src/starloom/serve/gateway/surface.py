"""What is answered at which path: APIs beside the line's two are translations, or pass through."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from starloom.serve.errors import ServeError
from starloom.serve.gateway import elsewhere
from starloom.serve.gateway.client import Client
from starloom.serve.gateway.conversations import Conversations
from starloom.serve.gateway.elsewhere import Elsewhere
from starloom.serve.gateway.line import CHAT, TEXT, Line
from starloom.serve.gateway.messages_in import COUNT_TOKENS, MESSAGES, parse_count, parse_messages
from starloom.serve.gateway.messages_out import MessageAnswer, error_body
from starloom.serve.gateway.record import Tracker
from starloom.serve.gateway.responses_in import RESPONSES, parse_responses
from starloom.serve.gateway.responses_out import ResponseAnswer
from starloom.serve.gateway.tokens import DETOKENIZE, TOKENIZE, Tokens
from starloom.serve.gateway.translate import Translated

Post = Callable[[str, bytes, Tracker, Client], Awaitable[None]]
"""Answers the body that was posted to a path. Raises `ServeError`."""
EXPLAINS: Mapping[str, Callable[[ServeError], bytes]] = {
    MESSAGES: error_body,
    COUNT_TOKENS: error_body,
}
"""How errors are told, where that is not OpenAI's way."""


def posts(line: Line, away: Elsewhere, tokens: Tokens, said: Conversations) -> dict[str, Post]:
    """What takes a POST, by path."""
    surface = _Surface(line, tokens, said)
    return {
        CHAT: line.answer,
        TEXT: line.answer,
        MESSAGES: surface.message,
        COUNT_TOKENS: surface.count,
        RESPONSES: surface.response,
        TOKENIZE: tokens.tokenize,
        DETOKENIZE: tokens.detokenize,
        **dict.fromkeys(elsewhere.PATHS, away.answer),
    }


class _Surface:
    def __init__(self, line: Line, tokens: Tokens, said: Conversations) -> None:
        self._line = line
        self._tokens = tokens
        self._said = said

    async def message(self, path: str, raw: bytes, tracker: Tracker, client: Client) -> None:  # noqa: ARG002
        body, chat = parse_messages(raw)
        answer = MessageAnswer(f"msg_{tracker.unique}", body)
        await self._line.answer(CHAT, _encode(chat), tracker, Translated(client, answer))

    async def count(self, path: str, raw: bytes, tracker: Tracker, client: Client) -> None:  # noqa: ARG002
        count = await self._tokens.count(parse_count(raw), tracker)
        client.json(200, _encode({"input_tokens": count}))

    async def response(self, path: str, raw: bytes, tracker: Tracker, client: Client) -> None:  # noqa: ARG002
        tenant = tracker.record.tenant
        body, chat = parse_responses(raw, lambda response: self._said.turns(tenant, response))
        turns = chat["messages"][1 if body.instructions else 0 :]

        def keep(turn: dict[str, Any]) -> None:
            if body.store is not False:
                self._said.keep(tenant, answer.id, [*turns, turn])

        answer = ResponseAnswer(tracker.unique, tracker.record.at, body, keep)
        await self._line.answer(CHAT, _encode(chat), tracker, Translated(client, answer))


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)
