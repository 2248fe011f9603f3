"""What can go wrong in `fabric.collectives`.

FabricError              (of the room)
└── BadCollective        a group, domain, size or algorithm that does not go together
"""

from starloom.fabric.errors import FabricError


class BadCollective(FabricError):
    """Values that do not go together; the message names them and the fix."""
