"""The admin API, draining and circuit breakers through a gateway on a real socket."""

import concurrent.futures
import json
import time

import httpx
import msgspec
import pytest

from starloom.serve.gateway.admin import WorkerList
from starloom.serve.gateway.membership import WorkerState

from gateway_fixtures import KEY, until
from member_fixtures import ADMIN_KEY, ANSWERS, BREAKER, admin, gateway, joining, rows, states
from surface_fixtures import fakes, stream
from upstream_fixtures import FakeUpstream, in_thread


def test_a_worker_joins_serves_drains_and_leaves(tmp_path):
    """A stream under way goes on to its end; nothing new comes; then every trace is gone."""
    slow = FakeUpstream(ANSWERS[1] * 1, part_bytes=20, pause_s=0.05)
    with in_thread(slow) as url, gateway(tmp_path, own=True) as gate:
        answer = joining(gate, "new", url)
        assert answer.status_code == 201
        assert answer.headers["location"] == "/admin/workers/new"
        until(lambda: states(gate)["new"].up)
        assert gate.chat(max_tokens=4).status_code == 200
        workers = gate.app._line._workers
        workers.drain("w1", draining=True)  # so that all goes to the new one
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            streams = [pool.submit(gate.chat, f"{n}", stream=True, model="m") for n in range(4)]
            until(lambda: gate.outstanding()["new"] == 4)
            workers.drain("w1", draining=False)
            gone = admin(gate, "DELETE", "/new")
            assert gone.status_code == 202
            assert gone.json()["leaving"]
            assert gate.chat().headers["x-starloom-worker"] == "w1"
            assert admin(gate, "POST", "/new/undrain").status_code == 409
            assert joining(gate, "new", url).status_code == 409
            assert all("hel" in one.result().text for one in streams)
            assert all(one.result().text.endswith("[DONE]\n\n") for one in streams)
        until(lambda: "new" not in states(gate))
        until(lambda: gate.outstanding() == {"w1": 0})
        assert rows(gate, "starloom_worker_up") == {"w1": 1}
        assert set(rows(gate, "starloom_breaker_state")) == {"w1"}
        assert admin(gate, "GET", "/new").status_code == 404
        assert joining(gate, "new", url).status_code == 201


def test_what_does_not_end_in_time_is_broken_off_and_tried_elsewhere(tmp_path):
    """`drain_s=0`: a whole answer of which nothing was sent comes from another worker."""
    stuck = FakeUpstream(ANSWERS[0], part_bytes=1, pause_s=0.5)
    well = FakeUpstream(ANSWERS[0])
    with (
        in_thread(stuck) as url,
        in_thread(well) as other,
        gateway(tmp_path, [other]) as gate,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        joining(gate, "new", url)
        until(lambda: states(gate)["new"].up)
        admin(gate, "POST", "/u0/drain")
        future = pool.submit(gate.chat)
        until(lambda: gate.outstanding()["new"] == 1)
        admin(gate, "POST", "/u0/undrain")
        admin(gate, "DELETE", "/new?drain_s=0")
        answer = future.result(10)
        assert answer.status_code == 200
        assert answer.headers["x-starloom-worker"] == "u0"
        until(lambda: "new" not in states(gate))
        until(lambda: gate.outstanding() == {"u0": 0})


def test_workers_of_the_site_drain_and_come_back(tmp_path):
    """Ours and those elsewhere alike; they cannot be taken away."""
    with in_thread(fakes(ANSWERS)) as url, gateway(tmp_path, [url], own=True) as gate:
        for one, other in (("w1", "u0"), ("u0", "w1")):
            answer = admin(gate, "POST", f"/{one}/drain")
            assert (answer.status_code, answer.json()["draining"]) == (200, True)
            assert rows(gate, "starloom_worker_draining") == {one: 1, other: 0}
            assert {gate.chat().headers["x-starloom-worker"] for _ in range(4)} == {other}
            assert admin(gate, "DELETE", f"/{one}").status_code == 409
            assert not admin(gate, "POST", f"/{one}/undrain").json()["draining"]
        admin(gate, "POST", "/w1/drain")
        admin(gate, "POST", "/u0/drain")
        with gate.client() as client:
            assert client.get("/ready").status_code == 503
        assert gate.chat().status_code == 503


def test_a_request_that_waits_goes_to_who_joins_but_not_past_a_wall(tmp_path):
    """Nobody is up: who joins for another tenant alone does not get the request, the next does."""
    tenants = [{"name": "acme"}, {"name": "other"}]
    theirs, ours = FakeUpstream(ANSWERS[0]), FakeUpstream(ANSWERS[0])
    with (
        in_thread(theirs) as url,
        in_thread(ours) as second,
        gateway(tmp_path, tenants=tenants, wait_s=5) as gate,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        assert joining(gate, "shared", url).status_code == 400, "tenants would share a cache"
        joining(gate, "first", url, tenants=["other"])
        until(lambda: states(gate)["first"].up)
        future = pool.submit(gate.chat)
        time.sleep(0.1)
        joining(gate, "second", url, tenants=["other"])
        until(lambda: states(gate)["second"].up)
        time.sleep(0.3)
        joining(gate, "third", second, tenants=["acme"])
        assert future.result(10).headers["x-starloom-worker"] == "third"
        assert not theirs.seen


def test_a_request_for_workers_of_ours_waits_for_one(tmp_path):
    """Read for those alone, it has no body to send to a server elsewhere that joins meanwhile."""
    fake = fakes(ANSWERS)
    with (
        in_thread(fake) as url,
        gateway(tmp_path, own=True, wait_s=10) as gate,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        gate.engines[0].switch(False)
        until(lambda: not states(gate)["w1"].up)
        future = pool.submit(gate.chat)
        time.sleep(0.1)
        joining(gate, "new", url)
        until(lambda: states(gate)["new"].up)
        time.sleep(0.4)
        assert gate.chat().headers["x-starloom-worker"] == "new"
        gate.engines[0].switch(True)
        assert future.result(10).headers["x-starloom-worker"] == "w1"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"name": "w1"}, 409, "taken"),
        ({"model": "nobody"}, 400, "model: there is no model 'nobody'"),
        ({"node": "x"}, 400, "node: there is no node 'x'"),
        ({"engine": "embedded"}, 400, "engine"),
        ({"url": "ftp://x"}, 400, "url"),
        ({"url": "http://user:secret@x/v1"}, 400, "key_env"),
        ({"url": "http://x:99999/v1"}, 400, "url"),
        ({"url": "http:///v1"}, 400, "names no server"),
        ({"url": "http://x/v1\r\nevil: 1"}, 400, "names no server"),
        ({"key_env": "HOME"}, 400, "STARLOOM_KEY_"),
        ({"colour": "red"}, 400, "colour"),
        ({"name": "No Good"}, 400, "name"),
        ({"model": "other", "kv_events": {"endpoint": "tcp://h:1"}}, 400, "tokenizer"),
    ],
)
def test_a_worker_that_cannot_be_is_refused(tmp_path, body, status, says):
    with gateway(tmp_path, own=True) as gate:
        whole_body = {"name": "new", "node": "n", "model": "m", "url": "http://127.0.0.1:9/v1"}
        answer = admin(gate, "POST", json={**whole_body, **body})
        assert answer.status_code == status
        assert says in answer.json()["error"]["message"]
        assert "secret" not in answer.text
        assert set(states(gate)) == {"w1"}


def test_who_may_ask_and_how(tmp_path):
    """A key of its own; bodies, paths and methods that are wrong are told apart."""
    with gateway(tmp_path, own=True) as gate:
        assert admin(gate, "GET", key=KEY).status_code == 401
        assert admin(gate, "GET", key="wrong").status_code == 401
        with gate.client() as client:
            headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
            assert client.get("/v1/models", headers=headers).status_code == 401
            assert client.get("/metrics").text.count("starloom_failed_admin_keys_total 2.0") == 1
        assert admin(gate, "POST", content=b"{}").status_code == 415
        assert admin(gate, "POST", json=[]).status_code == 400
        assert admin(gate, "PUT").status_code == 405
        assert admin(gate, "GET", "/w1").json()["source"] == "site"
        assert admin(gate, "GET", "/w1/drain").status_code == 405
        assert admin(gate, "POST", "/w1").status_code == 405
        assert admin(gate, "POST", "/w1/jump").status_code == 404
        assert admin(gate, "POST", "/nobody/drain").status_code == 404
        assert admin(gate, "DELETE", "/nobody").status_code == 404
        assert admin(gate, "DELETE", "/w1?drain_s=soon").status_code == 400
        with httpx.Client(trust_env=False) as client:
            headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Origin": "http://evil"}
            assert client.get(f"{gate.url}/admin/workers", headers=headers).status_code == 403


def test_without_an_admin_key_there_is_no_admin_api(tmp_path):
    with gateway(tmp_path, own=True, gateway={"admin": None}) as gate:
        with gate.client() as client:
            assert client.get("/admin/workers").status_code == 404
            assert "/admin/workers" not in client.get("/openapi.json").json()["paths"]
        assert admin(gate, "GET").status_code == 401


def test_the_document_tells_of_the_api(tmp_path):
    """Every reference in it leads somewhere, and every answer of it is a documented one."""
    with gateway(tmp_path, own=True) as gate:
        with gate.client() as client:
            document = client.get("/openapi.json")
        schemas = document.json()["components"]["schemas"]
        for part in document.text.split('"#/components/schemas/')[1:]:
            assert part.partition('"')[0] in schemas
        assert schemas["OpenAIWorker"]["required"] == ["name", "node", "model", "url"]
        paths = document.json()["paths"]
        url = "http://127.0.0.1:9/v1"
        body = {"name": "new", "node": "n", "model": "m", "url": url}
        for method, path, expected in (
            ("post", "", 201),
            ("get", "", 200),
            ("get", "/{name}", 200),
            ("post", "/{name}/drain", 200),
            ("post", "/{name}/undrain", 200),
            ("delete", "/{name}", 202),
        ):
            documented = paths[f"/admin/workers{path}"][method]
            assert documented["security"] == [{"admin": []}]
            stated = {"json": body} if method == "post" and not path else {}
            answer = admin(gate, method.upper(), path.replace("{name}", "new"), **stated)
            assert answer.status_code == expected
            assert str(expected) in documented["responses"]
            of = WorkerList if (method, path) == ("get", "") else WorkerState
            msgspec.json.decode(answer.content, type=of)


def test_what_the_api_changed_survives_a_gateway(tmp_path):
    """A new process reads it again; a worker drained before is drained after."""
    with in_thread(fakes(ANSWERS)) as url:
        kept = tmp_path / "members"
        with gateway(tmp_path, own=True, members_file=kept) as gate:
            joining(gate, "new", url)
            admin(gate, "POST", "/w1/drain")
        with gateway(tmp_path, own=True, members_file=kept) as gate:
            until(lambda: states(gate)["new"].up)
            assert states(gate)["w1"].draining
            assert gate.chat().headers["x-starloom-worker"] == "new"


def test_a_workers_file_is_followed(tmp_path):
    """Within two seconds; a broken one is told of and changes nothing; a changed worker is anew."""
    one, two = fakes(ANSWERS), fakes(ANSWERS)
    path = tmp_path / "workers.json"
    with in_thread(one) as first, in_thread(two) as second:

        def write(*urls):
            row = {"node": "n", "model": "m", "engine": "openai"}
            found = [{"name": f"f{n}", "url": f"{u}/v1", **row} for n, u in enumerate(urls)]
            path.write_text(json.dumps(found))

        write(first)
        with gateway(tmp_path, workers_file="workers.json") as gate:
            until(lambda: gate.chat().status_code == 200)
            with gate.client() as client:
                assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["m"]
            assert rows(gate, "starloom_members") == {"file": 1}
            path.write_text("[{")
            until(lambda: rows(gate, "starloom_members_problem") == {"file": 1}, 2.5)
            assert gate.chat().status_code == 200
            write(second)
            until(lambda: states(gate)["f0"].url == f"{second}/v1", 2.5)
            assert rows(gate, "starloom_members_problem") == {"file": 0}
            until(lambda: states(gate)["f0"].up)
            assert gate.chat().status_code == 200
            assert len(two.seen) == 1
            assert admin(gate, "DELETE", "/f0").status_code == 409
            write()
            until(lambda: states(gate) == {}, 2.5)


def test_a_dns_name_is_followed(tmp_path):
    """Each address is a worker; one that leaves the answer drains."""
    fake = fakes(ANSWERS)
    found = [["127.0.0.1"]]

    async def resolver(name):
        assert name == "pods.internal"
        return found[0]

    with in_thread(fake) as url:
        port = url.rpartition(":")[2]
        template = {"name": "p", "node": "n", "model": "m", "engine": "openai"}
        discover = [
            {
                "dns": "pods.internal",
                "every_s": 0.1,
                "keep_s": 0.3,
                "worker": {**template, "url": f"http://{{address}}:{port}/v1"},
            }
        ]
        with gateway(tmp_path, discover=discover, resolver=resolver) as gate:
            until(lambda: gate.chat().status_code == 200)
            assert rows(gate, "starloom_members") == {"dns:p": 1}
            found[0] = ["127.0.0.1", "127.0.0.2"]
            until(lambda: set(states(gate)) == {"p-127.0.0.1", "p-127.0.0.2"})
            found[0] = ["127.0.0.1"]
            until(lambda: set(states(gate)) == {"p-127.0.0.1"})
            found[0] = []
            until(lambda: rows(gate, "starloom_members_problem") == {"dns:p": 1})
            assert gate.chat().status_code == 200
            until(lambda: states(gate) == {})


class Flapping(FakeUpstream):
    """Answers `/models` always, and breaks as long as it is told to."""

    def __init__(self, status=503):
        super().__init__(ANSWERS[0])
        self.bad = status
        self.broken = False

    async def _answer(self, asked, writer):
        self.status = self.bad if self.broken else 200
        self.body = b'{"error": {"message": "no"}}' if self.broken else ANSWERS[0]
        await super()._answer(asked, writer)


def test_a_worker_that_flaps_is_left_alone_until_it_answers_again(tmp_path):
    """Nobody is told of it: others answer. It gets one probe a pause, and then its share again."""
    flaps, well = Flapping(), FakeUpstream(ANSWERS[0])
    with (
        in_thread(flaps) as bad,
        in_thread(well) as good,
        gateway(tmp_path, [bad, good], breaker=BREAKER, schedule={"policy": "round_robin"}) as gate,
    ):
        for _ in range(3):
            flaps.broken = True
            until(lambda: gate.chat().status_code == 200 and _state(gate, "u0") == 2)
            before, asked = time.monotonic(), len(flaps.seen)
            for _ in range(30):
                assert gate.chat().status_code == 200
                time.sleep(0.02)
            probes = len(flaps.seen) - asked
            assert 1 <= probes <= (time.monotonic() - before) / BREAKER["pause_s"] + 1
            assert states(gate)["u0"].up, "its health look sees nothing wrong"
            flaps.broken = False
            until(lambda: gate.chat().status_code == 200 and _state(gate, "u0") == 0)
        assert rows(gate, "starloom_breaker_opened_total")["u0"] >= 3
        assert {gate.chat().headers["x-starloom-worker"] for _ in range(8)} == {"u0", "u1"}
        until(lambda: gate.outstanding() == {"u0": 0, "u1": 0})


def _state(gate, name):
    return rows(gate, "starloom_breaker_state")[name]


def test_where_all_breakers_are_open_requests_are_still_tried(tmp_path):
    """The one that answers now is found: a 503 is a worker's own, never a breaker's."""
    one, two = Flapping(), Flapping()
    rules = {**BREAKER, "pause_s": 60, "longest_pause_s": 60}
    with (
        in_thread(one) as first,
        in_thread(two) as second,
        gateway(tmp_path, [first, second], breaker=rules) as gate,
    ):
        one.broken = two.broken = True
        until(lambda: gate.chat().status_code == 503 and _state(gate, "u0") == 2)
        until(lambda: gate.chat().status_code == 503 and _state(gate, "u1") == 2)
        two.broken = False
        answers = [gate.chat() for _ in range(10)]
        assert [answer.status_code for answer in answers] == [200] * 10
        assert answers[-1].headers["x-starloom-worker"] == "u1"
        assert _state(gate, "u1") == 0


@pytest.mark.parametrize("status", [400, 422, 429])
def test_the_clients_faults_and_a_busy_worker_open_nothing(tmp_path, status):
    """4xx are the client's, and 429 says that there is too much to do, not that it is broken."""
    fake = Flapping(status)
    with in_thread(fake) as url, gateway(tmp_path, [url], breaker=BREAKER) as gate:
        fake.broken = True
        told = {gate.chat().status_code for _ in range(10)}
        assert told == {429 if status == 429 else 400}
        assert _state(gate, "u0") == 0
        assert rows(gate, "starloom_breaker_failure_share")["u0"] == 0


def test_a_busy_workers_request_goes_to_one_that_has_room(tmp_path):
    """429 reaches the client only where nobody has, with its own Retry-After; no breaker opens."""
    full, free = FakeUpstream(b"{}", status=429, headers={"retry-after": "7"}), Flapping(429)
    with (
        in_thread(full) as first,
        in_thread(free) as second,
        gateway(tmp_path, [first, second], breaker=BREAKER) as gate,
    ):
        answers = [gate.chat() for _ in range(8)]
        assert {answer.status_code for answer in answers} == {200}
        assert full.seen, "it is asked first"
        free.broken, free.headers = True, {"retry-after": "7"}
        answer = gate.chat()
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "8")
        assert rows(gate, "starloom_breaker_state") == {"u0": 0, "u1": 0}


def test_answers_that_break_off_open_it(tmp_path):
    """Each stream begins well: its client is told, and the worker is left alone."""
    fake = FakeUpstream(stream({"content": "hel"})[:120], breaks=True)
    with in_thread(fake) as url, gateway(tmp_path, [url], breaker=BREAKER) as gate:
        for _ in range(BREAKER["failures"]):
            assert "error" in gate.chat(stream=True).text
        assert rows(gate, "starloom_breaker_opened_total")["u0"] == 1
