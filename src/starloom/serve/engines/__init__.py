"""Engines: worker processes of ours behind sockets, and servers that speak OpenAI's API."""

from collections.abc import Callable
from typing import Protocol

from starloom.serve.base import Engine
from starloom.serve.engines.openai import OpenAIEngine
from starloom.serve.engines.remote import RemoteEngine
from starloom.serve.models import ModelFiles
from starloom.serve.rundir import RunDir
from starloom.site import OpenAIWorker, Site

__all__ = ["OpenAIEngine", "RemoteEngine", "WatchedEngine", "connect"]


class WatchedEngine(Engine, Protocol):
    """An engine that says when it comes and goes. Both are called with its name, in the loop."""

    on_up: Callable[[str], None] | None
    on_down: Callable[[str], None] | None


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
