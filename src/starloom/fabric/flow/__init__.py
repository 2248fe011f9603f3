"""Flows as a fluid: max-min fair rates on closed-form routes, from event to event."""

from starloom.fabric.flow.core import FlowCore

__all__ = ["FlowCore"]
