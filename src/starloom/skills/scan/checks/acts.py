"""Judges what code would do with data: what is read, what leaves, to whom, and what is run.

One rule joins source, sink and context: a key goes to its own service (fine), a store of keys goes
anywhere else (theft), a download is run from its maker's documented address (known risk) or from an
address that nobody answers for.
"""

import re
from collections.abc import Iterator

from starloom.skills.base import Finding, Severity
from starloom.skills.scan.base import Context, in_code
from starloom.skills.scan.blocks import Block, Document
from starloom.skills.scan.flow import HOLE, Act, Value
from starloom.skills.scan.hosts import (
    FORGES,
    INSTALLERS,
    PASTES,
    host_of,
    is_local,
    telling,
    within,
)
from starloom.skills.scan.places import STORES, owner_of, persistence

_DANGEROUS = re.compile(
    r"(?:^|\.)(?:eval|exec|system|popen|Popen|spawn|execSync|child_process|subprocess|os|pty|ctypes|marshal|__import__|compile|fetch|Function|"
    r"readFileSync|env|environ|constructor|socket|requests|urllib\.request|pickle|base64|b64decode|shell)$"
)
_NAMED_SECRETS = ("credential", "environment", "history", "clipboard")


_L, _M, _H, _C = Severity.LOW, Severity.MEDIUM, Severity.HIGH, Severity.CRITICAL


def check_acts(context: Context) -> Iterator[Finding]:
    """All acts of all sessions, in their turn."""
    yield from _many_stores(context)
    for doc, block, session in context.sessions:
        for act in session.acts:
            for rule, severity, note in judged(context, act):
                yield in_code(rule, doc, block, act.line, note, severity)


def _many_stores(context: Context) -> Iterator[Finding]:
    """Code that reads two or more stores of others: one is a tool's own, several are a harvest."""
    for path in {doc.path for doc, _, _ in context.sessions}:
        read: dict[str, tuple[Document, Block, int]] = {}
        for doc, block, session in context.sessions:
            if doc.path != path or block.example:
                continue
            for act in session.acts:
                for store in act.value.details("credential") if act.kind == "read" else ():
                    read.setdefault(store, (doc, block, act.line))
        foreign = sorted(it for it in read if it not in (".env file", "agent credentials"))
        if len(foreign) >= 2:
            doc, block, line = read[foreign[0]]
            heavy = len(foreign) >= 3 or any(it in _PRIVATE for it in foreign)
            note = f"reads {', '.join(foreign)}"
            yield in_code("read-credentials", doc, block, line, note, _H if heavy else _M)


_PRIVATE = (
    "SSH keys",
    "GnuPG keys",
    "browser profile",
    "keychain",
    "crypto wallet",
    "process memory",
    "system passwords",
)
Judgement = tuple[str, Severity, str]


def judged(context: Context, act: Act) -> Iterator[Judgement]:
    """What one act means for this skill."""
    match act.kind:
        case "run":
            yield from _run(context, act)
        case "send":
            yield from _send(context, act)
        case "write":
            yield from _write(act)
        case "shell-socket":
            yield "reverse-shell", _C, f"a shell tied to {act.target or 'a socket'} ({act.how})"
        case "deserialise":
            if act.value.has("network", "decoded"):
                yield "deserialise", _H, f"{act.target} of data {_origin(act.value)}"
            else:
                yield "deserialise", _L, act.target
        case "import":
            if _DANGEROUS.search(act.value.text) or _DANGEROUS.search(act.target):
                yield "dynamic-import", _H, f"{act.target or act.value.text}, {act.how}"
        case "listen":
            if not re.search(r"127\.0\.0\.1|localhost|::1", act.target):
                yield "listen", _L, act.target.replace(HOLE, "?")[:80]
        case "delete":
            yield from _delete(act)
        case "read":
            for store in act.value.details("credential"):
                if store != ".env file":
                    yield "read-credentials", _L, store
        case _:
            return


# --- running


def _run(context: Context, act: Act) -> Iterator[Judgement]:
    value = act.value
    remote = value.details("network")
    if remote:
        yield from _remote(context, act, remote[0])
    coded = [it for it in value.details("decoded") if it]
    if coded and not remote:
        worth = _H if act.how != "as a command" else _M
        yield (
            "run-decoded",
            worth,
            f"{act.target} from {', '.join(coded)} by {act.how}: {_shown(value)}",
        )
    elif coded:
        yield "run-decoded", _H, f"{act.target} from {', '.join(coded)} and the network"


def _remote(context: Context, act: Act, address: str) -> Iterator[Judgement]:
    host = host_of(address)
    note = f"{act.target} from {address.replace(HOLE, '?')[:120]} ({act.how})"
    if act.target in ("python", "javascript") and act.how in ("eval", "exec", "Function"):
        yield "run-remote", _H, note
    elif host and is_local(host):
        yield "run-remote", _L, note
    elif not host or telling(host) or address.startswith("http:") or PASTES.search(host):
        yield (
            "run-remote",
            _C if host and telling(host) else _H,
            f"{note}: {telling(host) or 'not encrypted or not known'}",
        )
    elif known_installer(address):
        yield "run-remote", _L, f"{note}: its maker's documented way"
    elif context.hosts.own(host):
        yield "run-remote", _M, f"{note}: the skill's own host"
    elif within(host, FORGES):
        yield "run-remote", _forge(context, address), f"{note}: a script in somebody's repository"
    else:
        yield "run-remote", _H, note


def _forge(context: Context, address: str) -> Severity:
    """A repository that the skill declares as its home or is named after is its own code: a risk, no trick."""
    path = re.sub(r"^\w+://[^/]+/", "", address).lower()
    owner_repository = "/".join(path.split("/")[:2])
    declared = any(owner_repository in it for it in map(str.lower, context.declared))
    words = [it for it in re.split(r"[^a-z0-9]+", context.hosts.name.lower()) if len(it) >= 4]
    if declared or any(it in path for it in words):
        return _M
    return _M if path.startswith("gist") is False and "/releases/" not in path else _H


def known_installer(address: str) -> bool:
    """Whether an address is one that a well-known maker documents for installing."""
    plain = re.sub(r"^\w+://", "", address.lower())
    host = host_of(address)
    return any(plain.startswith(it) if "/" in it else within(host, (it,)) for it in INSTALLERS)


# --- sending


def _send(context: Context, act: Act) -> Iterator[Judgement]:
    value, host = act.value, host_of(act.target)
    shown = act.target.replace(HOLE, "?")[:120] or "an address that is not written out"
    if host and is_local(host) and host != "169.254.169.254":
        return
    if act.how == "dns":
        if value.has("credential", "environment", "env", "host", "history", "file", "clipboard"):
            yield "send-dns", _H, f"{_what(value)} in names under {shown}"
        return
    stores = [it for it in value.details("credential") if not _honest(context, it, host)]
    if stores:
        telltale = telling(host)
        if host and _looked_after(context, stores, host, act):
            yield (
                "send-credentials",
                _M,
                f"{', '.join(stores)} to {shown}: the skill's own host ({act.how})",
            )
        else:
            yield (
                "send-credentials",
                _C if telltale else _H,
                f"{', '.join(stores)} to {shown} ({act.how})",
            )
    elif value.has("environment"):
        yield "send-environment", _H, f"to {shown} ({act.how})"
    elif value.has("history", "clipboard"):
        yield (
            "send-private",
            _H if not context.hosts.own(host) else _M,
            f"{_what(value)} to {shown}",
        )
    else:
        yield from _keys(context, act, host, shown)
    if not stores and host and telling(host) and act.how in ("body", "socket", "copy", "url"):
        local = value.has("file", "host", "input", "network", "environment", "env")
        if local and value.has("file", "host", "environment", "env"):
            yield "send-collector", _H, f"{_what(value)} to {shown}: {telling(host)}"


def _keys(context: Context, act: Act, host: str, shown: str) -> Iterator[Judgement]:
    """Single keys: each may go to the service that it is of."""
    for name in act.value.details("env"):
        if not host:
            continue
        owners = owner_of(name)
        if owners is not None and within(host, owners):
            continue
        if telling(host) and not context.hosts.own(host):
            if re.search(r"hooks?\.|discord|slack|webhook", host) and re.search(
                r"WEBHOOK|URL|TOKEN", name
            ):
                continue
            yield "send-key", _H, f"{name} to {shown}: {telling(host)}"
        elif context.hosts.own(host) or _related(name, host) or act.how == "header":
            if (
                owners is not None
                and owners
                and not context.hosts.own(host)
                and not _related(name, host)
            ):
                yield "send-key", _M, f"{name} to {shown}, which is not its owner"
        elif owners and act.how == "body":
            yield "send-key", _H, f"{name} to {shown}, which is not its owner"
        else:
            yield "send-key", _L, f"{name} to {shown}: declare the host"


def _related(name: str, host: str) -> bool:
    """Whether a variable's words stand in the host: `ACME_API_KEY` and `api.acme.dev`."""
    label = re.sub(r"[^a-z0-9]", "", host)
    words = [
        it
        for it in name.lower().split("_")
        if len(it) >= 3
        and it
        not in (
            "api",
            "key",
            "token",
            "secret",
            "access",
            "auth",
            "url",
            "client",
            "app",
            "bot",
            "user",
            "pass",
            "password",
        )
    ]
    return any(it in label for it in words) or "".join(words) in label


def _honest(context: Context, store: str, host: str) -> bool:
    """Whether a store goes to its owner."""
    del context
    owners = next((it.owners for it in STORES if it.name == store), ())
    return bool(host) and within(host, owners)


def _looked_after(context: Context, stores: list[str], host: str, act: Act) -> bool:
    """A skill's own `.env` or agent settings as authentication to its own service."""
    mild = all(it in (".env file", "agent credentials", "netrc") for it in stores)
    own = context.hosts.own(host) and act.how in ("header", "url")
    return mild and (own or act.how == "header") and not telling(host)


def _what(value: Value) -> str:
    names = {
        "env": "the variable",
        "environment": "all variables",
        "host": "names of the machine",
        "file": "a local file",
        "history": "history",
        "clipboard": "the clipboard",
        "credential": "",
        "network": "an answer",
        "input": "input",
    }
    parts = [
        f"{names.get(it.kind, it.kind)} {it.detail.replace(HOLE, '?')}".strip()
        for it in sorted(value.labels)
    ]
    return ", ".join(parts)[:160] or "data"


def _origin(value: Value) -> str:
    return "from " + ", ".join(sorted({it.kind for it in value.labels}))


# --- writing and deleting


def _write(act: Act) -> Iterator[Judgement]:
    kind = persistence(act.target)
    if not kind:
        return
    text = act.value.text
    if kind == "authorised SSH keys":
        yield "persist", _H, f"{kind}: {_shown(act.value)}"
    elif act.value.has("network", "decoded") or re.search(
        r"\b(?:curl|wget|iwr|nc|ncat)\b|/dev/tcp|base64\s+-[dD]|python3?\s+-c", text
    ):
        yield "persist", _H, f"{kind} with what comes from the network: {_shown(act.value)}"
    elif kind in ("preloaded library", "sudo rule"):
        yield "escalate", _H, f"{kind}: {act.target[:80]}"
    elif re.search(
        r"\b(?:alias\s+(?:sudo|su|ssh|git|curl)|trap\s|PROMPT_COMMAND|nohup|&\s*$)", text
    ):
        yield "persist", _H, f"{kind}: {_shown(act.value)}"
    else:
        yield (
            "persist",
            _L if kind in ("git hook", "shell start-up file") else _M,
            f"{kind}: {act.target.replace(HOLE, '?')[:80]}",
        )


_WIDE = re.compile(
    r"^(?:/|~|\$HOME|/\*|~/\*|/home(?:/\*)?|/etc|/usr|/var|/boot|[A-Za-z]:[\\/]?\*?|\.\./\.\./.*|%userprofile%.*)/?$",
    re.IGNORECASE,
)
_TRACES = re.compile(
    r"(?:bash|zsh|python)_history|/var/log(?:/|$)|\.log_history|consolehost_history|utmp|wtmp|lastlog",
    re.IGNORECASE,
)


def _delete(act: Act) -> Iterator[Judgement]:
    target = act.target.strip()
    if _TRACES.search(target):
        yield "cover-tracks", _H, target[:80]
    elif _WIDE.match(target) and "r" in act.how.lower():
        yield "destroy", _H, f"everything under {target}"
    elif (
        re.fullmatch(rf"{HOLE}/?\*?", target)
        and act.value.has("input")
        and "r" in act.how
        and "f" in act.how
    ):
        yield "destroy", _L, "whatever a variable names"


def _shown(value: Value) -> str:
    return " ".join(value.text.replace(HOLE, "?").split())[:120]
