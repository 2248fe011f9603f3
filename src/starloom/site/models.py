"""Models, and what one forward pass of them costs."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from starloom.site.base import Count, Name, Noun


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
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices: Q, K, V, O and the gated MLP."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def weights(self) -> int:
        """Weights in all matrices, embedding and output head."""
        heads = 1 if self.tied_embeddings else 2
        return self.layers * self.layer_weights + heads * self.vocab * self.hidden


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
