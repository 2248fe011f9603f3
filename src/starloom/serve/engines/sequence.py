"""One request inside a worker: its tokens, its blocks, and how far its KV is computed."""

from collections.abc import Sequence as List
from functools import cached_property

import numpy as np
from blake3 import blake3

from starloom.kv.keys import block_keys
from starloom.serve.base import EngineRequest, Sampling


class Sequence:
    """State of one request. Only the scheduler writes to it."""

    def __init__(self, request: EngineRequest, arrival: int, block_tokens: int) -> None:
        self.id = request.id
        self.sampling: Sampling = request.sampling
        self.order = (request.priority, arrival)
        """Lower runs first, and is preempted last."""
        self.tokens = list(request.tokens)
        """Prompt, then what was generated."""
        self.prompt_tokens = len(request.tokens)
        self.block_tokens = block_tokens
        self.keys = list(request.keys)
        """Keys of leading full blocks: the prompt's, then generated tokens' as they fill."""
        self._root = request.root
        self._keyed = bool(request.keys) or (
            bool(request.root) and len(request.tokens) < block_tokens
        )
        self.blocks: list[int] = []
        self.computed = 0
        """Leading tokens whose KV is in `blocks`."""
        self.named = 0
        """Leading blocks whose contents were offered under their key."""
        self.cached_tokens = 0
        self.pool_tokens = 0
        self.started = False
        """Whether it ran before: a preempted sequence counts its cached tokens once."""
        self.leaves = request.handover is not None and not request.handover.source
        """Whether its prompt alone is computed here; its blocks are kept for who fetches them."""
        self.waits_for: bytes | None = None
        """The key of a block that a running sequence is computing, and this one will reuse."""

    @property
    def generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def uncomputed(self) -> int:
        """Tokens whose KV is still to be computed; 1 while it decodes."""
        return len(self.tokens) - self.computed

    @property
    def reusable_keys(self) -> List[bytes]:
        """Keys of the blocks that may be reused: all but the one with the last token.

        The last token is always computed, since its logits are what the next one is drawn from.
        """
        return self.keys[: (len(self.tokens) - 1) // self.block_tokens]

    def key_of(self, block: int) -> bytes | None:
        """The key of full block number `block`; None when reuse is off."""
        if not self._keyed:
            return None
        while len(self.keys) <= block:
            start = len(self.keys) * self.block_tokens
            parent = self.keys[-1] if self.keys else self._root
            tokens = self.tokens[start : start + self.block_tokens]
            self.keys += block_keys(parent, tokens, self.block_tokens)
        return self.keys[block]

    @cached_property
    def prompt_digest(self) -> bytes:
        """32 bytes that depend on the prompt's tokens alone."""
        prompt = np.asarray(self.tokens[: self.prompt_tokens], dtype=">u4")
        return blake3(prompt.tobytes()).digest()
