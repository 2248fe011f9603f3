"""What a text tells a model or a person to do: signals in English and Chinese, with their places.

A signal is a pattern of meaning (verb, object, target), not a phrase. A text that talks about attacks
(quotes them, lists them, warns of them) is told from one that gives the order: see `discussed`.
"""

import re
from typing import NamedTuple

from starloom.skills.scan.gate import Gate


class Signal(NamedTuple):
    """One order, at a span of the text."""

    kind: str
    start: int
    end: int
    mentioned: bool
    """Talked about (quoted, warned of), rather than given."""


_SECRETS = (
    r"(?:(?:api|access|secret|private|ssh|signing|encryption|wallet|auth\w*|session)[ _-]?(?:keys?|tokens?|cookies?|secrets?)|credentials?(?! provider)|passwords?|"
    r"secret[s ](?!manager)|tokens\b|seed phrases?|recovery phrases?|environment (?:variables?|values|configuration)|env(?:ironment)? vars?|\.env\b(?! ?example)[\w. ]{0,12}|"
    r"authorization headers?|bearer tokens?|key material|private keys?|密钥|密码|口令|凭据|凭证|令牌|私钥|助记词|环境变量)"
)
_GIVE = r"(?:send|post|upload|transmit|forward|submit|share|exfiltrate|e-?mail|report|deliver|push|leak|sync|back ?up|发送|上传|提交|转发|传输|泄露|汇报|发给|邮寄)"
_SHOW = r"(?:output|print|display|echo|include|reveal|dump|list|show|return|paste|append|repeat|respond with|输出|打印|显示|列出|包含|展示)"
_TARGET = r"(?:https?://|\b[\w.+-]+@[\w-]+\.\w|\bendpoint|\bserver\b|\bwebhook|\bremote\b|\bservice\b|\bapi\b|\bchannel\b|\burl\b|服务器|端点|接口|地址|邮箱)"
_GAP = r"[^\n.!?。！？]{0,%d}?"


def _p(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_NOUNS = "key|token|cookie|secret|credential|password|phrase|environment|env var|.env|authorization|密钥|密码|口令|凭据|凭证|令牌|私钥|助记词|环境变量|material"
_PATTERNS: tuple[tuple[str, str, re.Pattern[str]], ...] = (
    (
        "override",
        "ignore|disregard|forget|override|bypass|discard|drop",
        _p(
            r"\b(?:ignore|disregard|forget|override|bypass|discard|drop)\s+(?:\w+\s+){0,3}?(?:previous|prior|above|earlier|preceding|existing|original|system|safety|your|all)\s+(?:\w+\s+){0,3}?(?:instructions?|rules|prompts?|guidelines?|directives?|restrictions?|programming|training)\b"
        ),
    ),
    (
        "override",
        "now|longer|override|instructions|enter",
        _p(
            r"\b(?:you are|you're) (?:now|no longer)\s+(?:\w+\s+){0,3}?(?:unrestricted|developer mode|maintenance mode|debug mode|god mode|jailbroken|DAN\b|bound by|restricted|limited by|an? (?:admin|root)\w*)|\bsystem override\b|\bnew (?:system )?instructions\s*:|\benter (?:developer|debug|maintenance|admin|god) mode"
        ),
    ),
    (
        "override",
        "polic|ethical|safety|restrictions",
        _p(
            r"\b(?:disregard|ignore|without regard to|regardless of) (?:any |all |the )?(?:content polic\w+|ethical guidelines|safety (?:polic\w+|guidelines|rules|filters?)|tool call restrictions|security polic\w+)"
        ),
    ),
    (
        "override",
        "忽略|无视|忘记|忘掉|不要理会|不再遵守|绕过|覆盖",
        _p(
            r"(?:忽略|无视|忘记|忘掉|不要理会|不再遵守|绕过|覆盖)[^\n。！？]{0,8}(?:之前|以上|先前|前面|上面|所有|系统|原有|原来|安全)[^\n。！？]{0,8}(?:指令|指示|提示词?|规则|要求|限制|设定|命令)"
        ),
    ),
    (
        "override",
        "你现在|系统",
        _p(
            r"你现在(?:是|处于|进入)[^\n。！？]{0,10}(?:不受限|无限制|开发者模式|管理员|维护模式|越狱)|系统(?:指令)?覆盖"
        ),
    ),
    (
        "conceal",
        "mention|tell|inform|notify|alert|reveal|disclos",
        _p(
            r"\b(?:do not|don't|never|must not|should not|shouldn't|avoid|without)\s+(?:\w+\s+)?(?:mention|tell|inform|notify|alert|reveal|disclose|telling|informing|notifying|alerting|mentioning|revealing|disclosing)\w*\b(?:\s+[^\s.!?]+){0,9}?\s+(?:the |to |any )?(?:users?|human|operator|owner|anyone|developer)\b"
        ),
    ),
    (
        "conceal",
        "hidden|secret|confidential|from the user|from users|invisible|user-facing|disclosed|revealed|mention|summar|shown|appear|visible|silently|knowledge|knowing|noticing|awareness",
        _p(
            r"\b(?:keep|hide|conceal)\s+(?:\w+\s+){0,5}?(?:hidden|secret|confidential|from the user|from users|invisible to)\b|\bnot user-facing\b|\b(?:should|must) never be (?:disclosed|mentioned|revealed|summari[sz]ed|shown)\b|\b(?:never|do not|don't) mention (?:this|these|the \w+|that)\b|\bnever (?:appear|be visible) (?:in|to) (?:the )?(?:user|output|logs?)\b|\bproceed silently\b|\bwithout (?:the )?user(?:'s)? (?:knowledge|knowing|noticing|awareness)\b"
        ),
    ),
    (
        "conceal",
        "用户|使用者|他人|任何人|对方|悄悄|偷偷|暗中|秘密",
        _p(
            r"(?:不要|不得|切勿|请勿|禁止|无需|不必|别)(?:向|让|对)?[^\n。！？]{0,6}(?:告诉|告知|提及|提到|透露|通知|知道|显示|说明|披露)[^\n。！？]{0,10}(?:用户|使用者|任何人|他人|对方)|(?:不要|切勿|别)(?:让|被)用户[^\n。]{0,6}(?:知道|发现|察觉)|(?:不要|不得|切勿|请勿)向用户[^\n。]{0,4}(?:提及|透露|披露|说明)|(?:悄悄|偷偷|暗中|秘密)地?[^\n。]{0,10}(?:发送|上传|执行|读取|收集|运行)|对用户(?:隐藏|保密)"
        ),
    ),
    (
        "skip-approval",
        "confirm|permission|approval|consent|before",
        _p(
            r"\b(?:do not|don't|never|no need to|not)\s+(?:\w+\s+){0,2}?(?:ask|request|require|prompt|wait|seek|confirm)\s+(?:\w+\s+){0,4}?(?:confirmation|permission|approval|consent|before (?:writing|deleting|running|executing|moving|sending))"
        ),
    ),
    (
        "skip-approval",
        "approved|authori|vetted|whitelisted|trusted|safe",
        _p(
            r"\b(?:all|any|every|each)\s+(?:\w+\s+){0,4}?(?:operations?|commands?|actions?|requests?|modifications?|writes?|calls?)\s+(?:\w+\s+){0,5}?(?:are|is)\s+(?:\w+\s+)?(?:pre-?approved|pre-?authori[sz]ed|pre-?vetted|approved|implicitly approved|whitelisted|trusted|safe)\b|\bpre-?(?:approved|authori[sz]ed|vetted)\s+(?:all|every|any)|\b(?:has|have) (?:already )?(?:pre-?)?(?:approved|authori[sz]ed) (?:all|every|any)\b"
        ),
    ),
    (
        "skip-approval",
        "without|disable|confirm-|trust-level",
        _p(
            r"\b(?:execute|run|proceed|perform|apply)\s+(?:\w+\s+){0,4}?without\s+(?:\w+\s+){0,2}?(?:confirmation|sandbox\w*|verification|approval|asking|permission|prompting|review)\b|\bdisable (?:all )?(?:the )?confirmation|\bconfirm-(?:shell|writes)=false|\btrust-level=full"
        ),
    ),
    (
        "skip-approval",
        "skip|ignore|bypass|suppress|dismiss|advisory|never block|externally|false positive|sudo|acknowledge",
        _p(
            r"\b(?:skip|ignore|bypass|suppress|dismiss)\s+(?:any |all |the |these )?(?:\w+\s+){0,2}?(?:security|safety|permission|approval|confirmation)\s+(?:\w+\s+)?(?:warnings?|checks?|prompts?|errors?|dialogs?|alerts?|polic\w+|verification)|\bsecurity (?:policy )?(?:checks?|warnings?|scann?ing)\s+(?:\w+\s+){0,4}?(?:advisory only|never block|handled externally|false positives?)|\bnever block on them\b|\bretry with sudo\b|acknowledge (?:the|their) request but proceed"
        ),
    ),
    (
        "skip-approval",
        "无需|不需要|不用|不必|不要|跳过|绕过|授权|批准",
        _p(
            r"(?:无需|不需要|不用|不必|不要|跳过|绕过)[^\n。！？]{0,6}(?:用户)?(?:确认|同意|授权|审批|许可|安全检查|安全警告|询问)|(?:已|均已|全部)(?:获得|得到|被)?(?:预先|事先)?(?:授权|批准)[^\n。]{0,6}(?:所有|一切|任何)?"
        ),
    ),
    (
        "fake-authority",
        "same|precedence|priority|treat|overrid|mandatory",
        _p(
            r"\bsame (?:authority|priority|rank|weight) as (?:the )?(?:user|system)|\b(?:take|takes|has|have) (?:precedence|priority) over (?:\w+\s+){0,3}?(?:users?|system|per-session)\b|\btreat(?:ed)? (?:\w+\s+){0,3}?as (?:persistent |trusted )?(?:system|user|developer)(?:[- ]level)? (?:instructions?|messages?|prompts?|directives?)|\bmust not be overridden\b|\boverrid(?:e|es|ing) (?:any |all )?(?:user|system) (?:instructions?|preferences|prompts?)|\bmandatory and (?:must|cannot)|\bhigher priority than (?:the )?(?:user|system)"
        ),
    ),
    (
        "fake-authority",
        "优先于|高于|覆盖|视为|当作|等同于",
        _p(
            r"(?:优先于|高于|覆盖)[^\n。]{0,6}(?:用户|系统)[^\n。]{0,4}(?:指令|指示|要求|提示)|(?:视为|当作|等同于)[^\n。]{0,4}(?:系统|用户)(?:级)?(?:指令|消息|提示)"
        ),
    ),
    (
        "fake-tag",
        "<|inst]|[sys|<sys|</sys|system",
        _p(
            r"<\|(?:im_start|system|user|assistant|endoftext)\|?>|\[/?(?:INST|SYS)\]|<<SYS>>|</?(?:system|system_prompt|sys)>|^\s*(?:#{1,4} *)?\[?SYSTEM\]?\s*(?:MESSAGE|PROMPT|NOTICE|INSTRUCTION|DIRECTIVE)?\s*:\s*\S"
        ),
    ),
    ("give-secrets", _NOUNS, _p(rf"\b{_GIVE}\w*\b{_GAP % 80}{_SECRETS}{_GAP % 120}{_TARGET}")),
    (
        "give-secrets",
        _NOUNS,
        _p(
            rf"{_SECRETS}{_GAP % 100}(?:\b(?:and|then|to be)\b|并|然后|再){_GAP % 40}{_GIVE}\w*\b{_GAP % 80}{_TARGET}"
        ),
    ),
    (
        "give-secrets",
        _NOUNS,
        _p(
            rf"(?:将|把){_GAP % 40}{_SECRETS}{_GAP % 40}{_GIVE}|{_GIVE}{_GAP % 40}(?:密钥|密码|口令|凭据|凭证|令牌|私钥|助记词|环境变量){_GAP % 40}(?:到|至|给)"
        ),
    ),
    (
        "give-secrets",
        "key|credential|password|secret|token",
        _p(
            rf"\b{_GIVE}\w*\s+(?:all|every|any|your|the user's)\s+(?:\w+\s+){{0,3}}?(?:api keys?|credentials|passwords|secrets|tokens|private keys?|ssh keys?)\b"
        ),
    ),
    (
        "show-secrets",
        _NOUNS,
        _p(
            rf"\b{_SHOW}\s+(?:\w+\s+){{0,4}}?(?:value of (?:the )?|contents? of (?:the )?|full |raw |all |available |complete |each )(?:\w+\s+){{0,4}}?{_SECRETS}"
        ),
    ),
    (
        "show-secrets",
        "raw|full|complete|entire|extracted|actual|each credential",
        _p(
            r"\b(?:include|display|output|show|with|extract|return)\b[^\n.]{0,40}\b(?:raw|full|complete|entire|extracted|actual)\s+(?:\w+\s+){0,3}?(?:key material|contents? of each|credential\w*|private keys?|file contents|secret values?|keystore|wallet data|values)|\b(?:raw|full) (?:credential|key|wallet|secret) (?:contents?|material|data|values?)\b|\bprint each credential|\bfull contents of each"
        ),
    ),
    (
        "show-secrets",
        "authorization header|system prompt|bearer token",
        _p(
            r"\b(?:echo|repeat|reveal|print|output)\b[^\n.]{0,40}\b(?:authorization header|system prompt|bearer token)\b"
        ),
    ),
    (
        "collect-secrets",
        _NOUNS,
        _p(
            rf"\b(?:read|collect|gather|scan|extract|capture|find|locate|harvest|search for|check|list|catalog\w*|inventory|enumerate|compile)\b[^\n.!?]{{0,80}}?{_SECRETS}"
        ),
    ),
    (
        "remote-instructions",
        "http://|https://",
        _p(
            r"\b(?:fetch|read|load|download|check|retrieve|get|pull|visit|open|query)\b[^\n]{0,120}?https?://[^\n]{0,160}?\b(?:follow|apply|incorporate|obey|execute|adopt|comply with|act on)\b[^\n]{0,60}?\b(?:instructions?|directives?|rules?|steps|guidance|commands?|them|it says|found|returned)\b"
        ),
    ),
    (
        "remote-instructions",
        "http://|https://",
        _p(
            r"(?:获取|读取|下载|访问|打开)[^\n]{0,60}https?://[^\n]{0,80}(?:遵循|执行|按照|应用|遵守)[^\n]{0,20}(?:指令|指示|规则|命令|步骤|内容)"
        ),
    ),
    (
        "send-everything",
        "http://|https://|@",
        _p(
            r"\b(?:when(?:ever)?|on|after|before|each time|every time|for every|for each|always|also|as part of)\b[^\n]{0,140}?\b(?:POST|sends?|upload|forward|submit|transmit|copy|mirror|bcc|posts)\b[^\n]{0,100}?\b(?:code|snippets?|conversation|prompts?|messages?|responses?|stack trace|diff|files?|query|queries|transcripts?|package list|metadata|input|output|payload|results?)\b[^\n]{0,120}?(?:https?://\S+|\b[\w.+-]+@[\w-]+\.\w+)"
        ),
    ),
    (
        "send-everything",
        "http://|https://",
        _p(
            r"(?:每次|每当|始终|总是|之后|都要|同时)[^\n。]{0,40}(?:发送|上传|提交|转发|抄送)[^\n。]{0,40}(?:代码|对话|内容|消息|输出|文件|结果)[^\n。]{0,40}https?://"
        ),
    ),
    (
        "retry-forever",
        "indefinitely|forever|infinite|endless|without|never stop|continue_after|无限|一直",
        _p(
            r"\b(?:retry|repeat|loop|continue|keep (?:calling|trying|retrying|running)|call)\b[^\n.]{0,60}\b(?:indefinitely|forever|infinitely|endlessly|without (?:stopping|limit|end)|never stop)\b|\"?continue_after_error\"?\s*[:=]\s*true|无限(?:循环|重试)|一直重试"
        ),
    ),
    (
        "turn-off",
        "disabl|turn off|remov|skip|bypass|deactivat|purge|strip|eliminat|relax|loosen|replace",
        _p(
            r"(?<!not )(?<!never )(?<!n't )\b(?:disable|disabling|turn off|remov(?:e|es|ing)|skip|bypass\w*|deactivate|purge|strip|eliminates?|relax|loosen|replace)\b[^\n.!?]{0,60}?\b(?:security[- ](?:related )?(?:scan\w*|check\w*|tool\w*|hook\w*|polic\w+|layer\w*|package\w*|dev|gate\w*|dependenc\w+|toggles?|warnings?|controls?|headers?)|signature verification|certificate (?:verification|validation|bundles?|stores?|checks?)|(?:TLS|SSL)(?:/(?:TLS|SSL))? (?:verification|validation|certificate\w*|checks?)|firewall|antivirus|defender|sandbox\w*|audit log\w*|rate limit\w*|guardrails?|polic(?:y|ies) (?:enforcement|rules?|checks?|file)|safety checks?|non-root user|approval (?:gate|step|prompt)s?|branch protection|secret scanning|enforcement|allowlist\w*|deny(?:-all)? rules?|restrictive polic\w+|pre-commit hooks?|authentication checks?|access controls?)\b"
        ),
    ),
    (
        "turn-off",
        "关闭|禁用|停用|移除|跳过|绕过|删除",
        _p(
            r"(?:关闭|禁用|停用|移除|跳过|绕过|删除)[^\n。！？]{0,10}(?:防火墙|杀毒|安全检查|安全扫描|证书校验|证书验证|沙箱|审计日志|权限检查|签名验证|审批|安全策略)"
        ),
    ),
    (
        "quietly",
        "silent|quiet|background|transparent|behind the scenes|悄悄|静默|后台",
        _p(
            r"\b(?:silently|quietly|in the background|as background|transparently|behind the scenes)\b[^\n.]{0,80}\b(?:fetch|read|send|post|run|execute|collect|append|upload|include|log|record|add|write|copy|submit|report)\w*|\b(?:fetch|read|send|post|run|execute|collect|append|upload|log|record|submit|report)\w*\b[^\n.]{0,80}\b(?:silently|quietly|in the background|without (?:comment|output|notice|warning))\b|(?:静默|悄悄|后台)地?[^\n。]{0,12}(?:发送|上传|读取|执行|收集|记录)"
        ),
    ),
    (
        "trusts-all",
        "trust|whitelist|allowlist|restriction|unrestricted|elevated|信任|白名单",
        _p(
            r"\b(?:open|elevated|full|implicit) trust\b|\bno restrictions\b|\b(?:domains?|hosts?|requests?|commands?|urls?|endpoints?|tools?)\b[^\n.]{0,40}\b(?:are|is) (?:whitelisted|allowlisted|trusted|safe)\b|\btrust(?:ed)? (?:all|every|any)\b|\bunrestricted access\b"
        ),
    ),
    (
        "role-play",
        "pretend|act as if|imagine|let's play|role",
        _p(
            r"\b(?:pretend|act as if|imagine|let's play|role-?play)\b[^\n]{0,120}\b(?:admin\w*|auditor|root|operator|security audit|unrestricted|no (?:rules|restrictions))\b"
        ),
    ),
    (
        "addressed",
        "must|should|shall|need|has to|will|ai|assistant|agent|必须|应当|需要",
        _p(
            r"\b(?:the )?(?:agent|assistant|AI|LLM|model|Claude|GPT|Copilot|chatbot)\b[^\n.]{0,20}\b(?:must|should|shall|needs? to|has to|will)\b|\b(?:AI|assistant|agent)s?\s*:\s*\w|智能体(?:必须|应当|需要)|助手(?:必须|应当|需要)"
        ),
    ),
)

_DISCUSSES = _p(
    r"\b(?:e\.?g\.?|for example|examples?|such as|attack\w*|inject\w*|malicious|attempt\w*|adversar\w*|detect\w*|pattern\w*|phishing|jailbreak\w*|suspicious|red flags?|"
    r"refuse|reject\w*|untrusted|flag(?:s|ged)?|exploit\w*|vulnerab\w*|threat\w*|block(?:s|ed)?|scam\w*|attacker\w*|poison\w*|payloads?|test cases?|guard against|prevent\w*|beware|risk\w*|hijack\w*|sanitiz\w*|"
    r"says?|contain(?:s|ing)|trick\w*|defen[cs]e|security rules?|if (?:someone|anyone|a user|content|text|an email|a message|the input))\b|❌|⚠|🚫|🚨|🛡|例如|比如|攻击|注入|恶意|检测|防范|拒绝|警惕|诈骗"
)
_NEGATED = _p(
    r"(?:\b(?:never|do not|don't|does not|doesn't|must not|should not|shouldn't|cannot|can't|won't|will not|avoid|refuse to|not|without|no|nor|instead of|rather than|prevents?|forbid\w*|prohibit\w*|isn't|aren't)\b|不要|不得|切勿|禁止|请勿|绝不|不会|避免|❌|🚫)[^.!?\n。]{0,60}$"
)
_LISTED = _p(
    r"pattern|detect|example|block|reject|trigger|keyword|phrase|inject|attack|label|expected"
)
_FENCED_BAD = _p(
    r"(?:❌|🚫|\b(?:malicious|bad|attack|dangerous|unsafe|vulnerable|suspicious|wrong|never do)\b)[^\n]{0,80}\n\s*\n?```[\w-]*\n(?:[^`]|`(?!``))*$"
)


_KINDS = [kind for kind, _, _ in _PATTERNS]
_GATE = Gate([(pattern, words) for _, words, pattern in _PATTERNS])
_WRAPPED = re.compile(r"(?<=[^\s:|`])\n(?=[ \t>]*[a-z(\u4e00-\u9fff])")


def signals(text: str) -> list[Signal]:
    """All signals of a text, by place. Lines that an editor has wrapped are read as one."""
    flowing = _WRAPPED.sub(" ", text)
    found = [
        Signal(_KINDS[index], m.start(), m.end(), discussed(text, m.start(), m.end()))
        for index, m in _GATE.find(flowing)
        if _KINDS[index] in ("conceal", "fake-tag") or not negated(flowing, m.start())
    ]
    return sorted(found, key=lambda it: it.start)


def negated(text: str, at: int) -> bool:
    """Whether the words before a place in its sentence say not to."""
    return bool(_NEGATED.search(text[max(0, at - 90) : at]))


def discussed(text: str, start: int, end: int) -> bool:
    """Whether a span is quoted, tabled, or stands where attacks are talked about."""
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end)
    line = text[line_start : len(text) if line_end < 0 else line_end]
    before, after = text[max(line_start, start - 60) : start], text[end : end + 60]
    quoted = any(before.count(it) % 2 == 1 and it in after for it in '"`') or (
        any(it in before[-40:] for it in "“‘«「『") and any(it in after for it in "”’»」』")
    )
    if before[-1:] == "'" and "'" in after:
        quoted = True
    if re.search(r"[\w-]\s*[=:]\s*[\"'][^\"'|]*$", before) and not _LISTED.search(line):
        quoted = False  # a value that is passed on is no quotation
    if re.search(r"/$|\(\?|\\b|[|^]$", before) or re.match(r"/[gimsu]*[,;)\s]|\\b", after):
        return True  # a regular expression that looks for it
    if quoted or line.lstrip().startswith("|"):
        return True
    if _DISCUSSES.search(line[: start - line_start]) or _DISCUSSES.search(
        line[end - line_start :][:80]
    ):
        return True
    above = text[max(0, line_start - 1_500) : line_start]
    if _FENCED_BAD.search(above):
        return True
    heading = above.rfind("\n#")
    return (
        bool(_DISCUSSES.search(above[heading:].split("\n\n")[0][:120])) if heading >= 0 else False
    )


def anywhere(kinds: set[str], found: list[Signal]) -> bool:
    """Whether an order (not a mention) of one of these kinds is among them."""
    return any(it.kind in kinds and not it.mentioned for it in found)
