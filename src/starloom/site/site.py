"""The site: all nouns together, with every name that one noun uses for another resolved."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self, TypeVar

from pydantic import Field, model_validator

from starloom.site import catalogue
from starloom.site.base import (
    Chip,
    Gateway,
    Guard,
    KvPool,
    Model,
    ModelShape,
    Name,
    Node,
    Noun,
    OpenAIWorker,
    Route,
    Schedule,
    Telemetry,
    Tenant,
    Worker,
)
from starloom.site.errors import BadNames, Loc
from starloom.site.files import load


class Site(Noun):
    """One factory. `Site.load` reads it from a file; `base` is that file's folder."""

    name: Name
    base: Path = Path()
    gateway: Gateway = Gateway()
    chips: list[Chip] = []
    nodes: list[Node] = Field(min_length=1)
    models: list[Model] = Field(min_length=1)
    workers: list[Worker] = Field(min_length=1)
    pool: KvPool | None = None
    tenants: list[Tenant] = []
    guard: Guard = Guard()
    schedule: Schedule = Schedule()
    telemetry: Telemetry = Telemetry()
    routes: list[Route] = []

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and check a site file. Raises `SiteError` with all problems, lines and fixes."""
        return load(cls, Path(path))

    @model_validator(mode="after")
    def _names_hold(self) -> Self:
        checks = (_twice, _unknown, _missing_parts, _mixed, _signals, _walls, _halves, _routes)
        problems = [problem for check in checks for problem in check(self)]
        if problems:
            raise BadNames(problems)
        return self

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
    }
    for field, nouns in groups.items():
        first: dict[str, int] = {}
        for index, noun in enumerate(nouns):
            if noun.name in first:
                where = f"{field}[{first[noun.name]}]"
                what = f"the name {noun.name!r} is taken by {where}"
                yield (field, index, "name"), what, "give each a name of its own"
            first.setdefault(noun.name, index)


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
    """A prefill worker is of use beside a decode worker that takes KV in the same way."""
    halves = [
        (index, worker)
        for index, worker in enumerate(site.workers)
        if isinstance(worker, OpenAIWorker) and worker.role != "both"
    ]
    for index, worker in halves:
        other = "decode" if worker.role == "prefill" else "prefill"
        if not any(
            (peer.model, peer.role, peer.disagg) == (worker.model, other, worker.disagg)
            for _, peer in halves
        ):
            what = f"no worker of model {worker.model!r} has `role: {other}`, `disagg: "
            fix = f"add one, or set `role: both` on {worker.name!r}"
            yield ("workers", index, "role"), f"{what}{worker.disagg}`", fix


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
