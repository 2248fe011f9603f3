"""Reads a skill from a folder or an archive: bounded, no link followed, nothing written.

Folders are walked by descriptors (`openat` with O_NOFOLLOW), so that a link that is swapped in
while we walk leads nowhere. Archives are opened in memory only. Whatever is not read in full is
named, on its file or on the skill: the scan turns each such name into a finding.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from starloom.skills.archive import Budget, is_archive, members
from starloom.skills.base import Skill, SkillFile
from starloom.skills.errors import UnreadableSkill


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read at most. A skill beyond one of these is not passed, whatever it holds."""

    files: int = 5_000
    file_bytes: int = 16 * 2**20
    total_bytes: int = 96 * 2**20
    folder_depth: int = 24
    archive_depth: int = 3


_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_skill(path: Path, limits: Limits | None = None) -> Skill:
    """Read a folder, or a file that is an archive or a lone SKILL.md.

    Raises `UnreadableSkill` where there is nothing at `path`, or nothing that we read.
    """
    limits = limits or Limits()
    budget = Budget(limits.files, limits.total_bytes)
    try:
        status = path.lstat()
    except OSError as error:
        raise UnreadableSkill(f"{path}: {error.strerror or error}") from None
    if stat.S_ISDIR(status.st_mode):
        files = list(_folder(path, limits, budget))
    elif stat.S_ISREG(status.st_mode):
        entry = _file(path.name, str(path), None, limits, budget)
        if is_archive(entry):
            files = [_outside(it) for it in members(entry, limits.archive_depth, budget)]
            files = [entry, *files] if entry.problem or not files else files
        else:
            files = [entry]
    else:
        raise UnreadableSkill(f"{path}: neither a folder nor a plain file; links are not followed")
    opened = [*files]
    for entry in files:
        if is_archive(entry) and not entry.in_archive:
            opened.extend(members(entry, limits.archive_depth, budget))
    name = path.resolve().name
    return Skill(name, str(path), tuple(opened), tuple(budget.problems))


def _outside(entry: SkillFile) -> SkillFile:
    """A member of the archive that is the skill itself: its path starts inside the archive."""
    return replace(entry, path=entry.path.split("!", 1)[1])


def _folder(root: Path, limits: Limits, budget: Budget) -> Iterator[SkillFile]:
    try:
        fd = os.open(root, _OPEN | os.O_DIRECTORY)
    except OSError as error:
        raise UnreadableSkill(f"{root}: {error.strerror or error}") from None
    yield from _inside(fd, "", 0, limits, budget)


def _inside(
    fd: int, prefix: str, depth: int, limits: Limits, budget: Budget
) -> Iterator[SkillFile]:
    """What a folder holds, itself given by descriptor, which is closed here."""
    try:
        for name in _names(fd, prefix, budget):
            path = prefix + name
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                yield SkillFile(_shown(path), 0, problem=f"cannot be looked at: {error.strerror}")
                continue
            if not stat.S_ISDIR(status.st_mode):
                yield _entry(path, name, fd, status, limits, budget)
            elif depth + 1 > limits.folder_depth:
                budget.problem(f"{_shown(path)}: folders nest deeper than {limits.folder_depth}")
            else:
                try:
                    inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=fd)
                except OSError as error:
                    budget.problem(f"{_shown(path)}: cannot be entered: {error.strerror}")
                    continue
                yield from _inside(inner, path + "/", depth + 1, limits, budget)
    finally:
        os.close(fd)


def _names(fd: int, prefix: str, budget: Budget) -> list[str]:
    """Names in a folder, sorted; stops where the budget of files ends."""
    names: list[str] = []
    with os.scandir(fd) as found:
        for it in found:
            if not budget.take_file(prefix or "."):
                break
            names.append(it.name)
    return sorted(names)


def _entry(
    path: str, name: str, fd: int, status: os.stat_result, limits: Limits, budget: Budget
) -> SkillFile:
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(name, dir_fd=fd)
        digest = hashlib.sha256(b"link:" + os.fsencode(target)).hexdigest()
        return SkillFile(_shown(path), 0, digest, mode=mode, kind="symlink", target=_shown(target))
    if not stat.S_ISREG(status.st_mode):
        return SkillFile(_shown(path), 0, mode=mode, kind="device", problem="not a plain file")
    return _file(path, name, fd, limits, budget)


def _file(path: str, name: str, fd: int | None, limits: Limits, budget: Budget) -> SkillFile:
    shown = _shown(path)
    try:
        handle = os.open(name, _OPEN, dir_fd=fd)
    except OSError as error:
        return SkillFile(shown, 0, problem=f"cannot be opened: {error.strerror}")
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return SkillFile(shown, 0, kind="device", problem="not a plain file")
        size, mode = status.st_size, stat.S_IMODE(status.st_mode)
        if size > limits.file_bytes:
            return SkillFile(
                shown, size, mode=mode, problem=f"larger than {limits.file_bytes:,} bytes: not read"
            )
        if not budget.take_bytes(size):
            return SkillFile(shown, size, mode=mode, problem="beyond the bytes a skill may have")
        try:
            data = file.read(limits.file_bytes + 1)
        except OSError as error:
            return SkillFile(shown, size, mode=mode, problem=f"cannot be read: {error.strerror}")
    kind = "hardlink" if status.st_nlink > 1 else "file"
    if len(data) > limits.file_bytes:
        return SkillFile(shown, len(data), mode=mode, problem="grew while it was read")
    return SkillFile(shown, len(data), hashlib.sha256(data).hexdigest(), data, mode, kind)  # type: ignore[arg-type]


def _shown(path: str) -> str:
    """A path as text that can be written anywhere: bytes that are no UTF-8 are spelt out."""
    return path.encode("utf-8", "backslashreplace").decode()
