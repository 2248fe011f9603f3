"""Who a peer is: proofs in the manner of SCRAM, and the files that hold keys.

A tenant's key is 32 random bytes in a file of the client's. A node keeps only a *verifier* of it:

    client key = HMAC(key, "starloom kv client")    stored = SHA-256(client key)
    server key = HMAC(key, "starloom kv server")    verifier = (stored, server key)

    proof     = client key XOR HMAC(stored, transcript)     made by the client
    signature = HMAC(server key, transcript + proof)        made by the node, checked by the client

with the transcript of both HELLO bodies, nonces and versions in them (RFC 5802; a key of 256 random
bits needs neither salt nor iterations). So a key never goes over the wire, not even hashed; nothing
that was heard can be said again; a verifier alone lets nobody in (with a proof that was heard it
does: its file is private too); and a node without it cannot take a tenant's blocks. After the proof
a plain connection is as safe as its network: use TLS where others can reach into it.

Each verifier has a *namespace*: a node stores a tenant's block under blake3(key, keyed by that).
Another tenant's block cannot be named by any request, so asking tells nothing, in how long the
answer takes either: it is the answer to a question about a key that was never stored.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from blake3 import blake3

from starloom.kv.errors import BadSecret
from starloom.kv.remote.frames import PROOF_BYTES

OPEN_TENANT = "open"
"""Who everybody is on a node without tenants."""
_PREFIX = "slkv-"
_KEY_BYTES = 32
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
_CONTEXT = "starloom kv namespace v1"


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A tenant's key, as its clients have it."""

    tenant: str
    key: bytes

    @classmethod
    def new(cls, tenant: str) -> Self:
        """Raises `BadSecret` for a name that no tenant can have."""
        return cls(_checked(tenant, "the tenant"), secrets.token_bytes(_KEY_BYTES))

    @classmethod
    def read(cls, tenant: str, path: Path) -> Self:
        """From a file that only its owner can read. Raises `BadSecret`."""
        text = _private(path).strip()
        try:
            key = base64.urlsafe_b64decode(text.removeprefix(_PREFIX) + "=")
        except (ValueError, binascii.Error):
            key = b""
        if not text.startswith(_PREFIX) or len(key) != _KEY_BYTES:
            raise BadSecret(f"{path} holds no key: make one by `starloom kv key {tenant}`")
        return cls(_checked(tenant, str(path)), key)

    def text(self) -> str:
        """As it stands in a key file."""
        return _PREFIX + base64.urlsafe_b64encode(self.key).decode().rstrip("=")

    def verifier(self) -> "Verifier":
        client_key = _mac(self.key, b"starloom kv client")
        server_key = _mac(self.key, b"starloom kv server")
        return Verifier(hashlib.sha256(client_key).digest(), server_key)

    def proof(self, transcript: bytes) -> bytes:
        client_key = _mac(self.key, b"starloom kv client")
        return _xor(client_key, _mac(self.verifier().stored, transcript))

    def signed(self, transcript: bytes, proof: bytes, signature: bytes) -> bool:
        """Whether the node that signed has this key's verifier."""
        due = _mac(self.verifier().server_key, transcript + proof)
        return hmac.compare_digest(due, signature)


@dataclass(frozen=True, slots=True, repr=False)
class Verifier:
    """What a node keeps of a tenant's key."""

    stored: bytes
    server_key: bytes

    def proves(self, transcript: bytes, proof: bytes) -> bool:
        """Whether the one who made the proof has the key."""
        client_key = _xor(proof, _mac(self.stored, transcript))
        return hmac.compare_digest(hashlib.sha256(client_key).digest(), self.stored)

    def sign(self, transcript: bytes, proof: bytes) -> bytes:
        return _mac(self.server_key, transcript + proof)

    @property
    def namespace(self) -> "Namespace":
        material = self.stored + self.server_key
        return Namespace(blake3(material, derive_key_context=_CONTEXT).digest())


class Namespace:
    """Keys of one tenant into the keys that its blocks lie under."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def inner(self, key: bytes) -> bytes:
        return blake3(key, key=self._key).digest()


class Tenants:
    """The verifiers that a node knows, by tenant: several while a tenant changes its keys.

    A node without a file is open: it takes everybody for one tenant.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Raises `BadSecret`."""
        self._path = path
        self._nobody = Secret.new("nobody").verifier()
        self._stamp = _stamp(path)
        self._verifiers = {} if path is None else _read_tenants(path)

    @property
    def open(self) -> bool:
        return self._path is None

    def admit(self, tenant: str, transcript: bytes, proof: bytes) -> Verifier | None:
        """The verifier that a proof fits. Takes as long for a tenant that there is not."""
        if self.open:
            return OPEN
        found = None
        for verifier in self._verifiers.get(tenant) or (self._nobody,):
            if verifier.proves(transcript, proof) and verifier is not self._nobody:
                found = verifier
        return found

    def knows(self, tenant: str, verifier: Verifier) -> bool:
        return self.open or verifier in self._verifiers.get(tenant, ())

    def refresh(self) -> bool:
        """Read the file again if it has changed; whether it had. Raises `BadSecret`, unchanged."""
        stamp = _stamp(self._path)
        if self._path is None or stamp == self._stamp:
            return False
        self._stamp = stamp
        self._verifiers = _read_tenants(self._path)
        return True


def tenant_line(tenant: str, verifier: Verifier) -> str:
    """A line of a tenants file."""
    return f"{tenant} {verifier.stored.hex()} {verifier.server_key.hex()}"


def write_private(path: Path, text: str) -> None:
    """A new file that only its owner can read. Raises `BadSecret` where there is one already."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise BadSecret(f"{path} cannot be made: {error.strerror}") from error
    with os.fdopen(fd, "w") as file:
        file.write(text)


def _private(path: Path) -> str:
    """What a file says that nobody but its owner (or root) can read. Raises `BadSecret`."""
    try:
        with path.open(encoding="ascii") as file:
            stat = os.fstat(file.fileno())
            if stat.st_mode & 0o077 or stat.st_uid not in {os.geteuid(), 0}:
                raise BadSecret(f"{path} can be read by others: chmod 600 {path}")
            return file.read(1 << 20)
    except OSError as error:
        raise BadSecret(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadSecret(f"{path} is no text file of ours") from error


def _read_tenants(path: Path) -> dict[str, tuple[Verifier, ...]]:
    found: dict[str, tuple[Verifier, ...]] = {}
    for number, line in enumerate(_private(path).splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path}:{number}"
        try:
            name, stored, server_key = words
            verifier = Verifier(bytes.fromhex(stored), bytes.fromhex(server_key))
        except ValueError as error:
            raise BadSecret(f"{where}: write `TENANT STORED SERVER_KEY`") from error
        if {len(verifier.stored), len(verifier.server_key)} != {PROOF_BYTES}:
            raise BadSecret(f"{where}: both figures must have {2 * PROOF_BYTES} hex digits")
        found[name] = (*found.get(_checked(name, where), ()), verifier)
    if not found:
        raise BadSecret(f"{path} names no tenant: add lines that `starloom kv key NAME` prints")
    return found


def _checked(tenant: str, where: str) -> str:
    if not _NAME.match(tenant):
        raise BadSecret(f"{where}: {tenant!r} is no tenant's name: use a-z, 0-9, `.`, `_` and `-`")
    return tenant


def _stamp(path: Path | None) -> tuple[int, int] | None:
    try:
        stat = path.stat() if path else None
    except OSError:
        return None
    return stat and (stat.st_mtime_ns, stat.st_ino)


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


OPEN_SECRET = Secret(OPEN_TENANT, bytes(_KEY_BYTES))
"""What a client without a key proves itself by: no secret at all."""
OPEN = OPEN_SECRET.verifier()
