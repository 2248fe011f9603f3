"""An engine without weights: the time of `plan.step_time`, words that mean nothing, real blocks.

The answer of a request depends on the worker's seed, the request's seed, the position and the
prompt alone; it never ends by itself. A block's contents are a 32-byte digest of its whole prefix,
repeated, so that a block handed over or read back can be checked against computing it again. To a
decode worker go its digest and its tokens, and the time of the whole block is modelled.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from blake3 import blake3
from tokenizers import Tokenizer
from typing_extensions import Buffer

from starloom.plan import Batch, step_time
from starloom.serve.engines.batch import Slice, Step
from starloom.serve.engines.executor import Choice
from starloom.site import Chip, ModelShape

_TAG_BYTES = 32
_WORDS = (re.compile(r" [a-z]{2,}"), re.compile(r" ?[A-Za-z]{2,}"), re.compile(r"[ A-Za-z]"))


class EmulatedExecutor:
    """Sleeps as long as the real step would take, times `time_scale`."""

    def __init__(
        self,
        *,
        chip: Chip,
        shape: ModelShape,
        words: Sequence[int],
        num_blocks: int,
        block_tokens: int,
        seed: int,
        time_scale: float,
        sleep: Callable[[float], object],
        handover_gb_per_s: float = 64.0,
    ) -> None:
        self.num_blocks = num_blocks
        self.layers = 1
        self.part_bytes = _TAG_BYTES + 4 * block_tokens
        self._handover_bytes_per_s = 1e9 * handover_gb_per_s
        self.block_bytes = block_tokens * shape.kv_bytes_per_token
        self.vocab = shape.vocab
        self._chip = chip
        self._shape = shape
        self._words = words
        self._block_tokens = block_tokens
        self._seed = seed
        self._time_scale = time_scale
        self._sleep = sleep
        self._tags = np.zeros((num_blocks, _TAG_BYTES), dtype=np.uint8)
        self._tokens = np.zeros((num_blocks, block_tokens), dtype=">u4")

    def run(self, step: Step, layer_done: Callable[[int], None] | None = None) -> list[Choice]:
        """Sleep through the step, write its blocks, and draw words."""
        if self._time_scale:
            seconds = step_time(self._chip, self._shape, batch_of(step)).total_s
            self._sleep(seconds * self._time_scale)
        for piece in step.slices:
            self._write(piece)
        if layer_done is not None:
            layer_done(0)
        return [self._choose(piece) for piece in step.sampled]

    def export_block(self, index: int) -> bytes:
        repeats = -(-self.block_bytes // _TAG_BYTES)
        return (bytes(self._tags[index]) * repeats)[: self.block_bytes]

    def import_block(self, index: int, data: Buffer) -> None:
        view = memoryview(data)
        if view.nbytes != self.block_bytes:
            raise ValueError(f"a block has {self.block_bytes} bytes, not {view.nbytes}")
        tag = np.zeros(_TAG_BYTES, dtype=np.uint8)
        tag[: min(_TAG_BYTES, view.nbytes)] = np.frombuffer(view[:_TAG_BYTES], dtype=np.uint8)
        self._tags[index] = tag

    def read_parts(self, layer: int, blocks: Sequence[int], target: memoryview) -> None:  # noqa: ARG002
        rows = np.frombuffer(target, dtype=np.uint8).reshape(len(blocks), self.part_bytes)
        rows[:, :_TAG_BYTES] = self._tags[blocks]
        rows[:, _TAG_BYTES:] = self._tokens[blocks].view(np.uint8)

    def write_parts(self, layer: int, blocks: Sequence[int], data: memoryview) -> None:  # noqa: ARG002
        rows = np.frombuffer(data, dtype=np.uint8).reshape(len(blocks), self.part_bytes)
        self._tags[blocks] = rows[:, :_TAG_BYTES]
        self._tokens[blocks] = rows[:, _TAG_BYTES:].copy().view(">u4")

    def transfer_s(self, blocks: int) -> float:
        return self._time_scale * blocks * self.block_bytes / self._handover_bytes_per_s

    def close(self) -> None:
        """Nothing to give back."""

    def _write(self, piece: Slice) -> None:
        """Put the tokens into their blocks, and tag each block that becomes full.

        tag[i] = blake3(tag[i-1] || tokens of block i), tag[-1] empty.
        """
        at, size = 0, self._block_tokens
        while at < len(piece.tokens):
            index, offset = divmod(piece.start + at, size)
            count = min(size - offset, len(piece.tokens) - at)
            block = piece.blocks[index]
            self._tokens[block, offset : offset + count] = piece.tokens[at : at + count]
            at += count
            if offset + count == size:
                parent = self._tags[piece.blocks[index - 1]].tobytes() if index else b""
                tag = blake3(parent + self._tokens[block].tobytes()).digest()
                self._tags[block] = np.frombuffer(tag, dtype=np.uint8)

    def _choose(self, piece: Slice) -> Choice:
        """One word, all being equally likely: its logprob is -ln(words)."""
        sequence = piece.sequence
        name = f"{self._seed}/{sequence.sampling.seed}/{sequence.generated}/"
        drawn = blake3(name.encode() + sequence.prompt_digest).digest(8)
        first = int.from_bytes(drawn, "big") % len(self._words)
        token = self._words[first]
        logprobs = sequence.sampling.logprobs
        if logprobs is None:
            return Choice(token)
        value = -float(np.log(len(self._words)))
        others = [self._words[(first + i) % len(self._words)] for i in range(logprobs)]
        return Choice(token, value, [(other, value) for other in dict.fromkeys(others)])


def batch_of(step: Step) -> Batch:
    """A step in the words of `plan`: one token over a context is decode, the rest is prefill."""
    decode = [piece.start for piece in step.slices if len(piece.tokens) == 1 and piece.start]
    prefill = [
        (len(piece.tokens), piece.start)
        for piece in step.slices
        if len(piece.tokens) > 1 or not piece.start
    ]
    return Batch(prefill=prefill, decode=decode)


def ordinary_words(tokenizer: Tokenizer) -> list[int]:
    """Ids whose text is an ordinary word; letters where a vocabulary has no words."""
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ids = [i for i in sorted(tokenizer.get_vocab().values()) if i not in special]
    texts = dict(zip(ids, tokenizer.decode_batch([[i] for i in ids]), strict=True))
    for pattern in _WORDS:
        words = [i for i, text in texts.items() if pattern.fullmatch(text)]
        if len(words) >= 16:
            return words
    return [i for i, text in texts.items() if text.isprintable() and text.strip()] or ids[:1]
