"""What can go wrong in the `kv` room.

KvError
├── PoolUnavailable   the pool cannot be reached, or did not answer in time: treat it as a miss
│   └── NotAdmitted   a node does not know this tenant's key, or is not the node that it says
├── PoolProtocolError a frame that no peer of ours sends
├── BlockTooLarge     a block does not fit the pool's slot
├── NoSharedMemory    this system cannot give the pool its memory
└── BadSecret         a file of keys or certificates cannot be used
"""


class KvError(Exception):
    """The root of this room's errors."""


class PoolUnavailable(KvError):
    """The pool cannot be reached or did not answer in time. It is only a miss: recompute."""


class NotAdmitted(PoolUnavailable):
    """Node and client do not prove to each other who they are."""


class PoolProtocolError(KvError):
    """The peer sent a frame that the protocol does not know. The connection is closed."""


class BlockTooLarge(KvError):
    """A block is larger than the slots of the pool."""


class NoSharedMemory(KvError):
    """The system cannot give the pool its memory."""


class BadSecret(KvError):
    """A file of keys or certificates is absent, readable by others, or holds something else."""
