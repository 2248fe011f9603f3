"""What can go wrong in transport.

KvError
├── TransferFailed  bytes did not get where they should
├── NotInstalled    the library of an adapter is not there
└── (PoolUnavailable and the rest of `starloom.kv.errors`, from the pools on top)
"""

from starloom.kv.errors import KvError


class TransferFailed(KvError):
    """What is at the target now is unknown. It is a miss."""


class NotInstalled(KvError):
    """An adapter's library is not installed; the message says which and how."""
