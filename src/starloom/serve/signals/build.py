"""The signals of a site's upstream workers, put together."""

import asyncio
import os
from collections.abc import Callable

import httpx

from starloom.serve.signals.base import KeySink
from starloom.serve.signals.board import LoadBoard
from starloom.serve.signals.reader import EventReader
from starloom.serve.signals.roots import roots
from starloom.serve.signals.scrape import TIMEOUT_S, MetricsSource, http_fetch
from starloom.serve.signals.source import KvEventSource, Publisher
from starloom.site import KvEvents, OpenAIWorker, Site

RootOfTenant = Callable[[str, str], bytes]
"""(model, tenant) -> the root of that tenant's keys without a salt of its own, as the gateway
computes it (`serve.gateway.prompts`)."""


class Signals:
    """Every source of a site, started and closed together. Nothing here fails a request."""

    def __init__(
        self,
        site: Site,
        sink: KeySink,
        board: LoadBoard,
        root_of_tenant: RootOfTenant,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.events: dict[str, KvEventSource] = {}
        self.metrics: dict[str, MetricsSource] = {}
        self._site = site
        self._sink = sink
        self._board = board
        self._root_of_tenant = root_of_tenant
        self._client = httpx.AsyncClient(transport=transport, timeout=TIMEOUT_S)
        for worker in site.workers:
            if isinstance(worker, OpenAIWorker):
                self._add(worker)

    async def start(self) -> None:
        """Begin to listen and to ask. Raises `NoZmq`."""
        for events in self.events.values():
            await events.start()
        for metrics in self.metrics.values():
            await metrics.start()

    async def join(self, worker: OpenAIWorker) -> None:
        """Begin to listen to a worker that the sink knows. Raises `NoZmq`."""
        self._add(worker)
        if worker.name in self.metrics:
            await self.metrics[worker.name].start()
        if worker.name in self.events:
            await self.events[worker.name].start()

    async def leave(self, name: str) -> None:
        """Listen to a worker no longer, before the sink forgets it."""
        events, metrics = self.events.pop(name, None), self.metrics.pop(name, None)
        if events is not None:
            await events.close()
        if metrics is not None:
            await metrics.close()
        self._board.forget(name)

    async def close(self) -> None:
        await asyncio.gather(
            *(events.close() for events in self.events.values()),
            *(metrics.close() for metrics in self.metrics.values()),
        )
        await self._client.aclose()

    def _add(self, worker: OpenAIWorker) -> None:
        block_tokens = self._site.model(worker.model).block_tokens
        if worker.kv_events is not None:
            tenant = worker.kv_events.tenant
            root = None if tenant is None else self._root_of_tenant(worker.model, tenant)
            source = _events(worker.name, worker.kv_events, block_tokens, self._sink, root)
            self.events[worker.name] = source
        if worker.metrics != "none":
            fetch = http_fetch(self._client, worker.metrics_address, _headers(worker))
            self.metrics[worker.name] = MetricsSource(
                worker.name,
                worker.metrics,
                fetch,
                self._board,
                every_s=worker.metrics_every_s,
                block_tokens=block_tokens,
            )


def _events(
    name: str,
    stated: KvEvents,
    block_tokens: int,
    sink: KeySink,
    unsalted: bytes | None,
) -> KvEventSource:
    root_of = roots(unsalted, stated.lora_name)
    replay = stated.replay_endpoint is not None
    first = Publisher(stated.endpoint, stated.replay_endpoint)
    return KvEventSource(
        name,
        [first.of_rank(rank) for rank in range(stated.ranks)],
        lambda: EventReader(block_tokens, root_of, replay=replay),
        sink,
        topic=stated.topic,
    )


def _headers(worker: OpenAIWorker) -> dict[str, str]:
    key = os.environ.get(worker.key_env, "").strip() if worker.key_env else ""
    return {"Authorization": f"Bearer {key}"} if key else {}
