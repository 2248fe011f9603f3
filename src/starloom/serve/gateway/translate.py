"""Other APIs as translations of a chat: a request becomes a chat's, and its answer comes back.

So our own engines and servers elsewhere serve them alike, behind the same guard.
"""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from starloom.serve.engines.sse import DONE, BadStream, payload, split
from starloom.serve.errors import ServeError
from starloom.serve.gateway.client import Client
from starloom.serve.http import RawHeaders

_object = msgspec.json.Decoder(dict[str, Any])


class Translation(Protocol):
    """One answer, as another API tells it."""

    def whole(self, answer: dict[str, Any]) -> bytes:
        """A whole answer of a chat. Raises `BadStream` for one of another shape."""

    def opening(self) -> bytes:
        """The first events of a stream."""

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """Events for a chunk of a chat. Raises `BadStream`."""

    def closing(self) -> bytes:
        """The last events of a stream."""

    def broken(self, error: ServeError) -> bytes:
        """The last events of a stream that failed."""


class Translated:
    """A client of another API, to which a chat's answer is written (`client.Answering`)."""

    def __init__(self, client: Client, translation: Translation) -> None:
        self.headers: RawHeaders = client.headers
        self._client = client
        self._translation = translation
        client.broken = translation.broken

    @property
    def started(self) -> bool:
        return self._client.started

    @property
    def streaming(self) -> bool:
        return self._client.streaming

    def json(self, status: int, body: bytes) -> None:
        try:
            answer = _object.decode(body)
        except msgspec.MsgspecError as error:
            raise BadStream(f"the answer is not a JSON object: {error}") from error
        self._client.json(status, self._translation.whole(answer))

    def open(self, frame: bytes = b"") -> None:
        self._client.open(self._translation.opening() + self._events(frame))

    async def event(self, frame: bytes) -> None:
        if self.streaming:
            await self._client.event(self._events(frame))
        else:
            await self._client.event(self._translation.opening() + self._events(frame))

    def write(self, data: bytes) -> None:
        self._client.write(self._events(data))

    def finish(self, data: bytes = b"") -> None:
        self._client.finish(self._events(data) + self._translation.closing())

    def slow(self) -> bool:
        return self._client.slow()

    async def drained(self) -> None:
        await self._client.drained()

    def _events(self, data: bytes) -> bytes:
        out = []
        for event in split(data):
            said = payload(event)
            if not said or said == DONE:
                continue
            try:
                chunk = _object.decode(said)
            except msgspec.MsgspecError as error:
                raise BadStream(f"an event is not a JSON object: {error}") from error
            out.append(self._translation.chunk(chunk))
        return b"".join(out)


_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def event(fields: dict[str, Any]) -> bytes:
    """A server-sent event, named by its `type`."""
    return b"event: %b\ndata: %b\n\n" % (fields["type"].encode(), _encode(fields))
