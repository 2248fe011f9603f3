"""SGLang's HiCache storage (its third level) on a pool of ours.

    --hicache-storage-backend dynamic --hicache-storage-backend-extra-config '{
      "backend_name": "starloom", "module_path": "starloom.kv.connectors.sglang_storage",
      "class_name": "StarloomStorage", "pool": "pool:///run/starloom/pool.sock"}'

`batch_get_v1` and `batch_set_v1` copy straight between the pool and the host memory that SGLang
registered. A page that lies in several pieces (K and V, say) is as many blocks of ours.
"""

import ctypes
import logging
from collections.abc import Sequence
from typing import Any

from starloom.kv.base import Pool
from starloom.kv.connectors.opening import SETTINGS, keyed, open_pool, wall
from starloom.kv.connectors.sglang_shapes import HiCacheStorage
from starloom.kv.errors import KvError

_log = logging.getLogger("starloom.kv.connectors")
_OURS = {"namespace", *SETTINGS}
_THEIRS = {"backend_name", "module_path", "class_name"}


class StarloomStorage(HiCacheStorage):
    """A page is there or it is not: every failure is a miss."""

    def __init__(self, storage_config: Any, kwargs: Any = None) -> None:
        """SGLang's factory gives both. Raises ValueError for settings that it does not know."""
        del kwargs
        extra = dict(getattr(storage_config, "extra_config", None) or {})
        self._pool: Pool = open_pool(
            **{"pool": "", **{name: extra[name] for name in SETTINGS & set(extra)}}
        )
        for name in sorted(set(extra) - _OURS - _THEIRS):
            _log.info("extra_config: %s is not ours; SGLang may use it", name)
        rank = (
            getattr(storage_config, "dcp_rank", 0)
            if storage_config.is_mla_model  # all ranks hold the same
            else (storage_config.tp_rank, storage_config.tp_size)
        )
        self._root = wall(
            "sglang hicache",
            extra.get("namespace", ""),
            storage_config.model_name,
            rank,
            storage_config.pp_rank,
            storage_config.pp_size,
            getattr(storage_config, "attn_cp_rank", 0),
            storage_config.is_page_first_layout,
        )
        self._parts = 1
        """Pieces of a page, once one has been seen."""

    def exists(self, key: str) -> bool:
        return self.batch_exists([key]) == 1

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """How many leading keys are held. Renews nothing."""
        del extra_info
        try:
            found = self._pool.longest_prefix(self._keys(keys))
        except KvError as error:
            _log.debug("a lookup is a miss: %s", error)
            return 0
        return found // self._parts

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any | None:
        """The page in the tensor `target_location`, or in a new one of bytes; None for a miss."""
        found = self.batch_get([key], [target_location], target_sizes)
        return found[0]

    def batch_get(
        self, keys: list[str], target_locations: Any = None, target_sizes: Any = None
    ) -> list[Any | None]:
        del target_sizes
        targets = list(target_locations or [None] * len(keys))
        found: list[Any | None] = [None] * len(keys)
        try:
            with self._pool.get([self._key(key, 0) for key in keys]) as lease:
                for at, view in enumerate(lease.views):
                    target = targets[at] if targets[at] is not None else _new(len(view))
                    memory = _memory(target)
                    if len(memory) != len(view):
                        break
                    memory[:] = view
                    found[at] = target
                if not lease.valid():
                    return [None] * len(keys)
        except KvError as error:
            _log.debug("a get is a miss: %s", error)
        return found

    def set(
        self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None
    ) -> bool:
        """Store a tensor's bytes; True when the page is held now."""
        del target_location, target_sizes
        return self.batch_set([key], [value])

    def batch_set(
        self,
        keys: list[str],
        values: Any = None,
        target_locations: Any = None,
        target_sizes: Any = None,
    ) -> bool:
        del target_locations, target_sizes
        values = list(values or ())
        if len(values) != len(keys) or any(value is None for value in values):
            return False
        names = [self._key(key, 0) for key in keys]
        return self._put(names, [_memory(value) for value in values]) == len(names)

    def batch_get_v1(
        self, keys: list[str], host_indices: Any, extra_info: Any = None
    ) -> list[bool]:
        """Fill SGLang's pages; of each, whether it holds what was put."""
        del extra_info
        pieces = self._pieces(len(keys), host_indices)
        good = 0
        try:
            with self._pool.get(self._keys(keys)) as lease:
                for piece, view in zip(pieces, lease.views, strict=False):
                    if len(piece) != len(view):
                        break
                    piece[:] = view
                    good += 1
                if not lease.valid():
                    good = 0
        except KvError as error:
            _log.debug("a get is a miss: %s", error)
        return [(at + 1) * self._parts <= good for at in range(len(keys))]

    def batch_set_v1(
        self, keys: list[str], host_indices: Any, extra_info: Any = None
    ) -> list[bool]:
        """Store SGLang's pages; of each, whether it is held now."""
        del extra_info
        pieces = self._pieces(len(keys), host_indices)
        held = self._put(self._keys(keys), pieces)
        return [(at + 1) * self._parts <= held for at in range(len(keys))]

    def clear(self) -> None:
        """Blocks are other engines' too: they go when they are no longer used."""

    def get_stats(self) -> Any | None:
        """`starloom status` and the pool's own metrics have them."""
        return None

    def close(self) -> None:
        self._pool.close()

    def _key(self, key: str, part: int) -> bytes:
        return keyed(self._root, b"%d %s" % (part, key.encode()))

    def _keys(self, keys: Sequence[str]) -> list[bytes]:
        return [self._key(key, part) for key in keys for part in range(self._parts)]

    def _put(self, keys: list[bytes], data: Sequence[memoryview]) -> int:
        """How many leading blocks are held afterwards."""
        try:
            self._pool.put(list(zip(keys, data, strict=True)))
            return self._pool.longest_prefix(keys)
        except KvError as error:
            _log.debug("a set was dropped: %s", error)
            return 0

    def _pieces(self, pages: int, host_indices: Any) -> list[memoryview]:
        """SGLang's memory of these pages, piece by piece."""
        found = self.mem_pool_host.get_page_buffer_meta(host_indices)
        if found is None:
            raise ValueError("this host pool does not say where its pages are: use page_first")
        pointers, sizes = found
        if pages and (not pointers or len(pointers) % pages):
            raise ValueError(f"{len(pointers)} pieces for {pages} pages")
        self._parts = len(pointers) // pages if pages else self._parts
        return [
            memoryview((ctypes.c_char * size).from_address(pointer)).cast("B")
            for pointer, size in zip(pointers, sizes, strict=True)
        ]


def _memory(tensor: Any) -> memoryview:
    """The bytes of a contiguous tensor in host memory. Raises ValueError for another one."""
    if not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise ValueError("a page must be a contiguous tensor in host memory")
    size = tensor.numel() * tensor.element_size()
    return memoryview((ctypes.c_char * size).from_address(tensor.data_ptr())).cast("B")


def _new(size: int) -> Any:
    from starloom.kv.connectors.tensors import new_bytes

    return new_bytes(size)
