"""Load by wrk, and what processes use meanwhile."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starloom.bench.base import BenchError

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
UNIQUE = "{drawn}"
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked: bodies and keys are drawn at random for each request.

    `UNIQUE` in a body becomes a number that is drawn too, so that no two requests are the same.
    """

    path: str
    bodies: Sequence[dict[str, Any]]
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class Got:
    """One run of wrk."""

    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    failed: int


class Load:
    """wrk with one thread against one address."""

    def __init__(self, asked: Asked, folder: Path, url: str, keys: Sequence[str]) -> None:
        self._url = url + asked.path
        self._script = folder / "wrk.lua"
        halves = [
            json.dumps(body, separators=(",", ":")).partition(UNIQUE) for body in asked.bodies
        ]
        bodies = ",\n".join(f"{{{_lua(head)}, {_lua(tail)}}}" for head, _, tail in halves)
        names = ",\n".join(_lua(key) for key in keys)
        self._script.write_text(
            f"local bodies = {{{bodies}}}\nlocal keys = {{{names}}}\n"
            "function request()\n"
            "  local headers = {['Content-Type'] = 'application/json',\n"
            "    ['Authorization'] = 'Bearer ' .. keys[math.random(#keys)]}\n"
            "  local body = bodies[math.random(#bodies)]\n"
            "  local drawn = body[1] .. math.random(1000000000) .. body[2]\n"
            "  return wrk.format('POST', nil, headers, drawn)\n"
            "end\n"
        )

    def run(self, connections: int, seconds: float) -> Got:
        """Ask for a while over so many connections."""
        command = [
            *("wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--latency"),
            *("--timeout", "30s", "-s", str(self._script), self._url),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        text = done.stdout
        found = {
            name: re.search(pattern, text)
            for name, pattern in (
                ("requests", r"(\d+) requests in"),
                ("rps", r"Requests/sec:\s+([\d.]+)"),
                ("p50", r"50%\s+([\d.]+)(us|ms|s|m)\b"),
                ("p99", r"99%\s+([\d.]+)(us|ms|s|m)\b"),
            )
        }
        if done.returncode or not all(found.values()):
            raise BenchError(f"wrk failed: {done.stderr or text}")
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        errors = re.search(r"Socket errors: .*", text)
        failed = re.findall(r"(?:connect|read|write) (\d+)", errors[0]) if errors else []
        failed += [bad[1]] if bad else []
        matches = {name: match for name, match in found.items() if match is not None}
        return Got(
            requests=int(matches["requests"][1]),
            rps=float(matches["rps"][1]),
            p50_ms=float(matches["p50"][1]) * _UNITS[matches["p50"][2]],
            p99_ms=float(matches["p99"][1]) * _UNITS[matches["p99"][2]],
            failed=sum(map(int, failed)),
        )


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found, at = [pid], 0
    while at < len(found):
        for task in Path(f"/proc/{found[at]}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
        at += 1
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds that processes have used."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def rss_mib(pids: Sequence[int]) -> float:
    """Memory that processes have in core now."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * _PAGE / 2**20


def _lua(text: str) -> str:
    return json.dumps(text)
