"""Two gateway processes behind one address: one view, and either may die."""

import concurrent.futures
import signal
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import pytest

from running import EMULATED, Running, until, up

SITE = EMULATED.format(name="t-two", time_scale=1, drain_s=5).replace(
    "gateway:\n", "gateway:\n  processes: 2\n"
)


@pytest.fixture(scope="module")
def site():
    with tempfile.TemporaryDirectory(prefix="loom-") as folder, up(Path(folder), SITE) as running:
        until(lambda: all(connections(p) is not None for p in gateways(running)))
        yield running


def gateways(site: Running) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(site.process.pid).children(recursive=True):
        try:
            if "starloom.serve.gateway" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return sorted(found, key=lambda process: process.cmdline()[-1])


def connections(process: psutil.Process) -> int | None:
    """Clients that a gateway process has now."""
    try:
        return sum(c.status == "ESTABLISHED" for c in process.net_connections("tcp"))
    except psutil.Error:
        return None


def ask(client: httpx.Client, content: str, **more) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 4}
    return client.post("/v1/chat/completions", json={**body, **more})


def client_of(site: Running) -> httpx.Client:
    return httpx.Client(base_url=site.url, headers=site.headers, timeout=30, trust_env=False)


def test_connections_are_shared_evenly(site):
    """Whoever has fewer takes the next: of 20 connections neither process has under 7."""
    clients = [client_of(site) for _ in range(20)]
    try:
        for client in clients:
            assert client.get("/health").status_code == 200
        counts = [connections(process) for process in gateways(site)]
        assert len(counts) == 2
        assert min(counts) >= 7
    finally:
        for client in clients:
            client.close()


def test_a_prefix_is_known_whichever_process_saw_it(site):
    """Turns of one chat over ever new connections stay on the worker that holds its beginning."""
    workers, content, cached = [], "bako vake " * 200, 0
    for turn in range(8):
        with client_of(site) as client:
            answer = ask(client, content + f"sogu {turn} " * 40 * turn)
        assert answer.status_code == 200
        workers.append(answer.headers["x-starloom-worker"])
        cached += answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 300
    assert len(set(workers)) == 1
    assert cached == 7


def test_the_metrics_page_is_of_both(site):
    """Requests that either process answered are counted on any page, once each."""
    time.sleep(1.5)  # processes tell each other their counts once a second
    before = sum(site.metric("starloom_requests_total").values())
    for _ in range(12):
        with client_of(site) as client:
            ask(client, "sogu?")
    until(lambda: sum(site.metric("starloom_requests_total").values()) == before + 12)


def test_a_killed_gateway_loses_its_own_streams_only(site):
    """The other's streams go on; new requests are answered meanwhile; it comes back."""
    victim, other = gateways(site)
    with concurrent.futures.ThreadPoolExecutor(16) as pool, client_of(site) as probe:
        ask(probe, "x")

        def stream(number: int) -> bool:
            """Whether the whole answer came."""
            try:
                with (
                    client_of(site) as client,
                    client.stream(
                        "POST",
                        "/v1/chat/completions",
                        json={
                            "model": "m",
                            "messages": [{"role": "user", "content": f"bako={number} "}],
                            "max_tokens": 20_000,
                            "stream": True,
                            "ignore_eos": True,
                        },
                    ) as answer,
                ):
                    return "data: [DONE]" in "".join(answer.iter_text())[-40:]
            except httpx.HTTPError:
                return False

        streams = [pool.submit(stream, number) for number in range(16)]
        until(lambda: sum(site.metric("starloom_requests_running").values()) >= 12)
        kept = connections(other)
        victim.send_signal(signal.SIGKILL)
        with client_of(site) as client:
            assert ask(client, "sogu?").status_code == 200
        whole = sum(future.result(timeout=100) for future in streams)
    assert 0 < whole < 16
    assert whole >= kept - 3  # all but the probe's connections
    until(lambda: len(gateways(site)) == 2 and victim.pid not in {p.pid for p in gateways(site)})
    until(lambda: sum(site.metric("starloom_requests_running").values()) == 0)
