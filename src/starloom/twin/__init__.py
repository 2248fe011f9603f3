"""The factory in simulated time: traces in, the very policies of `serve`, times out."""

from starloom.twin.replay import Record, Replay, Summary, Workers, replay
from starloom.twin.timing import MockerTimer, RooflineTimer, StepTimer
from starloom.twin.trace import Request, TraceError, chats, load

__all__ = [
    "MockerTimer",
    "Record",
    "Replay",
    "Request",
    "RooflineTimer",
    "StepTimer",
    "Summary",
    "TraceError",
    "Workers",
    "chats",
    "load",
    "replay",
]
