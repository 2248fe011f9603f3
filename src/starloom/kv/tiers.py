"""The pool's memory over its SSD and over remote nodes: what moves between them, and when.

Down: while a slot class is full, the blocks that its policy gives up next are written ahead of
their eviction, straight from their slots. A block whose turn comes before it is written is dropped
and counted. Up: a `get` that goes on where memory ends has its blocks read into reserved slots; it
is answered when they are there, or with what there is when `wait_s` are over (the rest arrives
behind the answer).

Out: what a worker puts goes on to the nodes behind its back (`kv.remote`). In: where memory and
disk end, the nodes are asked for the rest of the prefix, and it comes in like blocks from disk. So
a host fetches a block once, into memory that its workers share, and a worker waits for the network
in a `get` only, no longer than it would for the disk.

All calls come one after the other: from the pool's one thread, or under a node's lock. I/O threads
only leave word of what has ended (`fd` becomes readable), and `tend` acts on it.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec

from starloom.kv.arena import Arena
from starloom.kv.base import PoolStat
from starloom.kv.errors import BlockTooLarge
from starloom.kv.ssd.tier import SsdTier
from starloom.kv.store import Store

WAIT_S = 0.15
FETCH_BYTES = 256 << 20
"""One get reads no more than this from disk, and from nodes."""
WRITING = 8
"""Blocks on their way down at one time."""
AHEAD_SHARE, AHEAD_MOST = 8, 256
"""Written ahead of eviction: an eighth of a class, but not more blocks than this."""
LEAVING_MOST = 65536
"""Blocks that wait to go to nodes. More are dropped and counted."""
BATCH_BYTES, BATCH_BLOCKS = 32 << 20, 256
BATCHES = 2
"""On their way to nodes at one time, pinned meanwhile."""


class Afar(Protocol):
    """Remote nodes as `Tiers` uses them.

    Each call returns at once, False when it is refused; what it was given is in use until its
    callback is called, from any thread.
    """

    def submit_lookup(self, keys: Sequence[bytes], done: Callable[[list[int]], None]) -> bool:
        """`done` is told the lengths of the leading blocks that nodes hold."""

    def submit_get(
        self,
        keys: Sequence[bytes],
        targets: Sequence[memoryview],
        each: Callable[[int], None],
        done: Callable[[], None],
    ) -> bool:
        """`each` is told of every block that is whole."""

    def submit_put(
        self, blocks: Sequence[tuple[bytes, memoryview]], done: Callable[[int | None], None]
    ) -> bool:
        """`done` is told how many are new there; None when no node could be asked."""

    def nodes_up(self) -> tuple[int, int]:
        """How many nodes are up, of how many."""

    def healthy(self) -> bool:
        """Whether everything that should move blocks is there; what nodes do is not asked."""

    def close(self) -> bool:
        """End; False when I/O does not."""


@dataclass(slots=True, eq=False)
class Fetch:
    """Blocks on their way up; `over` when all have come or failed."""

    deadline_s: float
    pending: int = 0

    @property
    def over(self) -> bool:
        return not self.pending


@dataclass(slots=True, eq=False)
class _Load:
    """Reserved slots that a fetch fills from one tier; given back when no more comes."""

    fetch: Fetch
    owner: int
    pending: int = 0
    keys: list[bytes] = field(default_factory=list)


class Tiers:
    """Moves blocks between a store's slots, an SSD tier and nodes."""

    def __init__(
        self,
        store: Store,
        arena: Arena,
        ssd: SsdTier | None = None,
        *,
        afar: Afar | None = None,
        wait_s: float = WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._arena, self._ssd, self._afar = store, arena, ssd, afar
        self._wait_s = wait_s
        self._clock = clock
        self._owner = store.open()
        self._fetches: dict[bytes, Fetch] = {}
        """Which fetch brings a block."""
        self._owners = 1
        self._ended: deque[Callable[[], None]] = deque()
        self._writing = self._seen = 0
        self._promoted = self._demoted = self._dropped = 0
        self._leaving: deque[bytes] = deque()
        self._batches = 0
        self._fetched = self._sent = self._unsent = 0
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when there is something for `tend`."""
        store.on_evict = self._evicted

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        """How many leading keys this host holds, above or below. Changes nothing."""
        return len(self.lengths(keys))

    def lengths(self, keys: Sequence[bytes]) -> list[int]:
        """Bytes of each of them."""
        found = self._store.lengths(keys)
        for key in keys[len(found) :]:
            length = self._length(key)
            if length is None:
                break
            found.append(length)
        return found

    def below(self, key: bytes) -> bool:
        """Whether the block is on disk."""
        return self._ssd is not None and key in self._ssd

    def fetch(self, keys: Sequence[bytes]) -> Fetch | None:
        """Begin to bring up what a `get` of these keys finds beyond memory; None for nothing.

        Blocks that another fetch brings already are waited for, not read twice.
        """
        above = self._store.longest_prefix(keys)
        if above == len(keys):
            return None
        if keys[above] in self._fetches:
            return self._fetches[keys[above]]
        fetch = Fetch(self._clock() + self._wait_s)
        held = self._from_disk(fetch, keys, above)
        if self._afar is not None and held < len(keys):
            other = self._fetches.get(keys[held])
            if other is None:
                self._look_afar(fetch, keys[: self._arena.layout.slots], held)
            elif fetch.over:
                return other
        return None if fetch.over else fetch

    def stored(self, keys: Sequence[bytes]) -> None:
        """Blocks that a worker has put, in prefix order: they go on to the nodes."""
        if self._afar is None:
            return
        room = LEAVING_MOST - len(self._leaving)
        self._leaving.extend(keys[:room])
        self._unsent += max(0, len(keys) - room)
        self._send_on()

    def tend(self) -> None:
        """Act on the I/O that has ended, then write ahead of eviction what should be."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        acted = bool(self._ended)
        while self._ended:
            self._ended.popleft()()
        changed = self._store.changes != self._seen
        if acted or changed:
            self._seen = self._store.changes
            for index in range(len(self._arena.layout.classes)):
                self._write_ahead(index)
        self._send_on()

    def stat(self) -> PoolStat:
        """The store's counters and the tiers'."""
        above = self._store.stat()
        stat = msgspec.structs.replace(
            above,
            connections=above.connections - self._owners,
            put_blocks=above.put_blocks - self._promoted - self._fetched,
        )
        if self._ssd is not None:
            below = self._ssd.stat()
            stat = msgspec.structs.replace(
                stat,
                ssd_slots=below.slots,
                ssd_blocks=below.blocks,
                ssd_hit_blocks=self._promoted,
                demoted_blocks=self._demoted,
                dropped_blocks=self._dropped,
                ssd_evicted_blocks=below.evicted_blocks,
                ssd_bad_blocks=below.bad_blocks,
                ssd_errors=below.errors,
                ssd_healthy=below.healthy,
            )
        if self._afar is not None:
            up, nodes = self._afar.nodes_up()
            stat = msgspec.structs.replace(
                stat,
                nodes=nodes,
                nodes_up=up,
                remote_healthy=self._afar.healthy(),
                remote_hit_blocks=self._fetched,
                remote_put_blocks=self._sent,
                remote_dropped_blocks=self._unsent,
            )
        return stat

    def close(self) -> None:
        """End the tiers; I/O that does not end keeps what it uses."""
        self._store.on_evict = None
        ended = [tier.close() for tier in (self._afar, self._ssd) if tier is not None]
        if all(ended):
            os.close(self.fd)

    def _length(self, key: bytes) -> int | None:
        """A block's bytes, wherever on this host it is."""
        lengths = self._store.lengths([key])
        if not lengths and self._ssd is not None:
            lengths = self._ssd.lengths([key])
        return lengths[0] if lengths else None

    def _from_disk(self, fetch: Fetch, keys: Sequence[bytes], above: int) -> int:
        """Begin to read what goes on below; how many leading keys this host holds."""
        wants = [(key, 0) for key in keys[:above]]
        for key in keys[above : self._arena.layout.slots]:
            length = self._length(key)
            if length is None:
                break
            wants.append((key, length))
        if len(wants) > above and self._ssd is not None:
            load = _Load(fetch, self._open())
            for key, slot, target in self._reserve(load, wants):
                ended = partial(self._from_disk_came, load, key, slot)
                if not self._ssd.submit_get(key, target, partial(self._tell_ok, ended)):
                    break
                load.pending += 1
            self._ended_if_idle(load)
        return len(wants)

    def _from_disk_came(self, load: _Load, key: bytes, slot: int, ok: bool) -> None:
        if ok:
            self._store.publish(load.owner, slot)
            self._promoted += 1
        self._fetches.pop(key, None)
        load.pending -= 1
        self._ended_if_idle(load)

    def _look_afar(self, fetch: Fetch, keys: Sequence[bytes], held: int) -> None:
        """Ask the nodes for what comes after the first `held` keys."""
        if self._afar is None or held >= len(keys):
            return
        found = partial(self._found_afar, fetch, keys, held)
        if self._afar.submit_lookup(keys[held:], lambda it: self._tell(partial(found, it))):
            fetch.pending += 1
            self._fetches[keys[held]] = fetch

    def _found_afar(
        self, fetch: Fetch, keys: Sequence[bytes], held: int, lengths: Sequence[int]
    ) -> None:
        self._fetches.pop(keys[held], None)
        if lengths and self._afar is not None:
            wants = [(key, 0) for key in keys[:held]]
            wants += zip(keys[held:], lengths, strict=False)
            load = _Load(fetch, self._open())
            taken = self._reserve(load, wants)
            each = partial(self._from_afar_came, load, [slot for _, slot, _ in taken])
            if taken and self._afar.submit_get(
                [key for key, _, _ in taken],
                [target for _, _, target in taken],
                lambda at: self._tell(partial(each, at)),
                lambda: self._tell(partial(self._from_afar_ended, load)),
            ):
                load.pending = 1
            self._ended_if_idle(load)
        fetch.pending -= 1

    def _from_afar_came(self, load: _Load, slots: Sequence[int], at: int) -> None:
        self._store.publish(load.owner, slots[at])
        self._fetched += 1

    def _from_afar_ended(self, load: _Load) -> None:
        load.pending = 0
        self._ended_if_idle(load)

    def _open(self) -> int:
        self._owners += 1
        return self._store.open()

    def _reserve(
        self, load: _Load, wants: Sequence[tuple[bytes, int]]
    ) -> list[tuple[bytes, int, memoryview]]:
        """Key, slot and place of each block that a load is to bring."""
        load.fetch.pending += 1
        try:
            taken = self._store.reserve(load.owner, wants, FETCH_BYTES)
        except BlockTooLarge:  # written when the site had larger slots
            taken = []
        load.keys = [wants[position][0] for position, _ in taken]
        self._fetches.update(dict.fromkeys(load.keys, load.fetch))
        return [
            (key, block.slot, self._arena.claim(block))
            for key, (_, block) in zip(load.keys, taken, strict=True)
        ]

    def _ended_if_idle(self, load: _Load) -> None:
        """Give back what did not come, once nothing more will."""
        if not load.pending:
            self._store.drop(load.owner)
            self._owners -= 1
            load.fetch.pending -= 1
            for key in load.keys:
                if self._fetches.get(key) is load.fetch:
                    del self._fetches[key]

    def _write_ahead(self, index: int) -> None:
        if self._ssd is None:
            return
        slots = self._arena.layout.classes[index].slots
        ahead = min(AHEAD_MOST, max(1, slots // AHEAD_SHARE))
        while self._writing < WRITING and self._store.free(index) < ahead:
            key = self._store.coldest(index, self._ssd.busy, ahead - self._store.free(index))
            if key is None:
                return
            lease, block = self._store.hold(self._owner, key)
            ended = partial(self._tell_ok, partial(self._written, lease))
            if not self._ssd.submit_put(key, self._arena.view(block), ended):
                self._store.unpin(self._owner, lease)
                return
            self._writing += 1

    def _written(self, lease: int, ok: bool) -> None:
        self._store.unpin(self._owner, lease)
        self._writing -= 1
        self._demoted += ok

    def _send_on(self) -> None:
        """Give the nodes' threads the next blocks that have been put, pinned in their slots."""
        while self._afar is not None and self._leaving and self._batches < BATCHES:
            blocks: list[tuple[bytes, memoryview]] = []
            leases: list[int] = []
            most = min(BATCH_BLOCKS, max(1, self._arena.layout.slots // AHEAD_SHARE))
            size = 0
            while self._leaving and len(blocks) < most and size < BATCH_BYTES:
                key = self._leaving.popleft()
                if not self._store.longest_prefix([key]):
                    self._unsent += 1  # evicted meanwhile
                    continue
                lease, block = self._store.hold(self._owner, key)
                leases.append(lease)
                blocks.append((key, self._arena.view(block)))
                size += block.length
            if not blocks:
                return
            self._batches += 1
            sent = partial(self._sent_on, leases)
            if not self._afar.submit_put(blocks, partial(self._tell_count, sent)):
                self._sent_on(leases, None)

    def _sent_on(self, leases: Sequence[int], stored: int | None) -> None:
        for lease in leases:
            self._store.unpin(self._owner, lease)
        self._batches -= 1
        if stored is None:
            self._unsent += len(leases)
        else:
            self._sent += stored

    def _evicted(self, key: bytes) -> None:
        if self._ssd is not None and key not in self._ssd:
            self._dropped += 1

    def _tell(self, ended: Callable[[], None]) -> None:
        """In an I/O thread: leave word."""
        self._ended.append(ended)
        os.eventfd_write(self.fd, 1)

    def _tell_ok(self, ended: Callable[[bool], None], ok: bool) -> None:
        self._tell(partial(ended, ok))

    def _tell_count(self, ended: Callable[[int | None], None], count: int | None) -> None:
        self._tell(partial(ended, count))
