"""The client at the other end: an exchange that is answered in OpenAI's forms."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from starloom.serve.errors import ServeError
from starloom.serve.http import Exchange, Gone, RawHeaders

__all__ = ["Answering", "Client", "Gone", "error_body"]

JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"
_STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Answering(Protocol):
    """Where an answer of OpenAI's chat or completions goes: to a client, or to a translation."""

    headers: RawHeaders

    @property
    def started(self) -> bool: ...

    @property
    def streaming(self) -> bool: ...

    def json(self, status: int, body: bytes) -> None: ...

    def open(self, frame: bytes = b"") -> None: ...

    async def event(self, frame: bytes) -> None: ...

    def write(self, data: bytes) -> None: ...

    def finish(self, data: bytes = b"") -> None: ...

    def slow(self) -> bool: ...

    async def drained(self) -> None: ...


class Client(Exchange):
    """One request, and its answer as JSON or as a stream of events."""

    __slots__ = ("broken", "explain", "streaming")

    def __init__(self, wire: object) -> None:
        super().__init__(wire)  # type: ignore[arg-type]
        self.streaming = False
        self.explain: Callable[[ServeError], bytes] = error_body
        """An error as a body, in the shape of the API that was called."""
        self.broken: Callable[[ServeError], bytes] = _broken
        """An error as the last events of a stream."""

    def json(self, status: int, body: bytes) -> None:
        """The whole answer."""
        self.send(status, JSON, body)

    def open(self, frame: bytes = b"") -> None:
        """Begin a stream of events."""
        self.streaming = True
        self.headers += _STREAM_HEADERS
        self.start(200, _EVENTS, frame)

    async def event(self, frame: bytes) -> None:
        """One piece of a stream of events; the first one opens it. Waits for slow clients."""
        if not self.streaming:
            self.open(frame)
        else:
            self.write(frame)
        if self.slow():
            await self.drained()

    def error(self, error: ServeError) -> None:
        """Tell what went wrong, in the form that the answer has taken so far."""
        if self.started and not self.streaming:
            self.abort()  # half of a whole answer is out: only the close can tell
            return
        self.headers += [(name.encode(), text.encode()) for name, text in error.headers()]
        if self.streaming:
            self.finish(self.broken(error))
            return
        if b"expect" in self.fields and not self.complete:
            self.keep_alive = False  # whether it sends its body now is not known
        self.json(error.status, self.explain(error))


def error_body(error: ServeError) -> bytes:
    """OpenAI's shape."""
    fields = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    return msgspec.json.encode({"error": fields})


def _broken(error: ServeError) -> bytes:
    return b"data: " + error_body(error) + b"\n\n"
