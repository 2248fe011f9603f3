"""Training sequences: conversations with known answers as token ids, marks and positions."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from tools.tiny.curriculum import Stage
from tools.tiny.model import MAX_POSITIONS
from tools.tiny.tokenizer import END
from torch import Tensor

from starloom.serve.tiny import tasks

SHORTEST_CHAT_TOKENS, CHAT_SHARE = 128, 0.3
FAR_STRETCH_SHARE = 0.6  # of stretched sequences; the others' gaps are spread over magnitudes
BARE_SHARE = 0.1  # of sequences, where sums are in the mix: sums with nothing before them
PROMPT = -1
KINDS = ("set", *tasks.TASKS)
_PIECE_TEXT = {" ": "Ġ", "\n": "Ċ"}


class Writer:
    """Turns conversations into token ids, target ids and the kind of question of each target."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self._ids = vocabulary

    def _encode(self, text: str) -> list[int]:
        pieces = tasks.split_tokens(text)
        return [self._ids[_PIECE_TEXT.get(piece, piece)] for piece in pieces]

    def _message(self, role: str, text: str) -> tuple[list[int], list[int]]:
        """Return the ids of one message up to its end token, and a mark for each."""
        ids, marks = [self._ids[f"<|{role}|>"]], [PROMPT]
        for number, line in enumerate(text.split("\n")):
            piece = self._encode(line if number == 0 else "\n" + line)
            ids += piece
            marks += [PROMPT] * len(piece)
        return [*ids, self._ids[END]], [*marks, PROMPT]

    def conversation(self, chat: tasks.Conversation) -> tuple[list[int], list[int]]:
        """Return the ids of ``chat`` and their marks: a kind's number, or ``PROMPT``."""
        ids, marks = self._message("system", chat.system) if chat.system is not None else ([], [])
        for turn in chat.turns:
            asked, asked_marks = self._message("user", turn.user)
            answer = [*self._encode(turn.answer), self._ids[END]]
            ids += [*asked, self._ids["<|assistant|>"], *answer]
            marks += [*asked_marks, PROMPT] + [KINDS.index(turn.kind)] * len(answer)
        return ids, marks


def study(stage: Stage, rng: random.Random, length: int) -> tasks.Conversation:
    """Return one document and questions about it, ``length`` tokens in all."""
    room = length * stage.crowd
    most_facts = max(3, min(128, int(room / 12)))
    facts = round(math.exp(rng.uniform(math.log(2), math.log(most_facts))))
    lists = rng.randint(1, max(1, min(4, int(room / 150)))) if "copying" in stage.kinds else 0
    chains = rng.randint(1, max(1, min(12, int(room / 50)))) if "multi_hop" in stage.kinds else 0
    if lists and chains and length < 100:
        lists, chains = rng.choice(((1, 0), (0, 1)))
    present = {"copying": bool(lists), "multi_hop": bool(chains)}
    return tasks.study_session(
        rng.getrandbits(48),
        length,
        facts=min(facts, 3) if length < 100 else facts,
        lists=lists,
        list_words=rng.randint(2, max(3, min(32, length // 20))),
        chains=chains,
        document_share=rng.uniform(*stage.document_share),
        kinds=tuple(kind for kind in stage.kinds if present.get(kind, True)),
    )


def chat(stage: Stage, rng: random.Random, length: int) -> tasks.Conversation:
    """Return a chat that tells facts over many turns, longer or shorter than ``length`` tokens."""
    return tasks.conversation(
        rng.getrandbits(48),
        min(60, length // 12),
        facts_per_turn=rng.randint(1, 4),
        set_every_turns=rng.randint(2, 5),
        filler_tokens_per_turn=rng.choice((0, 16, length // 16, length // 8)),
        kinds=stage.kinds,
        list_words=rng.randint(2, 6),
        system_facts=rng.choice((0, 3)),
    )


def sums(rng: random.Random, length: int) -> tasks.Conversation:
    """Return sums with nothing before them."""
    seed = rng.getrandbits(48)
    return tasks.study_session(seed, length, facts=0, document_share=0.0, kinds=("arithmetic",))


def draw(
    writer: Writer, stage: Stage, rng: random.Random, length: int
) -> tuple[list[int], list[int]]:
    """Return one training sequence of at most ``length`` tokens and its marks."""
    if "arithmetic" in stage.kinds and rng.random() < BARE_SHARE:
        made = sums(rng, min(length, 128))
    elif length >= SHORTEST_CHAT_TOKENS and rng.random() < CHAT_SHARE:
        made = chat(stage, rng, length)
    else:
        made = study(stage, rng, length)
    ids, marks = writer.conversation(made)
    return ids[:length], marks[:length]


@dataclass(frozen=True)
class Batch:
    """One step's input.

    ``ids``, ``marks`` and ``positions`` are (batch, length).
    """

    ids: Tensor
    marks: Tensor
    positions: Tensor


def make_batch(writer: Writer, stage: Stage, rng: random.Random, pad: int) -> Batch:
    """Return the batch of one step."""
    length = rng.choice(stage.lengths_tokens)
    rows = max(1, stage.batch_tokens // length)
    drawn = [draw(writer, stage, rng, length) for _ in range(rows)]
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in drawn])
    marks = torch.tensor([row + [PROMPT] * (length - len(row)) for _, row in drawn])
    positions = torch.arange(length).repeat(rows, 1)
    for row in range(rows):
        if rng.random() < stage.stretch:
            positions[row] += stretched(rng, length)
    return Batch(ids, marks, positions)


def stretched(rng: random.Random, length: int) -> Tensor:
    """Return offsets (length,) that open one to three gaps, up to the whole window in all."""
    jumps = torch.zeros(length, dtype=torch.long)
    spare = MAX_POSITIONS - length
    is_far = rng.random() < FAR_STRETCH_SHARE
    for _ in range(rng.randint(1, 3)):
        if spare > 1:
            jump = rng.randrange(spare) if is_far else int(spare ** rng.random())
            jumps[rng.randrange(1, length)] += jump
            spare -= jump
    return jumps.cumsum(0)
