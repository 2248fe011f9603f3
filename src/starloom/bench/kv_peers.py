"""Peers of `bench kv`, each run in its own environment: `PYTHON kv_peers.py PEER CASE JSON`.

Stands alone: it imports nothing of starloom. It prepares the case and prints `{"ready": ...}`. Then
each line on its standard input is a round: put all objects, get them all, check what came, and
print `{"put_s": [...], "get_s": [...]}`: seconds an object, one figure a batch. It ends with its
input. JSON: `size` bytes an object, `count` objects, `batch` of them a call, folders and ports.
"""

import ctypes
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Measured = Iterator[dict[str, Any]]
PAGE_BYTES = 4096


class Area:
    """Page-aligned memory, all pages in place, full of bytes that differ from slot to slot."""

    def __init__(self, size: int, count: int) -> None:
        self.size, self.count = size, count
        self._map = mmap.mmap(-1, size * count)
        self.data = memoryview(self._map)
        unit = os.urandom(min(size, 1 << 20))
        for at in range(count):
            for start in range(0, size, len(unit)):
                self.data[at * size + start : at * size + start + len(unit)] = unit
            self.data[at * size : at * size + 8] = at.to_bytes(8, "big")
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def at(self, number: int) -> int:
        """The address of a slot."""
        return self.address + number * self.size

    def wipe(self) -> None:
        """So that what is read next is not what was read before."""
        for at in range(self.count):
            self.data[at * self.size : at * self.size + 8] = bytes(8)

    def check(self) -> None:
        """Each slot begins with its number."""
        for at in range(self.count):
            found = int.from_bytes(self.data[at * self.size : at * self.size + 8], "big")
            if found != at:
                raise SystemExit(f"slot {at} came back as {found}")


def batches(asked: dict[str, Any]) -> list[range]:
    """Numbers of the objects of each call."""
    step, count = asked["batch"], asked["count"]
    return [range(start, min(start + step, count)) for start in range(0, count, step)]


def timed(calls: list[range], do: Callable[[range], object]) -> list[float]:
    """Seconds an object, for each call."""
    taken = []
    for numbers in calls:
        began = time.perf_counter()
        do(numbers)
        taken.append((time.perf_counter() - began) / len(numbers))
    return taken


def lmcache_dram(asked: dict[str, Any]) -> Measured:
    """LMCache's L1Manager: reserve, copy, finish, in this process."""
    import torch
    from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
    from lmcache.v1.distributed.config import L1ManagerConfig, L1MemoryManagerConfig
    from lmcache.v1.distributed.l1_manager import L1Manager

    size, count = asked["size"], asked["count"]
    memory = L1MemoryManagerConfig((count + 1) * size + (64 << 20), use_lazy=False, shm_name="")
    manager = L1Manager(L1ManagerConfig(memory))
    layout = MemoryLayoutDesc(shapes=[torch.Size([size])], dtypes=[torch.uint8])
    source, target = Area(size, count), Area(size, count)
    keys = [ObjectKey(at.to_bytes(32, "big"), "m", 0) for at in range(count)]

    def put(numbers: range) -> None:
        some = [keys[at] for at in numbers]
        found = manager.reserve_write(some, [False] * len(some), layout)
        for at in numbers:
            ctypes.memmove(found[keys[at]][1].raw_data.data_ptr(), source.at(at), size)
        manager.finish_write(some)

    def get(numbers: range) -> None:
        some = [keys[at] for at in numbers]
        found = manager.reserve_read(some)
        for at in numbers:
            ctypes.memmove(target.at(at), found[keys[at]][1].raw_data.data_ptr(), size)
        manager.finish_read(some)

    def look(numbers: range) -> None:
        some = [keys[at] for at in numbers]
        found = manager.reserve_read(some)
        if sum(one[1] is not None for one in found.values()) != len(some):
            raise SystemExit("a block is missing")
        manager.finish_read(some)

    put(range(count))
    manager.delete(keys)  # each page has been touched
    yield {"ready": True}
    while True:
        target.wipe()
        put_s = timed(batches(asked), put)
        if asked["view"]:
            get_s = [one for _ in range(200) for one in timed(batches(asked), look)]
        else:
            get_s = timed(batches(asked), get)
            target.check()
        manager.delete(keys)
        yield {"put_s": put_s, "get_s": get_s}


def lmcache_l2(asked: dict[str, Any]) -> Measured:
    """One of LMCache's L2 adapters, driven as its own `bench l2` drives it."""
    import argparse

    from lmcache.cli.commands.bench.l2_adapter_bench import data, runner
    from lmcache.v1.distributed.l2_adapters import create_l2_adapter
    from lmcache.v1.distributed.l2_adapters.config import parse_args_to_l2_adapters_config

    size, count = asked["size"], asked["count"]
    spec = argparse.Namespace(l2_adapter=[json.dumps(asked["adapter"])])
    buffer = data.make_aligned_tensor(2 * size * count, PAGE_BYTES)
    adapter = create_l2_adapter(
        parse_args_to_l2_adapters_config(spec).adapters[0],
        l1_memory_desc=data.create_l1_memory_desc(buffer, align_bytes=PAGE_BYTES),
    )
    sources = data.make_memory_objects(buffer, count, size, 0)
    targets = data.make_memory_objects(buffer, count, size, size * count, fill_offset=1)
    turn = 0

    def put(numbers: range) -> None:
        some, objects = [keys[n] for n in numbers], [sources[n] for n in numbers]
        task = adapter.submit_store_task(some, objects)
        ended = runner._wait_store_finished(adapter, [task], 120.0)  # noqa: SLF001  as its bench
        if task not in ended or not ended[task].is_successful():
            raise SystemExit("a store failed")

    def get(numbers: range) -> None:
        some, objects = [keys[n] for n in numbers], [targets[n] for n in numbers]
        task = adapter.submit_load_task(some, objects)
        ended = runner._wait_load_finished(adapter, [task], 120.0)  # noqa: SLF001
        if task not in ended or ended[task].popcount() != len(numbers):
            raise SystemExit("a load failed")

    yield {"ready": True}
    while True:
        # New names each time, for it does not write what it has; old files go outside the time.
        for old in Path(asked["adapter"].get("base_path", "/nowhere")).rglob("*"):
            if old.is_file():
                old.unlink()
        keys = data.make_object_keys(count, key_offset=turn * count)
        turn += 1
        put_s, get_s = timed(batches(asked), put), timed(batches(asked), get)
        for number in range(count):
            if int(targets[number].raw_data[0]) != number & 0xFF:
                raise SystemExit(f"object {number} came back wrong")
            targets[number].raw_data[:1] = 255 - (number & 0xFF)
        yield {"put_s": put_s, "get_s": get_s}


def lmcache_hash(asked: dict[str, Any]) -> Measured:
    """LMCache's TokenHasher over a list of tokens."""
    from lmcache.v1.multiprocess.token_hasher import TokenHasher

    hasher = TokenHasher(chunk_size=asked["chunk"], hash_algorithm="blake3")
    tokens = [at * 7919 % 128_000 for at in range(asked["count"])]
    yield {"ready": True}
    while True:
        began = time.perf_counter()
        found = hasher.compute_chunk_hashes(tokens)
        taken = time.perf_counter() - began
        if len(found) != asked["count"] // asked["chunk"]:
            raise SystemExit(f"{len(found)} hashes")
        yield {"put_s": [], "get_s": [taken]}


def mooncake(asked: dict[str, Any]) -> Measured:
    """Mooncake's store over TCP, zero-copy calls; the memory is here or in another process."""
    from mooncake.store import MooncakeDistributedStore

    size, count = asked["size"], asked["count"]
    room = 2 * size * count + (64 << 20)
    master, metadata = f"127.0.0.1:{asked['master']}", f"http://127.0.0.1:{asked['http']}/metadata"

    def connect(port: int, segment: int) -> Any:
        store = MooncakeDistributedStore()
        place = f"127.0.0.1:{port}"
        failed = store.setup(place, metadata, segment, 256 << 20, "tcp", "", master)
        if failed:
            raise SystemExit(f"setup: {failed}")
        return store

    if asked.get("role") == "holder":
        holder = connect(asked["holder"], room)
        yield {"ready": True}
        while True:
            yield {"held": holder.get_hostname()}
    store = connect(asked["port"], 16 << 20 if asked["holder"] else room)
    source, target = Area(size, count), Area(size, count)
    for area in (source, target):
        if store.register_buffer(area.address, size * count):
            raise SystemExit("register_buffer failed")
    turn = 0

    def put(numbers: range) -> None:
        for at in numbers:
            failed = store.put_from(f"{turn}-{at}", source.at(at), size)
            if failed:
                raise SystemExit(f"put_from: {failed}")

    def get(numbers: range) -> None:
        for at in numbers:
            got = store.get_into(f"{turn}-{at}", target.at(at), size)
            if got != size:
                raise SystemExit(f"get_into: {got}")

    yield {"ready": True}
    while True:
        target.wipe()
        turn += 1
        put_s, get_s = timed(batches(asked), put), timed(batches(asked), get)
        target.check()
        for at in range(count):
            while store.remove(f"{turn}-{at}") == -706:  # its lease of a few seconds
                time.sleep(0.2)
        yield {"put_s": put_s, "get_s": get_s}


def nixl_file(asked: dict[str, Any]) -> Measured:
    """NIXL's POSIX plugin between registered memory and one preallocated file, O_DIRECT."""
    from nixl_cu12._api import nixl_agent, nixl_agent_config

    size, count = asked["size"], asked["count"]
    agent = nixl_agent("bench", nixl_agent_config(backends=[]))
    agent.create_backend("POSIX", {})
    fd = os.open(Path(asked["files"]) / "nixl", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    os.posix_fallocate(fd, 0, size * count)
    source, target = Area(size, count), Area(size, count)
    for area in (source, target):
        agent.register_memory([(area.address, size * count, 0, "")], "DRAM")
    agent.register_memory([(0, size * count, fd, "")], "FILE")

    def move(operation: str, area: Area, numbers: range) -> None:
        here = agent.get_xfer_descs([(area.at(at), size, 0) for at in numbers], "DRAM")
        there = agent.get_xfer_descs([(at * size, size, fd) for at in numbers], "FILE")
        _transfer(agent, agent.initialize_xfer(operation, here, there, "bench"))

    yield {"ready": True}
    while True:
        target.wipe()
        put_s = timed(batches(asked), lambda numbers: move("WRITE", source, numbers))
        get_s = timed(batches(asked), lambda numbers: move("READ", target, numbers))
        target.check()
        yield {"put_s": put_s, "get_s": get_s}


def nixl_remote(asked: dict[str, Any]) -> Measured:
    """NIXL's UCX plugin over TCP: one agent here, one in a process of its own."""
    os.environ["UCX_TLS"] = "tcp"
    os.environ["UCX_NET_DEVICES"] = "lo"
    from nixl_cu12._api import nixl_agent, nixl_agent_config

    size, count = asked["size"], asked["count"]
    name = asked.get("role", "client")
    agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
    if name == "holder":
        held = Area(size, count)
        agent.register_memory([(held.address, size * count, 0, "")], "DRAM")
        yield {"ready": True, "metadata": agent.get_agent_metadata().hex(), "at": held.address}
        while True:
            yield {}
    source, target = Area(size, count), Area(size, count)
    for area in (source, target):
        agent.register_memory([(area.address, size * count, 0, "")], "DRAM")
    command = [
        sys.executable,
        "-P",
        __file__,
        "nixl",
        "remote",
        json.dumps({**asked, "role": "holder"}),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        if holder.stdout is None:
            raise SystemExit("the holder has no output")
        for line in holder.stdout:
            if line.startswith("{"):
                break
        told = json.loads(line)
        agent.add_remote_agent(bytes.fromhex(told["metadata"]))

        def move(operation: str, area: Area, numbers: range) -> None:
            here = [(area.at(at), size, 0) for at in numbers]
            there = [(told["at"] + at * size, size, 0) for at in numbers]
            descs = [agent.get_xfer_descs(each, "DRAM") for each in (here, there)]
            _transfer(agent, agent.initialize_xfer(operation, *descs, "holder"))

        yield {"ready": True}
        while True:
            target.wipe()
            put_s = timed(batches(asked), lambda numbers: move("WRITE", source, numbers))
            get_s = timed(batches(asked), lambda numbers: move("READ", target, numbers))
            target.check()
            yield {"put_s": put_s, "get_s": get_s}


def _transfer(agent: Any, handle: Any) -> None:
    state = agent.transfer(handle)
    while state == "PROC":
        state = agent.check_xfer_state(handle)
    if state != "DONE":
        raise SystemExit(f"a transfer ended with {state}")
    agent.release_xfer_handle(handle)


def redis(asked: dict[str, Any]) -> Measured:
    """redis-server by its own Python client, one object a command."""
    import redis as client

    size, count = asked["size"], asked["count"]
    server = client.Redis(port=asked["port"])
    source, seen = Area(size, count), [b""] * count
    values = [bytes(source.data[at * size : (at + 1) * size]) for at in range(count)]

    def put(numbers: range) -> None:
        for at in numbers:
            server.set(f"k{at}", values[at])

    def get(numbers: range) -> None:
        for at in numbers:
            seen[at] = server.get(f"k{at}")

    yield {"ready": True}
    while True:
        put_s, get_s = timed(batches(asked), put), timed(batches(asked), get)
        for at in range(count):
            if seen[at][:8] != values[at][:8]:
                raise SystemExit(f"object {at} came back wrong")
            seen[at] = b""
        yield {"put_s": put_s, "get_s": get_s}


PEERS: dict[tuple[str, str], Callable[[dict[str, Any]], Measured]] = {
    ("lmcache", "dram"): lmcache_dram,
    ("lmcache", "l2"): lmcache_l2,
    ("lmcache", "hash"): lmcache_hash,
    ("mooncake", "store"): mooncake,
    ("nixl", "file"): nixl_file,
    ("nixl", "remote"): nixl_remote,
    ("redis", "remote"): redis,
}


def main() -> None:
    """Prepare, then a round for each line of input."""
    peer, case, asked = sys.argv[1:]
    rounds = PEERS[peer, case](json.loads(asked))
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the peer's own code prints is no answer
    out.write(json.dumps(next(rounds)) + "\n")
    for _ in sys.stdin:
        out.write(json.dumps(next(rounds)) + "\n")
    out.flush()
    os._exit(0)  # some peers hang in their destructors


if __name__ == "__main__":
    main()
