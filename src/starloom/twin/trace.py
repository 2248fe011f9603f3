"""Request traces: Mooncake's form, and seeded chats of the same form.

A line is `{"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}`;
equal leading ids are an equal prefix, of `HASH_TOKENS` tokens an id, the last one maybe partial.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import msgspec

HASH_TOKENS = 512


class TraceError(Exception):
    """A trace cannot be read; the message names the file, the line and what is wrong."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace."""

    at_s: float
    prompt_tokens: int
    answer_tokens: int
    keys: list[bytes]
    """One for each full block of the prompt; equal keys are an equal prefix."""


class _Line(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


def load(path: Path, block_tokens: int = 64) -> list[Request]:
    """Read a file in Mooncake's form, in order of time. `block_tokens` divides 512."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    parsed = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError as error:
            raise TraceError(f"{path}:{number}: {error}") from error
        if one.input_length < 1 or one.output_length < 0:
            raise TraceError(f"{path}:{number}: a prompt has at least one token, an answer 0")
        if len(one.hash_ids) * HASH_TOKENS < one.input_length // block_tokens * block_tokens:
            raise TraceError(
                f"{path}:{number}: {len(one.hash_ids)} hash_ids of {HASH_TOKENS} tokens do not"
                f" cover {one.input_length}"
            )
        parsed.append(one)
    if not parsed:
        raise TraceError(f"{path}: holds no request")
    return _requests(sorted(parsed, key=lambda one: one.timestamp), block_tokens)


def chats(seed: int, requests: int, per_s: float, block_tokens: int = 64) -> list[Request]:
    """People who chat in turns, with one of a few long system prompts; Poisson arrivals.

    Lengths are drawn log-normally about those of Mooncake's conversation trace; a next turn holds
    the last turn's whole prompt, as that trace does, and comes about half a minute later.
    """
    draw = random.Random(seed)
    fresh = iter(range(1 << 40))
    systems = [[next(fresh) for _ in range(draw.randrange(1, 9))] for _ in range(4)]
    lines: list[_Line] = []
    at_s = 0.0
    turns = 3
    while len(lines) < requests:
        at_s += draw.expovariate(per_s / turns)
        ids, when = list(draw.choice(systems)), at_s
        for _ in range(max(1, min(int(draw.expovariate(1 / turns)) + 1, 12))):
            new = int(draw.lognormvariate(7.6, 1.1)) + 32
            full = len(ids) * HASH_TOKENS + min(new, 60_000)
            ids = ids + [next(fresh) for _ in range(-(-full // HASH_TOKENS) - len(ids))]
            answer = 1 + min(int(draw.lognormvariate(5.5, 0.8)), 2000)
            lines.append(_Line(1000 * when, full, answer, ids))
            ids = ids[: full // HASH_TOKENS]
            when += draw.expovariate(1 / 30.0) + answer * 0.03
    lines.sort(key=lambda line: line.timestamp)
    return _requests(lines[:requests], block_tokens)


def spread(trace: Sequence[Request], seed: int) -> list[Request]:
    """The trace with requests of one instant spread at random up to the next instant.

    Recorded clocks tick slowly (Mooncake's conversation trace: each 3 s, some ten requests a tick),
    and what comes at the same instant cannot be told of in between.
    """
    draw = random.Random(seed)
    instants = sorted({request.at_s for request in trace})
    until_s = dict(pairwise(instants))
    return sorted(
        (replace(it, at_s=draw.uniform(it.at_s, until_s.get(it.at_s, it.at_s))) for it in trace),
        key=lambda it: it.at_s,
    )


def _requests(lines: list[_Line], block_tokens: int) -> list[Request]:
    parts, odd = divmod(HASH_TOKENS, block_tokens)
    if odd:
        raise TraceError(f"blocks of {block_tokens} tokens do not divide {HASH_TOKENS}")
    made: dict[int, list[bytes]] = {}

    def keys(ids: list[int]) -> Iterator[bytes]:
        for number in ids:
            known = made.get(number)
            if known is None:
                known = made[number] = [
                    (number * parts + part).to_bytes(8) for part in range(parts)
                ]
            yield from known

    first = lines[0].timestamp
    return [
        Request(
            at_s=(line.timestamp - first) / 1000,
            prompt_tokens=line.input_length,
            answer_tokens=max(line.output_length, 1),
            keys=list(keys(line.hash_ids))[: line.input_length // block_tokens],
        )
        for line in lines
    ]
