"""Seeded synthetic tasks with checkable answers, in chat form.

Everything here is pure Python and a function of its seed, so a test or a bench can make any number
of prompts with known right answers. The word list is shared with the tokenizer of the two tiny
models: every word in ``WORDS`` is exactly one token there, and so are ``=``, ``?``, ``??``, ``+``,
a blank, a newline and each digit, which is why lengths can be counted here without the tokenizer.

How a prompt looks:

* a fact is a line ``key=value``; ``key?`` asks for the value (recall);
* a list is a line ``key=w1 w2 w3``; ``key?`` asks for all its words (copying);
* a chain is two or more facts ``a=b`` and ``b=c``; ``a??`` asks for the value two steps on;
* ``37+58=`` asks for the sum;
* a message that asks nothing is answered ``ok``.

Filler lines of random words stand between the facts. No key and no list word occurs in filler.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

CONSONANTS = "bdfghjklmnprstvz"
VOWELS = "aeiou"
SYLLABLES: tuple[str, ...] = tuple(c + v for c in CONSONANTS for v in VOWELS)
WORD_COUNT = 1000
ACKNOWLEDGEMENT = "ok"
FILLER_WORDS_PER_LINE = 8
TASKS: tuple[str, ...] = ("recall", "copying", "multi_hop", "arithmetic")

_STRIDE = 2371  # coprime to 80 * 80, so that stepping by it visits every pair of syllables once
_LEFT_OUT = frozenset({"dodo", "homo", "kaka", "nazi", "pedo", "puta"})
_PIECE = re.compile(r"[a-z]{4}|ok|\?\?|.", re.DOTALL)
_TURN_OVERHEAD_TOKENS = 3  # role, end of the message, and the assistant's opening
_SYSTEM_OVERHEAD_TOKENS = 2  # role and end of the system message

Message = dict[str, str]


def _make_words() -> tuple[str, ...]:
    """Return the pseudo-words, sorted: pairs of syllables spread evenly over all pairs."""
    pairs = len(SYLLABLES) ** 2
    spread = (divmod(step * _STRIDE % pairs, len(SYLLABLES)) for step in range(pairs))
    words = (SYLLABLES[first] + SYLLABLES[second] for first, second in spread)
    kept = [word for word in words if word not in _LEFT_OUT]
    return tuple(sorted(kept[:WORD_COUNT]))


WORDS: tuple[str, ...] = _make_words()


@dataclass(frozen=True)
class Example:
    """One prompt and its only right answer.

    ``messages`` ends with a user message; ``answer`` is what the assistant must say, exactly.
    """

    task: str
    messages: list[Message]
    answer: str


@dataclass(frozen=True)
class Turn:
    """One user message of a conversation and its right answer; ``kind`` is a task or ``"set"``."""

    kind: str
    user: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """A multi-turn chat: an optional system message and turns with known answers."""

    system: str | None
    turns: list[Turn]

    def messages(self, turn: int) -> list[Message]:
        """Return the prompt of turn ``turn`` (from 0), earlier turns answered rightly."""
        history: list[Message] = []
        if self.system is not None:
            history.append({"role": "system", "content": self.system})
        for earlier in self.turns[:turn]:
            history.append({"role": "user", "content": earlier.user})
            history.append({"role": "assistant", "content": earlier.answer})
        return [*history, {"role": "user", "content": self.turns[turn].user}]

    def examples(self) -> list[Example]:
        """Return every turn as an example of its own."""
        return [Example(t.kind, self.messages(i), t.answer) for i, t in enumerate(self.turns)]


def split_tokens(text: str) -> list[str]:
    """Return ``text``, as written by this module, cut where the tiny tokenizer cuts it."""
    return _PIECE.findall(text)


def count_tokens(text: str) -> int:
    """Return how many tokens the tiny tokenizer makes of ``text`` written by this module."""
    return len(split_tokens(text))


def prompt_tokens(messages: list[Message]) -> int:
    """Return the length in tokens of ``messages`` rendered with the assistant's opening."""
    overhead = 1 + sum(2 for _ in messages)
    return overhead + sum(count_tokens(message["content"]) for message in messages)


class _World:
    """Facts, lists and chains over disjoint words, the text stating them, and the questions."""

    def __init__(self, rng: random.Random, *, reserved_words: int = 400) -> None:
        shuffled = rng.sample(WORDS, len(WORDS))
        self._rng = rng
        self._fresh = shuffled[:reserved_words]
        self._common = shuffled[reserved_words:]
        self.recalls: list[Turn] = []
        self.copies: list[Turn] = []
        self.hops: list[Turn] = []

    def _key(self) -> str:
        """Return a word that nothing else in this world uses as a key or in filler."""
        if not self._fresh:
            raise ValueError("too many facts: the words for keys have run out")
        return self._fresh.pop()

    def add_fact(self) -> str:
        """Set a new fact; return its line."""
        key, value = self._key(), self._rng.choice(self._common)
        self.recalls.append(Turn("recall", f"{key}?", value))
        return f"{key}={value}"

    def add_list(self, words: int) -> str:
        """Set a new list of ``words`` words that occur nowhere else; return its line."""
        key = self._key()
        value = " ".join(self._key() for _ in range(words))
        self.copies.append(Turn("copying", f"{key}?", value))
        return f"{key}={value}"

    def add_chain(self, hops: int = 2) -> list[str]:
        """Set a chain of ``hops`` facts; return its lines, in order."""
        steps = [*(self._key() for _ in range(hops)), self._rng.choice(self._common)]
        links = list(itertools.pairwise(steps))
        self.recalls.extend(Turn("recall", f"{key}?", value) for key, value in links)
        self.hops.append(Turn("multi_hop", steps[0] + "?" * hops, steps[-1]))
        return [f"{key}={value}" for key, value in links]

    def filler(self, tokens: int) -> list[str]:
        """Return filler lines that take at most ``tokens`` tokens with their newlines."""
        words = self._rng.choices(self._common, k=max(0, tokens // 2))
        starts = range(0, len(words), FILLER_WORDS_PER_LINE)
        return [" ".join(words[start : start + FILLER_WORDS_PER_LINE]) for start in starts]

    def mix(self, lines: list[str], filler_tokens: int) -> list[str]:
        """Return ``lines`` spread at random places among ``filler_tokens`` tokens of filler."""
        filler = self.filler(filler_tokens)
        slots = [True] * len(lines) + [False] * len(filler)
        self._rng.shuffle(slots)
        told, idle = iter(lines), iter(filler)
        return [next(told) if slot else next(idle) for slot in slots]


def _lay_out(
    task: str, world: _World, lines: list[str], turn: Turn, length_tokens: int, place: str
) -> Example:
    """Fill up with filler to ``length_tokens`` tokens and ask ``turn``'s question at the end."""
    if place not in ("user", "system"):
        raise ValueError(f"place must be 'user' or 'system', not {place!r}")
    overhead = _TURN_OVERHEAD_TOKENS + (_SYSTEM_OVERHEAD_TOKENS if place == "system" else 0)
    stated = sum(count_tokens(line) + 1 for line in lines)
    spare = length_tokens - overhead - stated - count_tokens(turn.user)
    if spare < 0:
        raise ValueError(f"{length_tokens} tokens are too few: this {task} needs {-spare} more")
    document = "\n".join(world.mix(lines, spare))
    if place == "system":
        messages = [
            {"role": "system", "content": document},
            {"role": "user", "content": turn.user},
        ]
    else:
        messages = [{"role": "user", "content": f"{document}\n{turn.user}"}]
    return Example(task, messages, turn.answer)


def _pick(rng: random.Random, turns: list[Turn], question: int | None) -> Turn:
    """Return the question with that number, or a random one."""
    return rng.choice(turns) if question is None else turns[question]


def recall(
    seed: int,
    length_tokens: int = 256,
    *,
    facts: int = 8,
    place: str = "user",
    question: int | None = None,
) -> Example:
    """Return a prompt of about ``length_tokens`` tokens asking for one of ``facts`` facts.

    The prompt is at most ``length_tokens`` long and at most two shorter. With ``place="system"``
    the document is the system message and the question alone is the user's. ``question`` says
    which fact to ask for (below ``facts``), so that many questions can share one document.
    """
    rng = random.Random(seed)
    world = _World(rng)
    lines = [world.add_fact() for _ in range(facts)]
    turn = _pick(rng, world.recalls, question)
    return _lay_out("recall", world, lines, turn, length_tokens, place)


def copying(
    seed: int,
    length_tokens: int = 256,
    *,
    words: int = 16,
    lists: int = 2,
    place: str = "user",
    question: int | None = None,
) -> Example:
    """Return a prompt of about ``length_tokens`` tokens asking for a list of ``words`` words."""
    rng = random.Random(seed)
    world = _World(rng)
    lines = [world.add_list(words) for _ in range(lists)]
    turn = _pick(rng, world.copies, question)
    return _lay_out("copying", world, lines, turn, length_tokens, place)


def multi_hop(
    seed: int,
    length_tokens: int = 256,
    *,
    chains: int = 4,
    hops: int = 2,
    facts: int = 0,
    place: str = "user",
    question: int | None = None,
) -> Example:
    """Return a prompt asking where one of ``chains`` chains of ``hops`` facts ends.

    ``facts`` single facts are added as distractors. The lines stand in random order. The models
    were trained on two hops.
    """
    rng = random.Random(seed)
    world = _World(rng)
    lines = [line for _ in range(chains) for line in world.add_chain(hops)]
    lines += [world.add_fact() for _ in range(facts)]
    rng.shuffle(lines)
    turn = _pick(rng, world.hops, question)
    return _lay_out("multi_hop", world, lines, turn, length_tokens, place)


def is_held_out(first: int, second: int) -> bool:
    """Say whether the sum ``first + second`` is kept out of training (about one in ten)."""
    return (first * 89 + second * 55) // 7 % 10 == 3


def _sum_turn(rng: random.Random, split: str) -> Turn:
    """Return the question and answer for a sum of two two-digit numbers of ``split``."""
    if split not in ("train", "test", "all"):
        raise ValueError(f"split must be 'train', 'test' or 'all', not {split!r}")
    while True:
        first, second = rng.randint(10, 99), rng.randint(10, 99)
        if split == "all" or is_held_out(first, second) == (split == "test"):
            return Turn("arithmetic", f"{first}+{second}=", str(first + second))


def arithmetic(seed: int, *, split: str = "test") -> Example:
    """Return one sum of two two-digit numbers; ``split="test"`` gives sums never trained on."""
    turn = _sum_turn(random.Random(seed), split)
    return Example("arithmetic", [{"role": "user", "content": turn.user}], turn.answer)


def _questions(rng: random.Random, world: _World, kinds: tuple[str, ...]) -> Iterator[Turn]:
    """Yield questions about what ``world`` has said so far, repeating none before it must."""
    known = {"recall": world.recalls, "copying": world.copies, "multi_hop": world.hops}
    asked: dict[str, set[str]] = {kind: set() for kind in known}
    while True:
        kind = rng.choice([k for k in kinds if k == "arithmetic" or known[k]])
        if kind == "arithmetic":
            yield _sum_turn(rng, "train")
            continue
        pool = [turn for turn in known[kind] if turn.user not in asked[kind]]
        if not pool:
            asked[kind].clear()
            pool = known[kind]
        turn = rng.choice(pool)
        asked[kind].add(turn.user)
        yield turn


def conversation(
    seed: int,
    turns: int = 8,
    *,
    facts_per_turn: int = 2,
    set_every_turns: int = 3,
    filler_tokens_per_turn: int = 0,
    kinds: tuple[str, ...] = ("recall",),
    list_words: int = 6,
    system_facts: int = 0,
) -> Conversation:
    """Return a chat of ``turns`` turns: facts told now and then, asked for in later turns.

    Turn 0 and every ``set_every_turns``-th turn tell ``facts_per_turn`` new facts (and one list or
    chain if ``kinds`` asks for them) within filler and are answered ``ok``; every other turn asks
    about anything told so far. With ``system_facts`` a system message tells facts before turn 0.
    """
    rng = random.Random(seed)
    world = _World(rng)
    system = "\n".join(world.add_fact() for _ in range(system_facts)) if system_facts else None
    questions = _questions(rng, world, kinds)
    made: list[Turn] = []
    for index in range(turns):
        if index % set_every_turns:
            made.append(next(questions))
            continue
        lines = [world.add_fact() for _ in range(facts_per_turn)]
        if "copying" in kinds:
            lines.append(world.add_list(list_words))
        if "multi_hop" in kinds:
            lines.extend(world.add_chain())
        rng.shuffle(lines)
        user = "\n".join(world.mix(lines, filler_tokens_per_turn))
        made.append(Turn("set", user, ACKNOWLEDGEMENT))
    return Conversation(system, made)


def study_session(
    seed: int,
    length_tokens: int,
    *,
    facts: int = 4,
    lists: int = 0,
    list_words: int = 6,
    chains: int = 0,
    document_share: float = 0.6,
    kinds: tuple[str, ...] = ("recall",),
) -> Conversation:
    """Return a densely supervised chat of at most ``length_tokens`` tokens, as used in training.

    One document holds every fact, list and two-step chain; it stands in the system message or
    opens the first user message, filled up to ``document_share`` of the length; then questions
    follow until the length is used up. With no facts, lists, chains nor ``document_share`` there is
    no document.
    """
    rng = random.Random(seed)
    world = _World(rng, reserved_words=600)
    lines = [world.add_fact() for _ in range(facts)]
    lines += [world.add_list(list_words) for _ in range(lists)]
    lines += [line for _ in range(chains) for line in world.add_chain()]
    rng.shuffle(lines)
    stated = sum(count_tokens(line) + 1 for line in lines)
    spare = int(length_tokens * document_share) - stated
    document = "\n".join(world.mix(lines, max(0, spare)))
    place = rng.choice(("system", "user", "set")) if document else "nowhere"
    left = length_tokens - count_tokens(document) - _SYSTEM_OVERHEAD_TOKENS
    made: list[Turn] = []
    if place == "set":
        made.append(Turn("set", document, ACKNOWLEDGEMENT))
        left -= _TURN_OVERHEAD_TOKENS
    for turn in _questions(rng, world, kinds):
        left -= count_tokens(turn.user) + count_tokens(turn.answer) + _TURN_OVERHEAD_TOKENS + 1
        if left < 0:
            break
        opens = place == "user" and not made
        user = f"{document}\n{turn.user}" if opens else turn.user
        made.append(Turn(turn.kind, user, turn.answer))
    return Conversation(document if place == "system" else None, made)
