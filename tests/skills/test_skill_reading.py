"""Reading: bounded, no link followed, nothing written, and whatever was not read is named."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starloom.skills import Limits, Scanner, Severity, SkillError, read_skill
from starloom.skills.errors import UnreadableSkill

SMALL = Limits(files=50, file_bytes=1 << 20, total_bytes=4 << 20, folder_depth=5, archive_depth=3)


def zipped(members: dict[str, bytes], **more: object) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(*infos: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in infos:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def worst(folder: Path) -> set[str]:
    result = Scanner().scan(read_skill(folder, SMALL))
    return {it.rule.id for it in result.findings if it.severity >= Severity.HIGH}


def test_files_are_hashed_and_their_paths_are_relative(tmp_path: Path) -> None:
    """SHA-256 of `abc` is the one of FIPS 180-2, and folders are joined by slashes."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_bytes(b"abc")
    entry = read_skill(tmp_path).files[0]
    assert entry.path == "a/b.txt"
    assert entry.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """A missing folder and a link to a folder are both refused with the path in the message."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("missing", "link"):
        with pytest.raises(UnreadableSkill, match=name):
            read_skill(tmp_path / name)


def test_links_are_named_and_never_followed(tmp_path: Path) -> None:
    """A link to a secret is reported with its target, and the secret is not among what was read."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"top secret content")
    skill = tmp_path / "skill"
    skill.mkdir()
    (skill / "SKILL.md").write_text("x")
    (skill / "notes.md").symlink_to(secret)
    (skill / "folder").symlink_to(tmp_path)
    read = read_skill(skill)
    assert all(b"top secret" not in (it.data or b"") for it in read.files)
    assert {it.path: it.kind for it in read.files}["notes.md"] == "symlink"
    assert "link-out" in worst(skill)


def test_devices_and_pipes_are_not_opened(tmp_path: Path) -> None:
    """A named pipe would block a reader for ever."""
    os.mkfifo(tmp_path / "pipe")
    entry = read_skill(tmp_path).files[0]
    assert (entry.kind, entry.data) == ("device", None)
    assert worst(tmp_path) & {"unread", "link-out"}


def test_a_large_file_is_not_read_and_that_is_a_finding(tmp_path: Path) -> None:
    """A sparse file of a gibibyte costs no memory, and nobody takes it for checked."""
    with (tmp_path / "big.txt").open("wb") as file:
        file.truncate(1 << 30)
    assert read_skill(tmp_path, SMALL).files[0].data is None
    assert "unread" in worst(tmp_path)


def test_too_many_files_and_too_deep_folders_are_findings(tmp_path: Path) -> None:
    """Counting stops at the bound; the rest is named, not skipped in silence."""
    for at in range(60):
        (tmp_path / f"{at}.txt").write_text("x")
    read = read_skill(tmp_path, SMALL)
    assert len(read.files) <= SMALL.files
    assert read.problems
    deep = tmp_path / "d"
    for _ in range(8):
        deep = deep / "d"
    deep.mkdir(parents=True)
    assert any("deeper" in it for it in read_skill(tmp_path, Limits(folder_depth=5)).problems)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_bombs_of_one_stream_stop_at_their_bound(tmp_path: Path, pack: object) -> None:
    """8 MiB of zeros in a few kilobytes are not unpacked."""
    (tmp_path / "bomb.bin").write_bytes(pack(bytes(8 << 20)))  # type: ignore[operator]
    read = read_skill(tmp_path, SMALL)
    assert any("more than its bound" in it.problem for it in read.files)
    assert sum(len(it.data or b"") for it in read.files) < SMALL.total_bytes


def test_zip_bombs_and_nested_ones_stop_at_their_bound(tmp_path: Path) -> None:
    """One level of 8 MiB, and five levels of zips in zips."""
    (tmp_path / "bomb.zip").write_bytes(zipped({"a": bytes(8 << 20)}))
    inner = zipped({"x.txt": b"hello"})
    for _ in range(5):
        inner = zipped({"inner.zip": inner})
    (tmp_path / "nest.zip").write_bytes(inner)
    problems = [it.problem for it in read_skill(tmp_path, SMALL).files if it.problem]
    assert any("more than its bound" in it for it in problems)
    assert any("nest too deep" in it for it in problems)


def test_a_zip_of_very_many_files_is_not_listed(tmp_path: Path) -> None:
    """The directory of 20,000 records is counted before it takes memory."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for at in range(2_000):
            archive.writestr(str(at), b"")
    (tmp_path / "many.zip").write_bytes(out.getvalue())
    read = read_skill(tmp_path, SMALL)
    assert len(read.files) == 1
    assert any("not opened" in it for it in read.problems)


def test_names_that_lead_out_of_an_archive_are_findings(tmp_path: Path) -> None:
    """`../` and absolute names are named; links and hard links inside are not followed."""
    link, hard = tarfile.TarInfo("l"), tarfile.TarInfo("h")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../x"
    (tmp_path / "a.tar").write_bytes(
        tarred((tarfile.TarInfo("../../out.txt"), b"x"), (link, b""), (hard, b""))
    )
    (tmp_path / "b.zip").write_bytes(zipped({"/etc/cron.d/x": b"y"}))
    found = [
        it.evidence.file
        for it in Scanner().scan(read_skill(tmp_path)).findings
        if it.rule.id == "link-out" and it.severity >= Severity.HIGH
    ]
    assert {it.split("!")[0] for it in found} == {"a.tar", "b.zip"}
    assert len(found) == 4


def test_locked_and_unknown_archives_are_findings(tmp_path: Path) -> None:
    """What cannot be opened was not checked."""
    (tmp_path / "x.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(64))
    locked = bytearray(zipped({"a.txt": b"hidden"}))
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):
        at = locked.index(mark) + (6 if mark == b"PK\x03\x04" else 8)
        locked[at] |= 1  # the flag of an encrypted member (APPNOTE 4.4.4)
    (tmp_path / "y.zip").write_bytes(bytes(locked))
    assert "locked" in worst(tmp_path)
    assert any(it.problem == "encrypted" for it in read_skill(tmp_path).files)


def test_an_archive_is_read_as_the_skill_that_it_holds(tmp_path: Path) -> None:
    """A zip of a skill gives the skill's own paths."""
    path = tmp_path / "skill.zip"
    path.write_bytes(zipped({"demo/SKILL.md": b"# x", "demo/run.sh": b"#!/bin/sh\n"}))
    assert [it.path for it in read_skill(path).files] == ["demo/SKILL.md", "demo/run.sh"]


_GOOD = zipped({"a.txt": b"a" * 500, "b/c.sh": b"#!/bin/sh\ncurl x | sh\n"})
_TAR = tarred((tarfile.TarInfo("a.txt"), b"a" * 500), (tarfile.TarInfo("b.sh"), b"echo"))


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    base=st.sampled_from(
        [_GOOD, _TAR, gzip.compress(_TAR), bz2.compress(_TAR), lzma.compress(_TAR)]
    ),
    cuts=st.lists(st.tuples(st.integers(0, 4_000), st.binary(max_size=8)), max_size=6),
    length=st.integers(0, 20_000),
)
def test_any_damaged_archive_is_read_or_named_and_nothing_is_written(
    tmp_path: Path, base: bytes, cuts: list[tuple[int, bytes]], length: int
) -> None:
    """Whatever bytes an archive has: an answer or a SkillError, inside the bounds, no new file."""
    data = bytearray(base)
    for at, piece in cuts:
        data[at : at + len(piece)] = piece
    path = tmp_path / "x.zip"
    path.write_bytes(bytes(data[:length]))
    before = sorted(it.name for it in tmp_path.iterdir())
    try:
        read = read_skill(path, SMALL)
    except SkillError:
        read = None
    assert sorted(it.name for it in tmp_path.iterdir()) == before
    if read is not None:
        assert len(read.files) <= SMALL.files + 2
        assert sum(len(it.data or b"") for it in read.files) <= SMALL.total_bytes + len(data)
