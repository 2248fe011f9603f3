"""Adapters of the pool for engines that are not ours. See docs/connectors.md.

Import the module of an engine: each brings that engine's own classes where it is installed.
"""

from starloom.kv.connectors.opening import open_pool

__all__ = ["open_pool"]
