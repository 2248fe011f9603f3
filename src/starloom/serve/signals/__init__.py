"""What upstream servers say of themselves: which KV blocks they hold, and how busy they are."""

from starloom.serve.signals.base import (
    Cleared,
    Counts,
    KeySink,
    Load,
    NeedReplay,
    Operation,
    Removed,
    Stored,
    Tier,
)
from starloom.serve.signals.board import LoadBoard
from starloom.serve.signals.build import Signals
from starloom.serve.signals.errors import BadBatch, BadPage, NoZmq, SignalError
from starloom.serve.signals.metrics import load
from starloom.serve.signals.reader import EventReader
from starloom.serve.signals.roots import cache_salt, root_of_salt, roots
from starloom.serve.signals.scrape import MetricsSource, Pace, http_fetch
from starloom.serve.signals.source import KvEventSource, Publisher

__all__ = [
    "BadBatch",
    "BadPage",
    "Cleared",
    "Counts",
    "EventReader",
    "KeySink",
    "KvEventSource",
    "Load",
    "LoadBoard",
    "MetricsSource",
    "NeedReplay",
    "NoZmq",
    "Operation",
    "Pace",
    "Publisher",
    "Removed",
    "SignalError",
    "Signals",
    "Stored",
    "Tier",
    "cache_salt",
    "http_fetch",
    "load",
    "root_of_salt",
    "roots",
]
