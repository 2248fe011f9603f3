"""What the gateway does not take, and how it says so."""

import json

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starloom.serve.errors import NotAuthenticated, Throttled
from starloom.serve.gateway.auth import Keys, Throttle

from gateway_fixtures import KEY, FakeEngine, make_site, raw_request, read_all, serving


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    gateway = {
        "allowed_hosts": ["ai.example.org"],
        "allowed_origins": ["https://good.example"],
        "limits": {"body_mib": 1, "max_n": 4},
    }
    site = make_site(tmp_path_factory.mktemp("site"), gateway=gateway, upstream=True)
    with serving(site, [FakeEngine("w1"), FakeEngine("wu", "u")]) as gate:
        yield gate


def refused(answer, status, *, code=None, param=None):
    """The error of an answer, which has OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text
    assert "x-request-id" in answer.headers
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    return error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_completion_tokens", 0),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -2),
        ("n", 0),
        ("n", 5),
        ("n", 10**30),
        ("seed", 2**70),
        ("seed", "x"),
        ("stop", ""),
        ("stop", ["x"] * 17),
        ("stop", 5),
        ("top_logprobs", 21),
        ("min_tokens", -1),
        ("presence_penalty", 3),
        ("presence_penalty", 1),
        ("logit_bias", {"50": 5}),
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["audio"]),
        ("stream", "yes"),
        ("messages", []),
        ("messages", "hi"),
    ],
)
def test_bad_parameters_are_named(gate, field, value):
    """Whatever is out of range, or cannot be honoured, is a 400 that names the parameter."""
    assert field in refused(gate.chat(**{field: value}), 400, param=field)


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"role": "wizard", "content": "x"}, "role"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "content[0]"),
        ({"content": "x"}, "messages"),
    ],
)
def test_bad_messages_are_named(gate, message, where):
    """So is a message that our models cannot read."""
    assert where in refused(gate.chat(messages=[message]), 400)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", []),
        ("prompt", ["a", 1]),
        ("prompt", [[1], "a"]),
        ("prompt", [-1]),
        ("prompt", [10**6]),
        ("prompt", 5),
        ("prompt", ""),
        ("prompt", ["x"] * 300),
        ("echo", True),
        ("suffix", "x"),
        ("best_of", 3),
        ("logprobs", 100),
    ],
)
def test_bad_completions_are_named(gate, field, value):
    """Completions name theirs, too."""
    with gate.client() as client:
        answer = client.post("/v1/completions", json={"model": "m", "prompt": "x", field: value})
    refused(answer, 400, param=field)


def test_null_and_neutral_values_are_taken(gate):
    """Clients that spell out defaults are served."""
    neutral = {
        "tools": [],
        "response_format": {"type": "text"},
        "presence_penalty": 0,
        "stop": None,
        "max_tokens": None,
        "logit_bias": {},
        "store": False,
        "user": "u1",
        "unheard_of": {"x": 1},
    }
    assert gate.chat(**neutral).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"nonsense",
        b'{"model": "m", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "n": NaN}',
    ],
)
def test_broken_bodies_are_400(gate, body):
    """Malformed JSON, broken UTF-8, lone surrogates and deep nesting end in a 400."""
    for path in ("/v1/chat/completions", "/v1/completions"):
        with gate.client() as client:
            answer = client.post(path, content=body, headers={"content-type": "application/json"})
        refused(answer, 400)


def test_the_sdk_gets_its_own_errors(gate):
    """The SDK's typed errors match ours."""
    with openai.OpenAI(base_url=f"{gate.url}/v1", api_key=KEY, max_retries=0) as sdk:
        with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9'"):
            sdk.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
        with pytest.raises(openai.BadRequestError) as found:
            sdk.completions.create(model="m", prompt="x" * 3000)
        assert found.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError):
            sdk.completions.create(model="m", prompt="x" * 2000, max_tokens=49)
    wrong = openai.OpenAI(base_url=f"{gate.url}/v1", api_key="sk-wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_pages_need_a_key_but_for_health(gate):
    """Models and metrics need a key; liveness and readiness do not."""
    with httpx.Client(base_url=gate.url) as client:
        for path in ("/v1/models", "/metrics", "/nowhere"):
            refused(client.get(path), 401, code="invalid_api_key")
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 200


def test_unknown_pages_and_methods(gate):
    """Unknown paths are 404, wrong methods 405, in the same shape."""
    with gate.client() as client:
        refused(client.get("/v1/images"), 404)
        refused(client.get("/v1/models/none"), 404, code="model_not_found")
        refused(client.get("/v1/chat/completions"), 405)
        refused(client.delete("/v1/models"), 405)


def test_too_large_bodies(gate):
    """A body over the limit is refused by its stated length, and by counting without one."""
    big = json.dumps({"model": "m", "prompt": "x" * (10 << 20)}).encode()
    headers = {"content-type": "application/json"}
    with gate.client() as client:
        refused(client.post("/v1/completions", content=big, headers=headers), 413)

        def parts():
            for at in range(0, len(big), 65536):
                yield big[at : at + 65536]

        refused(client.post("/v1/completions", content=parts(), headers=headers), 413)
        assert client.get("/health").status_code == 200


def test_only_json_is_read(gate):
    """A form of a hostile page, which browsers send without asking, gets nothing."""
    with gate.client() as client:
        body = '{"model": "m", "prompt": "x"}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            headers = {"content-type": kind}
            refused(client.post("/v1/completions", content=body, headers=headers), 415)
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        refused(client.post("/v1/completions", content=body, headers=headers), 415)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("127.9.9.9", 200),
        ("[::1]:8000", 200),
        ("ai.example.org:443", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.168.1.5", 403),
        ("localhost:8000@evil.example", 403),
        ("", 403),
    ],
)
def test_host_must_be_ours(gate, host, status):
    """A name that was rebound to our address is not ours."""
    with gate.client() as client:
        assert client.get("/health", headers={"host": host}).status_code == status


def test_host_header_must_be_there_once(gate):
    """None is refused, and so are two."""
    for lines in (b"", b"Host: localhost\r\nHost: evil\r\n"):
        with gate.connect() as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
            assert read_all(sock).startswith((b"HTTP/1.1 403", b"HTTP/1.1 400"))


def test_origins(gate):
    """Pages of other origins are refused before anything else; allowed ones get CORS headers."""
    with gate.client() as client:
        for origin in ("https://evil.example", "null", "http://localhost:8000"):
            answer = client.get("/v1/models", headers={"origin": origin})
            refused(answer, 403)
            assert "access-control-allow-origin" not in answer.headers
        refused(client.get("/v1/models", headers={"sec-fetch-site": "cross-site"}), 403)
        assert "access-control-allow-origin" not in client.get("/v1/models").headers
        good = {"origin": "https://good.example", "sec-fetch-site": "cross-site"}
        answer = client.get("/v1/models", headers=good)
        assert answer.headers["access-control-allow-origin"] == "https://good.example"
        asked = {**good, "access-control-request-headers": "authorization,content-type"}
        preflight = client.options("/v1/chat/completions", headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        evil = {**asked, "origin": "https://evil.example"}
        refused(client.options("/v1/chat/completions", headers=evil), 403)


def test_wrong_keys_are_throttled_by_address(tmp_path):
    """After so many failures an address hears 429 with Retry-After; a right key still passes."""
    site = make_site(tmp_path, gateway={"limits": {"failed_keys_per_min": 3}})
    with serving(site, [FakeEngine("w1")]) as gate, httpx.Client(base_url=gate.url) as client:
        wrong = {"authorization": "Bearer nope"}
        for _ in range(3):
            refused(client.get("/v1/models", headers=wrong), 401)
        answer = client.get("/v1/models", headers=wrong)
        refused(answer, 429)
        assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/v1/models", headers=gate.headers).status_code == 200


def test_throttle_forgives_with_time_and_forgets_the_oldest():
    """The bucket fills again by the clock, and the table of addresses is bounded."""
    now = 0.0
    throttle = Throttle(60, lambda: now)
    keys = Keys({}, throttle)
    for _ in range(60):
        with pytest.raises(NotAuthenticated):
            keys.tenant(b"Bearer x", "1.1.1.1")
    with pytest.raises(Throttled):
        keys.tenant(b"Bearer x", "1.1.1.1")
    now = 1.5
    with pytest.raises(NotAuthenticated):
        keys.tenant(b"Bearer x", "1.1.1.1")
    for at in range(10_000):
        throttle.failed(f"10.0.{at // 256}.{at % 256}")
    assert len(throttle) <= 4096
    one = Throttle(1, lambda: now)
    assert one.failed("2001:db8::1") == 0
    assert one.failed("2001:db8::ffff") > 0
    assert one.failed("2001:db9::1") == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = [
    "model",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "n",
    "seed",
    "stop",
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "logprobs",
    "top_logprobs",
    "echo",
    "suffix",
    "best_of",
    "ignore_eos",
    "priority",
    "user",
    "logit_bias",
    "response_format",
    "tools",
    "functions",
    "modalities",
    "min_p",
]
LIKELY = st.one_of(
    JSON,
    st.sampled_from(["m", "u", True, 1, 0, -1, 0.5, [], {}, "x", ["x"], [[1]], [1, 2], 2**64]),
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "x"]), "content": JSON}),
        max_size=3,
    ),
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), LIKELY, max_size=8)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES, chat=st.booleans(), valid=st.booleans())
def test_fuzzed_bodies_never_break_the_gateway(gate, body, chat, valid):
    """Any JSON object gives a 2xx or a 4xx in OpenAI's shape, never a 5xx."""
    if valid:
        start = {"messages": [{"role": "user", "content": "x"}]} if chat else {"prompt": "x"}
        body = {"model": "m", **start, **{k: v for k, v in body.items() if k not in start}}
    path = "/v1/chat/completions" if chat else "/v1/completions"
    raw = json.dumps(body).encode()
    with gate.connect() as sock:
        sock.sendall(raw_request(raw, path, Connection="close"))
        head, _, rest = read_all(sock).partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    assert 200 <= status < 500
    if status >= 400:
        assert set(json.loads(rest)["error"]) == {"message", "type", "param", "code"}
