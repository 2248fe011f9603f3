"""Collectives as the planner asks: `fabric`'s closed forms, each distinct question once."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starloom.fabric.collectives import Collectives, Level
from starloom.site import Supernode, catalogue

Array = NDArray[np.float64]
MAX_CHIPS = 1 << 24
SMALL = 256
MOST_KNOWN = 20_000


class Network(Protocol):
    """Seconds of collectives; arrays broadcast. Members of a group lie `stride` ranks apart."""

    def time_s(
        self, kind: str, size_bytes: ArrayLike, group: ArrayLike, stride: ArrayLike = 1
    ) -> Array: ...

    def all_to_all_s(self, size_bytes: ArrayLike, group: ArrayLike, kept: ArrayLike) -> Array:
        """`size_bytes` that a member sends; of what leaves its supernode the share `kept`."""

    def spread(self, group: ArrayLike) -> Array:
        """Supernodes that a tight group lies in."""


class FabricNetwork:
    """A supernode and the scale-out network around it, out of the catalogue."""

    def __init__(self, supernode: Supernode, chips: int | None = None) -> None:
        """`chips`: another size of the scale-up domain, all else equal."""
        self.size = supernode.chips if chips is None else chips
        self._known: dict[tuple[object, ...], Array] = {}
        parts = catalogue.link_generations()
        up, out = parts[supernode.scale_up], parts[supernode.scale_out]
        self._collectives = Collectives(
            (
                Level.of(
                    "supernode",
                    self.size,
                    up,
                    links_per_chip=supernode.scale_up_gb_per_s / up.raw_gb_per_s,
                ),
                Level.of(
                    "cluster",
                    MAX_CHIPS,
                    out,
                    links_per_chip=supernode.scale_out_gb_per_s / out.raw_gb_per_s,
                ),
            )
        )

    def time_s(
        self, kind: str, size_bytes: ArrayLike, group: ArrayLike, stride: ArrayLike = 1
    ) -> Array:
        def ask(parts: Sequence[Array]) -> Array:
            size, n, step = parts
            if kind != "send":
                return self._collectives.collective_time(kind, size, n, stride=step)
            far = (step >= self.size).astype(np.int64)
            return self._collectives.collective_time(kind, size, np.full_like(n, 2.0), far)

        return self._remembered(kind, ask, size_bytes, group, stride)

    def all_to_all_s(self, size_bytes: ArrayLike, group: ArrayLike, kept: ArrayLike) -> Array:
        def ask(parts: Sequence[Array]) -> Array:
            size, n, share = parts
            inside = np.minimum(n, self.size)
            near = size * inside / n
            within = self._collectives.collective_time("all_to_all", near, inside)
            across = self._collectives.collective_time("all_to_all", size * share, n)
            return np.where(n > self.size, np.maximum(within, across), within)

        return self._remembered("all_to_all", ask, size_bytes, group, kept)

    def _remembered(self, kind: str, ask: "Asked", *parts: ArrayLike) -> Array:
        """Small questions are asked again and again while profiles are fitted: answers are kept."""
        arrays = [np.asarray(part, dtype=np.float64) for part in parts]
        if max(one.size for one in arrays) > SMALL:
            return once(ask, *arrays)
        key = (kind, *((one.shape, one.tobytes()) for one in arrays))
        if key not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[key] = once(ask, *arrays)
        return self._known[key]

    def spread(self, group: ArrayLike) -> Array:
        return np.ceil(np.asarray(group, dtype=np.float64) / self.size)


def once(ask: "Asked", *parts: ArrayLike) -> Array:
    """`ask` on the distinct rows of the broadcast arrays alone, and its answers spread back."""
    arrays = [np.asarray(part, dtype=np.float64) for part in parts]
    shape = np.broadcast_shapes(*(one.shape for one in arrays))
    if int(np.prod(shape)) <= SMALL:
        return ask([np.broadcast_to(one, shape) for one in arrays])
    key = np.zeros(shape)
    flat = []
    for one in arrays:
        values, place = np.unique(one, return_inverse=True)
        key = key * len(values) + place.reshape(one.shape)
        flat.append(np.broadcast_to(one, shape).reshape(-1))
    _, first, back = np.unique(key, return_index=True, return_inverse=True)
    return ask([one[first] for one in flat])[back.reshape(-1)].reshape(shape)


class Asked(Protocol):
    def __call__(self, parts: Sequence[Array], /) -> Array: ...
