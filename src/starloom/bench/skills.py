"""`bench skills`: what the static scan of skills catches, whom it alarms for nothing, its cost.

- Cases of the labelled corpus (`--data DIR` or STARLOOM_DATA's `skills`): one a group of
  `labels.csv`, `GROUP/held` for the half that no rule was tuned on (by author, or by id),
  `GROUP:CATEGORY` for each template. `flagged_pct` is the share with a finding of HIGH or above,
  `lo_pct` and `hi_pct` its 95 % interval (Wilson), `n` the skills, `ms_p50` the median time of a
  skill.
- `own-honest`, `own-composed`, `own-evasions`, and `own-...:KIND`: skills of our own, seeded.
- `startup`: seconds from a fresh interpreter to a scanner that is ready.

Systems: `starloom`; `cisco`, cisco-ai-skill-scanner's static analysers as they come, in
`.venv-cisco`. Hostile skills are unpacked into a scratch folder as plain files that may not be
executed, and are read.
"""

import csv
import hashlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starloom.bench import skill_variants
from starloom.bench.base import BenchError, Options, Results, Told
from starloom.bench.peers import environment
from starloom.skills import Scanner, Severity, SkillError, read_skill

_QUICK_A_GROUP, _QUICK_FOR_CISCO = 40, 60
_CISCO_S = 1_800.0
_CISCO = """
import json, sys, time
began = time.perf_counter()
from skill_scanner.core.scanner import SkillScanner
scanner = SkillScanner()
levels = ["SAFE", "INFO", "LOW", "MEDIUM", "HIGH", "CRITICAL"]
print(json.dumps({"startup_s": time.perf_counter() - began}), flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    try:
        found = scanner.scan_skill(line.strip(), lenient=True).findings
        worst = max((levels.index(it.severity.value) for it in found), default=0)
    except Exception as error:
        worst = -1
    print(json.dumps({"worst": worst, "s": time.perf_counter() - began}), flush=True)
"""
_STARTUP = """
import time
began = time.perf_counter()
from starloom.skills import Scanner
Scanner()
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class _Case:
    """One skill on disk, and the cases that it counts in."""

    folder: Path
    cases: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    flagged: bool
    took_s: float


def bench(options: Options, told: Told) -> Results:
    """Run all systems over all cases; raises `BenchError` when `--data` is no such corpus."""
    results = Results()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="starloom-skills-") as scratch:
        cases = list(_own(rng, Path(scratch) / "own"))
        data = _folder(options)
        if data is None:
            results.notes.append("no corpus of skills: give --data DIR or set STARLOOM_DATA")
        else:
            told("unpack")
            cases += _corpus(data, Path(scratch) / "corpus", options, rng)
        told(f"starloom over {len(cases):,} skills")
        _rows(results, "starloom", _starloom(cases))
        results.add("starloom", "startup", "seconds", _startup(), "s")
        if environment("cisco").exists():
            some = rng.sample(cases, min(_QUICK_FOR_CISCO, len(cases))) if options.quick else cases
            told(f"cisco over {len(some):,} skills")
            seen, startup = _cisco(some, told)
            _rows(results, "cisco", seen)
            results.add("cisco", "startup", "seconds", startup, "s")
            if options.quick:
                results.notes.append(f"--quick: cisco saw {len(some)} skills, drawn by seed")
        else:
            results.notes.append(
                "no peer: `make .venv-cisco/ready` installs cisco-ai-skill-scanner"
            )
    results.notes.append(
        "own-* are synthetic and written with the rules: coverage, not field accuracy"
    )
    return results


def _rows(results: Results, system: str, seen: Sequence[tuple[_Case, _Seen]]) -> None:
    by_case: dict[str, list[_Seen]] = defaultdict(list)
    for case, it in seen:
        for name in case.cases:
            by_case[name].append(it)
    for name in sorted(by_case):
        group = by_case[name]
        hits = sum(it.flagged for it in group)
        low, high = wilson(hits, len(group))
        results.add(system, name, "flagged_pct", 100 * hits / len(group), "%")
        results.add(system, name, "n", len(group), "skills")
        if ":" not in name:
            results.add(system, name, "lo_pct", 100 * low, "%")
            results.add(system, name, "hi_pct", 100 * high, "%")
            results.add(
                system, name, "ms_p50", 1e3 * statistics.median(it.took_s for it in group), "ms"
            )


def wilson(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927).

    Centre p + z^2/2n and half-width z sqrt(p(1-p)/n + z^2/4n^2), both over 1 + z^2/n.
    """
    share = hits / count
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _starloom(cases: Iterable[_Case]) -> list[tuple[_Case, _Seen]]:
    scanner = Scanner()
    seen: list[tuple[_Case, _Seen]] = []
    for case in cases:
        began = time.perf_counter()
        try:
            flagged = scanner.scan(read_skill(case.folder)).worst >= Severity.HIGH
        except SkillError:
            flagged = True  # what cannot be read is not passed
        seen.append((case, _Seen(flagged, time.perf_counter() - began)))
    return seen


def _startup() -> float:
    """The median of three fresh interpreters."""
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", _STARTUP],
                capture_output=True,
                check=True,
                text=True,
                timeout=60,
            ).stdout
        )
        for _ in range(3)
    ]
    return statistics.median(times)


def _cisco(cases: Sequence[_Case], told: Told) -> tuple[list[tuple[_Case, _Seen]], float]:
    command = [str(environment("cisco")), "-c", _CISCO]
    asked = "".join(f"{it.folder}\n" for it in cases)
    ran = subprocess.run(
        command, input=asked, capture_output=True, check=False, text=True, timeout=_CISCO_S
    )
    lines = [json.loads(it) for it in ran.stdout.splitlines() if it.startswith("{")]
    if len(lines) != len(cases) + 1:
        told("cisco ended early")
        raise BenchError(f"cisco-ai-skill-scanner ended with {ran.returncode}: {ran.stderr[-300:]}")
    return [
        (case, _Seen(it["worst"] >= 4, it["s"])) for case, it in zip(cases, lines[1:], strict=True)
    ], lines[0]["startup_s"]


# --- where skills come from


def _own(rng: random.Random, root: Path) -> Iterable[_Case]:
    kinds: dict[str, Callable[[random.Random], Iterable[skill_variants.Variant]]] = {
        "own-honest": skill_variants.honest,
        "own-composed": skill_variants.composed,
        "own-evasions": skill_variants.evasions,
    }
    for name, make in kinds.items():
        for at, variant in enumerate(make(rng)):
            folder = (
                root
                / name
                / f"{at:03}"
                / variant.files["SKILL.md"].split(b"name: ")[1].split(b"\n")[0].decode()
            )
            write(folder, variant.files)
            yield _Case(folder, (name, f"{name}:{variant.kind}"))


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files under a new folder, none of them executable."""
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o600)


def _folder(options: Options) -> Path | None:
    if options.data is not None:
        if not (options.data / "labels.csv").exists():
            raise BenchError(
                f"{options.data}: no labels.csv; give a folder like STARLOOM_DATA's skills"
            )
        return options.data
    root = Path(
        os.environ.get("STARLOOM_DATA", Path(__file__).parents[3].parent / "shared" / "data")
    )
    return root / "skills" if (root / "skills" / "labels.csv").exists() else None


def held_out(row: Mapping[str, str]) -> bool:
    """Whether a skill is of the half that no rule was tuned on: by author where there is one."""
    by_author = row["group"] in ("openclaw-sample", "in-the-wild") and "/" in row["source_path"]
    key = row["source_path"].split("/")[1] if by_author else row["id"]
    return hashlib.sha256(key.encode()).digest()[0] % 2 == 1


def _corpus(data: Path, scratch: Path, options: Options, rng: random.Random) -> list[_Case]:
    for archive in sorted(data.glob("*/*.tar.gz")):
        with tarfile.open(archive) as file:
            file.extractall(scratch, filter=_plain)  # noqa: S202 - filtered
    groups: dict[str, list[_Case]] = defaultdict(list)
    with (data / "labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            folder = scratch / row["label"] / row["id"] / row["slug"]
            if not folder.is_dir():
                folder = next(iter(sorted((scratch / row["label"] / row["id"]).glob("*"))), folder)
            if not folder.is_dir():
                continue
            name = row["group"] if row["label"] == "malicious" else f"{row['group']}"
            name = (
                f"{name}({row['label']})"
                if row["group"] in ("cisco-evals", "skillguard-fixtures")
                else name
            )
            cases = [name, f"{name}:{row['category']}"] if row["label"] == "malicious" else [name]
            if held_out(row):
                cases.append(f"{name}/held")
            groups[name].append(_Case(folder, tuple(cases)))
    if not groups:
        raise BenchError(f"{data}: labels.csv names no skill that its archives hold")
    if options.quick:
        groups = {key: rng.sample(it, min(_QUICK_A_GROUP, len(it))) for key, it in groups.items()}
    return [case for key in sorted(groups) for case in groups[key]]


def _plain(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
    """Plain files and folders only, never executable."""
    if not (member.isreg() or member.isdir()):
        return None
    made = tarfile.data_filter(member, path)
    return made.replace(mode=0o700 if member.isdir() else 0o600, deep=False)
