"""The prefill worker's side: prompts as they are computed, and the threads that send them.

An `Outgoing` is shared by the engine's thread, which computes, and one sender, which reads blocks
under its lock: once the engine has dropped it, nobody reads its blocks any more.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence

from starloom.serve.engines.executor import Executor
from starloom.serve.engines.handover.address import sender
from starloom.serve.engines.handover.base import (
    HEARTBEAT_S,
    SILENCE_S,
    First,
    Gone,
    HandoverError,
    Piece,
    Sender,
    Waiting,
    Want,
)

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64


class Outgoing:
    """One prompt's KV, layer by layer, on its way out."""

    def __init__(self, name: str, layers: int) -> None:
        self.name = name
        self.news = threading.Condition()
        """Its lock guards all that follows."""
        self.blocks: Sequence[int] = ()
        self.ready = [0] * layers
        """Leading blocks of each layer that are computed."""
        self.first: First | None = None
        """Known once all blocks are ready."""
        self.gone = ""
        """Why it is over; empty while it is not."""
        self.sent = False
        """Whether all of it went out."""
        self.claimed = False
        """Whether somebody fetches it."""
        self.computed_s: float | None = None

    def begin(self, blocks: Sequence[int], known: int) -> None:
        """The prompt's blocks, of which the first `known` are computed already."""
        with self.news:
            self.blocks = blocks
            self.ready = [known] * len(self.ready)
            self.news.notify_all()

    def layer_done(self, layer: int, blocks: int) -> None:
        """The first `blocks` blocks of a layer are computed."""
        with self.news:
            self.ready[layer] = blocks
            self.news.notify_all()

    def finish(self, first: First, now_s: float) -> None:
        """All is computed, and the first token is drawn."""
        with self.news:
            self.first, self.computed_s = first, now_s
            self.news.notify_all()

    def drop(self, why: str) -> None:
        """Nobody may read its blocks from now on."""
        with self.news:
            self.gone = self.gone or why
            self.news.notify_all()


class Offers:
    """Listens, and sends what is asked for by name: a thread a connection."""

    def __init__(
        self,
        listener: socket.socket,
        address: str,
        executor: Executor,
        layout: str,
        ended: Callable[[Outgoing], None],
    ) -> None:
        """`ended` is called by a sender's thread once an outgoing is over, sent or not."""
        self.address = address
        self._listener = listener
        self._executor = executor
        self._layout = layout
        self._ended = ended
        self._names: dict[str, Outgoing] = {}
        self._registry = threading.Condition()
        self._senders: set[Sender] = set()
        self._closed = False
        threading.Thread(target=self._accept, name="hand-over", daemon=True).start()

    def add(self, outgoing: Outgoing) -> None:
        """From now on it can be asked for."""
        with self._registry:
            self._names[outgoing.name] = outgoing
            self._registry.notify_all()

    def remove(self, outgoing: Outgoing, why: str) -> None:
        """It is over: its blocks are the engine's again when this returns."""
        with self._registry:
            self._names.pop(outgoing.name, None)
        outgoing.drop(why)

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._senders):
            each.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            if len(self._senders) >= MAX_CONNECTIONS:
                _log.warning("a hand-over is refused: %d connections", MAX_CONNECTIONS)
                sock.close()
                continue
            threading.Thread(target=self._serve, args=(sock,), name="sender", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            made = sender(sock, self._executor.part_bytes)
        except (OSError, HandoverError) as error:
            _log.warning("no hand-over: %s", error)
            sock.close()
            return
        self._senders.add(made)
        try:
            while True:
                want = made.hear(None)
                if not isinstance(want, Want):
                    raise HandoverError(f"{type(want).__name__} where Want is due")
                self._answer(made, want)
        except HandoverError as error:
            _log.warning("a hand-over broke off: %s", error)
        except OSError as error:
            _log.debug("a connection ended: %s", error)  # as they do when a worker gives up
        finally:
            self._senders.discard(made)
            made.close()

    def _answer(self, to: Sender, want: Want) -> None:
        if want.layout != self._layout:
            to.say(Gone("its KV has another layout"))
            return
        outgoing = self._find(to, want.name)
        if outgoing is None:
            to.say(Gone("there is no such transfer"))
            return
        try:
            _send(outgoing, to, self._executor, want.have)
        finally:
            outgoing.drop("it was fetched, or its connection broke")
            self._ended(outgoing)

    def _find(self, to: Sender, name: str) -> Outgoing | None:
        """The outgoing of that name. It may be wanted before the engine has heard of it.

        A worker that was started again never hears of those before.
        """
        until = time.monotonic() + SILENCE_S
        while True:
            with self._registry:
                self._registry.wait_for(lambda: name in self._names, HEARTBEAT_S)
                found = self._names.get(name)
            if found is not None:
                with found.news:
                    fresh, found.claimed = not found.claimed, True
                return found if fresh else None
            if self._closed or time.monotonic() >= until:
                return None
            to.say(Waiting())


def _send(outgoing: Outgoing, to: Sender, executor: Executor, have: int) -> None:
    """All blocks after the first `have`, as they become ready, and the first token."""
    size = executor.part_bytes
    most = to.piece_bytes // size
    sent = [have] * executor.layers
    while True:
        ready, first, gone = _wait(outgoing, sent)
        if gone:
            to.say(Gone(gone))
            return
        if ready == sent:
            to.say(first or Waiting())
            if first is not None:
                outgoing.sent = True
                return
        for layer, end in enumerate(ready):
            while sent[layer] < end:
                count = min(most, end - sent[layer])
                _pause(outgoing, to, executor.transfer_s(count))
                piece = Piece(layer=layer, first=sent[layer], count=count)
                fill = _filler(outgoing, executor, piece)
                try:
                    to.piece(piece, count * size, fill)
                except _Dropped:
                    to.say(Gone(outgoing.gone))
                    return
                sent[layer] += count


def _wait(outgoing: Outgoing, sent: list[int]) -> tuple[list[int], First | None, str]:
    """What is ready beyond `sent`, after a heartbeat at the latest."""

    def news() -> bool:
        ahead = any(ready > done for ready, done in zip(outgoing.ready, sent, strict=True))
        return ahead or outgoing.first is not None or bool(outgoing.gone)

    with outgoing.news:
        outgoing.news.wait_for(news, HEARTBEAT_S)
        ready = [max(ready, done) for ready, done in zip(outgoing.ready, sent, strict=True)]
        return ready, outgoing.first, outgoing.gone


def _pause(outgoing: Outgoing, to: Sender, seconds: float) -> None:
    """Modelled time of a transfer that takes none in truth; a drop cuts it short."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not outgoing.gone:
        with outgoing.news:
            outgoing.news.wait_for(lambda: outgoing.gone, min(left, HEARTBEAT_S))
        if left > HEARTBEAT_S:
            to.say(Waiting())


class _Dropped(Exception):
    """The engine dropped the prompt while it was being sent."""


def _filler(outgoing: Outgoing, executor: Executor, piece: Piece) -> Callable[[memoryview], None]:
    def fill(target: memoryview) -> None:
        with outgoing.news:
            if outgoing.gone:
                raise _Dropped
            blocks = outgoing.blocks[piece.first : piece.first + piece.count]
            executor.read_parts(piece.layer, blocks, target)

    return fill
