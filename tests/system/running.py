"""A site that really runs, for tests that look at it from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from openai import OpenAI

EMULATED = """\
name: {name}
gateway:
  port: 0
  limits: {{drain_s: {drain_s}}}
nodes:
  - {{name: n0, chip: h100-sxm}}
models:
  - name: m
    tokenizer: package:loom-s
    shape: {{layers: 2, hidden: 256, heads: 4, kv_heads: 2, head_dim: 64, intermediate: 512,
            vocab: 1500}}
    block_tokens: 16
workers:
  - {{name: a, node: n0, model: m, engine: emulated, time_scale: {time_scale}}}
  - {{name: b, node: n0, model: m, engine: emulated, time_scale: {time_scale}}}
pool:
  node: n0
  dram_gib: 0.05
"""


class Running:
    """One `starloom up` process and how to reach it."""

    def __init__(self, process: subprocess.Popen[str], said: dict[str, str], run: Path) -> None:
        self.process = process
        self.url = said["url"]
        self.key = said["key"]
        self.run = run

    def openai(self, **options) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, **options)

    def metric(self, name: str) -> dict[str, float]:
        """Values of one metric by its label text."""
        answer = httpx.get(f"{self.url}/metrics", headers=self.headers, trust_env=False)
        assert answer.status_code == 200
        found = {}
        for line in answer.text.splitlines():
            if line.startswith((name + "{", name + " ")):
                labels, _, value = line.rpartition(" ")
                found[labels.removeprefix(name)] = float(value)
        return found

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def children(self) -> dict[str, psutil.Process]:
        """Child processes by what they are: gateway, pool, or the worker's name."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                words = child.cmdline()
            except psutil.Error:
                continue
            if "starloom.kv.server" in words:
                found["pool"] = child
            elif "starloom.serve.gateway" in words:
                found["gateway"] = child
            elif "starloom.serve.engines.worker" in words:
                found[words[-1]] = child
        return found

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


def until(check, seconds: float = 20.0) -> None:
    """Wait until `check()` holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"{check} did not hold within {seconds} s"
        time.sleep(0.05)


@contextmanager
def up(folder: Path, site: str) -> Iterator[Running]:
    """`starloom up` with this site file, stopped by SIGINT (and killed if that does not do)."""
    (folder / "site.yaml").write_text(site)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    command = [sys.executable, "-m", "starloom.cli.main", "up", "--json", "site.yaml"]
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        logs = "\n".join(path.read_text() for path in folder.rglob("*.log"))
        assert line, (folder / "stderr").read_text() + logs
        yield Running(process, json.loads(line), folder)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        process.stdout.close()
