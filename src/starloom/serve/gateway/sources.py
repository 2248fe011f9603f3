"""Where workers elsewhere are read from while the gateway runs: a file, and DNS names.

A source that fails keeps what it gave last, and says so: in the log, once, and on the metrics page.
"""

import asyncio
import hashlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from starloom.site import Discover, OpenAIWorker, Site, SiteError, found_at, load_workers

_log = logging.getLogger(__name__)

_FILE_EVERY_S = 1.0
_FRESH_S = 2.0
"""A file that was written so lately may be written again without a new time stamp."""
_RESOLVE_S = 5.0

Resolve = Callable[[str], Awaitable[Collection[str]]]
"""The addresses that a name has. Raises OSError; `TimeoutError` is one."""


class Source(Protocol):
    """Gives the workers that should be there."""

    name: str
    every_s: float
    drain_s: float | None
    """So long a worker that it no longer gives may finish; None: as long as requests may take."""
    problem: str
    """Why what it gives is not the newest; empty when it is."""

    async def look(self) -> Sequence[OpenAIWorker] | None:
        """The workers that should be there now; None where nothing is new."""


class FileSource:
    """`workers_file`. Read again when its time, size or identity changes."""

    def __init__(self, path: Path, site: Site, wall: Callable[[], float] = time.time) -> None:
        self.name = "file"
        self.every_s = _FILE_EVERY_S
        self.drain_s: float | None = None
        self.problem = ""
        self._path = path
        self._site = site
        self._wall = wall
        self._seen: object = None
        self._digest = b""

    async def look(self) -> Sequence[OpenAIWorker] | None:
        """Reads and checks in a thread: a large file takes a while."""
        return await asyncio.to_thread(self._look)

    def _look(self) -> Sequence[OpenAIWorker] | None:
        try:
            stat = self._path.stat()
            now = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if now == self._seen and self._wall() - stat.st_mtime > _FRESH_S:
                return None
            self._seen = now
            digest = hashlib.sha256(self._path.read_bytes()).digest()
        except OSError as error:
            self._digest = b""
            self._is_broken(f"{self._path}: cannot be read: {error.strerror}")
            return None
        if digest == self._digest:
            return None
        self._digest = digest
        try:
            workers = load_workers(self._path, self._site)
        except SiteError as error:
            self._is_broken(str(error))
            return None
        self.problem = ""
        _log.info("%s: %d workers", self._path, len(workers))
        return workers

    def _is_broken(self, what: str) -> None:
        if what != self.problem:
            self.problem = what
            _log.error("the workers that were read last stay, since the file is broken:\n%s", what)


class DnsSource:
    """One entry of `discover`. `now` is a monotonic clock in seconds."""

    def __init__(self, discover: Discover, resolve: Resolve, now: Callable[[], float]) -> None:
        self.name = f"dns:{discover.worker.name}"
        self.every_s = discover.every_s
        self.drain_s: float | None = discover.drain_s
        self.problem = ""
        self._discover = discover
        self._resolve = resolve
        self._now = now
        self._good: frozenset[str] = frozenset()
        self._good_s = 0.0

    async def look(self) -> Sequence[OpenAIWorker] | None:
        """Asks once."""
        dns, keep_s = self._discover.dns, self._discover.keep_s
        why = "has no addresses"
        try:
            async with asyncio.timeout(_RESOLVE_S):
                found = frozenset(await self._resolve(dns))
        except OSError as error:
            found, why = frozenset(), f"cannot be resolved: {str(error) or type(error).__name__}"
        now_s = self._now()
        if found:
            self._good_s, self.problem = now_s, ""
        else:
            if not self.problem:
                kept = f"; {len(self._good)} workers stay for {keep_s:g} s" if self._good else ""
                _log.warning("%s %s%s", dns, why, kept)
            self.problem = why
            if now_s - self._good_s <= keep_s:
                return None
        if found == self._good:
            return None
        self._good = found
        _log.info("%s has %d addresses", dns, len(found))
        return [found_at(self._discover, address) for address in sorted(found)]


async def resolve(name: str) -> Collection[str]:
    """A and AAAA records, as the system's resolver finds them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return {str(address[0]).partition("%")[0] for *_, address in found}


def sources(site: Site, now: Callable[[], float], resolve: Resolve = resolve) -> list[Source]:
    """All that a site states."""
    found: list[Source] = [DnsSource(one, resolve, now) for one in site.discover]
    if site.workers_file is not None:
        found.insert(0, FileSource(site.base / site.workers_file, site))
    return found
