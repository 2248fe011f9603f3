"""API keys: made once, shown once, kept as hashes."""

import hashlib
import secrets

from starloom.site import Site


def make_key() -> tuple[str, str]:
    """A new key with 256 random bits, and its SHA-256 in hex.

    A plain hash is enough for a key that nobody can guess; slow hashes are for passwords.
    """
    key = f"sk-starloom-{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


def tenant_keys(site: Site) -> tuple[dict[str, list[str]], str | None]:
    """Hashes by tenant; and the key that was made because the site has none."""
    keys = {tenant.name: list(tenant.key_sha256) for tenant in site.tenants}
    if any(keys.values()):
        return keys, None
    key, digest = make_key()
    name = site.tenants[0].name if site.tenants else "default"
    return {**keys, name: [digest]}, key
