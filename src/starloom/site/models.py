"""Models, and what one forward pass of them costs."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from starloom.site.base import Count, Name, Noun


class Moe(Noun):
    """Experts in place of the MLP. Widths are of the MLP's inner dimension."""

    experts: Count
    active: Count
    """Experts that each token goes to, shared ones not counted."""
    intermediate: Count
    """Of one expert."""
    shared_intermediate: Annotated[int, Field(ge=0)] = 0
    """Of what every token goes to besides, all shared experts together."""
    first_dense: Annotated[int, Field(ge=0)] = 0
    """Leading layers with a plain MLP of the shape's `intermediate`."""
    every: Count = 1
    """1: all other layers have experts; 2: every second one."""
    node_limit: Count | None = None
    """Nodes that one token's experts may lie on, where routing is limited so."""

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.active > self.experts:
            raise ValueError(f"{self.active} active experts of {self.experts}: lower `active`")
        return self


class Mla(Noun):
    """Multi-head latent attention: low-rank queries and keys (DeepSeek-V2, arXiv 2405.04434)."""

    q_rank: Count | None = None
    """None: queries are projected at once."""
    kv_rank: Count
    rope_dim: Count
    """Of the key part that all heads share and that carries positions."""
    nope_dim: Count
    v_dim: Count


class ModelShape(Noun):
    """What a decoder-only transformer costs: the figures that FLOPs and bytes follow from."""

    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    intermediate: Count
    vocab: Count
    tied_embeddings: bool = False
    gated: bool = True
    """Gated MLPs have three matrices, others two."""
    biases: bool = False
    qkv_biases: bool = False
    """Biases on Q, K and V alone."""
    layer_norm: bool = False
    """LayerNorm has two vectors, RMSNorm one."""
    qk_norm: bool = False
    parallel_block: bool = False
    """Attention and MLP read one norm and are summed, as in GPT-J and PaLM: one exchange a
    layer."""
    positions: Annotated[int, Field(ge=0)] = 0
    """Rows of a learned table of positions."""
    window: Count | None = None
    """Tokens that a sliding-window layer sees."""
    window_layers: Annotated[int, Field(ge=0)] = 0
    moe: Moe | None = None
    mla: Mla | None = None
    mtp_layers: Annotated[int, Field(ge=0)] = 0
    """Layers that predict further tokens; beside `layers`."""
    weight_bytes: Literal[1, 2, 4] = 2
    """Bytes of one weight as computed with."""
    kv_bytes: Literal[1, 2, 4] = 2
    """Bytes of one number in the KV cache."""
    source: str = ""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads ({self.heads}) is not a multiple of kv_heads ({self.kv_heads})"
            )
        return self

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache that one token takes, over all layers."""
        if self.mla is not None:
            return self.layers * (self.mla.kv_rank + self.mla.rope_dim) * self.kv_bytes
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        if self.moe is None:
            return 0
        return (self.layers - self.moe.first_dense) // self.moe.every

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's Q, K, V, O matrices, or of MLA's six."""
        if self.mla is None:
            return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        mla, wide = self.mla, self.heads * (self.mla.nope_dim + self.mla.rope_dim)
        queries = self.hidden * wide if mla.q_rank is None else mla.q_rank * (self.hidden + wide)
        keys = self.hidden * (mla.kv_rank + mla.rope_dim)
        spread = mla.kv_rank * self.heads * (mla.nope_dim + mla.v_dim)
        return queries + keys + spread + self.heads * mla.v_dim * self.hidden

    @property
    def mlp_matrices(self) -> int:
        return 3 if self.gated else 2

    @property
    def dense_weights(self) -> int:
        """Weights of one plain layer's matrices."""
        return self.attention_weights + self.mlp_matrices * self.hidden * self.intermediate

    @property
    def expert_weights(self) -> int:
        """Weights of one expert; 0 without experts."""
        return 0 if self.moe is None else self.mlp_matrices * self.hidden * self.moe.intermediate

    @property
    def _moe_rest(self) -> int:
        """Weights of a layer with experts beside them: attention, router, shared experts."""
        if self.moe is None:
            return 0
        shared = self.mlp_matrices * self.hidden * self.moe.shared_intermediate
        return self.attention_weights + shared + self.hidden * self.moe.experts

    @property
    def layer_weights(self) -> float:
        """Weights of one layer's matrices, the mean where layers differ."""
        if self.moe is None:
            return self.dense_weights
        full = self._moe_rest + self.moe.experts * self.expert_weights
        plain = self.layers - self.moe_layers
        return (self.moe_layers * full + plain * self.dense_weights) / self.layers

    @property
    def active_layer_weights(self) -> float:
        """Weights of one layer that a token is multiplied with, the mean where layers differ."""
        if self.moe is None:
            return self.dense_weights
        used = self._moe_rest + self.moe.active * self.expert_weights
        plain = self.layers - self.moe_layers
        return (self.moe_layers * used + plain * self.dense_weights) / self.layers

    @property
    def weights(self) -> int:
        """Weights in all matrices, embedding and output head."""
        heads = 1 if self.tied_embeddings else 2
        return round(self.layers * self.layer_weights) + heads * self.vocab * self.hidden

    @property
    def active_weights(self) -> int:
        """Weights that one token is multiplied with, embedding table and head as in `weights`."""
        heads = 1 if self.tied_embeddings else 2
        return round(self.layers * self.active_layer_weights) + heads * self.vocab * self.hidden


class Model(Noun):
    """A model that tenants ask for by name."""

    name: Name
    path: str | None = None
    """A Hugging Face folder, or `package:NAME` for one that ships with starloom."""
    tokenizer: str | None = None
    """Folder with `tokenizer.json`; by default `path`."""
    shape: ModelShape | str | None = None
    """For engines without weights: a shape, or a name out of the catalogue."""
    block_tokens: Annotated[int, Field(ge=1, le=4096)] = 64
    """Tokens in one KV block, in every room."""
    context_tokens: Count = 32768
