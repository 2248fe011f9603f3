"""One model's tokenizer.

A text is cut where no merge can reach across: at special tokens, and in long stretches at starts
of words or lines (`cuts`). Pieces are remembered, so a prompt that extends an earlier one costs
its new pieces only. The result equals that of the tokenizer on the whole text.

What is not covered: a tokenizer with special tokens that match single words only, or after
normalisation, encodes raw prompts whole, without memory.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken, Tokenizer

from starloom.serve.errors import BadRequest
from starloom.serve.models import BadModelFolder
from starloom.serve.tokenise.cuts import chunks, cuts_hold, pre_steps
from starloom.serve.tokenise.marks import Marker
from starloom.serve.tokenise.memory import SegmentMemory
from starloom.serve.tokenise.template import ChatTemplate, load_template

_BATCH_CHARS = 4096
_WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


class Tokeniser:
    """Tokens of prompts and chats. Threads may share it."""

    def __init__(
        self, spec: str, template: ChatTemplate | None, *, memory_bytes: int = 64 << 20
    ) -> None:
        self.template = template
        self.memory = SegmentMemory(memory_bytes)
        self._whole = Tokenizer.from_str(spec)
        self._whole.no_truncation()
        self._whole.no_padding()
        self.vocab = self._whole.get_vocab_size(with_added_tokens=True)
        self._first = _plain(spec)
        self._later = _plain(_never_prepend(spec))
        added = self._whole.get_added_tokens_decoder()
        self._raw = {
            token.content: (at, token)
            for at, token in added.items()
            if token.special or not token.normalized
        }
        self._pattern = _pattern(self._raw)
        specials = {text: at for text, (at, token) in self._raw.items() if token.special}
        self._special_ids = frozenset(specials.values()) - {_unknown_id(spec)}
        self._marker = Marker(specials)
        self._exact = not any(t.single_word or (t.special and t.normalized) for t in added.values())
        self._cuts = cuts_hold(spec, self._first, added.values())
        self._before, self._after = _surroundings(self._whole)

    @classmethod
    def load(cls, folder: Path, *, memory_bytes: int = 64 << 20) -> Self:
        """Read `tokenizer.json` and the chat template. Raises `BadModelFolder`."""
        file = folder / "tokenizer.json"
        try:
            spec = file.read_text(encoding="utf-8")
        except OSError as error:
            raise BadModelFolder(f"{file} cannot be read: {error.strerror}") from error
        return cls(spec, load_template(folder), memory_bytes=memory_bytes)

    def prompt(self, text: str, *, special: bool = True) -> list[int]:
        """Tokens of a raw prompt, as the whole tokenizer gives them: special tokens count.

        `special` false leaves out what the tokenizer adds around it.
        """
        if not self._exact:
            return list(self._whole.encode(text, add_special_tokens=special).ids)
        tokens = self._encode(text, {})
        return [*self._before, *tokens, *self._after] if special else tokens

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Tokens of a rendered chat. Whatever the messages say, only the template makes turns."""
        if self.template is None:
            what = "this model has no chat template; use /v1/completions"
            raise BadRequest(what, param="messages")
        everywhere = "replace" in self.template.source  # an edit can join parts of a special token
        marked, back = self._marker.mark(messages, everywhere=everywhere)
        return self._encode(self.template.render(marked), back)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return self._whole.decode(list(tokens), skip_special_tokens=False)

    def names(self, tokens: Sequence[int]) -> list[str]:
        """Each token as the vocabulary spells it."""
        return [self._whole.id_to_token(token) or "" for token in tokens]

    def _encode(self, text: str, back: Mapping[int, str]) -> list[int]:
        plan: list[int | array[int] | None] = []
        missing: dict[int, tuple[str, bool]] = {}
        for part in self._parts(text):
            if isinstance(part, int):
                plan.append(part)
                continue
            stretch = part.translate(back) if back else part
            for piece in chunks(stretch) if self._cuts else (stretch,):
                key = (piece, not plan)
                ids = self.memory.get(key)
                if ids is None:
                    missing[len(plan)] = key
                plan.append(ids)
        for at, ids in zip(missing, self._fresh(list(missing.values())), strict=True):
            plan[at] = ids
            self.memory.put(missing[at], ids)
        tokens: list[int] = []
        for step in plan:
            if isinstance(step, int):
                tokens.append(step)
            elif step is not None:
                tokens.extend(step)
        return tokens

    def _parts(self, text: str) -> Iterator[int | str]:
        """Ids of special tokens, and the texts between them."""
        at = 0
        for match in self._pattern.finditer(text):
            number, token = self._raw[match.group()]
            if not token.special or match.start() < at:
                continue  # a part of the text around it, or taken along as white space
            before = text[at : match.start()]
            if token.lstrip:
                before = before.rstrip(_WHITE)
            if before:
                yield before
            yield number
            at = match.end()
            if token.rstrip:
                at += len(text) - at - len(text[at:].lstrip(_WHITE))
        if at < len(text):
            yield text[at:]

    def _fresh(self, pieces: list[tuple[str, bool]]) -> list[array[int]]:
        if not pieces:
            return []
        if pieces[0][1]:  # only the first piece of a text can be the first
            head, rest = pieces[:1], pieces[1:]
            return [*self._ids(self._first, head), *self._ids(self._later, rest)]
        return self._ids(self._later, pieces)

    def _ids(self, tokenizer: Tokenizer, pieces: list[tuple[str, bool]]) -> list[array[int]]:
        texts = [text for text, _ in pieces]
        if sum(map(len, texts)) > _BATCH_CHARS:  # the batch call alone lets other threads run
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        else:
            encoded = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return [
            self._unforged(tokenizer, text, array("I", encoding.ids))
            for text, encoding in zip(texts, encoded, strict=True)
        ]

    def _unforged(self, tokenizer: Tokenizer, text: str, ids: array[int]) -> array[int]:
        """`ids`, unless the vocabulary itself spelt a special token: then in parts."""
        if self._special_ids.isdisjoint(ids):
            return ids
        safe = array("I")
        for part in self._marker.broken(text):
            own = tokenizer.encode(part, add_special_tokens=False).ids
            safe.extend(token for token in own if token not in self._special_ids)
        return safe


def _plain(spec: str) -> Tokenizer:
    """A tokenizer to which special tokens are ordinary text."""
    tokenizer = Tokenizer.from_str(spec)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _never_prepend(spec: str) -> str:
    """The same tokenizer for text that is not the first: `Metaspace` may prefix only that."""
    if '"first"' not in spec:
        return spec
    data = json.loads(spec)
    for step in pre_steps(data.get("pre_tokenizer")):
        if step.get("prepend_scheme") == "first":
            step["prepend_scheme"] = "never"
    return json.dumps(data)


def _unknown_id(spec: str) -> int | None:
    model = json.loads(spec)["model"]
    unknown = model.get("unk_token")
    found: int | None = model.get("unk_id") if unknown is None else model["vocab"].get(unknown)
    return found


def _pattern(raw: Mapping[str, tuple[int, AddedToken]]) -> re.Pattern[str]:
    longest_first = sorted(raw, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _surroundings(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a prompt (a beginning-of-text token, mostly)."""
    bare = list(tokenizer.encode("a", add_special_tokens=False).ids)
    full = list(tokenizer.encode("a").ids)
    for at in range(len(full) - len(bare) + 1):
        if full[at : at + len(bare)] == bare:
            return full[:at], full[at + len(bare) :]
    return [], []
