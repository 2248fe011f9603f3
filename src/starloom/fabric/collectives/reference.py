"""Published measurements, and our time for each: what the closed forms are judged on."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starloom.fabric.collectives.base import Kind, Level
from starloom.fabric.collectives.cost import Collectives
from starloom.fabric.collectives.errors import BadCollective
from starloom.site.catalogue import collectives_reference, link_generations
from starloom.site.links import LinkGeneration

POD_CHIPS = 1 << 14
CSV_SYSTEMS = {
    "HGX H100": ("nvlink4", 18, "ib400", 1.0),
    "HGX H100 SXM": ("nvlink4", 18, "ib400", 1.0),
    "HGX H200": ("nvlink4", 18, "ib400", 1.0),
    "H800": ("nvlink4", 8, "ib400", 1.0),
    "GB200 NVL72": ("nvlink5", 18, "ib400", 1.0),
    "A100 (3 nodes)": ("nvlink3", 12, "ib200", 0.5),
}
"""What is inside the systems that a CSV of nccl-tests figures names."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One published figure."""

    system: str
    scale_up: str
    links_per_chip: int
    scale_out: str
    ports_per_chip: float
    chips: int
    domains: int
    kind: Kind
    algorithm: str | None
    size_bytes: int
    time_us: float
    fitted: bool
    """Whether the fit may see it; others are judged only."""
    source: str

    def levels(self, generations: Mapping[str, LinkGeneration]) -> tuple[Level, Level]:
        """The system as two levels: its nodes or racks, and the network between them."""
        inside = self.chips // self.domains
        inner = generations[self.scale_up]
        outer = generations[self.scale_out]
        return (
            Level.of("scale_up", inside, inner, links_per_chip=self.links_per_chip),
            Level.of(
                "scale_out",
                max(POD_CHIPS, self.chips),
                outer,
                links_per_chip=self.ports_per_chip,
            ),
        )

    def time_of(self, generations: Mapping[str, LinkGeneration]) -> float:
        """Our time in us."""
        costs = Collectives(self.levels(generations))
        domain = 0 if self.domains == 1 else 1
        seconds = costs.collective_time(
            self.kind, self.size_bytes, self.chips, domain, algorithm=self.algorithm
        )
        return 1e6 * float(seconds)

    def error_pct(self, generations: Mapping[str, LinkGeneration]) -> float:
        """Ours over theirs, less one."""
        return 100 * (self.time_of(generations) / self.time_us - 1)


def bus_factor(kind: Kind, group: int) -> float:
    """Bus bandwidth over algorithm bandwidth, as nccl-tests' PERFORMANCE.md defines it."""
    if kind is Kind.ALL_REDUCE:
        return 2 * (group - 1) / group
    if kind in (Kind.REDUCE_SCATTER, Kind.ALL_GATHER, Kind.ALL_TO_ALL):
        return (group - 1) / group
    return 1.0


def shipped() -> list[Measured]:
    """The table in the catalogue."""
    found = []
    for row in collectives_reference():
        system, up, links, out, ports, chips, domains, kind, how, size, time, use, source = row
        found.append(
            Measured(
                system=str(system),
                scale_up=str(up),
                links_per_chip=int(links),
                scale_out=str(out),
                ports_per_chip=float(ports),
                chips=int(chips),
                domains=int(domains),
                kind=Kind(str(kind)),
                algorithm=None if how == "any" else str(how),
                size_bytes=int(size),
                time_us=float(time),
                fitted=use == "fit",
                source=str(source),
            )
        )
    return found


def from_csv(path: Path) -> tuple[list[Measured], list[str]]:
    """Rows of a CSV in the form of `nccl_reference.csv` under STARLOOM_DATA, judged only.

    Returns the rows, and why others were left out. Raises `BadCollective` for a file that is none.
    """
    found: list[Measured] = []
    left_out: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadCollective(f"{path}: {error}: give a CSV of nccl-tests figures") from error
    for line, row in enumerate(rows, 2):
        try:
            one = _parsed(row)
        except (KeyError, ValueError) as error:
            left_out.append(f"{path.name}:{line}: {error}")
            continue
        if isinstance(one, str):
            left_out.append(f"{path.name}:{line}: {one}")
        else:
            found.append(one)
    return found, left_out


def _parsed(row: dict[str, str]) -> Measured | str:
    system = row["system"]
    if "do not calibrate" in row.get("note", ""):
        return "its note says that the system was unhealthy"
    if system not in CSV_SYSTEMS:
        return f"what is inside {system!r} is not known here"
    if not row["gpus"].isdigit() or not (row["size_bytes"] or "").isdigit():
        return "names no number of GPUs, or no size"
    scale_up, links, scale_out, ports = CSV_SYSTEMS[system]
    chips, size = int(row["gpus"]), int(row["size_bytes"])
    kind = Kind(row["collective"].replace("alltoall", "all_to_all"))
    if row["time_us"]:
        time_us = float(row["time_us"])
    else:
        time_us = size * bus_factor(kind, chips) / float(row["busbw_GBps"]) / 1e3
    return Measured(
        system=f"{system} x{chips}",
        scale_up=scale_up,
        links_per_chip=links,
        scale_out=scale_out,
        ports_per_chip=ports,
        chips=chips,
        domains=int(row["nodes_or_racks"].split()[0]),
        kind=kind,
        algorithm="ring" if row["algorithm"] == "Ring" else None,
        size_bytes=size,
        time_us=time_us,
        fitted=False,
        source=row["source"],
    )


def agreement(
    rows: Sequence[Measured], generations: Mapping[str, LinkGeneration] | None = None
) -> list[tuple[Measured, float]]:
    """Each row with our error in percent; by default with the catalogue's generations."""
    known = link_generations() if generations is None else generations
    return [(row, row.error_pct(known)) for row in rows]
