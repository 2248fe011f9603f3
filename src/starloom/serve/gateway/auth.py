"""Who asks: keys are known by their SHA-256 alone, and failures are throttled by address."""

import hashlib
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from starloom.serve.errors import NotAuthenticated, Throttled

_ADDRESSES = 4096
_V6_NETWORK_BITS = 64
"""One client of IPv6 has a whole network of addresses."""


class Throttle:
    """A bucket of failures per client address; the least recently failing addresses go first."""

    def __init__(self, per_min: int, now: Callable[[], float]) -> None:
        self._per_min = per_min
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def failed(self, address: str) -> float:
        """Count a failure. 0 while the bucket has room, else the seconds until it has."""
        name = _network(address)
        now = self._now()
        left, at = self._buckets.pop(name, (float(self._per_min), now))
        left = min(left + (now - at) * self._per_min / 60, float(self._per_min))
        allowed = left >= 1
        self._buckets[name] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) * 60 / self._per_min


class Keys:
    """Bearer keys, and the tenants that they belong to."""

    def __init__(self, keys: Mapping[str, Sequence[str]], throttle: Throttle) -> None:
        self._tenants = {digest: tenant for tenant, digests in keys.items() for digest in digests}
        self._throttle = throttle
        self.failures = 0

    def tenant(self, authorization: bytes | None, address: str) -> str:
        """The tenant of a request. A right key passes, however many wrong ones came before."""
        scheme, _, key = (authorization or b"").partition(b" ")
        if scheme.lower() == b"bearer":
            tenant = self._tenants.get(hashlib.sha256(key.strip()).hexdigest())
            if tenant is not None:
                return tenant
        self.failures += 1
        wait_s = self._throttle.failed(address)
        if wait_s > 0:
            raise Throttled("too many wrong keys from this address", retry_after_s=wait_s)
        what = "the API key is unknown" if authorization else "an API key is needed"
        raise NotAuthenticated(f"{what}: send it as `Authorization: Bearer KEY`")


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        full = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if full.ipv4_mapped is not None:
        return str(full.ipv4_mapped)
    return str(int(full) >> (128 - _V6_NETWORK_BITS))
