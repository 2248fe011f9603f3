"""`bench disagg`: prefill and decode apart on two workers of loom-s, against both on each.

- `shm`, `tcp`: KV of a prompt from one engine to another in this process. `alone_ms_per_mib` once
  all of it is computed; `exposed_ms`, between the last layer and the decode engine's having all,
  where it goes while it is computed; `hidden_pct`, the share of the transfer that computing hides.
- `together`, `apart`: answers that run while long prompts arrive, on a site with two workers of
  both roles and on one with a worker a role. `itl_*` are gaps between an answer's tokens, `ttft_*`
  the times to the first token of the long prompts.
"""

import asyncio
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.bench.client import Answer, Client
from starloom.kv.keys import block_keys, root_key
from starloom.serve.base import EngineRequest, Handover, Sampling
from starloom.serve.engines.build import build_core
from starloom.serve.engines.core import EngineCore
from starloom.serve.engines.executor import Executor
from starloom.serve.engines.handover import listen_tcp, listen_unix
from starloom.serve.engines.handover.base import First
from starloom.serve.engines.handover.incoming import Fetcher, Incoming
from starloom.serve.engines.handover.outgoing import Offers, Outgoing
from starloom.serve.errors import ServeError
from starloom.serve.rundir import RunDir
from starloom.serve.stack import Stack, StackError
from starloom.serve.tiny import tasks
from starloom.site import Site

MODEL = "loom-s"
BLOCK_TOKENS = 64
PROMPT_TOKENS = 4096
_WAIT_S = 30.0


def bench(options: Options, told: Told) -> Results:
    """Run all cases; raises BenchError when a site or an engine does not start."""
    results = Results()
    try:
        for handover in ("unix", "tcp"):
            told(f"hand-over by {handover}")
            _transfers(handover, options, results)
        for case, roles in (("together", ("both", "both")), ("apart", ("prefill", "decode"))):
            told(case)
            asyncio.run(_mixed(case, site(*roles), options, results))
    except (StackError, ServeError) as error:
        raise BenchError(str(error)) from error
    results.notes.append(
        f"{MODEL} in float32, two workers of one thread each; client, gateway and workers share the"
        f" machine; prompts of about {PROMPT_TOKENS} tokens"
    )
    return results


def site(first: str, second: str, **fields: object) -> Site:
    """Two workers of loom-s with these roles."""
    return Site.model_validate(
        {
            "name": "bench-disagg",
            "gateway": {"port": 0},
            "nodes": [{"name": "n"}],
            "models": [{"name": MODEL, "path": f"package:{MODEL}", "block_tokens": BLOCK_TOKENS}],
            "workers": [
                {
                    "name": name,
                    "node": "n",
                    "model": MODEL,
                    "engine": "embedded",
                    "device": "cpu",
                    "kv_cache_gib": 0.1,
                    "role": role,
                    **fields,
                }
                for name, role in (("w0", first), ("w1", second))
            ],
        }
    )


class _Pair:
    """A prefill and a decode engine with a thread each, as in two workers."""

    def __init__(self, prefill: EngineCore, decode: EngineCore) -> None:
        self.executor = prefill.executor
        self.computed_s: dict[str, float] = {}
        self.answered_s: dict[str, float] = {}
        self.ended: set[str] = set()
        self._stop = False
        self._locks = [threading.Lock(), threading.Lock()]
        self._cores = [prefill, decode]
        self._threads = [threading.Thread(target=self._run, args=(at,)) for at in range(2)]
        for thread in self._threads:
            thread.start()

    def ask(self, name: str, tokens: list[int]) -> tuple[float, float]:
        """Seconds from the call until the prompt was computed, and until decode had all of it."""
        root = root_key(fingerprint="bench", block_tokens=BLOCK_TOKENS, salt=name)
        one = EngineRequest(
            id=name,
            model=MODEL,
            tokens=tokens,
            keys=block_keys(root, tokens, BLOCK_TOKENS),
            root=root,
            sampling=Sampling(max_tokens=1, temperature=0),
        )
        desk = self._cores[0].desk
        address = desk.address if desk is not None else ""
        began = time.perf_counter()
        for at, source in ((0, ""), (1, address)):
            one.handover = Handover(name, source)
            with self._locks[at]:
                self._cores[at].submit(one)
        until = time.monotonic() + _WAIT_S
        while not (name in self.answered_s and name in self.ended):
            if time.monotonic() > until:
                raise BenchError(f"no answer of {len(tokens)} tokens within {_WAIT_S:g} s")
            time.sleep(0.001)
        return self.computed_s[name] - began, self.answered_s[name] - began

    def close(self) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join()
        for core in self._cores:
            core.close()

    def _run(self, at: int) -> None:
        core = self._cores[at]
        while not self._stop:
            with self._locks[at]:
                deltas = core.settle() + ([] if core.waits else core.step())
            now = time.perf_counter()
            for delta in deltas:
                if at == 1:
                    self.answered_s[delta.id] = now
                elif delta.finish is None:
                    self.computed_s[delta.id] = now
                else:
                    self.ended.add(delta.id)
            if not deltas:
                time.sleep(0.0002)


@contextmanager
def _pair(handover: str) -> Iterator[tuple[_Pair, Executor]]:
    """Two engines, and the executor of the first."""
    with tempfile.TemporaryDirectory(prefix="starloom-") as folder:
        rundir = RunDir(Path(folder) / "run")
        rundir.create()
        running = site("prefill", "decode", handover=handover)
        pair = _Pair(*(build_core(running, rundir, name, time.sleep) for name in ("w0", "w1")))
        try:
            yield pair, pair.executor
        finally:
            pair.close()


def _transfers(handover: str, options: Options, results: Results) -> None:
    rounds = 3 if options.quick else 15
    draw = np.random.default_rng(options.seed)
    compute_ms, exposed_ms = [], []
    with _pair(handover) as (pair, executor):
        for number in range(rounds + 1):
            tokens = [int(token) for token in draw.integers(20, 1000, PROMPT_TOKENS)]
            computed_s, all_s = pair.ask(f"{handover}-{number}", tokens)
            if number:  # the first one pays for what is loaded and connected lazily
                compute_ms.append(1000 * computed_s)
                exposed_ms.append(1000 * (all_s - computed_s))
        alone_ms = _alone(handover, executor, 4 * rounds)
        mib = PROMPT_TOKENS // BLOCK_TOKENS * executor.block_bytes / 2**20
    case = "shm" if handover == "unix" else handover
    alone, exposed = statistics.median(alone_ms), statistics.median(exposed_ms)
    for metric, value, unit in (
        ("kv_mib", mib, "MiB"),
        ("alone_ms_per_mib", alone / mib, "ms/MiB"),
        ("alone_ms", alone, "ms"),
        ("exposed_ms", exposed, "ms"),
        ("hidden_pct", 100 * (1 - exposed / alone), "% of alone_ms"),
        ("compute_ms", statistics.median(compute_ms), "ms"),
    ):
        results.add("starloom", case, metric, value, unit)


def _alone(handover: str, executor: Executor, rounds: int) -> list[float]:
    """Milliseconds to hand a computed prompt over, from half of an engine's blocks to the others.

    Nothing is computed meanwhile.
    """
    blocks, took_ms = PROMPT_TOKENS // BLOCK_TOKENS, []
    ended: queue.SimpleQueue[object] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="starloom-") as folder:
        unix = handover == "unix"
        made = listen_unix(Path(folder) / "kv.sock") if unix else listen_tcp("127.0.0.1", 0)
        offers = Offers(*made, executor, "bench", lambda _: None)
        fetcher = Fetcher(executor, "bench", ended.put)
        for number in range(rounds + 1):
            outgoing = Outgoing(f"alone-{number}", executor.layers)
            outgoing.begin(range(blocks), blocks)
            outgoing.finish(First(0, 0.0, [], 0, 0), 0.0)
            targets = range(blocks, 2 * blocks)
            incoming = Incoming(outgoing.name, offers.address, targets, 0, executor.layers)
            offers.add(outgoing)
            began = time.perf_counter()
            fetcher.fetch(incoming)
            ended.get(timeout=_WAIT_S)
            if number:
                took_ms.append(1000 * (time.perf_counter() - began))
            if incoming.first is None:
                raise BenchError("a hand-over between idle engines failed")
            offers.remove(outgoing, "it is over")
        offers.close()
        fetcher.close()
    return took_ms


async def _mixed(case: str, running: Site, options: Options, results: Results) -> None:
    prompts, answer_tokens = (3, 120) if options.quick else (20, 1200)
    with tempfile.TemporaryDirectory(prefix="starloom-") as folder:
        async with Stack(running, RunDir(Path(folder) / "run")) as stack:
            await stack.ready()
            async with Client(stack.url, stack.made_key or "") as client:
                for seed in range(4):
                    example = tasks.recall(10**6 + seed, 512)
                    await client.chat(MODEL, example.messages, max_tokens=4)
                answers, longs = await _load(client, options.seed, prompts, answer_tokens)
    gaps_ms = [
        1000 * (later - sooner) for answer in answers for sooner, later in pairwise(answer.pieces_s)
    ]
    ttfts_ms = [1000 * answer.ttft_s for answer in longs]
    for metric, value in (
        ("itl_p50_ms", np.percentile(gaps_ms, 50)),
        ("itl_p99_ms", np.percentile(gaps_ms, 99)),
        ("itl_max_ms", max(gaps_ms)),
        ("tpot_p99_ms", np.percentile([1000 * (a.tpot_s or 0) for a in answers], 99)),
        ("ttft_p50_ms", np.percentile(ttfts_ms, 50)),
        ("ttft_p99_ms", np.percentile(ttfts_ms, 99)),
    ):
        results.add("starloom", case, metric, float(value), "ms")


async def _load(
    client: Client, seed: int, prompts: int, answer_tokens: int
) -> tuple[list[Answer], list[Answer]]:
    """Four answers that run, and meanwhile long prompts one after the other, without a pause.

    Answers are asked for until the last prompt is answered, so that each prompt meets running ones.
    """
    over = asyncio.Event()

    async def answers(number: int) -> list[Answer]:
        found: list[Answer] = []
        while not over.is_set():
            example = tasks.recall(seed + 1000 * number + len(found), 200)
            fields = {"max_tokens": answer_tokens, "ignore_eos": True, "logprobs": True}
            found.append(await client.chat(MODEL, example.messages, **fields))
        return found

    running = [asyncio.create_task(answers(number)) for number in range(4)]
    longs = []
    for number in range(prompts):
        example = tasks.recall(seed + 10**5 + number, PROMPT_TOKENS)
        longs.append(await client.chat(MODEL, example.messages, max_tokens=2, temperature=0))
    over.set()
    return [answer for found in await asyncio.gather(*running) for answer in found], longs
