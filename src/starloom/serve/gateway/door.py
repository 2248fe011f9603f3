"""What a request's headers must say before anything else is looked at.

`Host` names us (else a page whose name was rebound to our address could speak to us), and a
browser's `Origin` is one that the site allows (else any page could).
"""

import ipaddress
import math
import re

from starloom.serve.errors import BadRequest, Forbidden
from starloom.serve.http import RawHeaders
from starloom.site import Gateway

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_SANE_NAMES = re.compile(rb"[A-Za-z0-9_, -]{1,1024}")
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(:\d{1,5})?")
KEPT = frozenset(
    {
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"authorization",
        b"x-api-key",
        b"traceparent",
        b"tracestate",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"expect",
        b"x-request-id",
        b"access-control-request-headers",
        b"x-starloom-route",
        b"x-starloom-lane",
        b"x-slo-ttft-ms",
        b"x-slo-tpot-ms",
        b"x-llm-d-slo-ttft-ms",
        b"x-llm-d-slo-tpot-ms",
    }
)
"""The headers that the gateway reads."""
_KNOWN_HOSTS = 256

Headers = dict[bytes, bytes]


class UnsupportedMedia(BadRequest):
    """The body is of a kind that is not read."""

    status, code = 415, "unsupported_media_type"


class NoSuchPage(BadRequest):
    status, code = 404, "not_found"


class WrongMethod(BadRequest):
    """`allow` names the methods that are answered there."""

    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message)
        self._allow = allow

    def headers(self) -> list[tuple[str, str]]:
        return [("allow", self._allow)]


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

    def check_host(self, host: bytes | None, *, repeated: bool = False) -> None:
        """Raises `Forbidden` unless the request was meant for us, `BadRequest` for two of them."""
        if repeated:
            raise BadRequest("more than one Host header")
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


def target_s(headers: Headers, what: bytes) -> float | None:
    """What the client wants of `what` (`ttft` or `tpot`), by our header or llm-d's.

    Raises `BadRequest`.
    """
    for prefix in (b"x-slo-", b"x-llm-d-slo-"):
        stated = headers.get(prefix + what + b"-ms")
        if stated is not None:
            try:
                wanted_ms = float(stated)
            except ValueError:
                wanted_ms = 0.0
            if not 0 < wanted_ms < math.inf:
                name = (prefix + what).decode()
                raise BadRequest(f"the header {name}-ms takes milliseconds above 0")
            return wanted_ms / 1e3
    return None


def check_json(headers: Headers) -> None:
    """A POST carries plain JSON: a form of a hostile page, which needs no preflight, does not."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise UnsupportedMedia("send the body as `Content-Type: application/json`")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMedia("compressed bodies are not read")


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
