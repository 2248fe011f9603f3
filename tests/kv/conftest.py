"""A pool server in a process of its own, and one in a thread of this process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from starloom.kv.layout import SlotClass
from starloom.kv.server import Server

SLOT_BYTES = 4096


class PoolProcess:
    """`python -m starloom.kv.server`, killed at the end of the test."""

    def __init__(self, path: Path, *slots: str, stall_s: float = 5.0) -> None:
        self.path = path
        self._arguments = [sys.executable, "-m", "starloom.kv.server", "--socket", str(path)]
        self._arguments += ["--stall-s", str(stall_s)]
        for each in slots or (f"{SLOT_BYTES}x8",):
            self._arguments += ["--slots", each]
        self.start()

    def start(self) -> None:
        before = self.path.stat().st_ino if self.path.exists() else None
        self.process = subprocess.Popen(self._arguments, stderr=subprocess.DEVNULL)
        while not self.path.exists() or self.path.stat().st_ino == before:
            assert self.process.poll() is None, "the pool did not start"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            self.kill()


@pytest.fixture
def pool_process(tmp_path: Path) -> Iterator[Callable[..., PoolProcess]]:
    started: list[PoolProcess] = []

    def start(*slots: str, stall_s: float = 5.0) -> PoolProcess:
        started.append(PoolProcess(tmp_path / "pool.sock", *slots, stall_s=stall_s))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def pool_thread(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    running: list[tuple[Server, threading.Thread]] = []

    def start(*slots: str, stall_s: float = 5.0) -> Path:
        path = tmp_path / "pool.sock"
        classes = [SlotClass.parse(each) for each in slots or (f"{SLOT_BYTES}x8",)]
        server = Server(path, classes, stall_s=stall_s)
        thread = threading.Thread(target=server.serve)
        thread.start()
        running.append((server, thread))
        return path

    yield start
    for server, thread in running:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()
