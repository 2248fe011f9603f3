"""Rows of a layer's paged KV as bytes. The one module of this room that needs torch.

A layer is a tensor with a dimension that counts vLLM's blocks: the first one in `[B, H, N, C]`
(vLLM 0.33), the second one in the older `[2, B, N, H, C]`. A block's bytes are its elements in the
order of the other dimensions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def block_bytes(layer: Any, blocks: int) -> int:
    """Bytes of one block of one layer. Raises ValueError where no dimension counts the blocks."""
    return int(layer.numel() // layer.shape[_axis(layer, blocks)] * layer.element_size())


def read_blocks(layer: Any, blocks: int, block_ids: Sequence[int], target: memoryview) -> None:
    """Copy blocks of a layer to host memory, one behind the other. Returns when they are there."""
    axis = _axis(layer, blocks)
    index = torch.tensor(block_ids, dtype=torch.int64, device=layer.device)
    rows = layer.index_select(axis, index).movedim(axis, 0).contiguous()
    flat = rows.reshape(-1).view(torch.uint8)
    torch.from_numpy(np.frombuffer(target, np.uint8)).copy_(flat)


def write_blocks(layer: Any, blocks: int, block_ids: Sequence[int], source: memoryview) -> None:
    """Copy host memory to blocks of a layer. Returns when the memory may be used again."""
    axis = _axis(layer, blocks)
    index = torch.tensor(block_ids, dtype=torch.int64, device=layer.device)
    shape = list(layer.shape)
    rows = [len(block_ids), *shape[:axis], *shape[axis + 1 :]]
    data = np.frombuffer(source, np.uint8)
    flat = torch.empty(len(data), dtype=torch.uint8)
    flat.numpy()[:] = data
    moved = flat.view(layer.dtype).reshape(rows).movedim(0, axis).to(layer.device)
    layer.index_copy_(axis, index, moved)


def _axis(layer: Any, blocks: int) -> int:
    for axis in (0, 1):
        if layer.shape[axis] == blocks:
            return axis
    raise ValueError(f"no dimension of {tuple(layer.shape)} counts {blocks} blocks")


def new_bytes(size: int) -> Any:
    """A tensor of `size` bytes."""
    return torch.empty(size, dtype=torch.uint8)
