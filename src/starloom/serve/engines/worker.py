"""A worker process: `python -m starloom.serve.engines.worker RUN_DIR NAME`.

The main thread computes; another one serves the socket (`server.py`). The process ends with its
supervisor (`starloom.process`), within two seconds of SIGTERM, or when a `Drain` has run dry.
"""

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from starloom.process import watch_lifeline
from starloom.serve.base import Delta, EngineRequest
from starloom.serve.engines import wire
from starloom.serve.engines.build import build_core
from starloom.serve.engines.core import EngineCore
from starloom.serve.engines.server import Event, Server
from starloom.serve.errors import Unavailable
from starloom.serve.models import BadModelFolder, ModelFiles
from starloom.serve.rundir import RunDir

Role = Literal["both", "prefill", "decode"]

_log = logging.getLogger("starloom.worker")

_REPORT_AFTER_S = 0.05
_LAST_MOMENT_S = 1.5
_NAP_S = 0.1
_LOOK_S = 1.0
"""So often an engine that waits looks whether a hand-over took too long."""


class Stop:
    """Set by SIGTERM or SIGINT. A step that does not end in time is left where it is."""

    def __init__(self) -> None:
        self.wanted = False
        self._wake: queue.SimpleQueue[Event | None] | None = None

    def install(self, wake: "queue.SimpleQueue[Event | None]") -> None:
        """Take the signals; `wake` gets a None, so that nobody sleeps through them."""
        self._wake = wake
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def sleep(self, seconds: float) -> None:
        """Sleep, or not to the end."""
        until = time.monotonic() + seconds
        while not self.wanted and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _NAP_S))

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self.wanted:
            return
        self.wanted = True
        if self._wake is not None:
            self._wake.put(None)
        timer = threading.Timer(_LAST_MOMENT_S, os._exit, (0,))
        timer.daemon = True
        timer.start()


class Worker:
    """The loop of the main thread: frames in, steps, deltas out."""

    def __init__(self, core: EngineCore, server: Server, stop: Stop, role: Role = "both") -> None:
        self._core = core
        self._server = server
        self._stop = stop
        self._role: Role = role
        core.on_news(lambda: server.events.put(None))
        self._owners: dict[str, int] = {}
        self._draining = False
        self._reported_s = 0.0
        self._reported_idle = True

    def run(self) -> None:
        """Until asked to stop, or drained."""
        while not (self._stop.wanted or (self._draining and self._core.idle)):
            self._take_events()
            self._send(self._core.settle())
            self._report()
            if not (self._core.waits or self._stop.wanted):
                self._send(self._step())
                self._report()
        self._send(filter(None, map(self._core.cancel, list(self._owners))))

    def _take_events(self) -> None:
        """Handle what has come; wait for something where there is nothing to compute."""
        wait = self._core.waits and not (self._draining and self._core.idle)
        limit_s = None if self._core.idle else _LOOK_S
        try:
            while (event := self._server.events.get(wait, limit_s)) is not None:
                self._handle(event)
                wait = False
        except queue.Empty:
            return

    def _step(self) -> list[Delta]:
        try:
            return self._core.step()
        except Exception:  # noqa: BLE001 - the process's edge: one bad step must not end all
            _log.exception("a step failed; its requests are ended")
            message = "the engine failed while it computed"
            deltas = {delta.id: delta for delta in self._core.fail_all(message)}
            # Some may have ended in that step, whose last deltas are lost.
            return [
                deltas.get(name) or Delta(id=name, finish="error", error=message)
                for name in self._owners
            ]

    def _handle(self, event: Event) -> None:
        match event.frame:
            case wire.Submit(request):
                self._submit(event.connection, request)
            case wire.Cancel(id):
                if self._owners.get(id) == event.connection:
                    self._cancel([id])  # nobody reads an answer to this
            case wire.Export(ref, keys):
                found = self._core.export_blocks(keys, wire.PART_BYTES)
                self._server.send(event.connection, wire.Exported(ref, list(found.items())))
            case wire.Import(ref, blocks):
                count = self._core.import_blocks(dict(blocks))
                self._server.send(event.connection, wire.Imported(ref, count))
            case wire.Forgo(name):
                self._core.forgo(name)
            case wire.TakeRole(role):
                self._role, self._reported_s = role, 0.0
            case wire.Drain():
                self._draining = True
            case None:
                self._cancel([i for i, owner in self._owners.items() if owner == event.connection])

    def _submit(self, connection: int, request: EngineRequest) -> None:
        refusal = None
        if self._draining:
            refusal = "this worker is being drained"
        elif request.id in self._owners:
            refusal = "a request of this id is running"
        else:
            try:
                delta = self._core.submit(request)
            except Unavailable as error:
                refusal = error.message
            else:
                self._owners[request.id] = connection
                self._send([delta] if delta is not None else [])
        if refusal is not None:
            self._server.send(connection, wire.Refused(request.id, refusal))

    def _cancel(self, ids: Iterable[str]) -> None:
        for request_id in ids:
            self._core.cancel(request_id)
            del self._owners[request_id]

    def _send(self, deltas: Iterable[Delta]) -> None:
        """Each delta to the connection that its request came over, one frame a connection."""
        frames: dict[int, list[Delta]] = {}
        for delta in deltas:
            frames.setdefault(self._owners[delta.id], []).append(delta)
            if delta.finish is not None:
                del self._owners[delta.id]
        for connection, group in frames.items():
            self._server.send(connection, wire.Deltas(group))

    def _report(self) -> None:
        now, idle = time.monotonic(), self._core.idle
        changed = idle != self._reported_idle
        if changed or now - self._reported_s >= _REPORT_AFTER_S:
            self._reported_s, self._reported_idle = now, idle
            load = msgspec.structs.replace(self._core.report(), role=self._role)
            self._server.report(load, now=changed)


def run(path: Path, name: str) -> int:
    """Serve worker `name` of the site that runs in `path`; the exit status."""
    # The socket thread must not wait 5 ms for every turn while steps are pure Python.
    sys.setswitchinterval(0.0005)
    watch_lifeline()
    rundir, stop = RunDir(path), Stop()
    try:
        site = rundir.site()
        core = build_core(site, rundir, name, stop.sleep)
        worker = site.worker(name)
        fingerprint = ModelFiles(site, worker.model).fingerprint
        role: Role = worker.role
        load = msgspec.structs.replace(core.report(), role=role)
        address = core.desk.address if core.desk is not None else ""
        blocks = load.kv_blocks
        hello = wire.Hello(name, worker.model, fingerprint, blocks, os.getpid(), address)
        server = Server(rundir.worker_socket(name), hello, load)
    except (BadModelFolder, KeyError, OSError, ValueError) as error:
        _log.error("worker %s cannot start: %s", name, error)
        return 2
    stop.install(server.events)
    server.start()
    _log.info("worker %s is ready", name)
    Worker(core, server, stop, role).run()
    server.close()
    core.close()
    _log.info("worker %s ends", name)
    return 0


def main() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    if len(sys.argv) != 3:
        sys.exit("usage: python -m starloom.serve.engines.worker RUN_DIR NAME")
    sys.exit(run(Path(sys.argv[1]), sys.argv[2]))


if __name__ == "__main__":
    main()
