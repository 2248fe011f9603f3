"""Release keys (Ed25519), the ring of those that are trusted, and how a ring is replaced.

A ring says which keys count, from when to when, and how many must sign (`threshold`). Its successor
is signed by the threshold of the old ring and of the new one, and counts up by one, as roots do in
The Update Framework (TUF specification 1.0.33, 5.3): a lost key is rotated out, a stolen one cannot
rotate itself in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starloom.skills.errors import Downgraded, Expired, MissingExtra, SignatureRefused, Unsigned
from starloom.skills.sign.base import canonical_json, opened, sealed

RING_TYPE = "application/vnd.starloom.skill-keyring+json"


@dataclass(frozen=True, slots=True)
class RingKey:
    """A public key (32 bytes, hex), whose it is, and when it counts (Unix seconds)."""

    keyid: str
    public_hex: str
    owner: str
    not_before_s: float
    not_after_s: float

    def counts(self, at_s: float) -> bool:
        return self.not_before_s <= at_s < self.not_after_s


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys whose signatures release a skill."""

    version: int
    threshold: int
    keys: tuple[RingKey, ...]

    def __post_init__(self) -> None:
        """Refuse rings under which one key could count twice, or nobody could sign."""
        if len({it.public_hex for it in self.keys}) != len(self.keys) or len(
            {it.keyid for it in self.keys}
        ) != len(self.keys):
            raise SignatureRefused("a key stands twice in the ring")
        if len({it.owner for it in self.keys}) < self.threshold or self.threshold < 1:
            raise SignatureRefused(f"a threshold of {self.threshold} needs as many owners")

    def verify(
        self, envelope: Any, at_s: float, revoked: frozenset[str] = frozenset()
    ) -> list[RingKey]:
        """The keys, of different owners, that signed an envelope.

        Raises `Unsigned` for too few, `Expired` where keys past their date would have made it
        enough.
        """
        good = self._signed(
            envelope, [it for it in self.keys if it.counts(at_s) and it.keyid not in revoked]
        )
        if len({it.owner for it in good}) >= self.threshold:
            return good
        late = self._signed(envelope, [it for it in self.keys if it.keyid not in revoked])
        if len({it.owner for it in late}) >= self.threshold:
            raise Expired("signed by keys that are past their date or not yet valid: sign again")
        raise Unsigned(f"{len(good)} trusted signatures, {self.threshold} are needed")

    def _signed(self, envelope: Any, keys: Sequence[RingKey]) -> list[RingKey]:
        pae = envelope.pae()
        signatures = envelope.signatures
        made: list[RingKey] = []
        for it in keys:
            signature = signatures.get(it.keyid)
            if signature is not None and _holds(it, signature, pae):
                made.append(it)
        return made

    def to_dict(self) -> dict[str, Any]:
        keys = [
            {
                "keyid": it.keyid,
                "public": it.public_hex,
                "owner": it.owner,
                "not_before_s": it.not_before_s,
                "not_after_s": it.not_after_s,
            }
            for it in self.keys
        ]
        return {"version": self.version, "threshold": self.threshold, "keys": keys}

    def to_json(self) -> bytes:
        return canonical_json(self.to_dict())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "KeyRing":
        """Raises `SignatureRefused` for a ring that is none."""
        try:
            keys = tuple(
                RingKey(
                    str(it["keyid"]),
                    str(it["public"]),
                    str(it["owner"]),
                    float(it["not_before_s"]),
                    float(it["not_after_s"]),
                )
                for it in data["keys"]
            )
            ring = cls(int(data["version"]), int(data["threshold"]), keys)
        except (KeyError, TypeError, ValueError) as error:
            raise SignatureRefused(f"not a key ring: {error!r}") from None
        for it in ring.keys:
            if it.keyid != _key(it.public_hex).keyid:
                raise SignatureRefused(f"{it.owner}: the key does not belong to its id")
        return ring

    def successor(self, data: bytes, at_s: float) -> "KeyRing":
        """The next ring out of an envelope. Raises kinds of `SignatureRefused`."""
        envelope, payload = opened(data, RING_TYPE)
        new = KeyRing.from_dict(payload)
        if new.version != self.version + 1:
            raise Downgraded(f"ring {new.version} does not follow {self.version}")
        self.verify(envelope, at_s)
        new.verify(envelope, at_s)
        return new


def rotated(new: KeyRing, signers: Sequence[Any]) -> bytes:
    """A new ring under the signatures of old and new keys, for `KeyRing.successor`."""
    return sealed(new.to_dict(), RING_TYPE, signers)


def new_key(owner: str, not_before_s: float, not_after_s: float) -> tuple[Any, RingKey]:
    """A new Ed25519 key: the signer to keep, and its entry for a ring."""
    signer = _signer().CryptoSigner.generate_ed25519()
    return signer, ring_key(signer, owner, not_before_s, not_after_s)


def ring_key(signer: Any, owner: str, not_before_s: float, not_after_s: float) -> RingKey:
    public = signer.public_key
    return RingKey(public.keyid, public.keyval["public"], owner, not_before_s, not_after_s)


def write_key(signer: Any, path: Path) -> None:
    """Keep a private key (PKCS 8, PEM) where only its owner reads it; never over another."""
    import os

    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(signer.private_bytes)


def read_key(path: Path) -> Any:
    """A signer from a private key in PEM. Raises `SignatureRefused` for anything else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise SignatureRefused(f"{path}: no private key in PEM that can be read") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureRefused(f"{path}: not an Ed25519 key")
    return _signer().CryptoSigner(key)


def _key(public_hex: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return _signer().SSlibKey.from_crypto(
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex))
    )


def _holds(key: RingKey, signature: Any, pae: bytes) -> bool:
    from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError

    try:
        _key(key.public_hex).verify_signature(signature, pae)
    except (UnverifiedSignatureError, VerificationError, ValueError):
        return False
    return True


def _signer() -> Any:
    try:
        from securesystemslib import signer as module
    except ImportError:
        raise MissingExtra("signing needs: pip install 'starloom[skills]'") from None
    return module
