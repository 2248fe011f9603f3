"""Weights out of safetensors files, checked name by name and shape by shape, as float32."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from starloom.serve.engines.embedded.config import Spec
from starloom.serve.models import BadModelFolder, read_json


@dataclass(frozen=True, slots=True)
class Layer:
    """Tensors of one layer. Matrices are [out, in]; biases and QK norms may be None."""

    input_norm: Any
    qkv: Any
    """[(heads + 2 * kv_heads) * head_dim, hidden]: Q, K and V in one product."""
    qkv_bias: Any
    q_norm: Any
    k_norm: Any
    output: Any
    output_bias: Any
    mlp_norm: Any
    gate_up: Any
    """[2 * intermediate, hidden]"""
    gate_up_bias: Any
    down: Any
    down_bias: Any


@dataclass(frozen=True, slots=True)
class Weights:
    embedding: Any
    layers: list[Layer]
    norm: Any
    head: Any


class _Tensors:
    """Named tensors of a folder, each taken once; what is left over at the end is an error."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._device = device
        self._found = dict(_read(folder))

    def take(self, name: str, *shape: int) -> Any:
        tensor = self._found.pop(name, None)
        if tensor is None:
            raise BadModelFolder(f"{self._folder} has no tensor {name!r}")
        if tuple(tensor.shape) != shape:
            raise BadModelFolder(
                f"{self._folder}: {name!r} is {tuple(tensor.shape)}, config.json says {shape}"
            )
        return tensor.to(device=self._device, dtype=torch.float32)

    def drop(self, name: str) -> None:
        self._found.pop(name, None)

    def end(self) -> None:
        left = sorted(name for name in self._found if not name.endswith("rotary_emb.inv_freq"))
        if left:
            raise BadModelFolder(f"{self._folder} has tensors that no part uses: {left[:5]}")


def load_weights(folder: Path, spec: Spec, device: str) -> Weights:
    """All weights of a folder. Raises `BadModelFolder` where they do not match its config."""
    tensors = _Tensors(folder, device)
    embedding = tensors.take("model.embed_tokens.weight", spec.vocab, spec.hidden)
    layers = [_layer(tensors, spec, f"model.layers.{i}.") for i in range(spec.layers)]
    norm = tensors.take("model.norm.weight", spec.hidden)
    if spec.tied:
        tensors.drop("lm_head.weight")
        head = embedding
    else:
        head = tensors.take("lm_head.weight", spec.vocab, spec.hidden)
    tensors.end()
    return Weights(embedding, layers, norm, head)


def _layer(tensors: _Tensors, spec: Spec, prefix: str) -> Layer:
    hidden, inner = spec.hidden, spec.intermediate
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    outs = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."

    def joined(base: str, outs: dict[str, int]) -> Any:
        return torch.cat(
            [tensors.take(f"{base}{n}.weight", out, hidden) for n, out in outs.items()]
        )

    def joined_bias(base: str, outs: dict[str, int], there: bool) -> Any:
        if not there:
            return None
        return torch.cat([tensors.take(f"{base}{n}.bias", out) for n, out in outs.items()])

    def vector(name: str, size: int, there: bool = True) -> Any:
        return tensors.take(name, size) if there else None

    gates = {"gate_proj": inner, "up_proj": inner}
    return Layer(
        input_norm=vector(f"{prefix}input_layernorm.weight", hidden),
        qkv=joined(attention, outs),
        qkv_bias=joined_bias(attention, outs, spec.qkv_bias),
        q_norm=vector(f"{attention}q_norm.weight", spec.head_dim, spec.qk_norm),
        k_norm=vector(f"{attention}k_norm.weight", spec.head_dim, spec.qk_norm),
        output=tensors.take(f"{attention}o_proj.weight", hidden, queries),
        output_bias=vector(f"{attention}o_proj.bias", hidden, spec.output_bias),
        mlp_norm=vector(f"{prefix}post_attention_layernorm.weight", hidden),
        gate_up=joined(mlp, gates),
        gate_up_bias=joined_bias(mlp, gates, spec.mlp_bias),
        down=tensors.take(f"{mlp}down_proj.weight", hidden, inner),
        down_bias=vector(f"{mlp}down_proj.bias", hidden, spec.mlp_bias),
    )


def _read(folder: Path) -> Iterator[tuple[str, Any]]:
    for name in _files(folder):
        try:
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    yield key, file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise BadModelFolder(f"{folder / name} cannot be read: {error}") from error


def _files(folder: Path) -> list[str]:
    """`model.safetensors`, or the shards that its index names."""
    if (folder / "model.safetensors").exists():
        return ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        raise BadModelFolder(f"{folder} has neither model.safetensors nor its index")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        raise BadModelFolder(f"{index} has no weight_map of names")
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name:
            raise BadModelFolder(f"{index} names {name!r}, which is not a file of this folder")
    return names
