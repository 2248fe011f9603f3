"""Word lists as a site states them: inline, or in a file beside the site file."""

from collections.abc import Iterator
from pathlib import Path

from starloom.serve.guard import injection
from starloom.serve.guard.base import Entry, Where
from starloom.site import Problem, Site, SiteError, WordList

MAX_PHRASE_CHARS = 256
"""A filter may hold back as much as the longest phrase."""


def entries(site: Site, where: Where) -> list[Entry]:
    """All phrases that hold for the input or the output. Raises `SiteError` with all problems."""
    problems: list[Problem] = []
    found: list[Entry] = []
    for index, words in enumerate(site.guard.lists):
        if where in words.where:
            phrases = _phrases(site.base, words, f"guard.lists[{index}]", problems)
            found.extend(Entry(words.name, phrase, words.action) for phrase in phrases)
    if problems:
        raise SiteError(problems)
    return found


def _phrases(base: Path, words: WordList, field: str, problems: list[Problem]) -> Iterator[str]:
    for index, phrase in enumerate(words.words):
        if phrase.strip():
            yield phrase.strip()
        else:
            where = f"{field}.words[{index}]"
            what, fix = "a phrase of white space alone", "write characters, or leave it out"
            problems.append(Problem(str(base), 1, where, what, fix))
    if words.file == injection.NAME:
        yield from injection.phrases()
    elif words.file is not None:
        yield from _read(base / words.file, f"{field}.file", problems)


def _read(path: Path, field: str, problems: list[Problem]) -> Iterator[str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        fix = "correct `file`; it is relative to the folder of the site file"
        problems.append(Problem(str(path), 1, field, f"cannot be read: {error.strerror}", fix))
        return
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            what, fix = "not UTF-8", "save the file as UTF-8"
            problems.append(Problem(str(path), number, field, what, fix))
            continue
        if len(line) > MAX_PHRASE_CHARS:
            what = f"a phrase of {len(line)} characters; at most {MAX_PHRASE_CHARS} are kept back"
            problems.append(Problem(str(path), number, field, what, "shorten it, or split it"))
        elif line and not line.startswith("#"):
            yield line
