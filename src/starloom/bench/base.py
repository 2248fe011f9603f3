"""The bench frame: options in, rows and notes out, with the machine that they were measured on."""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

Told = Callable[[str], None]


class BenchError(Exception):
    """A bench cannot run; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """What every bench is asked with."""

    data: Path | None = None
    """Other data of the same form as the bench's own."""
    seed: int = 0
    quick: bool = False
    """End within a minute."""
    htsim: Path | None = None
    """Binary of a peer to pair with, for `bench fabric`."""
    calculon: Path | None = None
    """Checkout of a peer to time, for `bench plan`."""


class Row(TypedDict):
    """One measured figure."""

    system: str
    case: str
    metric: str
    value: float
    unit: str


class Report(TypedDict):
    """What a bench prints as JSON."""

    bench: str
    version: str
    seed: int
    machine: dict[str, str | int | float]
    rows: list[Row]
    notes: list[str]


@dataclass(slots=True)
class Results:
    """Rows and notes as a bench gathers them."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, system: str, case: str, metric: str, value: float, unit: str) -> None:
        row = Row(system=system, case=case, metric=metric, value=round(value, 4), unit=unit)
        self.rows.append(row)


def machine() -> dict[str, str | int | float]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
