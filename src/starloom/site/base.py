"""The nouns of an AI factory. Every command reads them from one site file, none keeps its own.

Units stand in field names: `_gib` is 2**30 bytes, `_gb_per_s` is 10**9 bytes a second.
Fields that are not known are refused, so that a typing error never becomes a silent default.
"""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Endpoint = Annotated[str, Field(pattern=r"^tcp://.+:[0-9]{1,5}$")]


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
    role: Literal["both", "prefill", "decode"] = "both"
    """Which half of a request it computes, beside workers of the other half."""
    roles_may_change: bool = False
    """Whether the gateway may give it another role when the mix of requests shifts."""
    handover: Literal["unix", "tcp"] = "unix"
    """How other workers fetch the KV of prompts that it computed: `unix` is shared memory on one
    machine, `tcp` reaches others. TCP is neither encrypted nor asks who comes: a transfer's name is
    its only secret, so keep it inside a network that you trust."""
    handover_host: str = "127.0.0.1"
    """With `tcp`: where it listens, and by which others reach it."""
    handover_port: Port = 0
    """With `tcp`; 0 lets the system choose."""

    @model_validator(mode="after")
    def _handover_holds(self) -> Self:
        if self.handover == "unix" and (self.handover_host, self.handover_port) != ("127.0.0.1", 0):
            raise ValueError("`handover_host`, `handover_port`: not read without `handover: tcp`")
        if self.handover_host in ("0.0.0.0", "::", "*", ""):  # noqa: S104
            raise ValueError(
                f"`handover_host: {self.handover_host}` is no address that others reach: name one"
            )
        return self


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
    handover_gb_per_s: Positive = 64.0
    """How fast KV goes to the worker that decodes, in simulated time. Assumed, as nodes state no
    links yet: 64 GB/s is what Dynamo's mocker assumes."""


class KvEvents(Noun):
    """Where a vLLM or SGLang server publishes which KV blocks it holds, over ZeroMQ.

    Its blocks must have the model's `block_tokens` (vLLM: `--block-size`, SGLang: `--page-size`).
    """

    endpoint: Endpoint
    """Its `--kv-events-config` `endpoint`, with the host's name in place of `*`."""
    replay_endpoint: Endpoint | None = None
    """Its `replay_endpoint`. Without one, every missed message makes us forget what it holds."""
    topic: str = ""
    """Its `topic`."""
    ranks: Annotated[int, Field(ge=1, le=1024)] = 1
    """Its data-parallel size: rank r publishes on the ports plus r."""
    tenant: Name | None = None
    """Whose blocks without a cache salt are. By default nobody's, and they are ignored: the gateway
    sends each tenant's salt, and a server that keeps no salts must serve one tenant alone."""
    lora_name: str | None = None
    """The adapter that this worker's model is there; by default none: the base model."""

    @field_validator("endpoint", "replay_endpoint")
    @classmethod
    def _is_reached(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and "*" in endpoint:
            raise ValueError(f"{endpoint!r} is where the server binds; name the host to connect to")
        return endpoint

    @model_validator(mode="after")
    def _ranks_have_ports(self) -> Self:
        for endpoint in (self.endpoint, self.replay_endpoint):
            if endpoint is not None and int(endpoint.rpartition(":")[2]) + self.ranks - 1 > 65535:
                raise ValueError(f"{endpoint!r} has no port for rank {self.ranks - 1}")
        return self


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
    tenants: list[Name] = []
    """Whose requests it takes; everybody's by default."""
    shared_cache: bool = False
    """States that tenants may share a server's cache although it keeps no salts."""
    kv_events: KvEvents | None = None
    metrics: Literal["vllm", "sglang", "starloom", "none"] = "none"
    """Whose names the server's metrics page has; `none` leaves it alone."""
    metrics_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """By default `/metrics` beside the API."""
    metrics_every_s: Annotated[float, Field(ge=0.1)] = 1.0
    role: Literal["both", "prefill", "decode"] = "both"
    """Which half of a request it computes."""
    disagg: Literal["vllm", "sglang"] | None = None
    """How halves hand KV over: vLLM's `kv_transfer_params`, or SGLang's bootstrap rooms."""
    bootstrap_port: Annotated[int, Field(ge=1, le=65535)] = 8998
    """SGLang's `--disaggregation-bootstrap-port`, of a prefill worker."""

    @field_validator("url", "metrics_url")
    @classmethod
    def _leads_somewhere(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)  # raises ValueError, as `port` does
            if not parts.hostname or parts.port == 0 or any(char <= " " for char in url):
                raise ValueError(f"{url!r} names no server: write `http://HOST:PORT/v1`")
        return url

    @model_validator(mode="after")
    def _signals_hold(self) -> Self:
        if self.metrics_url is not None and self.metrics == "none":
            raise ValueError("`metrics_url` is not read: set `metrics` to vllm, sglang or starloom")
        if self.role != "both" and self.disagg is None:
            raise ValueError(f"`role: {self.role}` needs `disagg: vllm` or `disagg: sglang`")
        if self.role == "both" and self.disagg is not None:
            raise ValueError("`disagg` is for halves: set `role` to prefill or decode")
        return self

    @property
    def salted(self) -> bool:
        """Whether it keeps a prefix cache apart by `cache_salt`, as vLLM and SGLang do."""
        told = (self.metrics in ("vllm", "sglang"), self.kv_events is not None)
        return any(told) or self.disagg is not None

    @property
    def metrics_address(self) -> str:
        """Where its metrics page is, when it is read."""
        return self.metrics_url or self.url.rstrip("/").removesuffix("/v1") + "/metrics"


Worker = Annotated[EmbeddedWorker | EmulatedWorker | OpenAIWorker, Field(discriminator="engine")]


class Discover(Noun):
    """Workers behind a DNS name: every address that it has is one."""

    dns: Annotated[str, Field(min_length=1, max_length=253)]
    """A name with A or AAAA records, such as that of a headless service."""
    worker: OpenAIWorker
    """What each of them is like. `{address}` in its addresses stands for the one that was found;
    its name is followed by it."""
    every_s: Annotated[float, Field(ge=0.1)] = 5.0
    keep_s: Annotated[float, Field(ge=0)] = 120.0
    """An answer without addresses, or none, changes nothing for so long; then they leave."""
    drain_s: Annotated[float, Field(ge=0)] = 600.0
    """So long a worker that left the answer may finish what it has."""

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if "{address}" not in self.worker.url:
            raise ValueError(
                f"`worker.url` {self.worker.url!r} names no `{{address}}`: write"
                " `http://{address}:8000/v1`, so that each address becomes a worker"
            )
        if len(self.worker.name) > 22:  # an IPv6 address has up to 39 letters, a name 63
            raise ValueError("`worker.name` may have 22 letters: the address follows it")
        return self


class KvSsd(Noun):
    """Disk below the pool's memory. Its blocks are found again after a restart."""

    path: Annotated[str, Field(min_length=1)]
    """A folder of this pool alone, on the disk that is meant; relative to the site file."""
    gib: Positive
    """Preallocated when the pool starts."""
    threads: Annotated[int, Field(ge=1, le=64)] = 4


class KvPool(Noun):
    """The shared KV pool of this site: one process a node for now."""

    node: Name
    dram_gib: Positive = 0.5
    ssd: KvSsd | None = None
    """Takes what memory evicts; a `get` waits for it for .6 of `timeout_s`."""
    policy: Literal[
        "lru",
        "fifo",
        "lfu",
        "sieve",
        "s3fifo",
        "wtinylfu",
        "arc",
        "mq",
        "hazard",
        "starloom",
    ] = "lru"
    """Which blocks go from memory first (`docs/eviction.md`)."""
    timeout_s: Positive = 0.25
    """An engine waits this long for the pool, then computes by itself."""


class Tenant(Noun):
    """Who may ask. Keys stand here as hashes only."""

    name: Name
    key_sha256: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = []
    """SHA-256 of each key in hex (`starloom key` makes a key and prints it)."""
    requests_per_min: Count | None = None
    """No limit by default; a minute's worth may come at once."""
    tokens_per_min: Count | None = None
    """Of prompts and answers together."""
    ttft_target_ms: Positive | None = None
    """Its first tokens are wanted within this (header `x-slo-ttft-ms`), with `policy: sla`."""
    tpot_target_ms: Positive | None = None
    """The same for the mean time between later tokens (header `x-slo-tpot-ms`)."""


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


class Admin(Noun):
    """The API by which workers join and leave at run time, below `/admin`."""

    key_sha256: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(min_length=1)
    """SHA-256 of each key in hex, as `starloom key` prints it. No tenant's key."""


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
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Gateway processes on this machine, with one view of load, prefixes and quotas."""
    peers_url: Annotated[str, Field(pattern=r"^(redis|rediss|valkey|unix)://")] | None = None
    """A Valkey or Redis server over which gateways on other machines share that view."""
    limits: Limits = Limits()
    admin: Admin | None = None
    """By default there is no such API."""


class Telemetry(Noun):
    """Where spans of requests go; also switched on by the standard `OTEL_` variables."""

    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Base address of a collector that takes OTLP over HTTP; needs the extra `otel`."""
    service_name: str = "starloom"


class WordList(Noun):
    """Phrases that a request or an answer must not hold."""

    name: Name
    words: list[Annotated[str, Field(min_length=1, max_length=256)]] = []
    file: str | None = None
    """One phrase a line, UTF-8, `#` begins a comment line; relative to the site file. Or
    `package:prompt-injection`, well-worn phrases of prompt injections."""
    action: Literal["block", "mask"] = "block"
    where: list[Literal["input", "output"]] = ["input", "output"]

    @model_validator(mode="after")
    def _has_phrases(self) -> Self:
        if not self.words and self.file is None:
            raise ValueError("a word list needs `words` or `file`")
        return self


class Normalise(Noun):
    """Which evasions are undone for word lists, besides case, width and what is invisible."""

    homoglyphs: bool = True
    """Letters of other alphabets that look like Latin ones."""
    spacing: bool = True
    """Blanks and marks between the letters of a word."""
    leet: bool = True
    """Digits and signs that stand for letters."""
    han: bool = True
    """Common traditional characters are read as simplified ones."""


PatternKind = Literal[
    "secrets",
    "personal",
    "assigned_secret",
    "aws_access_key",
    "bearer_token",
    "github_token",
    "gitlab_token",
    "google_key",
    "hugging_face_token",
    "jwt",
    "model_key",
    "npm_token",
    "private_key",
    "slack_token",
    "stripe_key",
    "cn_resident_id",
    "credit_card",
    "email",
    "iban",
    "ip_address",
    "phone",
    "us_ssn",
]
"""Two families, and the kinds that they consist of."""


class PatternRule(Noun):
    """Secrets or personal data that a request or an answer must not hold."""

    name: Name
    kinds: list[PatternKind] = Field(min_length=1)
    action: Literal["block", "mask"] = "mask"
    where: list[Literal["input", "output"]] = ["input", "output"]


class SafetyModel(Noun):
    """A classifier that sees the texts of every request: an endpoint, or a file of weights."""

    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Base address of a server with OpenAI's `/moderations`, with `/v1` where the server has it."""
    key_env: str | None = None
    """Environment variable that holds the server's key."""
    model: str | None = None
    """The model's name there."""
    images: bool = False
    """Whether the server takes images, too."""
    file: str | None = None
    """Weights made by `python -m starloom.serve.guard.train`; relative to the site file."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """By category, where it differs. 1 switches a category off."""
    timeout_s: Positive = 2.0
    on_failure: Literal["pass", "refuse"] = "refuse"
    """What becomes of a request that the model could not see. Either is counted and audited."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.url is None) == (self.file is None):
            raise ValueError("a safety model needs either `url` or `file`")
        return self


class Media(Noun):
    """What image, audio and video parts of messages must be."""

    unchecked: Literal["pass", "refuse"] = "refuse"
    """What becomes of parts that cannot be checked: addresses elsewhere (never fetched), file ids,
    types that are not known, sizes that the header does not tell."""
    types: list[str] = [
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "audio/wav",
        "audio/mpeg",
        "audio/flac",
        "audio/ogg",
        "video/mp4",
        "video/webm",
    ]
    max_mib: Positive = 16.0
    max_megapixels: Positive = 32.0
    """Of all frames of an image together, or one frame of a video; before anything is decoded."""
    max_s: Positive = 600.0
    """Duration of audio, video and animations."""
    max_parts: Count = 32
    sha256_file: str | None = None
    """Hashes of refused files in hex, one a line; relative to the site file."""
    dhash_file: str | None = None
    """Difference hashes of refused images, 16 hex digits a line; needs the extra `media`."""
    dhash_bits: Annotated[int, Field(ge=0, le=32)] = 6
    """Images whose hash differs in at most so many of 64 bits are refused."""
    frames: Annotated[int, Field(ge=1, le=64)] = 4
    """Frames of an animation that are hashed, evenly spread."""

    @model_validator(mode="after")
    def _types_are_media(self) -> Self:
        for name in self.types:
            if name.partition("/")[0] not in ("image", "audio", "video"):
                raise ValueError(f"{name!r} is no type of image, audio or video")
        return self


class Guard(Noun):
    """What goes into models and what comes out. Nothing is looked for by default."""

    lists: list[WordList] = []
    normalise: Normalise = Normalise()
    patterns: list[PatternRule] = []
    model: SafetyModel | None = None
    media: Media | None = None

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.lists or self.patterns or self.model or self.media)


Share = Annotated[float, Field(ge=0, le=1)]


class RouteDial(Noun):
    """How much of the large model is wanted; exactly one of the three."""

    cost: Share | None = None
    """Share of the requests that go to the large model."""
    quality: Share | None = None
    """Share of what the large model is better by that is kept (PGR)."""
    threshold: Share | None = None
    """To the large model from this probability on that it alone is right."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        stated = [name for name, at in self if at is not None]
        if len(stated) != 1:
            said = " and ".join(stated) or "nothing"
            raise ValueError(f"a dial is one of cost, quality and threshold; {said} is stated")
        return self

    @property
    def by(self) -> Literal["cost", "quality", "threshold"]:
        """Which of the three is stated."""
        if self.cost is not None:
            return "cost"
        return "quality" if self.quality is not None else "threshold"

    @property
    def at(self) -> float:
        """Where it stands."""
        return max(at for at in (self.cost, self.quality, self.threshold) if at is not None)


class RouteLanes(Noun):
    """Turns of quick and thinking requests where both wait, by expected cost."""

    quick_weight: Positive = 3.0
    thinking_weight: Positive = 1.0
    at_once: Count = 64
    """Requests of the route that the workers have at one time; the others wait in their lanes."""
    waiting: Count = 4096
    """Requests that may wait in each lane; one more is answered 429."""


class Route(Noun):
    """A name that clients ask for, behind which a small and a large model share the requests."""

    name: Name
    small: Name
    large: Name
    """Names of models of this site."""
    router: str
    """A file that `starloom route train` wrote; relative to the site file."""
    dial: RouteDial = RouteDial(cost=0.5)
    lanes: RouteLanes | None = None
    """By default quick and thinking requests wait together."""
    drift_window: Annotated[int, Field(ge=200, le=1_000_000)] = 2000
    """Scores that are compared with those of the training."""

    @model_validator(mode="after")
    def _has_two(self) -> Self:
        if self.small == self.large:
            raise ValueError(f"small and large are both {self.small!r}: there is nothing to choose")
        return self


class Schedule(Noun):
    """Which worker of a model takes a request."""

    policy: Literal[
        "round_robin",
        "least_outstanding",
        "cache_aware",
        "kv_cost",
        "product",
        "weighted",
        "prefix_load",
        "starloom",
        "sla",
    ] = "prefix_load"


class BreakerRules(Noun):
    """When a worker that fails is left alone, and for how long."""

    enabled: bool = True
    failures: Count = 5
    """So many in a row, or"""
    error_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """this share of all verdicts in the window."""
    min_requests: Count = 20
    """Fewer verdicts in the window say nothing about a share."""
    window_s: Positive = 30.0
    pause_s: Positive = 1.0
    """The first pause; each further one is twice as long."""
    longest_pause_s: Positive = 30.0
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """A pause is longer or shorter by up to this share."""
    first_token_s: Positive | None = None
    """A later first token is a failure; by default slowness is none. An answer of a server
    elsewhere that is not streamed has its first token when it is whole."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.longest_pause_s < self.pause_s:
            raise ValueError(
                f"longest_pause_s ({self.longest_pause_s:g}) is below pause_s ({self.pause_s:g})"
            )
        return self
