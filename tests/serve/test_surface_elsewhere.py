"""Embeddings, moderation, ranks and scores of servers elsewhere, and tokens in vLLM's shapes."""

import json

import openai
import pytest

from gateway_fixtures import KEY, raw_request, read_all, until
from surface_fixtures import surface
from upstream_fixtures import FakeUpstream

EMBEDDING = {
    "object": "list",
    "model": "m",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}],
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}
ASKED = {
    "/v1/embeddings": {"input": "a text"},
    "/v1/moderations": {"input": ["a text"]},
    "/v1/rerank": {"query": "a text", "documents": ["b", {"text": "c"}]},
    "/v1/score": {"text_1": "a text", "text_2": ["b", "c"]},
    "/v1/audio/transcriptions": {"file": "data:audio/wav;base64,AAAA", "prompt": "a text"},
}


def post(gate, path, **body):
    with gate.client() as client:
        return client.post(path, json={"model": "m", **body})


@pytest.mark.parametrize("path", ASKED)
def test_bodies_and_answers_pass_as_bytes(tmp_path, path):
    """Tokens are counted, the schedule is told, and unknown fields reach the other side."""
    answer = json.dumps({**EMBEDDING, "odd": 1}).encode()
    fake = FakeUpstream(answer)
    with surface(tmp_path, fake) as gate:
        got = post(gate, path, **ASKED[path], extra={"a": 1})
        assert got.content == answer
        assert got.headers["x-starloom-worker"] == "w0"
        assert fake.seen[0].path == path
        assert fake.seen[0].body == {"model": "m", **ASKED[path], "extra": {"a": 1}}
        until(lambda: gate.outstanding() == {"w0": 0})
        metrics = gate.client().get("/metrics").text
        assert 'starloom_prompt_tokens_total{model="m"} 4.0' in metrics


def test_openais_client_gets_embeddings(tmp_path):
    """As from OpenAI."""
    with (
        surface(tmp_path, FakeUpstream(json.dumps(EMBEDDING).encode())) as gate,
        openai.OpenAI(api_key=KEY, base_url=f"{gate.url}/v1") as client,
    ):
        got = client.embeddings.create(model="m", input="x", encoding_format="float")
        assert got.data[0].embedding == [0.5, 1.0]
        assert got.usage.prompt_tokens == 4


@pytest.mark.parametrize("path", ASKED)
def test_the_guard_reads_what_a_model_would(tmp_path, path):
    """Blocked inputs reach nobody; token ids, which it cannot read, are refused."""
    fake = FakeUpstream(b"{}")
    with surface(tmp_path, fake, words=["secret"]) as gate:
        asked = json.loads(json.dumps(ASKED[path]).replace("a text", "a secret"))
        refused = post(gate, path, **asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
        assert post(gate, path, input=[[1, 2]]).status_code == 400
        assert not fake.seen


def test_transcripts_pass_the_guard(tmp_path):
    """They are what a model says."""
    fake = FakeUpstream(b'{"text": "a secret thing"}')
    with surface(tmp_path, fake, words=["secret"]) as gate:
        got = post(gate, "/v1/audio/transcriptions", file="data:audio/wav;base64,AAAA")
        assert got.json()["text"] == "a "


@pytest.mark.parametrize("path", ASKED)
def test_our_engines_refuse_by_name(tmp_path, path):
    """What nobody can do is said so, and an unknown model is not found."""
    with surface(tmp_path, own=True) as gate:
        got = post(gate, path, **ASKED[path])
        assert (got.status_code, got.json()["error"]["param"]) == (400, "model")
        assert "openai" in got.json()["error"]["message"]
        assert post(gate, path, **{**ASKED[path], "model": "x"}).status_code == 404
        assert post(gate, path, **ASKED[path], stream=True).status_code == 400
        with gate.client() as client:
            assert client.get(path).status_code == 405


def test_a_server_that_has_no_such_page_is_told(tmp_path):
    """Another worker would say the same: 404, with the server's own words."""
    fake = FakeUpstream(b'{"error": {"message": "no such route"}}', status=404)
    with surface(tmp_path, fake) as gate:
        got = post(gate, "/v1/embeddings", input="x")
        assert got.status_code == 404
        assert "no such route" in got.json()["error"]["message"]
        assert len(fake.seen) == 1


def test_forms_are_refused_with_what_to_send(tmp_path):
    """Multipart bodies are not read."""
    with surface(tmp_path, FakeUpstream(b"{}")) as gate, gate.connect() as sock:
        path = "/v1/audio/transcriptions"
        kind = {"Content-Type": "multipart/form-data; boundary=x", "Connection": "close"}
        sock.sendall(raw_request(b"--x--", path, **kind))
        said = read_all(sock)
        assert b" 415 " in said
        assert b"application/json" in said


def test_quotas_count_embeddings(tmp_path):
    """A tenant's tokens are taken by what the server counted."""
    tenants = [{"name": "acme", "tokens_per_min": 100}]
    usage = {"prompt_tokens": 100, "total_tokens": 100}
    fake = FakeUpstream(json.dumps({**EMBEDDING, "usage": usage}).encode())
    with surface(tmp_path, fake, tenants=tenants) as gate:
        assert post(gate, "/v1/embeddings", input="x").status_code == 200
        got = post(gate, "/v1/embeddings", input="x")
        assert got.status_code == 429
        assert int(got.headers["retry-after"]) > 1


def test_tokens_are_those_of_the_line(tmp_path):
    """A chat is counted with its template, a prompt by itself; both come back as text."""
    with surface(tmp_path, own=True) as gate:
        messages = [{"role": "user", "content": "hi"}]
        chat = post(gate, "/tokenize", messages=messages, return_token_strs=True).json()
        assert chat["count"] == len(chat["tokens"]) == len(chat["token_strs"])
        assert chat["max_model_len"] == 2048
        assert chat["token_strs"][0] == "<|user|>"
        answered = gate.chat("hi").json()["usage"]["prompt_tokens"]
        assert chat["count"] == answered
        prompt = post(gate, "/tokenize", prompt="héllo").json()
        assert prompt["count"] == 6
        assert prompt["token_strs"] is None
        assert post(gate, "/tokenize", prompt="").json()["count"] == 0
        back = post(gate, "/detokenize", tokens=prompt["tokens"]).json()
        assert back == {"prompt": "héllo"}
        with gate.client() as client:  # the site's only model
            assert client.post("/tokenize", json={"prompt": "hi"}).json()["count"] == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "x", "messages": []}),
        ("/tokenize", {"prompt": 5}),
        ("/tokenize", {"messages": [{"role": "user", "content": "x"}], "tools": [{"a": 1}]}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": [1 << 40]}),
        ("/detokenize", {"tokens": [-1]}),
    ],
)
def test_tokens_that_cannot_be_are_refused(tmp_path, path, body):
    """With a 400 that says why."""
    with surface(tmp_path, own=True) as gate:
        got = post(gate, path, **body)
        assert got.status_code == 400
        assert got.json()["error"]["message"]


def test_tokens_of_models_elsewhere_are_asked_for_there(tmp_path):
    """`/tokenize` stands beside `/v1` in vLLM; so do we ask for it."""
    there = b'{"count": 2, "max_model_len": 9, "tokens": [1, 2]}'
    fake = FakeUpstream(lambda asked: there if asked.path == "/tokenize" else b'{"prompt": "hi"}')
    with surface(tmp_path, fake) as gate:
        assert post(gate, "/tokenize", prompt="hi").content == there
        assert post(gate, "/detokenize", tokens=[1, 2]).json() == {"prompt": "hi"}
        assert [asked.path for asked in fake.seen] == ["/tokenize", "/detokenize"]


def test_tools_of_a_mixed_model_are_counted_by_its_server(tmp_path):
    """Our tokenizer would render them otherwise than the server that gets the chat."""
    fake = FakeUpstream(b'{"count": 7, "max_model_len": 9, "tokens": []}')
    with surface(tmp_path, fake, own=True) as gate:
        messages = [{"role": "user", "content": "hi"}]
        assert post(gate, "/tokenize", messages=messages, tools=[{"a": 1}]).json()["count"] == 7
        assert post(gate, "/tokenize", messages=messages).json()["count"] != 7
