"""Measure a tiny model: ``python -m tools.tiny.evaluate FOLDER [--lengths 64 256] [--json]``.

Answers are decoded greedily from the folder's own chat template and count as right only if they
are the wanted text followed by the end token. Each document is read once; its questions then
share its keys and values, the way a server shares a prefix.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from starloom.serve.tiny import tasks

DEFAULT_LENGTHS_TOKENS = (64, 256, 1024, 4096)
SHORTEST_CONVERSATION_TOKENS = 256
PREFILL_CHUNK_TOKENS = 4096
Row = dict[str, str | int | float]


class Greedy:
    """Greedy decoding of one sequence at a time, keeping the cache of the last one."""

    def __init__(self, folder: Path | str) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self._cache = DynamicCache()
        self._cached: list[int] = []

    def _next(self, ids: list[int]) -> int:
        """Return the likeliest token after ``ids``, computing only what the cache lacks."""
        both = zip(self._cached, ids[:-1], strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both))
        if shared < len(self._cached):
            self._cache.crop(shared - len(self._cached))
        while shared < len(ids):
            chunk = torch.tensor([ids[shared : shared + PREFILL_CHUNK_TOKENS]])
            with torch.no_grad():
                out = self.model(chunk, past_key_values=self._cache, logits_to_keep=1)
            shared += chunk.shape[1]
        self._cached = list(ids)
        return int(out.logits[0, -1].argmax())

    def prompt(self, messages: list[tasks.Message]) -> list[int]:
        """Return the token ids of ``messages`` and the assistant's opening."""
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def is_right(self, example: tasks.Example) -> bool:
        """Say whether the model gives exactly the wanted answer and then the end token."""
        ids = self.prompt(example.messages)
        wanted = self.tokenizer.encode(example.answer, add_special_tokens=False)
        for token in [*wanted, self.tokenizer.eos_token_id]:
            if self._next(ids) != token:
                return False
            ids.append(token)
        return True


def _recalls(length: int, seed: int) -> list[tasks.Example]:
    facts = max(4, min(128, length // 32))
    asked = range(min(facts, 16))
    return [tasks.recall(seed, length, facts=facts, question=q) for q in asked]


def _copies(length: int, seed: int) -> list[tasks.Example]:
    words, lists = (4, 2) if length < 128 else (16, 2 if length < 256 else 4)
    return [tasks.copying(seed, length, words=words, lists=lists, question=q) for q in range(lists)]


def _hops(length: int, seed: int) -> list[tasks.Example]:
    chains = max(2, min(16, length // 32))
    return [
        tasks.multi_hop(seed, length, chains=chains, facts=chains, question=q)
        for q in range(min(chains, 8))
    ]


def _sums(_length: int, seed: int) -> list[tasks.Example]:
    return [tasks.arithmetic(seed * 1000 + q) for q in range(8)]


def _chats(length: int, seed: int) -> list[tasks.Example]:
    turns = 12
    room = max(0, length // (turns // 3) - 40)
    chat = tasks.conversation(seed, turns, filler_tokens_per_turn=room)
    return chat.examples()


SUITES: dict[str, Callable[[int, int], list[tasks.Example]]] = {
    "recall": _recalls,
    "copying": _copies,
    "multi_hop": _hops,
    "arithmetic": _sums,
    "conversation": _chats,
}


def examples(suite: str, length_tokens: int, count: int, seed: int) -> Iterator[tasks.Example]:
    """Yield ``count`` examples of ``suite``, several questions to a document."""
    made = 0
    while made < count:
        for example in SUITES[suite](length_tokens, seed)[: count - made]:
            made += 1
            yield example
        seed += 1


def measure(greedy: Greedy, suite: str, length_tokens: int, count: int, seed: int) -> Row:
    """Return the accuracy of one suite at one length."""
    right = sum(greedy.is_right(e) for e in examples(suite, length_tokens, count, seed))
    return {
        "task": suite,
        "length_tokens": length_tokens,
        "examples": count,
        "accuracy": round(right / count, 4),
    }


def measure_all(
    greedy: Greedy, lengths_tokens: list[int], suites: list[str], count: int, seed: int
) -> list[Row]:
    """Return one row per suite and length; sums have no length and are measured once."""
    return [
        measure(greedy, suite, length, count, seed)
        for suite in suites
        for length in (lengths_tokens if suite != "arithmetic" else [16])
        if suite != "conversation" or length >= SHORTEST_CONVERSATION_TOKENS
    ]


def table(rows: list[Row]) -> str:
    """Return ``rows`` as a Markdown table."""
    lines = ["| task | prompt tokens | examples | right |", "|---|---:|---:|---:|"]
    lines += [
        f"| {row['task']} | {row['length_tokens']} | {row['examples']} | {row['accuracy']:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure a folder and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(DEFAULT_LENGTHS_TOKENS))
    parser.add_argument("--tasks", nargs="+", choices=sorted(SUITES), default=list(SUITES))
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    greedy = Greedy(options.folder)
    rows = measure_all(greedy, options.lengths, options.tasks, options.examples, options.seed)
    print(json.dumps(rows, indent=2) if options.json else table(rows))


if __name__ == "__main__":
    main()
