"""The line: workers that fail, clients that leave, time that runs out, and the guard."""

import asyncio
import concurrent.futures
import json
import threading

import httpx
import pytest

from starloom.serve.base import Delta, TokenLogprob, Usage
from starloom.serve.errors import EngineFailed, Unavailable
from starloom.serve.gateway import RequestLog
from starloom.serve.gateway.outlet import Outlet
from starloom.serve.guard import AuditFile, Entry, Guard, Matcher, OutputFilter
from starloom.site import Site

from gateway_fixtures import (
    KEY,
    FakeEngine,
    chunks,
    events,
    make_site,
    raw_request,
    serving,
    until,
)


def failing_once(error, *before):
    """A script that fails the first time, after `before`, and answers from then on."""
    calls = []

    def script(request):
        calls.append(request)
        return [*before, error] if len(calls) == 1 else ["fine"]

    return script


def idle(gate):
    """Whether every ticket has ended."""
    return not any(gate.outstanding().values())


@pytest.mark.parametrize("error", [Unavailable("full"), EngineFailed("lost")])
@pytest.mark.parametrize("stream", [False, True])
def test_another_worker_takes_over_before_the_first_token(tmp_path, error, stream):
    """Nothing was sent, so the client notices nothing; the log names both workers."""
    site = make_site(tmp_path, workers=("w1", "w2"))
    engines = [FakeEngine("w1", script=lambda r: [error]), FakeEngine("w2")]
    with serving(site, engines, log=RequestLog(tmp_path / "log.jsonl")) as gate:
        for _ in range(4):
            answer = gate.chat(stream=stream)
            assert answer.status_code == 200
            assert "Hello" in answer.text
        assert idle(gate)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [(s["name"], s.get("what", "")) for line in lines for s in line["steps"]]
    assert ("failed", "w1") in steps
    assert ("schedule", "w2") in steps


def test_a_whole_answer_is_begun_again_elsewhere(tmp_path):
    """Without streaming nothing was sent, so a worker lost halfway is replaced."""
    site = make_site(tmp_path, workers=("w1", "w2"))
    script = failing_once(EngineFailed("lost"), "half an ans")
    with serving(site, [FakeEngine("w1", script=script), FakeEngine("w2", script=script)]) as gate:
        answer = gate.chat()
        assert answer.json()["choices"][0]["message"]["content"] == "fine"
        assert idle(gate)


def test_a_stream_that_breaks_says_so(tmp_path):
    """After the first token an error event ends the stream, and nothing follows it."""
    site = make_site(tmp_path, workers=("w1", "w2"))
    engines = [
        FakeEngine(name, script=lambda r: ["begun", EngineFailed("worker lost")])
        for name in ("w1", "w2")
    ]
    with serving(site, engines) as gate:
        answer = gate.chat(stream=True)
        assert answer.status_code == 200
        *_, last = events(answer)
        assert json.loads(last)["error"]["code"] == "engine_failed"
        assert "[DONE]" not in answer.text
        assert sum(len(engine.seen) for engine in engines) == 1
        assert idle(gate)


def test_error_deltas_count_as_failures(tmp_path):
    """A worker that gives up in an orderly way is a 502 with its message, after retries."""
    site = make_site(tmp_path)
    engine = FakeEngine("w1", script=lambda r: [Delta(id=r.id, finish="error", error="no room")])
    with serving(site, [engine], wait_s=0.5) as gate:
        answer = gate.chat()
        assert answer.status_code == 502
        assert answer.json()["error"]["message"] == "no room"
        assert idle(gate)


def test_no_worker_up_waits_then_503(tmp_path):
    """A request waits a bounded time for a worker, and is told when to come back."""
    site = make_site(tmp_path)
    with serving(site, [FakeEngine("w1", up=False)], wait_s=0.3) as gate:
        answer = gate.chat()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_worker_available"
        assert int(answer.headers["retry-after"]) >= 1
        with gate.client() as client:
            ready = client.get("/ready")
            assert ready.status_code == 503
            assert ready.json()["models"] == ["m"]
            assert client.get("/health").status_code == 200


def test_a_worker_that_returns_takes_the_waiting_request(tmp_path):
    """A request that waits goes on as soon as a worker comes up."""
    site = make_site(tmp_path)
    engine = FakeEngine("w1", up=False)
    with serving(site, [engine], wait_s=8.0) as gate:
        timer = threading.Timer(0.2, engine.switch, [True])
        timer.start()
        assert gate.chat().status_code == 200
        engine.script = failing_once(EngineFailed("lost"))
        assert gate.chat().json()["choices"][0]["message"]["content"] == "fine"


def test_full_workers_refuse_at_once(tmp_path):
    """Workers that are up but full are not waited for."""
    site = make_site(tmp_path)
    engine = FakeEngine("w1", script=lambda r: [Unavailable("the queue is full")])
    with serving(site, [engine], wait_s=30.0) as gate:
        answer = gate.chat()
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "the queue is full"
        assert len(engine.seen) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_leaves_cancels_the_work(tmp_path, stream, begun):
    """The engine stops at once, whether it has begun or not, streamed or not."""
    script = ["a", 30.0, "b"] if begun else [30.0]
    engine = FakeEngine("w1", script=lambda r: script)
    log = RequestLog(tmp_path / "log.jsonl")
    with serving(make_site(tmp_path), [engine], log=log) as gate:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": stream}
        with gate.connect() as sock:
            sock.sendall(raw_request(json.dumps(body).encode()))
            until(lambda: engine.running)
            if stream and begun:
                assert b"200 OK" in sock.recv(4096)
        until(lambda: engine.cancelled == 1, timeout_s=2)
        until(lambda: idle(gate) and gate.app.running == 0)
    record = json.loads((tmp_path / "log.jsonl").read_text())
    assert (record["outcome"], record["status"]) == ("cancelled", 499)


def test_a_client_that_leaves_while_waiting_is_forgotten(tmp_path):
    """A request that waits for a worker ends with its client."""
    with serving(make_site(tmp_path), [FakeEngine("w1", up=False)], wait_s=60.0) as gate:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        with gate.connect() as sock:
            sock.sendall(raw_request(json.dumps(body).encode()))
            until(lambda: gate.app.running == 1)
        until(lambda: gate.app.running == 0)


def test_one_of_n_that_fails_ends_the_others(tmp_path):
    """N answers stand or fall together, and every ticket ends."""

    def script(request):
        return [EngineFailed("lost")] if request.sampling.seed == 1 else ["a", 20.0]

    engine = FakeEngine("w1", script=script)
    with serving(make_site(tmp_path), [engine], wait_s=0.2) as gate:
        answer = gate.chat(n=3, seed=0)
        assert answer.status_code == 502
        assert engine.cancelled == 2
        assert idle(gate)


@pytest.mark.parametrize("stream", [False, True])
def test_time_runs_out(tmp_path, stream):
    """A request over its time is a 504, or an error event where a stream has begun."""
    site = make_site(tmp_path, gateway={"limits": {"request_timeout_s": 0.3}})
    engine = FakeEngine("w1", script=lambda r: ["a", 20.0])
    with serving(site, [engine]) as gate:
        answer = gate.chat(stream=stream)
        if stream:
            assert json.loads(events(answer)[-1])["error"]["code"] == "timeout"
        else:
            assert answer.status_code == 504
        assert engine.cancelled == 1
        assert idle(gate)


def test_too_many_requests_at_once(tmp_path):
    """One more than the limit is 429 with Retry-After, and the line recovers."""
    site = make_site(tmp_path, gateway={"limits": {"requests": 2}})
    engine = FakeEngine("w1", script=lambda r: [0.5, "ok"])
    with serving(site, [engine]) as gate:

        async def many():
            async with httpx.AsyncClient(base_url=gate.url, headers=gate.headers) as client:
                body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
                calls = [client.post("/v1/chat/completions", json=body) for _ in range(5)]
                return await asyncio.gather(*calls)

        answers = asyncio.run(many())
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
        assert all("retry-after" in a.headers for a in answers if a.status_code == 429)
        assert gate.chat().status_code == 200


def test_large_bodies_share_a_budget(tmp_path):
    """Bodies that would not fit together are told 429 and when to come back; then there is room."""
    site = make_site(tmp_path, gateway={"limits": {"body_mib": 1, "bodies_mib": 1.5}})
    engine = FakeEngine("w1", script=lambda r: [0.5, "ok"])
    with serving(site, [engine]) as gate:
        large = "x" * 900_000
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: gate.chat(user=large), range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 429]
        assert gate.chat(user=large).status_code == 200


def test_long_prompts_do_not_block_the_loop(tmp_path):
    """While a prompt of 200,000 tokens is tokenised, other clients are answered."""
    site = make_site(tmp_path, context=300_000)
    with serving(site, [FakeEngine("w1")]) as gate:
        text = "the quick brown fox " * 10_000
        slow = threading.Thread(target=gate.chat, args=(text,))
        slow.start()
        with gate.client() as client:
            while slow.is_alive():
                assert client.get("/health").elapsed.total_seconds() < 1.0
        slow.join()
        assert len(gate.engines[0].seen[0].tokens) == 200_000 + 3


def guarded(tmp_path, lists):
    site = make_site(tmp_path)
    return Site.model_validate({**site.model_dump(), "guard": {"lists": lists}})


BLOCK = {"name": "secrets", "words": ["launch code"], "action": "block"}
MASK = {"name": "names", "words": ["voldemort"], "action": "mask"}


def test_blocked_input_is_refused_and_audited(tmp_path):
    """A phrase of a block list never reaches a worker, in no form of prompt."""
    site = guarded(tmp_path, [BLOCK])
    engine = FakeEngine("w1")
    audit = AuditFile(tmp_path / "audit.jsonl")
    with serving(site, [engine], guard=Guard.from_site(site), audit=audit) as gate:
        answer = gate.chat("tell me the LAUNCH CODE")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "content_filter"
        with gate.client() as client:
            ids = list(b"the launch code")
            tokens = gate.app._line.prompts["m"].tokeniser.prompt(bytes(ids).decode())
            for prompt in ("launch code", ["x", "launch code"], tokens, [[*tokens]]):
                body = {"model": "m", "prompt": prompt}
                assert client.post("/v1/completions", json=body).status_code == 400
            page = client.get("/metrics").text
        assert engine.seen == []
        assert 'starloom_guard_verdicts_total{action="block",where="input"} 5.0' in page
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert {(line["tenant"], line["list"]) for line in lines} == {("acme", "secrets")}


def test_masked_input_reaches_the_worker_masked(tmp_path):
    """A mask list changes the words, not the turn."""
    site = guarded(tmp_path, [MASK])
    engine = FakeEngine("w1")
    with serving(site, [engine], guard=Guard.from_site(site)) as gate:
        assert gate.chat("who is Voldemort?").status_code == 200
        text = gate.app._line.prompts["m"].decode(engine.seen[0].tokens)
        assert text == "<|user|>who is *********?<|end|><|assistant|>"


def test_blocked_output_ends_the_answer(tmp_path):
    """The phrase is not let out, the reason is content_filter, and the worker stops."""
    site = guarded(tmp_path, [BLOCK])
    engine = FakeEngine("w1", script=lambda r: ["The lau", "nch co", "de is", 20.0, " 1234"])
    with serving(site, [engine], guard=Guard.from_site(site)) as gate:
        choice = gate.chat().json()["choices"][0]
        assert choice["finish_reason"] == "content_filter"
        assert choice["message"]["content"] == "The "
        parts = chunks(gate.chat(stream=True, logprobs=True))
        text = "".join(p["choices"][0]["delta"].get("content", "") for p in parts)
        assert text == "The "
        assert parts[-1]["choices"][0]["finish_reason"] == "content_filter"
        assert "nch co" not in json.dumps(parts)
        until(lambda: engine.cancelled == 2)
        assert idle(gate)


def test_masked_output_is_masked_across_deltas(tmp_path):
    """A phrase that comes in pieces is masked as a whole."""
    site = guarded(tmp_path, [MASK])
    engine = FakeEngine("w1", script=lambda r: ["I am Vol", "de", "mort", "!"])
    with serving(site, [engine], guard=Guard.from_site(site)) as gate:
        assert gate.chat().json()["choices"][0]["message"]["content"] == "I am *********!"


def test_logprobs_do_not_tell_what_the_guard_holds():
    """Log probabilities wait for their text, and vanish with what is changed."""
    guard = OutputFilter(Matcher([Entry(list="names", phrase="voldemort", action="mask")]))
    outlet = Outlet(guard, 1, lambda verdicts: None)

    def step(text, finish=None):
        logprobs = [TokenLogprob(text, text.encode(), -1.0)]
        delta = outlet.let_out(Delta(id="r", text=text, tokens=1, logprobs=logprobs, finish=finish))
        return delta.text, [token.text for token in delta.logprobs]

    assert step("one ") == ("one ", ["one "])
    assert step("vol") == ("", [])
    assert step("cano ") == ("volcano ", ["vol", "cano "])
    assert step("voldemort")[1] == []
    text, shown = step(" end", "stop")
    assert "voldemort" not in text
    assert shown == []


def test_log_lines_tell_the_way_and_no_text(tmp_path):
    """Each step stands in the log with its time; neither text nor keys do."""
    log = RequestLog(tmp_path / "log.jsonl")
    with serving(make_site(tmp_path), [FakeEngine("w1")], log=log) as gate:
        gate.chat("a very private question", stream=True, user="private user")
        gate.chat("another", model="unknown-model")
    text = (tmp_path / "log.jsonl").read_text()
    first, second = [json.loads(line) for line in text.splitlines()]
    names = [step["name"] for step in first["steps"]]
    assert names == ["parse", "route", "tokenise", "schedule", "answer"]
    times = [step["at_ms"] for step in first["steps"]]
    assert times == sorted(times)
    assert (first["tenant"], first["model"], first["outcome"]) == ("acme", "m", "ok")
    assert first["completion_tokens"] == 2
    assert first["ttft_ms"] <= first["total_ms"]
    assert second["outcome"] == "model_not_found"
    assert "model" not in second
    for secret in ("private", KEY, "Hello"):
        assert secret not in text


def test_log_is_bounded(tmp_path):
    """The log turns over into one older file and never grows beyond twice its limit."""
    log = RequestLog(tmp_path / "log.jsonl", limit_bytes=4000)
    with serving(make_site(tmp_path), [FakeEngine("w1")], log=log) as gate:
        for _ in range(30):
            gate.chat()
    assert (tmp_path / "log.jsonl").stat().st_size <= 4000
    assert (tmp_path / "log.jsonl.1").stat().st_size <= 4000
    assert not (tmp_path / "log.jsonl.2").exists()


def test_usage_is_counted_where_a_worker_does_not_say(tmp_path):
    """A worker without usage still gives a client its counts."""
    script = ["a", "b"]

    def steps(request):
        return [*script, Delta(id=request.id, finish="length")]

    with serving(make_site(tmp_path), [FakeEngine("w1", script=steps)]) as gate:
        body = gate.chat().json()
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 2
        last = Delta(
            id="x",
            text="!",
            tokens=1,
            finish="stop",
            usage=Usage(prompt_tokens=1, completion_tokens=1),
        )
        gate.engines[0].script = lambda r: [last]
        parts = chunks(gate.chat(stream=True))
        assert [p["choices"][0]["delta"].get("content") for p in parts] == ["", "!", None]
