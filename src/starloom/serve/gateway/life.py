"""What has to live while requests are answered: started in order, ended in the other one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

Loop = Callable[[], Coroutine[None, None, None]]
End = Callable[[], Awaitable[object]]


class Service(Protocol):
    """A part that holds something open: sockets, tasks, other processes' ears."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


@asynccontextmanager
async def living(
    services: Sequence[Service], last: Service, loops: Sequence[Loop], ends: Sequence[End]
) -> AsyncIterator[None]:
    """Start the services and `last`, which rests on them, and keep the loops running.

    What was started is closed and every one of `ends` is called, wherever this is broken off.
    """
    async with AsyncExitStack() as stack:
        for end in reversed(ends):
            stack.push_async_callback(end)
        stack.push_async_callback(_close, services)
        for service in services:
            await service.start()
        stack.push_async_callback(last.close)
        await last.start()
        stack.push_async_callback(_cancel, [asyncio.create_task(loop()) for loop in loops])
        yield


async def _close(services: Sequence[Service]) -> None:
    await asyncio.gather(*(service.close() for service in services))


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
