"""Which node a block lives on: rendezvous hashing with weights. Pure, no table, no service.

Every client that knows the same nodes finds the same home for a key, and when a node comes or goes
only the keys that it wins or held move. A node's score for a tag is w / -ln(u) with u uniform in
(0, 1) out of blake3(node, tag): node n wins with probability w_n / sum(w) (Thaler, Ravishankar
1998; weights by Schindelhauer, Schomaker 2005).

The tag is the key's first 8 bytes, which blocks of one segment of a chain share
(`starloom.kv.segments`): a segment has one home and is read in one request. Keys that come from
elsewhere spread block by block, which costs more requests and no byte.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from blake3 import blake3


class Weighted(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...


_N = TypeVar("_N", bound=Weighted)


def ranking(tag: bytes, nodes: Iterable[_N]) -> list[_N]:
    """The nodes from a tag's home down; after the loss of the first the next is its home."""
    return sorted(nodes, key=lambda node: (-_score(tag, node), node.name))


def home(tag: bytes, nodes: Sequence[_N]) -> _N | None:
    """Where blocks of a tag live; None where there are no nodes."""
    return max(nodes, key=lambda node: (_score(tag, node), node.name), default=None)


def _score(tag: bytes, node: Weighted) -> float:
    digest = blake3(tag + node.name.encode()).digest(8)
    # 52 bits, so that the half is exact and 1 itself is never met.
    uniform = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52
    return node.weight / -math.log(uniform)
