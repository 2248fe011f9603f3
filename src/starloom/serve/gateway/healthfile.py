"""What this gateway process knows of its workers, in a file that `starloom status` reads.

The run folder's owner may see it without a key, as it may ask workers without one.
"""

import asyncio
import logging
from pathlib import Path

import msgspec

from starloom.serve.gateway.membership import Members, WorkerState
from starloom.serve.rundir import write_whole

_log = logging.getLogger(__name__)

_EVERY_S = 1.0


async def keep_written(path: Path, members: Members) -> None:
    """Until cancelled: the states of all workers, written again when they are others."""
    written = b""
    while True:
        states = msgspec.json.encode(members.states())
        if states != written:
            try:
                write_whole(path, states)
            except OSError as error:
                _log.warning("cannot write %s: %s", path, error)
            written = states
        await asyncio.sleep(_EVERY_S)


def read(path: Path) -> list[WorkerState]:
    """What a gateway process wrote last; nothing where there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[WorkerState])
    except (OSError, msgspec.MsgspecError):
        return []
