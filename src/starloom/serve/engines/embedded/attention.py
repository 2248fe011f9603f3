"""Attention over paged keys and values, in calls of torch's `scaled_dot_product_attention`.

A prompt's first chunk attends causally to itself without touching the pages. A later chunk attends
to its prefix in tiles of rows, each with a slice of one mask that is built once. Sequences with one
new token attend together, padded to the longest; long ones alone, in place where their blocks are
neighbours.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from starloom.serve.engines.batch import Slice, Step

TILE_ROWS = 256
"""Rows of a prefill chunk in one call: keys beyond a tile's last row are not read, and the mask
stays in the cache. Of 256, 512, 1024 and 2048, 256 was fastest on CPU."""

ALONE_TOKENS = 1024
"""From this context on, copying a sequence's pages to pad them costs more than a call of its own.
Of 16 sequences, calls together took 0.6 of the time at 512 tokens, 1.2 at 1024, 4 at 4096."""


class PagedKv:
    """All blocks: float32 [layers, 2 (K, V), blocks, block_tokens, kv_heads, head_dim]."""

    def __init__(
        self, layers: int, blocks: int, block_tokens: int, kv_heads: int, head_dim: int, device: str
    ) -> None:
        # Zeros, since padding is read under a mask: what it holds must at least be finite.
        self.pages = torch.zeros(
            layers, 2, blocks, block_tokens, kv_heads, head_dim, dtype=torch.float32, device=device
        )
        self._flat = self.pages.view(layers, 2, blocks * block_tokens, kv_heads, head_dim)
        self.block_tokens = block_tokens
        self.kv_heads = kv_heads
        self.device = device

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, all layers."""
        return int(self.pages[:, :, 0].numel() * self.pages.element_size())

    def write(self, layer: int, slots: Any, keys: Any, values: Any) -> None:
        """Put `keys` and `values` [tokens, kv_heads, head_dim] at `slots` [tokens]."""
        self._flat[layer, 0].index_copy_(0, slots, keys)
        self._flat[layer, 1].index_copy_(0, slots, values)

    def read(self, layer: int, blocks: Sequence[int], target: Any) -> None:
        """Copy one layer of some blocks to `target`, float32 in host memory.

        Its shape is [2, blocks, block_tokens, kv_heads, head_dim], flat or not.
        """
        pages = self.pages[layer]
        target = target.view(2, len(blocks), *pages.shape[2:])
        if (run := _run(blocks)) is not None:
            target.copy_(pages[:, run])
        else:
            target.copy_(pages.index_select(1, torch.tensor(blocks, device=self.device)))

    def fill(self, layer: int, blocks: Sequence[int], numbers: Any) -> None:
        """The other way round, out of a NumPy array that may be for reading only."""
        pages = self.pages[layer]
        rows = numbers.reshape(2, len(blocks), *pages.shape[2:])
        if self.device == "cpu":
            pages.numpy()[:, _run(blocks) or list(blocks)] = rows
        else:
            table = torch.tensor(blocks, device=self.device)
            pages.index_copy_(1, table, torch.from_numpy(rows.copy()).to(self.device))

    def slots(self, step: Step) -> Any:
        """Where each token of a step is written: block * block_tokens + offset."""
        found = []
        for piece in step.slices:
            positions = torch.arange(piece.start, piece.end)
            table = torch.tensor(piece.blocks)
            found.append(
                table[positions // self.block_tokens] * self.block_tokens
                + positions % self.block_tokens
            )
        return torch.cat(found).to(self.device)

    def prefix(self, layer: int, blocks: Sequence[int], tokens: int) -> tuple[Any, Any]:
        """Keys and values of a sequence's first tokens, each [1, kv_heads, tokens, head_dim].

        Blocks that are neighbours are read in place, others are gathered.
        """
        count = -(-tokens // self.block_tokens)
        if (run := _run(blocks[:count])) is not None:
            start = run.start * self.block_tokens
            both = self._flat[layer, :, start : start + tokens]
        else:
            table = torch.tensor(blocks[:count], device=self.device)
            both = self.pages[layer].index_select(1, table).flatten(1, 2)[:, :tokens]
        keys, values = both.transpose(1, 2)
        return keys[None], values[None]

    def gather(self, layer: int, tables: Any) -> tuple[Any, Any]:
        """Keys and values of `tables` [batch, n], each [batch, kv_heads, tokens, head_dim]."""
        batch, count = tables.shape
        pages = self.pages[layer].index_select(1, tables.flatten())
        both = pages.view(2, batch, count * self.block_tokens, *pages.shape[3:])
        keys, values = both.transpose(2, 3)
        return keys, values


class StepAttention:
    """The attention of one step: what does not depend on the layer is worked out once."""

    def __init__(self, kv: PagedKv, step: Step, masks: "CausalMasks") -> None:
        self._kv = kv
        self._masks = masks
        self._slots = kv.slots(step)
        self._many: list[tuple[Slice, int]] = []
        ones: list[tuple[Slice, int]] = []
        sampled: list[tuple[Slice, int]] = []
        row = 0
        for piece in step.slices:
            if len(piece.tokens) > 1:
                self._many.append((piece, row))
            else:
                ones.append((piece, row))
            row += len(piece.tokens)
            if piece.sample:
                sampled.append((piece, row - 1))
        self._ones = _LastRows(kv, ones) if ones else None
        same = sampled == ones
        self._sampled = self._ones if same else _LastRows(kv, sampled) if sampled else None
        self.sampled_rows = torch.tensor([at for _, at in sampled], device=kv.device).long()

    def __call__(self, layer: int, queries: Any, keys: Any, values: Any) -> Any:
        """Write `keys` and `values` [tokens, kv_heads, head_dim], then attend.

        `queries` and the result are [tokens, heads, head_dim].
        """
        self._kv.write(layer, self._slots, keys, values)
        result = torch.empty_like(queries)
        for piece, row in self._many:
            rows = slice(row, row + len(piece.tokens))
            if piece.start:
                result[rows] = self._chunk(layer, piece, queries[rows])
            else:
                result[rows] = _attend(queries[rows], _batched(keys[rows]), _batched(values[rows]))
        if self._ones is not None:
            result[self._ones.rows] = self._ones.attend(layer, queries[self._ones.rows])
        return result

    def sampled(self, layer: int, queries: Any, keys: Any, values: Any) -> Any:
        """As a call, for `queries` of `sampled_rows` alone: the last layer needs no others."""
        self._kv.write(layer, self._slots, keys, values)
        return queries if self._sampled is None else self._sampled.attend(layer, queries)

    def _chunk(self, layer: int, piece: Slice, queries: Any) -> Any:
        """Rows of a chunk that follows a prefix: [tokens, heads, head_dim]."""
        keys, values = self._kv.prefix(layer, piece.blocks, piece.end)
        parts = []
        for first in range(0, len(piece.tokens), TILE_ROWS):
            rows = queries[first : first + TILE_ROWS]
            seen = piece.start + first + len(rows)
            mask = self._masks.tile(len(rows), seen)
            parts.append(_attend(rows, keys[:, :, :seen], values[:, :, :seen], mask))
        return torch.cat(parts)


class _LastRows:
    """The last rows of some slices. Short contexts attend together: padded tables under a mask."""

    def __init__(self, kv: PagedKv, pieces: Sequence[tuple[Slice, int]]) -> None:
        self._kv = kv
        self.rows = torch.tensor([row for _, row in pieces], device=kv.device)
        self._alone = [(at, p) for at, (p, _) in enumerate(pieces) if p.end >= ALONE_TOKENS]
        together = [(at, p) for at, (p, _) in enumerate(pieces) if p.end < ALONE_TOKENS]
        self._together = torch.tensor([at for at, _ in together], device=kv.device).long()
        if not together:
            return
        counts = [-(-piece.end // kv.block_tokens) for _, piece in together]
        width = max(counts)
        tables = [
            [*piece.blocks[:count], *[0] * (width - count)]
            for (_, piece), count in zip(together, counts, strict=True)
        ]
        self._tables = torch.tensor(tables, device=kv.device)
        lengths = torch.tensor([piece.end for _, piece in together], device=kv.device)
        positions = torch.arange(width * kv.block_tokens, device=kv.device)
        self._mask = (positions[None] < lengths[:, None])[:, None, None]

    def attend(self, layer: int, queries: Any) -> Any:
        """One row a sequence: [batch, heads, head_dim]. Heads that share a KV head are its rows."""
        batch, heads, head_dim = queries.shape
        grouped = queries.reshape(batch, self._kv.kv_heads, -1, head_dim)
        out = torch.empty_like(grouped)
        if len(self._together):
            keys, values = self._kv.gather(layer, self._tables)
            rows = grouped[self._together]
            out[self._together] = functional.scaled_dot_product_attention(
                rows, keys, values, attn_mask=self._mask
            )
        for at, piece in self._alone:
            keys, values = self._kv.prefix(layer, piece.blocks, piece.end)
            row = grouped[at : at + 1]
            out[at : at + 1] = functional.scaled_dot_product_attention(row, keys, values)
        return out.view(batch, heads, head_dim)


class CausalMasks:
    """Masks of tiles: one strip [TILE_ROWS, n] of zeros that ends in a triangle, cut to measure."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._strip = self._build(4096)

    def tile(self, rows: int, seen: int) -> Any:
        """The mask of the last `rows` of `seen` tokens: [rows, seen], -inf where a key is later."""
        if seen + TILE_ROWS > self._strip.shape[1]:
            self._strip = self._build(2 * (seen + TILE_ROWS))
        end = self._strip.shape[1] - TILE_ROWS + rows
        return self._strip[:rows, end - seen : end]

    def _build(self, columns: int) -> Any:
        strip = torch.zeros(TILE_ROWS, columns, dtype=torch.float32, device=self._device)
        later = torch.ones(TILE_ROWS, TILE_ROWS, dtype=torch.bool, device=self._device).triu(1)
        strip[:, -TILE_ROWS:].masked_fill_(later, float("-inf"))
        return strip


def _run(blocks: Sequence[int]) -> slice | None:
    """The stretch that blocks make up, if they are neighbours in order."""
    first, count = blocks[0], len(blocks)
    return slice(first, first + count) if list(blocks) == [*range(first, first + count)] else None


def _batched(rows: Any) -> Any:
    """[tokens, heads, head_dim] as [1, heads, tokens, head_dim]."""
    return rows.transpose(0, 1)[None]


def _attend(queries: Any, keys: Any, values: Any, mask: Any = None) -> Any:
    """`queries` [rows, heads, head_dim] over one sequence's keys; causal where no mask is given."""
    grouped = queries.shape[1] != keys.shape[1]
    if grouped and queries.is_cuda:
        # Only CPU kernels read grouped heads in float32 without falling back to the slow path.
        repeats = queries.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(repeats, dim=1) for x in (keys, values))
        grouped = False
    out = functional.scaled_dot_product_attention(
        _batched(queries), keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )
    return out[0].transpose(0, 1)
