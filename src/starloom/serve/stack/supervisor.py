"""The supervisor: starts a site's processes, starts them again when they die, stops them all.

Every child hangs on a lifeline (see `starloom.process`) and runs in a session of its own, so that
Ctrl-C reaches the supervisor alone and a killed supervisor leaves nothing behind.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

import httpx

from starloom.process import LIFELINE_ENV, LISTENER_ENV
from starloom.serve.rundir import RunDir
from starloom.serve.stack.children import Child, children
from starloom.serve.stack.keys import tenant_keys
from starloom.site import Site

_STOP_S = 5.0
_LOG_BYTES = 8 << 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_STEADY_S = 10.0
_OTHERS_S = 20.0
"""So long a site that could answer waits for its other workers before it is called ready."""
_BACKLOG = 1024

Told = Callable[[str], None]


class StackError(Exception):
    """A site cannot be started; the message says why and what to do."""


class Stack:
    """One running site. Use it as an async context manager: `async with Stack(site, rundir):`."""

    def __init__(self, site: Site, rundir: RunDir, told: Told = lambda _: None) -> None:
        self.site = site
        self.rundir = rundir
        self.made_key: str | None = None
        self.restarts: dict[str, int] = {}
        self._told = told
        self._pids: dict[str, int] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._watchers: list[tuple[Child, asyncio.Task[None]]] = []
        self._stopping = asyncio.Event()
        self._lock: IO[str] | None = None
        self._listener: socket.socket | None = None
        self._lifeline = self._lifeline_end = -1

    async def __aenter__(self) -> "Stack":
        try:
            self._prepare()
            for child in children(self.site, self.rundir):
                self._watchers.append((child, asyncio.create_task(self._watch(child))))
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The gateway's address."""
        state = self.rundir.state()
        if state is None:
            raise StackError(f"site {self.site.name!r} is not started")
        return str(state["url"])

    def pid(self, name: str) -> int | None:
        """The process id of a child that runs now."""
        return self._pids.get(name)

    async def ready(self, timeout_s: float = 120.0) -> None:
        """Wait until every model has a worker, and a while longer for all workers.

        Raises StackError with the newest log lines of what does not start.
        """
        deadline = time.monotonic() + timeout_s
        enough: float | None = None
        last = "the gateway does not answer"
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.get(f"{self.url}/ready")
                    if answer.status_code == 200:
                        state = answer.json()
                        enough = enough or time.monotonic() + _OTHERS_S
                        if state["workers_up"] == state["workers"] or time.monotonic() > enough:
                            return
                    last = answer.text
                broken = [name for name, count in self.restarts.items() if count >= 3]
                if broken:
                    raise StackError(f"{broken[0]} does not start:\n{self._log_tail(broken[0])}")
                await asyncio.sleep(0.05)
        raise StackError(f"not ready after {timeout_s:.0f} s: {last}")

    async def stop(self) -> None:
        """Stop gateway, workers and pool, in this order; kill what does not stop in time."""
        self._stopping.set()
        drain_s = self.site.gateway.limits.drain_s
        for kind in ("gateway", "worker", "pool"):
            group = [(child, task) for child, task in self._watchers if child.kind == kind]
            for child, _ in group:
                self._signal(child.name, signal.SIGTERM)
            wait_s = _STOP_S + (drain_s if kind == "gateway" else 0.0)
            tasks = [task for _, task in group]
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=wait_s)
                if late:
                    for child, _ in group:
                        self._signal(child.name, signal.SIGKILL)
                    await asyncio.wait(late)
            if kind == "gateway" and self._listener is not None:
                self._listener.close()  # refuse who comes now, rather than let them wait
        self._watchers.clear()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            os.close(self._lifeline_end)
            self._lifeline = -1
        if self._lock is not None:
            self.rundir.clear_state()
            self._lock.close()
            self._lock = None

    def _prepare(self) -> None:
        try:
            self.rundir.create()
        except OSError as error:
            raise StackError(f"cannot use {self.rundir.path}: {error}") from error
        lock = (self.rundir.path / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise StackError(
                f"site {self.site.name!r} is running already (see `starloom status`);"
                " stop it, or give this one another name"
            ) from error
        self._lock = lock
        self.rundir.clear_state()
        self._listener = listen(self.site.gateway.host, self.site.gateway.port)
        keys, self.made_key = tenant_keys(self.site)
        self.rundir.write_site(self.site)
        self.rundir.write_keys(keys)
        self._lifeline_end, self._lifeline = os.pipe()
        self._write_state(self._listener.getsockname()[1])

    async def _watch(self, child: Child) -> None:
        """Run one child for as long as the site runs, again and again when it ends by itself."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started = time.monotonic()
            async with self._running(child) as process:
                code = await process.wait()
            if self._stopping.is_set():
                return
            self.restarts[child.name] = self.restarts.get(child.name, 0) + 1
            if time.monotonic() - started > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            self._told(f"{child.name} ended ({_reason(code)}); it starts again in {pause_s:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    @contextlib.asynccontextmanager
    async def _running(self, child: Child) -> AsyncIterator[asyncio.subprocess.Process]:
        handed = {LIFELINE_ENV: self._lifeline_end}
        if child.kind == "gateway" and self._listener is not None:
            handed[LISTENER_ENV] = self._listener.fileno()
        with _log_file(child.log) as log:
            process = await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=list(handed.values()),
                env={**os.environ, **{name: str(fd) for name, fd in handed.items()}},
                start_new_session=True,
            )
        self._pids[child.name] = process.pid
        self._processes[child.name] = process
        if self._stopping.is_set():  # asked to stop while it was being started
            self._signal(child.name, signal.SIGTERM)
        try:
            yield process
        finally:
            del self._pids[child.name], self._processes[child.name]

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._processes.get(name)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def _write_state(self, port: int) -> None:
        url = f"http://{reachable(self.site.gateway.host)}:{port}"
        state = {"url": url, "supervisor": os.getpid(), "started_s": time.time()}
        self.rundir.write_state(state)

    def _log_tail(self, name: str) -> str:
        text = self.rundir.log(name).read_text(errors="replace")
        return "\n".join(text.splitlines()[-12:])


def _log_file(path: Path) -> IO[bytes]:
    """A log that a crash loop cannot fill the disk with: one old generation is kept."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def listen(host: str, port: int) -> socket.socket:
    """The gateway's listening socket: made here, so that it outlives any one gateway."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StackError(
            f"cannot listen on {host}:{port}: {error.strerror};"
            " stop what listens there, or set `gateway.port` (0 lets the system choose)"
        ) from error
    listener.listen(_BACKLOG)
    return listener


def reachable(host: str) -> str:
    """How a client on this machine writes an address that a server was told to listen on."""
    if host in ("0.0.0.0", ""):  # noqa: S104
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def _reason(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
