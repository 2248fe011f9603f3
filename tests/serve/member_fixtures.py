"""A gateway with an admin key, workers elsewhere that stand in the site, and who joins."""

import contextlib
import hashlib

import httpx
import msgspec

from starloom.serve.engines import OpenAIEngine
from starloom.serve.gateway.admin import WorkerList
from starloom.site import Site

from gateway_fixtures import SHAPE, FakeEngine, serving, until, write_model
from surface_fixtures import stream, whole

ADMIN_KEY = "sk-admin"
ANSWERS = (whole({"content": "hello"}), stream({"content": "hel"}, {"content": "lo"}))
BREAKER = {"failures": 3, "pause_s": 0.2, "longest_pause_s": 0.2, "jitter": 0.0}


@contextlib.contextmanager
def gateway(folder, urls=(), *, own=False, tenants=(), gateway=None, wait_s=0.3, **more):
    """Model `m`, served by `u0`, `u1` ... at `urls`, by `w1` of ours if `own`, and who joins."""
    write_model(folder / "m")
    there = {"node": "n", "model": "m", "engine": "openai"}
    workers = [{"name": f"u{at}", "url": f"{url}/v1", **there} for at, url in enumerate(urls)]
    if own:
        workers.append({"name": "w1", "node": "n", "model": "m", "engine": "emulated"})
    admin = {"key_sha256": [hashlib.sha256(ADMIN_KEY.encode()).hexdigest()]}
    model = {"name": "m", "tokenizer": "m", "shape": SHAPE, "block_tokens": 16}
    options = {
        name: more.pop(name) for name in ("make", "resolver", "members_file") if name in more
    }
    data = {
        "name": "t",
        "base": str(folder),
        "gateway": {"port": 0, "admin": admin, **(gateway or {})},
        "nodes": [{"name": "n"}],
        "models": [{**model, "context_tokens": 2048}, {"name": "other"}],
        "workers": workers,
        "tenants": [*tenants],
        "schedule": {"policy": "least_outstanding"},
        **more,
    }
    site = Site.model_validate(data)
    engines = [FakeEngine(w.name) if w.name == "w1" else OpenAIEngine(w) for w in site.workers]
    with serving(site, engines, wait_s=wait_s, **options) as gate:
        names = [worker.name for worker in site.workers]
        until(lambda: all(map(gate.app._line._workers.is_up, names)))
        yield gate


def admin(gate, method, path="", **more):
    headers = {"Authorization": f"Bearer {more.pop('key', ADMIN_KEY)}"}
    with httpx.Client(base_url=gate.url, headers=headers, trust_env=False) as client:
        return client.request(method, f"/admin/workers{path}", **more)


def joining(gate, name, url, **more):
    body = {"name": name, "node": "n", "model": "m", "url": f"{url}/v1", **more}
    return admin(gate, "POST", json=body)


def states(gate):
    answer = admin(gate, "GET")
    return {one.name: one for one in msgspec.json.decode(answer.content, type=WorkerList).workers}


def rows(gate, family):
    """Values of one family of the metrics page, by worker or source."""
    with gate.client() as client:
        page = client.get("/metrics").text
    found = {}
    for line in page.splitlines():
        if line.startswith(f"{family}{{"):
            labels, _, value = line.rpartition(" ")
            found[labels.partition('="')[2].rstrip('"}')] = float(value)
    return found
