"""What all gateways of a site have told: pure, no sockets and no clock of its own."""

from collections.abc import Callable, Sequence

import msgspec

from starloom.serve.peers.base import Counts, Frame, Spent, View

_KEY_BYTES = 8
_MOST_SEEN = 4096
"""Chains a frame; more than that between two frames is more than an index could keep."""
SILENCE_S = 3.0
"""A peer that is silent for so long is taken for gone: all say something each second."""


class _Peer:
    __slots__ = ("connections", "counts", "heard_s", "samples", "spent")

    def __init__(self) -> None:
        self.counts: dict[str, Counts] = {}
        self.spent: dict[str, Spent] = {}
        self.connections = 0
        self.samples: dict[str, dict[str, float]] = {}
        self.heard_s = 0.0


class Board:
    """Makes frames of what a gateway did, and adds what others did to its view."""

    def __init__(self, me: str, view: View) -> None:
        self.me = me
        self.connections = 0
        """Of clients, here."""
        self.samples: Callable[[], dict[str, dict[str, float]]] = dict
        """What was counted here, for the metrics pages of the others."""
        self.members: Callable[[], bytes] = bytes
        """What was said here of workers that come and go, for the others."""
        self.heard: Callable[[bytes], object] = bytes
        """Told what others said of them."""
        self._view = view
        self._peers: dict[str, _Peer] = {}
        self._told_spent: dict[str, Spent] = {}
        self._told_connections = 0
        self._told_members = b""
        self._seen: list[tuple[str, bytes]] = []
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Frame).decode

    @property
    def peers(self) -> int:
        """How many others there are."""
        return len(self._peers)

    def least_connections(self) -> int:
        """The fewest connections that another gateway has; our own where there is none."""
        return min((peer.connections for peer in self._peers.values()), default=self.connections)

    def sent(self, worker: str, keys: Sequence[bytes]) -> None:
        """A prompt with these keys went to a worker: to be told."""
        if keys and self._peers and len(self._seen) < _MOST_SEEN:
            self._seen.append((worker, b"".join([key[:_KEY_BYTES] for key in keys])))

    def news(self) -> bytes | None:
        """A frame of what changed since the last one; None when nothing did."""
        counts, spent = dict(self._view.changed()), self._view.spent()
        used = {name: now for name, now in spent.items() if self._told_spent.get(name) != now}
        members = self.members()
        changed = members != self._told_members
        more = self.connections != self._told_connections or changed
        if not (counts or used or self._seen or more):
            return None
        frame = Frame(self.me, False, counts, used, self._seen, self.connections)
        if changed:
            frame.members = self._told_members = members
        self._told_spent.update(used)
        self._told_connections, self._seen = self.connections, []
        return self._encode(frame)

    def all(self, *, near: bool = False) -> bytes:
        """A frame of all that holds, for who has missed something; `near` as `Bus.near`."""
        own = {name: now for name, now in self._view.own().items() if any(now)}
        spent, samples = dict(self._view.spent()), self.samples() if near else {}
        members = self.members()
        return self._encode(
            Frame(self.me, True, own, spent, [], self.connections, samples, members)
        )

    def others_samples(self) -> list[dict[str, dict[str, float]]]:
        """What each other process here counted, when it last said so."""
        return [peer.samples for peer in self._peers.values() if peer.samples]

    def take(self, data: bytes, now_s: float) -> None:
        """Another gateway's frame. What is no frame, or our own, is passed over."""
        try:
            frame = self._decode(data)
        except msgspec.MsgspecError:
            return
        if frame.peer == self.me:
            return
        peer = self._peers.get(frame.peer)
        known = peer is not None
        if peer is None:
            peer = self._peers[frame.peer] = _Peer()
        peer.heard_s = now_s
        peer.connections = frame.connections
        peer.samples = frame.samples or peer.samples
        if frame.members:
            self.heard(frame.members)
        changed = set(frame.counts)
        if frame.full:
            changed |= set(peer.counts)
            peer.counts = dict(frame.counts)
        else:
            peer.counts.update(frame.counts)
        self._sum(changed)
        for tenant, total in frame.spent.items():
            before = peer.spent.get(tenant, Spent() if known else total)
            more = Spent(total.requests - before.requests, total.tokens - before.tokens)
            peer.spent[tenant] = total
            if any(more):
                self._view.others_spent(tenant, more)
        for worker, joined in frame.seen:
            keys = [joined[at : at + _KEY_BYTES] for at in range(0, len(joined), _KEY_BYTES)]
            self._view.seen(worker, keys)

    def left(self, peer: str) -> None:
        """A gateway is gone, and with it all that it had under way."""
        gone = self._peers.pop(peer, None)
        if gone is not None:
            self._sum(set(gone.counts))

    def expire(self, now_s: float) -> None:
        """Forget who has been silent for too long."""
        for name, peer in tuple(self._peers.items()):
            if now_s - peer.heard_s > SILENCE_S:
                self.left(name)

    def _sum(self, workers: set[str]) -> None:
        for worker in workers:
            rows = [peer.counts[worker] for peer in self._peers.values() if worker in peer.counts]
            self._view.others(worker, Counts(*map(sum, zip(*rows, strict=True))))
