"""Agents whose conclusions can be traced and checked.

`camv` decides what several experts' answers are worth and which of them to audit; `facts` keeps
what tools returned, what was read out of it, and what was verified. Models are reached from
outside, through an OpenAI-compatible API: nothing here opens a socket but `facts.embed.Endpoint`.
"""

from starloom.agents.errors import (
    AgentError,
    CalibrationError,
    ExpressionError,
    FactError,
    MissingExtra,
    SpanMismatch,
    StoreError,
    UnknownFact,
)

__all__ = [
    "AgentError",
    "CalibrationError",
    "ExpressionError",
    "FactError",
    "MissingExtra",
    "SpanMismatch",
    "StoreError",
    "UnknownFact",
]
