"""Prefill and decode apart, on servers of others: the legs, and what their answers lead to."""

import asyncio
import json

import httpx
import pytest

from starloom.kv import block_keys, root_key
from starloom.serve.disagg import Fail, Retry, Send, SglangHandover, Side, VllmHandover
from starloom.serve.signals import cache_salt

from engine_fixtures import run_async
from fake_vllm import FakeVllm

BODY = {
    "model": "org/m",
    "messages": [{"role": "user", "content": "hello there"}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 50,
    "min_tokens": 5,
    "temperature": 0.5,
    "cache_salt": "s",
    "vendor_field": 1,
}
PREFILL, DECODE = Side("p0", "10.0.0.1", 8998), Side("d0", "10.0.0.2")
HANDED = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [[1, 2, 3]],
    "remote_engine_id": "e",
    "remote_host": "10.0.0.1",
    "remote_port": 5600,
    "tp_size": 1,
    "a_new_field": {"kept": True},
}
ANSWER = {
    "choices": [],
    "usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}},
    "kv_transfer_params": HANDED,
}


def vllm(body=BODY, **more):
    return VllmHandover(body, "req-1", PREFILL, DECODE, **more)


def test_vllms_prefill_leg_computes_one_token_and_keeps_its_blocks():
    """Recorded from NixlConnector's proxy: no stream, one token, and the wish to be read from."""
    [leg] = vllm().begin().legs
    assert (leg.half, leg.worker, leg.reply) == ("prefill", "p0", "read")
    assert leg.headers == {"X-Request-Id": "req-1"}
    assert leg.body == {
        "model": "org/m",
        "messages": BODY["messages"],
        "stream": False,
        "max_tokens": 1,
        "max_completion_tokens": 1,
        "n": 1,
        "temperature": 0.5,
        "cache_salt": "s",
        "vendor_field": 1,
        "kv_transfer_params": {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "remote_engine_id": None,
            "remote_block_ids": None,
            "remote_host": None,
            "remote_port": None,
        },
    }


def test_vllms_decode_leg_is_the_clients_body_and_prefills_own_words():
    """The object comes back verbatim, fields that we do not know included."""
    one = vllm()
    one.begin()
    [leg] = one.prefilled(200, ANSWER).legs
    assert (leg.half, leg.worker, leg.reply) == ("decode", "d0", "stream")
    assert leg.headers == {"X-Request-Id": "req-1"}
    assert leg.body == {**BODY, "kv_transfer_params": HANDED}


def test_cached_tokens_are_prefills():
    """Decode calls all that it was handed cached; what was saved is known to prefill alone."""
    one = vllm()
    one.begin()
    one.prefilled(200, ANSWER)
    decoded = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 9, "x": 1}}
    assert one.usage(decoded)["prompt_tokens_details"] == {"cached_tokens": 4, "x": 1}
    assert one.usage({"prompt_tokens": 9}) == {
        "prompt_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert decoded["prompt_tokens_details"]["cached_tokens"] == 9


def test_a_client_cannot_hand_kv_over():
    """`kv_transfer_params` of a client would name other tenants' blocks: they are dropped."""
    one = vllm({**BODY, "kv_transfer_params": {"remote_block_ids": [[7]]}})
    one.begin()
    [leg] = one.prefilled(200, {"usage": {}}).legs
    assert "kv_transfer_params" not in leg.body


def test_prefill_without_a_connector_costs_time_and_no_answer():
    one = vllm()
    one.begin()
    step = one.prefilled(200, {"usage": {"prompt_tokens": 9}})
    assert step.legs[0].body == BODY
    assert "--kv-transfer-config" in step.why


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_busy_prefill_host_is_asked_again(status):
    """The same host, at most three times in all; then the client is told."""
    one = vllm()
    [leg] = one.begin().legs
    for _ in range(2):
        step = one.prefilled(status, None)
        assert isinstance(step, Retry)
        assert (step.leg, step.pause_s > 0) == (leg, True)
    assert one.prefilled(status, None) == Fail(502, f"prefill worker 'p0' answered {status}")


@pytest.mark.parametrize(
    ("status", "reply", "told", "words"),
    [
        (400, {"error": {"message": "too long"}}, 400, "too long"),
        (400, {"object": "error", "message": "too long"}, 400, "too long"),
        (422, None, 422, "422"),
        (429, {"error": {"message": "slow down"}}, 429, "slow down"),
        (401, {"error": {"message": "bad key sk-x"}}, 502, "answered 401"),
        (500, {"error": {"message": "trace"}}, 502, "answered 500"),
        (0, None, 502, "does not answer"),
        (200, None, 502, "answered 502"),
    ],
)
def test_other_failures_are_told(status, reply, told, words):
    """The server's words reach the client where they are about its request, and only there."""
    for one in (vllm(attempts=1), sglang()):
        one.begin()
        if status == 200 and isinstance(one, SglangHandover):
            continue  # a stream is no JSON
        step = one.prefilled(status, reply)
        assert isinstance(step, Fail)
        assert step.status == told
        assert words in step.message


def sglang(body=BODY, rooms=(11, 12, 13)):
    draw = iter(rooms)
    return SglangHandover(body, "req-1", PREFILL, DECODE, draw_room=lambda: next(draw))


def test_sglangs_legs_meet_in_a_room():
    """Both get the client's body and where to meet, at once; the answer is decode's."""
    prefill, decode = sglang().begin().legs
    where = {"bootstrap_host": "10.0.0.1", "bootstrap_port": 8998, "bootstrap_room": 11}
    assert prefill.body == decode.body == {**BODY, **where}
    assert (prefill.worker, prefill.reply) == ("p0", "read")
    assert (decode.worker, decode.reply) == ("d0", "stream")
    assert prefill.headers == decode.headers == {"X-Request-Id": "req-1"}


def test_a_batch_has_a_room_for_each_prompt():
    """A list of token ids is one prompt."""
    for prompt, rooms in ((["a", "b"], [11, 12]), ([[1], [2], [3]], [11, 12, 13]), ([1, 2], 11)):
        [leg, _] = sglang({"prompt": prompt}).begin().legs
        assert leg.body["bootstrap_room"] == rooms
    [leg, _] = sglang({"prompt": ["a", "b"]}).begin().legs
    assert leg.body["bootstrap_host"] == ["10.0.0.1"] * 2
    assert leg.body["bootstrap_port"] == [8998] * 2


def test_a_client_cannot_choose_the_room():
    """The rooms and hosts of a client are written over."""
    [leg, _] = sglang({**BODY, "bootstrap_room": 1, "bootstrap_host": "evil"}).begin().legs
    assert (leg.body["bootstrap_room"], leg.body["bootstrap_host"]) == (11, "10.0.0.1")


def test_sglangs_prefill_ends_quietly_or_ends_decode():
    """Decode waits for KV by another way: it would wait for a failed prefill for ever."""
    one = sglang()
    one.begin()
    assert one.prefilled(200, None) == Send()
    assert isinstance(one.prefilled(503, None), Fail)  # a room is of no use twice
    twice = {"prompt_tokens": 87, "prompt_tokens_details": {"cached_tokens": 128}}
    assert one.usage(twice)["prompt_tokens_details"] == {"cached_tokens": 87}
    assert one.usage({"prompt_tokens": 9}) == {"prompt_tokens": 9}


async def driven(handover, servers, client):
    """What a gateway does with a hand-over of vLLM's kind: send, tell, stream."""
    step = handover.begin()
    while True:
        if isinstance(step, Fail):
            return step
        if isinstance(step, Retry):
            await asyncio.sleep(step.pause_s / 10)
        [leg] = [step.leg] if isinstance(step, Retry) else step.legs
        url = servers[leg.worker].url + "/v1/chat/completions"
        reply = await client.post(url, json=leg.body, headers=leg.headers)
        if leg.reply == "stream":
            lines = [line for line in reply.text.splitlines() if line.startswith("data: {")]
            return handover.usage(json.loads(lines[-1].removeprefix("data: "))["usage"])
        step = handover.prefilled(reply.status_code, reply.json())


def test_two_servers_share_a_request():
    """Over HTTP: a busy prefill server, then its blocks, and the tokens that its cache saved."""
    root = root_key(fingerprint="elsewhere:m", block_tokens=4, salt="acme\n")

    async def test():
        async with FakeVllm() as prefill, FakeVllm() as decode, httpx.AsyncClient() as client:
            servers = {"p0": prefill, "d0": decode}
            body = {**BODY, "cache_salt": cache_salt(root)}
            prefill.statuses = [503, 200]
            first = await driven(vllm(body), servers, client)
            assert first["prompt_tokens_details"]["cached_tokens"] == 0
            again = await driven(vllm(body), servers, client)
            assert again["prompt_tokens_details"]["cached_tokens"] == 8  # two of 11 tokens' blocks
            headers, asked = decode.seen[0]
            assert headers["x-request-id"] == "req-1"
            assert asked["kv_transfer_params"]["remote_engine_id"] == "engine-p"
            keys = block_keys(root, list(b"hello there"), 4)
            assert set(keys) == prefill.cache.truth() == decode.cache.truth()
            prefill.statuses = [500]
            assert await driven(vllm(body), servers, client) == Fail(
                502, "prefill worker 'p0' answered 500"
            )

    run_async(test)
