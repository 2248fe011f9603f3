"""A Hugging Face `config.json` into a shape: GQA, sliding windows, MLA, experts."""

from collections.abc import Mapping
from typing import Any

from starloom.plan.errors import BadPlan
from starloom.site import Mla, ModelShape, Moe

EXPERT_COUNTS = ("n_routed_experts", "num_experts", "num_local_experts")
NEEDED = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape that `config` states. Raises `BadPlan` naming the field that is missing."""
    config = {**config.get("text_config", {}), **config} if "text_config" in config else config
    missing = [name for name in NEEDED if name not in config]
    if missing:
        raise BadPlan(f"config.json lacks {', '.join(missing)}: give a decoder's configuration")
    heads = int(config["num_attention_heads"])
    hidden = int(config["hidden_size"])
    mla = _mla(config)
    moe = _moe(config)
    dim = int(config.get("head_dim") or hidden // heads)
    inner = config.get("intermediate_size") or config.get("ffn_dim") or 4 * hidden
    if moe is not None and "intermediate_size" not in config:
        inner = moe.intermediate
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    kinds = config.get("layer_types") or []
    sliding = (
        sum("sliding" in str(kind) for kind in kinds) if kinds else int(config["num_hidden_layers"])
    )
    family = str(config.get("model_type", ""))
    return ModelShape(
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=mla.nope_dim + mla.rope_dim if mla is not None else dim,
        intermediate=int(inner),
        vocab=int(config["vocab_size"]),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qk_norm="qwen3" in family,
        qkv_biases=bool(config.get("attention_bias", family == "qwen2")),
        window=int(window) if window and sliding else None,
        window_layers=sliding if window else 0,
        moe=moe,
        mla=mla,
        mtp_layers=int(config.get("num_nextn_predict_layers") or 0),
        source="config.json",
    )


def _mla(config: Mapping[str, Any]) -> Mla | None:
    if not config.get("kv_lora_rank"):
        return None
    rank = config.get("q_lora_rank")
    return Mla(
        q_rank=int(rank) if rank else None,
        kv_rank=int(config["kv_lora_rank"]),
        rope_dim=int(config["qk_rope_head_dim"]),
        nope_dim=int(config["qk_nope_head_dim"]),
        v_dim=int(config["v_head_dim"]),
    )


def _moe(config: Mapping[str, Any]) -> Moe | None:
    experts = next((int(config[name]) for name in EXPERT_COUNTS if config.get(name)), 0)
    if experts < 2:
        return None
    inner = int(config.get("moe_intermediate_size") or config["intermediate_size"])
    shared = int(config.get("n_shared_experts") or 0) * inner
    return Moe(
        experts=experts,
        active=int(config.get("num_experts_per_tok") or config.get("experts_per_token") or 1),
        intermediate=inner,
        shared_intermediate=int(config.get("shared_expert_intermediate_size") or shared),
        first_dense=int(config.get("first_k_dense_replace") or 0),
        every=int(config.get("decoder_sparse_step") or 1),
    )
