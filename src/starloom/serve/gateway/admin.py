"""The admin API: workers join, drain and leave while the gateway runs. It has keys of its own."""

import contextlib
import logging
import math
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from pydantic import ValidationError

from starloom.serve.errors import BadRequest
from starloom.serve.gateway.auth import Keys
from starloom.serve.gateway.client import Client
from starloom.serve.gateway.door import NoSuchPage, WrongMethod, check_json
from starloom.serve.gateway.membership import ADMIN, KEY_PREFIX, Members, WorkerState
from starloom.serve.gateway.workers import Workers
from starloom.site import BadNames, Limits, OpenAIWorker

_log = logging.getLogger(__name__)

ADMIN_PATHS = "/admin/"
WORKERS = "/admin/workers"
_ACTIONS = ("drain", "undrain")
_MOST_WORKERS = 4096
_BODY_BYTES = 64 << 10


class Taken(BadRequest):
    """The name is another worker's, or the worker is not ours to take away."""

    status, code = 409, "conflict"


class NoSuchWorker(BadRequest):
    status, code = 404, "worker_not_found"


class WorkerList(msgspec.Struct):
    workers: list[WorkerState]


class Admin:
    """Answers below `/admin/`."""

    def __init__(self, keys: Keys, members: Members, workers: Workers, limits: Limits) -> None:
        self._keys = keys
        self._members = members
        self._workers = workers
        self._limits = limits

    async def answer(self, client: Client) -> None:
        """Answer one request. Raises `ServeError`."""
        self._keys.tenant(client.fields.get(b"authorization"), client.address)
        begin, _, rest = client.path.partition(f"{WORKERS}/")
        name, _, action = rest.partition("/")
        if client.path == WORKERS:
            await self._all(client)
        elif begin or not name or action not in ("", *_ACTIONS):
            raise NoSuchPage(f"there is nothing at {client.path}")
        else:
            await self._one(name, action, client)

    async def _all(self, client: Client) -> None:
        if client.method in (b"GET", b"HEAD"):
            client.json(200, msgspec.json.encode(WorkerList(self._members.states())))
        elif client.method == b"POST":
            check_json(client.fields)
            self._add(await self._body(client), client)
        else:
            raise WrongMethod("GET the workers, or POST one", "GET, HEAD, POST")

    async def _one(self, name: str, action: str, client: Client) -> None:
        method = client.method
        if action and method != b"POST":
            raise WrongMethod(f"POST to {action}", "POST")
        if not action and method not in (b"GET", b"HEAD", b"DELETE"):
            raise WrongMethod("GET or DELETE a worker", "GET, HEAD, DELETE")
        if action:
            await self._body(client)
        if name not in self._workers.engines:
            raise NoSuchWorker(f"there is no worker {name!r}")
        if action:
            self._drain(name, draining=action == "drain")
        elif method == b"DELETE":
            self._remove(name, _drain_s(client.query, self._limits.request_timeout_s))
        status = 202 if method == b"DELETE" else 200
        client.json(status, msgspec.json.encode(self._members.state(name)))

    def _add(self, raw: bytes, client: Client) -> None:
        noun = parse_worker(raw)
        name = noun.name
        if noun.key_env is not None and not self._members.may_send(noun.key_env):
            what = f"only a variable that the site file names, or one that begins with {KEY_PREFIX}"
            raise BadRequest(f"key_env: {what}", param="key_env")
        if name in self._workers.engines:
            again = ": it leaves, try again when it has" if self._members.leaving(name) else ""
            raise Taken(f"name: {name!r} is taken{again}", param="name")
        if len(self._workers.engines) >= _MOST_WORKERS:
            raise Taken(f"there are {_MOST_WORKERS} workers already")
        try:
            self._members.check(noun)
        except BadNames as error:
            told = [
                (".".join(map(str, loc[2:])), f"{what}; {fix}") for loc, what, fix in error.problems
            ]
            raise BadRequest("; ".join(f"{param}: {what}" for param, what in told)) from error
        words = noun.model_dump(mode="json", exclude_unset=True, exclude={"name"})
        self._put(name, words)
        _log.info("the admin API added worker %s", name)
        client.headers.append((b"location", f"{WORKERS}/{name}".encode()))
        client.json(201, msgspec.json.encode(self._members.state(name)))

    def _remove(self, name: str, drain_s: float) -> None:
        source = self._members.source(name)
        if source != ADMIN:
            where = {"site": "the site file", "file": "`workers_file`"}.get(source, f"{source}")
            raise Taken(f"worker {name!r} is stated by {where}: drain it here, or remove it there")
        self._members.changes.put(name, None, draining=False, drain_s=drain_s)
        _log.info("the admin API removes worker %s within %g s", name, drain_s)

    def _drain(self, name: str, *, draining: bool) -> None:
        if self._members.leaving(name):
            raise Taken(f"worker {name!r} is leaving")
        word = self._members.changes.words.get(name)
        noun = None if word is None else word.worker
        self._put(name, noun, draining=draining)
        _log.info("the admin API %s worker %s", "drains" if draining else "undrains", name)

    def _put(self, name: str, noun: dict[str, Any] | None, *, draining: bool = False) -> None:
        drain_s = self._limits.request_timeout_s
        self._members.changes.put(name, noun, draining=draining, drain_s=drain_s)

    async def _body(self, client: Client) -> bytes:
        stated = client.fields.get(b"content-length")
        return await client.body(stated, _BODY_BYTES, self._limits.body_timeout_s)


def parse_worker(raw: bytes) -> OpenAIWorker:
    """A worker elsewhere, in the words of a site file. Raises `BadRequest` with all problems."""
    try:
        stated: Any = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(stated, dict):
        raise BadRequest("the body is a JSON object: a worker as a site file states it")
    try:
        noun = OpenAIWorker.model_validate({"engine": "openai", **stated})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        told = [f"{'.'.join(map(str, one['loc'])) or 'worker'}: {one['msg']}" for one in found]
        raise BadRequest("; ".join(told)) from None
    if "@" in urlsplit(noun.url).netloc:
        raise BadRequest(
            "url: no passwords here; name the key's variable by `key_env`", param="url"
        )
    return noun


def _drain_s(query: bytes, longest_s: float) -> float:
    """Seconds that a worker may take to finish; by default as long as a request may take."""
    stated = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("drain_s")
    if stated is None:
        return longest_s
    seconds = math.nan
    with contextlib.suppress(ValueError):
        seconds = float(stated[-1])
    if not 0 <= seconds <= 86_400:
        raise BadRequest("drain_s: seconds from 0 to 86400", param="drain_s")
    return seconds
