"""One record goes down the line with each request: what every step decided, why, and when.

It becomes a line of `RUN/log/requests.jsonl`. It never holds text of a prompt or an answer, nor a
key.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from starloom.serve.gateway.clock import Clock

_MAX_STEPS = 64
_FLUSH_S = 0.5


class Step(msgspec.Struct, omit_defaults=True):
    name: str
    at_ms: float
    """Milliseconds since the request arrived."""
    what: str = ""
    why: str = ""


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the log says of one request."""

    id: str
    at: float
    path: str
    tenant: str = ""
    model: str = ""
    stream: bool = False
    workers: dict[int, str] = {}
    """Who answered, or tried last, by the answer's index."""
    helpers: dict[int, str] = {}
    """Which worker of ours computed the prompt, where that was another one."""
    status: int = 0
    outcome: str = ""
    """`ok`, `cancelled`, or the code of an error."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    pool_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: float | None = None
    total_ms: float = 0.0
    tpot_ms: float | None = None
    steps: list[Step] = []


class Tracker:
    """Writes into a record, with the time since the request arrived."""

    __slots__ = (
        "_begin",
        "_clock",
        "_mono",
        "headers",
        "passed",
        "record",
        "tpot_target_s",
        "ttft_target_s",
        "unique",
    )

    def __init__(self, request_id: str, unique: str, path: str, clock: Clock) -> None:
        self.unique = unique
        """Ours alone, while a client may send the same `record.id` twice."""
        self.passed = b""
        """Header lines that go on to servers elsewhere: where the request stands in a trace."""
        self.headers: Mapping[bytes, bytes] = {}
        """Of the request, those that the gateway reads."""
        self.ttft_target_s: float | None = None
        self.tpot_target_s: float | None = None
        """What the client or its tenant wants."""
        self._clock = clock
        self._mono = clock.mono
        self._begin = clock.mono()
        self.record = Record(id=request_id, at=clock.wall(), path=path)

    def wall(self) -> float:
        """Seconds since 1970, now."""
        return self._clock.wall()

    def now_ms(self) -> float:
        return int((self._mono() - self._begin) * 1e6) / 1e3  # `round` costs four times as much

    def step(self, name: str, what: str = "", why: str = "") -> None:
        """A step of the line is done."""
        steps = self.record.steps
        if len(steps) < _MAX_STEPS:
            steps.append(Step(name, self.now_ms(), what, why))

    def token(self) -> None:
        """A piece of an answer came; the first one counts."""
        if self.record.ttft_ms is None:
            self.record.ttft_ms = self.now_ms()

    def done(self, outcome: str, status: int) -> Record:
        """The request is over."""
        record = self.record
        record.outcome, record.status, record.total_ms = outcome, status, self.now_ms()
        if record.ttft_ms is not None and record.completion_tokens > 1:
            rest_ms = record.total_ms - record.ttft_ms
            record.tpot_ms = round(rest_ms / (record.completion_tokens - 1), 3)
        return record


class RequestLog:
    """JSON lines in a file that is bounded: `limit_bytes`, and as much again in `NAME.1`."""

    def __init__(self, path: Path, *, limit_bytes: int = 64 << 20) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._encoder = msgspec.json.Encoder()
        self._file = self._open()
        self._bytes = self._file.tell()
        self._flush: asyncio.TimerHandle | None = None

    def write(self, record: Record) -> None:
        """Append. The line reaches the file within half a second."""
        line = self._encoder.encode(record) + b"\n"
        if self._bytes + len(line) > self._limit_bytes and self._bytes:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._open()
            self._bytes = 0
        self._file.write(line)
        self._bytes += len(line)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(_FLUSH_S, self._flushed)

    def close(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
        self._file.close()

    def _flushed(self) -> None:
        self._flush = None
        self._file.flush()

    def _open(self) -> BinaryIO:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._path.open("ab", buffering=1 << 16)
        self._path.chmod(0o600)
        return file
