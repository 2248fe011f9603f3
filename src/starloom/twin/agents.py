"""Seeded load of agents: many turns, most of them after a tool's answer, prefixes in common."""

import random
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, count

from starloom.twin.pool import Prompt


@dataclass(frozen=True, slots=True)
class AgentLoad:
    """The statistics that sessions are drawn by. Assumed, not measured; lengths in 512 tokens."""

    sessions_per_s: float = 0.25
    """Poisson arrivals."""
    turns: float = 12.0
    """Mean of a geometric distribution: requests of one session."""
    systems: int = 6
    """Shared system prompts with their tools, of which each session begins with one;"""
    system_blocks: tuple[int, int] = (4, 12)
    """their shortest and longest."""
    documents: int = 200
    """Shared documents; their popularity is Zipf's, with exponent 1."""
    document_blocks: tuple[int, int] = (8, 24)
    document_share: float = 0.5
    """Of sessions, which have one document behind the system prompt."""
    turn_blocks: tuple[int, int] = (1, 4)
    """What the answer and the tool's output, or the person's text, add in a turn."""
    tool_share: float = 0.8
    """Of turns, which come after a tool's pause; the others come after a person's."""
    tool_pause_s: tuple[float, float] = (4.0, 1.0)
    """Median and sigma of a log-normal distribution."""
    person_pause_s: tuple[float, float] = (60.0, 1.0)


def agents(seed: int, requests: int, load: AgentLoad | None = None) -> list[Prompt]:
    """About `requests` requests of whole sessions, in order of time."""
    load = load or AgentLoad()
    draw, fresh = random.Random(seed), count()
    systems = [_blocks(draw, fresh, load.system_blocks) for _ in range(load.systems)]
    shares = list(accumulate(1 / rank for rank in range(1, load.documents + 1)))
    documents: dict[tuple[int, int], list[int]] = {}
    drawn: list[Prompt] = []
    at_s = 0.0
    while len(drawn) < requests:
        at_s += draw.expovariate(load.sessions_per_s)
        system = draw.randrange(load.systems)
        blocks = list(systems[system])
        if draw.random() < load.document_share:
            number = bisect_left(shares, draw.random() * shares[-1])
            # a document's blocks are other ones behind another system prompt: keys are chained
            behind = documents.get((system, number))
            if behind is None:
                behind = documents[system, number] = _blocks(draw, fresh, load.document_blocks)
            blocks += behind
        when = at_s
        while True:
            blocks = blocks + _blocks(draw, fresh, load.turn_blocks)
            drawn.append(Prompt(when, blocks))
            if draw.random() < 1 / load.turns:
                break
            tool = draw.random() < load.tool_share
            median_s, sigma = load.tool_pause_s if tool else load.person_pause_s
            when += median_s * draw.lognormvariate(0.0, sigma)
    return sorted(drawn, key=lambda prompt: prompt.at_s)


def _blocks(draw: random.Random, fresh: Iterator[int], size: tuple[int, int]) -> list[int]:
    return [next(fresh) for _ in range(draw.randint(*size))]
