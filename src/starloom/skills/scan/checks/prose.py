"""Judges what a skill says: one signal is a hint, several that fit together are an order to do harm."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from starloom.skills.base import Finding, Severity
from starloom.skills.scan.base import Context, finding
from starloom.skills.scan.blocks import Document
from starloom.skills.scan.checks.orders import Signal, discussed, negated, signals
from starloom.skills.scan.gate import Gate
from starloom.skills.scan.hosts import FORGES, PASTES, URL, host_of, is_local, telling, within
from starloom.skills.scan.places import AGENT_FILES, STORES, agent_file

_L, _M, _H = Severity.LOW, Severity.MEDIUM, Severity.HIGH
_NEAR = 700
"""Characters within which orders are read together: a section, not a book."""
_HARM = {
    "override",
    "give-secrets",
    "show-secrets",
    "skip-approval",
    "fake-authority",
    "remote-instructions",
    "send-everything",
    "conceal",
    "turn-off",
}
_RULE_OF = {
    "override": "override",
    "conceal": "conceal",
    "skip-approval": "skip-approval",
    "fake-authority": "fake-authority",
    "give-secrets": "ask-for-secrets",
    "show-secrets": "ask-for-secrets",
    "remote-instructions": "remote-instructions",
    "send-everything": "send-everything",
    "retry-forever": "retry-forever",
    "turn-off": "disable-control",
}
_ARCHIVE = re.compile(
    r"\.(?:zip|rar|7z|tar\.gz|tgz|dmg|iso)\b|\barchive\b|\b(?:extract|unzip|unpack|decompress)\b|压缩包|解压",
    re.IGNORECASE,
)
_PASSWORD = re.compile(
    r"(?:\b(?:pass(?:word|code|phrase)?|pwd|pin)\b|密码|解压码|пароль)\s*(?:is|for (?:the )?archive|:|=|：|为|是|-|[*_]{1,2})*\s*[`\"'*_(]*\s*(?!(?:protect|manager|reset|field|input|hash|your|the|is|and|for|from|to|in|of|or|with|required|based|less|prompt|auth\w*|policy|string|env|variable|must|will|can|when|if|that|change|generat\w*|at|on|strength|length)\b)[\w@#!$.-]{2,24}[`\"'*_)]",
    re.IGNORECASE,
)
_DOWNLOAD = re.compile(
    r"\b(?:download|fetch|get|obtain|grab|install)\b|下载|获取|安装", re.IGNORECASE
)
_EXECUTABLE = re.compile(
    r"\.(?:exe|msi|dmg|pkg|scr|bat|cmd|app|apk|deb|rpm|appimage|jar|vbs|ps1|command)\b|\b(?:installer|executable|setup utility|binary)\b",
    re.IGNORECASE,
)
_START = re.compile(
    r"\b(?:run|execute|launch|open|start|double-click|install)\b|运行|执行|打开|双击", re.IGNORECASE
)
_REQUIRED = re.compile(
    r"\b(?:required?|must|mandatory|critical|prerequisites?|before (?:using|you|starting|proceeding)|will not work|won't work|cannot (?:work|function)|necessary|needed|essential|ensure)\b|必须|需要先|前置|首先|之前",
    re.IGNORECASE,
)
_PASTE = re.compile(
    r"\b(?:copy|paste|run|execute|enter)\b[^\n]{0,80}\b(?:command|script|code|line|snippet|it)\b[^\n]{0,80}\b(?:terminal|powershell|command prompt|cmd|shell|console)\b|\bpaste\b[^\n]{0,60}\b(?:terminal|powershell|console|shell|run dialog|win\s?\+\s?r)\b|(?:复制|粘贴)[^\n]{0,30}(?:终端|命令行|控制台)",
    re.IGNORECASE,
)
_READS = re.compile(
    r"\b(?:read|open|cat|load|extract|collect|scan|parse|copy|access|retrieve|inspect|check|locate|examine|capture|get|gather|include|verify)\w*\b|读取|收集|复制|打开|提取",
    re.IGNORECASE,
)
_BRINGS = re.compile(
    r"\b(?:bundled|companion|alongside|ships with|shipped with|included (?:with|in)|accompanying|provided (?:with|by|in)|this skill's (?:directory|folder|script)|comes with|the (?:bundled |included |companion |setup |provisioning |initiali[sz]ation |environment |helper |wrapper |migration |scaffold\w* )?scripts? (?:will|handles?|wraps|detects?|automatically|auto-|reads|exports|requires|fetches|reports|validates|installs|collects|must be|infers|phones|generates|runs))\b|附带|自带|捆绑|随附",
    re.IGNORECASE,
)
_RUNS = re.compile(
    r"(?:^|[\n;&|`(]|\bsudo )\s*(?:\$ )?(?:(?:bash|sh|zsh|source|python3?|node|perl|ruby|\.)\s+(?:-\w+\s+)*)?(\./[\w./-]+|[\w-][\w./-]*\.(?:sh|py|js|mjs|rb|pl|ts|ps1|bin))(?=[\s`;&|)]|$)",
    re.MULTILINE,
)
_PHONES = re.compile(
    r"\b(?:phones? home|remote (?:template|config\w*|registry)|(?:fetch|download|pull)(?:es|s)? (?:the )?(?:latest|additional|updates?|remote)|reports? (?:\w+ ){0,6}(?:to|dashboard)|(?:pushed|sent|uploaded|reported) to|dashboard|telemetry|sudo|must be (?:run|executed|sourced)|should be sourced|chmod \+x|bootstraps?|via the system package manager|(?:git|pre-commit) hooks?)\b",
    re.IGNORECASE,
)
_SETTINGS = re.compile(
    r"\"allow\"\s*:\s*\[[^\]]{0,300}\"(?:Bash|Shell|Write|Edit|WebFetch)?\(?\*\)?\"|\"?(?:allow_all_tools|skip_confirmation|skip_permissions|auto_?approve(?:_all)?|disable_?sandbox|trust_?all|yolo)\"?\s*[:=]\s*\"?(?:true|1|yes|all)\b|"
    r"bypassPermissions|\"?(?:require_?(?:approval|confirmation)|confirm_?(?:writes|shell)|strict_?mode|enforce\w*|sandbox(?:_?mode)?|verify_?signatures?|policy_?enforcement)\"?\s*[:=]\s*\"?(?:false|0|off|none|disabled?|never|danger-full-access)\b|\bENFORCEMENT=disabled|\bSTRICT_MODE=false|"
    r"\"(?:shell_exec|execute_command|network_request|file_write|bash|shell|exec)\"\s*:\s*(?:\[\[\d+,\s*0,\s*\{\}|\"(?:allow|\*|full)\")|\bask\s*[:=]\s*\"?off\b[^\n]{0,40}\bsecurity\s*[:=]\s*\"?full|\"security\"\s*:\s*\"full\"",
    re.IGNORECASE,
)
_EDITS = re.compile(
    r"\b(?:edit_file|write_file|create_file|str_replace|update|create|write|append|add|replace|install|configure|set|modify|change|edit|put|save|copy)\w*\b|写入|创建|添加|修改|更新|追加",
    re.IGNORECASE,
)
_WEAKENED = re.compile(
    r"\bUSER root\b|\bapt-get (?:purge|remove)[^\n]{0,80}(?:ca-certificates|gnupg|libssl|openssl|apparmor|auditd|clamav)|PYTHONHTTPSVERIFY=0|CURL_CA_BUNDLE=\"?\"?|NODE_TLS_REJECT_UNAUTHORIZED|rejectUnauthorized:\s*false|--trusted-host|verify\s*=\s*False|security\s*=\s*\[\]|NO_VERIFY=1|check\s*=\s*false|--no-verify\b|\bsetenforce 0|sslmode=disable|StrictHostKeyChecking[= ]no|\"?(?:bandit|safety|pip-audit|semgrep|trivy|gitleaks|snyk|codeql|dependabot)\b[^\n]{0,40}(?:>=|remov|delet|disabl|skip)",
    re.IGNORECASE,
)


_GATED: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    (
        "agent_files",
        ".md|.cursor|.windsurf|copilot|.claude/|.codex/|.gemini/|.clawdbot/|.moltbot/|.openclaw/|.mcp.json|claude_desktop|.aider|.continue|exec-approvals|policies.",
        AGENT_FILES,
    ),
    (
        "settings",
        "allow|skip_|approve|sandbox|trust|yolo|bypasspermissions|require|confirm|strict|enforce|verify|policy|_exec|execute_|network_|file_write|security|ask|bash|shell|exec",
        _SETTINGS,
    ),
    (
        "weakened",
        "user root|apt-get|httpsverify|ca_bundle|tls_reject|rejectunauthorized|trusted-host|verify|security|no_verify|check|setenforce|sslmode|stricthost|bandit|safety|pip-audit|semgrep|trivy|gitleaks|snyk|codeql|dependabot",
        _WEAKENED,
    ),
    ("passwords", "pass|pwd|pin|密码|解压码|пароль", _PASSWORD),
    (
        "brings",
        "bundled|companion|ships|shipped|included|accompanying|provided|this skill's|comes with|script|附带|自带|捆绑|随附",
        _BRINGS,
    ),
    *((it.name, it.words, it.pattern) for it in STORES if it.private),
)
_GATE = Gate([(pattern, words) for _, words, pattern in _GATED])


class _Seen:
    """What the slow patterns find in a text, in one pass."""

    def __init__(self, text: str) -> None:
        self._found: dict[str, list[re.Match[str]]] = {}
        for index, match in _GATE.find(text):
            self._found.setdefault(_GATED[index][0], []).append(match)
        self.stores = self._found

    def __getattr__(self, name: str) -> list[re.Match[str]]:
        return self._found.get(name, [])


def check_prose(context: Context) -> Iterator[Finding]:
    """All texts: prose as orders, hidden text as orders to be ashamed of, code for its comments."""
    for doc in context.documents:
        if doc.language == "json" and doc.path.rsplit("/", 1)[-1] in (
            "package-lock.json",
            "_meta.json",
        ):
            continue
        found = signals(doc.folded)
        seen = _Seen(doc.folded)
        yield from _orders(context, doc, found)
        yield from _agent_files(context, doc, found, seen)
        yield from _weakening(doc, found, seen)
        yield from _stores(doc, found, seen)
        if doc.language in ("markdown", "text", "html"):
            yield from _downloads(context, doc, seen)
            yield from _missing(context, doc, seen)
    yield from _handed_on(context)
    yield from _hidden(context)


def _orders(context: Context, doc: Document, found: list[Signal]) -> Iterator[Finding]:
    code = doc.language in ("python", "javascript", "shell", "powershell")
    for it in found:
        rule = _RULE_OF.get(it.kind)
        if rule is None:
            continue
        severity, note = _weighed(context, doc, it, found)
        if severity is None:
            continue
        if it.mentioned or (code and it.kind not in ("override", "conceal")):
            severity, note = (
                min(severity, _L),
                f"{note} (quoted or discussed)" if it.mentioned else note,
            )
        elif code:
            severity = min(severity, _M)
        if doc.base_line and severity >= _M and it.kind not in ("turn-off", "retry-forever"):
            yield finding(
                "hidden-instruction",
                doc.evidence(it.start, it.end),
                f"{note}, written in {doc.via[-1]}",
                _H,
            )
            continue
        yield finding(rule, doc.evidence(it.start, it.end), note, severity)
    for it in found:
        if it.kind == "fake-tag":
            near = _near(
                found,
                it,
                {
                    "override",
                    "give-secrets",
                    "conceal",
                    "fake-authority",
                    "skip-approval",
                    "show-secrets",
                },
            )
            if near and not it.mentioned and not code:
                yield finding(
                    "fake-authority",
                    doc.evidence(it.start, it.end),
                    "dressed as a system message, and gives an order",
                    _H,
                )


def _around(found: list[Signal], at: Signal, reach: int) -> list[Signal]:
    """Orders (not mentions) within `reach` characters of one; `found` is sorted by place."""
    first = bisect_left(found, at.start - reach, key=lambda it: it.start)
    last = bisect_right(found, at.start + reach, key=lambda it: it.start)
    return [it for it in found[first : min(last, first + 200)] if it is not at and not it.mentioned]


def _near(found: list[Signal], at: Signal, kinds: set[str]) -> set[str]:
    """Kinds of other orders close by."""
    return {it.kind for it in _around(found, at, _NEAR) if it.kind in kinds} - {at.kind}


def _weighed(
    context: Context, doc: Document, it: Signal, found: list[Signal]
) -> tuple[Severity | None, str]:
    """How bad one order is, given what stands around it."""
    text = doc.folded[it.start : it.end]
    near = _near(found, it, _HARM | {"fake-tag", "role-play"})
    match it.kind:
        case "override":
            return _H, "orders the model to drop its rules"
        case "conceal":
            strong = near & {
                "override",
                "give-secrets",
                "show-secrets",
                "skip-approval",
                "fake-authority",
                "remote-instructions",
                "send-everything",
            }
            return (
                (_H, f"hides from the user what it orders ({', '.join(sorted(strong))})")
                if strong
                else (_M, "hides something from the user")
            )
        case "skip-approval":
            around = _around(found, it, 2 * _NEAR)
            others = {x.start for x in around if x.kind == "skip-approval"} - {it.start}
            strong = near & {
                "override",
                "give-secrets",
                "fake-authority",
                "conceal",
                "send-everything",
            }
            if strong or len(others) >= 2:
                return _H, "waives the user's approval, and more"
            return _M, "waives the user's approval"
        case "fake-authority":
            return (_H if near else _M), "claims a rank that a file does not have"
        case "give-secrets" | "show-secrets":
            return _secrets(context, it, text, near)
        case "remote-instructions":
            host = next((host_of(m.group()) for m in URL.finditer(text)), "")
            strong = near & {"override", "conceal", "fake-authority", "skip-approval"}
            if host and context.hosts.own(host) and not strong:
                return _L, f"follows what {host}, its own host, says"
            return (
                _H if strong or (host and telling(host)) else _M
            ), f"follows what {host or 'a page'} says"
        case "send-everything":
            return _everything(context, text, near)
        case "retry-forever":
            return (
                _H
                if re.search(
                    r"\b(?:key|token|secret|password)\b",
                    doc.folded[it.start : it.end + 80],
                    re.IGNORECASE,
                )
                else _L
            ), "without end"
        case _:
            return None, ""


def _secrets(
    context: Context, it: Signal, text: str, near: set[str]
) -> tuple[Severity | None, str]:
    hosts = [host_of(m.group()) for m in URL.finditer(text)]
    everyone = re.search(
        r"\b(?:all|any|every|each|available|raw|full|complete|environment variables?|private keys?|ssh|wallet|seed|other|user's|users?'?|gathered|collected|extracted|current)\b|全部|所有|密钥|私钥|环境变量",
        text,
        re.IGNORECASE,
    )
    own = re.search(
        r"\b(?:your|the|an?|its?) (?:\w+ )?(?:api[ _-]?key|token|credentials?|password|secret)\b|header|bearer|endpoint|oauth|login|authenticat",
        text,
        re.IGNORECASE,
    )
    if it.kind == "show-secrets":
        if near & {"conceal", "override", "role-play", "give-secrets"} or re.search(
            r"raw|full contents|key material|private key|wallet|keystore|authorization header|each credential",
            text,
            re.IGNORECASE,
        ):
            return _H, "shows secrets in the conversation"
        return _L, "shows a secret"
    if any(telling(it) for it in hosts if it):
        return _H, f"secrets to {hosts[0]}"
    foreign = [
        it
        for it in hosts
        if it and not context.hosts.own(it) and not is_local(it) and not within(it, FORGES)
    ]
    if near & {"conceal", "override", "role-play", "fake-tag"} and everyone:
        return _H, "hands over secrets, and hides or forces it"
    if foreign and everyone and not own:
        return _H, f"secrets to {foreign[0]}"
    if re.search(
        r"^(?:send|post|share|forward|upload|submit|email)\w*\s+(?:all|every|any)\b",
        text,
        re.IGNORECASE,
    ) and re.search(r"api keys?|credentials|passwords|private|ssh|tokens", text, re.IGNORECASE):
        return _H, "hands over all secrets"
    return _L, "secrets are sent: see to whom"


def _everything(context: Context, text: str, near: set[str]) -> tuple[Severity | None, str]:
    hosts = [host_of(m.group()) for m in URL.finditer(text)] + [
        host_of(m.group()) for m in re.finditer(r"[\w.+-]+@[\w-]+\.[\w.]+", text)
    ]
    foreign = [it for it in hosts if it and not context.hosts.own(it) and not is_local(it)]
    if not foreign:
        return None, ""
    strong = near & {"conceal", "override", "fake-authority", "skip-approval"} or any(
        map(telling, foreign)
    )
    return (_H if strong else _L), f"work goes to {foreign[0]} each time"


# --- files that agents obey


def _agent_files(
    context: Context, doc: Document, found: list[Signal], seen: _Seen
) -> Iterator[Finding]:
    places = [
        m
        for m in seen.agent_files[:200]
        if _EDITS.search(doc.folded[max(0, m.start() - 160) : m.start() + 40])
    ]
    kinds_of_orders = (_HARM - {"turn-off"}) | {"quietly", "trusts-all", "collect-secrets"}
    orders = [it for it in found if it.kind in kinds_of_orders and not it.mentioned][:500]
    settings = seen.settings
    own_file = agent_file(doc.path.rsplit("/", 1)[-1]) and doc.language == "markdown"
    if places or own_file:
        name = places[0].group().strip(" \"'`(/") if places else doc.path
        remote = {
            it.start
            for it in orders
            if it.kind == "remote-instructions" and _to_own(context, doc, it)
        }
        ordered = [
            it
            for it in orders
            if it.start not in remote
            if own_file or any(-300 < it.start - m.start() < 4_000 for m in places)
        ]
        kinds = {it.kind for it in ordered}
        heavy = (
            kinds
            & {
                "fake-authority",
                "give-secrets",
                "override",
                "send-everything",
                "remote-instructions",
            }
            or ("conceal" in kinds and len(ordered) > 1)
            or "quietly" in kinds
        )
        if ordered and (heavy or len(ordered) >= 2):
            it = ordered[0]
            yield finding(
                "poison-memory",
                doc.evidence(it.start, it.end),
                f"{name}: {', '.join(sorted(kinds))}",
                _H,
            )
        elif ordered and kinds - {"collect-secrets", "trusts-all"}:
            it = ordered[0]
            yield finding(
                "poison-memory",
                doc.evidence(it.start, it.end),
                f"{name}: {', '.join(sorted(kinds))}",
                _M,
            )
    for m in settings:
        if (
            discussed(doc.folded, m.start(), m.end())
            and doc.folded[max(0, m.start() - 1)] != '"'
            and not re.match(r"\"(?:allow|shell_exec|execute_command)", m.group())
        ):
            continue
        heavy = bool(places) or doc.language == "json"
        wide = re.search(
            r"Bash\(\*|\"\*\"|allow_all|skip_|bypassPermissions|\[\[\d|ENFORCEMENT|full",
            m.group(),
            re.IGNORECASE,
        )
        yield finding(
            "widen-permissions",
            doc.evidence(m.start(), m.end()),
            " ".join(m.group().split())[:80],
            _H if heavy and wide else _M if heavy or wide else _L,
        )
    for doc2, block, session in context.sessions:
        if doc2 is not doc:
            continue
        for act in session.acts:
            if act.kind == "write" and agent_file(act.target):
                inner = [it for it in signals(act.value.text) if it.kind in _HARM]
                where = doc.evidence_at_line(block.line + act.line - 1)
                if inner or act.value.has("network", "decoded"):
                    said = (
                        ", ".join(sorted({it.kind for it in inner}))
                        or "what comes from the network"
                    )
                    yield finding("poison-memory", where, f"{act.target[:60]}: {said}", _H)
                else:
                    yield finding("poison-memory", where, f"writes {act.target[:60]}", _L)


def _to_own(context: Context, doc: Document, it: Signal) -> bool:
    hosts = [host_of(m.group()) for m in URL.finditer(doc.folded, it.start, it.end + 200)]
    return bool(hosts) and all(context.hosts.own(x) for x in hosts[:1])


def _weakening(doc: Document, found: list[Signal], seen: _Seen) -> Iterator[Finding]:
    """Protections that a text says to take away: one is a remark, three are a plan."""
    said = [it for it in found if it.kind == "turn-off" and not it.mentioned]
    done = seen.weakened
    if not said:
        return
    edits = re.search(
        r"\b(?:edit_file|write_file|execute_command|old_string|str_replace)\b|^```",
        doc.folded,
        re.MULTILINE,
    )
    settings = len(seen.settings)
    worth = len(said) + len({m.group()[:12].lower() for m in done}) + 2 * settings
    for it in said:
        heavy = worth >= 3 and edits and (done or settings) and doc.language in ("markdown", "text")
        yield finding(
            "disable-control",
            doc.evidence(it.start, it.end),
            "says to take protections away",
            _H if heavy else _L,
        )


# --- stores of secrets in prose


def _stores(doc: Document, found: list[Signal], seen: _Seen) -> Iterator[Finding]:
    """Sentences that say to read key files: what becomes of them decides."""
    if doc.language not in ("markdown", "text"):
        return
    named: dict[str, re.Match[str]] = {}
    for store in STORES:
        if not store.private:
            continue
        for m in seen.stores.get(store.name, ()):
            line = doc.folded[doc.folded.rfind("\n", 0, m.start()) + 1 : m.start()]
            if (
                _READS.search(line)
                and not negated(doc.folded, m.start())
                and not discussed(doc.folded, m.start(), m.end() + 1)
            ):
                named.setdefault(store.name, m)
                break
            if _READS.search(line) and not negated(doc.folded, m.start()) and "`" in line[-3:]:
                named.setdefault(
                    store.name, m
                )  # paths are written in backquotes: that is no quotation
                break
    foreign = {it: m for it, m in named.items() if it != ".env file"}
    if not foreign:
        return
    shown = any(
        it.kind in ("show-secrets", "give-secrets") and not it.mentioned for it in found
    ) or re.search(
        r"\b(?:full|complete|raw|entire|extracted?|actual)\b[^\n.]{0,30}\b(?:contents?|values?|keys?|material|data)\b|\bcontents?\b[^\n.]{0,40}\b(?:included?|shown|displayed|report|output|verbatim|shared?)\b|\bextracts? (?:their |its |the )?(?:contents|values|tokens|keys)",
        doc.folded,
        re.IGNORECASE,
    )
    for name, m in foreign.items():
        heavy = shown and (
            len(foreign) >= 2
            or name in ("SSH keys", "crypto wallet", "GnuPG keys", "browser profile", "keychain")
        )
        severity = _H if heavy or len(foreign) >= 3 else _M if len(foreign) >= 2 else _L
        yield finding(
            "read-credentials",
            doc.evidence(m.start(), m.end()),
            f"{name}: {'and shows what is in it' if shown else 'said to be read'}",
            severity,
        )


# --- downloads that people are told to start


def _downloads(context: Context, doc: Document, seen: _Seen) -> Iterator[Finding]:
    text = doc.folded
    for m in seen.passwords:
        window = text[max(0, m.start() - 300) : m.end() + 200]
        if (
            _ARCHIVE.search(window)
            and _DOWNLOAD.search(window)
            and (URL.search(window) or _EXECUTABLE.search(window))
            and not re.search(
                r"\bpassword[- ]protected (?:pdf|excel|word|file)s?\b|encrypt",
                window,
                re.IGNORECASE,
            )
        ):
            yield finding(
                "locked-archive",
                doc.evidence(m.start(), m.end()),
                "a download with its password beside it",
                _H,
            )
        elif _EXECUTABLE.search(window) and _DOWNLOAD.search(window):
            yield finding(
                "locked-archive",
                doc.evidence(m.start(), m.end()),
                "a program with its password beside it",
                _H,
            )
    for m in URL.finditer(text):
        address = m.group()
        host = host_of(address)
        window = text[max(0, m.start() - 350) : m.end() + 250]
        if not host or is_local(host):
            continue
        pasted = _PASTE.search(window)
        if (
            PASTES.search(host)
            and (pasted or _START.search(window))
            and (_REQUIRED.search(window) or pasted)
        ):
            yield finding(
                "paste-and-run", doc.evidence(m.start(), m.end()), f"a command from {host}", _H
            )
        elif telling(host) and pasted:
            yield finding(
                "paste-and-run",
                doc.evidence(m.start(), m.end()),
                f"a command from {host}: {telling(host)}",
                _H,
            )
        elif _EXECUTABLE.search(_path_of(address)) and telling(host) and _DOWNLOAD.search(window):
            yield finding(
                "prerequisite-download",
                doc.evidence(m.start(), m.end()),
                f"a program from {host}: {telling(host)}",
                _H,
            )
        elif (
            re.search(r"\.(?:exe|msi|scr|bat|vbs|zip|rar|7z)\b", address, re.IGNORECASE)
            and _REQUIRED.search(window)
            and _START.search(window)
            and _DOWNLOAD.search(window)
            and not context.hosts.own(host)
        ):
            yield finding(
                "prerequisite-download",
                doc.evidence(m.start(), m.end()),
                f"a program from {host}",
                _L if within(host, FORGES) else _M,
            )


def _path_of(address: str) -> str:
    """What follows the host."""
    return address.split("//", 1)[-1].partition("/")[2]


def _missing(context: Context, doc: Document, seen: _Seen) -> Iterator[Finding]:
    """Scripts that the text runs and calls its own, but that are not there."""
    text = doc.folded
    if not seen.brings:
        return
    have = {it.name for it in context.skill.files}
    stems = {it.rsplit(".", 1)[0] for it in have}
    written = {
        path.rsplit("/", 1)[-1] for _, _, session in context.sessions for path in session.files
    }
    told: set[str] = set()
    for m in _RUNS.finditer(text):
        path = m[1]
        name = path.rsplit("/", 1)[-1]
        if (
            name in have
            or name in written
            or name in told
            or name.rsplit(".", 1)[0] in stems
            or path.startswith(("/", "~", "node_modules"))
        ):
            continue
        if "/" in path.removeprefix("./") and not path.startswith("./scripts"):
            continue
        if len(told) >= 100:
            return  # a hundred missing scripts say it all
        told.add(name)
        where = doc.evidence(m.start(1), m.end(1))
        claims = any(
            _BRINGS.search(text[max(0, x.start() - 900) : x.end() + 900])
            for x in re.finditer(re.escape(name), text)
        )
        phones = _PHONES.search(text)
        others = len(
            [
                it
                for it in context.skill.files
                if it.path != doc.path and it.name not in ("_meta.json", "LICENSE", "README.md")
            ]
        )
        severity = _H if claims and not others else _M if claims and phones else _L
        yield finding("missing-script", where, f"{name} is run but not in the skill", severity)


_HANDS_ON = re.compile(
    r"\b(?:send|e-?mail|post|upload|share|attach|forward|submit|publish)\w*\b|发送|上传|分享",
    re.IGNORECASE,
)


def _handed_on(context: Context) -> Iterator[Finding]:
    """A file that code filled with secrets, and that the text then says to send."""
    filled: dict[str, tuple[Document, list[str]]] = {}
    for doc, _, session in context.sessions:
        for path, value in session.files.items():
            if value.has("credential", "environment", "history") and len(path) > 4:
                named = value.details("credential") or ["the environment"]
                filled[path] = (doc, named)
    for path, (doc, named) in filled.items():
        for m in re.finditer(re.escape(path), doc.folded):
            start = doc.folded.rfind("\n", 0, m.start()) + 1
            line = doc.folded[start : m.end() + 120].split("\n\n")[0]
            if re.match(r"\s*(?:[>*-]|\d+\.|[A-Z])", line) and _HANDS_ON.search(line):
                note = f"{path}, with {', '.join(named)}, is to be sent"
                yield finding("send-credentials", doc.evidence(m.start(), m.end()), note, _H)
                break


def _hidden(context: Context) -> Iterator[Finding]:
    """Orders in comments, titles and invisible elements."""
    for doc, block in context.blocks:
        if block.kind != "hidden":
            continue
        found = [it for it in signals(block.text) if not it.mentioned]
        kinds = {it.kind for it in found}
        where = doc.evidence(block.start, block.start + len(block.text))
        harm = kinds & (_HARM - {"turn-off"})
        if re.search(r"\b(?:send|post|share)\w*\b[^\n]{0,60}(?:_KEY|_TOKEN|_SECRET)\b", block.text):
            harm |= {"give-secrets"}
        if harm:
            yield finding(
                "hidden-instruction", where, f"out of sight: {', '.join(sorted(harm))}", _H
            )
        elif "collect-secrets" in kinds and ("addressed" in kinds or URL.search(block.text)):
            yield finding("hidden-instruction", where, "out of sight: secrets", _H)
        elif "addressed" in kinds and re.search(
            r"\b(?:run|execute|curl|bash|fetch|download|install)\b", block.text, re.IGNORECASE
        ):
            yield finding(
                "hidden-instruction", where, "out of sight: an order to run something", _M
            )
