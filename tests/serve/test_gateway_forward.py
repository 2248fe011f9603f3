"""Models that only servers elsewhere have: what passes through, and what happens when they fail."""

import json

import pytest

from starloom.serve.engines import OpenAIEngine
from starloom.serve.guard import Guard
from starloom.site import Site

from gateway_fixtures import chunks, events, raw_request, serving, until
from upstream_fixtures import FakeUpstream, chat, in_thread, sse

USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
WHOLE = {
    "id": "x",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello world"}}],
    "usage": USAGE,
    "of_our_own": [1, {"kept": True}],
}
STREAM = sse(chat("Hel"), chat("lo"), chat(None, "stop"), {"choices": [], "usage": USAGE})


def site_of(tmp_path, *urls, words=(), **fields):
    workers = [
        {"name": f"w{at}", "node": "n", "model": "m", "engine": "openai", "url": f"{url}/v1"}
        for at, url in enumerate(urls)
    ]
    data = {
        "name": "t",
        "base": str(tmp_path),
        "gateway": {"port": 0},
        "nodes": [{"name": "n"}],
        "models": [{"name": "m"}],
        "workers": [{**worker, **fields} for worker in workers],
        "guard": {"lists": [{"name": "l", "words": list(words)}] if words else []},
        "schedule": {"policy": "round_robin"},
    }
    return Site.model_validate(data)


class Passed:
    """A gateway in front of fakes."""

    def __init__(self, tmp_path, *fakes, words=(), **fields):
        self._made = (tmp_path, fakes, words, fields)

    def __enter__(self):
        tmp_path, fakes, words, fields = self._made
        self._threads = [in_thread(fake) for fake in fakes]
        urls = [thread.__enter__() for thread in self._threads]
        site = site_of(tmp_path, *urls, words=words, **fields)
        engines = [OpenAIEngine(worker) for worker in site.workers]
        guard = Guard.from_site(site) if words else None
        self._serving = serving(site, engines, guard=guard)
        self.gate = self._serving.__enter__()
        up = self.gate.app._line._workers.is_up
        until(lambda: all(up(engine.name) for engine in engines))
        return self.gate

    def __exit__(self, *error):
        self._serving.__exit__(*error)
        for thread in self._threads:
            thread.__exit__(*error)


def body_of(answer):
    return json.dumps(answer).encode()


def test_a_whole_answer_passes_as_bytes(tmp_path):
    """Fields that we do not know, of either side, reach the other."""
    fake = FakeUpstream(body_of(WHOLE))
    with Passed(tmp_path, fake) as gate:
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        answer = gate.chat(tools=tools, response_format={"type": "json_object"}, odd={"a": 1})
        assert answer.content == body_of(WHOLE)
        assert answer.headers["x-starloom-worker"] == "w0"
        asked = fake.seen[0]
        assert asked.path == "/v1/chat/completions"
        assert (asked.body["tools"], asked.body["odd"]) == (tools, {"a": 1})
        assert "authorization" not in asked.headers
        until(lambda: gate.outstanding() == {"w0": 0})


def test_a_stream_passes_and_usage_is_asked_for_but_not_shown(tmp_path):
    """Tokens are counted although the client did not ask for them; it sees no more than it did."""
    fake = FakeUpstream(STREAM)
    with Passed(tmp_path, fake) as gate:
        hidden = chunks(gate.chat(stream=True))
        shown = chunks(gate.chat(stream=True, stream_options={"include_usage": True}))
        also = chunks(gate.chat(stream=True, stream_options={"include_usage": False}))
        assert [asked.body["stream_options"]["include_usage"] for asked in fake.seen] == [True] * 3
        assert hidden == shown[:-1] == also
        assert shown[-1]["usage"] == USAGE
        metrics = gate.client().get("/metrics").text
        assert 'starloom_generated_tokens_total{model="m"} 9.0' in metrics


@pytest.mark.parametrize("part_bytes", [1, 7, 1 << 16])
def test_events_are_whole_however_they_were_cut(tmp_path, part_bytes):
    with Passed(tmp_path, FakeUpstream(STREAM, part_bytes=part_bytes)) as gate:
        assert len(chunks(gate.chat(stream=True))) == 3


def test_events_with_carriage_returns(tmp_path):
    with Passed(tmp_path, FakeUpstream(STREAM.replace(b"\n", b"\r\n"))) as gate:
        answer = gate.chat(stream=True)
        assert [line.strip() for line in events(answer)][-1] == "[DONE]"
        assert b'"usage"' not in answer.content


def test_the_models_name_here_and_there(tmp_path):
    """The server gets its own name of the model; the client sees the name that it asked for."""
    there = {**WHOLE, "model": "vendor/m"}
    fake = FakeUpstream(body_of(there))
    with Passed(tmp_path, fake, upstream_model="vendor/m") as gate:
        assert gate.chat().json() == WHOLE
        assert fake.seen[0].body["model"] == "vendor/m"


def test_n_answers_and_logprobs_pass(tmp_path):
    """What the line cannot take apart need not be taken apart."""
    choice = {"index": 1, "message": {"role": "assistant", "content": None, "tool_calls": [{}]}}
    many = {**WHOLE, "choices": [*WHOLE["choices"], choice]}
    fake = FakeUpstream(body_of(many))
    with Passed(tmp_path, fake) as gate:
        assert gate.chat(n=2, logprobs=True, top_logprobs=3).json() == many
        assert fake.seen[0].body["n"] == 2


def test_the_guard_sees_requests_and_answers(tmp_path):
    """Whole answers and streams are cut where a blocked phrase begins; nothing of it leaks."""
    said = sse(chat("a sec"), chat("ret th"), chat("ing"), chat(None, "stop"))
    fake = FakeUpstream(said)
    with Passed(tmp_path, fake, words=["secret"]) as gate:
        refused = gate.chat("tell me the SECRET")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
        assert not fake.seen
        got = chunks(gate.chat(stream=True))
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in got)
        assert text == "a "
        assert got[-1]["choices"][0]["finish_reason"] == "content_filter"
        fake.body = body_of(
            {**WHOLE, "choices": [{"index": 0, "message": {"content": "a secret"}}]}
        )
        choice = gate.chat().json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("a ", "content_filter")
        fake.body = STREAM
        assert [c["choices"][0]["delta"] for c in chunks(gate.chat(stream=True))] == [
            {"content": "Hel"},
            {"content": "lo"},
            {},
        ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_fails_is_replaced_before_the_first_byte(tmp_path, stream):
    bad = FakeUpstream(b'{"error": "no memory"}', status=500)
    good = FakeUpstream(STREAM if stream else body_of(WHOLE))
    with Passed(tmp_path, bad, good) as gate:
        for _ in range(4):
            assert gate.chat(stream=stream).status_code == 200
        until(lambda: gate.outstanding() == {"w0": 0, "w1": 0})


@pytest.mark.parametrize("words", [(), ("secret",)])
def test_a_stream_that_begins_with_an_error_is_tried_elsewhere(tmp_path, words):
    """Servers send 200 before their engine knows; text that speaks of an "error" is none."""
    bad = FakeUpstream(sse({"error": {"message": "no memory", "code": 500}}))
    good = FakeUpstream(sse(chat('an "error"'), chat(None, "stop")))
    with Passed(tmp_path, bad, good, words=words) as gate:
        for _ in range(4):
            said = chunks(gate.chat(stream=True))
            assert said[0]["choices"][0]["delta"]["content"] == 'an "error"'
        assert bad.seen


def test_a_stream_that_breaks_is_told(tmp_path):
    """After the first event there is no other server: an error event, then the end."""
    broken = FakeUpstream(sse(chat("Hel"), done=False), breaks=True)
    with Passed(tmp_path, broken) as gate:
        *_, last = events(gate.chat(stream=True))
        assert json.loads(last)["error"]["code"] == "engine_failed"
        until(lambda: gate.outstanding() == {"w0": 0})


def test_errors_of_the_server_are_told_in_our_shape(tmp_path):
    fake = FakeUpstream(b'{"error": {"message": "slow down"}}', status=429)
    fake.headers = {"retry-after": "7"}
    with Passed(tmp_path, fake) as gate:
        answer = gate.chat()
        assert (answer.status_code, answer.json()["error"]["message"]) == (429, "slow down")
        assert answer.headers["retry-after"] == "8"


def test_a_client_that_leaves_ends_the_answer_there(tmp_path):
    fake = FakeUpstream(STREAM * 50, part_bytes=10, pause_s=0.01)
    with Passed(tmp_path, fake) as gate:
        with gate.connect() as sock:
            asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
            sock.sendall(raw_request(json.dumps(asked).encode()))
            assert b"200 OK" in sock.recv(4096)
        until(lambda: gate.app.running == 0)
        until(lambda: gate.outstanding() == {"w0": 0})
        until(lambda: len(fake._writers) <= 1)  # the one that asks for the models


def test_a_client_that_reads_slowly_holds_the_server_back(tmp_path):
    """40 MB of events for a client that does not read stay, but for buffers, at the server."""
    event = sse(chat("x" * 4000), done=False)
    fake = FakeUpstream(event * 10_000 + sse(chat(None, "stop")), part_bytes=1 << 16)
    with Passed(tmp_path, fake) as gate, gate.connect() as sock:
        asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        sock.sendall(raw_request(json.dumps(asked).encode(), Connection="close"))
        until(lambda: gate.app.running == 1)
        connection = next(iter(gate.server._http.connections))
        until(connection.slow)
        assert connection.transport.get_write_buffer_size() < 8 << 20
        data = b""
        while part := sock.recv(1 << 20):
            data += part
        assert data.count(b"x" * 4000) == 10_000
        assert data.rstrip().endswith(b"0")
