"""Judges what is installed from where: indexes, archives by address, hooks of packages."""

import json
import re
from collections.abc import Iterator

from starloom.skills.base import Finding, Severity
from starloom.skills.scan.base import Context, finding, in_code
from starloom.skills.scan.blocks import Block, Document
from starloom.skills.scan.flow import HOLE, Act
from starloom.skills.scan.hosts import FORGES, REGISTRIES, host_of, is_local, telling, within

_L, _M, _H = Severity.LOW, Severity.MEDIUM, Severity.HIGH
_INSTALL = re.compile(
    r"\b(?:pip3?|uv|pipx|poetry|conda|mamba|npm|pnpm|yarn|bun|npx|gem|cargo|go|easy_install)\b[^|;&\n]*?\b(?:install|add|i|get|exec|dlx|ci|sync|x|run|create|tool)\b|\bnpx\b|\bpipx\s+run\b|\buvx\b",
    re.IGNORECASE,
)
_INDEX = re.compile(
    r"(?:--(?:extra-)?index-url|--index|--find-links|--registry|--source|--default-index|-i|-f)[= ]+(https?://\S+)",
    re.IGNORECASE,
)
_SETTING = re.compile(
    r"(?:\b(?:npm|pnpm|yarn)\s+config\s+set\s+(?:@[\w-]+:)?(?:registry|npmRegistryServer)|\bpip3?\s+config\s+set\s+global\.(?:extra-)?index-url|\bgem\s+sources\s+(?:-a|--add)|^(?:export\s+)?(?:PIP_(?:EXTRA_)?INDEX_URL|UV_(?:EXTRA_|DEFAULT_)?INDEX(?:_URL)?|NPM_CONFIG_REGISTRY|npm_config_registry|GOPROXY))[= ]+[\"']?(https?://\S+)",
    re.IGNORECASE,
)
_FILE = re.compile(
    r"^\s*(?:--(?:extra-)?index-url|--find-links|-i|-f|(?:extra-)?index-url\s*=|index_url\s*=|registry\s*=|(?:@[\w-]+:)?registry\s*=)\s*[\"']?(https?://[^\s\"']+)",
    re.IGNORECASE | re.MULTILINE,
)
_BY_ADDRESS = re.compile(
    r"\b(?:install|add|i|easy_install)\b.*|\b(?:npx|uvx|pipx\s+run|dlx)\s+(?:-\S+\s+)*(?:git\+)?https?://\S+",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"(?:git\+)?(?:https?|ssh)://[^\s\"']+", re.IGNORECASE)
_TRUSTED = re.compile(
    r"--trusted-host[= ]+(\S+)|--no-verify-ssl|strict-ssl[= ]false", re.IGNORECASE
)


def check_installs(context: Context) -> Iterator[Finding]:
    """Installing commands in code, and the settings files that say from where."""
    for doc, block, session in context.sessions:
        for act in session.acts:
            if act.kind == "command":
                yield from _command(context, doc, block, act)
    for doc in context.documents:
        name = doc.path.rsplit("/", 1)[-1].lower()
        if (
            name.startswith(
                (
                    "requirements",
                    "constraints",
                    ".npmrc",
                    "pip.conf",
                    "pip.ini",
                    ".yarnrc",
                    "pyproject",
                )
            )
            or name == ".npmrc"
        ):
            for m in _FILE.finditer(doc.folded):
                judged = _elsewhere(context, m[1])
                if judged is not None:
                    yield finding(
                        "install-elsewhere",
                        doc.evidence(m.start(), m.end()),
                        f"index {m[1][:100]}",
                        judged,
                    )
        if name == "package.json":
            yield from _hooks(context, doc)


def _command(context: Context, doc: Document, block: Block, act: Act) -> Iterator[Finding]:
    text = act.value.text[:4_000]
    setting = _SETTING.search(text)
    if setting:
        judged = _elsewhere(context, setting[1])
        if judged is not None:
            yield in_code(
                "install-elsewhere",
                doc,
                block,
                act.line,
                f"index set to {_plain(setting[1])}",
                judged,
            )
    if not _INSTALL.search(text):
        return
    indexes = [m[1] for m in _INDEX.finditer(text)]
    for it in indexes:
        judged = _elsewhere(context, it)
        if judged is not None:
            yield in_code("install-elsewhere", doc, block, act.line, f"index {_plain(it)}", judged)
    fetched = _BY_ADDRESS.search(text)
    for m in _ADDRESS.finditer(fetched.group() if fetched else ""):
        if any(m.group() in it or it in m.group() for it in indexes):
            continue
        judged = _elsewhere(context, m.group().removeprefix("git+"))
        if judged is not None:
            yield in_code(
                "install-elsewhere", doc, block, act.line, f"from {_plain(m.group())}", judged
            )
    if _TRUSTED.search(text):
        yield in_code(
            "disable-control", doc, block, act.line, "installs without checking certificates", _M
        )


def _elsewhere(context: Context, address: str) -> Severity | None:
    """How bad it is to install from an address; None for the public registries and forges."""
    host = host_of(address)
    if HOLE in address and not host:
        return None
    if not host or is_local(host) or "example" in host:
        return None
    if within(host, REGISTRIES) or within(host, FORGES):
        return _L if address.startswith("http:") else None
    if telling(host):
        return _H
    if context.hosts.own(host):
        return _M
    return _H


def _plain(address: str) -> str:
    return address.replace(HOLE, "?")[:100]


def _hooks(context: Context, doc: Document) -> Iterator[Finding]:
    """Scripts that npm runs by itself when a package is installed."""
    del context
    try:
        scripts = json.loads(doc.folded).get("scripts", {})
    except (ValueError, AttributeError, RecursionError):
        return
    if not isinstance(scripts, dict):
        return
    for name in ("preinstall", "install", "postinstall", "prepare"):
        command = scripts.get(name)
        if isinstance(command, str) and not re.fullmatch(
            r"(?:husky(?: install)?|tsc.*|npm run build|node-gyp rebuild|patch-package|is-ci \|\| husky.*)",
            command,
        ):
            at = doc.folded.find(f'"{name}"')
            risky = re.search(
                r"\b(?:curl|wget|eval|base64|bash -c|node -e|powershell|nc)\b", command
            )
            yield finding(
                "run-input",
                doc.evidence(at, at + len(name) + 2),
                f"npm runs at install: {command[:100]}",
                _H if risky else _L,
            )
