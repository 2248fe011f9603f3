"""KV event batches as vLLM and SGLang publish them: msgpack, as maps or as positional arrays.

Source: vllm-project/vllm `vllm/distributed/kv_events.py`, sgl-project/sglang
`python/sglang/srt/disaggregation/kv_events.py` and `srt/mem_cache/events.py`. Both leave fields at
their default out (a map lacks them, an array ends early), and both have grown fields at the end, so
that a reader takes what it knows and lets the rest be.

    batch     {ts, events, data_parallel_rank}            or [ts, events, data_parallel_rank]
    stored    {type: BlockStored, block_hashes, parent_block_hash, token_ids, block_size, lora_id,
               medium, lora_name, extra_keys, group_idx, kv_cache_spec_kind, cache_salt, ...}
    removed   {type: BlockRemoved, block_hashes, medium, group_idx}
    cleared   {type: AllBlocksCleared}                    or [tag, field, field, ...] in that order
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from starloom.serve.signals.errors import BadBatch
from starloom.serve.signals.roots import SALT_PREFIX

_HASH_BITS = (1 << 64) - 1
_FIELDS = {
    "BlockStored": (
        "block_hashes",
        "parent_block_hash",
        "token_ids",
        "block_size",
        "lora_id",
        "medium",
        "lora_name",
        "extra_keys",
        "group_idx",
        "kv_cache_spec_kind",
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
    "AllBlocksCleared": (),
}


class BlockStored(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks, in the order of their chain, that a tier now holds."""

    hashes: tuple[int, ...]
    """The engine's own, 64 bits, unsigned."""
    parent: int | None
    tokens: list[int]
    """All blocks' tokens in a row; empty where the publisher does not describe them."""
    block_tokens: int
    medium: str | None = None
    lora_name: str | None = None
    cache_salt: str | None = None
    """Where the publisher has a field for it; vLLM puts it into `extra_keys`."""
    extra_keys: Sequence[Any] | None = None
    """One entry a block: None, or what else went into its hash."""
    group: int | None = None
    kind: str | None = None
    """The kind of attention of the group; None where there is one group."""


class BlockRemoved(msgspec.Struct, frozen=True, kw_only=True):
    hashes: tuple[int, ...]
    medium: str | None = None
    group: int | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True):
    pass


class UnreadEvent(msgspec.Struct, frozen=True):
    """An event that was not understood. `known` is false for a kind that is new to us."""

    tag: str
    known: bool


Event = BlockStored | BlockRemoved | AllBlocksCleared | UnreadEvent


class Batch(msgspec.Struct, frozen=True):
    events: tuple[Event, ...]
    rank: int | None
    """The data-parallel rank that published it."""


def read_batch(payload: bytes) -> Batch:
    """Decode a batch in either form. Raises `BadBatch` when it is none."""
    try:
        raw = msgspec.msgpack.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadBatch(f"not msgpack: {error}") from error
    if isinstance(raw, dict):
        events, rank = raw.get("events"), raw.get("data_parallel_rank")
    elif isinstance(raw, list) and len(raw) >= 2:
        events, rank = raw[1], raw[2] if len(raw) > 2 else None
    else:
        raise BadBatch("neither a map nor an array of a time and events")
    if not isinstance(events, list):
        raise BadBatch("its events are no list")
    return Batch(tuple(map(_event, events)), rank if isinstance(rank, int) else None)


def _event(raw: Any) -> Event:
    if isinstance(raw, dict):
        tag, fields = raw.get("type"), raw
    elif isinstance(raw, list) and raw:
        tag = raw[0]
        fields = dict(zip(_FIELDS.get(tag, ()) if isinstance(tag, str) else (), raw[1:]))  # noqa: B905
        if tag == "BlockStored":
            fields.setdefault("cache_salt", _own_salt(raw[7:]))
    else:
        return UnreadEvent("", known=False)
    if not isinstance(tag, str) or tag not in _FIELDS:
        return UnreadEvent(str(tag)[:64], known=False)
    try:
        return _read(tag, fields)
    except (TypeError, ValueError, KeyError):
        return UnreadEvent(tag, known=True)


def _read(tag: str, fields: dict[str, Any]) -> Event:
    if tag == "AllBlocksCleared":
        return AllBlocksCleared()
    hashes = tuple(map(_hash, fields["block_hashes"]))
    medium, group = _text(fields.get("medium")), _number(fields.get("group_idx"))
    if tag == "BlockRemoved":
        return BlockRemoved(hashes=hashes, medium=medium, group=group)
    parent, tokens = fields.get("parent_block_hash"), fields["token_ids"]
    if not isinstance(tokens, list):
        raise TypeError("token_ids")
    return BlockStored(
        hashes=hashes,
        parent=None if parent is None else _hash(parent),
        tokens=tokens,
        block_tokens=int(fields["block_size"]),
        medium=medium,
        lora_name=_text(fields.get("lora_name")),
        cache_salt=_text(fields.get("cache_salt")),
        extra_keys=_list(fields.get("extra_keys")),
        group=group,
        kind=_text(fields.get("kv_cache_spec_kind")),
    )


def _hash(raw: Any) -> int:
    """The low 64 bits: some events carry the whole hash as bytes, others these bits as a number."""
    if isinstance(raw, bytes):
        return int.from_bytes(raw[-8:], "big")
    if isinstance(raw, int):
        return raw & _HASH_BITS  # SGLang's are signed
    raise TypeError("a block's hash is bytes or a number")


def _own_salt(trailing: Sequence[Any]) -> str | None:
    """A salt of ours among trailing positional fields, whose order differs between servers."""
    for value in trailing:
        if isinstance(value, str) and value.startswith(SALT_PREFIX):
            return value
    return None


def _text(raw: Any) -> str | None:
    return raw if isinstance(raw, str) else None


def _number(raw: Any) -> int | None:
    return raw if isinstance(raw, int) else None


def _list(raw: Any) -> list[Any] | None:
    return raw if isinstance(raw, list) else None
