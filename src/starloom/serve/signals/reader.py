"""Frames of one publisher in, key operations out: order, gaps, replays and restarts. Does no I/O.

A publisher numbers its batches 0, 1, 2, ... and keeps the last ones for replay. A subscriber misses
some when it comes late, is slow, or loses its connection. What is believed must stay a part of what
is true: a block believed in wrongly draws requests to a worker that has to compute it again. So

- a jump asks for a replay from the *last batch that was read*, and that batch must come back with
  the same bytes. If it does, this is the same server and nothing is missing; if it does not, the
  server was started again (or keeps no batch that old) and all belief is dropped first;
- live batches wait, within bounds, until the replay is over, and those it covered are skipped;
- a jump that no replay fills drops all belief and goes on from there. Blocks whose parents were
  missed are ignored until the server stores them again.
"""

from collections import deque
from collections.abc import Sequence

from starloom.serve.signals.base import Cleared, Counts, NeedReplay, Operation, Stored
from starloom.serve.signals.blocks import MAX_BLOCKS, BlockMap
from starloom.serve.signals.errors import BadBatch
from starloom.serve.signals.roots import RootOf
from starloom.serve.signals.wire import AllBlocksCleared, BlockRemoved, BlockStored, read_batch

MAX_PENDING = 4096
"""Live batches that wait for a replay's end; of more the oldest are dropped, which is a jump."""
_NONE = -1


class EventReader:
    """One publisher's events. Feed it frames; do the operations that it returns, in order.

    `replay`: whether `NeedReplay` can be answered. While a replay is under way, frames of the
    subscription still go to `feed`, and those of the replay to `feed_replay`.
    """

    def __init__(
        self,
        block_tokens: int,
        root_of: RootOf,
        *,
        replay: bool,
        max_blocks: int = MAX_BLOCKS,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self.counts = Counts()
        self._block_tokens = block_tokens
        self._blocks = BlockMap(block_tokens, root_of, self.counts, max_blocks=max_blocks)
        self._replay = replay
        self._replaying = False
        self._asked_at = _NONE
        """The newest batch that was known when the replay was asked for: all before it are in it,
        or nowhere."""
        self._anchored = False
        """Whether the replay has yet to show the last batch that was read."""
        self._again = False
        """Whether the rest of this reply is of no use, and another is needed from 0."""
        self._pending: deque[tuple[int, bytes]] = deque(maxlen=max_pending)
        self._last = _NONE
        self._last_payload = b""
        self._last_live = _NONE

    def __len__(self) -> int:
        """Blocks that are believed to be held."""
        return len(self._blocks)

    @property
    def problem(self) -> str | None:
        """Why nothing of what this publisher says is of use, and what to do; None when it is."""
        other = self._blocks.other_block_tokens
        if other is None or self.counts.stored:
            return None
        return (
            f"it publishes blocks of {other} tokens and the model's block_tokens are"
            f" {self._block_tokens}: set `block_tokens: {other}` on the model, or start the server"
            f" with --block-size {self._block_tokens} (SGLang: --page-size)"
        )

    def held(self) -> list[Stored]:
        """All that is believed to be held, as if it were stored now."""
        return self._blocks.held()

    def connected(self) -> list[Operation]:
        """The subscription has begun, or begun again: whatever came meanwhile was missed."""
        self._last_live = _NONE
        if self._replay:
            self._pending.clear()
            return [self._ask()]
        return self._forget()

    def feed(self, frames: Sequence[bytes]) -> list[Operation]:
        """One message of the subscription: topic, sequence number, payload."""
        if len(frames) != 3 or len(frames[1]) != 8:
            self.counts.malformed += 1
            return []
        sequence, payload = int.from_bytes(frames[1], "big"), frames[2]
        operations: list[Operation] = []
        if sequence <= self._last_live:  # a publisher never repeats itself: this one is new
            self.counts.restarts += 1
            self._pending.clear()
            self._again = self._replaying
            operations += self._forget()
        self._last_live = sequence
        if self._replaying:
            self._pending.append((sequence, payload))
            return operations
        return operations + self._take(sequence, payload)

    def feed_replay(self, frames: Sequence[bytes]) -> list[Operation]:
        """One message of the replay: (empty,) sequence number, payload; a negative one ends it."""
        if not self._replaying:
            return []
        if len(frames) < 2 or len(frames[-2]) != 8:
            self.counts.malformed += 1
            return []
        sequence = int.from_bytes(frames[-2], "big", signed=True)
        if sequence < 0:
            return self._end_replay()
        if self._again:
            return []
        payload = frames[-1]
        operations: list[Operation] = []
        if self._anchored:
            self._anchored = False
            if sequence == self._last:
                if payload == self._last_payload:
                    return []
                self.counts.restarts += 1
                self._again = True
                return self._forget()
            operations += self._forget()
        if sequence <= self._last:
            return operations
        if sequence > self._last + 1 and self._last != _NONE:  # a hole in the replay itself
            operations += self._forget()
        return operations + self._apply(sequence, payload)

    def replay_failed(self) -> list[Operation]:
        """The replay did not come, or broke off."""
        if not self._replaying:
            return []
        self.counts.failed_replays += 1
        self._replaying = False
        operations = self._forget()
        while self._pending:
            sequence, payload = self._pending.popleft()
            if sequence != self._last + 1:
                operations += self._forget()
            operations += self._apply(sequence, payload)
        return operations

    def lost(self) -> list[Operation]:
        """The publisher has been away for too long: nothing is believed of it any more."""
        self._replaying = False
        self._pending.clear()
        return self._forget()

    def _take(self, sequence: int, payload: bytes) -> list[Operation]:
        """A live batch, in its turn."""
        if sequence <= self._last:
            return []
        if sequence == self._last + 1:
            return self._apply(sequence, payload)
        if self._last != _NONE:
            self.counts.gaps += 1
        if self._replay:
            self._pending.append((sequence, payload))
            return [self._ask()]
        return self._forget() + self._apply(sequence, payload)

    def _ask(self) -> NeedReplay:
        self.counts.replays += 1
        self._replaying, self._again = True, False
        self._anchored = self._last != _NONE
        self._asked_at = self._last_live
        return NeedReplay(max(self._last, 0))

    def _end_replay(self) -> list[Operation]:
        operations: list[Operation] = []
        if self._anchored:  # it holds not even the batch that we read: another server
            self._anchored = False
            self._again = True
            operations += self._forget()
        if self._again:
            return [*operations, self._ask()]
        self._replaying = False
        while self._pending:
            sequence, payload = self._pending[0]
            if sequence > self._last + 1:
                if sequence > self._asked_at:  # missed while the replay was under way
                    self.counts.gaps += 1
                    return [*operations, self._ask()]
                operations += self._forget()
                self._last = sequence - 1
            self._pending.popleft()
            operations += self._take(sequence, payload)
        return operations

    def _apply(self, sequence: int, payload: bytes) -> list[Operation]:
        self._last, self._last_payload = sequence, payload
        self.counts.batches += 1
        try:
            batch = read_batch(payload)
        except BadBatch:
            self.counts.malformed += 1
            return self._drop()
        operations: list[Operation] = []
        for event in batch.events:
            if isinstance(event, BlockStored):
                operations += self._blocks.stored(event)
            elif isinstance(event, BlockRemoved):
                operations += self._blocks.removed(event)
            elif isinstance(event, AllBlocksCleared):
                operations += self._drop()
            elif not event.known:
                self.counts.unknown_events += 1
            else:
                self.counts.malformed += 1
                if event.tag != "BlockStored":  # something went, and we cannot tell what
                    operations += self._drop()
        return operations

    def _forget(self) -> list[Operation]:
        """Drop all belief, and the place in the sequence with it."""
        self._last, self._last_payload = _NONE, b""
        return self._drop()

    def _drop(self) -> list[Operation]:
        if not len(self._blocks):
            return []
        self._blocks.clear()
        self.counts.cleared += 1
        return [Cleared()]
