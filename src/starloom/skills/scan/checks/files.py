"""Judges files as such: what was not read, links out, odd names, disguises, binaries, archives, YARA."""

import re
from collections.abc import Iterator

from starloom.skills.archive import UNOPENED, is_archive, zip_appended
from starloom.skills.base import Evidence, Finding, Severity, SkillFile
from starloom.skills.scan.base import Context, finding
from starloom.skills.scan.patterns import matches

_L, _M, _H = Severity.LOW, Severity.MEDIUM, Severity.HIGH
_MAGIC: tuple[tuple[str, bytes], ...] = (
    ("ELF", b"\x7fELF"),
    ("PE", b"MZ"),
    ("Mach-O", b"\xcf\xfa\xed\xfe"),
    ("Mach-O", b"\xce\xfa\xed\xfe"),
    ("Mach-O", b"\xfe\xed\xfa\xcf"),
    ("Mach-O", b"\xca\xfe\xba\xbe"),
    ("WebAssembly", b"\x00asm"),
    ("Java class", b"\xca\xfe\xba\xbe"),
    ("PNG", b"\x89PNG\r\n"),
    ("JPEG", b"\xff\xd8\xff"),
    ("GIF", b"GIF8"),
    ("PDF", b"%PDF-"),
    ("RIFF", b"RIFF"),
    ("BMP", b"BM"),
    ("ICO", b"\x00\x00\x01\x00"),
    ("OLE", b"\xd0\xcf\x11\xe0"),
)
_PROGRAMS = {"ELF", "PE", "Mach-O", "Java class", "WebAssembly"}
_SAYS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "gif": "GIF",
    "pdf": "PDF",
    "bmp": "BMP",
    "ico": "ICO",
}
_TEXTS = (
    "md",
    "txt",
    "json",
    "yaml",
    "yml",
    "csv",
    "py",
    "js",
    "ts",
    "sh",
    "html",
    "css",
    "toml",
    "cfg",
    "ini",
)
_BYTECODE = (".pyc", ".pyo", ".pyd", ".class", ".jsc", ".luac")
_HONEST_DOTS = {
    ".gitignore",
    ".gitkeep",
    ".gitattributes",
    ".editorconfig",
    ".env.example",
    ".env.sample",
    ".env.template",
    ".npmrc",
    ".nvmrc",
    ".clawhub",
    ".github",
    ".prettierrc",
    ".eslintrc",
    ".eslintrc.json",
    ".claude-plugin",
    ".DS_Store",
    ".python-version",
    ".dockerignore",
    ".clawhubignore",
    ".npmignore",
    ".gitmodules",
    ".markdownlint.json",
    ".vscode",
    ".husky",
    ".learnings",
    ".skillignore",
}


def check_files(context: Context) -> Iterator[Finding]:
    """Every entry of the skill, read or not."""
    skill = context.skill
    for problem in skill.problems:
        yield finding("unread", Evidence("", 1), problem, _H)
    for entry in skill.files:
        where = Evidence(entry.path, 1, via=tuple(entry.path.split("!")[:-1]))
        if entry.problem:
            rule = (
                "locked" if "encrypt" in entry.problem or "archive" in entry.problem else "unread"
            )
            if "leads out" in entry.problem:
                rule = "link-out"
            yield finding(rule, where, entry.problem, _H)
        yield from _links(entry, where)
        yield from _names(entry, where)
        if entry.data:
            yield from _kinds(entry, where)
    yield from _compiled(context)
    yield from _known(context)


def _links(entry: SkillFile, where: Evidence) -> Iterator[Finding]:
    if entry.kind == "symlink":
        depth = entry.path.split("!")[-1].count("/")
        out = (
            entry.target.startswith(("/", "~"))
            or re.match(r"[A-Za-z]:", entry.target)
            or _climbs(entry.target) > depth
        )
        yield finding(
            "link-out", where, f"a symbolic link to {entry.target[:100]}", _H if out else _M
        )
    elif entry.kind == "hardlink" and entry.in_archive:
        yield finding(
            "link-out",
            where,
            f"a hard link to {entry.target[:100]}",
            _H if entry.target.startswith(("/", "..")) else _L,
        )
    elif entry.kind == "device" and not entry.problem:
        yield finding("link-out", where, "not a plain file", _H)


def _climbs(target: str) -> int:
    """How far above its folder a relative target goes."""
    level = lowest = 0
    for part in target.split("/"):
        level += -1 if part == ".." else 1 if part not in ("", ".") else 0
        lowest = min(lowest, level)
    return -lowest


def _names(entry: SkillFile, where: Evidence) -> Iterator[Finding]:
    path = entry.path
    if re.search(
        "[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f\x00-\x1f]", path
    ):
        yield finding("odd-name", where, f"{path!a}: characters that show nothing", _H)
    elif re.search(
        r"\.(?:png|jpe?g|gif|pdf|docx?|txt|md|csv|mp[34])\s*\.(?:exe|sh|scr|bat|cmd|com|js|vbs|ps1|py|app|jar|command)$",
        path,
        re.IGNORECASE,
    ):
        yield finding("odd-name", where, f"{entry.name}: two extensions", _H)
    elif re.search(r"\s{3,}", path):
        yield finding("odd-name", where, "blanks hide the rest of the name", _M)
    hidden = [
        it for it in path.split("!")[-1].split("/") if it.startswith(".") and it not in _HONEST_DOTS
    ]
    if hidden and not entry.in_archive:
        runs = entry.data is not None and (
            entry.data[:2] == b"#!" or entry.name.endswith((".sh", ".py", ".js"))
        )
        yield finding("hidden-file", where, hidden[0], _M if runs else _L)
    if entry.mode & 0o6000 and entry.kind == "file":
        yield finding("escalate", where, "a setuid or setgid file", _H)


def _kinds(entry: SkillFile, where: Evidence) -> Iterator[Finding]:
    data = entry.data or b""
    kind = next((name for name, magic in _MAGIC if data.startswith(magic)), "")
    if kind == "PE" and data[:2] == b"MZ" and (len(data) < 64 or b"PE\x00\x00" not in data[:4096]):
        kind = ""
    extension = entry.name.rsplit(".", 1)[-1].lower() if "." in entry.name else ""
    if kind in _PROGRAMS:
        if extension in _SAYS or extension in _TEXTS:
            yield finding("disguised", where, f"{entry.name} is a program ({kind})", _H)
        else:
            yield finding("binary", where, f"{kind}, {entry.size_bytes:,} bytes", _M)
    said = _SAYS.get(extension)
    if (
        said
        and kind != said
        and kind not in _PROGRAMS
        and not data.startswith(
            (
                b"RIFF",
                b"\x89PNG",
                b"\xff\xd8\xff",
                b"GIF8",
                b"<svg",
                b"<?xml",
                b"version https://git-lfs",
                b"BM",
            )
        )
    ):
        script = data[:2] == b"#!" or re.search(
            rb"<script|<\?php|powershell|/bin/(?:ba)?sh|import os|eval\(", data[:4096]
        )
        yield finding("disguised", where, f"{entry.name} is no {said}", _H if script else _L)
    if kind and kind not in _PROGRAMS and zip_appended(data):
        yield finding("polyglot", where, f"a {kind} with a zip behind it", _H)
    if kind in ("PNG", "JPEG", "GIF", "BMP") and re.search(
        rb"(?:<\?php|<script[\s>]|#!/bin/|\beval\(|powershell\s+-e)", data
    ):
        yield finding("polyglot", where, f"a {kind} with a script inside", _H)
    if extension in _TEXTS and is_archive(entry) and not kind:
        yield finding("disguised", where, f"{entry.name} is an archive", _H)
    for magic, name in UNOPENED.items():
        if data.startswith(magic):
            yield finding("locked", where, f"a {name} archive: not opened", _H)
    if extension in ("svg", "html", "htm") or data[:300].lstrip().startswith(b"<svg"):
        yield from _active(entry, data)


def _active(entry: SkillFile, data: bytes) -> Iterator[Finding]:
    """Pictures do not run script; pages that send cookies or tokens are no help page."""
    text = data.decode("utf-8", "replace")
    svg = entry.name.lower().endswith(".svg") or text.lstrip()[:300].startswith("<svg")
    found = re.search(
        r"<script\b|\bon(?:load|error|click|mouseover|begin)\s*=|javascript:|<foreignObject\b|data:text/html",
        text,
        re.IGNORECASE,
    )
    steals = re.search(r"document\.cookie|localStorage|sessionStorage|indexedDB", text)
    sends = re.search(
        r"\bfetch\(|sendBeacon|XMLHttpRequest|new Image\(\)|\.src\s*=|location(?:\.href)?\s*=", text
    )
    if svg and found:
        where = Evidence(
            entry.path,
            text.count("\n", 0, found.start()) + 1,
            found.start(),
            found.end(),
            found.group(),
        )
        yield finding("active-picture", where, "a picture that runs script", _H)
    elif (
        steals
        and sends
        and re.search(r"https?://", text)
        and re.search(
            r"cookie|\btoken|auth|secret",
            text[max(0, steals.start() - 200) : steals.end() + 200],
            re.IGNORECASE,
        )
    ):
        where = Evidence(
            entry.path,
            text.count("\n", 0, steals.start()) + 1,
            steals.start(),
            steals.end(),
            steals.group(),
        )
        yield finding(
            "active-picture", where, "a page that reads what the browser keeps, and sends", _M
        )


def _compiled(context: Context) -> Iterator[Finding]:
    for entry in context.skill.files:
        head = (entry.data or b"")[:17]
        compiled = len(head) > 16 and head[2:4] == b"\r\n" and head[16:17] in (b"\xe3", b"c")
        if entry.name.lower().endswith(_BYTECODE) or compiled:
            yield finding(
                "bytecode",
                Evidence(entry.path, 1),
                f"{entry.name} runs instead of what can be read",
                _H,
            )


def _known(context: Context) -> Iterator[Finding]:
    for entry in context.skill.files:
        if entry.data:
            for name, offset, text in matches(entry.data):
                where = Evidence(
                    entry.path,
                    entry.data.count(b"\n", 0, offset) + 1,
                    offset,
                    offset + len(text),
                    text.decode("utf-8", "backslashreplace")[:120],
                    tuple(entry.path.split("!")[:-1]),
                )
                yield finding("known-pattern", where, name.replace("_", " "), _H)
