"""TRSF: trustworthy reasoning with structured facts. Bytes, notes, facts, and why."""

from starloom.agents.facts.base import (
    Backend,
    Embedder,
    Fact,
    Hit,
    Note,
    Query,
    Side,
    Source,
    fact_key,
)
from starloom.agents.facts.embed import Endpoint, LocalEmbedder
from starloom.agents.facts.factbase import FactBase, Ground, Why
from starloom.agents.facts.promote import promote
from starloom.agents.facts.sqlite import SqliteFacts

__all__ = [
    "Backend",
    "Embedder",
    "Endpoint",
    "Fact",
    "FactBase",
    "Ground",
    "Hit",
    "LocalEmbedder",
    "Note",
    "Query",
    "Side",
    "Source",
    "SqliteFacts",
    "Why",
    "fact_key",
    "promote",
]
