"""Initial weights close to the circuits that recall over long contexts needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tools.tiny.model import ROPE_THETA
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

LOOK_BACK = ((2, "owner"), (3, "asked"), (1, "asked"))
CONTENT_GAIN = 1.9
POINTER_GAIN = 1.0
QUIET = 0.1  # of random feed-forward outputs, which would drown what the heads write
SHALLOWEST_FOR_TWO_HOPS = 5  # layers: one looks back, two find the first word, two the second
GATE_GAIN, GATE_SHUT, FORWARD = 2.0, 1.0, 0.06


@dataclass(frozen=True)
class Parts:
    """Orthonormal parts of the residual stream, as rows: what each of them is used for.

    ``shared`` (width,) is common to all embeddings; ``token`` (dim, width) tells the token itself;
    ``owner`` and ``asked`` (part, width) tell the word that a value belongs to and the word that is
    asked for, each written as a token squeezed by ``squeeze`` (part, dim).
    """

    shared: Tensor
    token: Tensor
    owner: Tensor
    asked: Tensor
    squeeze: Tensor

    @classmethod
    def draw(cls, width: int, dim: int) -> Parts:
        part = min(dim, (width - dim) // 2 - 1)
        basis = torch.linalg.qr(torch.randn(width, width)).Q
        owner, asked = basis[1 + dim : 1 + dim + part], basis[1 + dim + part : 1 + dim + 2 * part]
        squeeze = torch.linalg.qr(torch.randn(dim, dim)).Q[:part] * math.sqrt(dim / part)
        return cls(basis[0], basis[1 : 1 + dim], owner, asked, squeeze)


def start_near_copying(model: PreTrainedModel, opening: int, two_hops: int) -> None:
    """Initialize ``model`` close to the circuits that recall needs.

    Heads of layer 0 read only the shared direction, attend a fixed number of tokens back
    (``LOOK_BACK``) and copy that token into ``owner`` or ``asked``; later heads compare those two,
    in rotary dimensions too slow to feel distance, and copy the token they find. A deep model's
    middle layer then starts ``forward_the_answer``, for questions of two hops. Training has to sort
    and sharpen heads that exist rather than find them. Other feed-forward weights start at random,
    and quiet. ``opening`` is the id of the token that opens an answer, where the word asked for
    stands three tokens back; ``two_hops`` is the id of ``??``.
    """
    config = model.config
    width, dim, groups = config.hidden_size, config.head_dim, config.num_key_value_heads
    per_group = config.num_attention_heads // groups
    parts = Parts.draw(width, dim)
    shared, token = parts.shared, parts.token
    embedding = model.model.embed_tokens.weight
    embedding.copy_(torch.randn(embedding.shape[0], dim) @ token / math.sqrt(dim) + 0.7 * shared)
    opens = functional.normalize(embedding[opening] - 0.7 * shared, dim=0)
    readers = {1: shared - opens, 2: shared, 3: opens}
    outputs = {
        "owner": parts.owner.T @ parts.squeeze,
        "asked": parts.asked.T @ parts.squeeze,
        "token": token.T,
    }
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        slow = torch.linalg.qr(torch.randn(dim, dim)).Q[:, : len(parts.owner)]
        slow = slow * _slow_dimensions(dim)[:, None]
        for group in range(groups):
            mine = slice(group * dim, (group + 1) * dim)
            attention.v_proj.weight[mine] = token / width**0.25
            here = _pointer(dim, 0)[:, None] * shared
            attention.k_proj.weight[mine] = CONTENT_GAIN * slow @ parts.owner if number else here
        for head in range(config.num_attention_heads):
            rows = slice(head * dim, (head + 1) * dim)
            back, output = LOOK_BACK[head % len(LOOK_BACK)]
            if number:
                attention.q_proj.weight[rows] = CONTENT_GAIN * slow @ parts.asked
                output = "token"
            else:
                attention.q_proj.weight[rows] = _pointer(dim, back)[:, None] * readers[back]
            attention.o_proj.weight[:, rows] = outputs[output] / width**0.25 / per_group**0.5
        layer.mlp.down_proj.weight.mul_(QUIET)
        if config.model_type == "qwen3":
            attention.q_norm.weight.fill_(2.0)
    depth = config.num_hidden_layers
    if depth >= SHALLOWEST_FOR_TWO_HOPS:
        sign = functional.normalize(
            parts.owner.T @ parts.squeeze @ token @ embedding[two_hops], dim=0
        )
        forward_the_answer(model.model.layers[depth // 2].mlp, parts, sign)


def forward_the_answer(mlp: torch.nn.Module, parts: Parts, sign: Tensor) -> None:
    """Let a gated feed-forward layer turn the answer found so far into the next question.

    Where ``sign`` (width,) stands in the stream, which says that the question has two hops, the
    word asked for is taken away, and the word found becomes the word asked for and is no answer
    any more. Elsewhere the gates are shut.
    """
    dim, part = len(parts.token), len(parts.asked)
    found, old = slice(0, dim), slice(dim, dim + part)
    gate = GATE_GAIN * sign - GATE_SHUT * parts.shared
    mlp.gate_proj.weight[: dim + part] = gate
    mlp.up_proj.weight[found], mlp.up_proj.weight[old] = parts.token, parts.asked
    mlp.down_proj.weight[:, found] = FORWARD * (parts.asked.T @ parts.squeeze - parts.token.T)
    mlp.down_proj.weight[:, old] = -FORWARD * parts.asked.T


def _slow_dimensions(dim: int) -> Tensor:
    """Return 1 for the rotary dimensions that barely turn over the window, else 0; (dim,)."""
    pair = torch.arange(dim) % (dim // 2)
    return (ROPE_THETA ** (-2 * pair / dim) < 1e-3).float()


def _pointer(dim: int, back_tokens: int) -> Tensor:
    """Return the vector (dim,) whose rotary product with ``_pointer(dim, 0)`` peaks there."""
    pair = torch.arange(dim // 2)
    angle = -back_tokens * ROPE_THETA ** (-2 * pair / dim)
    # The first four pairs alone line up again 3,000 to 7,000 tokens away; slower ones forbid it.
    strength = POINTER_GAIN * ((pair < 4).float() + 0.5 * ((pair >= 4) & (pair < 12)).float())
    return torch.cat((strength * angle.cos(), strength * angle.sin()))
