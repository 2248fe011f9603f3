"""A pool of blocks in Valkey or Redis: `SET NX` in, `GET` straight into memory out.

Speaks RESP2 itself, since what a general client returns has been copied twice. A value is the
block's XXH3 sum, seeded by its key, and the block; what does not agree is a miss and is deleted.
Set `maxmemory` and an LRU policy there; it samples, counts in seconds and knows no prefixes, so a
head may go before its tail. `EXISTS` renews nothing.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from urllib.parse import unquote, urlsplit

from typing_extensions import Buffer
from xxhash import xxh3_64_digest

from starloom.kv.base import Lease, PoolStat
from starloom.kv.channel import Channel, Deadline
from starloom.kv.errors import BlockTooLarge, PoolProtocolError, PoolUnavailable
from starloom.kv.local import flat
from starloom.kv.protocol import check_keys
from starloom.kv.remote.buffers import Buffers
from starloom.kv.transport.copies import Copies
from starloom.kv.transport.counts import Counts

SUM_BYTES = 8
MAX_BLOCK_BYTES = (512 << 20) - SUM_BYTES
"""Redis' own limit of a value (proto-max-bulk-len)."""
_MOST_BYTES = 512 << 20
_WINDOW, _WINDOW_BYTES = 512, 64 << 20
"""Commands and payload under way at once: the server buffers its answers."""
_BACKOFF_S = 0.5
_Answer = int | str | None


class RespError(PoolProtocolError):
    """The server answered with an error, such as OOM or NOAUTH."""


class RespPool:
    """A `Pool` at `redis://[USER:PASSWORD@]HOST:PORT[/DB]`, `rediss://` (TLS) or `unix:///PATH`.

    Thread-safe; one connection, made when first needed and again after a failure.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 1.0,
        name: str = "starloom",
        ttl_s: float = 0.0,
        password: str = "",
        tls: ssl.SSLContext | None = None,
        most_bytes: int = _MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` begins every key; `ttl_s` ends a block's life, 0 leaves that to the server.

        `password` may stand here instead of in the address.
        `most_bytes` bounds memory for blocks that have been got and are not released.
        Raises ValueError for an address of another form.
        """
        self._target = _Target(url, password, tls)
        self._timeout_s, self._clock, self._name = timeout_s, clock, name.encode() + b":"
        self._ttl = [b"PX", str(max(1, round(ttl_s * 1e3))).encode()] if ttl_s > 0 else []
        self._buffers = Buffers(most_bytes)
        self._counts = Counts()
        self._lock = threading.Lock()
        self._link: _Link | None = None
        self._closed = False
        self._retry_at_s = 0.0

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        check_keys(keys)
        with self._exchange() as link:
            return _leading(self._ask(link, b"EXISTS", keys))

    def get(self, keys: Sequence[bytes]) -> Lease:
        """Copies of the longest held prefix, as far as memory allows."""
        check_keys(keys)
        with self._exchange() as link:
            lengths = [int(one or 0) - SUM_BYTES for one in self._ask(link, b"STRLEN", keys)]
            held = _leading([length >= 0 for length in lengths])
            while held and sum(lengths[:held]) > self._buffers.share(1):
                held -= 1
            buffer = self._buffers.take(sum(lengths[:held])) if held else None
            if buffer is None:
                self._counts.looked(0, len(keys))
                return Copies([])
            views = _cut(buffer, lengths[:held])
            try:
                found = self._fetch(link, keys, views)
            except BaseException:
                self._buffers.give(buffer)
                raise
        self._counts.looked(found, len(keys))
        return Copies([view.toreadonly() for view in views[:found]], self._buffers, buffer)

    def put(self, blocks: Sequence[tuple[bytes, Buffer]]) -> int:
        """Store what is not held; when the server has no memory left the tail is left out."""
        offered = {key: flat(data) for key, data in reversed(blocks)}
        keys = [key for key, _ in blocks]
        check_keys(keys)
        for data in offered.values():
            if len(data) > MAX_BLOCK_BYTES:
                raise BlockTooLarge(f"a block of {len(data)} bytes is over {MAX_BLOCK_BYTES}")
        stored = 0
        with self._exchange() as link:
            held = dict(zip(keys, self._ask(link, b"EXISTS", keys), strict=True))
            wanted = [key for key in dict.fromkeys(keys) if not held[key]]
            for key in wanted:
                data = offered[key]
                value: list[bytes | memoryview] = [xxh3_64_digest(data, _seed(key)), data]
                link.send([b"SET", self._name + key, value, b"NX", *self._ttl])
                try:
                    stored += link.answer() == "OK"
                except RespError as error:
                    if not str(error).startswith("OOM"):
                        raise
                    break
        self._counts.stored(stored, len(wanted) - stored)
        return stored

    def stat(self) -> PoolStat:
        """Counters of this client; `blocks` is the server's number of keys, whosesoever."""
        with self._exchange() as link:
            link.send([b"DBSIZE"])
            size = link.answer()
        blocks = size if isinstance(size, int) else 0
        return self._counts.stat(blocks=blocks, block_bytes=MAX_BLOCK_BYTES, connections=1)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._drop()

    def _fetch(self, link: "_Link", keys: Sequence[bytes], views: Sequence[memoryview]) -> int:
        """Fill the views; how many leading ones hold what was put."""
        good = [False] * len(views)
        bad: list[bytes] = []
        for window in _windows([len(view) for view in views]):
            for at in window:
                link.send([b"GET", self._name + keys[at]])
            for at in window:
                digest = link.fill(views[at], SUM_BYTES)
                good[at] = digest == xxh3_64_digest(views[at], _seed(keys[at]))
                if digest is not None and not good[at]:
                    bad.append(keys[at])
        if bad:
            self._ask(link, b"DEL", bad)
        return _leading(good)

    def _ask(self, link: "_Link", command: bytes, keys: Sequence[bytes]) -> list[_Answer]:
        answers: list[_Answer] = []
        for start in range(0, len(keys), _WINDOW):
            part = keys[start : start + _WINDOW]
            link.send(*[[command, self._name + key] for key in part])
            answers += [link.answer() for _ in part]
        return answers

    @contextmanager
    def _exchange(self) -> Iterator["_Link"]:
        """The connection, for one call; any error ends it and is named as the contract does."""
        deadline = Deadline(self._clock, self._timeout_s)
        if not self._lock.acquire(timeout=deadline.rest_s()):
            raise PoolUnavailable(f"{self._target}: other calls took all of {self._timeout_s} s")
        try:
            if self._closed:
                raise PoolUnavailable(f"{self._target}: this client is closed")
            if self._link is None:
                if (wait_s := self._retry_at_s - self._clock()) > 0:
                    raise PoolUnavailable(f"{self._target}: lost; next try in {wait_s:.2f} s")
                self._link = self._target.connect(deadline)
            self._link.deadline = deadline
            yield self._link
        except (OSError, PoolProtocolError) as error:
            self._drop()
            self._retry_at_s = self._clock() + _BACKOFF_S
            raise PoolUnavailable(f"{self._target}: {error}") from error
        except PoolUnavailable:
            raise
        except BaseException:
            self._drop()
            raise
        finally:
            self._lock.release()

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.channel.close()


class _Target:
    """Where the server is, and who we are there."""

    def __init__(self, url: str, password: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        forms = "write redis://[USER:PASSWORD@]HOST:PORT[/DB], rediss://... or unix:///PATH"
        if parts.scheme not in {"redis", "rediss", "unix"}:
            raise ValueError(f"no address of a Valkey or Redis server: {forms}")
        self._path = parts.path if parts.scheme == "unix" else ""
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 6379
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "rediss" else None
        database = "" if self._path else parts.path.strip("/")
        if database and not database.isdecimal():
            raise ValueError(f"/{database} is no number of a database: {forms}")
        self._hello: list[list[bytes]] = []
        password = password or unquote(parts.password or "")
        if password:
            names = [unquote(parts.username).encode()] if parts.username else []
            self._hello.append([b"AUTH", *names, password.encode()])
        if database:
            self._hello.append([b"SELECT", database.encode()])

    def __str__(self) -> str:
        """Without the password."""
        return self._path or f"{self._host}:{self._port}"

    def connect(self, deadline: Deadline) -> "_Link":
        """Raises OSError and `RespError` (wrong password)."""
        if self._path:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(deadline.left_s())
                sock.connect(self._path)
            except BaseException:
                sock.close()
                raise
        else:
            sock = socket.create_connection((self._host, self._port), deadline.left_s())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self._host)
            link = _Link(Channel(sock), deadline)
            for command in self._hello:
                link.send(command)
                link.answer()
        except BaseException:
            sock.close()
            raise
        return link


class _Link:
    """Commands out, answers in. Raises OSError, `RespError` and `PoolProtocolError`."""

    def __init__(self, channel: Channel, deadline: Deadline) -> None:
        self.channel, self.deadline = channel, deadline
        self._buffer = memoryview(bytearray(64 << 10))
        self._at = self._end = 0

    def send(self, *commands: Sequence[bytes | Sequence[bytes | memoryview]]) -> None:
        """Each command is its words; a word may be given in parts."""
        parts: list[bytes | memoryview] = []
        head = b""
        for command in commands:
            head += b"*%d\r\n" % len(command)
            for word in command:
                pieces = [word] if isinstance(word, bytes) else word
                head += b"$%d\r\n" % sum(map(len, pieces))
                for piece in pieces:
                    if isinstance(piece, bytes):
                        head += piece
                    else:
                        parts += [head, piece]
                        head = b""
                head += b"\r\n"
        self.channel.send([*parts, head], self.deadline)

    def answer(self) -> _Answer:
        """A status, a number or nil."""
        line = self._line()
        match line[:1]:
            case b"+":
                return line[1:].decode(errors="replace")
            case b":" if line[1:].isdigit():
                return int(line[1:])
            case b"$" if line == b"$-1":
                return None
            case _:
                raise PoolProtocolError(f"an answer that no command of ours has: {line[:20]!r}")

    def fill(self, target: memoryview, before: int) -> bytes | None:
        """A value into the target but for its first bytes, which are returned; None for nil."""
        line = self._line()
        if line == b"$-1":
            return None
        if line != b"$%d" % (before + len(target)):
            raise PoolProtocolError(f"{len(target)} bytes were due, there came {line[:20]!r}")
        first = bytearray(before)
        self._take(memoryview(first))
        self._take(target)
        self._take(memoryview(bytearray(2)))
        return bytes(first)

    def _take(self, target: memoryview) -> None:
        """What is buffered, then straight from the socket."""
        ready = min(self._end - self._at, len(target))
        target[:ready] = self._buffer[self._at : self._at + ready]
        self._at += ready
        if ready < len(target):
            self.channel.receive_into(target[ready:], self.deadline)

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            if self._at == self._end:
                self.channel.limit(self.deadline, socket.SO_RCVTIMEO)
                try:
                    self._at, self._end = 0, self.channel.sock.recv_into(self._buffer)
                except BlockingIOError:
                    raise TimeoutError("no answer in time") from None
                if not self._end:
                    raise ConnectionResetError("the server closed the connection")
            ready = bytes(self._buffer[self._at : self._end])
            cut = ready.find(b"\n") + 1 or len(ready)
            line += ready[:cut]
            self._at += cut
            if len(line) > 1 << 16:
                raise PoolProtocolError("a line without an end")
        if line.startswith(b"-"):
            raise RespError(line[1:-2].decode(errors="replace"))
        return line[:-2]


def _seed(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def _cut(buffer: memoryview, lengths: Sequence[int]) -> list[memoryview]:
    """One piece a length, one behind the other."""
    ends = list(accumulate(lengths))
    return [buffer[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _leading(found: Sequence[object]) -> int:
    """How many of the first ones are there."""
    return next((at for at, one in enumerate(found) if not one), len(found))


def _windows(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Positions in groups that may be under way at once."""
    window: list[int] = []
    size = 0
    for at, length in enumerate(lengths):
        if window and (len(window) == _WINDOW or size + length > _WINDOW_BYTES):
            yield window
            window, size = [], 0
        window.append(at)
        size += length
    if window:
        yield window
