"""The contract of signals: what upstream servers say of themselves, in our own words.

Two kinds. *Key operations* say which KV blocks a worker holds, in our block keys
(`starloom.kv.keys`), so that a scheduler's index never sees an engine's hash. A *load* says how
busy it is. Both are hints: a worker without signals is scheduled by what the gateway itself counts,
never refused.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, Self

import msgspec

from starloom.serve.base import LoadReport

Tier = Literal["hbm", "dram", "ssd"]
"""Where an engine keeps a block: on the chip, in its host's memory, on its host's disks."""


class Stored(msgspec.Struct, frozen=True):
    """The worker now holds these blocks, each of which follows the one before it.

    A key is never stored twice in a tier without a removal between.
    """

    parent: bytes | None
    """The key that the first one follows; None at the beginning of a prompt."""
    keys: tuple[bytes, ...]
    tier: Tier = "hbm"


class Removed(msgspec.Struct, frozen=True):
    """The worker holds these blocks no longer. Only keys that are stored are removed."""

    keys: tuple[bytes, ...]
    tier: Tier = "hbm"


class Cleared(msgspec.Struct, frozen=True):
    """Nothing is known to be held, in any tier."""


class NeedReplay(msgspec.Struct, frozen=True):
    """Ask the server for its batches from `start` on, and feed them to the reader."""

    start: int


Operation = Stored | Removed | Cleared | NeedReplay


class KeySink(Protocol):
    """An index of who holds what; `serve.schedule.WorkerTable` is one.

    Called in the event loop: short, and never raising.
    """

    def stored(
        self, name: str, parent: bytes | None, keys: Sequence[bytes], tier: Tier = "hbm"
    ) -> None:
        """The worker holds `keys`, a chain that follows `parent` (None: from the beginning)."""

    def removed(self, name: str, keys: Sequence[bytes], tier: Tier = "hbm") -> None:
        """The worker holds `keys` no longer."""

    def cleared(self, name: str) -> None:
        """Nothing is known of the worker, in any tier."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a worker says it is, over all its engines and ranks."""

    running: int = 0
    waiting: int = 0
    waiting_tokens: int | None = None
    """Prompt tokens not prefilled yet; None where the server does not say."""
    kv_usage: float | None = None
    """Share of the KV cache that running sequences hold, 0 to 1."""
    kv_blocks: int | None = None
    block_tokens: int | None = None
    prefix_tokens_total: int | None = None
    """Prompt tokens that were looked up in the prefix cache since the server started."""
    prefix_hit_tokens_total: int | None = None

    @classmethod
    def of_report(cls, report: LoadReport) -> Self:
        """The load in a report of a worker of ours."""
        blocks = report.kv_blocks
        return cls(
            running=report.running,
            waiting=report.waiting,
            waiting_tokens=report.waiting_tokens,
            kv_usage=report.kv_blocks_used / blocks if blocks else None,
            kv_blocks=blocks or None,
            prefix_tokens_total=report.prompt_tokens_total,
            prefix_hit_tokens_total=report.cached_tokens_total,
        )


class Counts(msgspec.Struct):
    """What a reader has seen. Totals since its start; blocks unless named otherwise."""

    batches: int = 0
    stored: int = 0
    removed: int = 0
    cleared: int = 0
    """Times that all belief was dropped, for whatever reason."""
    gaps: int = 0
    """Times that sequence numbers jumped."""
    replays: int = 0
    failed_replays: int = 0
    restarts: int = 0
    """Times that the server turned out to be a new one."""
    orphans: int = 0
    """Blocks ignored since their parent is not known."""
    elsewhere: int = 0
    """Blocks ignored since they lie in a medium that is no worker's own, or that we do not know."""
    foreign: int = 0
    """Blocks ignored since no request of ours could reuse them: other salt, adapter or modality."""
    wrong_block_tokens: int = 0
    """Blocks ignored since they have another size than ours."""
    malformed: int = 0
    """Batches or events that could not be read."""
    unknown_events: int = 0
    """Events of kinds that we do not know, which are skipped."""
    evicted: int = 0
    """Blocks forgotten since the reader's memory is bounded."""
