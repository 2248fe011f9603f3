"""The short answers: health, readiness, models, metrics, and what can be asked."""

import msgspec

from starloom.serve.errors import UnknownModel
from starloom.serve.gateway.client import Client
from starloom.serve.gateway.metrics import Metrics
from starloom.serve.gateway.openapi import document
from starloom.serve.gateway.workers import Workers
from starloom.serve.peers import Board
from starloom.site import Model, Site

_PLAIN = b"text/plain; version=0.0.4; charset=utf-8"


class Pages:
    """Answers to GET."""

    def __init__(
        self, site: Site, workers: Workers, metrics: Metrics, board: Board | None, created: int
    ) -> None:
        self._site_models = site.models
        self._stated = {worker.model for worker in site.workers}
        self._stated |= {found.worker.model for found in site.discover}
        self._routes = [route.name for route in site.routes]
        self._workers = workers
        self._metrics = metrics
        self._board = board
        self._created = created
        self._open_metrics = site.gateway.open_metrics
        self._admin = site.gateway.admin is not None
        self.draining = False

    def answer(self, path: str, client: Client) -> bool:
        """Answer, or say that there is no such page. Raises `UnknownModel`."""
        if path == "/health":
            client.json(200, b'{"status":"ok"}')
        elif path == "/ready":
            self._ready(client)
        elif path == "/metrics":
            client.send(
                200,
                _PLAIN,
                self._metrics.page(self._board.others_samples() if self._board is not None else ()),
            )
        elif path == "/openapi.json":
            client.json(200, self._document)
        elif path == "/v1/models":
            data = [self._described(model) for model in self._models.values()]
            data += [self._named(name) for name in self._routes]
            client.json(200, msgspec.json.encode({"object": "list", "data": data}))
        elif path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models/")
            model = self._models.get(name)
            if model is None:
                raise UnknownModel(f"there is no model {name!r}", param="model")
            client.json(200, msgspec.json.encode(self._described(model)))
        else:
            return False
        return True

    @property
    def _models(self) -> dict[str, Model]:
        """Models that the site has workers for, or a worker that joined."""
        served = {engine.model for engine in self._workers.engines.values()} | self._stated
        return {model.name: model for model in self._site_models if model.name in served}

    @property
    def _document(self) -> bytes:
        found = document([*self._models], open_metrics=self._open_metrics, admin=self._admin)
        return msgspec.json.encode(found)

    def _ready(self, client: Client) -> None:
        models = self._models
        missing = [name for name in models if not self._workers.table.ready(name)]
        if self.draining or missing or not models:
            why = {"status": "draining" if self.draining else "waiting", "models": missing}
            client.json(503, msgspec.json.encode(why))
        else:
            names = self._workers.engines
            up = sum(map(self._workers.is_up, names))
            ready = {"status": "ready", "workers_up": up, "workers": len(names)}
            client.json(200, msgspec.json.encode(ready))

    def _named(self, name: str) -> dict[str, object]:
        """A name behind which models are chosen."""
        about = {"object": "model", "created": self._created, "owned_by": "starloom"}
        return {"id": name, **about}

    def _described(self, model: Model) -> dict[str, object]:
        return {
            "id": model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "starloom",
            "max_model_len": model.context_tokens,
        }
