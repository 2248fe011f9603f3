"""Which pool an engine's configuration means, and keys that engines' own names become."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from blake3 import blake3

from starloom.kv.base import Pool
from starloom.kv.client import PoolClient
from starloom.kv.remote import NodeAddress, RemotePool, Secret, client_context
from starloom.kv.remote.auth import OPEN_SECRET
from starloom.kv.transport.resp import RespPool

TIMEOUT_S = 1.0
SETTINGS = {"pool", "timeout_s", "tenant", "key_file", "ca_file"}
"""What `open_pool` takes out of an engine's configuration."""


def open_pool(
    pool: str,
    timeout_s: float = TIMEOUT_S,
    *,
    tenant: str = "",
    key_file: str = "",
    ca_file: str = "",
) -> Pool:
    """A pool by its address; nothing is connected yet. Raises ValueError, `BadSecret`.

    `pool:///run/starloom/pool.sock` is the pool of a site on this host,
    `nodes:a=tls://10.0.0.1:7801,b=tls://10.0.0.2:7801` are nodes of `starloom kv serve` (with
    `tenant` and its `key_file`, and `ca_file` for TLS), `redis://HOST:PORT` and
    `rediss://HOST:PORT` are Valkey or Redis. Secrets are read from files, since engines log their
    configuration.
    """
    address = pool
    parts = urlsplit(address)
    if parts.scheme == "pool" and parts.path.startswith("/") and not parts.netloc:
        return PoolClient(Path(parts.path), timeout_s)
    if address.startswith("nodes:"):
        nodes = [NodeAddress.read(each) for each in address.removeprefix("nodes:").split(",")]
        secret = Secret.read(tenant, Path(key_file)) if key_file else OPEN_SECRET
        tls = client_context(Path(ca_file)) if ca_file else None
        return RemotePool(nodes, secret=secret, timeout_s=timeout_s, tls=tls)
    if parts.scheme in {"redis", "rediss"}:
        password = Path(key_file).read_text().strip() if key_file else ""
        tls = client_context(Path(ca_file)) if ca_file else None
        return RespPool(address, timeout_s=timeout_s, password=password, tls=tls)
    raise ValueError(
        f"{parts.scheme!r} is no address of a pool: write pool:///PATH, "
        "nodes:NAME=tcp://HOST:PORT,... or redis://HOST:PORT"
    )


def wall(*names: object) -> bytes:
    """A root for keys that must never meet others': every name in it counts, and their order."""
    hasher = blake3(b"starloom.kv.connector.v1")
    for name in names:
        field = str(name).encode()
        hasher.update(len(field).to_bytes(4, "big"))
        hasher.update(field)
    return hasher.digest()


def keyed(root: bytes, name: bytes) -> bytes:
    """Our key of a block that an engine has named; its name covers the whole prefix already."""
    return blake3(name, key=root).digest()


def held_keys(pool: Pool, keys: Sequence[bytes]) -> list[bool]:
    """Of each key, whether its block is held; there may be holes. Raises `PoolUnavailable`."""
    found: list[bool] = []
    while len(found) < len(keys):
        count = pool.longest_prefix(keys[len(found) :])
        found += [True] * count
        if len(found) < len(keys):
            found.append(False)
    return found
