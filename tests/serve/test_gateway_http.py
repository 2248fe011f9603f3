"""What a client can hold open before it is known, and how the process ends."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import httpx

from starloom.process import LISTENER_ENV
from starloom.serve.rundir import RunDir

from gateway_fixtures import (
    KEY,
    FakeEngine,
    make_site,
    raw_request,
    read_all,
    serving,
    until,
)


def limited(tmp_path, **limits):
    return make_site(tmp_path, gateway={"limits": limits})


def body(**more):
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], **more}
    ).encode()


def test_header_floods_are_cut_off(tmp_path):
    """Too many headers, one endless header, and an endless path end in 431 and a close."""
    with serving(limited(tmp_path, header_kib=4), [FakeEngine("w1")]) as gate:
        floods = (
            b"GET /health HTTP/1.1\r\n" + b"X-A: b\r\n" * 2000 + b"\r\n",
            b"GET /health HTTP/1.1\r\nX-A: " + b"b" * 9000,
            b"GET /" + b"a" * 9000,
        )
        for flood in floods:
            with gate.connect() as sock:
                sock.sendall(flood[:3000])
                time.sleep(0.02)
                sock.sendall(flood[3000:])
                assert read_all(sock).startswith(b"HTTP/1.1 431")
        assert gate.chat().status_code == 200


def test_slow_headers_are_cut_off(tmp_path):
    """Clients that trickle headers, or say nothing, are closed; others are served meanwhile."""
    allow_files(3000)
    site = limited(tmp_path, header_timeout_s=1.0, connections=1200)
    with serving(site, [FakeEngine("w1")]) as gate:
        socks = [gate.connect() for _ in range(1000)]
        for sock in socks[::2]:
            sock.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
        assert gate.chat().status_code == 200
        until(lambda: gate.server.connections <= 1, timeout_s=5)
        assert gate.chat().status_code == 200
        for sock in socks:
            assert read_all(sock) == b""
            sock.close()


def test_connections_are_bounded(tmp_path):
    """One connection too many is told 503; room is made when others leave."""
    with serving(limited(tmp_path, connections=5), [FakeEngine("w1")]) as gate:
        socks = [gate.connect() for _ in range(5)]
        until(lambda: gate.server.connections == 5)
        with gate.connect() as sock:
            assert read_all(sock).startswith(b"HTTP/1.1 503")
        for sock in socks:
            sock.close()
        until(lambda: not gate.server.connections)
        assert gate.chat().status_code == 200


def test_slow_bodies_are_cut_off(tmp_path):
    """A body that does not arrive in time is a 408 and a close."""
    with serving(limited(tmp_path, body_timeout_s=0.2), [FakeEngine("w1")]) as gate:
        with gate.connect() as sock:
            sock.sendall(raw_request(b"", Content_Length="100") + b"{")
            assert read_all(sock).startswith(b"HTTP/1.1 408")
        assert gate.app.running == 0


def test_unwanted_bodies_are_read_no_longer_than_a_moment(tmp_path):
    """A refused client may finish its body and go on, but cannot send for ever."""
    with serving(make_site(tmp_path), [FakeEngine("w1")]) as gate:
        data = b"x" * 100_000
        with gate.connect() as sock:
            sock.sendall(raw_request(data, Authorization="Bearer wrong"))
            assert b"HTTP/1.1 401" in sock.recv(65536)
            sock.sendall(raw_request(body(), Connection="close"))
            assert b"HTTP/1.1 200" in read_all(sock)
        with gate.connect() as sock:
            sock.sendall(raw_request(b"", Authorization="x", Content_Length="1000000000"))
            begin = time.monotonic()
            assert b"HTTP/1.1 401" in read_all(sock)
            assert time.monotonic() - begin < 5


def test_garbage_is_answered_in_our_shape(tmp_path):
    """What is not HTTP is a 400, in the form of all errors."""
    with serving(make_site(tmp_path), [FakeEngine("w1")]) as gate:
        for garbage in (b"hello there\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"):
            with gate.connect() as sock:
                sock.sendall(garbage)
                answer = read_all(sock)
            assert answer.startswith(b"HTTP/1.1 400")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"]
        assert gate.chat().status_code == 200


def test_pipelined_requests_and_chunked_bodies(tmp_path):
    """Requests sent at once are answered in order; trailers are not taken for headers."""
    with serving(make_site(tmp_path), [FakeEngine("w1")]) as gate:
        data = body()
        chunked = raw_request(b"", Content_Length=None, Transfer_Encoding="chunked")
        chunked += b"%x\r\n%s\r\n0\r\nAuthorization: Bearer evil\r\n\r\n" % (len(data), data)
        last = raw_request(data, Connection="close", X_Request_Id="last")
        with gate.connect() as sock:
            sock.sendall(raw_request(data) + chunked + last)
            answer = read_all(sock)
        assert answer.count(b"HTTP/1.1 200") == 3
        assert b"x-request-id: last" in answer.rpartition(b"HTTP/1.1 200")[2]


def test_drain_finishes_what_runs_and_refuses_the_rest(tmp_path):
    """Asked to stop, the gateway is not ready, takes nothing new, and ends the old."""
    engine = FakeEngine("w1", script=lambda r: ["a", 0.8, "b"])
    with serving(make_site(tmp_path), [engine]) as gate:
        with gate.connect() as sock, gate.client() as client:
            assert client.get("/ready").status_code == 200
            sock.sendall(raw_request(body(stream=True)))
            until(lambda: engine.running)
            gate.server.stop()
            until(lambda: client.get("/ready").status_code == 503)
            refused = client.post("/v1/chat/completions", json=json.loads(body()))
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            assert b"[DONE]" in read_all(sock)
        gate.thread.join(10)
        assert not gate.thread.is_alive()


def test_drain_cancels_what_takes_too_long(tmp_path):
    """After drain_s running requests are cancelled, told so, and the server ends."""
    engine = FakeEngine("w1", script=lambda r: ["a", 60.0])
    with serving(limited(tmp_path, drain_s=0.3), [engine]) as gate:
        with gate.connect() as stream, gate.connect() as whole:
            stream.sendall(raw_request(body(stream=True)))
            whole.sendall(raw_request(body()))
            until(lambda: engine.running == 2)
            gate.server.stop()
            assert b"shutting down" in read_all(stream)
            assert read_all(whole).startswith(b"HTTP/1.1 503")
        gate.thread.join(10)
        assert not gate.thread.is_alive()
        assert engine.cancelled == 2


def test_the_process_takes_a_listener_and_exits_0_on_sigterm(tmp_path):
    """`python -m starloom.serve.gateway RUN_DIR` on a socket handed over, without a worker."""
    rundir = RunDir(tmp_path / "run")
    rundir.create()
    rundir.write_site(make_site(tmp_path / "site"))
    rundir.write_keys({"acme": []})
    command = [sys.executable, "-m", "starloom.serve.gateway", str(rundir.path)]
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    handed = listener.fileno()
    with (
        listener,
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            pass_fds=[handed],
            env={**os.environ, LISTENER_ENV: str(handed)},
        ) as process,
    ):
        assert httpx.get(f"{url}/health", timeout=30).status_code == 200
        assert httpx.get(f"{url}/ready").json()["models"] == ["m"]
        denied = httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {KEY}"})
        assert denied.status_code == 401
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0, process.stderr.read()


def allow_files(wanted):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
