"""The gateway: who may ask, how much, and what it tells of itself."""

from typing import Annotated

from pydantic import Field

from starloom.site.base import Count, Name, Noun, Port, Positive


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
