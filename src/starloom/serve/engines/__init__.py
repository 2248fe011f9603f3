"""Engines: worker processes of ours behind sockets, and servers that speak OpenAI's API."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from starloom.serve.base import Engine, Usage
from starloom.serve.disagg import Side
from starloom.serve.engines.openai import OpenAIEngine
from starloom.serve.engines.remote import RemoteEngine
from starloom.serve.errors import ServeError
from starloom.serve.http import Reply
from starloom.serve.models import ModelFiles
from starloom.serve.rundir import RunDir
from starloom.site import OpenAIWorker, Site

__all__ = ["Forwarder", "OpenAIEngine", "RemoteEngine", "WatchedEngine", "connect"]


class WatchedEngine(Engine, Protocol):
    """An engine that says when it comes and goes. Both are called with its name, in the loop."""

    on_up: Callable[[str], None] | None
    on_down: Callable[[str], None] | None


@runtime_checkable
class Forwarder(Protocol):
    """An engine that takes a client's body, and gives an answer's bytes."""

    upstream_model: str
    """The model's name there."""
    salted: bool
    """Whether its prefix cache is kept apart by `cache_salt`."""
    side: Side
    """How the other half of a request finds it."""

    async def forward(self, path: str, body: bytes, more: bytes = b"") -> Reply:
        """Send a body; the answer begins with 200. `more` are header lines.

        Raises `Unavailable` where another worker may do better, and what the client must be told.
        """

    async def ask(
        self, path: str, body: bytes, more: bytes = b""
    ) -> tuple[int, dict[str, Any] | None]:
        """Send a body and read the answer: its status, 0 for a lost one, and its JSON object."""

    def counted(self, usage: Usage) -> None:
        """Tokens of an answer that is over."""

    def lost(self, error: Exception, *, begun: bool) -> ServeError:
        """What a broken answer is to a client; `begun`: whether it has been sent a part."""


def connect(site: Site, rundir: RunDir) -> list[WatchedEngine]:
    """One engine for each worker of a site, not started yet."""
    engines: list[WatchedEngine] = []
    fingerprints: dict[str, str] = {}
    for worker in site.workers:
        if isinstance(worker, OpenAIWorker):
            engines.append(OpenAIEngine(worker))
            continue
        if worker.model not in fingerprints:
            fingerprints[worker.model] = ModelFiles(site, worker.model).fingerprint
        socket = rundir.worker_socket(worker.name)
        fingerprint = fingerprints[worker.model]
        engines.append(RemoteEngine(worker.name, worker.model, socket, fingerprint))
    return engines
