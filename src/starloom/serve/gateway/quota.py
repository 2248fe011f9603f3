"""What a tenant may use a minute: requests, and tokens of prompts and answers.

A bucket each, refilled steadily, that holds one minute's worth. Gateways that share a site tell
each other what they let through (`serve.peers`), so that a tenant has one bucket, not one a
gateway; what is on its way between them can be overdrawn, and is paid back before anything more is
let in.
"""

from collections.abc import Callable, Mapping

from starloom.serve.errors import Throttled
from starloom.serve.http import RawHeaders
from starloom.serve.peers import Spent
from starloom.site import Tenant


class Bucket:
    """`per_min` units a minute, at most a minute's worth at once; debts are paid back first."""

    __slots__ = ("_at_s", "_left", "per_min")

    def __init__(self, per_min: int, now_s: float) -> None:
        self.per_min = per_min
        self._left = float(per_min)
        self._at_s = now_s

    def left(self, now_s: float) -> float:
        """Units that can be taken now; below zero after debts."""
        filled = self._left + (now_s - self._at_s) * self.per_min / 60
        self._left, self._at_s = min(filled, float(self.per_min)), now_s
        return self._left

    def wait_s(self, units: float, now_s: float) -> float:
        """Seconds until `units` can be taken. More than it ever holds counts as all of it."""
        short = min(units, float(self.per_min)) - self.left(now_s)
        return max(short, 0.0) * 60 / self.per_min

    def take(self, units: float, now_s: float) -> None:
        """Take, into debt if need be."""
        self._left = self.left(now_s) - units


class _Account:
    __slots__ = ("requests", "spent", "tokens")

    def __init__(self, tenant: Tenant | None, now_s: float) -> None:
        requests = tenant.requests_per_min if tenant is not None else None
        tokens = tenant.tokens_per_min if tenant is not None else None
        self.requests = None if requests is None else Bucket(requests, now_s)
        self.tokens = None if tokens is None else Bucket(tokens, now_s)
        self.spent = Spent()


class Quotas:
    """The accounts of tenants that have a quota; others are let through and not counted."""

    def __init__(self, tenants: Mapping[str, Tenant], now: Callable[[], float]) -> None:
        self._now = now
        self._accounts = {
            name: _Account(tenant, now())
            for name, tenant in tenants.items()
            if tenant.requests_per_min is not None or tenant.tokens_per_min is not None
        }

    def admit(self, tenant: str) -> RawHeaders:
        """Count a request. Raises `Throttled`; else headers that tell what is left."""
        account = self._accounts.get(tenant)
        if account is None:
            return []
        now_s = self._now()
        if account.requests is not None:
            wait_s = account.requests.wait_s(1.0, now_s)
            if wait_s > 0:
                raise Throttled("the tenant's requests a minute are used up", retry_after_s=wait_s)
            account.requests.take(1.0, now_s)
            account.spent = Spent(account.spent.requests + 1, account.spent.tokens)
        return _headers(account, now_s)

    def take(self, tenant: str, tokens: int) -> None:
        """Count a prompt. Raises `Throttled` where it must wait for tokens."""
        account = self._accounts.get(tenant)
        if account is None or account.tokens is None:
            return
        wait_s = account.tokens.wait_s(tokens, self._now())
        if wait_s > 0:
            raise Throttled("the tenant's tokens a minute are used up", retry_after_s=wait_s)
        self.settle(tenant, tokens)

    def settle(self, tenant: str, tokens: int) -> None:
        """So many more tokens were used than were counted, or fewer (negative)."""
        account = self._accounts.get(tenant)
        if account is None or account.tokens is None:
            return
        account.tokens.take(tokens, self._now())
        account.spent = Spent(account.spent.requests, account.spent.tokens + tokens)

    def spent(self) -> dict[str, Spent]:
        """What was let through here, since the beginning."""
        return {name: account.spent for name, account in self._accounts.items()}

    def others_spent(self, tenant: str, more: Spent) -> None:
        """Another gateway let so much more through."""
        account = self._accounts.get(tenant)
        if account is None:
            return
        now_s = self._now()
        if account.requests is not None:
            account.requests.take(more.requests, now_s)
        if account.tokens is not None:
            account.tokens.take(more.tokens, now_s)


def _headers(account: _Account, now_s: float) -> RawHeaders:
    """OpenAI's names."""
    headers: RawHeaders = []
    for kind, bucket in ((b"requests", account.requests), (b"tokens", account.tokens)):
        if bucket is not None:
            left = max(int(bucket.left(now_s)), 0)
            headers += [
                (b"x-ratelimit-limit-" + kind, b"%d" % bucket.per_min),
                (b"x-ratelimit-remaining-" + kind, b"%d" % left),
            ]
    return headers
