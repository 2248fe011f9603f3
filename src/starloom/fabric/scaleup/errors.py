"""What can go wrong in `fabric.scaleup`.

FabricError           (of the room)
├── BadFrame          bytes that are no frame: cut short, corrupt, or of another version
├── BadTransaction    a transaction that cannot be sent: too long, no such field
├── Refused           an access outside a granted window; the owner counted and reported it
└── BadSupernode      a supernode description that cannot be built; names the part and the fix
"""

from starloom.fabric.errors import FabricError


class BadFrame(FabricError):
    """Bytes that are no frame; the message says where they stop to be one."""


class BadTransaction(FabricError):
    """A transaction that cannot be sent; the message names the field and its limits."""


class Refused(FabricError):
    """An access outside a granted window. It changed nothing."""


class BadSupernode(FabricError):
    """A supernode that cannot be built; the message names the part and the fix."""
