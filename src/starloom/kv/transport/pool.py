"""A `Pool` whose blocks lie where only a transport reaches: a file, another process' memory.

The index is ours (`starloom.kv.store`), in this process; a put writes blocks to their slots, a get
reads them into memory of its own. What a transfer breaks is forgotten. One process uses the remote
region: nothing there says what is in it.
"""

import threading
from collections.abc import Sequence

from typing_extensions import Buffer
from xxhash import xxh3_64_intdigest

from starloom.kv.arena import private
from starloom.kv.base import Lease, PoolStat
from starloom.kv.errors import PoolUnavailable
from starloom.kv.layout import Block, Layout, SlotClass
from starloom.kv.local import flat
from starloom.kv.policies import Lru, NewPolicy
from starloom.kv.protocol import check_keys
from starloom.kv.store import Store
from starloom.kv.transport.base import Op, Region, Span, Transport, wait
from starloom.kv.transport.copies import Copies
from starloom.kv.transport.errors import TransferFailed

_PAGE_BYTES = 4096


class TransportPool:
    """Thread-safe: calls run one after the other."""

    def __init__(
        self,
        transport: Transport,
        remote: Region,
        classes: Sequence[SlotClass],
        *,
        timeout_s: float = 5.0,
        policy: NewPolicy = Lru,
    ) -> None:
        """Raises ValueError where the region is smaller than the slots; see `needed_bytes`."""
        self._layout = Layout(_whole_pages(classes))
        if remote.size < self._layout.total_bytes:
            raise ValueError(
                f"the remote region has {remote.size} bytes, the slots take "
                f"{self._layout.total_bytes}"
            )
        self._transport, self._remote, self._timeout_s = transport, remote, timeout_s
        self._store = Store(self._layout, policy)
        self._owner = self._store.open()
        self._sums: dict[int, tuple[int, int]] = {}
        """Of each slot, the generation and the checksum of what was written there."""
        self._stuck: list[Region] = []
        self._lock = threading.Lock()
        self._closed = False

    @staticmethod
    def needed_bytes(classes: Sequence[SlotClass]) -> int:
        """How large the remote region must be."""
        return Layout(_whole_pages(classes)).total_bytes

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        check_keys(keys)
        with self._lock:
            self._check_open()
            return self._store.longest_prefix(keys)

    def get(self, keys: Sequence[bytes]) -> Lease:
        """Copies of the longest held prefix, up to the first block that did not come right."""
        check_keys(keys)
        with self._lock:
            self._check_open()
            lease, blocks = self._store.pin(self._owner, keys)
            if not blocks:
                return Copies([])
            try:
                views = self._read(blocks)
            except (TransferFailed, TimeoutError) as error:
                raise PoolUnavailable(f"blocks could not be read: {error}") from error
            finally:
                self._store.unpin(self._owner, lease)
        return Copies(views)

    def put(self, blocks: Sequence[tuple[bytes, Buffer]]) -> int:
        data = [flat(block) for _, block in blocks]
        wants = [(key, len(each)) for (key, _), each in zip(blocks, data, strict=True)]
        check_keys([key for key, _ in wants])
        with self._lock:
            self._check_open()
            taken = self._store.reserve(self._owner, wants, sum(map(len, data)))
            try:
                self._write([(block, data[position]) for position, block in taken])
                for _, block in taken:
                    self._store.publish(self._owner, block.slot)
            except (TransferFailed, TimeoutError) as error:
                raise PoolUnavailable(f"blocks could not be written: {error}") from error
            finally:
                self._store.finish(self._owner)
        return len(taken)

    def stat(self) -> PoolStat:
        with self._lock:
            self._check_open()
            return self._store.stat()

    def close(self) -> None:
        """Forget all blocks. The transport and the region are their owner's."""
        with self._lock:
            self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise PoolUnavailable("the pool is closed")

    def _read(self, blocks: Sequence[Block]) -> list[memoryview]:
        staged, spans = self._staged([block.length for block in blocks])
        self._move(Op.READ, staged, spans, blocks)
        views = []
        for block, span in zip(blocks, spans, strict=True):
            view = span.data[: block.length]
            if self._sums.get(block.slot) != (block.generation, xxh3_64_intdigest(view)):
                break
            views.append(view.toreadonly())
        return views

    def _write(self, blocks: Sequence[tuple[Block, memoryview]]) -> None:
        if not blocks:
            return
        staged, spans = self._staged([len(data) for _, data in blocks])
        for (block, data), span in zip(blocks, spans, strict=True):
            span.data[: len(data)] = data
            self._sums[block.slot] = (block.generation, xxh3_64_intdigest(data))
        self._move(Op.WRITE, staged, spans, [block for block, _ in blocks])

    def _staged(self, lengths: Sequence[int]) -> tuple[Region, list[Span]]:
        """Registered memory with a span of whole pages for each length, as files want it."""
        sizes = [_round_up(length) for length in lengths]
        region = self._transport.register(memoryview(private(max(sum(sizes), _PAGE_BYTES))))
        starts = [sum(sizes[:at]) for at in range(len(sizes))]
        spans = [region.span(start, size) for start, size in zip(starts, sizes, strict=True)]
        return region, spans

    def _move(self, op: Op, staged: Region, spans: Sequence[Span], blocks: Sequence[Block]) -> None:
        there = []
        for span, block in zip(spans, blocks, strict=True):
            start = self._layout.span(block.slot, block.length).start
            there.append(self._remote.span(start, span.length))
        moving = [pair for pair in zip(spans, there, strict=True) if pair[0].length]
        try:
            if moving:
                here, far = zip(*moving, strict=True)
                wait(self._transport.start(op, here, far), self._timeout_s)
        except TimeoutError:
            self._stuck.append(staged)  # bytes may still come to it, or go from it
            raise
        except TransferFailed:
            self._transport.deregister(staged)
            raise
        self._transport.deregister(staged)


def _round_up(length: int) -> int:
    return -(-length // _PAGE_BYTES) * _PAGE_BYTES


def _whole_pages(classes: Sequence[SlotClass]) -> list[SlotClass]:
    return [SlotClass(_round_up(size), slots) for size, slots in classes]
