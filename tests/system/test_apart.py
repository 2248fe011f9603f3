"""Prefill and decode apart on real processes: `examples/pd-laptop.yaml`, and what kills it."""

import concurrent.futures
import json
import signal
import tempfile
from pathlib import Path

import pytest
import yaml

from starloom.serve.tiny import tasks

from running import EMULATED, Running, until, up

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = yaml.safe_load((ROOT / "examples" / "pd-laptop.yaml").read_text())
EXAMPLES = [tasks.copying(seed, 500, words=8) for seed in range(3)]


def site_of(*workers: dict[str, object]) -> str:
    """The example with these changes of its workers, one each; JSON is YAML."""
    changed = [
        {**worker, **change} for worker, change in zip(EXAMPLE["workers"], workers, strict=False)
    ]
    return json.dumps({**EXAMPLE, "gateway": {"port": 0}, "workers": changed})


def ask(site: Running, messages, **options):
    raw = site.openai(timeout=60).chat.completions.with_raw_response.create(
        **{"model": "loom-s", "messages": messages, "temperature": 0, "max_tokens": 24, **options}
    )
    return raw.parse(), raw.headers["x-starloom-worker"]


def steps(site: Running, name: str) -> list[str]:
    """What a step of each request decided, out of the log."""
    [path] = site.run.rglob("requests.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [step["what"] for line in lines for step in line["steps"] if step["name"] == name]


def answers_of(text: str, worker: str) -> list:
    """Greedy and seeded answers of a site, all from that worker (or pair)."""
    found = []
    with tempfile.TemporaryDirectory(prefix="loom-") as folder, up(Path(folder), text) as site:
        for example in EXAMPLES:
            for options in ({"logprobs": True}, {"temperature": 0.8, "seed": 5}):
                answer, who = ask(site, example.messages, **options)
                assert who == worker
                found.append(answer.choices[0])
        idle(site)
        decode = worker.rpartition(",")[2]
        handed = len(found) if "," in worker else 0
        assert site.metric("starloom_prompts_fetched_total")[f'{{worker="{decode}"}}'] == handed
        assert not any(site.metric("starloom_prompts_not_fetched_total").values())
    return found


@pytest.fixture(scope="module")
def undivided():
    pytest.importorskip("torch")
    return answers_of(site_of({"role": "both", "name": "w0"}), "w0")


def agree(ones, others) -> None:
    for one, other in zip(ones, others, strict=True):
        assert one.message.content == other.message.content
        assert one.finish_reason == other.finish_reason
        if one.logprobs is not None:
            pairs = zip(one.logprobs.content, other.logprobs.content, strict=True)
            assert all(abs(a.logprob - b.logprob) < 1e-3 for a, b in pairs)


def test_answers_of_the_example_are_those_of_an_undivided_site(undivided):
    """Each prompt is computed by p0 and answered by d0, and the words are the same."""
    agree(answers_of(site_of({}, {}), "p0,d0"), undivided)


@pytest.mark.slow
def test_answers_over_tcp_are_the_same(undivided):
    agree(answers_of(site_of({"handover": "tcp"}, {}), "p0,d0"), undivided)


def idle(site: Running) -> None:
    """Everybody is up, and nothing is counted or held anywhere."""
    until(lambda: set(site.metric("starloom_worker_up").values()) == {1.0})
    until(lambda: set(site.metric("starloom_requests_running").values()) == {0.0})
    until(lambda: set(site.metric("starloom_kv_blocks_used").values()) == {0.0})


LOADED = (
    EMULATED.format(name="t-apart", time_scale=10_000, drain_s=5)
    .replace("{name: a, ", "{name: a, role: prefill, ")
    .replace("{name: b, ", "{name: b, role: decode, ")
    .split("pool:")[0]
)


@pytest.fixture(scope="module")
def loaded():
    with tempfile.TemporaryDirectory(prefix="loom-") as folder, up(Path(folder), LOADED) as running:
        yield running


def under_load(site: Running, act) -> list[str]:
    """32 requests at once, `act` in the middle of them; their texts."""

    def one(number: int) -> str:
        answer, _ = ask(
            site,
            [{"role": "user", "content": f"bako={number} " * 40}],
            model="m",
            max_tokens=80,
            seed=1,
            extra_body={"ignore_eos": True},
        )
        return answer.choices[0].message.content

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        futures = [pool.submit(one, number) for number in range(32)]
        until(lambda: sum(site.metric("starloom_requests_running").values()) >= 16)
        act()
        return [future.result(timeout=60) for future in futures]


@pytest.fixture(scope="module")
def right(loaded) -> list[str]:
    """What each request answers when nothing is broken."""
    texts = under_load(loaded, lambda: None)
    idle(loaded)
    return texts


def test_kill_9_of_the_prefill_worker_under_load_loses_nothing(loaded, right):
    """Whoever waited for its KV computes by itself: all answers are right, all counts go back."""
    killed = loaded.children()["a"]
    assert under_load(loaded, lambda: killed.send_signal(signal.SIGKILL)) == right
    idle(loaded)
    before = len(steps(loaded, "prefill"))
    ask(loaded, [{"role": "user", "content": "bako " * 40}], model="m", max_tokens=4)
    until(lambda: len(steps(loaded, "prefill")) > before)


def test_kill_9_of_the_decode_worker_under_load_ends_right(loaded, right):
    """Nothing was sent yet, so all are tried again, on the prefill worker where none else is up."""
    killed = loaded.children()["b"]
    assert under_load(loaded, lambda: killed.send_signal(signal.SIGKILL)) == right
    idle(loaded)


def test_a_stopped_prefill_worker_hangs_nobody(loaded, right):
    """SIGSTOP: within seconds those who wait compute by themselves."""
    stopped = loaded.children()["a"]
    assert under_load(loaded, stopped.suspend) == right
    stopped.resume()
    idle(loaded)


def test_clients_that_go_away_free_both_workers(loaded):
    """Half-read streams are closed: nothing is counted or held on either side."""
    client, streams = loaded.openai(), []
    for number in range(8):
        chunks = client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": f"milo={number} " * 40}],
            max_tokens=2000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(chunks))
        streams.append(chunks)
    for chunks in streams:
        chunks.close()
    idle(loaded)


CHANGING = LOADED.replace("name: t-apart", "name: t-roles").replace(
    "role: ", "roles_may_change: true, role: "
)


@pytest.mark.slow
def test_a_worker_takes_the_other_half_while_prompts_pile_up():
    """One prefill worker, two that decode, long prompts: after some seconds of backlog two prefill.

    Nobody is started again for it, and every answer comes.
    """
    third = CHANGING.rstrip().splitlines()[-1].replace("name: b", "name: c")
    text = CHANGING.rstrip().replace("time_scale: 10000", "time_scale: 50000") + "\n"
    text += third.replace("time_scale: 10000", "time_scale: 50000") + "\n"

    def one(site: Running, number: int) -> int:
        messages = [{"role": "user", "content": f"bako={number} " * 300}]
        answer, _ = ask(site, messages, model="m", max_tokens=2, extra_body={"ignore_eos": True})
        return answer.usage.completion_tokens

    def prefilling(site: Running) -> int:
        return sum('role="prefill"' in labels for labels in site.metric("starloom_worker_role"))

    with tempfile.TemporaryDirectory(prefix="loom-") as folder, up(Path(folder), text) as site:
        assert prefilling(site) == 1
        pids = {name: child.pid for name, child in site.children().items()}
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            futures = [pool.submit(one, site, number) for number in range(20)]
            until(lambda: prefilling(site) == 2, 30)
            assert all(future.result(timeout=90) == 2 for future in futures)
        assert pids == {name: child.pid for name, child in site.children().items()}
        idle(site)
