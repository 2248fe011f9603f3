"""`bench overload`: what is still answered in time when three times too much is asked.

Two emulated workers behind a real gateway. They take the times of `plan`, slowed so that they are
what is overloaded, and not the machine that the bench runs on. Requests come at random (Poisson),
whatever became of those before. A request is *in target* when its first token and the mean time
between its later ones keep to the targets.

First the peak is found: the most requests a second in target, over a ladder of offered rates. Then
three times that rate is offered. Cases: `sla` (early refusals with 429) and the policies without
admission, for comparison. `kept_pct` is the rate in target over the case's own peak,
`admitted_in_target_pct` the share of those not refused that kept to target.
"""

import asyncio
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.serve.http import Upstream, UpstreamError
from starloom.serve.rundir import RunDir
from starloom.serve.stack import Stack, StackError
from starloom.serve.tiny.tasks import WORDS
from starloom.site import Site

SLOWED = 4.0
TTFT_TARGET_S, TPOT_TARGET_S = 0.6 * SLOWED, 0.06 * SLOWED
PROMPT_WORDS, ANSWER_TOKENS = 600, 24
POLICIES = ("sla", "starloom", "least_outstanding")
OVERLOAD = 3.0
_LADDER = (0.6, 0.8, 1.0, 1.2, 1.5)
_MOST_S = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: refused, in target, or neither."""

    refused: bool
    in_target: bool
    failed: bool = False


def bench(options: Options, told: Told) -> Results:
    """Run all cases; raises BenchError when the site does not start or requests fail."""
    results = Results()
    try:
        asyncio.run(_run(options, told, results))
    except StackError as error:
        raise BenchError(str(error)) from error
    return results


async def _run(options: Options, told: Told, results: Results) -> None:
    seconds = 5.0 if options.quick else 20.0
    policies = POLICIES[:2] if options.quick else POLICIES
    for policy in policies:
        with tempfile.TemporaryDirectory(prefix="starloom-") as folder:
            stack = Stack(_site(policy), RunDir(Path(folder) / "run"))
            async with stack:
                await stack.ready()
                client = _Client(stack.url, stack.made_key or "", options.seed)
                await _case(policy, client, seconds, told, results)
                client.close()
    results.notes.append(
        f"targets: first token {TTFT_TARGET_S:g} s, {1000 * TPOT_TARGET_S:g} ms between tokens;"
        f" prompts of {PROMPT_WORDS} words, answers of {ANSWER_TOKENS} tokens; {seconds:g} s a rate"
    )


async def _case(
    policy: str, client: "_Client", seconds: float, told: Told, results: Results
) -> None:
    told(f"{policy}: capacity")
    capacity = await client.capacity(seconds / 2)
    peak = 0.0
    for share in _LADDER:
        told(f"{policy}: {share:g} of capacity")
        outcomes = await client.offer(share * capacity, seconds)
        peak = max(peak, sum(one.in_target for one in outcomes) / seconds)
    told(f"{policy}: {OVERLOAD:g} times the peak")
    outcomes = await client.offer(OVERLOAD * max(peak, 0.1 * capacity), seconds)
    kept = sum(one.in_target for one in outcomes)
    admitted = sum(not one.refused for one in outcomes)

    def add(metric: str, value: float, unit: str) -> None:
        results.add("starloom", policy, metric, value, unit)

    add("peak_in_target_rps", peak, "requests/s")
    add("offered_rps", len(outcomes) / seconds, "requests/s")
    add("in_target_rps", kept / seconds, "requests/s")
    add("kept_pct", 100 * kept / seconds / max(peak, 1e-9), "% of peak")
    add("admitted_in_target_pct", 100 * kept / max(admitted, 1), "% of admitted")
    add("refused_pct", 100 * (1 - admitted / max(len(outcomes), 1)), "% of offered")
    add("failed_pct", 100 * sum(o.failed for o in outcomes) / max(len(outcomes), 1), "%")


class _Client:
    """Open-loop load on one gateway."""

    def __init__(self, url: str, key: str, seed: int) -> None:
        self._upstream = Upstream(url, headers={"authorization": f"Bearer {key}"})
        self._rng = random.Random(seed)

    def close(self) -> None:
        self._upstream.close()

    async def capacity(self, seconds: float) -> float:
        """Requests a second with 64 always under way."""
        done = 0
        deadline = time.perf_counter() + seconds

        async def one() -> None:
            nonlocal done
            while time.perf_counter() < deadline:
                await self._ask(priority=-1)  # never refused
                done += 1

        await asyncio.gather(*(one() for _ in range(64)))
        return done / seconds

    async def offer(self, rate: float, seconds: float) -> list[Outcome]:
        """What became of the requests that came within a while."""
        gaps = np.random.default_rng(self._rng.getrandbits(32)).exponential(
            1 / rate, size=int(2 * rate * seconds) + 10
        )
        tasks: list[asyncio.Task[Outcome]] = []
        begin = time.perf_counter()
        for at_s in np.cumsum(gaps):
            if at_s >= seconds:
                break
            await asyncio.sleep(max(begin + float(at_s) - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(self._ask()))
        done, late = await asyncio.wait(tasks, timeout=_MOST_S)
        for task in late:
            task.cancel()
        lost = [Outcome(refused=False, in_target=False)] * len(late)
        return [*(task.result() for task in done), *lost]

    async def _ask(self, priority: int = 0) -> Outcome:
        prompt = " ".join(self._rng.choices(WORDS, k=PROMPT_WORDS // 2))
        body = {
            "model": "m",
            "prompt": prompt,
            "max_tokens": ANSWER_TOKENS,
            "ignore_eos": True,
            "stream": True,
            "priority": priority,
        }
        times: list[float] = []
        begin = time.perf_counter()
        try:
            reply = await self._upstream.request(
                b"POST", b"/v1/completions", msgspec.json.encode(body)
            )
            try:
                await reply.pipe(lambda _: times.append(time.perf_counter()))
            finally:
                reply.close()
        except UpstreamError:
            return Outcome(refused=False, in_target=False, failed=True)
        if reply.status == 429:
            return Outcome(refused=True, in_target=False)
        if reply.status != 200 or not times:
            return Outcome(refused=False, in_target=False, failed=True)
        tpot_s = (times[-1] - times[0]) / max(ANSWER_TOKENS - 1, 1)
        kept = times[0] - begin <= TTFT_TARGET_S and tpot_s <= TPOT_TARGET_S
        return Outcome(refused=False, in_target=kept)


def _site(policy: str) -> Site:
    worker = {
        "node": "n",
        "model": "m",
        "engine": "emulated",
        "max_batch": 32,
        "time_scale": SLOWED,
        "kv_cache_gib": 16.0,
    }
    return Site.model_validate(
        {
            "name": "overload",
            "gateway": {"port": 0},
            "nodes": [{"name": "n", "chip": "h100-sxm"}],
            "models": [{"name": "m", "tokenizer": "package:loom-s", "shape": "llama-3-8b"}],
            "workers": [{"name": name, **worker} for name in ("a", "b")],
            "tenants": [
                {
                    "name": "t",
                    "ttft_target_ms": 1000 * TTFT_TARGET_S,
                    "tpot_target_ms": 1000 * TPOT_TARGET_S,
                }
            ],
            "schedule": {"policy": policy},
        }
    )
