"""The executor with weights: one model of a folder on one device."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import Buffer

from starloom.serve.engines.batch import Step
from starloom.serve.engines.embedded.attention import PagedKv
from starloom.serve.engines.embedded.config import load_spec
from starloom.serve.engines.embedded.forward import Forward
from starloom.serve.engines.embedded.weights import load_weights
from starloom.serve.engines.executor import Choice
from starloom.serve.engines.sampling import choose

_log = logging.getLogger(__name__)


class EmbeddedExecutor:
    """Loads a Hugging Face folder and runs steps on it in float32."""

    def __init__(
        self,
        folder: Path,
        *,
        kv_cache_bytes: int,
        block_tokens: int,
        context_tokens: int,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        """Raises `BadModelFolder`. `device` is `cpu`, `cuda`, or `auto` for what is there."""
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        spec = load_spec(folder, context_tokens)
        weights = load_weights(folder, spec, device)
        per_block = 2 * spec.layers * spec.kv_heads * spec.head_dim * 4 * block_tokens
        self.num_blocks = kv_cache_bytes // per_block
        if not self.num_blocks:
            raise ValueError(f"a KV block takes {per_block} bytes, the cache has {kv_cache_bytes}")
        self._kv = PagedKv(
            spec.layers, self.num_blocks, block_tokens, spec.kv_heads, spec.head_dim, device
        )
        self.block_bytes = self._kv.block_bytes
        self.layers = spec.layers
        self.part_bytes = self.block_bytes // spec.layers
        self.vocab = spec.vocab
        self.eos = spec.eos
        self._forward = Forward(spec, weights, self._kv)
        _log.info("%s on %s, %d KV blocks", folder.name, device, self.num_blocks)

    def logits(self, step: Step, layer_done: Callable[[int], None] | None = None) -> Any:
        """Compute a step; logits [sampled, vocab] on this model's device."""
        return self._forward(step, layer_done)

    def run(self, step: Step, layer_done: Callable[[int], None] | None = None) -> list[Choice]:
        rows = self.logits(step, layer_done).cpu().numpy()
        return [
            choose(row, piece.sequence.sampling, piece.sequence.generated, self.eos)
            for row, piece in zip(rows, step.sampled, strict=True)
        ]

    def export_block(self, index: int) -> bytes:
        """float32 [layers, 2, block_tokens, kv_heads, head_dim], in the machine's byte order."""
        data: bytes = self._kv.pages[:, :, index].contiguous().cpu().numpy().tobytes()
        return data

    def import_block(self, index: int, data: Buffer) -> None:
        view = memoryview(data)
        if view.nbytes != self.block_bytes:
            raise ValueError(f"a block has {self.block_bytes} bytes, not {view.nbytes}")
        numbers = np.frombuffer(view, dtype=np.float32)
        page = self._kv.pages[:, :, index]
        page.copy_(torch.from_numpy(numbers.copy()).view(page.shape))

    def read_parts(self, layer: int, blocks: Sequence[int], target: memoryview) -> None:
        """float32 [2, blocks, block_tokens, kv_heads, head_dim]."""
        self._kv.read(layer, blocks, torch.frombuffer(target, dtype=torch.float32))

    def write_parts(self, layer: int, blocks: Sequence[int], data: memoryview) -> None:
        # Through numpy, which takes bytes that are for reading only.
        numbers = np.frombuffer(data, dtype=np.float32)
        self._kv.fill(layer, blocks, numbers)

    def transfer_s(self, blocks: int) -> float:  # noqa: ARG002
        return 0.0

    def close(self) -> None:
        """Memory goes with the object."""
