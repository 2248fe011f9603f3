"""One engine's block hashes, each with our key for the same block.

An engine's hash is opaque: it may be seeded at random, and its recipe changes between versions. So
a block's key is computed again from what went into it (`token_ids` behind the parent's key), and
the engine's hash serves only to find parents and removals. Bounded: the oldest go first, and a
block that is forgotten is told to be removed, so that what is believed stays a part of what is
true.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from starloom.kv.keys import block_keys
from starloom.serve.signals.base import Counts, Operation, Removed, Stored, Tier
from starloom.serve.signals.roots import RootOf
from starloom.serve.signals.wire import BlockRemoved, BlockStored

MAX_BLOCKS = 1 << 20
"""A tier's blocks per engine: 16 M tokens in blocks of 16."""
_TIERS: dict[str, Tier] = {
    "GPU": "hbm",
    "CPU": "dram",
    "CPU_PINNED": "dram",
    "DISK": "ssd",
    "STORAGE": "ssd",
}
_PART_OF_PREFIX = ("sliding", "chunk", "mamba", "linear", "cross", "encoder")
"""Groups that hold only a part of a prefix. Those of full attention speak for the block."""


class Link(NamedTuple):
    """A block of ours and the one that it follows (None: it is a prompt's first)."""

    parent: bytes | None
    key: bytes


class BlockMap:
    """What one engine (one data-parallel rank) holds. Pure; every call returns operations."""

    def __init__(
        self, block_tokens: int, root_of: RootOf, counts: Counts, *, max_blocks: int = MAX_BLOCKS
    ) -> None:
        self._block_tokens = block_tokens
        self._root_of = root_of
        self._max_blocks = max_blocks
        self._counts = counts
        self._held: dict[Tier, dict[int, Link]] = {}
        self._copies: dict[tuple[Tier, int], int] = {}
        """Further copies of a block. vLLM does not merge equal blocks: it tells of each copy that
        is stored and of each that is removed."""
        self._skipped_groups: set[int] = set()
        self.other_block_tokens: int | None = None
        """A block size that was seen and is not ours."""

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def clear(self) -> None:
        self._held.clear()
        self._copies.clear()

    def held(self) -> list[Stored]:
        """All that is held, as if it were stored now."""
        return [
            _stored(chain, tier)
            for tier, held in self._held.items()
            for chain in chains(held.values())
        ]

    def stored(self, event: BlockStored) -> list[Operation]:
        if event.kind is not None and event.kind.startswith(_PART_OF_PREFIX):
            if event.group is not None:
                self._skipped_groups.add(event.group)
            return []
        tier = tier_of(event.medium)
        if tier is None:
            self._counts.elsewhere += len(event.hashes)
            return []
        if not event.tokens:
            return self._moved(tier, event.hashes)
        links = self._keyed(event)
        return self._hold(tier, event.hashes[: len(links)], links)

    def removed(self, event: BlockRemoved) -> list[Operation]:
        if event.group in self._skipped_groups:
            return []
        tier = tier_of(event.medium)
        if tier is None:
            return []
        held = self._held.get(tier, {})
        gone: list[bytes] = []
        for each in event.hashes:
            copies = self._copies.pop((tier, each), 0)
            if copies > 1:
                self._copies[tier, each] = copies - 1
            elif copies == 0 and (link := held.pop(each, None)) is not None:
                gone.append(link.key)
        self._counts.removed += len(gone)
        return [Removed(tuple(gone), tier)] if gone else []

    def _keyed(self, event: BlockStored) -> list[Link]:
        """Our names of the event's leading blocks that are ours; empty when none is."""
        blocks, size = len(event.hashes), self._block_tokens
        if event.block_tokens != size:
            self._counts.wrong_block_tokens += blocks
            self.other_block_tokens = event.block_tokens
            return []
        if len(event.tokens) != blocks * size:
            self._counts.malformed += 1
            return []
        parent: bytes | None = None
        if event.parent is None:
            before = self._root_of(_salt(event), event.lora_name)
            if before is None:
                self._counts.foreign += blocks
                return []
        else:
            link = self._link(event.parent)
            if link is None:
                self._counts.orphans += blocks
                return []
            before = parent = link.key
        ours = _text_blocks(event)
        self._counts.foreign += blocks - ours
        try:
            keys = block_keys(before, event.tokens[: ours * size], size)
        except (TypeError, ValueError, OverflowError):  # tokens that are no token ids
            self._counts.malformed += 1
            return []
        return [Link(*pair) for pair in zip([parent, *keys], keys, strict=False)]

    def _link(self, engine_hash: int) -> Link | None:
        for held in self._held.values():
            if (link := held.get(engine_hash)) is not None:
                return link
        return None

    def _moved(self, tier: Tier, hashes: Sequence[int]) -> list[Operation]:
        """Blocks that another tier told of already: offload events may name hashes alone."""
        known = [(each, link) for each in hashes if (link := self._link(each)) is not None]
        self._counts.orphans += len(hashes) - len(known)
        return self._hold(tier, [each for each, _ in known], [link for _, link in known])

    def _hold(self, tier: Tier, hashes: Sequence[int], links: Sequence[Link]) -> list[Operation]:
        held = self._held.setdefault(tier, {})
        new: list[Link] = []
        for each, link in zip(hashes, links, strict=True):
            if each in held:
                self._copies[tier, each] = self._copies.get((tier, each), 0) + 1
            else:
                held[each] = link
                new.append(link)
        self._counts.stored += len(new)
        operations: list[Operation] = [_stored(chain, tier) for chain in chains(new)]
        forgotten: list[bytes] = []
        while len(held) > self._max_blocks:
            oldest = next(iter(held))
            forgotten.append(held.pop(oldest).key)
            self._copies.pop((tier, oldest), None)
        if forgotten:
            self._counts.evicted += len(forgotten)
            operations.append(Removed(tuple(forgotten), tier))
        return operations


def chains(links: Iterable[Link]) -> Iterator[list[Link]]:
    """Runs of links, each of which follows the one before it."""
    run: list[Link] = []
    for link in links:
        if run and link.parent != run[-1].key:
            yield run
            run = []
        run.append(link)
    if run:
        yield run


def _stored(chain: Sequence[Link], tier: Tier) -> Stored:
    return Stored(chain[0].parent, tuple(link.key for link in chain), tier)


def tier_of(medium: str | None) -> Tier | None:
    """The tier that an event's `medium` names; no medium is an engine with one tier.

    None for `EXTERNAL` (SGLang's shared pools, which are no worker's own) and what is new to us.
    """
    return "hbm" if medium is None else _TIERS.get(medium.upper())


def _salt(event: BlockStored) -> str | None:
    """The cache salt of a chain's first block.

    vLLM's extra keys of a block are, in this order: the adapter's name, multimodal items, the salt
    (in the first block only) and hashes of prompt embeddings; newer ones are maps with a `type`.
    """
    if event.cache_salt is not None:
        return event.cache_salt
    salt: str | None = None
    for key in _extras(event, 0):
        if isinstance(key, dict) and key.get("type") == "cache_salt":
            return str(key.get("salt"))
        if isinstance(key, str) and key != event.lora_name:
            salt = key
    return salt


def _text_blocks(event: BlockStored) -> int:
    """How many leading blocks hang on tokens alone.

    Equal placeholder tokens may stand for different images. Their blocks, and those behind them,
    are not named by tokens, and the gateway's keys never meet them.
    """
    if event.extra_keys is None:
        return len(event.hashes)
    for at in range(len(event.hashes)):
        for key in _extras(event, at):
            named = key.get("type") if isinstance(key, dict) else None
            if not isinstance(key, str) and named not in ("lora", "cache_salt"):
                return at
    return len(event.hashes)


def _extras(event: BlockStored, at: int) -> Sequence[Any]:
    extras = event.extra_keys
    if extras is None or at >= len(extras):
        return ()
    entry = extras[at]
    return entry if isinstance(entry, list) else ()
