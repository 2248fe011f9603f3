"""Nodes as a `Pool`: every block placed by its own key, a get in one request a node.

For processes without a pool of the site beside them; those that have one leave the nodes to it
(`starloom.kv.remote.tier`), so that a host fetches a block once and its workers share it.

Each call ends within `timeout_s`. A node that fails, or is slow, or gone, is a miss for what lives
there; nothing is ever asked of two nodes because of it.
"""

import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from typing_extensions import Buffer

from starloom.kv import segments
from starloom.kv.base import Lease, PoolStat
from starloom.kv.channel import Deadline
from starloom.kv.errors import PoolUnavailable
from starloom.kv.local import flat
from starloom.kv.protocol import check_keys
from starloom.kv.remote import frames, placement
from starloom.kv.remote.auth import OPEN_SECRET, Secret
from starloom.kv.remote.base import NodeAddress, NodeStat, Seen
from starloom.kv.remote.buffers import Buffers
from starloom.kv.remote.link import Transfer
from starloom.kv.remote.members import BEAT_S, CONNECTIONS, Member, Members

MOST_BYTES = 512 << 20
"""Memory for blocks that have been got and are not released."""
FIRST_BYTES = 64 << 20
"""A get's budget while a node's rate is not known."""
SHARE_OF_TIME = 0.5
"""A get asks for what comes in this part of its time at the rate of late."""
PUT_ROUND_BYTES = 32 << 20
_T = TypeVar("_T")
_Group = tuple[Member, list[int]]


class RemotePool:
    """A `Pool` on nodes. Thread-safe."""

    def __init__(
        self,
        nodes: Sequence[NodeAddress],
        *,
        secret: Secret = OPEN_SECRET,
        timeout_s: float = 1.0,
        tls: ssl.SSLContext | None = None,
        nodes_file: Path | None = None,
        beat_s: float = BEAT_S,
        connections: int = CONNECTIONS,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is connected yet. Raises ValueError for nodes that cannot be."""
        self._members = Members(
            nodes,
            secret,
            tls,
            nodes_file=nodes_file,
            beat_s=beat_s,
            connections=connections,
            clock=clock,
        )
        self._timeout_s = timeout_s
        self._clock = clock
        self._buffers = Buffers(most_bytes)
        self._many: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._counts = _Counts()
        self._closed = False

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        """How many leading `keys` are held; looks at the first 8,192."""
        return len(self.lengths(keys))

    def lengths(self, keys: Sequence[bytes]) -> list[int]:
        """Bytes of each block of the longest held prefix. Renews nothing."""
        keys = self._checked(keys)
        deadline = self._deadline()

        def ask(member: Member, wants: list[int]) -> list[int]:
            with member.link(deadline) as link:
                return link.lookup([keys[at] for at in wants], deadline)

        found = self._each(self._groups(keys), ask)
        lengths: dict[int, int] = {}
        for (_, wants), held in found:
            lengths.update(zip(wants, held, strict=False))
        return [lengths[at] for at in range(_leading(lengths))]

    def get(self, keys: Sequence[bytes]) -> Lease:
        """Copies of the longest held prefix, as far as time and memory allow.

        Raises `PoolUnavailable` when not a single node could be asked.
        """
        keys = self._checked(keys)
        deadline = self._deadline()
        lease = _Copies(self._buffers)
        views: dict[int, memoryview] = {}
        groups = self._groups(keys)

        def ask(member: Member, wants: list[int]) -> int:
            placed: list[memoryview] = []

            def place(lengths: list[int]) -> list[memoryview]:
                placed.extend(lease.cut(lengths))
                return placed

            share = self._buffers.share(len(groups))
            good = self._receive(member, [keys[at] for at in wants], share, place, deadline)
            views.update(zip(wants[:good], placed, strict=False))
            return good

        try:
            self._each(groups, ask)
        except BaseException:
            lease.release()
            raise
        lease.views = [views[at].toreadonly() for at in range(_leading(views))]
        self._counts.looked(len(lease.views), len(keys))
        return lease

    def get_into(
        self,
        keys: Sequence[bytes],
        targets: Sequence[memoryview],
        each: Callable[[int], object] = lambda _: None,
    ) -> int:
        """Fill the leading targets, each as long as its block; how many hold what was put.

        `each` is told of a block's position as it is whole; positions of one node come in order,
        and the calls come from several threads where blocks live on several nodes. Targets beyond
        the returned count hold garbage; nothing is written to any after the return.
        """
        keys = self._checked(keys)
        deadline = self._deadline()

        def ask(member: Member, wants: list[int]) -> int:
            def place(lengths: list[int]) -> list[memoryview]:
                mine = [targets[at] for at in wants[: len(lengths)]]
                return _fitting(mine, lengths)

            return self._receive(
                member,
                [keys[at] for at in wants],
                sum(len(targets[at]) for at in wants),
                place,
                deadline,
                lambda at: each(wants[at]),
            )

        good = {
            at for (_, wants), count in self._each(self._groups(keys), ask) for at in wants[:count]
        }
        count = _leading(good)
        self._counts.looked(count, len(keys))
        return count

    def put(self, blocks: Sequence[tuple[bytes, Buffer]], *, skip_large: bool = False) -> int:
        """Store what is not held yet; when time runs short the tail is left out.

        Raises `BlockTooLarge` for a block that its node has no slot for, unless such are skipped.
        """
        offered = [(key, flat(data)) for key, data in blocks]
        keys = self._checked([key for key, _ in offered])
        deadline = self._deadline()

        def send(member: Member, wants: list[int]) -> int:
            return _send(member, [offered[at] for at in wants], deadline, skip_large)

        stored = sum(count for _, count in self._each(self._groups(keys), send))
        self._counts.stored(stored)
        return stored

    def stat(self) -> PoolStat:
        """Counters of this client; what nodes hold, they tell themselves (`starloom kv stat`)."""
        return self._counts.stat(sum(1 for _ in self._members))

    def nodes(self) -> list[Seen]:
        """The nodes as this client sees them."""
        return [member.seen() for member in self._members]

    def stats(self) -> dict[str, NodeStat | str]:
        """What each node tells of itself, or why it does not."""
        found: dict[str, NodeStat | str] = {}
        for member in self._members:
            deadline = self._deadline()
            try:
                with member.link(deadline) as link:
                    found[member.name] = link.stat(deadline)
            except PoolUnavailable as error:
                found[member.name] = str(error)
        return found

    def ranking(self, key: bytes) -> list[str]:
        """Names of the nodes that are up, from the block's home down."""
        ranked = placement.ranking(segments.tag(key), self._members.up())
        return [member.name for member in ranked]

    def beat_once(self) -> None:
        """Ask every node once, where no heartbeat runs."""
        for member in self._members:
            member.beat(self._deadline())

    def ups(self) -> list[bool]:
        """Of each node, whether blocks are placed on it now."""
        return [member.up for member in self._members]

    def close(self) -> None:
        """Drop all connections. Leases that are held stay readable."""
        with self._lock:
            self._closed = True
        self._members.close()
        if self._many is not None:
            self._many.shutdown(wait=False)

    def _deadline(self) -> Deadline:
        return Deadline(self._clock, self._timeout_s)

    def _checked(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        check_keys(keys)
        if self._closed:
            raise PoolUnavailable("the pool is closed")
        return keys[: frames.MAX_KEYS]

    def _groups(self, keys: Sequence[bytes]) -> list[_Group]:
        """Which keys to ask of which node. Raises `PoolUnavailable` where no node is up."""
        up = self._members.up()
        homes: dict[bytes, list[int]] = {}
        groups: dict[str, _Group] = {}
        for at, key in enumerate(keys):
            tag = segments.tag(key)
            if tag not in homes:
                member = placement.home(tag, up)
                if member is None:
                    raise PoolUnavailable("no node is up")
                homes[tag] = groups.setdefault(member.name, (member, []))[1]
            homes[tag].append(at)
        return list(groups.values())

    def _each(
        self, groups: list[_Group], ask: Callable[[Member, list[int]], _T]
    ) -> list[tuple[_Group, _T]]:
        """Ask all nodes at once; what fails is left out. Raises `PoolUnavailable` if all fail."""
        if len(groups) == 1:
            return [(groups[0], ask(*groups[0]))]
        with self._lock:
            if self._many is None:
                self._many = ThreadPoolExecutor(8, thread_name_prefix="kv-remote")
            if self._closed:
                raise PoolUnavailable("the pool is closed")
            asked = [(group, self._many.submit(ask, *group)) for group in groups]
        wait(future for _, future in asked)  # nobody writes to a caller's memory after this
        answers: list[tuple[_Group, _T]] = []
        failure: PoolUnavailable | None = None
        for group, future in asked:
            try:
                answers.append((group, future.result()))
            except PoolUnavailable as error:
                failure = error
        if failure is not None and not answers:
            raise failure
        return answers

    def _receive(
        self,
        member: Member,
        keys: Sequence[bytes],
        most_bytes: int,
        place: Callable[[list[int]], Sequence[memoryview]],
        deadline: Deadline,
        each: Callable[[int], object] = lambda _: None,
    ) -> int:
        """The leading blocks of one node that came whole; raises `PoolUnavailable` if none did."""
        rate = member.bytes_per_s
        likely = int(rate * SHARE_OF_TIME * deadline.rest_s()) if rate else FIRST_BYTES
        transfer = Transfer()
        began = self._clock()
        try:
            with member.link(deadline, transfer) as link:
                link.get(keys, min(most_bytes, likely), place, deadline, transfer, each)
        except _CannotPlace:
            return 0
        except PoolUnavailable:
            if not transfer.good:
                raise
        finally:
            member.measured(transfer, self._clock() - began)
        if likely < FIRST_BYTES and not transfer.rows:
            member.hope()
        return transfer.good


class _CannotPlace(Exception):
    """There is no place for what a node would send now: a miss, and no fault of the node."""


class _Copies:
    """A `Lease` on received copies: valid until its release."""

    def __init__(self, buffers: Buffers) -> None:
        self.views: Sequence[memoryview] = []
        self._buffers = buffers
        self._held: list[memoryview] | None = []

    def cut(self, lengths: Sequence[int]) -> list[memoryview]:
        """Places for blocks of these lengths, side by side. Raises `_CannotPlace`."""
        buffer = self._buffers.take(sum(lengths))
        if buffer is None or self._held is None:
            raise _CannotPlace
        self._held.append(buffer)
        cuts, at = [], 0
        for length in lengths:
            cuts.append(buffer[at : at + length])
            at += length
        return cuts

    def valid(self) -> bool:
        return self._held is not None

    def release(self) -> None:
        held, self._held = self._held, None
        for view in self.views:
            with suppress(BufferError):  # an array made from it is alive
                view.release()
        self.views = []
        for buffer in held or ():
            self._buffers.give(buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class _Counts:
    """What a client has asked for and got."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lookups = self._hits = self._misses = self._stored = 0

    def looked(self, hits: int, asked: int) -> None:
        with self._lock:
            self._lookups += 1
            self._hits += hits
            self._misses += asked - hits

    def stored(self, count: int) -> None:
        with self._lock:
            self._stored += count

    def stat(self, nodes: int) -> PoolStat:
        return PoolStat(
            slots=0,
            slot_bytes=0,
            blocks=0,
            pinned_blocks=0,
            connections=nodes,
            lookups=self._lookups,
            hit_blocks=self._hits,
            missed_blocks=self._misses,
            put_blocks=self._stored,
            rejected_blocks=0,
            evicted_blocks=0,
        )


def _send(
    member: Member,
    blocks: list[tuple[bytes, memoryview]],
    deadline: Deadline,
    skip_large: bool,
) -> int:
    """Put blocks of one node, in rounds while there is time."""
    stored, last, slowest_s = 0, -1, 0.0
    try:
        with member.link(deadline) as link:
            if skip_large:
                blocks = [each for each in blocks if len(each[1]) <= link.layout.slot_bytes]
            for _, data in blocks:
                link.layout.class_for(len(data))
            while True:
                left_s = deadline.left_s()
                positions, kept = link.put(blocks, PUT_ROUND_BYTES, deadline)
                slowest_s = max(slowest_s, left_s - deadline.rest_s())
                stored += kept
                done = not positions or positions[0] <= last or positions[-1] == len(blocks) - 1
                if done or deadline.rest_s() < 2 * slowest_s:
                    return stored
                last = positions[-1]
    except PoolUnavailable:
        if not stored:
            raise
        return stored


def _leading(held: "dict[int, _T] | set[int]") -> int:
    """How many of 0, 1, 2, ... are there without a gap."""
    count = 0
    while count in held:
        count += 1
    return count


def _fitting(targets: list[memoryview], lengths: list[int]) -> list[memoryview]:
    """The targets; raises `_CannotPlace` for a block that has another length than it had."""
    if [len(target) for target in targets] != lengths:
        raise _CannotPlace
    return targets
