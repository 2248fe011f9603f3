"""A file cut into blocks: prose, code of a language, comments; each with the line that it starts at.

Markdown is cut at its fences (CommonMark 4.5, unclosed fences run to the end as there); code keeps
its comments, since a model reads them too.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from starloom.skills.base import Evidence, SkillFile, excerpt, line_of
from starloom.skills.scan.normalise import Text, fold

BlockKind = Literal["prose", "code", "hidden"]
MAX_TEXT_BYTES = 2 * 2**20
"""Of one file's text that the language readers take; a longer one is named as unread."""

_LANGUAGES = {
    **dict.fromkeys(
        (
            "sh",
            "bash",
            "shell",
            "zsh",
            "console",
            "terminal",
            "shell-session",
            "command",
            "cmd",
            "bat",
            "fish",
            "ash",
            "dash",
            "makefile",
            "dockerfile",
        ),
        "shell",
    ),
    **dict.fromkeys(("py", "python", "python3", "pyw", "ipython"), "python"),
    **dict.fromkeys(
        ("js", "javascript", "mjs", "cjs", "ts", "typescript", "tsx", "jsx", "node"), "javascript"
    ),
    **dict.fromkeys(("ps1", "powershell", "pwsh", "ps", "psm1", "psd1"), "powershell"),
}
_EXTENSIONS = {
    "sh": "shell",
    "bash": "shell",
    "zsh": "shell",
    "command": "shell",
    "bat": "shell",
    "cmd": "shell",
    "envrc": "shell",
    "bashrc": "shell",
} | {
    it: _LANGUAGES[it]
    for it in ("py", "pyw", "js", "mjs", "cjs", "ts", "tsx", "jsx", "ps1", "psm1", "psd1", "fish")
}
_SHEBANG = re.compile(r"^#!\s*\S*?/(?:env\s+(?:-\S+\s+)*)?([\w.-]+)")
_FENCE = re.compile(
    r"^(?P<indent>[ \t>]*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)$", re.MULTILINE
)
_COMMENT = re.compile(
    r"<!--(.*?)(?:-->|\Z)|^\[(?://|comment)\]:\s*#\s*\(?(.*?)\)?$", re.DOTALL | re.MULTILINE
)
_TITLE = re.compile(r"\]\([^()\s]{1,500}\s+\"([^\"\n]{10,600})\"\)|!\[([^\]\n]{40,600})\]\(")
_INLINE = re.compile(r"(?<!`)`([^`\n]{6,400})`(?!`)")
_WARNED = re.compile(
    r"(?:❌|🚫|\b(?:malicious|bad|attack|dangerous|unsafe|vulnerable|suspicious|wrong|never do|insecure)\b)[^\n]{0,80}\n\s*$",
    re.IGNORECASE,
)
_TALKED_OF = re.compile(
    r"❌|🚫|\b(?:malicious|attack\w*|inject\w*|detect\w*|suspicious|flags?|severity|dangerous|never|don't|do not|avoid|blocks?|reject\w*)\b|禁止|不要|切勿|恶意|攻击",
    re.IGNORECASE,
)
_PROMPT = re.compile(r"^[ \t]*(?:\$|❯|➜|PS [^>\n]*>)[ \t]+", re.MULTILINE)
_COMMAND = re.compile(
    r"^\s*(?:sudo\s+)?(?:curl|wget|bash|sh|zsh|python3?|node|npm|npx|pip3?|uv|eval|source|chmod|rm|cat|echo|export|git|powershell|pwsh|iex|iwr|irm|nc|ssh|scp|docker|brew|apt(?:-get)?|go|cargo|printf|base64|env|crontab|osascript|xattr|tar|unzip|cp|mv|cd|mkdir|\./[\w.-]+)\b",
    re.MULTILINE,
)
_POWERSHELL = re.compile(
    r"\b(?:iwr|irm|iex|invoke-\w+|start-process|set-mppreference|new-object|downloadstring|get-childitem|\$env:)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Block:
    """A piece of a document. `start` is its offset in the document's folded text."""

    kind: BlockKind
    language: str
    text: str
    start: int
    line: int
    example: bool = False
    """Shown as what not to do: the text above it says so."""


@dataclass(frozen=True)
class Document:
    """A file's text as it is checked, and how to point into it."""

    path: str
    text: Text
    language: str
    """`markdown`, `json`, one of the code languages, or `text`."""
    via: tuple[str, ...] = ()
    base_line: int = 0
    """Of the place that this text was decoded from; 0 for a file itself."""

    @property
    def folded(self) -> str:
        return self.text.folded

    def line(self, offset: int) -> int:
        return self.base_line or line_of(self.text.line_starts, offset)

    def evidence(self, start: int, end: int) -> Evidence:
        shown = excerpt(self.text.folded, start, end)
        return Evidence(
            self.path,
            self.line(start),
            self.text.offset(start),
            self.text.offset(end),
            shown,
            self.via,
        )

    def evidence_at_line(self, line: int) -> Evidence:
        """The whole of a 1-based line of this text."""
        starts = self.text.line_starts
        at = starts[min(max(line, 1), len(starts)) - 1]
        end = self.text.folded.find("\n", at)
        return self.evidence(at, len(self.text.folded) if end < 0 else end)


def document(entry: SkillFile) -> Document | None:
    """A file as text; None when it is none (NUL bytes, or not mostly UTF-8)."""
    data = entry.data
    if data is None:
        return None
    named = entry.name.lower().rsplit(".", 1)[-1] in {
        *_EXTENSIONS,
        "md",
        "txt",
        "json",
        "yaml",
        "yml",
    }
    raw = text_of(data, named or data.startswith(b"#!"))
    if raw is None:
        return None
    via = tuple(entry.path.split("!")[:-1])
    return Document(entry.path, fold(raw), language_of(entry, raw), via)


def text_of(data: bytes, named: bool = False) -> str | None:
    """Bytes as text, or None; UTF-16 with a mark is text, too, and so is what is `named` as text."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    head = data[:65536]
    if b"\x00" in head:
        # One NUL among text is a trick against this very test, not a binary.
        if not named and head.count(b"\x00") * 200 > len(head):
            return None
        data = data.replace(b"\x00", b"")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
        return text if named or text.count("\ufffd") * 20 <= len(text) else None


def language_of(entry: SkillFile, raw: str) -> str:
    name = entry.name.lower()
    extension = name.rsplit(".", 1)[-1] if "." in name else ""
    if extension in ("md", "markdown", "mdx", "rst") or name in ("readme", "skill"):
        return "markdown"
    if extension in _EXTENSIONS:
        return _EXTENSIONS[extension]
    found = _SHEBANG.match(raw.lstrip("\ufeff"))
    if found:
        program = re.sub(r"[\d.]+$", "", found[1])
        return _LANGUAGES.get(
            program,
            {"pypy": "python", "bun": "javascript", "deno": "javascript"}.get(program, "text"),
        )
    if name in ("makefile", "dockerfile", "justfile") or name.startswith("dockerfile"):
        return "shell"
    return {"json": "json", "html": "html", "htm": "html", "svg": "html", "xml": "html"}.get(
        extension, "text"
    )


def blocks(doc: Document) -> Iterator[Block]:
    """All blocks of a document."""
    text = doc.folded
    if doc.language == "markdown":
        yield from _markdown(doc)
    elif doc.language in ("shell", "python", "javascript", "powershell"):
        yield Block("code", doc.language, _as_code(text, doc.language), 0, 1)
    elif doc.language == "html":
        yield from _hidden(doc)
        for m in re.finditer(
            r"<script\b[^>]*>(.*?)(?:</script|\Z)", text, re.DOTALL | re.IGNORECASE
        ):
            yield Block("code", "javascript", m[1], m.start(1), doc.line(m.start(1)))
    elif doc.language == "json":
        yield from _package_scripts(doc)
    elif _COMMAND.search(text):
        yield Block("code", guessed(text), text, 0, 1)


def guessed(text: str) -> str:
    """The language of a piece of code that does not say."""
    if (
        re.search(
            r"^\s*(?:import \w|from \w[\w.]* import|def \w+\(.*\):|print\()", text, re.MULTILINE
        )
        and "=>" not in text
    ):
        return "python"
    if re.search(
        r"\b(?:const|let|var)\s+\w+\s*=|=>|\brequire\(|\bfunction\s*\w*\(|^import .* from ['\"]",
        text,
        re.MULTILINE,
    ):
        return "javascript"
    if _POWERSHELL.search(text):
        return "powershell"
    return "shell" if _COMMAND.search(text) else ""


def _markdown(doc: Document) -> Iterator[Block]:
    text = doc.folded
    yield from _hidden(doc)
    at = 0
    fences = list(_FENCE.finditer(text))
    index = 0
    while index < len(fences):
        opening = fences[index]
        if opening.start() < at:
            index += 1
            continue
        mark = opening["mark"]
        closing = next(
            (
                it
                for it in map(fences.__getitem__, range(index + 1, len(fences)))
                if it["mark"].startswith(mark) and not it["info"].strip()
            ),
            None,
        )
        end = closing.start() if closing else len(text)
        yield from _prose(doc, at, opening.start())
        info = opening["info"].strip().split()
        language = _LANGUAGES.get(
            re.sub(r"[^a-z0-9+-].*$", "", info[0].lower()) if info else "", ""
        )
        start = min(opening.end() + 1, len(text))
        body = text[start:end]
        if not language and (not info or info[0].lower() in ("text", "txt", "plaintext", "code")):
            language = guessed(body)
        if (
            language == "shell"
            and _POWERSHELL.search(body)
            and not re.search(r"^\s*(?:sudo|export|fi|done)\b", body, re.MULTILINE)
        ):
            language = "powershell"
        # What agents write into files for others stands in fences of text or Markdown: it is prose, too.
        kind: BlockKind = "code" if language else "prose"
        warned = bool(_WARNED.search(text[max(0, opening.start() - 160) : opening.start()]))
        yield Block(kind, language, _as_code(body, language), start, doc.line(start), warned)
        at = closing.end() if closing else len(text)
        index += 1
    yield from _prose(doc, at, len(text))


def _as_code(text: str, language: str) -> str:
    """Prompts of a terminal and Windows line ends taken off; offsets of lines stay."""
    if language == "shell":
        text = _PROMPT.sub("", text)
    return text.replace("\r\n", "\n") if "\r\n" in text else text


def _prose(doc: Document, start: int, end: int) -> Iterator[Block]:
    text = doc.folded[start:end]
    if not text.strip():
        return
    yield Block("prose", "", text, start, doc.line(start))
    for m in _INLINE.finditer(text):
        if (
            _COMMAND.match(m[1])
            or _POWERSHELL.search(m[1])
            or re.match(r"(?:/bin/)?(?:ba)?sh\b|/", m[1])
        ):
            line = text[text.rfind("\n", 0, m.start()) + 1 : m.start()]
            yield Block(
                "code",
                guessed(m[1]) or "shell",
                m[1],
                start + m.start(1),
                doc.line(start + m.start(1)),
                bool(_TALKED_OF.search(line)),
            )
    for m in re.finditer(r"(?:^(?:    |\t)[^\n]*\n?)+", text, re.MULTILINE):
        if _COMMAND.search(m.group()):
            body = re.sub(r"^(?:    |\t)", "", m.group(), flags=re.MULTILINE)
            yield Block("code", guessed(body), body, start + m.start(), doc.line(start + m.start()))
    for m in re.finditer(
        r"^[ \t]*(?:\$ |[-*\d.]+ +)?((?:sudo )?(?:curl|wget|iwr|irm|bash|powershell|pwsh)\b[^\n]{8,400})$",
        text,
        re.MULTILINE,
    ):
        yield Block(
            "code", guessed(m[1]) or "shell", m[1], start + m.start(1), doc.line(start + m.start(1))
        )


def _hidden(doc: Document) -> Iterator[Block]:
    """What a reader of the rendered page does not see: comments, titles of links, texts of pictures."""
    for m in _COMMENT.finditer(doc.folded):
        group = 1 if m[1] is not None else 2
        if m[group] and m[group].strip():
            yield Block("hidden", "", m[group], m.start(group), doc.line(m.start(group)))
    for m in _TITLE.finditer(doc.folded):
        group = 1 if m[1] is not None else 2
        yield Block("hidden", "", m[group], m.start(group), doc.line(m.start(group)))
    for m in re.finditer(
        r"<(\w+)[^>]{0,200}(?:display:\s*none|visibility:\s*hidden|font-size:\s*[01](?:px)?\b|color:\s*(?:white|#fff(?:fff)?)\b|opacity:\s*0\b|\bhidden\b)[^>]{0,200}>([^<]{20,4000})",
        doc.folded,
        re.IGNORECASE,
    ):
        yield Block("hidden", "", m[2], m.start(2), doc.line(m.start(2)))


def _package_scripts(doc: Document) -> Iterator[Block]:
    """The scripts of package.json, hooks and MCP servers' commands: shell that runs by itself."""
    try:
        parsed = json.loads(doc.folded)
    except (ValueError, RecursionError):
        return
    found: list[str] = []
    stack: list[object] = [parsed]
    while stack and len(found) < 200:
        it = stack.pop()
        if isinstance(it, dict):
            for key, value in it.items():
                if isinstance(value, str) and (
                    key in ("command", "cmd", "run", "exec", "script")
                    or re.search(r"(?:^|pre|post)(?:install|start|test|build|prepare)$", str(key))
                ):
                    arguments = it.get("args")
                    more = (
                        " ".join(f"'{x}'" for x in arguments if isinstance(x, str))
                        if isinstance(arguments, list)
                        else ""
                    )
                    found.append(f"{value} {more}".strip())
                elif isinstance(value, dict | list):
                    stack.append(value)
        elif isinstance(it, list):
            stack.extend(it)
    for command in found:
        at = max(doc.folded.find(json.dumps(command.split(" '")[0], ensure_ascii=False)[1:-1]), 0)
        yield Block("code", guessed(command) or "shell", command, at, doc.line(at))
