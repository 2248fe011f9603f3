"""Load out of metrics pages, and how often they are asked for."""

import asyncio
import contextlib
import random
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from starloom.serve.base import LoadReport
from starloom.serve.signals import BadPage, Load, LoadBoard, MetricsSource, Pace, http_fetch, load
from starloom.serve.signals.prometheus import samples
from starloom.site import Site

from engine_fixtures import run_async, until
from fake_vllm import FakeVllm

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/m"} 7.0
vllm:num_requests_running{engine="1",model_name="org/m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="org/m"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="org/m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="org/m"} 0.25
vllm:gpu_cache_usage_perc{engine="0",model_name="org/m"} 0.9
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="4096"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="4096"} 1.0
vllm:prefix_cache_queries_total{engine="0",model_name="org/m"} 1.0e+06
vllm:prefix_cache_queries_created{engine="0",model_name="org/m"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="org/m"} 250000.0
"""
OLD_VLLM = b"""\
vllm:num_requests_running{model_name="m"} 2.0
vllm:num_requests_waiting{model_name="m"} 1.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
vllm:gpu_prefix_cache_queries{model_name="m"} 100.0
vllm:gpu_prefix_cache_hits{model_name="m"} 40.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0
"""
SGLANG = b"""\
sglang:num_running_reqs{dp_rank="0",model_name="m",tp_rank="0"} 4.0
sglang:num_running_reqs{dp_rank="0",model_name="m",tp_rank="1"} 4.0
sglang:num_running_reqs{dp_rank="1",model_name="m",tp_rank="2"} 1.0
sglang:num_queue_reqs{dp_rank="0",model_name="m",priority="",tp_rank="0"} 5.0
sglang:num_queue_reqs{dp_rank="0",model_name="m",priority="1",tp_rank="0"} 3.0
sglang:token_usage{dp_rank="0",model_name="m",tp_rank="0"} 0.42 1790347303000
sglang:cache_config_info{num_pages="512",page_size="64"} 1.0
sglang:prompt_tokens_total{model_name="m"} 5000.0
sglang:cached_tokens_total{model_name="m"} 1000.0
"""
OURS = b"""\
starloom_requests_running{worker="a"} 2.0
starloom_requests_running{worker="b"} 1.0
starloom_worker_waiting{worker="a"} 4.0
starloom_kv_blocks{worker="a"} 100.0
starloom_kv_blocks{worker="b"} 100.0
starloom_kv_blocks_used{worker="a"} 50.0
starloom_kv_blocks_used{worker="b"} 0.0
starloom_prompt_tokens_total{model="m"} 10.0
starloom_prompt_tokens_total{model="n"} 20.0
starloom_cached_tokens_total{model="n"} 5.0
"""


def test_vllms_names_are_read():
    """Counts are added over engines, usage averaged; names that only begin alike are others."""
    assert load("vllm", VLLM) == Load(
        running=9,
        waiting=3,
        kv_usage=0.375,
        kv_blocks=8192,
        block_tokens=16,
        prefix_tokens_total=1_000_000,
        prefix_hit_tokens_total=250_000,
    )


def test_vllms_older_names_are_read():
    assert load("vllm", OLD_VLLM) == Load(
        running=2,
        waiting=1,
        kv_usage=0.5,
        block_tokens=16,
        prefix_tokens_total=100,
        prefix_hit_tokens_total=40,
    )


def test_sglangs_names_are_read():
    """Ranks of tensor parallelism repeat a figure, priorities split it: neither is added."""
    assert load("sglang", SGLANG) == Load(
        running=5,
        waiting=5,
        kv_usage=0.42,
        kv_blocks=512,
        block_tokens=64,
        prefix_tokens_total=5000,
        prefix_hit_tokens_total=1000,
    )
    gauges = SGLANG.replace(
        b'sglang:cache_config_info{num_pages="512",page_size="64"} 1.0',
        b"sglang:page_size 32\nsglang:num_pages 9",
    )
    assert (load("sglang", gauges).kv_blocks, load("sglang", gauges).block_tokens) == (9, 32)


def test_our_own_page_is_read():
    """A site in front of another: its workers together are one worker."""
    assert load("starloom", OURS) == Load(
        running=3,
        waiting=4,
        kv_usage=0.25,
        kv_blocks=200,
        prefix_tokens_total=30,
        prefix_hit_tokens_total=5,
    )


@pytest.mark.parametrize("page", [b"", b"<html>", VLLM, b"sglang:num_running_reqs{ 1\n"])
def test_a_page_of_another_kind_is_an_error(page):
    with pytest.raises(BadPage, match="metrics: sglang"):
        load("sglang", page)


def test_lines_that_are_no_samples_are_passed_over():
    """A value that is no finite number, labels that never end, a name in the middle of a line."""
    page = b'm{a="1"} NaN\nm{a="x\nm{a="\\"}\\n\\\\"} 2 17\nm +Inf\nmm 3\n# m 4\nx m 5\nm\t6\nm{} 7'
    assert samples(page, ["m", "absent"]) == {
        "m": [({"a": '"}\n\\'}, 2.0), ({}, 6.0), ({}, 7.0)],
    }


@given(
    st.dictionaries(
        st.tuples(st.text(max_size=8), st.text(max_size=8)),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=6,
    )
)
def test_what_the_reference_client_writes_is_read(values):
    """Any label text and any number that prometheus_client prints come back as they were."""
    registry = CollectorRegistry()
    gauge = Gauge("vllm:x", "a\nb", ["one", "two"], registry=registry)
    for labels, value in values.items():
        gauge.labels(*labels).set(value)
    found = samples(generate_latest(registry), ["vllm:x"]).get("vllm:x", [])
    assert {(s.labels["one"], s.labels["two"]): s.value for s in found} == values


@given(st.binary(max_size=300))
def test_any_page_is_read_or_refused(page):
    for kind in ("vllm", "sglang", "starloom"):
        for text in (page, b"vllm:num_requests_running{" + page, b"\nstarloom_kv_blocks " + page):
            with contextlib.suppress(BadPage):
                assert load(kind, text).running >= 0


def test_a_page_of_megabytes_is_read_in_milliseconds():
    """Twice the page takes about twice the time, and odd lines take no longer than others."""
    line = b'vllm:e2e_request_latency_seconds_bucket{le="30",model_name="m"} 199\n'
    open_quotes = b'vllm:num_requests_running{a="' + b"\\" * 60_000 + b"\n"

    def best_s(page):
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            load("vllm", page)
            times.append(time.perf_counter() - begun)
        return min(times)

    small, large = (VLLM + line * (n << 20 >> 6) for n in (2, 8))
    assert best_s(large) < 12 * best_s(small) + 0.01
    assert best_s(large) < 0.5
    assert best_s(open_quotes * 20 + VLLM) < 0.5


def test_an_own_report_is_a_load():
    report = LoadReport(running=2, waiting=1, waiting_tokens=64, kv_blocks=8, kv_blocks_used=2)
    said = Load.of_report(report)
    assert (said.running, said.waiting, said.waiting_tokens) == (2, 1, 64)
    assert (said.kv_usage, said.kv_blocks) == (0.25, 8)
    assert Load.of_report(LoadReport()).kv_usage is None


def test_old_loads_no_longer_count():
    """After three intervals without news the schedule is left to the gateway's own counts."""
    now = 100.0
    board = LoadBoard(lambda: now)
    assert (board.fresh("w"), board.age_s("w")) == (None, None)
    board.put("w", Load(running=3), every_s=2.0)
    board.put_report("own", LoadReport(running=1), every_s=0.25)
    now = 106.0
    assert board.fresh("w") == Load(running=3)
    assert board.fresh("own") is None
    now = 106.1
    assert board.fresh("w") is None
    assert board.age_s("w") == pytest.approx(6.1)
    board.put("w", Load(), every_s=2.0)
    board.forget("w")
    assert board.fresh("w") is None


def test_the_pace_spares_a_slow_server():
    """A page that takes a second is asked for every ten; failures double the pause."""
    pace = Pace(1.0, lambda: 0.5)
    assert pace.next_s(ok=True, took_s=0.01) == 1.0
    assert pace.next_s(ok=True, took_s=1.0) == 10.0
    assert [pace.next_s(ok=False, took_s=0.0) for _ in range(7)] == [2, 4, 8, 16, 30, 30, 30]
    assert pace.next_s(ok=True, took_s=0.0) == 1.0


@given(st.floats(0, 0.999), st.floats(0, 100), st.lists(st.booleans(), max_size=9))
def test_pauses_are_bounded_and_jitter(draw, took_s, answers):
    pace = Pace(1.0, lambda: draw)
    for ok in [*answers, True]:
        assert 0.8 <= pace.next_s(ok=ok, took_s=took_s) <= 36


def source_of(fetch, board, **more):
    draw = random.Random(0).random
    return MetricsSource("w", "vllm", fetch, board, every_s=0.02, draw=draw, **more)


def test_a_page_over_http_reaches_the_board():
    """Real sockets: asked for again and again until closed."""

    async def test():
        async with FakeVllm() as server, httpx.AsyncClient() as client:
            server.page = VLLM
            board = LoadBoard(asyncio.get_running_loop().time)
            source = source_of(http_fetch(client, server.url + "/metrics"), board)
            await source.start()
            await until(lambda: server.scrapes >= 3)
            assert board.fresh("w").running == 9
            await source.close()
            before = server.scrapes
            await asyncio.sleep(0.1)
            assert server.scrapes == before

    run_async(test)


def test_a_server_that_hangs_is_asked_once_at_a_time():
    """One question is out; it times out, and belief ages by itself."""

    async def test():
        asked = out = most = 0

        async def fetch():
            nonlocal asked, out, most
            asked, out = asked + 1, out + 1
            most = max(most, out)
            try:
                if asked > 1:
                    await asyncio.sleep(60)
                return VLLM
            finally:
                out -= 1

        board = LoadBoard(asyncio.get_running_loop().time)
        source = source_of(fetch, board, timeout_s=0.05)
        await source.start()
        await until(lambda: source.failures == 1)
        await until(lambda: board.fresh("w") is None)
        assert most == 1
        await source.close()
        assert out == 0

    run_async(test)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (httpx.Response(503), "answered 503"),
        (httpx.Response(200, content=b"x" * (17 << 20)), "over 16 MiB"),
        (httpx.Response(200, content=SGLANG), "metrics: vllm"),
        (httpx.Response(200, content=VLLM), "16 tokens"),
        (httpx.ConnectError("refused"), "refused"),
    ],
)
def test_what_is_wrong_is_told_once(answer, what, caplog):
    """A log line when it begins, not one a second."""

    async def test():
        asked = 0

        def answers(_):
            nonlocal asked
            asked += 1
            if isinstance(answer, Exception):
                raise answer
            return httpx.Response(answer.status_code, content=answer.content)

        async with httpx.AsyncClient(transport=httpx.MockTransport(answers)) as client:
            board = LoadBoard(asyncio.get_running_loop().time)
            source = source_of(http_fetch(client, "http://h/metrics"), board, block_tokens=64)
            await source.start()
            await until(lambda: asked >= 3)
            await source.close()
        assert [record.getMessage() for record in caplog.records if what in record.getMessage()]
        assert len(caplog.records) == 1

    run_async(test)


def test_metrics_addresses_follow_the_api(repository):
    """`/metrics` stands beside `/v1`, not below it."""
    site = Site.load(repository / "examples" / "vllm.yaml")
    assert site.workers[0].metrics_address == "http://127.0.0.1:8100/metrics"
