"""What a core is given and what it returns: plain arrays, the same for either core."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from starloom.fabric.clos import Clos, Floats, Ints
from starloom.fabric.errors import BadScenario

if TYPE_CHECKING:
    from starloom.fabric.scenario import Scenario

PS_PER_US = 1_000_000
Told = Callable[[float, str], None]
"""Progress: share done (0-1) and a word."""


@dataclass(frozen=True, slots=True)
class Flows:
    """The transfers of a run, one entry each."""

    src: Ints
    dst: Ints
    payload_bytes: Ints
    start_ps: Ints

    @classmethod
    def of(cls, src: Ints, dst: Ints, payload_bytes: Ints | int, start_ps: Ints | int = 0) -> Self:
        """From arrays or single values, spread over all flows."""
        n = len(src)
        return cls(
            np.asarray(src, dtype=np.int64),
            np.asarray(dst, dtype=np.int64),
            np.ascontiguousarray(np.broadcast_to(np.asarray(payload_bytes, dtype=np.int64), n)),
            np.ascontiguousarray(np.broadcast_to(np.asarray(start_ps, dtype=np.int64), n)),
        )

    def __len__(self) -> int:
        return len(self.src)

    def check(self, clos: Clos) -> None:
        """Raises `BadScenario` for a flow that cannot be: no such host, to itself, no bytes."""
        for ends, word in ((self.src, "source"), (self.dst, "destination")):
            wrong = np.flatnonzero((ends < 0) | (ends >= clos.hosts))
            if len(wrong):
                at = int(wrong[0])
                what = f"flow {at}: {word} {int(ends[at])} is no host"
                raise BadScenario(f"{what}: there are {clos.hosts}, counted from 0")
        for found, what in (
            (self.src == self.dst, "goes from a host to itself: give another destination"),
            (self.payload_bytes <= 0, "has no bytes: give at least 1"),
            (self.start_ps < 0, "starts before 0"),
        ):
            if found.any():
                raise BadScenario(f"flow {int(np.argmax(found))} {what}")


@dataclass(frozen=True, slots=True)
class Result:
    """What a core found. Link arrays are by `Clos` link id; flow arrays in the order of `Flows`."""

    core: str
    """`packet` or `flow`."""
    fct_ps: Ints
    """From a flow's start to its end at the sender (last acknowledgement); -1: it did not end."""
    link_bytes: Ints
    """Bytes on the wire, acknowledgements and headers included where the core knows them."""
    end_ps: int
    """Simulated time when the run stopped."""
    cpu_s: float
    """Of the event loop or the solves, compilation not included."""
    new_packets: Ints | None = None
    retransmitted: Ints | None = None
    """Packets sent again, by flow."""
    link_trims: Ints | None = None
    link_drops: Ints | None = None
    """Packets lost on a link: no room, corrupted, or the link was down."""
    queue_peak_bytes: Ints | None = None
    hops: int = 0
    """Packets, acknowledgements and trimmed headers that left a queue."""
    events: int = 0
    samples_ps: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    samples_bytes: Ints = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    """Queue over time, shape (samples, watched links)."""
    watched: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def finished(self) -> int:
        return int((self.fct_ps >= 0).sum())

    @property
    def fct_us(self) -> Floats:
        """Of the flows that ended."""
        return self.fct_ps[self.fct_ps >= 0] / PS_PER_US

    @property
    def makespan_us(self) -> float:
        """The slowest flow, for flows that all start at 0 the time of the collective."""
        return float(self.fct_us.max()) if self.finished else float("nan")


class Core(Protocol):
    """One way to find out how long a scenario's flows take."""

    @property
    def name(self) -> str: ...

    def run(self, scenario: "Scenario", seed: int, told: Told = ...) -> Result:
        """Deterministic in (scenario, seed). Raises `TooLarge` before it takes memory."""
        ...
