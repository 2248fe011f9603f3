"""What can go wrong in the `optics` room.

OpticsError       the root
├── BadLink       a link's values do not go together; names the part and the fix
├── BadTopology   a GNPy topology has an element or a parameter that we cannot read
└── NoPlots       a picture is asked for and matplotlib is not installed

What is wrong in a link file, with its line, is a `SiteError` as for every file of starloom.
"""


class OpticsError(Exception):
    """The root of this room's errors."""


class BadLink(OpticsError):
    """Values that do not go together; the message names the part and the fix."""


class BadTopology(OpticsError):
    """A GNPy topology that cannot be read; the message names the element."""


class NoPlots(OpticsError):
    """A picture is asked for, and the extra `plots` is not installed."""
