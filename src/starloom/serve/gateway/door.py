"""What a request's headers must say before anything else is looked at.

`Host` names us (else a page whose name was rebound to our address could speak to us), and a
browser's `Origin` is one that the site allows (else any page could).
"""

import ipaddress
import re
from collections.abc import Sequence

from starloom.serve.errors import BadRequest, Forbidden
from starloom.site import Gateway

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_SANE_NAMES = re.compile(rb"[A-Za-z0-9_, -]{1,1024}")
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(:\d{1,5})?")
_WANTED = frozenset(
    {
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"authorization",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"expect",
        b"x-request-id",
        b"access-control-request-headers",
    }
)
_KNOWN_HOSTS = 256

RawHeaders = list[tuple[bytes, bytes]]
Headers = dict[bytes, bytes]


class UnsupportedMedia(BadRequest):
    """The body is of a kind that is not read."""

    status, code = 415, "unsupported_media_type"


class NoSuchPage(BadRequest):
    status, code = 404, "not_found"


class WrongMethod(BadRequest):
    status, code = 405, "method_not_allowed"


def wanted(headers: RawHeaders) -> Headers:
    """The headers that the gateway reads. A second `Host` is refused; else the first one counts."""
    found: Headers = {}
    for name, value in headers:
        if name in _WANTED:
            if name in found:
                if name == b"host":
                    raise BadRequest("more than one Host header")
                continue
            found[name] = value
    return found


def sane_id(headers: Headers) -> str | None:
    """The client's own request id, where it is fit for a log."""
    value = headers.get(b"x-request-id")
    return value.decode() if value is not None and _SANE_ID.fullmatch(value) else None


class Door:
    """The checks of `Host` and `Origin`, and the answers that browsers need."""

    def __init__(self, gateway: Gateway) -> None:
        self._names = {name.lower() for name in ("localhost", gateway.host, *gateway.allowed_hosts)}
        self._origins = {origin.encode() for origin in gateway.allowed_origins}
        self._good: set[bytes] = set()

    def check_host(self, host: bytes | None) -> None:
        """Raises `Forbidden` unless the request was meant for us."""
        if host in self._good:
            return
        if host is None or not self._is_ours(host.decode("latin-1").lower()):
            raise Forbidden("the Host header does not name this gateway (see `allowed_hosts`)")
        if len(self._good) < _KNOWN_HOSTS:
            self._good.add(host)

    def check_origin(self, headers: Headers) -> RawHeaders:
        """Headers for a page that may call; none for other clients. Raises `Forbidden`."""
        origin = headers.get(b"origin")
        if origin is None:
            if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
                raise Forbidden("web pages of other sites may not call")
            return []
        if origin not in self._origins:
            raise Forbidden("this Origin may not call (see `allowed_origins`)")
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"x-request-id, retry-after"),
            (b"vary", b"origin"),
        ]

    def preflight(self, headers: Headers) -> RawHeaders:
        """What an allowed page may send."""
        names = headers.get(b"access-control-request-headers", b"")
        if not _SANE_NAMES.fullmatch(names):
            names = b"authorization, content-type"
        return [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", names),
            (b"access-control-max-age", b"600"),
        ]

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].strip("[]")
        return name in self._names or _is_loopback(name)


def check_json(headers: Headers) -> None:
    """A POST carries plain JSON: a form of a hostile page, which needs no preflight, does not."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise UnsupportedMedia("send the body as `Content-Type: application/json`")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMedia("compressed bodies are not read")


def address(client: Sequence[object] | None) -> str:
    """The client's address in an ASGI scope."""
    return str(client[0]) if client else ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
