"""Requests that a worker has from others than the site's gateways, judged from what it says."""

from collections import deque

_AGREED = 3
"""A server and a gateway do not count at the same instant, and requests come and go between: what
is believed is what so many reports in a row agree on."""


class Strangers:
    """Of one worker, as long as it is up."""

    def __init__(self) -> None:
        self._more: deque[tuple[int, int]] = deque(maxlen=_AGREED)

    def told(self, running: int, waiting: int, ours: int, our_prefills: int) -> tuple[int, int]:
        """How many requests are not `ours`, and how many of these wait for their first token.

        `running` and `waiting` are what the worker says of all its requests.
        """
        more = max(running + waiting - ours, 0)
        queued = min(max(waiting - our_prefills, 0), more)
        self._more.append((more, queued))
        if len(self._more) < _AGREED:
            return 0, 0
        return min(it[0] for it in self._more), min(it[1] for it in self._more)
