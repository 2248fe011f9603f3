"""Traffic patterns: what a scenario file says, how many flows it means, and the flows themselves.

The count is known before an array is made, so that 10^9 flows are refused for nothing.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from starloom.fabric.base import PS_PER_US, Flows
from starloom.fabric.clos import Ints
from starloom.fabric.errors import BadScenario, TooLarge
from starloom.site.base import Count, Noun

MAX_FLOWS = 20_000_000
Host = Annotated[int, Field(ge=0)]
Bytes = Annotated[int, Field(ge=1, le=1 << 50)]
StartUs = Annotated[float, Field(ge=0)]


class Permutation(Noun):
    """Every host sends to one other, every host receives from one other; drawn from the seed."""

    kind: Literal["permutation"]
    bytes: Bytes
    hosts: Count | None = None
    """The first so many; all where not given."""
    start_us: StartUs = 0.0

    def count(self, hosts: int) -> int:
        return self.hosts or hosts

    def flows(self, hosts: int, rng: np.random.Generator, base: Path) -> Flows:
        """One cycle through all hosts in a drawn order, so that nobody sends to itself."""
        del base
        n = self.count(hosts)
        drawn = rng.permutation(n)
        order = np.empty(n, dtype=np.int64)
        order[drawn] = np.roll(drawn, -1)
        return Flows.of(np.arange(n), order, self.bytes, _ps(self.start_us))


class Incast(Noun):
    """Many to one."""

    kind: Literal["incast"]
    bytes: Bytes
    senders: Count
    receiver: Host = 0
    start_us: StartUs = 0.0

    def count(self, hosts: int) -> int:
        del hosts
        return self.senders

    def flows(self, hosts: int, rng: np.random.Generator, base: Path) -> Flows:
        """Senders are drawn without replacement from all hosts but the receiver."""
        del base
        if self.senders > hosts - 1:
            what = f"an incast of {self.senders} senders among {hosts} hosts"
            raise BadScenario(f"{what}: at most {hosts - 1} hosts can send to one")
        drawn = rng.choice(hosts - 1, self.senders, replace=False).astype(np.int64)
        src = drawn + (drawn >= self.receiver)
        return Flows.of(src, np.full_like(src, self.receiver), self.bytes, _ps(self.start_us))


class AllToAll(Noun):
    """Every host of a group to every other; nothing is drawn."""

    kind: Literal["all_to_all"]
    bytes: Bytes
    """From each to each."""
    hosts: Count | None = None
    start_us: StartUs = 0.0

    def count(self, hosts: int) -> int:
        n = self.hosts or hosts
        return n * (n - 1)

    def flows(self, hosts: int, rng: np.random.Generator, base: Path) -> Flows:
        """In rounds: in round r host i sends to i + r, as a pairwise exchange does."""
        del rng, base
        n = self.hosts or hosts
        shift, src = np.divmod(np.arange(n * (n - 1), dtype=np.int64), n)
        return Flows.of(src, (src + shift + 1) % n, self.bytes, _ps(self.start_us))


class Lone(Noun):
    """One flow."""

    kind: Literal["lone"]
    bytes: Bytes
    src: Host
    dst: Host
    start_us: StartUs = 0.0

    def count(self, hosts: int) -> int:
        del hosts
        return 1

    def flows(self, hosts: int, rng: np.random.Generator, base: Path) -> Flows:
        del hosts, rng, base
        src, dst = np.array([self.src]), np.array([self.dst])
        return Flows.of(src, dst, self.bytes, _ps(self.start_us))


class Listed(Noun):
    """Flows out of a CSV with columns `src`, `dst`, and `bytes` and `start_us` where it has them.

    So a run of another simulator can be replayed: `run_id` picks its rows out of a file of many.
    """

    kind: Literal["listed"]
    csv: str
    """Relative to the scenario's folder."""
    bytes: Bytes | None = None
    """Of every flow, where the file has no such column."""
    run_id: str | None = None
    start_us: StartUs = 0.0

    def count(self, hosts: int) -> int:
        del hosts
        return 0

    def flows(self, hosts: int, rng: np.random.Generator, base: Path) -> Flows:
        """Raises `BadScenario` with the line of the file for what cannot be read."""
        del hosts, rng
        return read_csv(base / self.csv, self.bytes, self.run_id, self.start_us)


Traffic = Annotated[Permutation | Incast | AllToAll | Lone | Listed, Field(discriminator="kind")]


def read_csv(
    path: Path, payload_bytes: int | None = None, run_id: str | None = None, start_us: float = 0.0
) -> Flows:
    """Flows of a file; `payload_bytes` and `start_us` stand for columns that it lacks."""
    found = list(_rows(path, payload_bytes, run_id, start_us))
    if not found:
        which = f" of run {run_id!r}" if run_id else ""
        raise BadScenario(f"{path}: holds no flow{which}")
    columns = np.array(found, dtype=np.int64).T
    return Flows(*(np.ascontiguousarray(column) for column in columns))


def _rows(
    path: Path, payload_bytes: int | None, run_id: str | None, start_us: float
) -> Iterator[tuple[int, int, int, int]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            lacks = {"src", "dst"} - {*names}
            if payload_bytes is None and "bytes" not in names:
                lacks.add("bytes")
            if run_id is not None and "run_id" not in names:
                lacks.add("run_id")
            if lacks:
                raise BadScenario(f"{path}:1: has no column {', '.join(sorted(lacks))}")
            for count, row in enumerate(reader):
                if run_id is not None and row["run_id"] != run_id:
                    continue
                if count >= MAX_FLOWS:
                    raise TooLarge(f"{path}: holds more than {MAX_FLOWS} rows: split the file")
                try:
                    size = payload_bytes if payload_bytes is not None else int(row["bytes"])
                    starts = float(row.get("start_us") or start_us)
                    yield int(row["src"]), int(row["dst"]), size, _ps(starts)
                except (TypeError, ValueError) as error:
                    raise BadScenario(f"{path}:{reader.line_num}: {error}") from error
    except OSError as error:
        raise BadScenario(f"{path}: cannot be read: {error.strerror}") from error


def joined(parts: list[Flows]) -> Flows:
    """All flows in one; the order is kept."""
    if len(parts) == 1:
        return parts[0]

    def all_of(name: str) -> Ints:
        return np.concatenate([getattr(part, name) for part in parts])

    return Flows(*(all_of(name) for name in ("src", "dst", "payload_bytes", "start_ps")))


def _ps(us: float) -> int:
    return round(us * PS_PER_US)
