"""A server elsewhere, on loopback: answers as it is told, and remembers what it was sent."""

import asyncio
import contextlib
import json
import threading
from dataclasses import dataclass


@dataclass
class Asked:
    """One request that the server got."""

    method: str
    path: str
    headers: dict
    content: bytes

    @property
    def body(self):
        return json.loads(self.content)


class FakeUpstream:
    """Answers POSTs with `status`, `headers` and `body`, cut into parts anywhere.

    `body` may be a function of what was asked. With `breaks` the connection is reset behind it.
    `models` is the status of `GET .../models`; None refuses connections.
    """

    def __init__(self, body=b"", status=200, headers=None, breaks=False, part_bytes=7, pause_s=0.0):
        self.body, self.status, self.headers, self.breaks = body, status, headers or {}, breaks
        self.part_bytes, self.pause_s = part_bytes, pause_s
        self.seen = []
        self.models = 200
        self.port = 0
        self.connections = 0
        self.broken_off = 0
        """Answers that a client did not wait for."""
        self._server = None
        self._writers = {}
        """Of open connections, with their readers."""

    @contextlib.asynccontextmanager
    async def serving(self):
        """The server's address, while it listens."""
        await self.listen()
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            await self.stop()

    async def stop(self):
        """Refuse who comes, and break off who is there."""
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def listen(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers[writer] = reader
        try:
            while True:
                asked = await read_request(reader)
                if self.models is None:
                    return
                if asked.path.endswith("/models"):
                    writer.write(plain(self.models, b'{"data": []}'))
                    continue
                self.seen.append(asked)
                await self._answer(asked, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.pop(writer, None)
            writer.close()

    async def _answer(self, asked, writer):
        body = self.body(asked) if callable(self.body) else self.body
        await self._say(self.status, body, writer)

    async def _say(self, status, body, writer):
        kind = "text/event-stream" if b"data:" in body else "application/json"
        fields = {"content-type": kind, "transfer-encoding": "chunked", **self.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode())
        for at in range(0, len(body), self.part_bytes):
            part = body[at : at + self.part_bytes]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
            try:
                await writer.drain()
            except ConnectionError:
                self.broken_off += 1
                raise
        if self.breaks:
            await writer.drain()
            writer.transport.abort()
            raise ConnectionError
        writer.write(b"0\r\n\r\n")


async def read_request(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Asked(
        method, path, headers, await reader.readexactly(int(headers.get("content-length", 0)))
    )


def plain(status, body):
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


def sse(*chunks, done=True):
    """A stream of events."""
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return ("".join(events) + ("data: [DONE]\n\n" if done else "")).encode()


def chat(text=None, finish=None, **more):
    """One chunk of a chat."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, **more}
    return {"choices": [{**choice, "finish_reason": finish}]}


async def _end(upstream):
    await upstream.stop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def in_thread(upstream):
    """The server in a thread of its own, for tests whose client is not in a loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(upstream.listen(), loop).result(5)
    try:
        yield f"http://127.0.0.1:{upstream.port}"
    finally:
        asyncio.run_coroutine_threadsafe(_end(upstream), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
