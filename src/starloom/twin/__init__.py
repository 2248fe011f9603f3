"""The factory in simulated time: traces in, the very policies of `serve`, times out."""

from starloom.twin.agents import AgentLoad, agents
from starloom.twin.pool import (
    PoolRun,
    Prompt,
    belady,
    chat_prompts,
    prompts,
    replay_pool,
    returning,
)
from starloom.twin.replay import Record, Replay, Summary, Workers, replay
from starloom.twin.timing import MockerTimer, RooflineTimer, StepTimer
from starloom.twin.trace import Request, TraceError, chats, load, spread

__all__ = [
    "AgentLoad",
    "MockerTimer",
    "PoolRun",
    "Prompt",
    "Record",
    "Replay",
    "Request",
    "RooflineTimer",
    "StepTimer",
    "Summary",
    "TraceError",
    "Workers",
    "agents",
    "belady",
    "chat_prompts",
    "chats",
    "load",
    "prompts",
    "replay",
    "replay_pool",
    "returning",
    "spread",
]
