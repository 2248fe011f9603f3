"""Names behind which two models stand, and the gate at which quick and thinking requests wait."""

import asyncio

import pytest

from starloom.serve.errors import Throttled
from starloom.serve.gateway.choose import Gate
from starloom.serve.route import Lanes, Settings, train
from starloom.serve.route.dense import Scales
from starloom.serve.route.outcomes import synthetic
from starloom.site import Site

from engine_fixtures import run_async
from gateway_fixtures import SHAPE, FakeEngine, serving, write_model

FAST = Settings(penalties=(10.0,), scales=Scales(wave_count=32))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two models, and `auto` in front of them, with a router trained on made-up outcomes."""
    folder = tmp_path_factory.mktemp("routed")
    write_model(folder / "m")
    train(synthetic(1, 300), settings=FAST).save(folder / "router.npz")
    model = {"tokenizer": "m", "shape": SHAPE, "block_tokens": 16, "context_tokens": 4096}
    return Site.model_validate(
        {
            "name": "routed",
            "base": str(folder),
            "gateway": {"port": 0},
            "nodes": [{"name": "n"}],
            "models": [{"name": "small", **model}, {"name": "large", **model}],
            "workers": [
                {"name": f"w-{name}", "node": "n", "model": name, "engine": "emulated"}
                for name in ("small", "large")
            ],
            "routes": [
                {
                    "name": "auto",
                    "small": "small",
                    "large": "large",
                    "router": "router.npz",
                    "dial": {"cost": 0.5},
                    "lanes": {"at_once": 2},
                }
            ],
        }
    )


@pytest.fixture
def gate(site):
    engines = [FakeEngine("w-small", "small"), FakeEngine("w-large", "large")]
    with serving(site, engines) as gate:
        yield gate


def ask(gate, model="auto", headers=None, **more):
    body = {"model": model, "messages": [{"role": "user", "content": "What is 3 + 4?"}], **more}
    with gate.client() as client:
        return client.post("/v1/chat/completions", json=body, headers=headers or {})


def test_a_route_chooses_and_says_what_it_chose(gate):
    """The answer names the model that gave it, and `auto` is listed beside the models."""
    answer = ask(gate)
    assert answer.status_code == 200
    assert answer.json()["model"] in ("small", "large")
    with gate.client() as client:
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["small", "large", "auto"]


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_header_or_a_models_name_overrides(gate, size):
    assert ask(gate, headers={"x-starloom-route": size}).json()["model"] == size
    assert ask(gate, model=size).json()["model"] == size


def test_a_wrong_override_is_refused(gate):
    for header in ("x-starloom-route", "x-starloom-lane"):
        answer = ask(gate, headers={header: "huge"})
        assert answer.status_code == 400
        assert "huge" in answer.json()["error"]["message"]


def test_the_gate_is_left_however_a_request_ends(gate):
    """Answers, refusals and streams: nobody keeps a place."""
    for _ in range(5):
        ask(gate)
        ask(gate, stream=True)
        ask(gate, max_tokens=10**6)
    assert gate.app._line._chooser._gates["auto"].running == 0


def test_lanes_take_turns_and_a_client_that_leaves_gives_its_place_up():
    async def test():
        order = []
        gate = Gate(Lanes({"quick": 1.0, "thinking": 1.0}, limit=3), 1)
        await gate.enter("quick")

        async def come(name, lane):
            await gate.enter(lane)
            order.append(name)

        tasks = [
            asyncio.create_task(come(name, lane))
            for name, lane in (
                ("q1", "quick"),
                ("q2", "quick"),
                ("q3", "quick"),
                ("t1", "thinking"),
            )
        ]
        await asyncio.sleep(0)
        with pytest.raises(Throttled):
            await gate.enter("quick")
        tasks[1].cancel()
        await asyncio.sleep(0)
        for _ in range(3):
            gate.leave()
            await asyncio.sleep(0.01)
        assert order == ["q1", "t1", "q3"]
        gate.leave()
        assert gate.running == 0

    run_async(test)


def test_a_turn_that_comes_as_the_client_leaves_is_passed_on():
    async def test():
        gate = Gate(Lanes(), 1)
        await gate.enter("quick")
        first = asyncio.create_task(gate.enter("quick"))
        second = asyncio.create_task(gate.enter("quick"))
        await asyncio.sleep(0)
        gate.leave()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.wait_for(second, 1)
        gate.leave()
        assert gate.running == 0

    run_async(test)
