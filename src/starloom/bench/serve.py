"""`bench serve`: what KV reuse gives on one machine, on the models that ship with the package.

- `multi_turn_reuse`, `multi_turn_cold`: users who chat in several turns, all at once; the same
  requests with a cache salt of their own each make the cold case, so that nothing else differs.
- `repeat4k_same`, `repeat4k_other`: a prompt of about 4,000 tokens asked twice; the second time on
  the worker that knows it, or (workers taking turns) on one that must get it from the pool.
- `cold4k`: time to the first token of such a prompt, through the whole line, over the time of a
  plain `transformers` forward of the same prompt in this process, one after the other.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.bench.client import Answer, Client
from starloom.serve.rundir import RunDir
from starloom.serve.stack import Stack, StackError
from starloom.serve.tiny import model_path, tasks
from starloom.site import Site

MODEL = "loom-s"
LONG_TOKENS = 4000


def bench(options: Options, told: Told) -> Results:
    """Run all cases; raises BenchError when the site does not start."""
    results = Results()
    try:
        asyncio.run(_run(options, told, results))
    except StackError as error:
        raise BenchError(str(error)) from error
    return results


async def _run(options: Options, told: Told, results: Results) -> None:
    prompts = 4 if options.quick else 12
    told("starting the site")
    async with running_site(options, policy="prefix_load") as client:
        await _warm_up(client)
        for case, salted in (("multi_turn_reuse", False), ("multi_turn_cold", True)):
            told(case)
            await _multi_turn(client, options, case, salted, results)
        told("repeat4k_same")
        same = await _repeat(client, options.seed + 1000, prompts, on_same_worker=True)
        _add_speedup(results, "repeat4k_same", same)
        told("cold4k")
        await _cold(client, options.seed + 2000, prompts, results)
    told("repeat4k_other")
    async with running_site(options, policy="round_robin") as client:
        await _warm_up(client)
        other = await _repeat(client, options.seed + 3000, prompts, on_same_worker=False)
        _add_speedup(results, "repeat4k_other", other)
    results.notes.append(
        f"{MODEL} on two workers of one thread each; client, gateway and workers share the machine"
    )


@asynccontextmanager
async def running_site(options: Options, policy: str) -> AsyncIterator[Client]:
    """The laptop's site (or `--data` site file) on a free port, and a client of it."""
    path = options.data or Path(__file__).parent.parent / "cli" / "laptop.yaml"
    site = Site.load(path)
    workers = [worker for worker in site.workers if worker.model == MODEL]
    if len(workers) < 2:
        raise BenchError(f"{path} needs two workers of {MODEL}")
    changed = {
        "gateway": site.gateway.model_copy(update={"port": 0}),
        "schedule": site.schedule.model_copy(update={"policy": policy}),
        "workers": workers,
        "tenants": [],
    }
    site = site.model_copy(update=changed)
    with tempfile.TemporaryDirectory(prefix="starloom-") as folder:
        stack = Stack(site, RunDir(Path(folder) / "run"))
        async with stack:
            await stack.ready()
            async with Client(stack.url, stack.made_key or "") as client:
                yield client


async def _warm_up(client: Client) -> None:
    """First requests pay for lazily loaded code: none of them is measured."""
    for seed in range(4):
        example = tasks.recall(10**6 + seed, 512)
        await client.chat(MODEL, example.messages, max_tokens=4)


async def _multi_turn(
    client: Client, options: Options, case: str, salted: bool, results: Results
) -> None:
    users, turns = (6, 5) if options.quick else (8, 9)

    async def user(number: int) -> list[tuple[Answer, bool]]:
        talk = tasks.conversation(
            options.seed * 1000 + number,
            turns,
            filler_tokens_per_turn=700,
            kinds=("recall", "copying"),
            list_words=12,
            system_facts=8,
        )
        answers = []
        for turn, right in enumerate(talk.turns):
            salt = {"cache_salt": f"{number}-{turn}"} if salted else {}
            answer = await client.chat(
                MODEL, talk.messages(turn), max_tokens=40, temperature=0, **salt
            )
            answers.append((answer, answer.text == right.answer))
        return answers

    started = time.perf_counter()
    groups = await asyncio.gather(*(user(number) for number in range(users)))
    wall_s = time.perf_counter() - started
    pairs = [pair for group in groups for pair in group]
    answers = [answer for answer, _ in pairs]
    ttfts_ms = [1000 * answer.ttft_s for answer in answers]
    tpots_ms = [1000 * answer.tpot_s for answer in answers if answer.tpot_s is not None]
    prompt = sum(answer.prompt_tokens for answer in answers)

    def add(metric: str, value: float, unit: str) -> None:
        results.add("starloom", case, metric, value, unit)

    add("rps", len(answers) / wall_s, "requests/s")
    add("ttft_p50_ms", float(np.percentile(ttfts_ms, 50)), "ms")
    add("ttft_p99_ms", float(np.percentile(ttfts_ms, 99)), "ms")
    if tpots_ms:
        add("tpot_p50_ms", float(np.percentile(tpots_ms, 50)), "ms")
        add("tpot_p99_ms", float(np.percentile(tpots_ms, 99)), "ms")
    add("hit_pct", 100 * sum(answer.cached_tokens for answer in answers) / prompt, "% of tokens")
    add("correct_pct", 100 * sum(right for _, right in pairs) / len(pairs), "% of answers")
    add("prompt_tokens_mean", prompt / len(answers), "tokens")


async def _repeat(
    client: Client, seed: int, prompts: int, *, on_same_worker: bool
) -> list[tuple[Answer, Answer]]:
    pairs = []
    for number in range(prompts):
        messages = tasks.recall(seed + number, LONG_TOKENS).messages
        first = await client.chat(MODEL, messages, max_tokens=4, temperature=0)
        await asyncio.sleep(0.3)  # blocks reach the pool behind the answer
        second = await client.chat(MODEL, messages, max_tokens=4, temperature=0)
        if first.text != second.text:
            raise BenchError(f"reuse changed an answer: {first.text!r} became {second.text!r}")
        if (first.worker == second.worker) != on_same_worker:
            raise BenchError(f"expected another worker than {second.worker} for the repetition")
        pairs.append((first, second))
    return pairs


def _add_speedup(results: Results, case: str, pairs: Sequence[tuple[Answer, Answer]]) -> None:
    cold_s = statistics.median(first.ttft_s for first, _ in pairs)
    warm_s = statistics.median(second.ttft_s for _, second in pairs)
    results.add("starloom", case, "ttft_cold_ms", 1000 * cold_s, "ms")
    results.add("starloom", case, "ttft_warm_ms", 1000 * warm_s, "ms")
    results.add("starloom", case, "ttft_speedup", cold_s / warm_s, "ratio")


async def _cold(client: Client, seed: int, prompts: int, results: Results) -> None:
    forward = _transformers_forward(results)
    if forward is None:
        return
    ours, theirs = [], []
    for number in range(prompts + 1):
        messages = tasks.recall(seed + number, LONG_TOKENS).messages
        answer = await client.chat(MODEL, messages, max_tokens=4, temperature=0)
        plain_s = await forward(messages)
        if number:  # the first pair warms both up
            ours.append(answer.ttft_s)
            theirs.append(plain_s)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    results.add("starloom", "cold4k", "ttft_ms", 1000 * statistics.median(ours), "ms")
    results.add("transformers", "cold4k", "forward_ms", 1000 * statistics.median(theirs), "ms")
    results.add("starloom", "cold4k", "ttft_over_transformers", ratio, "ratio")


def _transformers_forward(
    results: Results,
) -> Callable[[list[dict[str, str]]], Awaitable[float]] | None:
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        results.notes.append("transformers is not installed: cold4k was not measured")
        return None
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    folder = model_path(MODEL)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()

    async def forward(messages: list[dict[str, str]]) -> float:
        def timed() -> float:
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
            started = time.perf_counter()
            with torch.inference_mode():
                model(ids, logits_to_keep=1)
            return time.perf_counter() - started

        return await asyncio.to_thread(timed)

    return forward
