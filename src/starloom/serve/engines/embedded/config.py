"""What of a Hugging Face config the forward pass needs, and a clear no to everything else."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from starloom.serve.models import BadModelFolder, read_json

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
ROPE_KINDS = ("default", "linear", "llama3", "yarn")
"""Kinds whose angles depend on the position alone. `dynamic` and `longrope` turn keys differently
once a sequence grows, which contradicts keys that are cached and shared."""


@dataclass(frozen=True, slots=True)
class Spec:
    """Sizes and switches of one model."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    norm_eps: float
    tied: bool
    qk_norm: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    rope_frequencies: Any
    """Tensor [head_dim / 2]: radians a position."""
    rope_scale: float
    """Factor on cos and sin; yarn's attention factor."""
    eos: frozenset[int]


def load_spec(folder: Path, context_tokens: int) -> Spec:
    """Read `config.json`. Raises `BadModelFolder` for what the forward pass would get wrong."""
    raw = read_json(folder / "config.json")
    architecture = (raw.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise BadModelFolder(f"{folder} holds a {architecture}; the embedded engine runs {known}")
    if "quantization_config" in raw:
        raise BadModelFolder(f"{folder} is quantised; the embedded engine computes in float32")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModelFolder(f"{folder}/config.json is refused by transformers: {error}") from error
    _check(folder, config, context_tokens)
    frequencies, scale = _rope(folder, config)
    qwen2 = architecture == "Qwen2ForCausalLM"
    bias = bool(getattr(config, "attention_bias", False))
    heads = config.num_attention_heads
    return Spec(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=config.num_key_value_heads or heads,
        head_dim=_head_dim(config),
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
        norm_eps=config.rms_norm_eps,
        tied=bool(config.tie_word_embeddings),
        qk_norm=architecture == "Qwen3ForCausalLM",
        qkv_bias=qwen2 or bias,
        output_bias=bias and not qwen2,
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        rope_frequencies=frequencies,
        rope_scale=scale,
        eos=eos_ids(folder),
    )


def eos_ids(folder: Path) -> frozenset[int]:
    """Token ids that end an answer: those of generation_config.json and config.json together."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        if (folder / name).exists():
            ids = read_json(folder / name).get("eos_token_id")
            found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return frozenset(found)


def _head_dim(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _check(folder: Path, config: Any, context_tokens: int) -> None:
    if config.hidden_act != "silu":
        raise BadModelFolder(f"{folder}: hidden_act {config.hidden_act!r} is not silu")
    window = getattr(config, "sliding_window", None)
    kinds: Collection[str] = getattr(config, "layer_types", None) or ["full_attention"]
    slides = set(kinds) != {"full_attention"} or config.model_type == "mistral"
    if slides and window is not None and window < context_tokens:
        raise BadModelFolder(
            f"{folder}: attention slides over {window} tokens; set the model's `context_tokens` "
            f"to {window} or less (it is {context_tokens})"
        )
    if set(kinds) - {"full_attention", "sliding_attention"}:
        raise BadModelFolder(f"{folder}: layer_types {sorted(set(kinds))} are not supported")


def _rope(folder: Path, config: Any) -> tuple[Any, float]:
    """Frequencies [head_dim / 2] and the factor on cos and sin."""
    # transformers 5 calls it rope_parameters; 4 had rope_scaling, with the base beside it.
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in ROPE_KINDS:
        raise BadModelFolder(
            f"{folder}: rope kind {kind!r} is not exact over a paged cache; "
            f"supported are {', '.join(ROPE_KINDS)}"
        )
    if (given.get("partial_rotary_factor") or 1.0) != 1.0:
        raise BadModelFolder(f"{folder}: partial rotary embeddings are not supported")
    if kind != "default":
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
        return frequencies.float(), float(scale)
    base = given.get("rope_theta") or config.rope_theta
    dim = _head_dim(config)
    # inv_freq[i] = base ** (-2i / dim), Su et al., RoFormer (arXiv:2104.09864), section 3.2.2
    return 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float) / dim)), 1.0
