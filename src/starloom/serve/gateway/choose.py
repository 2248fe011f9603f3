"""Names behind which a small and a large model stand: which of the two takes a request, and when.

A request for such a name is scored by its user's words and goes on as one for the chosen model. A
request that names a model itself is never routed.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from functools import partial

import msgspec

from starloom.serve.errors import BadRequest, Throttled
from starloom.serve.gateway.api import Body, ChatBody
from starloom.serve.gateway.prompts import LONG_CHARS, content_text
from starloom.serve.gateway.record import Tracker
from starloom.serve.route import BadDial, Dial, Lanes, RouteDecision, Router
from starloom.serve.route.base import Lane
from starloom.site import Route, Site

ROUTE_HEADER, LANE_HEADER = b"x-starloom-route", b"x-starloom-lane"


class Gate:
    """Lets `at_once` requests through; the others wait, quick and thinking ones apart."""

    def __init__(self, lanes: "Lanes[asyncio.Future[None]]", at_once: int) -> None:
        self._lanes = lanes
        self._at_once = at_once
        self.running = 0

    async def enter(self, lane: Lane) -> None:
        """Until it is this request's turn. Raises `Throttled` when its lane is full."""
        if self.running < self._at_once and not len(self._lanes):
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._lanes.put(lane, turn):
            raise Throttled(f"too many {lane} requests wait", retry_after_s=1)
        try:
            await turn
        except asyncio.CancelledError:
            if not self._lanes.drop(turn) and not turn.cancelled():
                self.leave()  # the turn came as the client left
            raise

    def leave(self) -> None:
        """A request that entered is over."""
        self.running -= 1
        while self.running < self._at_once and (following := self._lanes.take()) is not None:
            if not following[1].done():
                self.running += 1
                following[1].set_result(None)


class Chooser:
    """The routes of a site, by name."""

    def __init__(self, site: Site, threads: Executor) -> None:
        """Raises `BadArtifact` where a router's file cannot be used."""
        self._threads = threads
        self._routers = {route.name: _router(site, route) for route in site.routes}
        self._gates = {route.name: _gate(route) for route in site.routes if route.lanes is not None}
        self.names = frozenset(self._routers)

    @property
    def routers(self) -> Mapping[str, Router]:
        """For those who watch them: shares and drift."""
        return self._routers

    async def choose(
        self, body: Body, raw: bytes, tracker: Tracker
    ) -> tuple[Body, bytes, Gate | None]:
        """The request as one for the chosen model, and the gate that it has entered."""
        name = body.model
        decision = await self._decide(name, body, tracker)
        tracker.step("route", decision.model, decision.why)
        gate = self._gates.get(name)
        if gate is not None:
            await gate.enter(decision.lane)
            tracker.step("lane", decision.lane)
        raw = msgspec.json.encode({**msgspec.json.decode(raw), "model": decision.model})
        return msgspec.structs.replace(body, model=decision.model), raw, gate

    async def _decide(self, name: str, body: Body, tracker: Tracker) -> RouteDecision:
        text = _asked(body)
        decide = partial(
            self._routers[name].decide,
            text,
            override=_header(tracker, ROUTE_HEADER),
            override_by=ROUTE_HEADER.decode(),
            lane=_header(tracker, LANE_HEADER),
            effort=body.reasoning_effort if isinstance(body, ChatBody) else None,
            answer_tokens=body.answer_tokens,
        )
        try:
            if len(text) <= LONG_CHARS:
                return decide()
            return await asyncio.get_running_loop().run_in_executor(self._threads, decide)
        except BadDial as error:
            raise BadRequest(str(error)) from error


def _header(tracker: Tracker, name: bytes) -> str | None:
    value = tracker.headers.get(name)
    return None if value is None else value.decode("latin-1").strip().lower()


def _asked(body: Body) -> str:
    """What the user asks: the user's messages, or the prompts that are text."""
    if isinstance(body, ChatBody):
        users = [message for message in body.messages if message.role == "user"]
        return "\n".join(map(content_text, users))
    return "\n".join(prompt for prompt in body.prompts if isinstance(prompt, str))


def _router(site: Site, route: Route) -> Router:
    return Router.load(
        site.base / route.router,
        small=route.small,
        large=route.large,
        dial=Dial(route.dial.by, route.dial.at),
        window=route.drift_window,
    )


def _gate(route: Route) -> Gate:
    lanes = route.lanes
    assert lanes is not None  # noqa: S101  the caller looked
    weights: dict[Lane, float] = {
        "quick": lanes.quick_weight,
        "thinking": lanes.thinking_weight,
    }
    return Gate(Lanes(weights, limit=lanes.waiting), lanes.at_once)
