"""Connections to servers elsewhere: kept, replaced, and never waited for without end."""

import asyncio

import pytest

from starloom.serve.http import Upstream, UpstreamError

from engine_fixtures import run_async
from upstream_fixtures import FakeUpstream

HEAD = b"HTTP/1.1 200 OK\r\n"


async def ask(upstream, body=b"{}"):
    reply = await upstream.request(b"POST", b"/v1/x", body)
    try:
        return await reply.read(1 << 20)
    finally:
        reply.close()


async def raw_server(*answers):
    """A server that gives one of `answers` to each connection in turn, as bytes, and closes it."""
    left = list(answers)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(left.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_a_connection_serves_many_requests_and_parallel_ones_have_their_own():
    async def test():
        fake = FakeUpstream(b"hello there", part_bytes=3)
        async with fake.serving() as url:
            upstream = Upstream(url)
            for _ in range(5):
                assert await ask(upstream) == b"hello there"
            assert fake.connections == 1
            await asyncio.gather(*(ask(upstream) for _ in range(4)))
            assert fake.connections <= 4
            assert upstream.busy == 0
            upstream.close()

    run_async(test)


def test_a_kept_connection_that_was_closed_is_replaced_once():
    """A server may close what it kept at any time: the request goes out again, on a new one."""

    async def test():
        fake = FakeUpstream(b"x")
        async with fake.serving() as url:
            upstream = Upstream(url)
            await ask(upstream)
            for writer in tuple(fake._writers):
                writer.transport.abort()
            assert await ask(upstream) == b"x"
            assert len(fake.seen) == 2
            upstream.close()

    run_async(test)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (HEAD + b"content-length: 2\r\n\r\nok", b"ok"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
        (HEAD + b"\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"content-length: 2\r\n\r\nok", b"ok"),
    ],
)
def test_the_ways_in_which_a_body_ends(answer, body):
    async def test():
        server, url = await raw_server(answer)
        async with server:
            upstream = Upstream(url)
            assert await ask(upstream) == body
            upstream.close()

    run_async(test)


@pytest.mark.parametrize(
    "answer",
    [b"", b"hello\r\n\r\n", HEAD + b"content-length: 9\r\n\r\nshort", HEAD[:9]],
)
def test_what_breaks_off_is_an_error(answer):
    async def test():
        server, url = await raw_server(answer)
        async with server:
            upstream = Upstream(url)
            with pytest.raises(UpstreamError):
                await ask(upstream)
            assert upstream.busy == 0
            upstream.close()

    run_async(test)


def test_nobody_there_is_told_as_not_sent():
    async def test():
        with pytest.raises(UpstreamError) as caught:
            await ask(Upstream("http://127.0.0.1:1"))
        assert not caught.value.sent

    run_async(test)


def test_a_silent_server_is_given_up(monkeypatch):
    """`timeout_s` without a byte ends the request, however long the answer may take in all."""
    monkeypatch.setattr("starloom.serve.http.upstream._TICK_S", 0.02)

    async def test():
        fake = FakeUpstream(b"abcdefgh", part_bytes=1, pause_s=0.05)
        async with fake.serving() as url:
            patient = Upstream(url, timeout_s=0.2)
            assert await ask(patient) == b"abcdefgh"
            patient.close()
            fake.pause_s = 5.0
            hasty = Upstream(url, timeout_s=0.1)
            with pytest.raises(UpstreamError, match="silent"):
                await ask(hasty)
            hasty.close()

    run_async(test)


def test_an_answer_that_nobody_reads_is_left_to_the_kernel():
    """What is not read is bounded here: the server is held back, and all arrives in the end."""

    async def test():
        data = bytes(range(256)) * (64 << 10)
        async with FakeUpstream(data, part_bytes=1 << 16).serving() as url:
            upstream = Upstream(url)
            reply = await upstream.request(b"POST", b"/x", b"{}")
            await asyncio.sleep(0.2)
            assert reply._bytes < 4 << 20
            got = b""
            while part := await reply.part():
                got += part
            assert got == data
            upstream.close()

    run_async(test)


def test_a_closed_reply_breaks_the_connection_off():
    async def test():
        fake = FakeUpstream(b"x" * 200, part_bytes=1, pause_s=0.01)
        async with fake.serving() as url:
            upstream = Upstream(url)
            reply = await upstream.request(b"POST", b"/x", b"{}")
            reply.close()
            await asyncio.sleep(0.1)
            assert not fake._writers
            upstream.close()

    run_async(test)
