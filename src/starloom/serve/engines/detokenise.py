"""Token ids into text, one at a time: whole characters, stop strings held back, bytes of tokens."""

import json
import re
from collections.abc import Sequence

import msgspec
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from starloom.serve.base import TokenLogprob
from starloom.serve.engines.executor import Choice
from starloom.serve.text import Phrases

_PRIMING = 8
"""Prompt tokens that a stream begins with: some decoders drop the space before a first word."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Piece(msgspec.Struct, frozen=True):
    """Text that may be let out, and the stop string that ended it, if one did."""

    text: str
    stop: str | None = None


class TextStream:
    """The text of one answer."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        tail = list(prompt[-_PRIMING:])
        if tokenizer.decode(tail).endswith(_REPLACEMENT):
            tail = []  # half a character: the stream would repeat the prompt's end
        self._stream = DecodeStream(tail, skip_special_tokens=True)
        self._stop = [phrase for phrase in stop if phrase]
        self._phrases = Phrases(self._stop)
        self._held = ""

    def push(self, token: int, *, may_stop: bool = True) -> Piece:
        """Text that one more token decides. Nothing may be pushed after a stop string was found."""
        new = self._stream.step(self._tokenizer, token) or ""
        if not self._phrases:
            return Piece(new)
        text = self._held + new
        found = self._first_stop(text) if may_stop else None
        if found is not None:
            self._held = ""
            return Piece(text[: found[0]], found[1])
        keep = self._phrases.begun(text)
        self._held = text[len(text) - keep :]
        return Piece(text[: len(text) - keep])

    def flush(self) -> str:
        """What was held back, once nothing follows. Half a character is dropped."""
        text, self._held = self._held, ""
        return text

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        """Where the stop string that is complete first begins, and which it is.

        That is the one which ends first, and of those the longest: the same however the text was
        cut into tokens.
        """
        found = [(at + len(s), at, s) for s in self._stop if (at := text.find(s)) >= 0]
        if not found:
            return None
        _, at, phrase = min(found)
        return at, phrase


class TokenTexts:
    """What single tokens look like, for logprobs."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._byte_of = _byte_alphabet() if _is_byte_level(tokenizer) else {}
        self._known: dict[int, tuple[str, bytes]] = {}

    def of(self, token: int) -> tuple[str, bytes]:
        """Text and bytes of a token; a part of a character reads as the replacement character."""
        known = self._known.get(token)
        if known is None:
            data = self._bytes(token)
            known = self._known[token] = (data.decode("utf-8", "replace"), data)
        return known

    def logprob(self, choice: Choice) -> TokenLogprob:
        text, data = self.of(choice.token)
        top = [(*self.of(token), value) for token, value in choice.top]
        return TokenLogprob(text, data, choice.logprob, top)

    def _bytes(self, token: int) -> bytes:
        written = self._tokenizer.id_to_token(token)
        if written is None:
            return b""
        if token in self._tokenizer.get_added_tokens_decoder():
            return written.encode()
        if self._byte_of:
            return b"".join(self._byte_of.get(c, c.encode()) for c in written)
        if match := _BYTE_TOKEN.fullmatch(written):
            return bytes([int(match[1], 16)])
        return written.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    decoder = json.loads(tokenizer.to_str()).get("decoder") or {}
    parts = decoder.get("decoders", [decoder])
    return any(part.get("type") == "ByteLevel" for part in parts)


def _byte_alphabet() -> dict[str, bytes]:
    """The characters that GPT-2's byte-level BPE writes bytes with (openai/gpt-2, encoder.py).

    Printable Latin-1 stands for itself; the other bytes follow from U+0100 in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    alphabet |= {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(others)}
    return alphabet
