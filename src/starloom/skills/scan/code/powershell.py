"""PowerShell as acts: no grammar, but what droppers use of it, read after its evasions are undone.

Undone first: backticks inside words, case, `'a'+'b'`, `-f` and `-join` of literals, `[char]` codes,
aliases (iwr, irm, iex). Then statements are read pipe by pipe with the same values as other shells.
"""

import re

from starloom.skills.scan.decode import base64_text
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
)
from starloom.skills.scan.hosts import URL

_STATEMENT = re.compile(r"[;\n]|\{|\}")
_CONCATENATED = re.compile(r"(['\"])([^'\"\n]*)\1\s*\+\s*(['\"])([^'\"\n]*)\3")
_CHARS = re.compile(r"\[char\]\s*\(?\s*(\d{1,5}|0x[0-9a-f]{1,4})\s*\)?", re.IGNORECASE)
_FORMAT = re.compile(
    r"\(?\s*(['\"])((?:\{\d\}|[^'\"\n])+)\1\s*-f\s*((?:['\"][^'\"\n]*['\"]\s*,?\s*)+)\)?",
    re.IGNORECASE,
)
_JOIN = re.compile(
    r"\(?\s*((?:['\"][^'\"\n]*['\"]\s*,\s*)+['\"][^'\"\n]*['\"])\s*\)?\s*-join\s*(['\"])([^'\"\n]*)\2",
    re.IGNORECASE,
)
_ASSIGN = re.compile(r"^\s*\$(?:(env):)?([\w:]+)\s*\+?=\s*(.*)$", re.IGNORECASE | re.DOTALL)
_FETCH = re.compile(
    r"\b(?:invoke-webrequest|iwr|invoke-restmethod|irm|curl|wget|start-bitstransfer|downloadstring|downloadfile|downloaddata|openread|net\.webclient|httpclient|certutil|bitsadmin|uploadstring|uploadfile|uploaddata)\b",
    re.IGNORECASE,
)
_RUN = re.compile(
    r"\b(?:invoke-expression|iex)\b|(?:^|[|;&(]\s*)&\s*[($'\"]|\[scriptblock\]::create|\.invoke(?:command|script)?\(|invoke-command\b|\b(?:add-type)\b",
    re.IGNORECASE,
)
_SENDS = re.compile(
    r"-method\s+['\"]?(?:post|put|patch)|-body\b|-infile\b|-form\b|upload(?:string|file|data)\b",
    re.IGNORECASE,
)
_OUT = re.compile(
    r"-out(?:file|put)?\s+(['\"]?)([^'\"\s]+)\1|downloadfile\([^,]+,\s*(['\"]?)([^'\")]+)\3|-destination\s+(['\"]?)([^'\"\s]+)\5",
    re.IGNORECASE,
)
_START = re.compile(
    r"\b(?:start-process|saps|start|invoke-item|ii|&|\.)\s+(['\"]?)([^'\"\s;|]+)\1", re.IGNORECASE
)
_READ = re.compile(
    r"\b(?:get-content|gc|cat|type|\[(?:system\.)?io\.file\]::readall\w+)\s*\(?\s*(['\"]?)([^'\"\n;|)]+)\1",
    re.IGNORECASE,
)
_WRITE = re.compile(
    r"\b(?:set-content|add-content|out-file|sc|ac|new-itemproperty|set-itemproperty|copy-item|register-scheduledtask|schtasks)\b",
    re.IGNORECASE,
)
_DEOBFUSCATED_ROUNDS = 30


def powershell(session: Session, code: Value, line: int) -> Value:
    """The language `powershell`, for a session."""
    text = plain(code.text)
    variables: dict[str, Value] = {}
    at = line
    for piece in _STATEMENT.split(text):
        if not session.step():
            break
        if piece.strip():
            _statement(session, piece.strip(), at, variables, code.labels)
        at = min(at + piece.count("\n") + 1, line + code.text.count("\n"))
    return UNKNOWN


def plain(text: str) -> str:
    """Without the evasions that PowerShell itself undoes."""
    text = re.sub(r"`(?=[\w-])", "", text)
    text = re.sub(r"`\r?\n", " ", text)
    text = _CHARS.sub(lambda m: "'" + chr(min(int(m[1], 0), 0x10FFFF)) + "'", text)
    for _ in range(_DEOBFUSCATED_ROUNDS):
        shorter = _CONCATENATED.sub(lambda m: f"'{m[2]}{m[4]}'", text)
        shorter = _FORMAT.sub(_formatted, shorter)
        shorter = _JOIN.sub(
            lambda m: "'" + m[3].join(re.findall(r"['\"]([^'\"\n]*)['\"]", m[1])) + "'", shorter
        )
        if shorter == text:
            break
        text = shorter
    return text


def _formatted(found: re.Match[str]) -> str:
    parts = re.findall(r"['\"]([^'\"\n]*)['\"]", found[3])
    said = re.sub(
        r"\{(\d)\}", lambda m: parts[int(m[1])] if int(m[1]) < len(parts) else "", found[2]
    )
    return f"'{said}'"


def _statement(
    session: Session, text: str, line: int, variables: dict[str, Value], outer: frozenset[Label]
) -> None:
    assigned = _ASSIGN.match(text)
    body = assigned[3] if assigned else text
    value = _value(session, body, line, variables, outer)
    words = tuple(Value(it) for it in body.split())
    session.act(Act("command", line, Value(body, value.labels), "powershell", words))
    if assigned:
        name = assigned[2].lower()
        if assigned[1]:
            session.act(Act("command", line, Value(f"{name}={value.text}"), "="))
        variables[name] = value
    if _RUN.search(body) and (value.has("network", "decoded") or value.known):
        session.run(
            "powershell",
            value if value.has("network", "decoded") else EMPTY,
            line,
            "Invoke-Expression",
        )
    started = _START.search(body)
    if started:
        path = variables.get(started[2].lstrip("$").lower(), Value(started[2])).text
        held = session.files.get(path)
        if held is not None:
            session.run("other", held, line, f"file {path}")
    if re.search(r"net\.sockets\.tcpclient", body, re.IGNORECASE):
        variables["*socket"] = value
    if "*socket" in variables and _RUN.search(body):
        session.act(
            Act("shell-socket", line, UNKNOWN, variables["*socket"].text[:80], how="TcpClient")
        )


def _value(
    session: Session, body: str, line: int, variables: dict[str, Value], outer: frozenset[Label]
) -> Value:
    """What an expression or pipeline gives: its labels, and its text where it is one literal."""
    labels: frozenset[Label] = outer if HOLE in body else frozenset()
    known = ""
    for m in re.finditer(r"\$(?:(env):)?\{?([\w:]+)\}?", body, re.IGNORECASE):
        if m[1]:
            labels |= label_of_variable(m[2])
        elif m[2].lower() in variables:
            held = variables[m[2].lower()]
            labels |= held.labels
            if body.strip() == m.group():
                known = held.text
    if re.search(
        r"\b(?:get-childitem|gci|dir|ls)\s+env:|\[environment\]::getenvironmentvariables",
        body,
        re.IGNORECASE,
    ):
        labels |= {Label("environment")}
    if re.search(r"\bget-clipboard\b", body, re.IGNORECASE):
        labels |= {Label("clipboard")}
    if re.search(r"\b(?:hostname|whoami|get-computerinfo|systeminfo)\b", body, re.IGNORECASE):
        labels |= {Label("host")}
    for m in _READ.finditer(body):
        labels |= session.read(m[2].strip(), line).labels
    for it in labels_of_path(body):
        if it.kind != "file":
            labels |= {it}
    encoded = re.search(r"frombase64string\(\s*['\"]?([A-Za-z0-9+/=]+)?", body, re.IGNORECASE)
    if encoded:
        labels |= {Label("decoded", "base64")}
        known = base64_text(encoded[1] or "") or known
    urls = [m.group() for m in URL.finditer(body)]
    if _FETCH.search(body):
        target = (
            urls[0]
            if urls
            else next((it.text for it in variables.values() if URL.match(it.text)), "")
        )
        sent = labels - {it for it in labels if it.kind in ("decoded", "network")}
        if _SENDS.search(body):
            session.act(Act("send", line, Value(HOLE, sent), target, how="body"))
        elif sent & {it for it in sent if it.kind not in ("file", "input")}:
            session.act(Act("send", line, Value(HOLE, sent), target, how="header"))
        else:
            session.act(Act("fetch", line, EMPTY, target))
        labels |= {Label("network", target)}
        out = _OUT.search(body)
        if out:
            path = out[2] or out[4] or out[6]
            session.write(
                variables.get(path.lstrip("$").lower(), Value(path)).text,
                Value(HOLE, frozenset({Label("network", target)})),
                line,
            )
    if _WRITE.search(body):
        session.act(Act("write", line, Value(body, labels), body))
    literal = re.fullmatch(r"\s*\(?['\"]([^'\"]*)['\"]\)?\s*", body)
    text = known or (
        literal[1] if literal else (urls[0] if len(urls) == 1 and not _FETCH.search(body) else HOLE)
    )
    return Value(text, labels)
