"""Real attention through the whole stack: an answer does not depend on how its KV came about."""

import concurrent.futures
import tempfile
import time
from pathlib import Path

import pytest

from starloom.serve.tiny import tasks

from running import up

SITE = """\
name: t-agree
gateway: {port: 0}
nodes: [{name: n0}]
models: [{name: loom-s, path: "package:loom-s", block_tokens: 32}]
workers:
  - {name: s0, node: n0, model: loom-s, engine: embedded, max_batch_tokens: 256}
  - {name: s1, node: n0, model: loom-s, engine: embedded, max_batch_tokens: 64}
pool: {node: n0, dram_gib: 0.1}
schedule: {policy: round_robin}
"""
EXAMPLES = [tasks.copying(seed, 600, words=8) for seed in range(6)]


@pytest.fixture(scope="module")
def site():
    pytest.importorskip("torch")
    with tempfile.TemporaryDirectory(prefix="loom-") as folder, up(Path(folder), SITE) as running:
        yield running


def ask(site, example: tasks.Example, salt: str):
    """Greedy answer with its log probabilities; returns it, its worker and the cached tokens."""
    raw = site.openai().chat.completions.with_raw_response.create(
        model="loom-s",
        messages=example.messages,
        temperature=0,
        max_tokens=32,
        logprobs=True,
        extra_body={"cache_salt": salt},
    )
    answer = raw.parse()
    return (
        answer,
        raw.headers["x-starloom-worker"],
        answer.usage.prompt_tokens_details.cached_tokens,
    )


def agree(one, other) -> None:
    """Same text, and log probabilities within what float32 in another order may differ by."""
    assert one.choices[0].message.content == other.choices[0].message.content
    pairs = zip(one.choices[0].logprobs.content, other.choices[0].logprobs.content, strict=True)
    assert all(abs(a.logprob - b.logprob) < 1e-3 for a, b in pairs)


def test_the_pool_hands_a_prompt_over_to_the_other_worker(site):
    """Workers take turns: the second one gets the first one's blocks, and answers the same.

    The two cut prompts into chunks of different sizes, so that chunking is compared too.
    """
    for number, example in enumerate(EXAMPLES):
        first, one, cached = ask(site, example, f"hand-over-{number}")
        assert cached == 0
        time.sleep(0.3)  # blocks reach the pool behind the answer
        second, other, cached = ask(site, example, f"hand-over-{number}")
        assert {one, other} == {"s0", "s1"}
        assert cached >= 512
        agree(first, second)


def test_alone_and_in_a_batch(site):
    """Twelve requests at once, each prompt twice, agree with each asked alone; most are right."""
    alone = [ask(site, example, f"alone-{n}")[0] for n, example in enumerate(EXAMPLES)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        both = list(pool.map(lambda at: ask(site, EXAMPLES[at % 6], f"batch-{at}")[0], range(12)))
    for at, answer in enumerate(both):
        agree(alone[at % 6], answer)
    right = sum(
        answer.choices[0].message.content == example.answer
        for answer, example in zip(alone, EXAMPLES, strict=True)
    )
    assert right >= 5


def test_the_next_turn_reuses_the_answer(site):
    """In a conversation the KV of generated tokens is reused as well as the prompt's."""
    talk = tasks.conversation(3, 2, set_every_turns=1, filler_tokens_per_turn=200)
    client = site.openai()
    messages = talk.messages(0)
    first = client.chat.completions.create(
        model="loom-s", messages=messages, max_tokens=100, extra_body={"ignore_eos": True}
    )
    text = first.choices[0].message.content
    messages = [*messages, {"role": "assistant", "content": text}, talk.messages(1)[-1]]
    time.sleep(0.3)
    second = client.chat.completions.create(model="loom-s", messages=messages, max_tokens=2)
    assert second.usage.prompt_tokens_details.cached_tokens > 0.9 * first.usage.prompt_tokens
