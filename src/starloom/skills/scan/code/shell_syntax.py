"""A forgiving parser of POSIX and bash command lines: enough to know which words reach which program.

Keywords are passed over (what stands in a branch may run), quoting is undone, substitutions are
parsed in their turn. It never fails: what it cannot read becomes a word. Grammar after POSIX.1-2017,
XCU chapter 2, and bash's manual for `<(...)`, `$'...'`, `<<<` and `|&`.
"""

import re
from dataclasses import dataclass, field

MAX_DEPTH = 12
_KEYWORDS = frozenset(
    [
        "if",
        "then",
        "elif",
        "else",
        "fi",
        "while",
        "until",
        "do",
        "done",
        "for",
        "case",
        "esac",
        "in",
        "{",
        "}",
        "!",
        "time",
        "function",
        "select",
        "coproc",
        "[[",
        "]]",
    ]
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGN = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\[[^\]]*\])?(\+?)=")
_SPECIAL = set(" \t\n;|&<>()#'\"`$\\")
_REDIRECT = re.compile(r"(\d*|&)(>>|>\||>&|<<<|<<-?|<&|<>|>|<)")


@dataclass(frozen=True, slots=True)
class Plain:
    text: str
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    name: str
    default: str = ""
    """`${NAME:-default}`, or the rest of an expansion that is not followed."""


@dataclass(frozen=True, slots=True)
class Substitution:
    """`$(...)`, backquotes, or `<(...)` and `>(...)` where `process`."""

    script: "Script"
    process: bool = False


Part = Plain | Variable | Substitution
Word = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Redirect:
    operator: str
    target: Word
    heredoc: bool = False


@dataclass(slots=True)
class Command:
    line: int
    assigns: list[tuple[str, Word, bool]] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    redirects: list[Redirect] = field(default_factory=list)
    group: "Script | None" = None
    start: int = 0
    end: int = 0


Pipeline = list[Command]
Script = list[Pipeline]


def parse(text: str, line: int = 1, depth: int = 0) -> Script:
    """All pipelines of a text, in order. Beyond `MAX_DEPTH` of nesting text stays a literal."""
    return _Parser(text, line, depth).script(None)


class _Parser:
    def __init__(self, text: str, line: int, depth: int) -> None:
        self.text = text
        self.at = 0
        self.first_line = line
        self.depth = depth
        self.pending: list[tuple[str, bool, Redirect, Command]] = []
        self._counted = (0, line)

    def line(self) -> int:
        at, line = self._counted
        line += self.text.count("\n", at, self.at)
        self._counted = (self.at, line)
        return line

    def script(self, closing: str | None) -> Script:
        pipelines: Script = []
        current: Pipeline = []
        while True:
            self._blanks()
            if self.at >= len(self.text):
                break
            char = self.text[self.at]
            if char == closing:
                self.at += 1
                break
            if char == "\n":
                self.at += 1
                self._heredocs()
                self._end(pipelines, current)
                current = []
            elif char in ";&":
                self.at += 1
                self._end(pipelines, current)
                current = []
            elif char == "|":
                double = self.text.startswith("||", self.at)
                self.at += 2 if double or self.text.startswith("|&", self.at) else 1
                if double:
                    self._end(pipelines, current)
                    current = []
                else:
                    self._pipe_continues()
            elif char == ")":
                self.at += 1  # of a case pattern, or one too many
            elif char == "(":
                self.at += 1
                inner = self._nested(")")
                current.append(Command(self.line(), group=inner))
            else:
                before = self.at
                command = self._command(closing)
                command.start, command.end = before, self.at
                if command.words or command.assigns or command.redirects:
                    current.append(command)
                if self.at == before:
                    self.at += 1
        self._end(pipelines, current)
        return pipelines

    def _end(self, pipelines: Script, current: Pipeline) -> None:
        if current:
            pipelines.append(current)

    def _pipe_continues(self) -> None:
        """A pipe may be followed by a new line."""
        while self.at < len(self.text) and self.text[self.at] in " \t\n":
            self.at += 1

    def _blanks(self) -> None:
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\r":
                self.at += 1
            elif char == "\\" and self.text.startswith("\\\n", self.at):
                self.at += 2
            elif char == "\\" and self.text.startswith("\\\r\n", self.at):
                self.at += 3
            elif char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return

    def _nested(self, closing: str) -> Script:
        if self.depth >= MAX_DEPTH:
            return []
        self.depth += 1
        saved, self.pending = self.pending, []
        try:
            return self.script(closing)
        finally:
            self.depth -= 1
            self.pending = saved

    def _command(self, closing: str | None) -> Command:
        command = Command(self.line())
        while True:
            self._blanks()
            if (
                self.at >= len(self.text)
                or self.text[self.at] in ";|\n)"
                or self.text[self.at] == closing
            ):
                return command
            if self.text[self.at] == "&":
                if self.text.startswith("&>", self.at):
                    self.at += 1
                else:
                    return command
            redirect = _REDIRECT.match(self.text, self.at)
            if redirect and not self.text.startswith(("<(", ">("), redirect.start(2)):
                self._redirect(redirect, command)
                continue
            if self.text[self.at] == "(":
                if command.words and len(command.words) == 1:  # name() { ...
                    self.at += 1
                    command.words.clear()
                return command
            if not command.words:
                assign = _ASSIGN.match(self.text, self.at)
                if assign:
                    self.at = assign.end()
                    command.assigns.append((assign[1], self._value(), bool(assign[3])))
                    continue
            word = self._word(closing)
            if not command.words and len(word) == 1 and isinstance(word[0], Plain):
                only = word[0]
                if not only.quoted and only.text in _KEYWORDS:
                    if only.text in ("for", "function"):
                        self._header(only.text, command)
                    continue
            command.words.append(word)

    def _header(self, keyword: str, command: Command) -> None:
        """`for NAME in WORDS` assigns all its words; `function NAME` names what follows."""
        self._blanks()
        name = _NAME.match(self.text, self.at)
        if name is None:
            return
        self.at = name.end()
        if keyword != "for":
            return
        self._blanks()
        if self.text.startswith("in", self.at):
            self.at += 2
            parts: list[Part] = []
            while True:
                self._blanks()
                before = self.at
                parts += [*self._word(None), Plain(" ")]
                if self.at == before:
                    break
            command.assigns.append((name.group(), tuple(parts), False))

    def _value(self) -> Word:
        if self.at < len(self.text) and self.text[self.at] == "(":  # an array
            self.at += 1
            parts: list[Part] = []
            while self.at < len(self.text) and self.text[self.at] != ")":
                if self.text[self.at] in " \t\n\r":
                    parts.append(Plain(" "))
                    self.at += 1
                    continue
                before = self.at
                parts.extend(self._word(")"))
                if self.at == before:
                    self.at += 1
            self.at += 1
            return tuple(parts)
        return self._word(None)

    def _redirect(self, found: re.Match[str], command: Command) -> None:
        operator = found[2]
        self.at = found.end()
        self._blanks()
        if operator.startswith("<<") and operator != "<<<":
            word = self._word(None)
            quoted = any(isinstance(it, Plain) and it.quoted for it in word)
            mark = "".join(it.text for it in word if isinstance(it, Plain))
            redirect = Redirect("<<", (), heredoc=True)
            command.redirects.append(redirect)
            self.pending.append((mark, quoted, redirect, command))
            return
        target = self._word(None)
        command.redirects.append(Redirect((found[1] if found[1] == "2" else "") + operator, target))

    def _heredocs(self) -> None:
        for mark, quoted, redirect, command in self.pending:
            lines: list[str] = []
            while self.at < len(self.text):
                end = self.text.find("\n", self.at)
                end = len(self.text) if end < 0 else end
                text = self.text[self.at : end]
                self.at = min(end + 1, len(self.text))
                if text.strip() == mark:
                    break
                lines.append(text)
            body = "\n".join(lines) + "\n"
            at = next(i for i, it in enumerate(command.redirects) if it is redirect)
            parts = (Plain(body, quoted=True),) if quoted else self._expanded(body)
            command.redirects[at] = Redirect("<<", parts, heredoc=True)
        self.pending = []

    def _expanded(self, body: str) -> Word:
        if "$" not in body and "`" not in body:
            return (Plain(body, quoted=True),)
        inner = _Parser(body.replace('"', '\\"') + '"', self.line(), self.depth + 1)
        if inner.depth >= MAX_DEPTH:
            return (Plain(body, quoted=True),)
        parts: list[Part] = []
        inner._double_quoted(parts)
        return tuple(parts)

    def _word(self, closing: str | None) -> Word:
        parts: list[Part] = []
        text = self.text
        while self.at < len(text):
            char = text[self.at]
            if char == closing or char in " \t\n;|&)\r":
                break
            if char in "<>" and not text.startswith(("<(", ">("), self.at):
                break
            if char == "(":
                break
            if char == "\\":
                if text.startswith("\\\n", self.at):
                    self.at += 2
                    continue
                parts.append(Plain(text[self.at + 1 : self.at + 2]))
                self.at += 2
            elif char == "'":
                end = text.find("'", self.at + 1)
                end = len(text) if end < 0 else end
                parts.append(Plain(text[self.at + 1 : end], quoted=True))
                self.at = end + 1
            elif char == '"':
                self.at += 1
                if not self._double_quoted(parts):
                    parts.append(Plain("", quoted=True))
            elif char == "`":
                self._backquoted(parts)
            elif char == "$":
                self._dollar(parts)
            elif char in "<>":
                self.at += 2
                parts.append(Substitution(self._nested(")"), process=True))
            else:
                end = self.at + 1
                while end < len(text) and text[end] not in _SPECIAL and text[end] != closing:
                    end += 1
                parts.append(Plain(text[self.at : end]))
                self.at = end
        return tuple(_joined(parts))

    def _double_quoted(self, parts: list[Part]) -> bool:
        text, before = self.text, len(parts)
        literal: list[str] = []

        def flush() -> None:
            if literal:
                parts.append(Plain("".join(literal), quoted=True))
                literal.clear()

        while self.at < len(text):
            char = text[self.at]
            if char == '"':
                self.at += 1
                break
            if char == "\\" and text[self.at + 1 : self.at + 2] in ('"', "\\", "$", "`", "\n"):
                if text[self.at + 1] != "\n":
                    literal.append(text[self.at + 1])
                self.at += 2
            elif char == "$":
                flush()
                self._dollar(parts)
            elif char == "`":
                flush()
                self._backquoted(parts)
            else:
                end = self.at + 1
                while end < len(text) and text[end] not in '"\\$`':
                    end += 1
                literal.append(text[self.at : end])
                self.at = end
        flush()
        return len(parts) > before

    def _backquoted(self, parts: list[Part]) -> None:
        end = self.text.find("`", self.at + 1)
        if end < 0:
            parts.append(Plain("`"))
            self.at += 1
            return
        inner = self.text[self.at + 1 : end].replace("\\`", "`")
        line = self.line()
        self.at = end + 1
        if self.depth < MAX_DEPTH:
            parts.append(Substitution(parse(inner, line, self.depth + 1)))
        else:
            parts.append(Plain(inner))

    def _dollar(self, parts: list[Part]) -> None:
        text = self.text
        follows = text[self.at + 1 : self.at + 2]
        if follows == "(":
            if text.startswith("$((", self.at):
                end = text.find("))", self.at)
                self.at = len(text) if end < 0 else end + 2
                parts.append(Plain("0"))
                return
            self.at += 2
            parts.append(Substitution(self._nested(")")))
        elif follows == "{":
            end = _brace_end(text, self.at + 2)
            body = text[self.at + 2 : end]
            self.at = end + 1
            name = _NAME.match(body.lstrip("!#"))
            if name is None:
                parts.append(Variable(body[:1]))
                return
            rest = body.lstrip("!#")[name.end() :]
            parts.append(Variable(name.group(), rest))
        elif follows == "'":
            end = self.at + 2
            while end < len(text) and text[end] != "'":
                end += 2 if text[end] == "\\" else 1
            parts.append(Plain(_ansi(text[self.at + 2 : end]), quoted=True))
            self.at = end + 1
        elif follows == '"':
            self.at += 1
        else:
            name = _NAME.match(text, self.at + 1)
            if name:
                self.at = name.end()
                parts.append(Variable(name.group()))
            elif follows and follows in "@*#?$!-0123456789":
                self.at += 2
                parts.append(Variable(follows))
            else:
                self.at += 1
                parts.append(Plain("$"))


def _brace_end(text: str, at: int) -> int:
    depth = 1
    while at < len(text):
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return at
        elif text[at] == "\n" and depth == 1:
            return at
        at += 1
    return at


_ESCAPE = re.compile(
    r"\\(x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{1,4}|U[0-9A-Fa-f]{1,8}|0?[0-7]{1,3}|.)", re.DOTALL
)
_NAMED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "f": "\f", "v": "\v"}


def _ansi(text: str) -> str:
    """The escapes of `$'...'`, `printf` and `echo -e`."""

    def one(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] in "xuU" and len(code) > 1:
            number = int(code[1:], 16)
            return chr(number) if number < 0x110000 else ""
        if code[0] in "01234567":
            return chr(int(code, 8) & 0xFF)
        return _NAMED.get(code, code)

    return _ESCAPE.sub(one, text)


unescape = _ansi


def _joined(parts: list[Part]) -> list[Part]:
    """Neighbouring literals as one."""
    out: list[Part] = []
    for it in parts:
        if out and isinstance(it, Plain) and isinstance(out[-1], Plain):
            out[-1] = Plain(out[-1].text + it.text, out[-1].quoted or it.quoted)
        else:
            out.append(it)
    return out
