"""What `bench kv` measures: each meter does one round at a time, so that rounds of all take turns.

A round puts all objects, gets them all, and checks what came. It returns seconds an object, one
figure a call of `batch` objects.
"""

import ctypes
import json
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from starloom.bench.base import BenchError
from starloom.bench.kv_holder import connect, pages
from starloom.bench.load import family
from starloom.kv import LocalPool, PoolClient, SlotClass, block_keys, root_key
from starloom.kv.arena import Arena
from starloom.kv.layout import Block, Layout
from starloom.kv.remote import NodeAddress, RemotePool
from starloom.kv.ssd import SsdTier

_SCRIPT = Path(__file__).with_name("kv_peers.py")
_WAIT_S = 120.0
TOKENS, CHUNK_TOKENS = 1_000_000, 256


@dataclass(frozen=True, slots=True)
class Case:
    """Objects of one size: how many a round moves, how many a call."""

    name: str
    size: int
    count: int
    batch: int = 1

    def calls(self) -> list[range]:
        """Numbers of the objects of each call."""
        steps = range(0, self.count, self.batch)
        return [range(start, min(start + self.batch, self.count)) for start in steps]


class Round(NamedTuple):
    """Seconds an object, for each call, and how many objects went either way."""

    put_s: Sequence[float]
    get_s: Sequence[float]
    objects: int


class Meter(Protocol):
    """One system in one case."""

    system: str

    def round(self) -> Round: ...

    def pids(self) -> Sequence[int]:
        """Other processes that work for it."""

    def close(self) -> None: ...


class Objects:
    """Memory of a case: what is put, and where it is to come back."""

    def __init__(self, case: Case, *, shared: bool = False) -> None:
        """`shared`: memory such as the pool's arena is, which has small pages on most systems.

        That matters for disks: here one reads three times as fast into huge pages.
        """
        self.case = case
        cut = _shared if shared else _private
        self.source, self.target = cut(case), cut(case)
        unit = os.urandom(min(case.size, 1 << 20))
        for source in self.source:
            for start in range(0, case.size, len(unit)):
                source[start : start + len(unit)] = unit
        self.turn = 0
        self.keys: list[bytes] = []

    def begin(self) -> None:
        """New keys and contents; what came before is wiped."""
        self.turn += 1
        self.keys = []
        for number, (source, target) in enumerate(zip(self.source, self.target, strict=True)):
            self.keys.append(self.turn.to_bytes(16, "big") + number.to_bytes(16, "big"))
            source[:32], target[:32] = self.keys[-1], bytes(32)

    def check(self) -> None:
        """Raises `BenchError` where a target does not hold what was put."""
        for number, (key, target) in enumerate(zip(self.keys, self.target, strict=True)):
            if target[:32] != key or target[-32:] != self.source[number][-32:]:
                raise BenchError(f"object {number} of {self.case.name} did not come back")

    def blocks(self, numbers: range) -> list[tuple[bytes, memoryview]]:
        return [(self.keys[at], self.source[at]) for at in numbers]

    def timed(self, do: Callable[[range], object]) -> list[float]:
        """Seconds an object, for each call."""
        taken = []
        for numbers in self.case.calls():
            began = time.perf_counter()
            do(numbers)
            taken.append((time.perf_counter() - began) / len(numbers))
        return taken


def _private(case: Case) -> list[memoryview]:
    area = pages(case.size * case.count)
    return [area[at * case.size : (at + 1) * case.size] for at in range(case.count)]


def _shared(case: Case) -> list[memoryview]:
    arena = Arena(Layout([SlotClass(case.size, case.count)]))
    return [arena.claim(Block(at, case.size, 0)) for at in range(case.count)]


class Here:
    """A meter whose work is done in this process."""

    system = "starloom"

    def __init__(self, case: Case, *, shared: bool = False) -> None:
        self.case = case
        self.objects = Objects(case, shared=shared)

    def round(self) -> Round:
        self.objects.begin()
        put_s, get_s = self.objects.timed(self.put), self.objects.timed(self.get)
        self.objects.check()
        return Round(put_s, get_s, 2 * self.case.count)

    def put(self, numbers: range) -> None:
        raise NotImplementedError

    def get(self, numbers: range) -> None:
        raise NotImplementedError

    def pids(self) -> Sequence[int]:
        return ()

    def close(self) -> None:
        """Nothing to give back but memory."""


class Memcpy(Here):
    """libc's memcpy into a ring of slots and out of it: nothing that copies is faster."""

    system = "memcpy"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self._held = pages(case.size * case.count)
        self._ring = ctypes.addressof(ctypes.c_char.from_buffer(self._held))
        self._from = [ctypes.addressof(ctypes.c_char.from_buffer(it)) for it in self.objects.source]
        self._to = [ctypes.addressof(ctypes.c_char.from_buffer(it)) for it in self.objects.target]

    def put(self, numbers: range) -> None:
        for at in numbers:
            ctypes.memmove(self._ring + at * self.case.size, self._from[at], self.case.size)

    def get(self, numbers: range) -> None:
        for at in numbers:
            ctypes.memmove(self._to[at], self._ring + at * self.case.size, self.case.size)


class Dram(Here):
    """Our pool in this process: a put copies in, a get is a view that is copied out here."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self._pool = LocalPool([SlotClass(case.size, case.count)])

    def put(self, numbers: range) -> None:
        if self._pool.put(self.objects.blocks(numbers)) != len(numbers):
            raise BenchError("a block was not stored")

    def get(self, numbers: range) -> None:
        with self._pool.get([self.objects.keys[at] for at in numbers]) as lease:
            for at, view in zip(numbers, lease.views, strict=True):
                self.objects.target[at][:] = view
            if not lease.valid():
                raise BenchError("a lease was lost")


class View:
    """Our pool in another process: a get is views of its memory, pinned; lookup and release count.

    A put goes through the socket: clients map the memory read-only.
    """

    system = "starloom"
    LOOKS = 300

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.single_us: list[float] = []
        path = folder / "pool.sock"
        command = [sys.executable, "-m", "starloom.kv.server", "--socket", str(path)]
        command += ["--slots", f"{case.size}x{case.count}"]
        self._server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not path.exists():
            if self._server.poll() is not None:
                raise BenchError("the pool did not start; run it by hand: " + " ".join(command))
            time.sleep(0.02)
        self._pool = PoolClient(path, _WAIT_S)
        self._data = pages(case.size)
        self._data[:] = os.urandom(1 << 20) * (case.size >> 20)

    def round(self) -> Round:
        keys = [secrets.token_bytes(32) for _ in range(self.case.count)]
        put_s, get_s = [], []
        for key in keys:
            began = time.perf_counter()
            self._pool.put([(key, self._data)])
            put_s.append(time.perf_counter() - began)
        for _ in range(self.LOOKS):
            began = time.perf_counter()
            lease = self._pool.get(keys)
            found = len(lease.views)
            lease.release()
            get_s.append((time.perf_counter() - began) / len(keys))
            if found != len(keys):
                raise BenchError(f"{found} of {len(keys)} blocks are there")
        for key in keys * 3:
            began = time.perf_counter()
            self._pool.get([key]).release()
            self.single_us.append((time.perf_counter() - began) * 1e6)
        return Round(put_s, get_s, len(keys) * (1 + self.LOOKS))

    def in_one_process_us(self) -> float:
        """The same of a pool in this process, as some peers have it."""
        pool = LocalPool([SlotClass(4096, self.case.count)])
        keys = [secrets.token_bytes(32) for _ in range(self.case.count)]
        pool.put([(key, key) for key in keys])
        taken = []
        for _ in range(self.LOOKS):
            began = time.perf_counter()
            pool.get(keys).release()
            taken.append((time.perf_counter() - began) * 1e6 / len(keys))
        return statistics.median(taken)

    def pids(self) -> Sequence[int]:
        return [self._server.pid]

    def close(self) -> None:
        self._pool.close()
        self._server.kill()
        self._server.wait()


class Ssd(Here):
    """Our SSD tier, from memory as the pool's arena has it, and back."""

    def __init__(self, case: Case, folder: Path) -> None:
        super().__init__(case, shared=True)
        self._folder = folder / f"ssd-{case.name}"
        # Room for two rounds, as the peers have it.
        self._tier = SsdTier(self._folder, [SlotClass(case.size, 2 * case.count)])

    def put(self, numbers: range) -> None:
        if self._tier.put(self.objects.blocks(numbers), timeout_s=_WAIT_S) != len(numbers):
            raise BenchError(f"{self._folder}: a block was not written: {self._tier.stat().why}")

    def get(self, numbers: range) -> None:
        keys = [self.objects.keys[at] for at in numbers]
        targets = [self.objects.target[at] for at in numbers]
        if self._tier.get(keys, targets, timeout_s=_WAIT_S) != len(keys):
            raise BenchError(f"{self._folder}: a block was not read: {self._tier.stat().why}")

    def close(self) -> None:
        self._tier.close()
        shutil.rmtree(self._folder)


class _Held(Here):
    """The objects live in another process of ours."""

    def __init__(self, case: Case, kind: str, address: str) -> None:
        super().__init__(case)
        script = str(_SCRIPT.with_name("kv_holder.py"))  # by path: not all benches are imported
        command = [sys.executable, "-P", script, kind, address, str(case.size), str(case.count)]
        self._holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self._holder.stdout.readline().strip() if self._holder.stdout else ""
        if not self.address:
            raise BenchError("the holder did not start; run it by hand: " + " ".join(command))

    def pids(self) -> Sequence[int]:
        return [self._holder.pid]

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


class Bare(_Held):
    """`sendall` and `recv_into`, nothing else."""

    system = "bare_tcp"

    def __init__(self, case: Case, address: str) -> None:
        super().__init__(case, "bare", address)
        self._end = connect(self.address)

    def put(self, numbers: range) -> None:
        for at in numbers:
            self._end.put(at, self.objects.source[at])

    def get(self, numbers: range) -> None:
        for at in numbers:
            self._end.get(at, self.objects.target[at])


class Remote(_Held):
    """A node of ours and its client, checksums included."""

    def __init__(self, case: Case, address: str) -> None:
        super().__init__(case, "node", address)
        self._pool = RemotePool([NodeAddress("bench", self.address)], timeout_s=_WAIT_S)

    def put(self, numbers: range) -> None:
        if self._pool.put(self.objects.blocks(numbers)) != len(numbers):
            raise BenchError("a block was not stored")

    def get(self, numbers: range) -> None:
        keys = [self.objects.keys[at] for at in numbers]
        if self._pool.get_into(keys, [self.objects.target[at] for at in numbers]) != len(keys):
            raise BenchError("a block did not come")

    def close(self) -> None:
        self._pool.close()
        super().close()


class Hash:
    """Keys of a prompt of a million tokens, from an array of uint32."""

    system = "starloom"

    def __init__(self) -> None:
        self._tokens = (np.arange(TOKENS, dtype=np.uint32) * 7919) % 128_000
        self._root = root_key(fingerprint="bench", block_tokens=CHUNK_TOKENS, salt="")

    def round(self) -> Round:
        began = time.perf_counter()
        block_keys(self._root, self._tokens, CHUNK_TOKENS)
        return Round((), [time.perf_counter() - began], 1)

    def of_list_ms(self) -> float:
        """The same from a list of Python's numbers."""
        numbers, taken = self._tokens.tolist(), []
        for _ in range(5):
            began = time.perf_counter()
            block_keys(self._root, numbers, CHUNK_TOKENS)
            taken.append((time.perf_counter() - began) * 1e3)
        return statistics.median(taken)

    def pids(self) -> Sequence[int]:
        return ()

    def close(self) -> None:
        """Nothing to give back."""


class Fio:
    """fio with O_DIRECT and io_uring: what the disk does at this size and depth."""

    system = "fio"

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self._file = folder / "fio"
        self.cpu_s = 0.0
        """fio reports its own."""

    def round(self) -> Round:
        return Round([self._run("write")], [self._run("read")], 2 * self.case.count)

    def pids(self) -> Sequence[int]:
        return ()

    def close(self) -> None:
        self._file.unlink(missing_ok=True)

    def _run(self, way: str) -> float:
        case = self.case
        command = ["fio", "--name=bench", f"--filename={self._file}", f"--rw={way}", "--direct=1"]
        command += [f"--bs={case.size}", f"--size={case.size * case.count}", "--ioengine=io_uring"]
        command += [f"--iodepth={min(case.batch, 64)}", "--loops=2", "--output-format=json"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise BenchError(f"fio: {ran.stderr.strip() or ran.stdout.strip()}")
        job = json.loads(ran.stdout[ran.stdout.index("{") :])["jobs"][0]
        self.cpu_s += (job["usr_cpu"] + job["sys_cpu"]) / 100 * job[way]["runtime"] / 1e3
        seconds: float = case.size / job[way]["bw_bytes"]
        return seconds


class Peer:
    """A peer in its own environment: `kv_peers.py` answers each line with a round."""

    def __init__(
        self, system: str, python: Path, case: Case, way: str, folder: Path, **asked: Any
    ) -> None:
        """`asked` goes to the peer; `pids` in it are processes that work for it."""
        self.system, self.case = system, case
        self._others = asked.pop("pids", [])
        asked = {"size": case.size, "count": case.count, "batch": case.batch, **asked}
        self._said = folder / f"{system}.log"
        with self._said.open("ab") as log:
            self.process = subprocess.Popen(
                [str(python), "-P", str(_SCRIPT), system, way, json.dumps(asked)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "LMCACHE_TRACK_USAGE": "false"},
            )

    def ready(self) -> None:
        """Wait until the case is prepared."""
        self._answer()

    def round(self) -> Round:
        if self.process.stdin is not None:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        found = self._answer()
        calls = len(found["put_s"]) + len(found["get_s"])
        return Round(found["put_s"], found["get_s"], calls * self.case.batch)

    def pids(self) -> Sequence[int]:
        return [*family(self.process.pid), *self._others]

    def close(self) -> None:
        below = family(self.process.pid)
        self.process.kill()
        self.process.communicate()
        for pid in below[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.process.wait()
            why = self._said.read_text(errors="replace").strip().splitlines()[-1:] or ["it ended"]
            raise BenchError(f"{self.system}: {why[0][:300]}")
        found: dict[str, Any] = json.loads(line)
        return found
