"""The forward pass of the Llama family: tokens of one step in, logits of the sampled ones out."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import embedding, linear, rms_norm, silu

from starloom.serve.engines.batch import Step
from starloom.serve.engines.embedded.attention import CausalMasks, PagedKv, StepAttention
from starloom.serve.engines.embedded.config import Spec
from starloom.serve.engines.embedded.weights import Layer, Weights


class Forward:
    """One model over one paged cache. Tokens of all sequences go through the matrices together."""

    def __init__(self, spec: Spec, weights: Weights, kv: PagedKv) -> None:
        self._spec = spec
        self._weights = weights
        self._kv = kv
        self._masks = CausalMasks(kv.device)
        self._frequencies = spec.rope_frequencies.to(kv.device)

    def __call__(self, step: Step, layer_done: Callable[[int], None] | None = None) -> Any:
        """Logits [sampled, vocab] in float32; the KV of all tokens of the step is written.

        `layer_done` is told of each layer whose KV is.
        """
        with torch.inference_mode():
            return self._logits(step, layer_done or _nobody)

    def _logits(self, step: Step, layer_done: Callable[[int], None]) -> Any:
        device = self._kv.device
        tokens = torch.tensor([t for piece in step.slices for t in piece.tokens], device=device)
        positions = torch.cat([torch.arange(piece.start, piece.end) for piece in step.slices])
        turns = self._turns(positions.to(device))
        attention = StepAttention(self._kv, step, self._masks)
        hidden = embedding(tokens, self._weights.embedding)
        *layers, last = self._weights.layers
        for index, layer in enumerate(layers):
            x = self._norm(hidden, layer.input_norm)
            queries, keys, values = self._project(layer, x, turns)
            out = attention(index, queries, keys, values).flatten(1)
            layer_done(index)
            hidden = hidden + linear(out, layer.output, layer.output_bias)
            hidden = hidden + self._mlp(layer, self._norm(hidden, layer.mlp_norm))
        hidden = self._last(last, hidden, turns, attention)
        layer_done(len(layers))
        return linear(self._norm(hidden, self._weights.norm), self._weights.head)

    def _last(self, layer: Layer, hidden: Any, turns: tuple[Any, Any], attention: Any) -> Any:
        """The last layer: all tokens' keys and values, but only the sampled rows of the rest."""
        index = len(self._weights.layers) - 1
        rows = attention.sampled_rows
        queries, keys, values = self._project(layer, self._norm(hidden, layer.input_norm), turns)
        out = attention.sampled(index, queries[rows], keys, values).flatten(1)
        hidden = hidden[rows] + linear(out, layer.output, layer.output_bias)
        return hidden + self._mlp(layer, self._norm(hidden, layer.mlp_norm))

    def _norm(self, x: Any, weight: Any) -> Any:
        return rms_norm(x, (x.shape[-1],), weight, self._spec.norm_eps)

    def _turns(self, positions: Any) -> tuple[Any, Any]:
        """Cosines and sines [tokens, 1, head_dim / 2] of the angles position * frequency."""
        angles = (positions.float()[:, None] * self._frequencies)[:, None]
        return angles.cos() * self._spec.rope_scale, angles.sin() * self._spec.rope_scale

    def _project(self, layer: Layer, x: Any, turns: tuple[Any, Any]) -> tuple[Any, Any, Any]:
        """Queries, keys (both turned) and values: each [tokens, heads, head_dim]."""
        spec = self._spec
        joined = linear(x, layer.qkv, layer.qkv_bias).view(len(x), -1, spec.head_dim)
        queries, keys, values = joined.split([spec.heads, spec.kv_heads, spec.kv_heads], dim=1)
        if spec.qk_norm:
            queries = self._norm(queries, layer.q_norm)
            keys = self._norm(keys, layer.k_norm)
        return _turn(queries, turns), _turn(keys, turns), values

    def _mlp(self, layer: Layer, x: Any) -> Any:
        gate, up = linear(x, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
        return linear(silu(gate) * up, layer.down, layer.down_bias)


def _nobody(layer: int) -> None:
    """No KV leaves while it is computed."""


def _turn(x: Any, turns: tuple[Any, Any]) -> Any:
    """Rotary embedding of [tokens, heads, head_dim], halves as in Hugging Face's Llama."""
    cos, sin = turns
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
