"""The audit trail: one JSON line for each verdict, in files that are bounded in size.

A line holds who, when, which list and phrase, what was done and where in the text; never the text.
Serving goes on when the disk does not: lost lines are counted, and the first of a row is logged.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from starloom.serve.guard.base import Action, Verdict, Where

MAX_BYTES = 16 << 20
KEEP = 4
_log = logging.getLogger("starloom.guard")


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the audit trail."""

    time_s: float
    """Seconds since 1970, UTC."""
    request: str
    tenant: str
    where: Where
    list: str
    phrase: str
    action: Action
    part: int
    start: int
    end: int


class Audit(Protocol):
    """Where verdicts are kept. Never raises."""

    def write(self, records: Iterable[AuditRecord]) -> None: ...


def audit_records(
    verdicts: Iterable[Verdict], *, time_s: float, request: str, tenant: str
) -> list[AuditRecord]:
    """What the audit trail keeps of the verdicts on one request."""
    return [
        AuditRecord(time_s=time_s, request=request, tenant=tenant, **msgspec.structs.asdict(it))
        for it in verdicts
    ]


class AuditFile:
    """Appends to `path`; when full it becomes `path.1`, up to `path.KEEP`, and the oldest goes.

    One writer a file. Lines are handed to the system at once, so a crash of this process loses
    none.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._fd = -1
        self._size = 0
        self._failing = False
        self.lost = 0
        """Records that could not be written."""

    def write(self, records: Iterable[AuditRecord]) -> None:
        lines = [msgspec.json.encode(record) + b"\n" for record in records]
        for index, line in enumerate(lines):
            try:
                self._append(line)
            except OSError as error:
                self.lost += len(lines) - index
                if not self._failing:
                    _log.error("%s cannot be written: %s", self._path, error.strerror or error)
                self._failing = True
                self.close()
                return
            self._failing = False

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, line: bytes) -> None:
        if self._fd < 0:
            self._open()
        if self._size and self._size + len(line) > self._max_bytes:
            self._rotate()
        written = os.write(self._fd, line)
        if written < len(line):  # a full disk: leave no half line
            os.ftruncate(self._fd, self._size)
            raise OSError("the disk took only a part of a line")
        self._size += written

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.replace(self._numbered(number + 1))
        if self._keep:
            self._path.replace(self._numbered(1))
        else:
            self._path.unlink()
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
