"""Gateways that the bench starts: ours, and those of others from their own environments."""

import hashlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol, Self

import yaml

from starloom.bench.base import BenchError
from starloom.bench.load import family
from starloom.bench.upstream import MODEL
from starloom.serve.rundir import RunDir
from starloom.serve.stack import listen
from starloom.site import Site

ROOT = Path(__file__).parents[3]
"""Of the checkout: where `make bench-peers` puts environments."""
_START_S = 180.0


class System(Protocol):
    """Something that answers at an address."""

    url: str
    keys: Sequence[str]

    def pids(self) -> list[int]:
        """Its processes."""


class Direct:
    """The upstream itself."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.keys: Sequence[str] = ["none"]

    def pids(self) -> list[int]:
        return []


class _Started:
    """A gateway in processes of its own, for as long as the context lasts."""

    NAME: ClassVar[str]

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self.folder = folder
        self.keys = keys
        self.url = ""
        self._processes: list[subprocess.Popen[bytes]] = []

    def pids(self) -> list[int]:
        return [pid for process in self._processes for pid in family(process.pid)]

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            for pid in family(process.pid):
                os.kill(pid, 9)
            process.wait()

    def _start(self, command: Sequence[str], port: int, **more: object) -> None:
        log = (self.folder / f"{self.NAME}.log").open("ab")
        process = subprocess.Popen(command, stdout=log, stderr=log, **more)  # type: ignore[call-overload]
        self._processes.append(process)
        try:
            wait_for(port, process)
        except BaseException:
            self.__exit__()
            raise
        self.url = f"http://127.0.0.1:{port}"


class Starloom(_Started):
    """Ours: one process a core."""

    NAME = "starloom"

    def __init__(
        self, folder: Path, ports: Sequence[int], keys: Sequence[str], *, guard: bool
    ) -> None:
        super().__init__(folder, keys)
        lists = [{"name": "words", "file": "words.txt"}] if guard else []
        self._site = Site.model_validate(
            {
                "name": "bench",
                "base": str(folder),
                "gateway": {"port": 0, "processes": len(os.sched_getaffinity(0))},
                "nodes": [{"name": "n"}],
                "models": [{"name": MODEL}],
                "workers": [
                    {
                        "name": f"w{at}",
                        "node": "n",
                        "model": MODEL,
                        "engine": "openai",
                        "url": f"http://127.0.0.1:{port}/v1",
                    }
                    for at, port in enumerate(ports)
                ],
                "guard": {"lists": lists},
            }
        )

    def __enter__(self) -> Self:
        rundir = RunDir(self.folder / f"run-{secrets.token_hex(3)}")
        rundir.create()
        rundir.write_site(self._site)
        rundir.write_keys({"t": [hashlib.sha256(k.encode()).hexdigest() for k in self.keys]})
        listener = listen("127.0.0.1", 0)
        fd, port = listener.fileno(), listener.getsockname()[1]
        with listener:
            for number in range(self._site.gateway.processes):
                command = [sys.executable, "-m", "starloom.serve.gateway"]
                self._start(
                    [*command, str(rundir.path), str(number)],
                    port,
                    pass_fds=[fd],
                    env={**os.environ, "STARLOOM_LISTENER_FD": str(fd)},
                )
        time.sleep(1.5)  # until all processes have found their workers and each other
        return self


class SglangRouter(_Started):
    """`sglang-router` (PyPI), in Rust."""

    NAME = "sglang_router"

    def __init__(
        self, folder: Path, ports: Sequence[int], keys: Sequence[str], *, guard: bool
    ) -> None:
        del guard, keys
        super().__init__(folder, ["none"])
        self._ports = ports

    def __enter__(self) -> Self:
        port, metrics = free_port(), free_port()
        self._start(
            [
                *(str(environment("sglang-router")), "-m", "sglang_router.launch_router"),
                *("--host", "127.0.0.1", "--port", str(port), "--policy", "cache_aware"),
                *("--prometheus-port", str(metrics), "--log-level", "error", "--worker-urls"),
                *(f"http://127.0.0.1:{at}" for at in self._ports),
            ],
            port,
        )
        time.sleep(2.0)  # it looks at its workers first
        return self


class Litellm(_Started):
    """LiteLLM's proxy."""

    NAME = "litellm"

    def __init__(
        self, folder: Path, ports: Sequence[int], keys: Sequence[str], *, guard: bool
    ) -> None:
        del guard, keys
        super().__init__(folder, ["sk-bench"])
        models = [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"http://127.0.0.1:{port}/v1",
                    "api_key": "none",
                },
            }
            for port in ports
        ]
        self._config = folder / "litellm.yaml"
        settings = {"model_list": models, "general_settings": {"master_key": "sk-bench"}}
        self._config.write_text(yaml.safe_dump(settings))

    def __enter__(self) -> Self:
        port = free_port()
        python = environment("litellm")
        workers = len(os.sched_getaffinity(0))
        self._start(
            [
                *(str(python.parent / "litellm"), "--config", str(self._config)),
                *("--host", "127.0.0.1", "--port", str(port), "--num_workers", str(workers)),
            ],
            port,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        )
        time.sleep(2.0)
        return self


SYSTEMS: tuple[type[Starloom | SglangRouter | Litellm], ...] = (Starloom, SglangRouter, Litellm)


def installed(kind: type[_Started]) -> bool:
    """Whether a peer's environment is there."""
    return kind is Starloom or environment(kind.NAME.replace("_", "-")).exists()


def environment(name: str) -> Path:
    """The Python of a peer's environment."""
    return ROOT / f".venv-{name}" / "bin" / "python"


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something listens on a port. Raises `BenchError` when its process ends instead."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"{process.args!r} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchError(f"{process.args!r} does not listen on port {port}")


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port
