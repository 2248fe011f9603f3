"""What can go wrong in the `fabric` room.

FabricError          the root
├── BadScenario      values that do not go together: a host that is not there, a size below zero
├── TooLarge         a run would take more memory or more events than it may; nothing was taken yet
├── NoSimulator      a core is asked for and Numba is not installed (extra `sim`)
└── NoPlots          a picture is asked for and matplotlib is not installed (extra `plots`)

What is wrong in a scenario file, with its line, is a `SiteError` as for every file of starloom.
"""


class FabricError(Exception):
    """The root of this room's errors."""


class BadScenario(FabricError):
    """Values that do not go together; the message names the part and the fix."""


class TooLarge(FabricError):
    """A run that would not fit; the message says what it needs, what it may have, what to cut."""


class NoSimulator(FabricError):
    """A compiled core is asked for, and the extra `sim` is not installed."""


class NoPlots(FabricError):
    """A picture is asked for, and the extra `plots` is not installed."""
