"""What the admin API changed: of all that gateways heard of a worker, the newest word holds.

Each gateway keeps all words and tells all of them, so that a message that is lost, late or doubled
is put right by the next one. Words are signed by what only the site's own gateways have: a bus may
be a server that others can publish on, and who says where requests go must be known.
"""

import hashlib
import hmac
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

_log = logging.getLogger(__name__)

_MAC_BYTES = 32
_FORGET_US = 3600 * 10**6
"""A word that a worker is gone is kept for so long: gateways that were away longer are not told."""


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """The newest about one worker. Of two the later one holds; of two at once, the greater name's.

    `worker` is its noun, where the API added it; None where it did not, or took it away again.
    """

    at_us: int
    by: str
    worker: dict[str, Any] | None = None
    draining: bool = False
    drain_s: float = 0.0


class Changes:
    """All words. `me` names one life of one gateway; `wall` is a clock in seconds since 1970."""

    def __init__(
        self,
        me: str,
        wall: Callable[[], float],
        key_hashes: Sequence[str],
        keep: Callable[[bytes], object] = bytes,
    ) -> None:
        """`keep` is given all words, signed, whenever they are others than before."""
        self.words: dict[str, Word] = {}
        self.changed: Callable[[], object] = _nobody
        """Called whenever `words` are others than before."""
        self._me = me
        self._wall = wall
        self._keep = keep
        secret = "\n".join(("starloom members", *sorted(key_hashes)))
        self._secret = hashlib.sha256(secret.encode()).digest()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(dict[str, Word]).decode
        self._told = b""

    def put(
        self, name: str, worker: dict[str, Any] | None, *, draining: bool, drain_s: float = 0.0
    ) -> None:
        """The newest word about a worker, by this gateway."""
        last_us = max((word.at_us for word in self.words.values()), default=0)
        at_us = max(
            int(self._wall() * 1e6), last_us + 1
        )  # newer than all heard, whatever clocks say
        self.words[name] = Word(at_us, self._me, worker, draining, drain_s)
        self._news()

    def tell(self) -> bytes:
        """All words, signed; empty where there are none."""
        return self._told

    def take(self, data: bytes) -> bool:
        """Words of another gateway, or of an earlier life. Whether any was news."""
        if not data or data == self._told:
            return False
        mac, payload = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(payload)):
            _log.warning("words about workers are signed by another key: left aside")
            return False
        try:
            heard = self._decode(payload)
        except msgspec.MsgspecError as error:
            _log.warning("words about workers cannot be read: %s", error)
            return False
        newer = {
            name: word
            for name, word in heard.items()
            if not self._is_old(word)
            and (name not in self.words or _order(word) > _order(self.words[name]))
        }
        if not newer:
            return False
        self.words.update(newer)
        self._news()
        return True

    def _news(self) -> None:
        for name, word in tuple(self.words.items()):
            if self._is_old(word):
                del self.words[name]
        payload = self._encode(dict(sorted(self.words.items())))
        self._told = self._mac(payload) + payload
        self._keep(self._told)
        self.changed()

    def _is_old(self, word: Word) -> bool:
        """Whether it says that a worker is gone, and everybody should know by now."""
        gone = word.worker is None and not word.draining
        return gone and word.at_us < int(self._wall() * 1e6) - _FORGET_US

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, payload, "sha256")


def _order(word: Word) -> tuple[int, str]:
    return word.at_us, word.by


def _nobody() -> None:
    """Nobody wants to know."""
