"""The contract of prefill and decode apart, on servers of others: which bodies go where, and when.

A `Handover` is one request's two halves as a pure state machine: it says which *legs* to send, is
told how the prefill leg went, and says what comes next. It does no I/O; the gateway sends the legs
and streams the decode leg's answer to the client as if it were the only one.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

RETRIED = frozenset({502, 503, 504})
"""Statuses of a prefill leg after which the same host is asked again: it is there, and busy."""
ATTEMPTS = 3


class Side(msgspec.Struct, frozen=True):
    """A server that was chosen for one half."""

    worker: str
    host: str
    """By which the other half reaches it."""
    bootstrap_port: int = 8998
    """SGLang's, of the prefill side."""


class Leg(msgspec.Struct, frozen=True):
    """One HTTP request to one server. `reply`: what is to be done with its answer.

    `worker` is empty where the sender chooses.
    """

    half: Literal["prefill", "decode"]
    worker: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    reply: Literal["read", "stream"]
    """`read`: to its end, and told to the hand-over. `stream`: it is the client's answer."""


class Send(msgspec.Struct, frozen=True):
    """Send these legs now, together. None: go on with those under way."""

    legs: tuple[Leg, ...] = ()
    why: str = ""
    """Words for the log line, where something is not as it should be."""


class Retry(msgspec.Struct, frozen=True):
    """Send this leg again, to the same server, after a pause."""

    leg: Leg
    pause_s: float


class Fail(msgspec.Struct, frozen=True):
    """Give up: cancel what is under way, and answer with this. `message` is safe to show."""

    status: int
    message: str


Step = Send | Retry | Fail


class Handover(Protocol):
    """One request over a prefill and a decode server."""

    def begin(self) -> Step:
        """The first legs. Called once."""

    def prefilled(self, status: int, reply: Mapping[str, Any] | None) -> Step:
        """The prefill leg was answered: its status and its JSON. 0 is a lost connection."""

    def usage(self, decoded: Mapping[str, Any]) -> dict[str, Any]:
        """The `usage` of the whole request, from that of the decode leg."""


def failed(worker: str, status: int, reply: Mapping[str, Any] | None) -> Fail:
    """What a client is told of a prefill leg that failed for good.

    4xx but 401, 403 and 404 is about the client's own request, and its words are passed on.
    """
    if 400 <= status < 500 and status not in (401, 403, 404):
        return Fail(status, message_of(reply) or f"worker {worker!r} answered {status}")
    what = f"answered {status}" if status else "does not answer"
    return Fail(502, f"prefill worker {worker!r} {what}")


def message_of(reply: Mapping[str, Any] | None) -> str | None:
    """The message in an error object of OpenAI's shape, nested or not."""
    error = (reply or {}).get("error", reply)
    message = error.get("message") if isinstance(error, Mapping) else None
    return message if isinstance(message, str) else None
