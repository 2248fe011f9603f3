"""Workers that join and drain in a site of two gateway processes, one of which dies."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import psutil
import pytest

from starloom.serve.gateway.healthfile import read

from running import EMULATED, Running, until, up
from surface_fixtures import stream, whole
from upstream_fixtures import FakeUpstream, in_thread

ADMIN_KEY = "sk-admin"
ADMIN_HASH = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()
SITE = EMULATED.format(name="t-join", time_scale=1, drain_s=5).replace(
    "gateway:\n", f"gateway:\n  processes: 2\n  admin: {{key_sha256: [{ADMIN_HASH}]}}\n"
)


@pytest.fixture(scope="module")
def site():
    with tempfile.TemporaryDirectory(prefix="loom-") as folder, up(Path(folder), SITE) as running:
        yield running


@pytest.fixture(scope="module")
def elsewhere():
    """A server elsewhere that answers everything, for the site's model."""

    def body(asked):
        streams = asked.body.get("stream")
        return stream({"content": "there"}) if streams else whole({"content": "there"})

    with in_thread(FakeUpstream(body, part_bytes=4096)) as url:
        yield url


def admin(site: Running, method: str, path: str = "", **more) -> httpx.Response:
    """Over a connection of its own, so that any of the gateways may be asked."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    url = f"{site.url}/admin/workers{path}"
    return httpx.request(method, url, headers=headers, trust_env=False, **more)


def served(site: Running) -> set[str]:
    """Who answers, over as many connections as reach all gateways."""
    names = set()
    for number in range(12):
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": f"x {number}"}],
            "max_tokens": 2,
        }
        answer = httpx.post(
            f"{site.url}/v1/chat/completions", json=body, headers=site.headers, trust_env=False
        )
        assert answer.status_code == 200
        names.add(answer.headers["x-starloom-worker"])
    return names


def seen(site: Running, name: str, **states) -> bool:
    """Whether each gateway process sees a worker so."""
    folder = site.run / f"starloom-{os.getuid()}" / "t-join"
    for number in range(2):
        rows = {row.name: row for row in read(folder / f"gateway-{number}.json")}
        if name not in rows or any(getattr(rows[name], k) != v for k, v in states.items()):
            return False
    return True


def gateways(site: Running) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(site.process.pid).children(recursive=True):
        try:
            if "starloom.serve.gateway" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_what_one_gateway_is_told_all_do(site, elsewhere):
    """Joined, drained and gone at both; a gateway that is killed comes back with all of it."""
    worker = {"name": "new", "node": "n0", "model": "m", "url": f"{elsewhere}/v1"}
    assert admin(site, "POST", json=worker).status_code == 201
    until(lambda: seen(site, "new", up=True))
    for name in ("a", "b"):
        assert admin(site, "POST", f"/{name}/drain").status_code == 200
        until(lambda name=name: seen(site, name, draining=True))
    assert served(site) == {"new"}

    victim = gateways(site)[0]
    victim.send_signal(signal.SIGKILL)
    until(lambda: len(gateways(site)) == 2 and victim.pid not in {p.pid for p in gateways(site)})
    until(lambda: seen(site, "a", draining=True) and seen(site, "new", up=True))
    assert served(site) == {"new"}

    env = {**os.environ, "XDG_RUNTIME_DIR": str(site.run)}
    command = [sys.executable, "-m", "starloom.cli.main", "status", "t-join", "--json"]
    shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    rows = {row["worker"]: row for row in json.loads(shown.stdout)["workers"]}
    assert rows["new"] | {"source": "admin", "up": True, "draining": False} == rows["new"]
    assert rows["a"]["draining"]
    assert rows["b"]["breakers"] == ["closed", "closed"]

    for name in ("a", "b"):
        assert admin(site, "POST", f"/{name}/undrain").status_code == 200
    until(lambda: seen(site, "a", draining=False) and seen(site, "b", draining=False))
    assert admin(site, "DELETE", "/new").status_code == 202
    until(lambda: admin(site, "GET", "/new").status_code == 404)
    until(lambda: "new" not in {*site.metric("starloom_worker_up")})
    assert served(site) <= {"a", "b"}
    until(lambda: sum(site.metric("starloom_requests_running").values()) == 0)


def test_a_site_may_consist_of_a_workers_file(elsewhere):
    """Nothing of ours but a gateway: it starts, is ready once a server is there, and serves it."""
    with tempfile.TemporaryDirectory(prefix="loom-") as name:
        folder = Path(name)
        row = {"name": "w", "node": "n0", "model": "m", "engine": "openai"}
        (folder / "workers.json").write_text(json.dumps([{**row, "url": f"{elsewhere}/v1"}]))
        site = (
            "name: t-file\ngateway: {port: 0}\nnodes: [{name: n0}]\nmodels: [{name: m}]\n"
            "workers_file: workers.json\n"
        )
        with up(folder, site) as running:
            assert served(running) == {"w"}
            assert set(running.children()) == {"gateway"}
