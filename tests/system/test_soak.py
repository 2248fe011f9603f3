"""A site under mixed load for a long time: memory and descriptors stay flat, every request ends.

`make soak`; `STARLOOM_SOAK_MINUTES` says for how long (30), `STARLOOM_SOAK_REPORT` names a file for
the figures.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import httpx
import psutil
import pytest

from running import EMULATED, Running, until, up
from surface_fixtures import stream, whole
from upstream_fixtures import FakeUpstream, in_thread

MINUTES = float(os.environ.get("STARLOOM_SOAK_MINUTES", "30"))
WARM_UP_SHARE = 1 / 3
"""Caches and indexes fill, the allocator takes its arenas."""
LIMIT_MIB_PER_H = 12.0
NOISE_MIB = 2.0
"""A rise below this over the whole time is none: what an allocator keeps moves by so much."""
NOISE_FILES = 4
CLIENTS = 12
PAUSE_S = 0.15
SAMPLE_S = 1.0
CHURN_S = 3.0
KILL_S = 25.0
SHORT = [f"bako={number} " * (4 + number) for number in range(60)]
LONG = [f"vake={number} " * 4500 for number in range(12)]
"""The same texts all the time: what is remembered of texts reaches its bound in the warm-up."""
ADMIN_KEY = "sk-admin"
ADMIN_HASH = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()
SITE = (
    EMULATED.format(name="t-soak", time_scale=2000, drain_s=10)
    .replace("gateway:\n", f"gateway:\n  processes: 2\n  admin: {{key_sha256: [{ADMIN_HASH}]}}\n")
    .replace("time_scale: 2000}", "time_scale: 2000, kv_cache_gib: 0.03}")
) + "guard:\n  lists: [{name: l, words: [never said, nor this], where: [input, output]}]\n"


def theil_sen(points: list[tuple[float, float]]) -> float:
    """The median slope over all pairs: a few outliers do not move it (Sen, JASA 63:1379, 1968)."""
    step = max(1, len(points) // 400)
    kept = points[::step]
    slopes = [
        (y2 - y1) / (x2 - x1)
        for at, (x1, y1) in enumerate(kept)
        for x2, y2 in kept[at + 1 :]
        if x2 > x1
    ]
    return statistics.median(slopes)


def test_the_slope_is_robust():
    """A line with a tenth of wild points keeps its slope; a flat one has none."""
    draw = random.Random(1)
    line = [(x, 2.0 * x + (1e4 if x % 10 == 0 else draw.random())) for x in map(float, range(200))]
    assert theil_sen(line) == pytest.approx(2.0, abs=0.05)
    assert theil_sen([(float(x), 7.0) for x in range(50)]) == 0


class Watch:
    """Memory and open files of a site's processes, by name and life."""

    def __init__(self, site: Running) -> None:
        self.site = site
        self.began = time.monotonic()
        self.memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.files: dict[str, list[tuple[float, float]]] = defaultdict(list)

    async def run(self) -> None:
        while True:
            for name, process in self.processes().items():
                with contextlib.suppress(psutil.Error, OSError):
                    now = time.monotonic() - self.began
                    self.memory[name].append((now, own_mib(process.pid)))
                    self.files[name].append((now, float(process.num_fds())))
            await asyncio.sleep(SAMPLE_S)

    def processes(self) -> dict[str, psutil.Process]:
        found = {}
        for child in psutil.Process(self.site.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = child.cmdline()
                if "starloom.kv.server" in words:
                    found["pool"] = child
                elif "starloom.serve.gateway" in words:
                    found[f"gateway-{words[-1]}"] = child
                elif "starloom.serve.engines.worker" in words:
                    found[words[-1]] = child
        return found


def own_mib(pid: int) -> float:
    """Memory that is the process's own, as a share where others have a page too.

    The pool's blocks lie in shared memory of a stated size and are left out: a process's share of
    them hangs on who else has mapped them.
    """
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, size = line.partition(":")
        found[name] = size
    return int(found["Pss_Anon"].split()[0]) / 1024


class Load:
    """Clients of many kinds. `ends` counts how their requests ended."""

    def __init__(self, site: Running) -> None:
        self.site = site
        self.ends: Counter[str] = Counter()
        self.unclear: list[str] = []

    async def client(self, number: int, until_s: float) -> None:
        draw = random.Random(number)
        limits = httpx.Limits(max_connections=1)
        while time.monotonic() < until_s:  # a new connection now and then
            async with httpx.AsyncClient(
                base_url=self.site.url, timeout=30, trust_env=False, limits=limits, verify=False
            ) as client:
                for _ in range(draw.randrange(1, 40)):
                    if time.monotonic() >= until_s:
                        break
                    await self._one(client, draw)
                    await asyncio.sleep(PAUSE_S * draw.random() * 2)

    async def _one(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        kind = draw.choices(
            ("whole", "stream", "abort", "early", "long", "wrong", "stranger", "guarded"),
            (30, 35, 8, 4, 6, 4, 3, 4),
        )[0]
        text = draw.choice(LONG if kind == "long" else SHORT)
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": draw.randrange(1, 40),
            "stream": kind in ("stream", "abort"),
        }
        if kind == "wrong":
            body["temperature"] = "hot"
        if kind == "guarded":
            body["messages"][0]["content"] += "never said"
        key = "nobody" if kind == "stranger" else self.site.key
        try:
            ended = await self._send(client, kind, body, {"Authorization": f"Bearer {key}"})
        except httpx.HTTPError as error:
            ended = f"unclear: {type(error).__name__}"
        if ended.startswith("unclear"):
            self.unclear.append(f"{kind}: {ended}")
        self.ends[f"{kind}: {ended}"] += 1

    async def _send(self, client: httpx.AsyncClient, kind: str, body, headers) -> str:
        path = "/v1/chat/completions"
        if kind == "early":
            await self._leave_early(path, {**body, "max_tokens": 400}, headers)
            return "left"
        if not body["stream"]:
            answer = await client.post(path, json=body, headers=headers)
            told = answer.json()
            if answer.status_code == 200:
                return "ok" if told["choices"][0]["finish_reason"] else "unclear: no end"
            return f"{answer.status_code} {told['error']['code']}"
        async with client.stream("POST", path, json=body, headers=headers) as answer:
            if answer.status_code != 200:
                return f"{answer.status_code} {json.loads(await answer.aread())['error']['code']}"
            last = ""
            async for line in answer.aiter_lines():
                if kind == "abort" and line:
                    return "left"
                last = line or last
        if last == "data: [DONE]":
            return "ok"
        return "told" if '"error"' in last else f"unclear: {last[:80]}"

    async def _leave_early(self, path: str, body, headers) -> None:
        """Ask on a connection of its own, and hang up before anything is answered."""
        data = json.dumps(body).encode()
        fields = {**headers, "Host": "localhost", "Content-Type": "application/json"}
        fields["Content-Length"] = str(len(data))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        port = int(self.site.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.transport.abort()


async def churn(site: Running, elsewhere: str, until_s: float) -> None:
    """A worker elsewhere joins, drains, takes part again and leaves, again and again."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    worker = {"name": "guest", "node": "n0", "model": "m", "url": f"{elsewhere}/v1"}
    steps = (
        ("POST", "", 201),
        ("POST", "/guest/drain", 200),
        ("POST", "/guest/undrain", 200),
        ("DELETE", "/guest?drain_s=5", 202),
    )
    while time.monotonic() < until_s:
        for method, path, expected in steps:
            async with httpx.AsyncClient(
                base_url=site.url, headers=headers, trust_env=False, verify=False
            ) as client:
                for _ in range(50):  # another process may hear of it a moment later
                    stated = worker if not path else None
                    answer = await client.request(method, f"/admin/workers{path}", json=stated)
                    if answer.status_code == expected:
                        break
                    await asyncio.sleep(0.1)
                assert answer.status_code == expected, answer.text
            await asyncio.sleep(CHURN_S)


async def kill(watch: Watch, until_s: float) -> int:
    """`kill -9` of worker b now and then; a stays, so that its memory is seen over all the time."""
    killed = 0
    while time.monotonic() + KILL_S < until_s:
        await asyncio.sleep(KILL_S)
        with contextlib.suppress(psutil.Error, KeyError):
            watch.processes()["b"].send_signal(signal.SIGKILL)
            killed += 1
    return killed


async def soak(site: Running, elsewhere: str) -> tuple[Watch, Load, int]:
    watch, load = Watch(site), Load(site)
    until_s = time.monotonic() + MINUTES * 60
    watching = asyncio.create_task(watch.run())
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(load.client(number, until_s))
        group.create_task(churn(site, elsewhere, until_s))
        killing = group.create_task(kill(watch, until_s))
    watching.cancel()
    return watch, load, killing.result()


def rises(series: dict[str, list[tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Of each process that was there all the time: rise an hour, and over the time measured."""
    found = {}
    for name, points in series.items():
        if name != "b":
            kept = points[int(len(points) * WARM_UP_SHARE) :]
            slope = theil_sen(kept)
            found[name] = (slope * 3600, slope * (kept[-1][0] - kept[0][0]))
    return found


@pytest.mark.slow
@pytest.mark.timeout(MINUTES * 60 + 300)
def test_memory_and_files_stay_flat_and_every_request_ends():
    def body(asked):
        said = {"content": "there"}
        return stream(said) if asked.body.get("stream") else whole(said)

    with (
        in_thread(FakeUpstream(body, part_bytes=4096)) as elsewhere,
        tempfile.TemporaryDirectory(prefix="loom-") as folder,
        up(Path(folder), SITE) as site,
    ):
        watch, load, killed = asyncio.run(soak(site, elsewhere))
        until(site.ready)
        until(lambda: set(site.metric("starloom_requests_running").values()) == {0.0})
        until(lambda: set(site.metric("starloom_worker_up").values()) == {1.0})
        until(lambda: set(site.metric("starloom_worker_waiting").values()) == {0.0})
        memory, files = rises(watch.memory), rises(watch.files)
        report = {
            "minutes": MINUTES,
            "requests": sum(load.ends.values()),
            "killed": killed,
            "ends": dict(sorted(load.ends.items())),
            "mib_per_h": {name: round(slope, 2) for name, (slope, _) in memory.items()},
            "rise_mib": {name: round(rise, 3) for name, (_, rise) in memory.items()},
            "mib_at_end": {name: round(points[-1][1], 1) for name, points in watch.memory.items()},
            "files_at_end": {name: int(points[-1][1]) for name, points in watch.files.items()},
            "files_rise": {name: round(rise, 2) for name, (_, rise) in files.items()},
        }
        print(json.dumps(report, indent=1))  # noqa: T201  what the run is for
        if path := os.environ.get("STARLOOM_SOAK_REPORT"):
            Path(path).write_text(json.dumps({**report, "series": watch.memory}))
    assert not load.unclear, load.unclear[:10]
    assert set(memory) >= {"gateway-0", "gateway-1", "a", "pool"}, "one of them was started again"
    for name, (slope, rise) in memory.items():
        assert slope < LIMIT_MIB_PER_H or rise < NOISE_MIB, f"{name}: {slope:.1f} MiB/h"
    for name, (_, rise) in files.items():
        assert rise < NOISE_FILES, f"{name} has {rise:.1f} more files open"
