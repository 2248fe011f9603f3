"""KV of a prompt from the worker that computes it to the one that goes on: see `base`."""

from starloom.serve.engines.handover.address import listen_tcp, listen_unix
from starloom.serve.engines.handover.base import HandoverError
from starloom.serve.engines.handover.desk import Desk

__all__ = ["Desk", "HandoverError", "listen_tcp", "listen_unix"]
