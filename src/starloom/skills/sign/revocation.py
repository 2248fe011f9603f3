"""What no longer counts: keys, releases and whole skills, in a signed list that can only grow.

A list has a version and an end: a reader that is kept from newer lists notices when its own
expires.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from starloom.skills.errors import Downgraded, Expired, Revoked, SignatureRefused
from starloom.skills.sign.base import Release, opened, sealed
from starloom.skills.sign.keys import KeyRing

LIST_TYPE = "application/vnd.starloom.skill-revocations+json"
RevokedKind = Literal["key", "release", "skill", "file"]


@dataclass(frozen=True, slots=True)
class Revocation:
    """One entry: a key's id, a release's manifest hash, a skill's name, or a file's SHA-256."""

    kind: RevokedKind
    id: str
    reason: str
    at_s: float


@dataclass(frozen=True, slots=True)
class RevocationList:
    """All entries, the newest version that is known."""

    version: int = 0
    expires_s: float = float("inf")
    entries: tuple[Revocation, ...] = ()

    def keys(self) -> frozenset[str]:
        return frozenset(it.id for it in self.entries if it.kind == "key")

    def check(self, release: Release, now_s: float) -> None:
        """Raises `Revoked` for a release on the list, `Expired` when the list is too old."""
        if now_s >= self.expires_s:
            raise Expired(f"revocation list {self.version} is past its date: get a newer one")
        names = {
            "skill": {release.skill},
            "release": {release.identity},
            "file": set(release.files.values()),
            "key": set(),
        }
        for it in self.entries:
            if it.id in names[it.kind]:
                raise Revoked(f"{release.skill}: {it.kind} {it.id[:64]} was revoked: {it.reason}")

    def successor(self, data: bytes, ring: KeyRing, now_s: float) -> "RevocationList":
        """The next list out of an envelope: signed, not older, and forgetting nothing."""
        envelope, payload = opened(data, LIST_TYPE)
        ring.verify(envelope, now_s, self.keys())
        try:
            entries = tuple(
                Revocation(it["kind"], str(it["id"]), str(it["reason"]), float(it["at_s"]))
                for it in payload["entries"]
            )
            new = RevocationList(int(payload["version"]), float(payload["expires_s"]), entries)
        except (KeyError, TypeError, ValueError) as error:
            raise SignatureRefused(f"not a revocation list: {error!r}") from None
        if any(it.kind not in ("key", "release", "skill", "file") for it in entries):
            raise SignatureRefused("a revocation of a kind that we do not know")
        if new.version < self.version or not {(it.kind, it.id) for it in self.entries} <= {
            (it.kind, it.id) for it in entries
        }:
            raise Downgraded(f"revocation list {new.version} forgets what {self.version} says")
        return new


def revoked_list(new: RevocationList, signers: Sequence[Any]) -> bytes:
    """A list under signatures, for `RevocationList.successor`."""
    entries = [
        {"kind": it.kind, "id": it.id, "reason": it.reason, "at_s": it.at_s} for it in new.entries
    ]
    payload = {"version": new.version, "expires_s": new.expires_s, "entries": entries}
    return sealed(payload, LIST_TYPE, signers)
