"""Archives opened in memory, to a bound: zip (docx and jar, too), tar, gz, bz2, xz.

Nothing is extracted. Each bound that is hit becomes a problem on the entry or on the budget. What
we do not open (7z, rar, encrypted members) is named, so that nobody takes it for read.
"""

import bz2
import hashlib
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from starloom.skills.base import Kind, SkillFile

RATIO = 200
"""Bytes out per byte in: text packs 10 to 1, repeated logs 100 to 1; deflate's limit is 1,032."""
RATIO_FREE_BYTES = 1 << 20
"""Below this a high ratio harms nobody."""
UNOPENED = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar", b"MSCF": "cab"}
_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
_LZMA_MEMORY_BYTES = 64 * 2**20


@dataclass(slots=True)
class Budget:
    """What may still be read, over a skill with everything in it."""

    files: int
    bytes: int
    problems: list[str] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)

    def take_file(self, where: str) -> bool:
        if self.files <= 0:
            self.problem(f"{where}: more files than a skill may have; the rest was not read")
            return False
        self.files -= 1
        return True

    def take_bytes(self, count: int) -> bool:
        if count > self.bytes:
            self.problem("more bytes than a skill may have; the rest was not read")
            return False
        self.bytes -= count
        return True

    def problem(self, what: str) -> None:
        """Keep the first of each kind, and at most a hundred."""
        if what not in self._told and len(self.problems) < 100:
            self._told.add(what)
            self.problems.append(what)


def is_archive(entry: SkillFile) -> bool:
    """Whether the bytes (not the name) are of a kind that we open."""
    data = entry.data
    if data is None:
        return False
    return data.startswith(_MAGIC) or data[257:262] == b"ustar" or zip_appended(data)


def zip_appended(data: bytes) -> bool:
    """Whether a zip's end record stands where readers look, whatever the file starts with."""
    return b"PK\x05\x06" in data[-66_000:] and b"PK\x01\x02" in data


def members(entry: SkillFile, depth: int, budget: Budget) -> Iterator[SkillFile]:
    """What is inside, archives inside included down to `depth`; a broken one yields its problem."""
    data = entry.data or b""
    if depth <= 0:
        yield _told(entry, "archives nest too deep: not opened")
        return
    try:
        for inner in _open(entry, data, budget):
            yield inner
            if is_archive(inner):
                yield from members(inner, depth - 1, budget)
    except (
        *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError),
        *(ValueError, RecursionError, NotImplementedError, RuntimeError, OverflowError),
    ) as error:
        yield _told(entry, f"the archive is broken or not readable: {error}")


def _told(entry: SkillFile, problem: str) -> SkillFile:
    return SkillFile(f"{entry.path}!", 0, problem=problem)


def _open(entry: SkillFile, data: bytes, budget: Budget) -> Iterator[SkillFile]:
    if data.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")):
        inner, whole = _inflate(data, min(budget.bytes, max(RATIO_FREE_BYTES, len(data) * RATIO)))
        if not whole:
            yield _told(entry, "unpacks to more than its bound: not opened")
            return
        if inner[257:262] == b"ustar":
            yield from _tar(entry, inner, budget)
            return
        if budget.take_file(entry.path) and budget.take_bytes(len(inner)):
            name = entry.name.rsplit(".", 1)[0] or "content"
            yield _member(entry, name, inner)
    elif data[257:262] == b"ustar":
        yield from _tar(entry, data, budget)
    else:
        yield from _zip(entry, data, budget)


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _inflate(data: bytes, limit: int) -> tuple[bytes, bool]:
    """All streams one after another, to at most `limit` bytes; whether that was all."""
    made: list[bytes] = []
    room, left = limit, data
    while left:
        unpack = _decompressor(left)
        if unpack is None:
            break  # padding or junk after the last stream
        piece = unpack.decompress(left, room + 1)
        room -= len(piece)
        if room < 0:
            return b"", False
        made.append(piece)
        if not unpack.eof:
            break  # cut short: what there is, is read
        left = unpack.unused_data
    return b"".join(made), True


def _decompressor(data: bytes) -> _Decompressor | None:
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31)  # type: ignore[return-value]
    if data.startswith(b"BZh"):
        return bz2.BZ2Decompressor()  # type: ignore[return-value]
    if data.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMADecompressor(memlimit=_LZMA_MEMORY_BYTES)  # type: ignore[return-value]
    return None


def _zip(entry: SkillFile, data: bytes, budget: Budget) -> Iterator[SkillFile]:
    # `zipfile` reads the whole directory at once: count its records before it takes the memory.
    if data.count(b"PK\x01\x02") > budget.files:
        budget.problem(f"{entry.path}: more files than a skill may have; not opened")
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = 0
        room = max(RATIO_FREE_BYTES, len(data) * RATIO)
        for info in archive.infolist():
            if info.is_dir():
                continue
            if not budget.take_file(entry.path):
                return
            mode = (info.external_attr >> 16) & 0xFFFF
            if info.flag_bits & 1:
                yield replace(_member(entry, info.filename, b""), data=None, problem="encrypted")
                continue
            limit = min(budget.bytes, room - unpacked)
            with archive.open(info) as file:
                inner = file.read(limit + 1)
            if len(inner) > limit:
                yield _told(entry, f"{info.filename}: unpacks to more than its bound: not read")
                return
            unpacked += len(inner)
            budget.take_bytes(len(inner))
            member = _member(entry, info.filename, inner, mode=mode & 0o7777)
            if stat.S_ISLNK(mode):
                target = inner[:4096].decode("utf-8", "backslashreplace")
                member = replace(member, kind="symlink", target=target, data=None)
            yield member


_TAR_KINDS: dict[bytes, Kind] = {tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink"}


def _tar(entry: SkillFile, data: bytes, budget: Budget) -> Iterator[SkillFile]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for info in archive:
            # `tarfile` remembers every member: forget them, the budget counts.
            archive.members = []  # type: ignore[attr-defined]
            if info.isdir():
                continue
            if not budget.take_file(entry.path):
                return
            if info.issym() or info.islnk():
                yield replace(
                    _member(entry, info.name, b""),
                    kind=_TAR_KINDS[info.type],
                    target=info.linkname,
                    data=None,
                )
                continue
            file = archive.extractfile(info)
            if file is None:
                kind = _member(entry, info.name, b"")
                yield replace(kind, kind="device", data=None, problem="not a plain file")
                continue
            inner = file.read(budget.bytes + 1)
            if not budget.take_bytes(len(inner)):
                return
            yield _member(entry, info.name, inner, mode=info.mode & 0o7777)


def _member(entry: SkillFile, name: str, data: bytes, mode: int = 0o644) -> SkillFile:
    shown = name.encode("utf-8", "backslashreplace").decode()
    plain = shown.replace("\\", "/")
    parts = [it for it in plain.split("/") if it not in ("", ".")]
    problem = ""
    if plain.startswith("/") or ".." in parts or (plain[1:2] == ":" and plain[:1].isalpha()):
        problem = f"its name leads out of the archive: {plain[:200]}"
    safe = "/".join(it for it in parts if it != "..") or "unnamed"
    digest = hashlib.sha256(data).hexdigest()
    return SkillFile(f"{entry.path}!{safe}", len(data), digest, data, mode, problem=problem)
