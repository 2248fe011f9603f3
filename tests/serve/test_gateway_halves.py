"""Models served apart by servers elsewhere: the legs that go out, and what becomes of failures."""

import asyncio
import json
import threading
import time

import httpx
import pytest
from test_gateway_forward import Passed

from starloom.serve.guard import Guard

from gateway_fixtures import (
    OTHER_KEY,
    FakeEngine,
    chunks,
    events,
    make_site,
    raw_request,
    serving,
    until,
)
from halves_fixtures import FakeSglangHalf, FakeVllmHalf, Network, apart
from upstream_fixtures import FakeUpstream

JSON = {"Content-Type": "application/json"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Log:
    """Records as they are written."""

    def __init__(self):
        self.records = []

    def write(self, record):
        self.records.append(record)

    def close(self):
        pass

    def steps(self):
        return [(step.name, step.what) for step in self.records[-1].steps]


def vllm(*names, **more):
    network = Network()
    return {name: FakeVllmHalf(network, **more) for name in names}


def sglang(*names, **more):
    network = Network()
    modes = {"p": "prefill", "d": "decode"}
    return {name: FakeSglangHalf(network, modes[name[0]], **more) for name in names}


def ran(fakes):
    return {name: fake.ran for name, fake in fakes.items() if fake.ran}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_goes_as_two_legs(tmp_path, stream):
    """Prefill computes one token, decode has prefill's own words; the client sees one answer."""
    fakes, log = vllm("p0", "d0"), Log()
    with apart(tmp_path, fakes, log=log) as gate:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "odd": {"a": 1}}
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        with gate.client() as client:
            answer = client.post(
                "/v1/chat/completions", json={**body, **options}, headers={"traceparent": TRACE}
            )
        assert answer.status_code == 200
        assert answer.headers["x-starloom-worker"] == "p0,d0"
        usage = chunks(answer)[-1]["usage"] if stream else answer.json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 4  # prefill's, not all 11
        [prefill], [decode] = fakes["p0"].seen, fakes["d0"].seen
        assert prefill.headers["x-request-id"] == decode.headers["x-request-id"]
        assert prefill.headers["traceparent"] == decode.headers["traceparent"] == TRACE
        assert (prefill.body["odd"], decode.body["odd"]) == ({"a": 1}, {"a": 1})
        assert "stream_options" not in prefill.body
        assert prefill.body["cache_salt"] == decode.body["cache_salt"]
        assert decode.body["kv_transfer_params"]["remote_request_id"]
        assert ran(fakes) == {"p0": ["prefill"], "d0": ["decode"]}
        until(lambda: log.records)
        assert [step for step in log.steps() if step[1] in fakes] == [
            ("prefill", "p0"),
            ("prefilled", "p0"),
            ("schedule", "d0"),
        ]
        assert (log.records[0].workers, log.records[0].cached_tokens) == ({0: "d0"}, 4)


def test_usage_that_was_not_asked_for_stays_hidden(tmp_path):
    """The gateway counts, and the client sees no event that it did not ask for."""
    fakes = vllm("p0", "d0")
    with apart(tmp_path, fakes) as gate:
        assert all(chunk["choices"] for chunk in chunks(gate.chat(stream=True)))
        metrics = gate.client().get("/metrics").text
        assert 'starloom_generated_tokens_total{model="m"} 2.0' in metrics


def test_tenants_have_salts_of_their_own_on_both_legs(tmp_path):
    fakes = vllm("p0", "d0")
    with apart(tmp_path, fakes, tenants=["acme", "other"]) as gate:
        gate.chat(cache_salt="mine")
        gate.headers = {"Authorization": f"Bearer {OTHER_KEY}"}
        gate.chat(cache_salt="mine")
        salts = [[body["cache_salt"] for body in fake.bodies()] for fake in fakes.values()]
        assert salts[0] == salts[1]
        assert len({*salts[0], "mine"}) == 3


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages", "/v1/responses"])
def test_every_api_is_divided(tmp_path, path):
    """Completions, and what becomes a chat."""
    fakes = vllm("p0", "d0")
    bodies = {
        "/v1/completions": {"prompt": "hello"},
        "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
        "/v1/responses": {"input": "hi"},
    }
    with apart(tmp_path, fakes) as gate, gate.client() as client:
        answer = client.post(path, json={"model": "m", **bodies[path]})
        assert answer.status_code == 200, answer.text
        assert b"Hello" in answer.content
        assert ran(fakes) == {"p0": ["prefill"], "d0": ["decode"]}


def test_embeddings_are_not_divided(tmp_path):
    """They go to one server, as they are."""
    fakes = vllm("p0", "d0")
    with apart(tmp_path, fakes) as gate, gate.client() as client:
        assert client.post("/v1/embeddings", json={"model": "m", "input": "x"}).status_code == 200
        assert ran(fakes) == {"d0": ["whole"]}


@pytest.mark.parametrize(
    "asked", [{"prompt": ["a", "b"]}, {"prompt": [[1, 2], [3]]}, {"prompt": "a", "n": 2}]
)
def test_what_vllm_cannot_hand_over_is_computed_whole(tmp_path, asked):
    """`kv_transfer_params` tells of one prompt's blocks, and they are read once."""
    fakes, log = vllm("p0", "d0"), Log()
    with apart(tmp_path, fakes, log=log) as gate, gate.client() as client:
        answer = client.post("/v1/completions", json={"model": "m", **asked})
        assert len(answer.json()["choices"]) == 2
        assert answer.headers["x-starloom-worker"] == "d0"
        assert ran(fakes) == {"d0": ["whole"]}
        until(lambda: log.records)
        [why] = [step.why for step in log.records[0].steps if step.name == "whole"]
        assert "2" in why


def test_one_prompt_in_a_list_is_divided(tmp_path):
    fakes = vllm("p0", "d0")
    with apart(tmp_path, fakes) as gate, gate.client() as client:
        for prompt in (["a"], [1, 2, 3]):
            client.post("/v1/completions", json={"model": "m", "prompt": prompt})
        assert ran(fakes) == {"p0": ["prefill"] * 2, "d0": ["decode"] * 2}


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("kind", ["halves", "plain"])
def test_a_client_cannot_hand_kv_over(tmp_path, kind, escaped):
    """Its `kv_transfer_params` would name other tenants' blocks: none sees them, however spelt."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    body = json.dumps({**asked, "kv_transfer_params": {"do_remote_prefill": True}, "n": 2})
    if escaped:
        body = body.replace("kv_transfer", "kv\\u005ftransfer")
    if kind == "halves":
        fakes = vllm("p0", "d0")
        with apart(tmp_path, fakes) as gate, gate.client() as client:
            assert client.post("/v1/chat/completions", content=body, headers=JSON).is_success
        assert ran(fakes) == {"d0": ["whole"]}
        seen = fakes["d0"].bodies()
    else:
        fake = FakeUpstream(b'{"choices": []}')
        with Passed(tmp_path, fake) as gate, gate.client() as client:
            assert client.post("/v1/chat/completions", content=body, headers=JSON).is_success
        seen = [fake.seen[0].body]
    assert not any("kv_transfer_params" in each for each in seen)


def test_a_client_cannot_hand_kv_to_a_server_beside_ours(tmp_path):
    """The same where answers are put together from deltas."""
    engine = FakeEngine("wu", model="u")
    with serving(make_site(tmp_path, upstream=True), [FakeEngine("w1"), engine]) as gate:
        assert gate.chat(model="u", kv_transfer_params={"a": 1}, bootstrap_room=1, odd=2).is_success
    assert engine.seen[0].body["odd"] == 2
    assert not {"kv_transfer_params", "bootstrap_room"} & set(engine.seen[0].body)


def test_the_guard_sees_a_divided_answer(tmp_path):
    fakes = vllm("p0", "d0")
    with apart(tmp_path, fakes, words=["hello"], guard=Guard.from_site) as gate:
        got = chunks(gate.chat(stream=True))
        assert got[-1]["choices"][0]["finish_reason"] == "content_filter"
        assert "Hello" not in "".join(str(chunk) for chunk in got)


def test_a_busy_prefill_server_is_asked_again(tmp_path):
    """503 is about now: the same server takes it a moment later."""
    fakes = vllm("p0", "d0")
    fakes["p0"].statuses = [503, 502]
    with apart(tmp_path, fakes) as gate:
        assert gate.chat().headers["x-starloom-worker"] == "p0,d0"
        assert len({asked.headers["x-request-id"] for asked in fakes["p0"].seen}) == 1
        assert ran(fakes) == {"p0": ["prefill"], "d0": ["decode"]}


@pytest.mark.parametrize("how", ["500", "dies", "away"])
def test_a_prefill_server_that_fails_is_replaced(tmp_path, how):
    """By another prefill server; where there is none, decode computes the prompt itself."""
    fakes = vllm("p0", "p1", "d0")
    with apart(tmp_path, fakes) as gate:
        for name in ("p0", "p1"):
            if how == "500":
                fakes[name].statuses = [500] * 9
            elif how == "dies":
                fakes[name].dies = "prefill"
            else:
                fakes[name].kill()
            answers = [gate.chat(stream=stream) for stream in (False, True)]
            assert [answer.status_code for answer in answers] == [200, 200]
            others = {"p0": "p1,d0", "p1": "d0"}
            assert answers[1].headers["x-starloom-worker"] == others[name]
        assert fakes["d0"].ran == ["decode"] * 2 + ["whole"] * 2


def test_prefill_servers_alone_compute_all(tmp_path):
    """With no decode server up a prefill server answers, rather than nobody."""
    fakes = vllm("p0", "d0")
    with apart(tmp_path, fakes) as gate:
        fakes["d0"].kill()
        for _ in range(2):
            assert gate.chat().headers["x-starloom-worker"] == "p0"


def test_what_is_the_clients_fault_is_told_at_once(tmp_path):
    """400 and 429 of the prefill leg are not tried elsewhere."""
    fakes = vllm("p0", "p1", "d0")
    for status in (400, 429):
        fakes["p0"].statuses = fakes["p1"].statuses = []
        with apart(tmp_path, fakes) as gate:
            for fake in fakes.values():
                fake.statuses = [status]
            answer = gate.chat()
            assert answer.status_code == status
            assert answer.json()["error"]["message"] == f"told to answer {status}"
    assert not ran(fakes)


@pytest.mark.parametrize("stream", [False, True])
def test_a_lease_that_timed_out_costs_time_and_no_answer(tmp_path, stream):
    """Blocks that are gone are an error of decode, or a stream's first event; one computes all."""
    fakes, log = vllm("p0", "d0", "d1", lease_s=-1.0), Log()
    with apart(tmp_path, fakes, log=log) as gate:
        assert _whole(gate.chat(stream=stream))
        assert fakes["p0"].ran == ["prefill"] * 2
        assert (fakes["d0"].ran + fakes["d1"].ran).count("whole") == 1
        ids = [asked.headers.get("x-request-id") for asked in fakes["p0"].seen]
        assert len(set(ids)) == 2
        until(lambda: log.records)
        assert [name for name, _ in log.steps()].count("failed") == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_decode_server_that_dies_before_the_first_byte_is_replaced(tmp_path, stream):
    """By another one, with a hand-over of its own: the first one may have read the blocks."""
    fakes = vllm("p0", "d0", "d1")
    fakes["d0"].dies = "decode"
    with apart(tmp_path, fakes) as gate:
        for _ in range(4):
            answer = gate.chat(stream=stream)
            assert answer.headers["x-starloom-worker"] == "p0,d1"
        assert fakes["d1"].ran == ["decode"] * 4
        assert fakes["d0"].seen


def test_a_decode_server_that_dies_in_its_answer_is_told(tmp_path):
    """After the first event there is no other server."""
    fakes = vllm("p0", "d0", "d1")
    for name in ("d0", "d1"):
        fakes[name].breaks = True
    with apart(tmp_path, fakes) as gate:
        *_, last = events(gate.chat(stream=True))
        assert json.loads(last)["error"]["code"] == "engine_failed"
        assert len(fakes["p0"].ran) == 1


@pytest.mark.parametrize("names", [("p0", "d0"), ("d0", "p0")])
@pytest.mark.parametrize("engine", [vllm, sglang])
def test_a_client_that_leaves_ends_its_legs(tmp_path, engine, names):
    """Whichever leg is under way, its server sees the client go, and nothing stays counted."""
    slow, _ = names
    fakes = engine("p0", "d0")
    fakes[slow].work_s = 30.0
    with apart(tmp_path, fakes, disagg=engine.__name__) as gate:
        asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        with gate.connect() as sock:
            sock.sendall(raw_request(json.dumps(asked).encode()))
            until(lambda: fakes[slow].seen)
        until(lambda: fakes[slow].left == 1)
        until(lambda: gate.app.running == 0)


# SGLang


def test_sglangs_legs_meet_in_a_room(tmp_path):
    """Both have the same room, which no other request has; the answer is decode's."""
    fakes, log = sglang("p0", "d0"), Log()
    with apart(tmp_path, fakes, disagg="sglang", log=log) as gate:
        for stream in (False, True, False):
            answer = gate.chat(stream=stream, bootstrap_room=7, bootstrap_host="evil")
            assert answer.headers["x-starloom-worker"] == "p0,d0"
        rooms = [[body["bootstrap_room"] for body in fake.bodies()] for fake in fakes.values()]
        assert rooms[0] == rooms[1]
        assert len({*rooms[0], 7}) == 4
        prefill, decode = fakes["p0"].seen[0], fakes["d0"].seen[0]
        assert prefill.body == decode.body
        assert (prefill.body["bootstrap_host"], prefill.body["bootstrap_port"]) == (
            "127.0.0.1",
            8998,
        )
        assert prefill.headers["x-request-id"] == decode.headers["x-request-id"]
        assert log.records[0].workers == {0: "d0"}


def test_a_batch_has_a_room_for_each_prompt(tmp_path):
    """And n answers have the rooms that the server counts up from one."""
    fakes = sglang("p0", "d0")
    with apart(tmp_path, fakes, disagg="sglang") as gate, gate.client() as client:
        for more in ({"prompt": ["a", "b"]}, {"prompt": ["a", "b"], "n": 2}):
            assert client.post("/v1/completions", json={"model": "m", **more}).is_success
        batch, many = fakes["d0"].bodies()
        assert batch == fakes["p0"].bodies()[0]
        assert len(set(batch["bootstrap_room"])) == len(batch["bootstrap_host"]) == 2
        assert isinstance(many["bootstrap_room"], int)


@pytest.mark.parametrize("how", ["500", "stream", "dies"])
def test_a_prefill_leg_that_fails_ends_decode(tmp_path, how):
    """Decode would wait for ever. Another prefill server takes it, in another room."""
    fakes = sglang("p0", "p1", "d0")
    if how == "500":
        fakes["p0"].statuses = [500]
    elif how == "stream":
        fakes["p0"].breaks_down = True
    else:
        fakes["p0"].dies = "prefill"
    with apart(tmp_path, fakes, disagg="sglang") as gate:
        answer = gate.chat(stream=True)
        assert answer.headers["x-starloom-worker"] == "p1,d0"
        until(lambda: fakes["d0"].left == 1)
        rooms = [body["bootstrap_room"] for body in fakes["d0"].bodies()]
        assert len(set(rooms)) == len(rooms) == 2


@pytest.mark.parametrize("how", ["500", "dies"])
def test_a_decode_leg_that_fails_ends_prefill(tmp_path, how):
    """Another pair answers."""
    fakes = sglang("p0", "d0", "d1", work_s=0.02)
    if how == "500":
        fakes["d0"].statuses = [500]
    else:
        fakes["d0"].dies = "decode"
    with apart(tmp_path, fakes, disagg="sglang") as gate:
        assert gate.chat().headers["x-starloom-worker"] == "p0,d1"
        until(lambda: fakes["p0"].left == 1)


def test_sglangs_halves_never_get_a_whole_request(tmp_path):
    """They refuse one: with one half away the other cannot help, and the client is told."""
    fakes = sglang("p0", "d0")
    with apart(tmp_path, fakes, disagg="sglang") as gate:
        fakes["p0"].kill()
        answers = [gate.chat() for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert "no prefill worker" in answers[1].json()["error"]["message"]
        assert "retry-after" in answers[1].headers
        assert not ran(fakes)
        with gate.client() as client:
            answer = client.post("/v1/embeddings", json={"model": "m", "input": "x"})
        assert answer.status_code == 503


def test_sglangs_prefill_may_fail_once_decode_answers(tmp_path):
    """What was handed over is handed over."""
    fakes = sglang("p0", "d0")

    async def late(kind, asked, writer):
        room = asked.body["bootstrap_room"]
        fakes["p0"].network.rooms.setdefault(str(room), {})["prefill-done"] = True
        await asyncio.sleep(0.1)
        return 500, {}

    fakes["p0"]._work = late
    fakes["d0"].pause_s, fakes["d0"].part_bytes = 0.02, 20
    with apart(tmp_path, fakes, disagg="sglang") as gate:
        assert len(chunks(gate.chat(stream=True))) == 3


# Under load


async def _many(gate, count, *, stream):
    """Answers to `count` chats at once."""
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(
        base_url=gate.url, headers=gate.headers, timeout=30, limits=limits, verify=False
    ) as client:

        async def one(number):
            body = {"model": "m", "messages": [{"role": "user", "content": f"{number}" * 40}]}
            body["stream"] = stream and number % 2 == 0
            return await client.post("/v1/chat/completions", json=body)

        return await asyncio.gather(*(one(number) for number in range(count)))


def _whole(answer):
    streamed = answer.headers["content-type"].startswith("text/event-stream")
    if streamed:
        said = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks(answer))
    else:
        said = answer.json()["choices"][0]["message"]["content"]
    return answer.status_code == 200 and said == "Hello"


def test_no_request_is_lost_when_the_prefill_server_is_killed(tmp_path):
    """One prefill and two decode servers, 50 requests under way: all are answered in full."""
    fakes = vllm("p0", "d0", "d1", work_s=0.05)
    with apart(tmp_path, fakes) as gate:

        def kill():
            until(lambda: len(fakes["p0"].ran) > 10)
            fakes["p0"].kill()

        killer = threading.Thread(target=kill)
        killer.start()
        answers = []
        while killer.is_alive() or len(answers) < 100:
            answers += asyncio.run(_many(gate, 50, stream=True))
        assert [answer.text for answer in answers if not _whole(answer)] == []
        legs = [leg for fake in fakes.values() for leg in fake.ran]
        assert {"prefill", "decode", "whole"} == set(legs)
        assert legs.count("decode") + legs.count("whole") == len(answers)


def test_a_server_of_both_roles_hands_nothing_to_itself(tmp_path):
    """Chosen for both halves it finds the prompt in its own cache."""
    fakes = vllm("d0", "p0")
    with apart(tmp_path, fakes) as gate:
        gate.loop.call_soon_threadsafe(gate.workers.table.set_role, "d0", "both")
        until(lambda: gate.workers.table._rows["d0"].role == "both")
        assert gate.chat().headers["x-starloom-worker"] == "d0,d0"
        assert ran(fakes) == {"d0": ["prefill", "whole"]}


def test_roles_change_under_load(tmp_path):
    """A server that becomes another half's keeps what it has; nothing is lost or miscounted."""
    fakes = vllm("p0", "d0", "d1", work_s=0.01)
    with apart(tmp_path, fakes) as gate:
        stopping = threading.Event()

        def change():
            roles = ["prefill", "both", "decode"]
            while not stopping.is_set():
                for role in roles:
                    gate.loop.call_soon_threadsafe(gate.workers.table.set_role, "d1", role)
                    time.sleep(0.004)

        changing = threading.Thread(target=change)
        changing.start()
        answers = []
        for _ in range(3):
            answers += asyncio.run(_many(gate, 50, stream=True))
        stopping.set()
        changing.join()
        assert [answer.text for answer in answers if not _whole(answer)] == []
        assert {"prefill", "decode"} <= set(fakes["d1"].ran)
