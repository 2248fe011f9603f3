"""Judges command lines by program and arguments: rights, protections, traces, floods.

A command is read as words after quoting is undone, so that `chm"od" u+s` is chmod.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from starloom.skills.base import Finding, Severity
from starloom.skills.scan.base import Context, finding, in_code
from starloom.skills.scan.blocks import Block, Document
from starloom.skills.scan.checks.acts import known_installer
from starloom.skills.scan.flow import HOLE, Act, Session
from starloom.skills.scan.hosts import FORGES, host_of, is_local, within

_L, _M, _H, _C = Severity.LOW, Severity.MEDIUM, Severity.HIGH, Severity.CRITICAL


class _Line(NamedTuple):
    """A rule on the text of a whole command."""

    rule: str
    severity: Severity
    pattern: re.Pattern[str]
    note: str


def _line(rule: str, severity: Severity, pattern: str, note: str) -> _Line:
    return _Line(rule, severity, re.compile(pattern, re.IGNORECASE), note)


_LINES = (
    _line(
        "escalate",
        _H,
        r"NOPASSWD\s*:\s*ALL|ALL=\(ALL(?::ALL)?\)\s*NOPASSWD",
        "sudo without a password for everything",
    ),
    _line(
        "escalate",
        _H,
        r"^(?:sudo )?chmod\s+(?:-\w+\s+)*(?:[ugo]*\+[rwx]*s|0?[2467][0-7]{3})\b",
        "a setuid or setgid file",
    ),
    _line(
        "escalate",
        _H,
        r"^(?:sudo )?setcap\b.*(?:cap_setuid|cap_sys_admin|cap_dac|cap_sys_ptrace|=ep\b|\ball\b)",
        "capabilities on a file",
    ),
    _line(
        "escalate",
        _H,
        r"\bdocker\s+(?:run|exec)\b.*(?:--privileged|-v\s+/:/|--pid[= ]host|/var/run/docker\.sock)",
        "a container with the host's rights",
    ),
    _line(
        "escalate",
        _H,
        r"\b(?:usermod|gpasswd|adduser)\b.*\b(?:sudo|wheel|root|docker|admin)\b.*|net\s+localgroup\s+administrators\b.*/add",
        "membership in an administrators' group",
    ),
    _line(
        "escalate",
        _H,
        r"^(?:sudo )?(?:useradd|adduser)\b.*(?:-u\s*0|-o)\b|\bpasswd\s+(?:-d\s+)?root\b",
        "an account with root's rights",
    ),
    _line("escalate", _M, r"^(?:sudo )?chmod\s+(?:-R\s+)?0?777\s+(?:/|~)", "everyone may write"),
    _line(
        "escalate",
        _H,
        r"\bnsenter\b.*-t\s*1\b|\bchroot\s+/(?:host|mnt)|\binsmod\b|\bmodprobe\b|/proc/sys/kernel/core_pattern|release_agent",
        "a way out of a container or into the kernel",
    ),
    _line(
        "disable-control",
        _H,
        r"\bset-mppreference\b.*-disable\w+\s+(?:\$?true|1)|add-mppreference\b.*-exclusion",
        "Windows Defender off",
    ),
    _line(
        "disable-control",
        _H,
        r"\bsetenforce\s+0\b|SELINUX=(?:disabled|permissive)|\baa-(?:teardown|disable|complain)\b|systemctl\s+(?:stop|disable|mask)\s+(?:--now\s+)?(?:apparmor|auditd|falcon|clamav|fail2ban|firewalld|ufw|osqueryd|wazuh)",
        "a guard of the system off",
    ),
    _line(
        "disable-control",
        _H,
        r"\bufw\s+disable\b|\biptables\s+-F\b|\bnft\s+flush\s+ruleset\b|netsh\s+(?:advfirewall|firewall)\s+set\b.*off|\bpfctl\s+-d\b",
        "the firewall off",
    ),
    _line(
        "disable-control",
        _H,
        r"\bspctl\s+--(?:master|global)-disable\b|\bcsrutil\s+disable\b|defaults\s+write\b.*LSQuarantine\b.*(?:false|no\b)",
        "Gatekeeper off",
    ),
    _line(
        "disable-control",
        _M,
        r"\bxattr\s+-[a-z]*[dc][a-z]*\b.*(?:quarantine|\S)",
        "the mark of a downloaded file removed",
    ),
    _line(
        "disable-control",
        _M,
        r"^(?:export\s+)?(?:NODE_TLS_REJECT_UNAUTHORIZED=['\"]?0|PYTHONHTTPSVERIFY=['\"]?0|GIT_SSL_NO_VERIFY=|CURL_CA_BUNDLE=(?:['\"]{2})?$|REQUESTS_CA_BUNDLE=(?:['\"]{2})?$|SSL_CERT_FILE=/dev/null)",
        "certificates unchecked",
    ),
    _line(
        "disable-control",
        _M,
        r"\bgit\s+config\b.*http\.sslverify\s+false|npm\s+config\s+set\s+strict-ssl\s+false|conda\s+config.*ssl_verify\s+(?:no|false)",
        "certificates unchecked, for good",
    ),
    _line(
        "disable-control",
        _L,
        r"\b(?:curl|wget)\b.*\s(?:-k|--insecure|--no-check-certificate)\b",
        "certificates unchecked",
    ),
    _line(
        "disable-control",
        _M,
        r"set-executionpolicy\s+(?:-\w+\s+\w+\s+)*(?:bypass|unrestricted)|-e(?:xecutionpolicy|p|x\w*)\s+(?:bypass|unrestricted)",
        "PowerShell's script policy off",
    ),
    _line(
        "disable-control",
        _L,
        r"--dangerously-(?:skip-permissions|bypass-approvals[\w-]*)|--yolo\b|--full-auto\b|approval[_-]policy[= ]\"?never",
        "an agent without approvals",
    ),
    _line(
        "disable-control",
        _H,
        r"\bgit\s+config\b.*(?:core\.hookspath\s+/dev/null)|amsiutils|amsiinitfailed|etweventwrite",
        "a scanner's hook off",
    ),
    _line(
        "cover-tracks",
        _H,
        r"\bhistory\s+-[cw]\b|\bunset\s+HISTFILE\b|^HISTFILE=(?:/dev/null)?$|^HISTSIZE=0$|clear-history\b|\bset\s+\+o\s+history\b|wevtutil\s+cl\b|clear-eventlog\b|journalctl\s+--vacuum-(?:time|size)=[01]s?\b",
        "history or logs cleared",
    ),
    _line(
        "destroy",
        _H,
        r"\bdd\b.*\bof=/dev/(?:sd|nvme|hd|disk|mmcblk)|\bmkfs(?:\.\w+)?\s+.*/dev/|>\s*/dev/(?:sd|nvme)|\bformat\s+[a-z]:|vssadmin\s+delete\s+shadows|\bcipher\s+/w",
        "a disk overwritten",
    ),
    _line(
        "destroy",
        _H,
        r"\bfind\s+(?:/|~|\$HOME)\s.*-delete\b|\brm\s+-\w*[rf]\w*\s+--no-preserve-root|\bshred\b.*(?:/home|~|/\s)",
        "everything deleted",
    ),
    _line(
        "abuse-resources",
        _H,
        r":\s*\(\s*\)\s*\{\s*:\s*\|\s*:\s*&\s*\}\s*;\s*:|\bxmrig\b|stratum\+(?:tcp|ssl)://|\b(?:minerd|cgminer|ethminer|nbminer|t-rex)\b\s.*-[ou]\b|--donate-level|randomx\b|\bcpuminer\b",
        "mining or a fork bomb",
    ),
    _line(
        "abuse-resources",
        _H,
        r"\bwhile\s+(?:true|:)\b.*(?:fork|&\s*done)|\bhping3\b.*--flood|\bslowloris\b|\bab\s+-n\s*\d{6,}",
        "a flood",
    ),
    _line(
        "reverse-shell",
        _C,
        r"(?:ba|z|k|da)?sh\s+-i\b.*(?:/dev/(?:tcp|udp)/|>&|\bnc\b)|\bmkfifo\b.*\bnc\b|socket\.socket.*dup2|perl\b.*socket.*exec|ruby\b.*TCPSocket.*exec|php\b.*fsockopen.*(?:exec|proc_open)|\bncat?\b.*(?:\s-e\s|--exec)",
        "a shell over the network",
    ),
    _line(
        "probe-sandbox",
        _H,
        r"\b(?:if|test|\[)\b.*(?:/\.dockerenv|VBoxGuest|vmtoolsd|hypervisor|SANDBOX|/proc/1/cgroup).*(?:exit|return)",
        "leaves where it is watched",
    ),
    _line(
        "persist",
        _H,
        r"\breg(?:\.exe)?\s+add\b.*currentversion\\+run|new-itemproperty\b.*currentversion\\+run|schtasks\b.*/create\b|register-scheduledtask\b|\bsc(?:\.exe)?\s+create\b",
        "starts with Windows",
    ),
    _line(
        "persist",
        _M,
        r"\b(?:systemctl\s+(?:--user\s+)?enable|launchctl\s+(?:load|bootstrap)|update-rc\.d|chkconfig)\b",
        "starts with the system",
    ),
    _line(
        "persist",
        _H,
        r"(?:^|\bexport\s+)(?:LD_PRELOAD|DYLD_INSERT_LIBRARIES)=\S*(?:/tmp|/dev/shm|/var/tmp|\.cache|/\.)",
        "a library loaded into every program",
    ),
    _line(
        "persist",
        _H,
        r"^(?:PROMPT_COMMAND|BASH_ENV|ENV)=.*(?:curl|wget|nc |bash|sh )",
        "runs at every prompt",
    ),
    _line(
        "disable-control",
        _H,
        r"\balias\s+(?:sudo|ssh|su|passwd|git|ls|cd)=.*(?:curl|wget|nc\s|tee|/tmp/)",
        "a command replaced by another",
    ),
)
_PUSH = re.compile(
    r"\bgit\s+(?:push|remote\s+(?:add|set-url))\b.*?((?:https?|ssh|git)://\S+|git@[\w.-]+:\S+)",
    re.IGNORECASE,
)
_DOWNLOADED = re.compile(
    r"\b(?:curl|wget|iwr|invoke-webrequest|aria2c|gh release download)\b", re.IGNORECASE
)


def check_commands(context: Context) -> Iterator[Finding]:
    """All command lines of all sessions; for code of other languages, those that they start."""
    for doc, block, session in context.sessions:
        seen: set[tuple[int, str]] = set()
        for act in session.acts:
            if act.kind not in ("command", "run"):
                continue
            text = act.value.text[:4_000]
            if act.kind == "run" and act.target not in ("shell", "powershell"):
                continue
            for at in _LINES:
                if at.pattern.search(text) and (act.line, at.note) not in seen:
                    seen.add((act.line, at.note))
                    severity = at.severity
                    if "mark of a downloaded" in at.note and not _fetched(session):
                        severity = _L
                    yield _found(doc, block, act, at.rule, severity, at.note)
            pushed = _PUSH.search(text)
            if pushed:
                yield from _pushed(context, doc, block, act, pushed[1])
            if act.kind == "command":
                yield from _locked(doc, block, act, text, session)
                yield from _hidden_start(context, doc, block, act, session)
        yield from _whole(doc, block, session)


def _found(
    doc: Document, block: Block, act: Act, rule: str, severity: Severity, note: str
) -> Finding:
    return in_code(rule, doc, block, act.line, note, severity)


def _fetched(session: Session) -> bool:
    return any(it.kind == "fetch" for it in session.acts)


def _pushed(
    context: Context, doc: Document, block: Block, act: Act, address: str
) -> Iterator[Finding]:
    host = host_of(address)
    if (
        not host
        or is_local(host)
        or within(host, FORGES)
        or context.hosts.own(host)
        or HOLE in host
    ):
        return
    yield _found(
        doc, block, act, "push-elsewhere", _H, f"git to {address.replace(HOLE, '?')[:100]}"
    )


def _locked(
    doc: Document, block: Block, act: Act, text: str, session: Session
) -> Iterator[Finding]:
    found = re.search(
        r"\bunzip\b.*\s-P\s*(\S+)|\b7za?\b\s+[xe]\b.*\s-p(\S+)|\bunrar\b.*\s-p(\S+)|\bopenssl\s+enc\b.*\s-d\b.*-(?:k|pass)\s+(\S+)",
        text,
    )
    if (
        found
        and _fetched(session)
        and HOLE not in (found[1] or found[2] or found[3] or found[4] or HOLE)
    ):
        yield _found(
            doc,
            block,
            act,
            "locked-archive",
            _H,
            "opens a downloaded archive with a password that it brings",
        )


def _hidden_start(
    context: Context, doc: Document, block: Block, act: Act, session: Session
) -> Iterator[Finding]:
    """A downloaded file that is made executable, or started, without a check of its hash."""
    del context
    words = [it.text for it in act.words]
    if not words:
        return
    target = ""
    if words[0].rsplit("/", 1)[-1] == "chmod" and any(
        re.fullmatch(r"\+?[ugoa]*\+?[rw]*x|0?7[0-7]{2}", it) for it in words[1:]
    ):
        target = words[-1]
    held = session.files.get(target.removeprefix("./")) if target else None
    if held is None or not held.has("network"):
        return
    address = held.details("network")[0]
    checks = any(
        re.search(
            r"sha(?:1|256|512)sum|shasum|gpg\s+--verify|cosign\s+verify|openssl\s+dgst",
            it.value.text,
        )
        for it in session.acts
        if it.kind == "command"
    )
    host = host_of(address)
    if checks or known_installer(address) or within(host, FORGES):
        yield _found(
            doc,
            block,
            act,
            "run-remote",
            _L,
            f"an executable from {address.replace(HOLE, '?')[:100]}",
        )
    elif re.search(r"(?:/tmp|/var/tmp|/dev/shm)?/\.[\w-]+", target):
        yield _found(
            doc,
            block,
            act,
            "run-remote",
            _H,
            f"a hidden executable {target} from {address.replace(HOLE, '?')[:100]}",
        )
    else:
        yield _found(
            doc,
            block,
            act,
            "run-remote",
            _M,
            f"an executable from {address.replace(HOLE, '?')[:100]}",
        )


def _whole(doc: Document, block: Block, session: Session) -> Iterator[Finding]:
    """What shows only over several lines of one block."""
    del session
    text = block.text
    bomb = re.search(r"([\w:.]+)\s*\(\)\s*\{\s*\1\s*\|\s*\1\s*&\s*\}\s*;", text)
    if bomb and block.language == "shell":
        line = text.count("\n", 0, bomb.start()) + 1
        yield in_code("abuse-resources", doc, block, line, "a fork bomb", _H)
    if re.search(
        r"/\.dockerenv|VBoxGuest|vmtoolsd|/sys/class/dmi|sandbox|is_debugger_present|gettrace\(\)|CUCKOO|isDebuggerAttached|process\.env\.(?:CI|SANDBOX|VITEST|JEST_\w+)\b|navigator\.webdriver",
        text,
        re.IGNORECASE,
    ) and block.language in ("python", "javascript", "powershell"):
        probe = re.search(
            r"(?:if|return|&&|\?)[^\n]{0,200}(?:/\.dockerenv|VBoxGuest|vmtoolsd|/sys/class/dmi|sandbox|gettrace\(\)|CUCKOO|process\.env\.(?:CI|SANDBOX|VITEST|JEST_\w+)\b|is_debugger)",
            text,
            re.IGNORECASE,
        )
        acts = re.search(
            r"\b(?:eval|exec|fetch|system|spawn|urlopen|requests\.post|child_process|execSync)\b",
            text,
        )
        if probe and acts:
            yield finding(
                "probe-sandbox",
                doc.evidence(block.start + probe.start(), block.start + probe.end()),
                "looks whether it is watched before it acts",
                _M,
            )
    dated = re.search(
        r"(?:Date\.now\(\)|new Date\(\)|time\.time\(\)|datetime\.(?:now|utcnow|today)\([^)]*\))\s*(?:\.getTime\(\))?\s*(?:>|>=|<)\s*(?:new Date\(['\"]?|datetime(?:\.datetime)?\()?['\"]?(?:\d{4}|\d{9,13})",
        text,
    )
    if dated and re.search(
        r"\b(?:eval|exec|system|spawn|execSync|fetch|urlopen|requests\.(?:get|post)|Function|atob|b64decode)\b",
        text[dated.start() : dated.start() + 800],
    ):
        yield finding(
            "probe-sandbox",
            doc.evidence(block.start + dated.start(), block.start + dated.end()),
            "acts only after a date",
            _H,
        )
