"""What was said up to each response, for requests that go on from one.

It lives in one process's memory: another gateway, or this one after a restart, does not know it.
"""

from collections import OrderedDict
from typing import Any

import msgspec

from starloom.serve.errors import BadRequest

_LIMIT_BYTES = 16 << 20
_Turns = list[dict[str, Any]]


class NoSuchResponse(BadRequest):
    """It was never kept, or had to go."""

    status, code = 404, "previous_response_not_found"


class Conversations:
    """Up to `limit_bytes` of turns for each tenant; the least recently used ones go first."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._kept: dict[str, OrderedDict[str, bytes]] = {}
        self._bytes: dict[str, int] = {}

    def keep(self, tenant: str, response: str, turns: _Turns) -> None:
        """Remember the turns up to a response; what is larger than all the room is not kept."""
        data = msgspec.json.encode(turns)
        if len(data) > self._limit_bytes:
            return
        kept = self._kept.setdefault(tenant, OrderedDict())
        kept[response] = data
        size = self._bytes.get(tenant, 0) + len(data)
        while size > self._limit_bytes:
            _, gone = kept.popitem(last=False)
            size -= len(gone)
        self._bytes[tenant] = size

    def turns(self, tenant: str, response: str) -> _Turns:
        """The turns up to a response of this tenant. Raises `NoSuchResponse`."""
        kept = self._kept.get(tenant)
        data = None if kept is None else kept.get(response)
        if kept is None or data is None:
            what = f"there is no response {response!r} here (any more): send the whole input"
            raise NoSuchResponse(what, param="previous_response_id")
        kept.move_to_end(response)
        return msgspec.json.decode(data, type=_Turns)
