"""Whether a disk may be used: a few failures in a row put it aside for a while. Pure.

A single bad sector costs one block; a disk that fails every time costs its callers nothing, for it
is asked once in a while only, until it answers.
"""

FAILURES = 3
FIRST_REST_S, LAST_REST_S = 1.0, 60.0


class Health:
    """Told of each end of an I/O, asked before each begin."""

    def __init__(self) -> None:
        self.errors = 0
        self.why = ""
        """The last error while not well; empty when well."""
        self._in_row = 0
        self._retry_at_s = 0.0

    @property
    def well(self) -> bool:
        """Whether the last I/O did what it should."""
        return not self._in_row

    def usable(self, now_s: float) -> bool:
        """Whether to try: yes but for a rest after several failures in a row."""
        return self._in_row < FAILURES or now_s >= self._retry_at_s

    def worked(self) -> None:
        self._in_row, self.why = 0, ""

    def failed(self, now_s: float, why: str) -> None:
        self.errors += 1
        self.why = why
        self._in_row += 1
        rest_s = FIRST_REST_S * 2.0 ** min(max(self._in_row - FAILURES, 0), 10)
        self._retry_at_s = now_s + min(rest_s, LAST_REST_S)
