"""TLS contexts out of certificate files. Who a client is, its key says: TLS hides and seals."""

import ssl
from pathlib import Path

from starloom.kv.errors import BadSecret


def client_context(ca: Path) -> ssl.SSLContext:
    """Trusts what `ca` has signed, and checks the host's name. Raises `BadSecret`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise BadSecret(f"{ca} holds no certificates: {error}") from error
    return context


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A node's certificate chain and its private key. Raises `BadSecret`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if key.stat().st_mode & 0o077:
            raise BadSecret(f"{key} can be read by others: chmod 600 {key}")
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise BadSecret(f"{cert} and {key} are no certificate and its key: {error}") from error
    return context
