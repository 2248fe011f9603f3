"""The site: all nouns together, with every name that one noun uses for another resolved."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self, TypeVar

from pydantic import Field, model_validator

from starloom.site import catalogue
from starloom.site.base import Name, Noun
from starloom.site.errors import BadNames, Loc
from starloom.site.fabric import Fabric
from starloom.site.files import load
from starloom.site.gateway import Gateway, Telemetry, Tenant
from starloom.site.guard import Guard
from starloom.site.hardware import Chip, Node
from starloom.site.models import Model, ModelShape
from starloom.site.pool import KvPool
from starloom.site.route import Route
from starloom.site.schedule import BreakerRules, Schedule
from starloom.site.workers import Discover, OpenAIWorker, Worker


class Site(Noun):
    """One factory. `Site.load` reads it from a file; `base` is that file's folder."""

    name: Name
    base: Path = Path()
    gateway: Gateway = Gateway()
    chips: list[Chip] = []
    nodes: list[Node] = Field(min_length=1)
    models: list[Model] = Field(min_length=1)
    workers: list[Worker] = []
    workers_file: str | None = None
    """A list of workers elsewhere, read again whenever it changes; relative to the site file."""
    discover: list[Discover] = []
    breaker: BreakerRules = BreakerRules()
    pool: KvPool | None = None
    tenants: list[Tenant] = []
    guard: Guard = Guard()
    schedule: Schedule = Schedule()
    telemetry: Telemetry = Telemetry()
    routes: list[Route] = []
    fabric: Fabric | None = None
    """The network between the nodes, for `starloom net` and the planner."""
    supernode: Name | None = None
    """Out of the catalogue: the scale-up domain that the chips stand in, for the planner; by
    default the catalogue's first with the nodes' chip."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and check a site file. Raises `SiteError` with all problems, lines and fixes."""
        return load(cls, Path(path))

    @model_validator(mode="after")
    def _names_hold(self) -> Self:
        checks = (*_OF_WORKERS, _served, _discovered, _admin, _halves, _routes, _kv_nodes)
        problems = [problem for check in checks for problem in check(self)]
        if problems:
            raise BadNames(problems)
        return self

    def with_workers(self, workers: Sequence[Worker]) -> Self:
        """The site with other workers. Raises `BadNames` where it cannot have them.

        Halves may lack each other: workers that join at run time come one by one.
        """
        site = self.model_copy(update={"workers": [*workers]})
        problems = [problem for check in _OF_WORKERS for problem in check(site)]
        if problems:
            raise BadNames(problems)
        return site

    def model(self, name: str) -> Model:
        """The model of that name; KeyError when there is none."""
        return _named(self.models, name)

    def worker(self, name: str) -> Worker:
        """The worker of that name; KeyError when there is none."""
        return _named(self.workers, name)

    def chip(self, node: str) -> Chip:
        """The chip of the node of that name, this site's own before the catalogue's."""
        name = _named(self.nodes, node).chip
        return {**catalogue.chips(), **{chip.name: chip for chip in self.chips}}[name]

    def shape(self, model: str) -> ModelShape | None:
        """The shape that a model states, by itself or by a name out of the catalogue."""
        shape = self.model(model).shape
        return catalogue.shapes()[shape] if isinstance(shape, str) else shape

    def hands_over(self, model: str) -> bool:
        """Whether KV of a model may go from one worker of ours to another."""
        return any(
            worker.role != "both" or worker.roles_may_change
            for worker in self.workers
            if worker.model == model and not isinstance(worker, OpenAIWorker)
        )

    @property
    def local_workers(self) -> list[Worker]:
        """Workers that are processes of ours."""
        return [worker for worker in self.workers if not isinstance(worker, OpenAIWorker)]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_N = TypeVar("_N", bound=_Named)


def _named(nouns: Sequence[_N], name: str) -> _N:
    for noun in nouns:
        if noun.name == name:
            return noun
    raise KeyError(name)


Found = Iterator[tuple[Loc, str, str]]


def _twice(site: Site) -> Found:
    groups: dict[str, Sequence[_Named]] = {
        "chips": site.chips,
        "nodes": site.nodes,
        "models": site.models,
        "workers": site.workers,
        "tenants": site.tenants,
        "routes": site.routes,
        "discover": [found.worker for found in site.discover],
    }
    for field, nouns in groups.items():
        first: dict[str, int] = {}
        for index, noun in enumerate(nouns):
            if noun.name in first:
                where = f"{field}[{first[noun.name]}]"
                what = f"the name {noun.name!r} is taken by {where}"
                yield (field, index, "name"), what, "give each a name of its own"
            first.setdefault(noun.name, index)


def _served(site: Site) -> Found:
    """Somebody must be able to answer, now or later."""
    if not (site.workers or site.workers_file or site.discover or site.gateway.admin):
        what = "nobody answers: there are no workers, and no way for one to join"
        yield ("workers",), what, "add a worker, or `workers_file`, `discover` or `gateway.admin`"


def _discovered(site: Site) -> Found:
    """What holds of a worker holds of one that is found."""
    for index, found in enumerate(site.discover):
        alone = site.model_copy(update={"workers": [found.worker]})
        for check in _OF_WORKERS:
            for loc, what, fix in check(alone):
                if loc[0] == "workers":
                    yield ("discover", index, "worker", *loc[2:]), what, fix


def _admin(site: Site) -> Found:
    """Who may ask may not therefore say who answers."""
    admin = site.gateway.admin
    hashes = {digest for tenant in site.tenants for digest in tenant.key_sha256}
    if admin is not None and not hashes.isdisjoint(admin.key_sha256):
        what = "a tenant has this key too"
        yield ("gateway", "admin", "key_sha256"), what, "make another one by `starloom key`"


def _unknown(site: Site) -> Found:
    nodes = [node.name for node in site.nodes]
    models = [model.name for model in site.models]
    chips = [*(chip.name for chip in site.chips), *catalogue.chips()]
    for index, node in enumerate(site.nodes):
        yield from _need(("nodes", index, "chip"), node.chip, chips)
    for index, model in enumerate(site.models):
        if isinstance(model.shape, str):
            yield from _need(("models", index, "shape"), model.shape, catalogue.shapes())
    for index, worker in enumerate(site.workers):
        yield from _need(("workers", index, "node"), worker.node, nodes)
        yield from _need(("workers", index, "model"), worker.model, models)
    if site.pool is not None:
        yield from _need(("pool", "node"), site.pool.node, nodes)


def _need(loc: Loc, name: str, known: Collection[str]) -> Found:
    if name not in known:
        yield loc, f"there is no {loc[-1]} {name!r}", f"use one of: {', '.join(sorted(known))}"


def _mixed(site: Site) -> Found:
    """Emulated KV is made up: a real worker that reused it would answer nonsense."""
    emulated = {worker.model for worker in site.workers if worker.engine == "emulated"}
    for index, worker in enumerate(site.workers):
        if worker.engine == "embedded" and worker.model in emulated:
            what = f"model {worker.model!r} has emulated workers too, whose KV is made up"
            yield ("workers", index, "model"), what, "give the emulated ones a model of their own"


def _signals(site: Site) -> Found:
    """KV events are of use where the gateway can compute the same keys."""
    models = {model.name: model for model in site.models}
    tenants = [tenant.name for tenant in site.tenants]
    for index, worker in enumerate(site.workers):
        if not isinstance(worker, OpenAIWorker) or worker.kv_events is None:
            continue
        loc = ("workers", index, "kv_events")
        model, tenant = models.get(worker.model), worker.kv_events.tenant
        if model is not None and model.tokenizer is None and model.path is None:
            what = f"KV events name tokens, and model {model.name!r} has no tokenizer"
            yield loc, what, "set the model's `tokenizer` to a folder with the server's own"
        if tenant is not None and tenant not in tenants:
            known = ", ".join(sorted(tenants)) or "none is named: add `tenants`"
            yield (*loc, "tenant"), f"there is no tenant {tenant!r}", f"use one of: {known}"


def _walls(site: Site) -> Found:
    """Tenants must not feel each other's cached prefixes in how fast an answer begins."""
    tenants = [tenant.name for tenant in site.tenants]
    for index, worker in enumerate(site.workers):
        if not isinstance(worker, OpenAIWorker):
            continue
        loc = ("workers", index, "tenants")
        for name in worker.tenants:
            if name not in tenants:
                known = ", ".join(sorted(tenants)) or "none is named: add `tenants`"
                yield loc, f"there is no tenant {name!r}", f"use one of: {known}"
        served = worker.tenants or tenants
        if len(served) > 1 and not (worker.salted or worker.shared_cache):
            what = f"{len(served)} tenants would share the prefix cache of worker {worker.name!r}"
            fix = (
                "set `metrics: vllm` or `sglang` where the server is one (they keep salts apart),"
                " give each tenant a worker by `tenants`, or state `shared_cache: true`"
            )
            yield loc, what, fix


def _halves(site: Site) -> Found:
    """A worker of one half is of use beside one of the other, to which KV goes in the same way."""
    for index, worker in enumerate(site.workers):
        if worker.role == "both":
            continue
        other = "decode" if worker.role == "prefill" else "prefill"
        if isinstance(worker, OpenAIWorker):
            takers = {(other, worker.disagg)}
            needed = f"`role: {other}`, `disagg: {worker.disagg}`"
        else:
            takers = {(other, None), ("both", None)}
            needed = f"`role: {other}` (or `both`) and an engine of ours"
        peers = (peer for peer in site.workers if peer.model == worker.model)
        if not any(_taker(peer) in takers for peer in peers if _ours(peer) == _ours(worker)):
            what = f"no worker of model {worker.model!r} has {needed}"
            fix = f"add one, or set `role: both` on {worker.name!r}"
            yield ("workers", index, "role"), what, fix


def _one_way(site: Site) -> Found:
    """A model served apart elsewhere is served so by all of its workers: any two may be paired."""
    ways = {w.model: w.disagg for w in site.workers if isinstance(w, OpenAIWorker) and w.disagg}
    for index, worker in enumerate(site.workers):
        way = ways.get(worker.model)
        if way is not None and _taker(worker)[1] != way:
            what = f"other workers of model {worker.model!r} hand KV over by `disagg: {way}`"
            fix = f"give {worker.name!r} a role and the same `disagg`, or a model of its own"
            yield ("workers", index, "model"), what, fix


def _taker(worker: Worker) -> tuple[str, str | None]:
    return worker.role, worker.disagg if isinstance(worker, OpenAIWorker) else None


def _ours(worker: Worker) -> bool:
    return not isinstance(worker, OpenAIWorker)


def _routes(site: Site) -> Found:
    """A route chooses between two models that are there, under a name that is not theirs."""
    models = [model.name for model in site.models]
    for index, route in enumerate(site.routes):
        yield from _need(("routes", index, "small"), route.small, models)
        yield from _need(("routes", index, "large"), route.large, models)
        if route.name in models:
            what = f"the route {route.name!r} has the name of a model"
            fix = "give it another, such as `auto`: a model's own name asks for that model"
            yield ("routes", index, "name"), what, fix


def _kv_nodes(site: Site) -> Found:
    """Nodes of the pool are told apart, and what their addresses need is there."""
    pool = site.pool
    if pool is None:
        return
    first: dict[str, int] = {}
    for index, node in enumerate(pool.nodes):
        loc: Loc = ("pool", "nodes", index)
        for field, value in (("name", node.name), ("address", node.address)):
            if value in first:
                what = f"{value!r} is taken by pool.nodes[{first[value]}]"
                yield (*loc, field), what, f"give each node a {field} of its own"
            first.setdefault(value, index)
        if node.address.startswith("tls:") and pool.tls.ca is None:
            what = f"node {node.name!r} speaks TLS, and no certificate says whom to trust"
            yield (*loc, "address"), what, "set `pool.tls.ca` to what signs its certificate"
    if (pool.nodes or pool.nodes_file) and (pool.key_file is None) != (pool.tenant == "open"):
        missing, given = ("tenant", "key_file") if pool.key_file else ("key_file", "tenant")
        what = f"the nodes want to know who asks: `{given}` is set and `{missing}` is not"
        yield ("pool", given), what, f"add `{missing}`: `starloom kv key NAME` makes a key"
    if (pool.tls.cert is None) != (pool.tls.key is None):
        given = "cert" if pool.tls.cert else "key"
        what = "a certificate is of use with its private key, and the other way round"
        yield ("pool", "tls", given), what, "set both `cert` and `key`, or neither"


def _missing_parts(site: Site) -> Found:
    models = {model.name: (index, model) for index, model in enumerate(site.models)}
    for worker in site.workers:
        if worker.model not in models:
            continue  # named as unknown already
        index, model = models[worker.model]
        loc = ("models", index)
        if worker.engine == "embedded" and model.path is None:
            what = f"worker {worker.name!r} computes with weights, and the model has no `path`"
            yield loc, what, "set `path` to a Hugging Face folder, or use `engine: emulated`"
        if worker.engine == "emulated" and model.tokenizer is None and model.path is None:
            what = f"worker {worker.name!r} counts tokens, and the model has no tokenizer"
            yield loc, what, "set `tokenizer`, for example to `package:loom-s`"
        if worker.engine == "emulated" and model.shape is None and model.path is None:
            what = f"worker {worker.name!r} is emulated, and the model has no `shape` to cost it"
            yield loc, what, f"set `shape` to one of: {', '.join(sorted(catalogue.shapes()))}"


_OF_WORKERS = (_twice, _unknown, _missing_parts, _mixed, _signals, _walls, _one_way)
"""Checks that hold for workers that join at run time, too."""
