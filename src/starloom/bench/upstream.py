"""A bare upstream for the gateway's bench: `python upstream.py PORT [PORT ...]`.

It answers each chat at once with the same bytes, whole or as `chunks` events, as fast as an event
loop lets it, so that what is measured is the gateway in front of it. It answers the questions by
which the peers find out whether an upstream is well, and nothing else.
"""

import asyncio
import json
import sys

import uvloop

MODEL = "mock"
CHUNKS = 500
WORD = " thread"
_HEADS = {
    kind: f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n".encode()
    for kind in ("application/json", "text/event-stream")
}


def whole() -> bytes:
    """The answer as one body."""
    message = {"role": "assistant", "content": "The loom weaves threads of light."}
    return json.dumps(
        {
            "id": "chatcmpl-mock",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19},
        }
    ).encode()


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    """One event of a stream, in the chunked encoding of HTTP."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1}
    return chunk(b"data: " + json.dumps({**body, "model": MODEL, "choices": [choice]}).encode())


def chunk(data: bytes) -> bytes:
    data += b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _plain(body: bytes, kind: str = "application/json") -> bytes:
    return _HEADS[kind] + b"content-length: %d\r\n\r\n%s" % (len(body), body)


WHOLE = _plain(whole())
OPENING = (
    _HEADS["text/event-stream"]
    + b"transfer-encoding: chunked\r\n\r\n"
    + event({"role": "assistant", "content": ""})
)
PIECE = event({"content": WORD})
CLOSING = event({}, "stop") + chunk(b"data: [DONE]") + b"0\r\n\r\n"
PAGES = {
    b"/v1/models": _plain(json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode()),
    b"/get_model_info": _plain(json.dumps({"model_path": MODEL, "is_generation": True}).encode()),
    b"/get_server_info": _plain(
        json.dumps({"model_id": MODEL, "served_model_name": MODEL}).encode()
    ),
}
PAGES[b"/model_info"] = PAGES[b"/get_model_info"]
PAGES[b"/server_info"] = PAGES[b"/get_server_info"]
WELL = _plain(b"{}")


class Upstream(asyncio.Protocol):
    """One connection: counts bytes until a request is whole, and answers."""

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        while (at := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:at].lower()
            end = at + 4
            if (stated := head.find(b"content-length:")) >= 0:
                end += int(head[stated + 15 :].partition(b"\r\n")[0])
            if len(self._data) < end:
                return
            asked, self._data = self._data[:end], self._data[end:]
            self._answer(asked)

    def _answer(self, asked: bytes) -> None:
        if asked.startswith(b"GET"):
            page = asked.split(b" ", 2)[1].partition(b"?")[0]
            self._transport.write(PAGES.get(page, WELL))
        elif b'"stream":true' in asked or b'"stream": true' in asked:
            self._left = CHUNKS
            self._transport.write(OPENING)
            self._go_on()
        else:
            self._transport.write(WHOLE)

    def _go_on(self) -> None:
        """One event a turn of the loop, as an engine that decodes would send them."""
        self._left -= 1
        if self._transport.is_closing():
            return
        self._transport.write(PIECE)
        if self._left:
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._transport.write(CLOSING)


async def main(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Upstream, "127.0.0.1", port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main([int(port) for port in sys.argv[1:]]))
