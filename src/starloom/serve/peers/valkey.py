"""The bus between machines: publish and subscribe on a Valkey or Redis server.

Frames are figures, hashes and addresses of workers: no prompt and no secret is in them. When the
server is away each gateway goes on with what it knows of itself.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)

_AGAIN_S = 1.0
_WAITING = 1024


class ValkeyBus:
    """`channel` names the site, so that many can share a server. Needs the extra `valkey`."""

    near = False

    def __init__(self, url: str, channel: str) -> None:
        self._url = url
        self._channel = channel
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)

    def named(self, peer: str) -> None:
        """Frames carry the name."""

    def send(self, frame: bytes) -> None:
        if not self._queue.full():
            self._queue.put_nowait(frame)

    async def run(self, take: Callable[[bytes], None], left: Callable[[str], None]) -> None:  # noqa: ARG002
        """As `Bus.run`; who is gone shows by its silence."""
        from redis.asyncio import Redis
        from redis.exceptions import RedisError

        while True:
            client: Any = Redis.from_url(self._url, socket_connect_timeout=2.0)
            try:
                async with client, client.pubsub() as inbox, asyncio.TaskGroup() as group:
                    await inbox.subscribe(self._channel)
                    _log.info("the bus is up")
                    group.create_task(self._publish(client))
                    group.create_task(self._listen(inbox, take))
            except* (RedisError, OSError) as errors:
                _log.warning("the bus is away: %s", errors.exceptions[0])
            await asyncio.sleep(_AGAIN_S)

    async def _publish(self, client: Any) -> None:
        while True:
            await client.publish(self._channel, await self._queue.get())

    async def _listen(self, inbox: Any, take: Callable[[bytes], None]) -> None:
        async for message in inbox.listen():
            if message["type"] == "message":
                take(message["data"])
