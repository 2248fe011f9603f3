"""The decode worker's side: prompts that come from elsewhere, a thread for each while it comes.

The thread writes into blocks that the engine has set aside, under the incoming's lock: once the
engine has dropped it, nobody writes to them any more.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from starloom.serve.engines.executor import Executor
from starloom.serve.engines.handover.address import connect
from starloom.serve.engines.handover.base import (
    LEASE_S,
    SILENCE_S,
    First,
    Gone,
    HandoverError,
    Piece,
    Receiver,
    Waiting,
    Want,
)

_log = logging.getLogger(__name__)

_IDLE_CONNECTIONS = 4
"""Kept for the next transfers from one source."""


class Incoming:
    """One prompt's KV on its way in."""

    def __init__(
        self, name: str, source: str, blocks: Sequence[int], have: int, layers: int
    ) -> None:
        self.name = name
        self.source = source
        self.blocks = blocks
        self.have = have
        self.lock = threading.Lock()
        """Guards all that follows."""
        self.got = [have] * layers
        """Leading blocks of each layer that are here."""
        self.first: First | None = None
        """Known once all has come."""
        self.dropped = False
        self.over = False
        self.receiver: Receiver | None = None

    @property
    def whole_blocks(self) -> int:
        """Leading blocks that are here in all layers."""
        return min(self.got)

    def drop(self) -> None:
        """Nobody may write to its blocks from now on; what has come stays."""
        with self.lock:
            self.dropped = True
            if self.receiver is not None and not self.over:
                self.receiver.close()


class Fetcher:
    """Fetches from other workers. Connections that went well are used again."""

    def __init__(
        self,
        executor: Executor,
        layout: str,
        ended: Callable[[Incoming], None],
        patience_s: float = LEASE_S,
    ) -> None:
        """`ended` is called by a thread of an incoming that is over, well or not.

        A prompt of which nothing comes for `patience_s` is given up: its worker is overloaded, or
        waits for blocks that wait for ours.
        """
        self._patience_s = patience_s
        self._executor = executor
        self._layout = layout
        self._ended = ended
        self._idle: dict[str, list[Receiver]] = {}
        self._lock = threading.Lock()

    def fetch(self, incoming: Incoming) -> None:
        """Begin; returns at once."""
        threading.Thread(
            target=self._run, args=(incoming,), name=f"fetch {incoming.name[:8]}", daemon=True
        ).start()

    def close(self) -> None:
        with self._lock:
            for receivers in self._idle.values():
                for receiver in receivers:
                    receiver.close()
            self._idle.clear()

    def _run(self, incoming: Incoming) -> None:
        receiver: Receiver | None = None
        try:
            receiver = self._begin(incoming)
            self._receive(incoming, receiver)
            with incoming.lock:
                incoming.over = True
            self._keep(incoming.source, receiver)
        except (OSError, HandoverError) as error:
            if receiver is not None:
                receiver.close()
            if not incoming.dropped:
                _log.warning("a prompt did not come from %s: %s", incoming.source, error)
        finally:
            self._ended(incoming)

    def _begin(self, incoming: Incoming) -> Receiver:
        """A connection over which the prompt was asked for."""
        receiver = self._reuse(incoming.source)
        if receiver is None:
            receiver = connect(incoming.source, self._executor.part_bytes)
        with incoming.lock:
            incoming.receiver = receiver
            dropped = incoming.dropped
        try:
            if dropped:
                raise HandoverError("it is wanted no more")
            receiver.say(Want(incoming.name, self._layout, incoming.have))
        except BaseException:
            receiver.close()
            raise
        return receiver

    def _receive(self, incoming: Incoming, receiver: Receiver) -> None:
        """Returns when the connection is free again; raises where it is of no more use."""
        last_s = time.monotonic()
        while True:
            frame, data = receiver.hear(SILENCE_S)
            match frame:
                case Piece():
                    self._write(incoming, frame, data)
                    last_s = time.monotonic()
                case First():
                    with incoming.lock:
                        if incoming.whole_blocks < len(incoming.blocks):
                            raise HandoverError("it ended before all blocks had come")
                        if not 0 <= frame.token < self._executor.vocab:
                            raise HandoverError(f"there is no token {frame.token}")
                        incoming.first = frame
                    return
                case Gone(why):
                    _log.info("a prompt is not handed over: %s", why)
                    return
                case Waiting():
                    if time.monotonic() - last_s > self._patience_s:
                        raise HandoverError(f"nothing came for {self._patience_s:g} s")
                case _:
                    raise HandoverError(f"{type(frame).__name__} where KV is due")

    def _write(self, incoming: Incoming, piece: Piece, data: memoryview) -> None:
        layer, end = piece.layer, piece.first + piece.count
        if not 0 <= layer < len(incoming.got) or end > len(incoming.blocks) or piece.count < 1:
            raise HandoverError(f"{piece} of {len(incoming.blocks)} blocks")
        with incoming.lock:
            if incoming.dropped:
                raise HandoverError("it is wanted no more")
            if piece.first != incoming.got[layer]:
                raise HandoverError(f"{piece} after {incoming.got[layer]} blocks of its layer")
            self._executor.write_parts(layer, incoming.blocks[piece.first : end], data)
            incoming.got[layer] = end

    def _reuse(self, source: str) -> Receiver | None:
        with self._lock:
            idle = self._idle.get(source, [])
            while idle:
                receiver = idle.pop()
                if receiver.alive:
                    return receiver
                receiver.close()
        return None

    def _keep(self, source: str, receiver: Receiver) -> None:
        with self._lock:
            alive = {at: [r for r in idle if r.alive] for at, idle in self._idle.items()}
            for at, idle in self._idle.items():
                for dead in set(idle).difference(alive[at]):
                    dead.close()  # of a worker that is gone, maybe for good
            self._idle = {at: idle for at, idle in alive.items() if idle}
            kept = self._idle.setdefault(source, [])
            if len(kept) < _IDLE_CONNECTIONS:
                kept.append(receiver)
                return
        receiver.close()
