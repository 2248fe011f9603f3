"""When to ask a node again that has failed. Pure.

One failure is enough to leave a node alone: whoever met it paid up to a whole time limit. It is
tried again by one caller after a rest that doubles with each failure in a row.
"""

FIRST_REST_S, LAST_REST_S = 0.5, 30.0


class Circuit:
    """Told of each call's end, asked before each begin."""

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self.why = ""
        """The last failure while not closed."""
        self._retry_at_s = 0.0

    @property
    def closed(self) -> bool:
        """Whether the last call did what it should."""
        return not self.failures

    def usable(self, now_s: float) -> bool:
        """Whether a call may be tried. Changes nothing."""
        return self.closed or now_s >= self._retry_at_s

    def begin(self, now_s: float) -> bool:
        """Whether to call now. After a rest one caller may; the others wait for what it finds."""
        if not self.usable(now_s):
            return False
        if self.failures:
            self._retry_at_s = now_s + self._rest_s()
        return True

    def worked(self) -> None:
        self.failures, self.why = 0, ""

    def failed(self, now_s: float, why: str) -> None:
        self.failures += 1
        self.why = why
        self._retry_at_s = now_s + self._rest_s()

    def _rest_s(self) -> float:
        return float(min(FIRST_REST_S * 2.0 ** min(self.failures - 1, 10), LAST_REST_S))
