"""kill -9 under load: every request ends, nothing is wrong, counts go back, the dead return."""

import concurrent.futures
import signal
import tempfile
import time
from pathlib import Path

import httpx
import openai
import pytest

from running import EMULATED, Running, until, up

STREAMS = 24
TOKENS = 60
SITE = EMULATED.format(name="t-fault", time_scale=10_000, drain_s=5)


@pytest.fixture(scope="module")
def site():
    with tempfile.TemporaryDirectory(prefix="loom-") as folder, up(Path(folder), SITE) as running:
        yield running


def ask(site: Running, number: int, *, stream: bool) -> str:
    """One request; returns its text, or the error's class when it ended in a clear error."""
    request = {
        "model": "m",
        "messages": [{"role": "user", "content": f"bako={number} " * 40}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "seed": 1,
        "extra_body": {"ignore_eos": True},
    }
    client = site.openai(timeout=30)
    try:
        if not stream:
            return client.chat.completions.create(**request).choices[0].message.content
        chunks = client.chat.completions.create(stream=True, **request)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    except (openai.APIError, httpx.HTTPError) as error:
        return f"error: {type(error).__name__}"


def under_load(site: Running, act, *, stream: bool) -> list[str]:
    """Start the load, do `act` in the middle of it, and return how each request ended."""
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        futures = [pool.submit(ask, site, n, stream=stream) for n in range(STREAMS)]
        until(lambda: sum(site.metric("starloom_requests_running").values()) >= STREAMS // 2)
        act()
        return [future.result(timeout=60) for future in futures]


def calm(site: Running) -> None:
    """All workers are up and nothing is counted as running."""
    until(site.ready)
    until(lambda: set(site.metric("starloom_worker_up").values()) == {1.0})
    until(lambda: set(site.metric("starloom_requests_running").values()) == {0.0})


@pytest.fixture(scope="module")
def right(site) -> list[str]:
    """What each request answers when nothing is broken."""
    answers = under_load(site, lambda: None, stream=False)
    assert not [text for text in answers if text.startswith("error")]
    calm(site)
    return answers


def kill(site: Running, name: str) -> None:
    site.children()[name].send_signal(signal.SIGKILL)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("victim", ["a", "b", "pool"])
def test_kill_9_under_load(site, right, victim, stream):
    """Each request ends in its right answer or a clear error; only a killed worker's may err.

    A request that was not streamed had nothing sent yet and is tried on the other worker: all of
    those must be right.
    """
    ends = under_load(site, lambda: kill(site, victim), stream=stream)
    wrong = [text for text, true in zip(ends, right, strict=True) if text != true]
    assert all(text.startswith("error") for text in wrong), wrong
    if victim == "pool" or not stream:
        assert not wrong
    calm(site)


def test_a_killed_gateway_returns(site):
    """The gateway's own streams are lost with it; a new one listens and workers are idle again."""
    before = site.children()["gateway"].pid
    under_load(site, lambda: kill(site, "gateway"), stream=True)
    until(lambda: "gateway" in site.children() and site.children()["gateway"].pid != before)
    until(site.ready)
    calm(site)


def test_a_stopped_pool_hangs_nobody(site, right):
    """SIGSTOP of the pool: answers come as if it were not there."""
    pool = site.children()["pool"]
    started = time.monotonic()
    ends = under_load(site, pool.suspend, stream=False)
    pool.resume()
    assert ends == right
    assert time.monotonic() - started < 40
    calm(site)


def test_clients_that_go_away_cancel_their_work(site):
    """Half of the clients hang up after the first token: their sequences end at once."""
    client = site.openai()
    streams = []
    for number in range(10):
        chunks = client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": f"milo={number}"}],
            max_tokens=5000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(chunks))
        streams.append(chunks)
    assert sum(site.metric("starloom_requests_running").values()) == 10
    for chunks in streams:
        chunks.close()
    until(lambda: sum(site.metric("starloom_requests_running").values()) == 0, 5)
