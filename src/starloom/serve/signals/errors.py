"""What can go wrong while signals of upstream servers are read.

SignalError
├── BadBatch     a KV event batch that no known server publishes
├── BadPage      a metrics page without the families that its kind must have, or one too large
└── NoZmq        KV events are configured and pyzmq is not installed
"""


class SignalError(Exception):
    """The root. A signal that fails is a signal that is missing: requests go on without it."""


class BadBatch(SignalError):
    """A payload that is not a batch of KV events."""


class BadPage(SignalError):
    """A metrics page that does not say what its kind must say."""


class NoZmq(SignalError):
    """KV events need pyzmq."""
