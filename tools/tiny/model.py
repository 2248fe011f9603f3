"""The architectures of the tiny models, and how they attend while they train."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AttentionInterface,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

MAX_POSITIONS = 32768
ROPE_THETA = 1e8  # most rotary dimensions barely turn within 32768 tokens: they match contents
FLASH_FROM_TOKENS = 2048


def make_config(name: str, vocabulary: int, end: int, pad: int) -> PretrainedConfig:
    """Return the architecture of ``name``."""
    shared = {
        "vocab_size": vocabulary,
        "head_dim": 64,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "initializer_range": 0.04,
    }
    if name == "loom-s":
        return LlamaConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            **shared,
        )
    return Qwen3Config(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        **shared,
    )


def make_model(config: PretrainedConfig) -> PreTrainedModel:
    """Return a fresh float32 model of ``config`` that attends with ``causal_attention``."""
    AttentionInterface.register("tiny_causal", causal_attention)
    kind = LlamaForCausalLM if config.model_type == "llama" else Qwen3ForCausalLM
    model = kind(config)
    model.set_attn_implementation("tiny_causal")
    return model


def causal_attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Attend causally: (batch, heads, length, dim) to (batch, length, heads, dim).

    Short sequences take plain matrix products, whose backward pass is far faster on a
    CPU than the fused kernel's; long ones take the fused kernel, whose memory stays linear.
    """
    batch, heads, length, dim = query.shape
    kv_heads = key.shape[1]
    if length >= FLASH_FROM_TOKENS:
        out = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=heads != kv_heads
        )
        return out.transpose(1, 2), None
    grouped = query.reshape(batch * kv_heads, heads // kv_heads * length, dim) * scaling
    scores = grouped @ key.reshape(batch * kv_heads, length, dim).transpose(1, 2)
    mask = torch.full((length, length), -math.inf, dtype=scores.dtype).triu(1)
    scores = scores.view(batch, heads, length, length)
    weights = (scores + mask).softmax(-1).view(batch * kv_heads, -1, length)
    out = weights @ value.reshape(batch * kv_heads, length, dim)
    return out.view(batch, heads, length, dim).transpose(1, 2), None


def hidden_states(model: PreTrainedModel, ids: Tensor, positions: Tensor) -> Tensor:
    """Return the last hidden states (batch, length, width) of two (batch, length) tensors."""
    body = model.model
    hidden = body.embed_tokens(ids)
    rotary = body.rotary_emb(hidden, positions)
    for layer in body.layers:
        hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)
    return body.norm(hidden)
