"""Requests that two servers elsewhere share: one computes the prompt, another one answers.

The pure machines of `serve/disagg` say what to send and what an answer of the prefill side means;
here the legs are sent. The decode leg's answer goes to the client on the same way as an undivided
one's (`Forward.passed`). What fails before the client has been sent a byte is tried on another
pair; where there is none, vLLM servers compute the whole request, which SGLang's halves cannot.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, cast

import msgspec

from starloom.serve.base import Usage
from starloom.serve.disagg import (
    Fail,
    Handover,
    Leg,
    Retry,
    Send,
    SglangHandover,
    Step,
    VllmHandover,
    undivided,
)
from starloom.serve.engines import Forwarder
from starloom.serve.errors import BadRequest, EngineFailed, ServeError, Throttled, Unavailable
from starloom.serve.gateway.api import Asked
from starloom.serve.gateway.client import Answering
from starloom.serve.gateway.forward import Forward, changed
from starloom.serve.gateway.record import Tracker
from starloom.serve.gateway.workers import Tries, Workers
from starloom.serve.schedule import Ask, Half, Ticket
from starloom.serve.signals.roots import cache_salt

_BEHIND_S = 0.5
"""So long SGLang's prefill leg may be answered behind the last word of decode."""


class _Job(NamedTuple):
    """One request."""

    path: str
    own: dict[str, Any]
    """The body as servers take it, but for the model's name there and the salt."""
    body: Asked
    ask: Ask
    root: bytes
    tracker: Tracker
    client: Answering


class _Lost(Exception):
    """A leg failed, and another worker may do better."""

    def __init__(self, worker: str, error: Unavailable | EngineFailed) -> None:
        super().__init__(worker)
        self.worker = worker
        self.error = error


class _Whole(Exception):
    """The request goes whole to one server; says why."""


class Halves:
    """Sends requests to pairs of servers elsewhere. `answer` is as `Forward.answer`."""

    def __init__(
        self,
        forward: Forward,
        workers: Workers,
        now: Callable[[], float],
        wait_s: float,
        draw_room: Callable[[], int],
    ) -> None:
        """`draw_room` gives random numbers of `disagg.ROOM_BITS` bits."""
        self._forward = forward
        self._workers = workers
        self._now = now
        self._wait_s = wait_s
        self._draw_room = draw_room

    async def answer(
        self,
        path: str,
        raw: bytes,
        body: Asked,
        ask: Ask,
        tracker: Tracker,
        client: Answering,
        never: Collection[str] = (),
        root: bytes = b"",
    ) -> Usage:
        """See one request through. Nothing is tried again once the client has been sent a byte."""
        able = self._workers.able(body.model, own=True, tenant=tracker.record.tenant)
        job = _Job(path, changed(raw, body, body.model, None), body, ask, root, tracker, client)

        def tries(half: Half) -> Tries:
            return Tries(self._workers, body.model, ask, never, self._wait_s, self._now, half)

        if able.disagg == "sglang":
            return await self._together(job, tries("prefill"), tries("decode"))
        why = undivided(job.own)
        if not why:
            try:
                return await self._in_turn(job, tries("prefill"), tries("decode"))
            except _Whole as whole:
                why = str(whole)
        tracker.step("whole", "", why)
        return await self._forward.answer(path, raw, body, ask, tracker, client, never, root)

    async def _in_turn(self, job: _Job, prefills: Tries, decodes: Tries) -> Usage:
        """The prompt, then the answer: the way of vLLM. Raises `_Whole` where no pair is left.

        The decode worker is chosen when the prompt is computed, by what is true then.
        """
        number = 0
        while True:
            apart = self._workers.table.apart(job.body.model) and decodes.some()
            if not apart or (prefill := prefills.at_once()) is None:
                raise _Whole("one half has no worker (left)")
            number += 1
            side = self._engine(prefill).side
            handover = VllmHandover(job.own, _id(job, number), side)
            try:
                job.tracker.step("prefill", prefill.worker, prefill.why)
                leg = await self._prefilled(handover, prefill, job)
            except _Lost as lost:
                _failed(prefills, lost, job)
                continue
            finally:
                prefill.end()
            if (decode := decodes.at_once()) is None:
                raise _Whole("no decode worker is left")
            if decode.worker == prefill.worker:  # of both roles: its own cache has the prompt
                leg = msgspec.structs.replace(leg, body=job.own)
            try:
                return await self._decoded(handover, leg, prefill.worker, decode, job)
            except _Lost as lost:
                _failed(decodes, lost, job)
            finally:
                decode.end()

    async def _prefilled(self, handover: Handover, ticket: Ticket, job: _Job) -> Leg:
        """Send the prefill leg until it is answered; the decode leg that follows."""
        step = handover.begin()
        while not isinstance(step, Fail):
            if isinstance(step, Retry):
                job.tracker.step("busy", ticket.worker)
                await asyncio.sleep(step.pause_s)
                leg = step.leg
            else:
                leg = step.legs[0]
                if leg.reply == "stream":
                    job.tracker.step("prefilled", ticket.worker, step.why)
                    return leg
            step = await self._read(handover, leg, ticket, job)
        raise _failure(ticket.worker, step)

    async def _read(self, handover: Handover, leg: Leg, ticket: Ticket, job: _Job) -> Step:
        """What the answer to a prefill leg leads to. A good one ends the ticket."""
        engine = self._engine(ticket)
        status, reply = await engine.ask(job.path, _sent(leg, engine, job), _lines(leg, job))
        step = handover.prefilled(status, reply)
        if isinstance(step, Send):
            now_s = self._now()
            ticket.first_token(now_s)
            ticket.end(now_s)
        return step

    async def _decoded(
        self, handover: Handover, leg: Leg, helper: str, ticket: Ticket, job: _Job
    ) -> Usage:
        """Send the decode leg, and pass its answer on."""
        engine = self._engine(ticket)
        job.tracker.record.workers[0] = ticket.worker
        job.tracker.step("schedule", ticket.worker, ticket.why)
        try:
            reply = await engine.forward(job.path, _sent(leg, engine, job), _lines(leg, job))
            return await self._forward.passed(
                *(reply, engine, job.body, job.ask, ticket, job.tracker, job.client),
                helper=helper,
                usage_of=handover.usage,
            )
        except (Unavailable, EngineFailed) as error:
            raise _Lost(ticket.worker, error) from error

    async def _together(self, job: _Job, prefills: Tries, decodes: Tries) -> Usage:
        """Both legs at once: the way of SGLang. A room is of no use twice: each try has its own."""
        number = 0
        while True:
            decode: Ticket | None = None
            prefill = await prefills.next()
            try:
                decode = await decodes.next()
                job.tracker.step("prefill", prefill.worker, prefill.why)
                number += 1
                sides = self._engine(prefill).side, self._engine(decode).side
                room = self._draw_room
                handover = SglangHandover(job.own, _id(job, number), *sides, draw_room=room)
                return await self._met(handover, prefill, decode, job)
            except _Lost as lost:
                job.tracker.step("failed", lost.worker, lost.error.message)
                side = prefills if lost.worker == prefill.worker else decodes
                side.failed(lost.worker, lost.error, begun=job.client.started)
            finally:
                prefill.end()
                if decode is not None:
                    decode.end()

    async def _met(self, handover: Handover, prefill: Ticket, decode: Ticket, job: _Job) -> Usage:
        """Two legs, of which either ends the other when it fails.

        Decode would wait for the KV of a failed prefill for ever; once it answers, it has it.
        """
        read, stream = cast("Send", handover.begin()).legs
        helper = prefill.worker
        reading = asyncio.ensure_future(self._read(handover, read, prefill, job))
        decoding = asyncio.ensure_future(self._decoded(handover, stream, helper, decode, job))
        try:
            await asyncio.wait((reading, decoding), return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not job.client.started:
                after = reading.result()
                if isinstance(after, Fail):
                    raise _failure(helper, after)
            usage = await decoding
            await asyncio.wait((reading,), timeout=_BEHIND_S)
            return usage
        finally:
            reading.cancel()
            decoding.cancel()
            await asyncio.gather(reading, decoding, return_exceptions=True)

    def _engine(self, ticket: Ticket) -> Forwarder:
        return cast("Forwarder", self._workers.engines[ticket.worker])  # as `Able.elsewhere` says


def _id(job: _Job, number: int) -> str:
    """A name for one try, the same on both legs: servers keep what they run apart by it."""
    return f"{job.tracker.unique}-{number}"


def _sent(leg: Leg, engine: Forwarder, job: _Job) -> bytes:
    body = {**leg.body, "model": engine.upstream_model}
    if engine.salted and job.root:
        body["cache_salt"] = cache_salt(job.root)
    return msgspec.json.encode(body)


def _lines(leg: Leg, job: _Job) -> bytes:
    lines = (f"{name}: {value}\r\n" for name, value in leg.headers.items())
    return job.tracker.passed + "".join(lines).encode()


def _failed(tries: Tries, lost: _Lost, job: _Job) -> None:
    """A worker could not do its half. Raises when no other pair is to be tried."""
    job.tracker.step("failed", lost.worker, lost.error.message)
    try:
        tries.failed(lost.worker, lost.error, begun=job.client.started)
    except (Unavailable, EngineFailed) as error:
        if job.client.started:
            raise
        raise _Whole("tried often enough in halves") from error


def _failure(worker: str, fail: Fail) -> ServeError | _Lost:
    """What a failed prefill leg is: the client's own fault, or the worker's."""
    if fail.status == Throttled.status:
        return Throttled(fail.message)
    if fail.status < 500:
        return BadRequest(fail.message)
    return _Lost(worker, Unavailable(fail.message))
