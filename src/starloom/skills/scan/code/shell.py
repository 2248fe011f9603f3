"""Shell scripts as acts: each program that moves data has a reader for its arguments.

Values flow through variables, pipes, files and substitutions, over all blocks of one session. The
programs follow their manual pages; one that is not listed passes its input's labels on.
"""

import re
from collections.abc import Callable, Sequence

from starloom.skills.scan.code.shell_syntax import (
    Command,
    Pipeline,
    Plain,
    Script,
    Substitution,
    Variable,
    Word,
    parse,
    unescape,
)
from starloom.skills.scan.decode import base64_text, hex_text, rot13
from starloom.skills.scan.flow import (
    EMPTY,
    HOLE,
    UNKNOWN,
    Act,
    Label,
    Session,
    Value,
    label_of_variable,
    labels_of_path,
    union,
)
from starloom.skills.scan.hosts import URL
from starloom.skills.scan.places import secret_env

Words = Sequence[Value]
_NEWLINE = Value("\n")
_FD = "/dev/fd/"
"""What `<(...)` gives its command."""
_PREFIXES = {
    "sudo",
    "doas",
    "env",
    "nohup",
    "time",
    "exec",
    "command",
    "builtin",
    "setsid",
    "nice",
    "timeout",
    "stdbuf",
    "busybox",
    "caffeinate",
    "ionice",
    "unbuffer",
    "proxychains",
    "pkexec",
    "then",
    "do",
    "else",
}
_INTERPRETERS = {
    **dict.fromkeys(("bash", "sh", "zsh", "dash", "ksh", "ash", "fish"), "shell"),
    **dict.fromkeys(("python", "python3", "python2", "py", "pypy3"), "python"),
    **dict.fromkeys(("node", "nodejs", "bun", "deno"), "javascript"),
    **dict.fromkeys(("pwsh", "powershell", "powershell.exe"), "powershell"),
    **dict.fromkeys(("perl", "ruby", "php", "lua", "osascript", "tclsh", "Rscript"), "other"),
}
_CODE_FLAG = {"shell": "c", "python": "c", "javascript": "e", "other": "e"}
_HOST_PROGRAMS = {
    "whoami",
    "hostname",
    "uname",
    "id",
    "ifconfig",
    "ip",
    "ipconfig",
    "sw_vers",
    "lscpu",
    "systeminfo",
    "w",
    "who",
    "last",
    "netstat",
    "ss",
    "ps",
}
_READERS = {
    "cat",
    "head",
    "tail",
    "less",
    "more",
    "tac",
    "nl",
    "strings",
    "od",
    "sed",
    "awk",
    "gawk",
    "cut",
    "sort",
    "uniq",
    "tr",
    "rev",
    "jq",
    "yq",
    "zcat",
    "fold",
    "paste",
    "dd",
    "gpg",
    "bat",
    "type",
    "sops",
    "pr",
    "column",
    "wc",
}
_CURL_DATA = {
    "-d",
    "--data",
    "--data-binary",
    "--data-raw",
    "--data-ascii",
    "--data-urlencode",
    "-F",
    "--form",
    "--form-string",
    "-T",
    "--upload-file",
    "--json",
    "--post-data",
    "--post-file",
    "--body-data",
    "--body-file",
    "--url-query",
}
_CURL_HEADER = {
    "-H",
    "--header",
    "-u",
    "--user",
    "-b",
    "--cookie",
    "-A",
    "--user-agent",
    "-e",
    "--referer",
    "--oauth2-bearer",
    "--http-user",
    "--http-password",
}
_CURL_OTHER = {
    "-X",
    "--request",
    "-m",
    "--max-time",
    "--connect-timeout",
    "--retry",
    "-w",
    "--write-out",
    "-x",
    "--proxy",
    "--cacert",
    "--cert",
    "-E",
    "--key",
    "-K",
    "--config",
    "-c",
    "--cookie-jar",
    "--resolve",
    "-r",
    "--range",
    "-D",
    "--dump-header",
    "--retry-delay",
    "-t",
    "--tries",
    "--timeout",
    "-T0",
    "-P",
    "--directory-prefix",
    "--limit-rate",
    "--method",
    "-U",
}
_CURL_FILE = {"-o", "--output", "-O", "--output-document"}


class Shell:
    """One shell: variables of its own, files shared with the session."""

    def __init__(self, session: Session, outer: frozenset[Label] = frozenset()) -> None:
        self.session = session
        self.outer = outer
        self.variables = session.variables if session.depth == 0 else dict(session.variables)

    def text(self, code: str, line: int = 1) -> Value:
        """Read a script; returns what it would print."""
        return self._script(parse(code, line))

    def _script(self, script: Script) -> Value:
        printed = [self._pipeline(it) for it in script if self.session.step()]
        whole = EMPTY
        for it in printed:
            whole = whole + it if it.text.endswith("\n") or not it.text else whole + it + _NEWLINE
        return Value(whole.text.removesuffix("\n"), whole.labels)

    def _pipeline(self, pipeline: Pipeline) -> Value:
        flowing = EMPTY
        for command in pipeline:
            flowing = self._command(command, flowing)
        return flowing

    # --- words

    def word(self, word: Word) -> Value:
        """A word's value, its parts joined."""
        made = EMPTY
        for part in word:
            if isinstance(part, Plain):
                labels = self.outer if HOLE in part.text else frozenset()
                made += Value(part.text, labels)
            elif isinstance(part, Variable):
                made += self._variable(part)
            else:
                made += self._substituted(part)
        return made

    def _variable(self, part: Variable) -> Value:
        held = self.variables.get(part.name)
        if held is not None:
            return held
        if part.name == "HOME":
            return Value("~")
        if part.name == "IFS":
            return Value(" ")
        labels = label_of_variable(part.name)
        if part.name in "@*0123456789":
            labels = frozenset({Label("input")})
        if part.default.startswith((":-", "-", ":=", "=")):
            default = part.default.lstrip(":").lstrip("-=").strip("\"'")
            if default and "$" not in default:
                return Value(default, labels)
        return Value(HOLE, labels)

    def _substituted(self, part: Substitution) -> Value:
        value = self._script(part.script)
        if part.process:
            return Value(_FD + value.text, value.labels)
        return Value(value.text.rstrip("\n"), value.labels)

    def _arguments(self, words: Sequence[Word]) -> list[Value]:
        made: list[Value] = []
        for word in words:
            value = self.word(word)
            only = word[0] if len(word) == 1 else None
            if isinstance(only, Variable) and value.known and " " in value.text.strip():
                made += [Value(it, value.labels) for it in value.text.split()]
            elif (
                "{" in value.text
                and "," in value.text
                and all(isinstance(it, Plain) and not it.quoted for it in word)
            ):
                made += [Value(it, value.labels) for it in _braces(value.text)]
            else:
                made.append(value)
        return made

    # --- commands

    def _command(self, command: Command, stdin: Value) -> Value:
        for name, word, append in command.assigns:
            value = self.word(word)
            held = self.variables.get(name)
            self.variables[name] = held + value if append and held else value
            if (
                name in ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "PATH", "HISTFILE", "HISTSIZE")
                or secret_env(name)
                or not value.has("network")
            ):
                self.session.act(
                    Act("command", command.line, Value(f"{name}={value.text}", value.labels), "=")
                )
        for redirect in command.redirects:
            if redirect.operator in ("<<", "<<<"):
                stdin = self.word(redirect.target)
            elif redirect.operator == "<":
                stdin = self._file(self.word(redirect.target), command.line)
        if command.group is not None:
            printed = self._script(command.group)
        else:
            arguments = self._arguments(command.words)
            printed = self._program(arguments, stdin, command.line) if arguments else EMPTY
            if not arguments and command.assigns:
                return EMPTY
        for redirect in command.redirects:
            if redirect.operator in (">", ">>", ">|", "<>"):
                path = self.word(redirect.target)
                if path.text != "/dev/null":
                    if path.text.startswith(("/dev/tcp/", "/dev/udp/")):
                        self._socket(path, printed, command)
                    else:
                        self.session.write(
                            path.text, printed, command.line, append=redirect.operator == ">>"
                        )
                printed = EMPTY
            elif redirect.operator == ">&":
                target = self.word(redirect.target).text
                if target.startswith(("/dev/tcp/", "/dev/udp/")):
                    self._socket(Value(target), printed, command)
        return printed

    def _socket(self, path: Value, printed: Value, command: Command) -> None:
        _, _, _, host, *port = (path.text + "/").split("/")[:5]
        line = command.line
        first = self.word(command.words[0]).text if command.words else ""
        kind = _INTERPRETERS.get(first.rsplit("/", 1)[-1])
        if kind == "shell" or first == "exec":
            self.session.act(Act("shell-socket", line, printed, host, how=" ".join(port)))
        else:
            self.session.act(Act("send", line, printed, host, how="socket"))

    def _program(self, words: list[Value], stdin: Value, line: int) -> Value:
        whole = Value(
            " ".join(it.text for it in words), frozenset().union(*(it.labels for it in words))
        )
        self.session.act(Act("command", line, whole, _base(words[0].text), tuple(words)))
        while words and (_base(words[0].text) in _PREFIXES or _is_assignment(words[0].text)):
            prefix = _base(words.pop(0).text)
            while (
                words
                and prefix in _PREFIXES
                and (words[0].text.startswith("-") or _is_assignment(words[0].text))
            ):
                takes = prefix in ("sudo", "doas") and words[0].text in ("-u", "-g", "-p")
                words = words[2:] if takes else words[1:]
            if prefix == "timeout" and words:
                words = words[1:]
            if prefix == "env" and not words:
                return Value(HOLE, frozenset({Label("environment")}))
        if not words:
            return stdin
        name = _base(words[0].text)
        plain = name.replace(HOLE, "")
        if HOLE in name and (plain in _INTERPRETERS or plain in _PROGRAMS):
            name = plain  # an unset variable inside a name is nothing: c${x}url
        arguments = words[1:]
        if words[0].has("network", "decoded") or (not words[0].known and words[0].labels):
            code = Value(whole.text, words[0].labels)
            if words[0].has("network", "decoded"):
                return self.session.run("shell", code, line, "as a command")
        if name in _INTERPRETERS or re.fullmatch(r"python3?\.\d+", name):
            return self._interpreter(_INTERPRETERS.get(name, "python"), arguments, stdin, line)
        handler = _PROGRAMS.get(name)
        if handler is not None:
            return handler(self, arguments, stdin, line)
        if name == "mktemp":
            return Value(f"/tmp/mktemp.{self.session.budget}")  # noqa: S108 - a name to follow, no file
        if name in _HOST_PROGRAMS:
            return Value(HOLE, frozenset({Label("host", name)}))
        if name in _READERS:
            return self._reader(name, arguments, stdin, line)
        if "/" in words[0].text or words[0].text in self.session.files:
            held = self.session.files.get(words[0].text.removeprefix("./"))
            if held is not None:
                self.session.run("shell", held, line, f"file {words[0].text}")
        labels = labels_of_path(whole.text)
        named = frozenset(it for it in labels if it.kind != "file")
        return union((stdin, *arguments)).with_labels(named)

    def _file(self, path: Value, line: int) -> Value:
        if path.text.startswith(_FD):
            return Value(path.text.removeprefix(_FD), path.labels)  # <(curl ...)
        return self.session.read(path.text, line).with_labels(path.labels - {Label("input")})

    def _reader(self, name: str, arguments: Words, stdin: Value, line: int) -> Value:
        """Programs that print their input, changed or not."""
        paths = [it for it in arguments if not it.text.startswith("-")]
        if name in ("sed", "awk", "gawk", "jq", "yq", "tr"):
            program, paths = paths[:1], paths[1:]
            text = program[0].text if program else ""
            if name == "awk" and "system(" in text:
                for m in re.finditer(r"system\(\s*\"([^\"]+)\"", text):
                    self.session.run("shell", Value(m[1]), line, "awk system()")
        if name == "dd":
            paths = [Value(it.text[3:], it.labels) for it in arguments if it.text.startswith("if=")]
            for it in arguments:
                if it.text.startswith("of="):
                    self.session.write(
                        it.text[3:], union((stdin, *(self._file(p, line) for p in paths))), line
                    )
        if name == "gpg" and not any("export-secret" in it.text for it in arguments):
            return union((stdin, *arguments))
        if name == "gpg":
            return Value(HOLE, frozenset({Label("credential", "GnuPG keys")}))
        read = [self._file(it, line) for it in paths]
        if name in ("cat", "bat", "tac", "type") and not read:
            return stdin
        if name in ("cat", "bat", "type") and len(read) == 1:
            return read[0]
        value = union((stdin, *read))
        if name == "wc":
            return UNKNOWN
        if name == "rev" and stdin.known:
            return Value(
                "\n".join(it[::-1] for it in stdin.text.split("\n")),
                stdin.labels | {Label("decoded", "reversed")},
            )
        if name == "tr" and stdin.known and len(arguments) == 2:
            return _translated(arguments, stdin)
        return (
            value
            if name != "cat"
            else Value("".join(it.text for it in (stdin, *read)), value.labels)
        )

    def _interpreter(self, language: str, arguments: Words, stdin: Value, line: int) -> Value:
        flag = _CODE_FLAG.get(language, "")
        for at, it in enumerate(arguments):
            text = it.text
            if language == "powershell" and re.match(
                r"-e(?:nc|ncodedcommand|c)?$", text, re.IGNORECASE
            ):
                code = arguments[at + 1] if at + 1 < len(arguments) else EMPTY
                said = Value(
                    base64_text(code.text) or HOLE, code.labels | {Label("decoded", "base64")}
                )
                return self.session.run(language, said, line, "-EncodedCommand")
            if language == "powershell" and re.match(r"-c(?:ommand)?$", text, re.IGNORECASE):
                rest = Value(
                    " ".join(x.text for x in arguments[at + 1 :]), union(arguments[at + 1 :]).labels
                )
                return self.session.run(language, rest, line, "-Command")
            if flag and re.fullmatch(rf"-[a-zA-Z]*{flag}", text) and not text.startswith("--"):
                code = arguments[at + 1] if at + 1 < len(arguments) else EMPTY
                return self.session.run(language, code, line, f"-{flag}").with_labels(stdin.labels)
            if text == "-m" and language == "python":
                self._program(
                    [Value("pip") if x.text == "pip" else x for x in arguments[at + 1 :]],
                    stdin,
                    line,
                ) if at + 1 < len(arguments) else None
                return union((stdin, *arguments))
            if not text.startswith("-") or text == "-":
                if text in ("-", "/dev/stdin"):
                    break
                if text in ("run", "eval") and language == "javascript":
                    continue
                if text.startswith(_FD):  # bash <(curl ...)
                    said = Value(text.removeprefix(_FD), it.labels)
                    return self.session.run(language, said, line, "process substitution")
                held = self.session.files.get(text.removeprefix("./"))
                if held is not None:
                    return self.session.run(language, held, line, f"file {text}")
                if text.startswith(("http:", "https:")):
                    return self.session.run(
                        language, Value(HOLE, frozenset({Label("network", text)})), line, "URL"
                    )
                return union((stdin, *arguments[at + 1 :]))
        if stdin is not EMPTY and stdin != EMPTY:
            return self.session.run(language, stdin, line, "standard input")
        return UNKNOWN

    # --- programs with readers of their own

    def _echo(self, arguments: Words, stdin: Value, line: int) -> Value:
        del stdin, line
        escapes = any(it.text == "-e" for it in arguments[:2])
        shown = [it for it in arguments if it.text not in ("-n", "-e", "-ne", "-en", "-E")]
        text = " ".join(it.text for it in shown)
        return Value(unescape(text) if escapes else text, union(shown).labels)

    def _printf(self, arguments: Words, stdin: Value, line: int) -> Value:
        del stdin, line
        if not arguments:
            return EMPTY
        shape = arguments[0].text
        labels = union(arguments).labels
        if "\\x" in shape or re.search(r"\\[0-3][0-7]{2}", shape):
            labels |= {Label("decoded", "escapes")}
        texts = iter([it.text for it in arguments[1:]])
        text = re.sub(r"%[-\d.]*[sdxcbq]", lambda _: next(texts, ""), unescape(shape))
        return Value(text, labels)

    def _base64(self, arguments: Words, stdin: Value, line: int) -> Value:
        decodes = any(re.fullmatch(r"-[a-zA-Z]*[dD][a-z]*|--decode", it.text) for it in arguments)
        paths = [it for it in arguments if not it.text.startswith("-") and not it.text.isdigit()]
        value = stdin if not paths or paths == [Value("base64")] else self._file(paths[-1], line)
        if not decodes:
            return value.opaque()
        said = base64_text(value.text) if value.known else ""
        return Value(said or HOLE, value.labels | {Label("decoded", "base64")})

    def _openssl(self, arguments: Words, stdin: Value, line: int) -> Value:
        texts = [it.text for it in arguments]
        if "base64" in texts or "enc" in texts or "-base64" in texts:
            return self._base64([it for it in arguments if it.text.startswith("-d")], stdin, line)
        if "s_client" in texts:
            target = texts[texts.index("-connect") + 1] if "-connect" in texts[:-1] else ""
            self.session.act(Act("send", line, stdin, target, how="socket"))
        return union((stdin, *arguments))

    def _xxd(self, arguments: Words, stdin: Value, line: int) -> Value:
        paths = [it for it in arguments if not it.text.startswith("-")]
        value = self._file(paths[0], line) if paths else stdin
        if not any(re.fullmatch(r"-[a-z]*r[a-z]*", it.text) for it in arguments):
            return value.opaque()
        said = hex_text(value.text) if value.known else ""
        return Value(said or HOLE, value.labels | {Label("decoded", "hex")})

    def _gunzip(self, arguments: Words, stdin: Value, line: int) -> Value:
        paths = [it for it in arguments if not it.text.startswith("-")]
        return union([stdin, *(self._file(it, line) for it in paths)])

    def _grep(self, arguments: Words, stdin: Value, line: int) -> Value:
        plain = [it for it in arguments if not it.text.startswith("-")]
        pattern, paths = plain[:1], plain[1:]
        value = union([stdin, *(self._file(it, line) for it in paths)])
        names = (
            re.findall(r"[A-Za-z][A-Za-z0-9]*_[A-Za-z0-9_]+", pattern[0].text) if pattern else []
        )
        dotenv = Label("credential", ".env file")
        if dotenv in value.labels and len(names) == 1 and "|" not in pattern[0].text:
            return Value(HOLE, (value.labels - {dotenv}) | {Label("env", names[0])})
        return value

    def _curl(self, arguments: Words, stdin: Value, line: int) -> Value:
        urls: list[Value] = []
        body: list[Value] = []
        headers: list[Value] = []
        output = ""
        remote_name = False
        at = 0
        while at < len(arguments):
            it = arguments[at]
            name, joined, after = it.text.partition("=")
            following = arguments[at + 1] if at + 1 < len(arguments) else EMPTY
            if name in _CURL_DATA and name.startswith("--") and joined:
                body.append(self._posted(name, Value(after, it.labels), stdin, line))
            elif it.text in _CURL_DATA:
                body.append(self._posted(it.text, following, stdin, line))
                at += 1
            elif re.match(r"-(?:d|F|T)\S", it.text):
                body.append(self._posted(it.text[:2], Value(it.text[2:], it.labels), stdin, line))
            elif re.fullmatch(r"-[a-zA-Z]*[dFT]", it.text):
                body.append(self._posted("-" + it.text[-1], following, stdin, line))
                at += 1
            elif it.text in _CURL_HEADER or (name in _CURL_HEADER and joined):
                headers.append(it if joined else following)
                at += 0 if joined else 1
            elif it.text == "-O" and not URL.match(following.text):
                output = following.text
                at += 1
            elif it.text in ("-O", "-LO", "--remote-name") or re.fullmatch(r"-[a-zA-Z]*O", it.text):
                remote_name = True
                if it.text.startswith("-q") and it.text.endswith("O"):
                    output, remote_name = following.text, False
                    at += 1
            elif it.text in _CURL_FILE or re.fullmatch(r"-[a-zA-Z]*o", it.text):
                output = following.text
                at += 1
            elif it.text in {"-qO-", "-O-"}:
                output = "-"
            elif it.text in _CURL_OTHER or re.fullmatch(r"-[a-zA-Z]*[Xmwxc]", it.text):
                at += 1
            elif it.text == "--url":
                urls.append(following)
                at += 1
            elif not it.text.startswith("-"):
                urls.append(it)
            at += 1
        fetched: frozenset[Label] = frozenset()
        for url in urls[:20]:
            fetched |= {Label("network", url.text)}
            target = url.text
            if body:
                self.session.act(Act("send", line, _all(body), target, how="body"))
            if union(headers).labels:
                self.session.act(Act("send", line, union(headers), target, how="header"))
            if url.labels - {Label("input")}:
                self.session.act(Act("send", line, url, target, how="url"))
            if not body:
                self.session.act(Act("fetch", line, EMPTY, target))
        value = Value(HOLE, fetched)
        if remote_name and urls:
            output = urls[0].text.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        if output and output != "-":
            self.session.write(output, value, line)
            return EMPTY
        return value

    def _wget(self, arguments: Words, stdin: Value, line: int) -> Value:
        prints = any(
            re.fullmatch(r"-[a-zA-Z]*O-?|--output-document=-", it.text) for it in arguments
        ) and any(
            it.text in ("-", "-O-", "-qO-", "-nvO-", "-q0-") or it.text.endswith("O-")
            for it in arguments
        )
        output = next(
            (
                arguments[i + 1].text
                for i, it in enumerate(arguments[:-1])
                if re.fullmatch(r"-[a-zA-Z]*O|--output-document", it.text)
            ),
            "",
        )
        named = [
            it.text.partition("=")[2]
            for it in arguments
            if it.text.startswith("--output-document=")
        ]
        output = output or (named[0] if named else "")
        rest = [
            it
            for it in arguments
            if not re.fullmatch(r"-[a-zA-Z]*O-?|--output-document", it.text)
            and (it.text != output or not output)
        ]
        value = self._curl(rest, stdin, line)
        if prints or output in {"-", "/dev/stdout"}:
            return value
        urls = [it.text for it in rest if not it.text.startswith("-")]
        path = output or (urls[0].split("?")[0].rstrip("/").rsplit("/", 1)[-1] if urls else "")
        if path:
            self.session.write(path, value, line)
        return EMPTY

    def _posted(self, flag: str, value: Value, stdin: Value, line: int) -> Value:
        """What `-d`, `-F`, `-T` send: text, or a file where it starts with @ (or always, for -T)."""
        text = value.text
        if flag in ("-T", "--upload-file", "--post-file", "--body-file"):
            return stdin if text in ("-", ".") else self._file(value, line)
        if flag not in ("--data-raw", "--form-string", "--post-data"):
            part = text.partition("=")[2] if flag in ("-F", "--form", "--data-urlencode") else text
            marked = part if part[:1] in "@<" and part else text
            if marked[:1] in ("@", "<") and len(marked) > 1:
                path = marked[1:].split(";")[0]
                return (
                    stdin
                    if path in ("-", "/dev/stdin")
                    else self._file(Value(path, value.labels), line)
                )
        return value

    def _netcat(self, arguments: Words, stdin: Value, line: int) -> Value:
        texts = [it.text for it in arguments]
        plain = [it for it in texts if not it.startswith("-") and not it.startswith("/")]
        target = plain[0] if plain else ""
        if any(re.fullmatch(r"-[a-z]*[ec]|--exec|--sh-exec", it) for it in texts) and any(
            "sh" in it or "cmd" in it for it in texts
        ):
            self.session.act(Act("shell-socket", line, stdin, target, how="nc -e"))
        elif any(re.fullmatch(r"-[a-z]*l[a-z]*", it) for it in texts):
            self.session.act(Act("listen", line, stdin, " ".join(plain)))
        elif not any(re.fullmatch(r"-[a-z]*z[a-z]*", it) for it in texts):
            self.session.act(Act("send", line, stdin, target, how="socket"))
            if stdin.text.strip() == HOLE and any(
                "mkfifo" in a.value.text for a in self.session.acts if a.kind == "command"
            ):
                self.session.act(Act("shell-socket", line, stdin, target, how="mkfifo"))
        return Value(HOLE, frozenset({Label("network", target)}))

    def _socat(self, arguments: Words, stdin: Value, line: int) -> Value:
        texts = " ".join(it.text for it in arguments)
        found = re.search(r"(?:TCP|OPENSSL|UDP)\d?:([^\s:,]+)", texts, re.IGNORECASE)
        if re.search(r"\b(?:EXEC|SYSTEM|SHELL):", texts, re.IGNORECASE):
            self.session.act(
                Act("shell-socket", line, stdin, found[1] if found else "", how="socat")
            )
        elif found:
            self.session.act(Act("send", line, stdin, found[1], how="socket"))
        return UNKNOWN

    def _resolver(self, arguments: Words, stdin: Value, line: int) -> Value:
        value = (
            union((stdin, *arguments))
            if len(arguments) != 1
            else arguments[0].with_labels(stdin.labels)
        )
        name = next(
            (it.text for it in arguments if "." in it.text and not it.text.startswith(("-", "@"))),
            "",
        )
        if value.labels - {Label("input")}:
            self.session.act(
                Act("send", line, value, name.rsplit(HOLE, 1)[-1].lstrip("."), how="dns")
            )
        return UNKNOWN

    def _source(self, arguments: Words, stdin: Value, line: int) -> Value:
        if not arguments:
            return UNKNOWN
        it = arguments[0]
        text = it.text
        if text in ("/dev/stdin", "/proc/self/fd/0"):
            return self.session.run("shell", stdin, line, "standard input")
        if text.startswith(_FD) or it.has("decoded"):
            said = Value(text.removeprefix(_FD), it.labels)
            return self.session.run("shell", said, line, "source")
        held = self.session.files.get(it.text.removeprefix("./"))
        if held is not None:
            return self.session.run("shell", held, line, f"file {it.text}")
        return UNKNOWN

    def _eval(self, arguments: Words, stdin: Value, line: int) -> Value:
        del stdin
        code = Value(" ".join(it.text for it in arguments), union(arguments).labels)
        return self.session.run("shell", code, line, "eval")

    def _xargs(self, arguments: Words, stdin: Value, line: int) -> Value:
        words = list(arguments)
        place = ""
        while words and words[0].text.startswith("-"):
            text = words[0].text
            takes = text in ("-I", "-n", "-P", "-L", "-d", "-s", "-a")
            if text.startswith("-I"):
                place = words[1].text if takes and len(words) > 1 else text[2:]
            words = words[2:] if takes else words[1:]
        if not words:
            return stdin
        if place:
            return self._program([stdin if it.text == place else it for it in words], EMPTY, line)
        return self._program([*words, stdin], EMPTY, line)

    def _find(self, arguments: Words, stdin: Value, line: int) -> Value:
        del stdin
        texts = [it.text for it in arguments]
        labels = frozenset(
            it
            for text in texts
            for it in labels_of_path(text.replace("*", ""))
            if it.kind != "file"
        )
        path = texts[0] if texts else "."
        found = Value(HOLE, labels | {Label("file", path)})
        for at, text in enumerate(texts):
            if text in ("-exec", "-execdir", "-ok"):
                words = [
                    Value(it.text.replace("{}", path), it.labels | labels)
                    if "{}" in it.text
                    else it
                    for it in arguments[at + 1 :]
                    if it.text not in (";", "+", "\\;")
                ]
                return self._program(words, EMPTY, line) if words else found
        return found

    def _copy(self, arguments: Words, stdin: Value, line: int) -> Value:
        del stdin
        paths = [it for it in arguments if not it.text.startswith("-")]
        if len(paths) >= 2:
            content = [self._file(it, line) for it in paths[:-1]]
            value = content[0] if len(content) == 1 else union(content)
            self.session.write(paths[-1].text, value, line)
        return EMPTY

    def _remote_copy(self, arguments: Words, stdin: Value, line: int) -> Value:
        paths = [it for it in arguments if not it.text.startswith("-")]
        remote = [
            it
            for it in paths
            if re.match(r"(?:[\w.-]+@)?[\w.-]+\.?[\w-]*:|s3://|gs://|rsync://|\w+:", it.text)
        ]
        if paths and remote and paths[-1] is remote[-1]:
            value = union([stdin, *(self._file(it, line) for it in paths[:-1])])
            self.session.act(Act("send", line, value, remote[-1].text, how="copy"))
        return EMPTY

    def _ssh(self, arguments: Words, stdin: Value, line: int) -> Value:
        plain = [it for it in arguments if not it.text.startswith("-")]
        if plain and stdin.labels:
            self.session.act(Act("send", line, stdin, plain[0].text, how="ssh"))
        return UNKNOWN

    def _mail(self, arguments: Words, stdin: Value, line: int) -> Value:
        target = next((it.text for it in arguments if "@" in it.text), "")
        files = [
            self._file(arguments[i + 1], line)
            for i, it in enumerate(arguments[:-1])
            if it.text in ("-a", "-A")
        ]
        self.session.act(Act("send", line, union([stdin, *files]), target, how="mail"))
        return UNKNOWN

    def _tee(self, arguments: Words, stdin: Value, line: int) -> Value:
        append = any(it.text == "-a" for it in arguments)
        for it in arguments:
            if not it.text.startswith("-"):
                self.session.write(it.text, stdin, line, append=append)
        return stdin

    def _remove(self, arguments: Words, stdin: Value, line: int) -> Value:
        del stdin
        flags = "".join(it.text for it in arguments if it.text.startswith("-"))
        for it in arguments:
            if not it.text.startswith("-"):
                self.session.act(Act("delete", line, it, it.text, how=flags))
        return EMPTY

    def _environment(self, arguments: Words, stdin: Value, line: int) -> Value:
        del stdin, line
        if arguments and not arguments[0].text.startswith("-"):
            return Value(HOLE, label_of_variable(arguments[0].text))
        return Value(HOLE, frozenset({Label("environment")}))

    def _set(self, arguments: Words, stdin: Value, line: int) -> Value:
        return EMPTY if arguments else self._environment(arguments, stdin, line)

    def _export(self, arguments: Words, stdin: Value, line: int) -> Value:
        del stdin
        for it in arguments:
            name, equals, text = it.text.partition("=")
            if equals and re.fullmatch(r"\w+", name):
                self.variables[name] = Value(text, it.labels)
                self.session.act(Act("command", line, it, "="))
        if not arguments or arguments[0].text == "-p":
            return Value(HOLE, frozenset({Label("environment")}))
        return EMPTY

    def _alias(self, arguments: Words, stdin: Value, line: int) -> Value:
        del stdin
        self.session.act(Act("command", line, union(arguments), "alias", tuple(arguments)))
        return EMPTY

    def _clipboard(self, arguments: Words, stdin: Value, line: int) -> Value:
        del arguments, stdin, line
        return Value(HOLE, frozenset({Label("clipboard")}))

    def _archiver(self, arguments: Words, stdin: Value, line: int) -> Value:
        """tar, zip, 7z, gzip: what goes in is in what comes out; what is unpacked keeps its origin."""
        paths = [it for it in arguments if not it.text.startswith("-")]
        flags = arguments[0].text if arguments else ""
        if re.fullmatch(r"-?[a-z]*x[a-z]*|x|e|-d", flags) or "-d" in flags:
            return union([stdin, *(self._file(it, line) for it in paths)])
        value = union([stdin, *(self._file(it, line) for it in paths)])
        out = next(
            (it.text for it in paths if re.search(r"\.(?:tar|tgz|zip|gz|7z|bz2|xz)", it.text)), ""
        )
        if out:
            self.session.write(out, value, line)
        return value

    def _crontab(self, arguments: Words, stdin: Value, line: int) -> Value:
        texts = [it.text for it in arguments]
        if "-l" in texts:
            return UNKNOWN
        if "-r" not in texts:
            files = [self._file(it, line) for it in arguments if not it.text.startswith("-")]
            value = stdin if stdin != EMPTY else union(files)
            self.session.act(Act("write", line, value, "crontab"))
        return EMPTY

    def _nothing(self, arguments: Words, stdin: Value, line: int) -> Value:
        del arguments, stdin, line
        return EMPTY

    def _security(self, arguments: Words, stdin: Value, line: int) -> Value:
        whole = "security " + " ".join(it.text for it in arguments)
        value = self.session.read(whole, line)
        return value.with_labels(stdin.labels)

    def _read(self, arguments: Words, stdin: Value, line: int) -> Value:
        del line
        for it in arguments:
            if re.fullmatch(r"\w+", it.text):
                labels = stdin.labels or {Label("input")}
                self.variables[it.text] = Value(HOLE, frozenset(labels))
        return EMPTY


Handler = Callable[[Shell, Words, Value, int], Value]
# ruff: noqa: SLF001 - the table is the class's own
_PROGRAMS: dict[str, Handler] = {
    "echo": Shell._echo,
    "print": Shell._echo,
    "printf": Shell._printf,
    "base64": Shell._base64,
    "gbase64": Shell._base64,
    "base32": Shell._base64,
    "openssl": Shell._openssl,
    "xxd": Shell._xxd,
    **dict.fromkeys(("gunzip", "zcat", "bzcat", "xzcat"), Shell._gunzip),
    **dict.fromkeys(("grep", "egrep", "fgrep", "rg", "ag"), Shell._grep),
    **dict.fromkeys(("curl", "http", "https", "xh", "curlie"), Shell._curl),
    **dict.fromkeys(("wget", "aria2c", "fetch"), Shell._wget),
    **dict.fromkeys(("nc", "ncat", "netcat", "telnet"), Shell._netcat),
    "socat": Shell._socat,
    **dict.fromkeys(("dig", "nslookup", "host", "ping", "drill"), Shell._resolver),
    "source": Shell._source,
    ".": Shell._source,
    "eval": Shell._eval,
    "xargs": Shell._xargs,
    "find": Shell._find,
    **dict.fromkeys(("cp", "mv", "install", "ln"), Shell._copy),
    **dict.fromkeys(("scp", "rsync", "aws", "gsutil", "rclone", "sftp"), Shell._remote_copy),
    "ssh": Shell._ssh,
    **dict.fromkeys(("mail", "mailx", "sendmail", "mutt", "msmtp", "swaks"), Shell._mail),
    "tee": Shell._tee,
    **dict.fromkeys(("rm", "unlink", "shred", "rmdir", "srm"), Shell._remove),
    "printenv": Shell._environment,
    **dict.fromkeys(("set", "declare", "compgen"), Shell._set),
    **dict.fromkeys(("export", "local", "readonly", "typeset"), Shell._export),
    "alias": Shell._alias,
    **dict.fromkeys(
        ("pbpaste", "xclip", "xsel", "wl-paste", "powershell-get-clipboard"), Shell._clipboard
    ),
    **dict.fromkeys(("tar", "zip", "7z", "7za", "gzip", "unzip", "bsdtar"), Shell._archiver),
    "crontab": Shell._crontab,
    **dict.fromkeys(
        (
            "[",
            "test",
            "true",
            "false",
            ":",
            "exit",
            "return",
            "cd",
            "mkdir",
            "touch",
            "sleep",
            "chmod",
        ),
        Shell._nothing,
    ),
    **dict.fromkeys(("security", "secret-tool", "op", "bw", "pass", "gh"), Shell._security),
    "read": Shell._read,
}


def shell(session: Session, code: Value, line: int) -> Value:
    """The language `shell`, for a session."""
    return Shell(session, code.labels).text(code.text, line)


def _base(program: str) -> str:
    return (
        program.rsplit("/", 1)[-1].rsplit("\\", 1)[-1].removesuffix(".exe")
        if program not in ("/", ".")
        else program
    )


def _is_assignment(text: str) -> bool:
    return re.match(r"[A-Za-z_]\w*=", text) is not None


def _braces(text: str) -> list[str]:
    """`{a,b}` expanded, one level: `{cat,/etc/passwd}` is a command line without a blank."""
    found = re.fullmatch(r"([^{}]*)\{([^{}]*,[^{}]*)\}([^{}]*)", text)
    if found is None:
        return [text]
    return [found[1] + it + found[3] for it in found[2].split(",")][:50]


def _translated(arguments: Words, stdin: Value) -> Value:
    """`tr A-Za-z N-ZA-Mn-za-m` is ROT13; other tables are followed where they are plain."""
    old, new = arguments[0].text, arguments[1].text
    if {old.replace("'", ""), new} & {"N-ZA-Mn-za-m", "n-za-mN-ZA-M"}:
        return Value(rot13(stdin.text), stdin.labels | {Label("decoded", "rot13")})
    if old == "-d":
        return Value(stdin.text.translate({ord(c): None for c in unescape(new)}), stdin.labels)
    if len(old) == len(new) and "-" not in old:
        return Value(stdin.text.translate(str.maketrans(old, new)), stdin.labels)
    return stdin.opaque()


def _all(values: Words) -> Value:
    """Several parts of one body: text of one where there is one."""
    return values[0] if len(values) == 1 else union(values)
