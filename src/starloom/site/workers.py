"""What answers requests: engines of our own, and servers elsewhere."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from starloom.site.base import Count, Endpoint, Name, Noun, Port, Positive


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
