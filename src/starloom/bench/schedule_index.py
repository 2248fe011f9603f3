"""One process that fills a prefix index and times decisions over it; `bench schedule` starts it.

Prints one JSON object. A process of its own, so that memory is that of the index alone.
"""

import argparse
import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from starloom.kv.keys import block_keys, root_key
from starloom.serve.schedule import POLICIES, Ask, Ticket, WorkerTable
from starloom.serve.tiny import model_path
from starloom.serve.tokenise import Tokeniser

BLOCK_TOKENS = 16
PROMPT_BLOCKS = 6250
_EVENT_BLOCKS = 64


def main() -> None:
    """Fill, time and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--policy", default="starloom")
    parser.add_argument("--exact", action="store_true")
    args = parser.parse_args()
    case = Case(args.workers, args.pairs, args.seed, args.policy, exact=args.exact)
    figures = case.fill()
    figures |= case.events() if args.exact else {}
    figures |= case.decisions()
    if not args.exact:
        figures |= case.tokenised()
    json.dump(figures, sys.stdout)


class Case:
    """A table of workers that hold `pairs` blocks together, each of it the same share."""

    def __init__(self, workers: int, pairs: int, seed: int, policy: str, *, exact: bool) -> None:
        self._rng = np.random.default_rng(seed)
        self._draw = random.Random(seed)
        self._capacity = pairs // workers
        self._names = [f"w{number:05d}" for number in range(workers)]
        self._exact = exact
        self._base_gib = _rss_gib()
        self._table = WorkerTable(POLICIES[policy], exact=exact)
        for name in self._names:
            self._table.add(name, "m", self._capacity)
            self._table.up(name)
        self._systems = [self._chain(self._draw.randrange(16, 512)) for _ in range(8)]
        """System prompts that everybody's prompts begin with: up to 8,000 tokens."""
        self._tickets: list[Ticket] = []
        self._held: list[bytes] = []
        """The last prompt that each worker was given, packed."""

    def fill(self) -> dict[str, float]:
        """Give every worker prompts until it holds its share, in events of 64 blocks."""
        began = time.perf_counter()
        stored = spent = 0.0
        for name in self._names:
            left = self._capacity
            while left > 0:
                keys = (self._draw.choice(self._systems) + self._chain(PROMPT_BLOCKS // 2))[:left]
                now = time.perf_counter()
                self._store(name, keys)
                spent += time.perf_counter() - now
                stored += len(keys)
                left -= len(keys)
            self._held.append(b"".join(keys))
        del keys
        gc.collect()
        kept = sum(map(len, self._held)) / 2**30
        return {
            "pairs": stored,
            "index_gib": max(_rss_gib() - self._base_gib - kept, 0.0),
            "fill_s": time.perf_counter() - began,
            "fill_blocks_per_s": stored / spent,
        }

    def _store(self, name: str, keys: list[bytes]) -> None:
        if not self._exact:
            self._table.sent(name, keys)
            return
        for at in range(0, len(keys), _EVENT_BLOCKS):
            parent = keys[at - 1] if at else None
            self._table.stored(name, parent, keys[at : at + _EVENT_BLOCKS])

    def events(self) -> dict[str, float]:
        """Blocks stored and removed a second, as workers tell them: tails go, new ones come."""
        count, spent = 0, 0.0
        for _ in range(400):
            at = self._draw.randrange(len(self._names))
            name, keys = self._names[at], _unpacked(self._held[at])
            gone = [keys[-1 - i] for i in range(min(_EVENT_BLOCKS, len(keys) - 1))]
            kept = keys[: len(keys) - len(gone)]
            new = self._chain(len(gone))
            now = time.perf_counter()
            self._table.removed(name, gone)
            self._table.stored(name, kept[-1], new)
            spent += time.perf_counter() - now
            count += len(gone) + len(new)
            self._held[at] = b"".join(kept + new)
        return {"events_per_s": count / spent}

    def decisions(self, rounds: int = 400) -> dict[str, float]:
        """Whole decisions: look-up, policy, and the chosen worker's new blocks."""
        for _ in range(20):
            self._decide(self._prompt())
        wall, cpu, lookup = [], [], []
        gc.collect()
        gc.freeze()
        for _ in range(rounds):
            ask = self._ask(self._prompt())
            now = time.perf_counter()
            self._table.views(ask, "m")
            lookup.append(time.perf_counter() - now)
            wall_s, cpu_s = _timed(partial(self._begin, ask))
            self._end()
            wall.append(wall_s)
            cpu.append(cpu_s)
        return (
            _percentiles("decision", wall)
            | _percentiles("decision_cpu", cpu)
            | _percentiles("lookup", lookup)
        )

    def tokenised(self) -> dict[str, float]:
        """The same from text: tokens, keys and decision of a prompt of 100,000 tokens.

        Cold: no piece of it was seen. Warm: it was asked before and grew by one sentence.
        """
        folder = model_path("loom-s")
        cold, warm = [], []
        root = root_key(fingerprint="bench", block_tokens=BLOCK_TOKENS, salt="")
        for number in range(8):
            tokeniser = Tokeniser.load(Path(folder))
            text = self._text(tokeniser, BLOCK_TOKENS * PROMPT_BLOCKS)

            def decide(text: str = text, tokeniser: Tokeniser = tokeniser) -> None:
                tokens = tokeniser.prompt(text)
                self._decide(block_keys(root, tokens, BLOCK_TOKENS))

            cold.append(_timed(decide)[0])
            grown = f"{text}\nAnd what of number {number}?"
            warm.append(_timed(partial(decide, grown))[0])
        return _percentiles("cold", cold) | _percentiles("warm", warm)

    def _text(self, tokeniser: Tokeniser, tokens: int) -> str:
        words = [
            f"w{self._draw.randrange(10**6)}"
            if self._draw.random() < 0.1
            else self._draw.choice(_WORDS)
            for _ in range(tokens)
        ]
        per_word = len(tokeniser.prompt(" ".join(words[:2000]))) / 2000
        return " ".join(words[: int(tokens / per_word)])

    def _prompt(self) -> list[bytes]:
        """Half go on from what some worker holds, half share a system prompt alone."""
        if self._draw.random() < 0.5:
            known = _unpacked(self._draw.choice(self._held))
        else:
            known = self._draw.choice(self._systems)
        return (known + self._chain(PROMPT_BLOCKS))[:PROMPT_BLOCKS]

    def _chain(self, count: int) -> list[bytes]:
        return _unpacked(self._rng.bytes(32 * count))

    def _ask(self, keys: list[bytes]) -> Ask:
        return Ask(
            prompt_tokens=len(keys) * BLOCK_TOKENS + 1,
            keys=keys,
            block_tokens=BLOCK_TOKENS,
            now_s=time.perf_counter(),
        )

    def _begin(self, ask: Ask) -> None:
        ticket = self._table.begin("m", ask)
        if ticket is not None:
            self._tickets.append(ticket)

    def _end(self) -> None:
        """Nine of ten requests end before the next one comes."""
        for ticket in self._tickets:
            if self._draw.random() < 0.9:
                ticket.first_token(time.perf_counter())
                ticket.end(time.perf_counter(), 100)
        self._tickets.clear()

    def _decide(self, keys: list[bytes]) -> None:
        self._begin(self._ask(keys))
        self._end()


_WORDS = ("the", "of", "and", "worker", "prefix", "block", "token", "answer", "light", "fibre")


def _unpacked(data: bytes) -> list[bytes]:
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def _timed(call: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.thread_time()
    call()
    return time.perf_counter() - wall, time.thread_time() - cpu


def _percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    return {
        f"{name}_us_p50": 1e6 * float(np.percentile(seconds, 50)),
        f"{name}_us_p99": 1e6 * float(np.percentile(seconds, 99)),
    }


def _rss_gib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


if __name__ == "__main__":
    main()
