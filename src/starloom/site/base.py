"""The nouns of an AI factory. Every command reads them from one site file, none keeps its own.

Units stand in field names: `_gib` is 2**30 bytes, `_gb_per_s` is 10**9 bytes a second.
Fields that are not known are refused, so that a typing error never becomes a silent default.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Noun(BaseModel):
    """The base of all nouns: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Chip(Noun):
    """An accelerator, or a CPU socket that computes. Peaks are dense and per chip."""

    name: Name
    fp32_tflops: Positive
    bf16_tflops: Positive
    memory_gib: Positive
    memory_gb_per_s: Positive
    power_w: Positive | None = None
    compute_efficiency: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of the peak that large matrix products reach."""
    memory_efficiency: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the bandwidth that streaming reads reach."""
    launch_us: Annotated[float, Field(ge=0)] = 0.0
    """Fixed cost of one model step that neither FLOPs nor bytes explain."""
    source: str
    """Where the figures come from; says which are assumed or calibrated."""
    verified: Literal["yes", "partial", "no"]


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


class Node(Noun):
    """A machine, and the chips in it."""

    name: Name
    chip: Name = "generic-cpu"
    """A name out of the catalogue or of this site's `chips`."""
    chips: Count = 1


class WorkerBase(Noun):
    name: Name
    node: Name
    model: Name


class BatchedWorker(WorkerBase):
    """What the two engines with continuous batching have in common."""

    max_batch: Annotated[int, Field(ge=1, le=4096)] = 16
    """Sequences that decode together."""
    max_batch_tokens: Annotated[int, Field(ge=16, le=1 << 20)] = 1024
    """Tokens of one step: one for each decoding sequence, the rest is prefill."""
    kv_cache_gib: Positive = 0.25
    max_waiting: Count = 1024
    """Requests that may queue in the worker; one more is refused."""


class EmbeddedWorker(BatchedWorker):
    """torch on this machine, weights from the model's folder."""

    engine: Literal["embedded"]
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where torch finds one. Weights and KV are float32 on either."""


class EmulatedWorker(BatchedWorker):
    """No weights: the timing of `plan.step_time`, a seeded token stream, the same protocol."""

    engine: Literal["emulated"]
    time_scale: Annotated[float, Field(ge=0)] = 1.0
    """Simulated seconds are multiplied by this; 0 answers at once."""
    seed: int = 0


class OpenAIWorker(WorkerBase):
    """Any server that speaks OpenAI's API."""

    engine: Literal["openai"]
    url: Annotated[str, Field(pattern=r"^https?://")]
    """Base address, with `/v1` where the server has it."""
    key_env: str | None = None
    """Environment variable that holds the server's key."""
    upstream_model: str | None = None
    """The model's name there; by default the one here."""
    timeout_s: Positive = 300.0


Worker = Annotated[EmbeddedWorker | EmulatedWorker | OpenAIWorker, Field(discriminator="engine")]


class KvPool(Noun):
    """The shared KV pool of this site: one process a node for now."""

    node: Name
    dram_gib: Positive = 0.5
    timeout_s: Positive = 0.25
    """An engine waits this long for the pool, then computes by itself."""


class Tenant(Noun):
    """Who may ask. Keys stand here as hashes only."""

    name: Name
    key_sha256: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = []
    """SHA-256 of each key in hex (`starloom key` makes a key and prints it)."""


class Limits(Noun):
    """What bounds a gateway's memory and a client's patience."""

    body_mib: Positive = 8.0
    bodies_mib: Positive = 512.0
    """All bodies that are read or answered at one time; one more is answered 429."""
    header_kib: Positive = 16.0
    header_timeout_s: Positive = 10.0
    body_timeout_s: Positive = 30.0
    request_timeout_s: Positive = 600.0
    keep_alive_s: Positive = 30.0
    connections: Count = 4096
    requests: Count = 1024
    """Requests in the line at once; one more is answered 429."""
    drain_s: Annotated[float, Field(ge=0)] = 20.0
    failed_keys_per_min: Count = 30
    """Per client address; from then on failures are answered 429. A right key always passes."""
    max_n: Count = 16


class Gateway(Noun):
    host: str = "127.0.0.1"
    port: Port = 8000
    """0 lets the system choose."""
    allowed_hosts: list[str] = []
    """Host names that requests may carry besides loopback's and `host`."""
    allowed_origins: list[str] = []
    """Browser origins that may call; none by default."""
    open_metrics: bool = False
    """Whether `/metrics` answers without a key."""
    limits: Limits = Limits()


class WordList(Noun):
    """Phrases that a request or an answer must not hold."""

    name: Name
    words: list[Annotated[str, Field(min_length=1, max_length=256)]] = []
    file: str | None = None
    """One phrase a line, UTF-8, `#` begins a comment line; relative to the site file."""
    action: Literal["block", "mask"] = "block"
    where: list[Literal["input", "output"]] = ["input", "output"]

    @model_validator(mode="after")
    def _has_phrases(self) -> Self:
        if not self.words and self.file is None:
            raise ValueError("a word list needs `words` or `file`")
        return self


class Guard(Noun):
    lists: list[WordList] = []


class Schedule(Noun):
    """Which worker of a model takes a request."""

    policy: Literal["round_robin", "least_outstanding", "prefix_load"] = "prefix_load"
