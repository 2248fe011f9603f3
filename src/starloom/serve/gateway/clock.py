"""Time as the gateway sees it, injected so that tests need no patching."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    wall: Callable[[], float] = time.time
    """Seconds since 1970, for people."""
    mono: Callable[[], float] = time.monotonic
    """Seconds that never go back, for durations."""
