"""Servers that peers of `bench kv` need: redis-server, Mooncake's master, its holder of memory."""

import os
import subprocess
from pathlib import Path
from typing import Any, Self

from starloom.bench.kv_meters import Case, Peer
from starloom.bench.load import family
from starloom.bench.peers import environment, free_port, wait_for


class Servers:
    """Started when first asked for, ended with the context."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[Any]] = []
        self._redis: tuple[int, int] | None = None
        self._master: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            for pid in family(process.pid):
                os.kill(pid, 9)
            process.wait()

    def redis(self) -> tuple[int, int]:
        """Port and process of a redis-server that keeps nothing on disk."""
        if self._redis is None:
            port = free_port()
            command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            command += ["--appendonly", "no", "--dir", str(self._folder)]
            command += ["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"]
            self._redis = port, self._start(command, port)
        return self._redis

    def mooncake(self, case: Case, *, held: bool) -> Peer:
        """A client of Mooncake's store; the objects are in its own memory or in a `held` one."""
        if not self._master:
            rpc, http, metrics = free_port(), free_port(), free_port()
            pid = self._start(
                [
                    *(str(environment("mooncake").with_name("mooncake_master")),),
                    *(f"--rpc_port={rpc}", "--enable_http_metadata_server=true"),
                    *(
                        "--http_metadata_server_host=127.0.0.1",
                        f"--http_metadata_server_port={http}",
                    ),
                    f"--metrics_port={metrics}",
                ],
                rpc,
            )
            self._master = {"master": rpc, "http": http, "pid": pid}
        asked = {"master": self._master["master"], "http": self._master["http"]}
        pids, holder = [self._master["pid"]], 0
        if held:
            holder = free_port()
            keeper = Peer(
                "mooncake",
                environment("mooncake"),
                case,
                "store",
                self._folder,
                **asked,
                port=0,
                holder=holder,
                role="holder",
            )
            self._processes.append(keeper.process)
            keeper.ready()
            pids += keeper.pids()
        return Peer(
            "mooncake",
            environment("mooncake"),
            case,
            "store",
            self._folder,
            **asked,
            port=free_port(),
            holder=holder,
            pids=pids,
        )

    def _start(self, command: list[str], port: int) -> int:
        log = (self._folder / "servers.log").open("ab")
        with log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._processes.append(process)
        wait_for(port, process)
        return process.pid
