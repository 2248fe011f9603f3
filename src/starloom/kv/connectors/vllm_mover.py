"""The workers' half of the connector: layers move while other layers are computed.

A block of ours is its layers one behind the other, each with vLLM's blocks in order. One thread
loads, layer by layer over all requests of a step, so that the model may begin with layer 0 while
layer 1 is on its way; one stores what has been copied out of vLLM's memory.
"""

import logging
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, Protocol

from blake3 import blake3

from starloom.kv.base import Lease, Pool
from starloom.kv.connectors.vllm_shapes import Span
from starloom.kv.errors import KvError

MOST_SAVE_BYTES = 2 << 30
"""What may wait to be stored; more is dropped and counted: a save is worth less than a stall."""
_log = logging.getLogger("starloom.kv.connectors")


class Layers(Protocol):
    """How bytes of a layer's blocks get out and in; see `tensors`."""

    def read_blocks(
        self, layer: Any, blocks: int, block_ids: Sequence[int], target: memoryview
    ) -> None: ...

    def write_blocks(
        self, layer: Any, blocks: int, block_ids: Sequence[int], source: memoryview
    ) -> None: ...

    def block_bytes(self, layer: Any, blocks: int) -> int: ...


class Mover:
    """Moves spans between the pool and one worker's layers."""

    def __init__(
        self, pool: Pool, layers: Layers, rank: int, per_block: int, timeout_s: float
    ) -> None:
        """`per_block`: vLLM's blocks in one of ours."""
        self._pool, self._tensors, self._rank = pool, layers, rank
        self._per, self._timeout_s = per_block, timeout_s
        self._layers: dict[str, Any] = {}
        self._blocks = 0
        self._offsets: dict[str, tuple[int, int]] = {}
        """Of each layer in a block of ours: where, and bytes of one of vLLM's blocks."""
        self._size = 0
        self._here: dict[str, threading.Event] = {}
        self._failed: set[int] = set()
        self._lock = threading.Lock()
        self._staged: list[tuple[Span, memoryview]] = []
        self._saves: SimpleQueue[list[tuple[bytes, memoryview]] | None] = SimpleQueue()
        self._waiting_bytes = 0
        self.dropped_blocks = 0
        self._loader: threading.Thread | None = None
        self._storer = threading.Thread(target=self._store, name="starloom-save", daemon=True)
        self._storer.start()

    def register(self, layers: dict[str, Any], blocks: int) -> None:
        """The worker's layers, in the order in which they are computed. Raises ValueError."""
        self._layers, self._blocks = dict(layers), blocks
        self._offsets, self._size = {}, 0
        for name, layer in layers.items():
            one = self._tensors.block_bytes(layer, blocks)
            self._offsets[name] = (self._size, one)
            self._size += one * self._per

    def start_loads(self, spans: Sequence[Span]) -> None:
        """Begin to fill vLLM's blocks, layer by layer."""
        if self._loader is not None:
            self._loader.join()  # over, unless nobody waited for its last layer
            self._loader = None
        if not spans:
            self._here = {}
            return
        self._here = {name: threading.Event() for name in self._layers}
        self._loader = threading.Thread(
            target=self._load, args=(list(spans), self._here), name="starloom-load", daemon=True
        )
        self._loader.start()

    def wait_for_layer(self, name: str) -> None:
        """Until a layer has come or is known to fail: the pool's calls end in their time limit."""
        event = self._here.get(name)
        if event is not None:
            event.wait()

    def stage(self, spans: Sequence[Span], name: str, layer: Any) -> None:
        """Copy a layer of what is to be saved; the first layer of a step makes room."""
        if name not in self._offsets:
            return
        if name == next(iter(self._offsets)):
            self._staged = []
            for span in spans:
                size = self._size * len(span.keys)
                with self._lock:
                    if self._waiting_bytes + size > MOST_SAVE_BYTES:
                        self.dropped_blocks += len(span.keys)
                        continue
                    self._waiting_bytes += size
                self._staged.append((span, memoryview(bytearray(size))))
        at, one = self._offsets[name]
        length = one * self._per
        for span, memory in self._staged:
            for number in range(len(span.keys)):
                ids = span.block_ids[number * self._per : (number + 1) * self._per]
                start = number * self._size + at
                self._tensors.read_blocks(layer, self._blocks, ids, memory[start : start + length])

    def save(self) -> None:
        """Hand what has been staged to the storing thread. Does not wait for the pool."""
        staged, self._staged = self._staged, []
        blocks = [
            (self._key(key), memory[number * self._size : (number + 1) * self._size])
            for span, memory in staged
            for number, key in enumerate(span.keys)
        ]
        if blocks:
            self._saves.put(blocks)

    def take_failed(self) -> set[int]:
        """Blocks of vLLM's that did not come, since the last call: it computes them again."""
        with self._lock:
            failed, self._failed = self._failed, set()
        return failed

    def close(self) -> None:
        """Store what waits, then end."""
        if self._loader is not None:
            self._loader.join(self._timeout_s)
        self._saves.put(None)
        self._storer.join(2 * self._timeout_s)
        self._pool.close()

    def _key(self, key: bytes) -> bytes:
        return rank_key(key, self._rank)

    def _load(self, spans: list[Span], here: dict[str, threading.Event]) -> None:
        leases: list[Lease | None] = []
        try:
            leases.extend(self._get(span) for span in spans)  # each is kept as soon as it is had
            for name, layer in self._layers.items():
                for span, lease in zip(spans, leases, strict=True):
                    if lease is not None:
                        self._fill(span, lease, name, layer)
                if name == next(reversed(self._layers)):
                    self._check(spans, leases)
                here[name].set()
        finally:
            for lease in leases:
                if lease is not None:
                    lease.release()
            if not all(event.is_set() for event in here.values()):  # it died: nothing is certain
                for span in spans:
                    self._fail(span.block_ids)
                for event in here.values():
                    event.set()

    def _get(self, span: Span) -> Lease | None:
        """The blocks of a span; those that are missing or of another size count as failed."""
        try:
            lease = self._pool.get([self._key(key) for key in span.keys])
        except KvError as error:
            _log.warning("a load is a miss: %s", error)
            self._fail(span.block_ids)
            return None
        good = next(
            (at for at, view in enumerate(lease.views) if len(view) != self._size),
            len(lease.views),
        )
        self._fail(span.block_ids[max(0, good * self._per - span.first) :])
        return lease

    def _fill(self, span: Span, lease: Lease, name: str, layer: Any) -> None:
        at, one = self._offsets[name]
        skip, rest = span.first, list(span.block_ids)
        for view in lease.views:
            if len(view) != self._size or not rest:
                return
            ids, rest = rest[: self._per - skip], rest[self._per - skip :]
            start = at + skip * one
            source = view[start : start + len(ids) * one]
            self._tensors.write_blocks(layer, self._blocks, ids, source)
            skip = 0

    def _check(self, spans: Sequence[Span], leases: Sequence[Lease | None]) -> None:
        """After the last copy: a lease that was lost meanwhile makes its blocks worthless."""
        for span, lease in zip(spans, leases, strict=True):
            if lease is not None and not lease.valid():
                self._fail(span.block_ids)

    def _fail(self, block_ids: Sequence[int]) -> None:
        with self._lock:
            self._failed.update(block_ids)

    def _store(self) -> None:
        while (blocks := self._saves.get()) is not None:
            try:
                self._pool.put(blocks)
            except KvError as error:
                _log.warning("a save was dropped: %s", error)
                self.dropped_blocks += len(blocks)
            with self._lock:
                self._waiting_bytes -= sum(len(data) for _, data in blocks)


def rank_key(key: bytes, rank: int) -> bytes:
    """The key of one worker's part of a block."""
    return blake3(b"rank %d" % rank, key=key).digest()
