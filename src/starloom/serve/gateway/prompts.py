"""Prompts of one model: tokens, and the keys that say which KV blocks they can reuse."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

import msgspec

from starloom.kv.keys import block_keys, root_key
from starloom.serve.errors import BadRequest
from starloom.serve.gateway.api import Message
from starloom.serve.gateway.keymemory import KeyMemory
from starloom.serve.tokenise import Tokeniser
from starloom.site import Model

_T = TypeVar("_T")
_ROOTS = 4096
LONG_CHARS = 8192
"""Longer prompts are tokenised in a thread, so that the loop goes on."""


class Prompt(msgspec.Struct, frozen=True):
    tokens: list[int]
    """Empty for a model without tokenizer."""
    root: bytes
    keys: list[bytes]
    size_tokens: int
    """The prompt's length, estimated where there is no tokenizer."""


class Wall(NamedTuple):
    """Blocks are shared within it and never across."""

    tenant: str
    salt: str = ""


class Prompts:
    """Makes the prompts of one model."""

    def __init__(
        self, model: Model, tokeniser: Tokeniser | None, fingerprint: str, threads: Executor
    ) -> None:
        self.model = model
        self.tokeniser = tokeniser
        self.fingerprint = fingerprint
        self._threads = threads
        self._roots: dict[Wall, bytes] = {}
        self._memory = KeyMemory()

    async def chat(self, messages: Sequence[Message], wall: Wall) -> Prompt:
        size = sum(_size(message) for message in messages)
        return await self.run(size, lambda: self._chat(messages, wall))

    async def text(self, prompt: str | list[int], wall: Wall) -> Prompt:
        return await self.run(len(prompt), lambda: self._text(prompt, wall))

    def decode(self, tokens: Sequence[int], param: str = "prompt") -> str:
        """The text of token ids. Raises `BadRequest` where there is no tokenizer."""
        if self.tokeniser is None:
            what = "token ids cannot be checked for this model; send text"
            raise BadRequest(what, param=param)
        self._known(tokens, param)
        return self.tokeniser.decode(tokens)

    async def run(self, size: int, make: Callable[[], _T]) -> _T:
        """What `make` gives; in a thread where `size` characters take long."""
        if size <= LONG_CHARS:
            return make()
        return await asyncio.get_running_loop().run_in_executor(self._threads, make)

    def _chat(self, messages: Sequence[Message], wall: Wall) -> Prompt:
        if self.tokeniser is None:
            return self._estimated(msgspec.json.encode(messages), wall)
        return self._keyed(self.tokeniser.chat([_plain(m) for m in messages]), wall)

    def _text(self, prompt: str | list[int], wall: Wall) -> Prompt:
        if self.tokeniser is None:
            data = prompt.encode() if isinstance(prompt, str) else msgspec.json.encode(prompt)
            return self._estimated(data, wall)
        if isinstance(prompt, str):
            prompt = self.tokeniser.prompt(prompt)
        else:
            self._known(prompt)
        if not prompt:
            raise BadRequest("prompt: is empty", param="prompt")
        return self._keyed(prompt, wall)

    def _known(self, tokens: Sequence[int], param: str = "prompt") -> None:
        vocab = self.tokeniser.vocab if self.tokeniser is not None else 0
        if tokens and not (min(tokens) >= 0 and max(tokens) < vocab):
            raise BadRequest(f"{param}: token ids are 0 to {vocab - 1}", param=param)

    def _keyed(self, tokens: list[int], wall: Wall) -> Prompt:
        root = self.root(wall)
        return Prompt(tokens, root, block_keys(root, tokens, self.model.block_tokens), len(tokens))

    def _estimated(self, data: bytes, wall: Wall) -> Prompt:
        """Four bytes count as a token, so that equal beginnings still have equal keys."""
        root = self.root(wall)
        keys = self._memory.data_keys(root, data, 4 * self.model.block_tokens)
        return Prompt([], root, keys, -(-len(data) // 4))

    def root(self, wall: Wall) -> bytes:
        """What the keys of all prompts within `wall` start from."""
        root = self._roots.get(wall)
        if root is None:
            root = root_key(
                fingerprint=self.fingerprint,
                block_tokens=self.model.block_tokens,
                salt=f"{wall.tenant}\n{wall.salt}",  # a tenant's name holds no newline
            )
            if len(self._roots) >= _ROOTS:
                self._roots.clear()
            self._roots[wall] = root
        return root


def _plain(message: Message) -> dict[str, Any]:
    """The message as a template expects it."""
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": content_text(message)}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_calls:
        plain["tool_calls"] = message.tool_calls
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def content_text(message: Message) -> str:
    """The text of a message, parts joined by newlines."""
    content = message.content
    if isinstance(content, list):
        return "\n".join(part.text or "" for part in content)
    return content or ""


def _size(message: Message) -> int:
    content = message.content
    if isinstance(content, list):
        return sum(len(part.text or "") for part in content)
    return len(content or "")
