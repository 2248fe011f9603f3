"""`starloom up` from outside: what starts, answers, and is gone afterwards."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from halves_fixtures import FakeVllmHalf, Network
from running import EMULATED, until, up
from upstream_fixtures import in_thread

APART = """\
name: t-apart
gateway: {{port: 0}}
nodes: [{{name: n0}}]
models: [{{name: m}}]
workers:
  - {{name: p0, node: n0, model: m, engine: openai, url: "{p0}/v1", role: prefill, disagg: vllm}}
  - {{name: d0, node: n0, model: m, engine: openai, url: "{d0}/v1", role: decode, disagg: vllm}}
"""
SITE = EMULATED.format(name="t-up", time_scale=1, drain_s=5)


@pytest.fixture
def short_dir():
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="loom-") as folder:
        yield Path(folder)


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "starloom.cli.main", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_site_answers_and_leaves_nothing_behind(short_dir):
    """The openai SDK and curl are answered; after Ctrl-C no process, port or socket is left."""
    shared_memory = set(Path("/dev/shm").iterdir())
    with up(short_dir, SITE) as site:
        answer = site.openai().chat.completions.create(
            model="m", messages=[{"role": "user", "content": "bako?"}], max_tokens=5
        )
        assert answer.usage.completion_tokens == 5
        curled = subprocess.run(
            ["curl", "-s", f"{site.url}/v1/models", "-H", f"Authorization: Bearer {site.key}"],
            capture_output=True,
            text=True,
        )
        assert [model["id"] for model in json.loads(curled.stdout)["data"]] == ["m"]
        processes = site.children()
        assert set(processes) == {"pool", "a", "b", "gateway"}
        host, port = site.url.removeprefix("http://").split(":")
    assert site.process.returncode == 0
    assert not any(process.is_running() for process in processes.values())
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, int(port)))
    assert not list(short_dir.rglob("*.sock"))
    assert not list(short_dir.rglob("state.json"))
    assert set(Path("/dev/shm").iterdir()) == shared_memory


def test_a_killed_supervisor_leaves_no_orphan(short_dir):
    """When `starloom up` itself is killed (-9), every child ends by its lifeline."""
    with up(short_dir, SITE) as site:
        processes = site.children()
        assert len(processes) == 4
        site.process.kill()
        site.process.wait()
        until(lambda: not any(alive(process) for process in processes.values()), 10)


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_status_and_a_second_up(short_dir):
    """`status` shows each worker; the same site cannot be started twice."""
    assert command(short_dir, "status", "t-up").returncode == 2
    with up(short_dir, SITE):
        shown = command(short_dir, "status", "t-up", "--json")
        assert shown.returncode == 0, shown.stderr
        found = json.loads(shown.stdout)
        assert found["ready"] == "ready"
        assert [(row["worker"], row["up"]) for row in found["workers"]] == [
            ("a", True),
            ("b", True),
        ]
        assert found["pool"]["slots"] > 0
        second = command(short_dir, "up", "site.yaml")
        assert second.returncode == 2
        assert "is running already" in second.stderr


def test_a_taken_port_is_told(short_dir):
    """The message names the port and what to do about it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (short_dir / "site.yaml").write_text(SITE)
        result = command(short_dir, "up", "site.yaml", "--port", str(port))
    assert result.returncode == 2
    assert f"127.0.0.1:{port}" in result.stderr
    assert "gateway.port" in result.stderr


def test_a_worker_that_cannot_start_is_told(short_dir):
    """A model folder that is not there ends `up` with the reason, not with a silent loop."""
    site = SITE.replace("engine: emulated, time_scale: 1", "engine: embedded").replace(
        "tokenizer: package:loom-s", "path: nowhere"
    )
    (short_dir / "site.yaml").write_text(site)
    result = command(short_dir, "up", "site.yaml")
    assert result.returncode == 2
    assert "nowhere" in result.stderr
    assert "Traceback" not in result.stderr


def test_stopping_while_starting(short_dir):
    """SIGTERM before the site is ready ends it as cleanly as later."""
    (short_dir / "site.yaml").write_text(SITE)
    process = subprocess.Popen(
        [sys.executable, "-m", "starloom.cli.main", "up", "site.yaml"],
        cwd=short_dir,
        env={**os.environ, "XDG_RUNTIME_DIR": str(short_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: len(psutil.Process(process.pid).children()) >= 2)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not any(alive(child) for child in children)


def test_a_model_served_apart_elsewhere_is_divided(short_dir):
    """`starloom up` on a site like `examples/pd.yaml`: both legs go out, one answer comes back."""
    network = Network()
    fakes = {"p0": FakeVllmHalf(network), "d0": FakeVllmHalf(network)}
    with ExitStack() as stack:
        urls = {name: stack.enter_context(in_thread(fake)) for name, fake in fakes.items()}
        site = stack.enter_context(up(short_dir, APART.format(**urls)))
        answer = site.openai().chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.choices[0].message.content == "Hello"
        assert [fake.ran for fake in fakes.values()] == [["prefill"], ["decode"]]
