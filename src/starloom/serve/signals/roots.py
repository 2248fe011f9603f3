"""Which root of ours an engine's chain of blocks starts from.

The gateway sends vLLM and SGLang a `cache_salt` that *is* the request's root key in hex. The root
binds model, block size, tenant and the client's own salt (`kv.keys.root_key`), so that upstream
caches are walled off exactly as ours are, and an event that carries the salt tells the root without
any table of tenants. It is a hash: it tells upstream no name and no secret.

Blocks without our salt were computed for somebody else's requests; ours carry a salt and could
never reuse them. They are ignored, unless the worker is given over to one tenant
(`kv_events.tenant`).
"""

from collections.abc import Callable

from starloom.kv.keys import KEY_BYTES

SALT_PREFIX = "starloom-"

RootOf = Callable[[str | None, str | None], bytes | None]
"""(cache salt, adapter's name) of a chain's first block -> our root; None when it is not ours."""


def cache_salt(root: bytes) -> str:
    """The `cache_salt` of a request whose keys start from `root`."""
    return SALT_PREFIX + root.hex()


def root_of_salt(salt: str) -> bytes | None:
    """The root in a salt of ours; None for anybody else's."""
    if not salt.startswith(SALT_PREFIX):
        return None
    try:
        root = bytes.fromhex(salt[len(SALT_PREFIX) :])
    except ValueError:
        return None
    return root if len(root) == KEY_BYTES else None


def roots(unsalted: bytes | None = None, lora_name: str | None = None) -> RootOf:
    """Salted chains by their salt; unsalted ones of adapter `lora_name` start from `unsalted`.

    A salt of ours names the model that the request asked for, and so its adapter too. Without a
    salt the adapter must be the worker's own, or another model's blocks would be taken for this
    one's.
    """

    def root_of(salt: str | None, adapter: str | None) -> bytes | None:
        if salt is not None:
            return root_of_salt(salt)
        return unsalted if adapter == lora_name else None

    return root_of
