"""Judges what looks like a key: by the form that its issuer documents, never by entropy alone.

Placeholders (`sk-xxxx`, `AKIAIOSFODNN7EXAMPLE`, `<your token>`) are told from keys by their letters.
The value itself never goes into a report: its first four letters do.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from starloom.skills.base import Finding, Severity
from starloom.skills.scan.base import Context, finding
from starloom.skills.scan.gate import Gate

_FORMS: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (name, words, re.compile(pattern))
    for name, words, pattern in (
        ("AWS access key", "akia|asia", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
        (
            "GitHub token",
            "ghp_|gho_|ghu_|ghs_|ghr_|github_pat_",
            r"\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{60,}\b",
        ),
        ("GitLab token", "glpat-", r"\bglpat-[A-Za-z0-9_-]{20,}\b"),
        (
            "OpenAI key",
            "t3blbkfj",
            r"\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,}T3BlbkFJ[A-Za-z0-9_-]{20,}",
        ),
        ("Anthropic key", "sk-ant-", r"\bsk-ant-(?:api|admin|sid)\d{2}-[A-Za-z0-9_-]{40,}"),
        ("Google API key", "aiza", r"\bAIza[A-Za-z0-9_-]{35}\b"),
        ("Google OAuth secret", "gocspx-", r"\bGOCSPX-[A-Za-z0-9_-]{28}\b"),
        (
            "Slack token",
            "xoxa-|xoxb-|xoxp-|xoxr-|xoxs-|xapp-",
            r"\bxox[abprs]-[A-Za-z0-9-]{20,}|\bxapp-\d-[A-Z0-9]+-\d+-[a-f0-9]{40,}",
        ),
        (
            "Slack webhook",
            "hooks.slack.com",
            r"https://hooks\.slack\.com/services/T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/[A-Za-z0-9]{24}",
        ),
        (
            "Discord webhook",
            "/api/webhooks/",
            r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/\d{17,20}/[\w-]{60,}",
        ),
        ("Telegram bot token", ":aa", r"\b\d{8,10}:AA[A-Za-z0-9_-]{33}\b"),
        ("Stripe key", "k_live_", r"\b[sr]k_live_[A-Za-z0-9]{20,}"),
        ("npm token", "npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
        ("PyPI token", "pypi-ageichlwas5vcmc", r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}"),
        ("Hugging Face token", "hf_", r"\bhf_[A-Za-z]{34}\b"),
        ("SendGrid key", "sg.", r"\bSG\.[\w-]{22}\.[\w-]{43}\b"),
        ("Twilio key", "sk", r"\bSK[0-9a-f]{32}\b"),
        ("DigitalOcean token", "dop_v1_", r"\bdop_v1_[a-f0-9]{64}\b"),
        ("Shopify token", "shp", r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}\b"),
        ("Databricks token", "dapi", r"\bdapi[a-f0-9]{32}\b"),
        (
            "private key",
            "private key",
            r"-----BEGIN (?:RSA |EC |DSA |OPENSSH |PGP )?PRIVATE KEY(?: BLOCK)?-----\s*[A-Za-z0-9+/=\s]{100,}",
        ),
        (
            "JSON Web Token",
            "eyj",
            r"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{30,}\.[A-Za-z0-9_-]{30,}",
        ),
        (
            "password in an address",
            "postgres|mysql|mongodb|redis|amqp",
            r"\b(?:postgres(?:ql)?|mysql|mongodb(?:\+srv)?|redis|amqp)://[^\s:/@<>{}$]{2,}:[^\s@<>{}$*]{8,}@(?!localhost|127\.|host\b|example)[\w.-]+",
        ),
    )
)
_GATE = Gate([(pattern, words) for _, words, pattern in _FORMS])
_PLACEHOLDER = re.compile(
    r"example|sample|placeholder|your|xxx|\.\.\.|dummy|fake|test|redacted|abcdef|123456|0{6}|changeme|password|<|\*\*|demo|user:pass",
    re.IGNORECASE,
)


def check_secrets(context: Context) -> Iterator[Finding]:
    """Keys of known forms in every text."""
    for doc in context.documents:
        told = 0
        for index, m in _GATE.find(doc.folded):
            name = _FORMS[index][0]
            if _PLACEHOLDER.search(m.group()) or _entropy(m.group()) < 3.2 or told >= 20:
                continue
            told += 1
            where = replace(
                doc.evidence(m.start(), m.end()),
                text=f"{m.group()[:4]}... ({m.end() - m.start()} characters)",
            )
            yield finding(
                "secret", where, name, Severity.LOW if name == "JSON Web Token" else Severity.MEDIUM
            )


def _entropy(text: str) -> float:
    """Shannon entropy in bits a character."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
