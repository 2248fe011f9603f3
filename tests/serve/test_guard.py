"""The guard of a site: files, input, and the audit trail."""

import json
import logging
import os
import stat
import time

import pytest

from starloom.serve.guard import (
    AuditFile,
    AuditRecord,
    Guard,
    TextFilter,
    Verdict,
    audit_records,
)
from starloom.site import Site, SiteError

BASE = {
    "name": "s",
    "nodes": [{"name": "n"}],
    "models": [{"name": "m"}],
    "workers": [{"name": "w", "node": "n", "model": "m", "engine": "openai", "url": "http://h/v1"}],
}


def site(base, *lists) -> Site:
    return Site.model_validate({**BASE, "base": base, "guard": {"lists": list(lists)}})


def test_lists_come_from_the_site_and_from_files_beside_it(tmp_path):
    """Words and files together; comment lines, empty lines and a byte order mark are no phrases."""
    (tmp_path / "lists").mkdir()
    text = "\ufeff# names\n\n  Project X \r\n打开舱门\n"
    (tmp_path / "lists" / "names.txt").write_text(text, encoding="utf-8")
    words = {"name": "a", "words": ["pod"], "file": "lists/names.txt"}
    guard = Guard.from_site(site(tmp_path, words))
    checked = guard.check_input(["the PROJECT x"])
    assert checked.blocked
    assert checked.verdicts == [
        Verdict(list="a", phrase="Project X", action="block", where="input", start=4, end=13)
    ]
    for text in ("a pod", "请打开舱门"):
        assert guard.check_input([text]).blocked
    assert not guard.check_input(["names # pods"]).blocked


def test_a_list_holds_only_where_it_says(tmp_path):
    """`where: [output]` lets the input pass, and the other way round."""
    guard = Guard.from_site(
        site(
            tmp_path,
            {"name": "i", "words": ["alpha"], "where": ["input"]},
            {"name": "o", "words": ["beta"], "where": ["output"]},
        )
    )
    assert guard.check_input(["alpha"]).blocked
    assert not guard.check_input(["beta"]).blocked
    output = guard.output()
    assert output.feed("alpha beta gamma") == "alpha "
    assert output.blocked


def test_masked_input_goes_on(tmp_path):
    """Masks star the phrase in each text; the verdict names the text by its place."""
    words = {"name": "m", "words": ["secret"], "action": "mask"}
    checked = Guard.from_site(site(tmp_path, words)).check_input(["a", "my Secret!"])
    assert checked.texts == ["a", "my ******!"]
    assert not checked.blocked
    assert [(it.part, it.start, it.end) for it in checked.verdicts] == [(1, 3, 9)]


def test_a_site_without_lists_has_a_guard_that_does_nothing(tmp_path):
    """No automaton, no work: texts come back as they are."""
    guard = Guard.from_site(site(tmp_path))
    assert guard.check_input(["x", "y"]) == (["x", "y"], [])
    output: TextFilter = guard.output()
    assert output.feed("x") == "x"


def test_a_long_input_is_read_in_slices(tmp_path):
    """A phrase on the border of two slices is found, and offsets are those of the whole text."""
    guard = Guard.from_site(site(tmp_path, {"name": "m", "words": ["secret"], "action": "mask"}))
    text = "x " * 32766 + "secret " * 2
    checked = guard.check_input([text])
    assert checked.texts == [text.replace("secret", "******")]
    assert [it.start for it in checked.verdicts] == [65532, 65539]


def test_problems_name_file_line_and_fix(tmp_path):
    """A missing file, a line that is not UTF-8 or too long, a blank phrase: all in one error."""
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\xfe\n" + b"x" * 300 + b"\n")
    with pytest.raises(SiteError) as raised:
        Guard.from_site(
            site(
                tmp_path,
                {"name": "a", "file": "none.txt"},
                {"name": "b", "file": "bad.txt", "words": [" "]},
            )
        )
    text = str(raised.value)
    assert "none.txt:1: guard.lists[0].file: cannot be read: No such file" in text
    assert "bad.txt:2: guard.lists[1].file: not UTF-8" in text
    assert "bad.txt:3: guard.lists[1].file: a phrase of 300 characters" in text
    assert "guard.lists[1].words[0]: a phrase of white space alone" in text
    assert text.count("fix:") == 4


def test_a_hundred_thousand_words_are_looked_up_in_milliseconds(tmp_path):
    """Building takes seconds at most, and 4 KB of text far less than a model's step."""
    words = [f"word{number:06d}" for number in range(100_000)]
    (tmp_path / "many.txt").write_text("\n".join(words))
    guard = Guard.from_site(site(tmp_path, {"name": "many", "file": "many.txt"}))
    text = "some ordinary words, 打开 and word12 more. " * 100
    times = []
    for _ in range(20):
        began = time.perf_counter()
        assert not guard.check_input([text[:4096]]).blocked
        times.append(time.perf_counter() - began)
    assert min(times) < 0.02


def record(number: int = 0) -> AuditRecord:
    verdict = Verdict(list="l", phrase="舱门", action="mask", where="output", start=number, end=9)
    [made] = audit_records([verdict], time_s=1.5, request="r1", tenant="t")
    return made


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_verdicts_are_in_the_file_at_once(tmp_path):
    """One JSON line each, readable before the file is closed, for the owner's eyes only."""
    path = tmp_path / "audit.jsonl"
    audit = AuditFile(path)
    audit.write([record(1), record(2)])
    assert lines(path)[0] == {
        "time_s": 1.5,
        "request": "r1",
        "tenant": "t",
        "where": "output",
        "list": "l",
        "phrase": "舱门",
        "action": "mask",
        "part": 0,
        "start": 1,
        "end": 9,
    }
    assert [it["start"] for it in lines(path)] == [1, 2]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    audit.close()
    AuditFile(path).write([record(3)])
    assert len(lines(path)) == 3


def test_files_are_bounded_and_the_newest_are_kept(tmp_path):
    """Files never exceed their size, only `keep` old ones stay, in order."""
    audit = AuditFile(tmp_path / "a.jsonl", max_bytes=400, keep=2)
    for number in range(20):
        audit.write([record(number)])
    files = [tmp_path / name for name in ("a.jsonl.2", "a.jsonl.1", "a.jsonl")]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(file.stat().st_size <= 400 for file in files)
    starts = [it["start"] for file in files for it in lines(file)]
    assert starts == list(range(20 - len(starts), 20))
    assert audit.lost == 0


def test_a_disk_that_cannot_be_written_breaks_nothing(tmp_path, caplog):
    """Lost records are counted, the trouble is logged once, and writing resumes by itself."""
    folder = tmp_path / "gone"
    audit = AuditFile(folder / "a.jsonl")
    with caplog.at_level(logging.ERROR, "starloom.guard"):
        for _ in range(3):
            audit.write([record(), record()])
    assert audit.lost == 6
    assert len(caplog.records) == 1
    folder.mkdir()
    audit.write([record(7)])
    assert [it["start"] for it in lines(folder / "a.jsonl")] == [7]
    audit.close()


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    """A write that the disk takes in part is taken back."""
    audit = AuditFile(tmp_path / "a.jsonl")
    audit.write([record(1)])
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[:10]))
    audit.write([record(2)])
    monkeypatch.undo()
    audit.write([record(3)])
    assert [it["start"] for it in lines(tmp_path / "a.jsonl")] == [1, 3]
    assert audit.lost == 1
    audit.close()
