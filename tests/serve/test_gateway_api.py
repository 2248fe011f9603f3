"""The API as OpenAI's own client sees it."""

import asyncio
import json

import openai
import pytest

from starloom.kv.keys import block_keys, root_key
from starloom.serve.gateway.prompts import Wall
from starloom.serve.models import ModelFiles

from gateway_fixtures import KEY, FakeEngine, chunks, events, make_site, serving


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    site = make_site(tmp_path_factory.mktemp("site"), upstream=True)
    engines = [FakeEngine("w1"), FakeEngine("wu", "u")]
    with serving(site, engines) as gate:
        gate.site = site
        yield gate


@pytest.fixture
def sdk(gate):
    with openai.OpenAI(base_url=f"{gate.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]


def test_chat(sdk, gate):
    """A chat is rendered by the model's template and answered in full, with usage."""
    answer = sdk.chat.completions.create(model="m", messages=MESSAGES)
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == "Hello world"
    assert answer.choices[0].finish_reason == "stop"
    request = gate.engines[0].seen[-1]
    assert answer.usage.prompt_tokens == len(request.tokens) == 4 + 1 + len("Be kind.Hello?")
    assert answer.usage.completion_tokens == 2
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_request_reaches_the_engine_whole(sdk, gate):
    """Every field of the contract is filled: sampling, keys under the tenant's root, priority."""
    sdk.chat.completions.create(
        model="m",
        messages=MESSAGES,
        temperature=0,
        top_p=0.5,
        seed=7,
        stop=["a", "b"],
        max_completion_tokens=9,
        extra_body={"top_k": 5, "min_tokens": 2, "ignore_eos": True, "priority": -3},
    )
    request = gate.engines[0].seen[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0, 0.5, 5)
    assert (sampling.seed, sampling.stop, sampling.max_tokens) == (7, ("a", "b"), 9)
    assert (sampling.min_tokens, sampling.ignore_eos, sampling.logprobs) == (2, True, None)
    assert request.priority == -3
    assert request.body is None
    fingerprint = ModelFiles(gate.site, "m").fingerprint
    root = root_key(fingerprint=fingerprint, block_tokens=16, salt="acme\n")
    assert request.root == root
    assert request.keys == block_keys(root, request.tokens, 16)


def test_salts_wall_prompts_off_from_each_other(gate):
    """Requests of one tenant share keys only with those of the same `cache_salt`."""
    for salt in ({}, {"cache_salt": "x"}, {"cache_salt": "y"}, {"cache_salt": "x"}):
        assert gate.chat(**salt).status_code == 200
    plain, x, y, again = [request.root for request in gate.engines[0].seen[-4:]]
    assert x == again
    assert len({plain, x, y}) == 3


def test_the_answer_names_its_worker(gate):
    """Streamed or whole, a header says who answered."""
    for stream in (False, True):
        assert gate.chat(stream=stream).headers["x-starloom-worker"] == gate.engines[0].name


def test_default_answer_is_what_is_left_of_the_context(sdk, gate):
    """Without max_tokens an answer may fill the context."""
    sdk.completions.create(model="m", prompt="x" * 40)
    assert gate.engines[0].seen[-1].sampling.max_tokens == 2048 - 40


def test_chat_stream_is_openais(gate):
    """Role first, text, an empty delta with the reason, usage on request, then [DONE]."""
    plain = chunks(gate.chat(stream=True))
    assert [chunk["choices"][0]["delta"] for chunk in plain] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": " world"},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in plain] == [None, None, None, "stop"]
    assert all("usage" not in chunk for chunk in plain)
    assert len({chunk["id"] for chunk in plain}) == 1
    counted = chunks(gate.chat(stream=True, stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None for chunk in counted[:-1])
    assert counted[-1]["choices"] == []
    assert counted[-1]["usage"]["total_tokens"] == counted[-1]["usage"]["prompt_tokens"] + 2
    assert counted[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}


def test_stream_headers(gate):
    """A stream says that it is one, and is not to be cached."""
    answer = gate.chat(stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.text.endswith("data: [DONE]\n\n")
    assert all(json.loads(item) for item in events(answer)[:-1])


def test_sdk_streams(sdk, gate):
    """The SDK reads our streams, in its sync and its async form."""
    stream = sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == "Hello world"

    async def read():
        url = f"{gate.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            calls = [
                client.chat.completions.create(model="m", messages=MESSAGES) for _ in range(20)
            ]
            answers = await asyncio.gather(*calls)
            stream = await client.completions.create(model="m", prompt="x", stream=True)
            return [*answers, "".join([chunk.choices[0].text async for chunk in stream])]

    answers = asyncio.run(read())
    assert answers.pop() == "Hello world"
    assert {answer.choices[0].message.content for answer in answers} == {"Hello world"}


def test_completions_take_every_form_of_prompt(sdk, gate):
    """A string, strings, token ids, and lists of token ids; choices keep their order."""
    for prompt, count in (("ab", 1), (["ab", "c"], 2), ([65, 66], 1), ([[65], [66, 67]], 2)):
        answer = sdk.completions.create(model="m", prompt=prompt)
        assert [choice.index for choice in answer.choices] == list(range(count))
        assert {choice.text for choice in answer.choices} == {"Hello world"}
        assert answer.usage.completion_tokens == 2 * count
    assert [request.tokens for request in gate.engines[0].seen[-2:]] == [[65], [66, 67]]


def test_n_answers_have_seeds_of_their_own(sdk, gate):
    """N answers are n sequences with seed + i; the prompt counts once."""
    answer = sdk.chat.completions.create(model="m", messages=MESSAGES, n=3, seed=10)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [request.sampling.seed for request in gate.engines[0].seen[-3:]] == [10, 11, 12]
    assert answer.usage.prompt_tokens == len(gate.engines[0].seen[-1].tokens)
    assert answer.usage.completion_tokens == 6
    merged = chunks(gate.chat(stream=True, n=2))
    for index in (0, 1):
        own = [c["choices"][0] for c in merged if c["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"].get("content", "") for c in own) == "Hello world"
        assert own[-1]["finish_reason"] == "stop"


def test_chat_logprobs(sdk):
    """Chat logprobs carry bytes, and minus infinity becomes a number that JSON knows."""
    answer = sdk.chat.completions.create(
        model="m", messages=MESSAGES, logprobs=True, top_logprobs=2
    )
    first, second = answer.choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("Hello", -0.5, list(b"Hello"))
    assert [top.token for top in second.top_logprobs] == [" world", "é"]
    assert second.top_logprobs[1].bytes == [0xC3, 0xA9]
    assert second.top_logprobs[1].logprob == -9999.0


def test_completion_logprobs(sdk):
    """Completion logprobs are parallel lists with offsets, in a stream as well."""
    answer = sdk.completions.create(model="m", prompt="x", logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["Hello", " world"]
    assert logprobs.token_logprobs == [-0.5, -0.5]
    assert logprobs.text_offset == [0, 5]
    assert logprobs.top_logprobs[0] == {"Hello": -0.5}
    stream = sdk.completions.create(model="m", prompt="x", logprobs=0, stream=True)
    offsets = [c.choices[0].logprobs.text_offset for c in stream if c.choices[0].logprobs]
    assert offsets == [[0], [5]]


def test_text_parts_are_joined(sdk, gate):
    """Content may be a list of text parts."""
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
    tokens = gate.engines[0].seen[-1].tokens
    assert len(tokens) == 3 + len("one\ntwo")


def test_models(sdk):
    """Models are listed and found by name."""
    assert [model.id for model in sdk.models.list()] == ["m", "u"]
    assert sdk.models.retrieve("m").object == "model"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt-9")


def test_backends_of_openais_api_get_the_clients_own_body(gate):
    """Unknown fields, other kinds of parts and formats go through; n is ours to spread."""
    body = {
        "model": "u",
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        "response_format": {"type": "json_object"},
        "presence_penalty": 1.5,
        "brand_new_field": {"a": [1]},
        "seed": 5,
        "n": 2,
    }
    with gate.client() as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    first, second = gate.engines[1].seen[-2:]
    untouched = {key: value for key, value in body.items() if key not in ("n", "seed")}
    assert first.body == {**untouched, "seed": 5}
    assert second.body == {**untouched, "seed": 6}
    assert first.path == "/v1/chat/completions"
    assert first.tokens == []


def test_models_without_tokenizer_still_have_keys_to_schedule_by(gate):
    """The schedule sees equal beginnings of text, though such a backend is sent no keys."""
    prompts = gate.app._line.prompts["u"]
    one, two = (
        asyncio.run(prompts.text("the same beginning " * 100 + end, Wall("acme")))
        for end in ("a", "b")
    )
    assert one.tokens == []
    assert len(one.keys) > 5
    assert one.keys[:5] == two.keys[:5]
    other = asyncio.run(prompts.text("the same beginning " * 100, Wall("other")))
    assert other.keys[0] != one.keys[0]


def test_request_ids(gate):
    """A sane id of the client's comes back, any other is replaced."""
    with gate.client() as client:
        good = client.get("/health", headers={"x-request-id": "trace-1.b"})
        bad = client.get("/health", headers={"x-request-id": "a b\tc"})
    assert good.headers["x-request-id"] == "trace-1.b"
    assert bad.headers["x-request-id"].startswith("id")


def test_metrics(gate):
    """Requests, tokens and workers are counted under their names."""
    gate.chat()
    with gate.client() as client:
        page = client.get("/metrics").text
    assert 'starloom_requests_total{model="m",outcome="ok",tenant="acme"}' in page
    assert 'starloom_ttft_seconds_count{model="m"}' in page
    assert 'starloom_tpot_seconds_count{model="m"}' in page
    assert 'starloom_request_seconds_count{model="m"}' in page
    assert 'starloom_prompt_tokens_total{model="m"}' in page
    assert 'starloom_cached_tokens_total{model="m"}' in page
    assert 'starloom_generated_tokens_total{model="m"}' in page
    assert 'starloom_worker_up{worker="w1"} 1.0' in page
    assert 'starloom_requests_running{worker="w1"} 0.0' in page
    assert 'starloom_kv_blocks_used{worker="w1"} 7.0' in page
    assert "starloom_failed_keys_total" in page
