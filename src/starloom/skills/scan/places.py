"""Well-known places: where secrets lie and whose they are, what starts by itself, what agents obey.

Facts about operating systems and products, from their own manuals; none is taken from a sample.
"""

import re
from typing import NamedTuple

from starloom.skills.scan.gate import Gate


class Store(NamedTuple):
    """A store of secrets: its name, and the domains that it is honest to send them to."""

    name: str
    words: str
    """Of which every match holds one (`scan.gate`)."""
    pattern: re.Pattern[str]
    owners: tuple[str, ...] = ()
    private: bool = True
    """Whether its content is a secret in itself (a config file may be none)."""


def _path(pattern: str) -> re.Pattern[str]:
    """Written with `/`; what is searched has its backslashes turned (`forward`)."""
    return re.compile(pattern, re.IGNORECASE)


def forward(path: str) -> str:
    """Windows paths with the slashes of everybody else."""
    return path.replace("\\", "/")


STORES = (
    Store(
        "SSH keys",
        ".ssh|id_rsa|id_dsa|id_ecdsa|id_ed25519",
        _path(
            r"(?:^|[/~\s\"'=])\.ssh(?:/(?!config\b|known_hosts|authorized_keys|[\w.-]*\.pub\b)|['\"\s]*$|/?[*])|\bid_(?:rsa|dsa|ecdsa|ed25519)\b(?!\.pub)"
        ),
    ),
    Store(
        "AWS credentials",
        ".aws",
        _path(r"\.aws/(?:credentials|config|sso)|\.aws/?['\"\s]*$"),
        ("amazonaws.com", "aws.amazon.com"),
    ),
    Store(
        "Google Cloud credentials",
        "gcloud|application_default",
        _path(
            r"gcloud/(?:application_default|credentials|access_tokens|legacy)|application_default_credentials"
        ),
        ("googleapis.com", "google.com"),
    ),
    Store(
        "Azure tokens",
        ".azure",
        _path(r"\.azure/(?:accesstokens|azureprofile|msal|service_principal|$)|\.azure/?['\"\s]*$"),
        ("azure.com", "microsoftonline.com", "windows.net"),
    ),
    Store("Kubernetes config", ".kube", _path(r"\.kube/config"), ("kubernetes.default.svc",)),
    Store("Docker config", ".docker", _path(r"\.docker/config\.json"), ("docker.com", "docker.io")),
    Store("netrc", "netrc", _path(r"(?:^|[/~\s\"'])[._]netrc\b")),
    Store(
        "git credentials",
        "git-credentials|git/credentials",
        _path(r"\.git-credentials\b|\.config/git/credentials"),
        ("github.com", "gitlab.com"),
    ),
    Store(
        "GitHub CLI token",
        "gh/hosts|gh auth",
        _path(r"\.config/gh/hosts\.yml|\bgh auth token\b"),
        ("github.com",),
    ),
    Store("npm token", ".npmrc", _path(r"(?:^|[/~\s\"'])\.npmrc\b"), ("npmjs.org", "npmjs.com")),
    Store("PyPI token", ".pypirc", _path(r"(?:^|[/~\s\"'])\.pypirc\b"), ("pypi.org",)),
    Store("gem credentials", ".gem", _path(r"\.gem/credentials"), ("rubygems.org",)),
    Store("cargo credentials", ".cargo", _path(r"\.cargo/credentials"), ("crates.io",)),
    Store("GnuPG keys", ".gnupg|export-secret", _path(r"\.gnupg\b|export-secret-keys")),
    Store(
        "system passwords",
        "shadow|sudoers|passwd|config/sam",
        _path(r"/etc/(?:shadow|gshadow|sudoers|master\.passwd)\b|\bconfig/SAM\b|security/passwd"),
    ),
    Store("account list", "passwd", _path(r"/etc/passwd\b"), private=False),
    Store(
        "keychain",
        "keychain|keyrings|security find|security dump|vaultcmd|cmdkey|secret-tool",
        _path(
            r"library/keychains|login\.keychain|security (?:find|dump)-[\w-]*(?:password|keychain)|\.local/share/keyrings|vaultcmd|cmdkey\s+/list|\bsecret-tool (?:lookup|search)"
        ),
    ),
    Store(
        "browser profile",
        "chrom|brave|edge|firefox|mozilla|login data|cookies|logins.json|key4|key3",
        _path(
            r"(?:google/chrome|google-chrome|chromium|brave[\w-]*|microsoft/edge|mozilla|firefox)/[^\s\"']*(?:login data|cookies|profiles|web data|logins\.json|key[34]\.db)|\b(?:login data|cookies\.sqlite|logins\.json|key4\.db)\b|library/cookies"
        ),
    ),
    Store(
        "crypto wallet",
        "wallet|.electrum|.ethereum|.bitmonero|.exodus|.bitcoin|.litecoin|.monero|solana|metamask|phantom|exodus|atomic|electrum|ledger|seed|keystore",
        _path(
            r"wallet\.dat\b|\.(?:electrum|ethereum|bitmonero|exodus|bitcoin|litecoin|monero)/[\w/.*-]*(?:wallet|keystore|keys)?|\.config/solana/id\.json|(?:metamask|phantom|exodus|atomic|electrum|ledger live)[/\\ ][\w/ ]*(?:wallet|vault|local)|\bseed[ -]?phrase\b|keystore/utc--"
        ),
    ),
    Store(
        "agent credentials",
        "auth-profiles|.clawdbot|.moltbot|.openclaw|.claude|.codex|.cursor|.gemini|.aider|.continue",
        _path(
            r"auth-profiles\.json|\.(?:clawdbot|moltbot|openclaw|claude|codex|cursor|gemini|aider|continue)/(?:[\w./-]*(?:credential|auth|token|secret)[\w.-]*|\.env)|\.claude\.json\b|\.codex/auth"
        ),
    ),
    Store(
        "messenger session",
        "telegram|discord|slack|signal",
        _path(
            r"(?:telegram desktop|discord|slack|signal)/[\w /]*(?:tdata|leveldb|local storage|session)"
        ),
    ),
    Store(
        ".env file",
        ".env",
        _path(
            r"(?:^|[/\s\"'`=@<(~])\.env(?:\.(?!example|sample|template|dist|schema)\w+)*(?![\w.-])"
        ),
    ),
    Store(
        "password manager",
        ".kdb|op item|op read|op signin|bw get|bw list|password-store|lastpass|1password",
        _path(
            r"\.kdbx?\b|\bop (?:item get|read|signin)\b|\bbw (?:get|list) |\.password-store\b|lastpass|1password/data"
        ),
    ),
    Store(
        "process memory",
        "/proc/",
        _path(r"/proc/(?:self|\d+|\*|\$\w+|\ufffc)/(?:environ|mem|maps)\b"),
    ),
    Store(
        "service account token",
        "secrets/kubernetes|169.254|metadata",
        _path(
            r"/var/run/secrets/kubernetes|169\.254\.169\.254|metadata\.google\.internal|metadata\.azure"
        ),
    ),
)

_GATE = Gate([(it.pattern, it.words) for it in STORES])

HISTORY = _path(
    r"\.(?:bash|zsh|python|psql|mysql|node_repl)_history\b|consolehost_history|\bfc -l\b|(?:chrome|firefox|safari)/[^\s]*history(?:\.db)?\b|\bchat\.db\b|places\.sqlite"
)

_ENV_SECRET = re.compile(
    r"(?:^|_)(?:API_?KEYS?|SECRET(?:_KEY)?|TOKEN|PASSW(?:OR)?D|PASS|PRIVATE_?KEY|ACCESS_?KEY(?:_ID)?|CREDENTIALS?|"
    r"AUTH|MNEMONIC|SEED|SESSION|COOKIE|WEBHOOK(?:_URL)?|PAT|DSN|DATABASE_URL|KEY)(?:$|_)",
    re.IGNORECASE,
)


def secret_env(name: str) -> bool:
    """Whether an environment variable's name says that it holds a secret."""
    return bool(_ENV_SECRET.search(name)) and name.upper() not in ("SSH_AUTH_SOCK", "PUBLIC_KEY")


VENDORS: dict[str, tuple[str, ...]] = {
    "AWS": ("amazonaws.com", "aws.amazon.com"),
    "ANTHROPIC": ("anthropic.com",),
    "OPENAI": ("openai.com", "azure.com"),
    "GITHUB": ("github.com", "githubusercontent.com", "ghcr.io"),
    "GH": ("github.com", "githubusercontent.com", "ghcr.io"),
    "GITLAB": ("gitlab.com",),
    "GOOGLE": ("googleapis.com", "google.com"),
    "GEMINI": ("googleapis.com", "google.com"),
    "AZURE": ("azure.com", "windows.net", "microsoft.com"),
    "SLACK": ("slack.com",),
    "STRIPE": ("stripe.com",),
    "NPM": ("npmjs.org", "npmjs.com"),
    "PYPI": ("pypi.org",),
    "HF": ("huggingface.co",),
    "HUGGINGFACE": ("huggingface.co",),
    "DOCKER": ("docker.com", "docker.io"),
    "CLOUDFLARE": ("cloudflare.com",),
    "DIGITALOCEAN": ("digitalocean.com",),
    "DATABASE": (),
    "POSTGRES": (),
    "SSH": (),
}
"""Whose key a variable holds by its first word, where the key is worth stealing: others pay with it."""


def stores(text: str) -> list[Store]:
    """Which stores a path or a command line names."""
    text = forward(text)
    return [STORES[index] for index in sorted({index for index, _ in _GATE.find(text)})]


def owner_of(name: str) -> tuple[str, ...] | None:
    """The domains that a vendor's key may go to; None when the name is no vendor's that we know."""
    return VENDORS.get(name.upper().split("_")[0])


PERSISTENCE = (
    (
        "shell start-up file",
        _path(
            r"(?:^|[/~\s\"'])\.(?:bashrc|bash_profile|bash_login|profile|zshrc|zprofile|zshenv|zlogin|kshrc)\b|fish/config\.fish|/etc/(?:profile|bash\.bashrc|environment)\b|microsoft\.powershell_profile|\$profile\b"
        ),
    ),
    ("cron", _path(r"/etc/cron|/var/spool/cron|\bcrontab\b")),
    (
        "system service",
        _path(
            r"/etc/systemd|\.config/systemd|/etc/init\.d|/etc/rc\.local|launch(?:agents|daemons)/"
        ),
    ),
    (
        "autostart",
        _path(r"\.config/autostart|start menu/programs/startup|currentversion/run(?:once)?\b"),
    ),
    ("authorised SSH keys", _path(r"authorized_keys\b")),
    ("git hook", _path(r"\.git/hooks/|core\.hookspath|init\.templatedir")),
    ("preloaded library", _path(r"/etc/ld\.so\.preload|\bLD_PRELOAD=|DYLD_INSERT_LIBRARIES=")),
    ("Python start-up", _path(r"sitecustomize\.py|usercustomize\.py|site-packages/[\w-]+\.pth")),
    ("hosts file", _path(r"/etc/hosts\b|/etc/resolv\.conf|drivers/etc/hosts")),
    ("sudo rule", _path(r"/etc/sudoers")),
)

AGENT_FILES = _path(
    r"(?:^|[/\s\"'`(])(?:AGENTS?|CLAUDE|GEMINI|SOUL|MEMORY|IDENTITY|USER|TOOLS|HEARTBEAT|BOOTSTRAP|COPILOT|CURSOR|CONVENTIONS)\.md\b|"
    r"\.cursor(?:rules|/rules)|\.windsurfrules|copilot-instructions\.md|\.(?:claude|codex|gemini|clawdbot|moltbot|openclaw)/(?:settings|config|instructions|memory|clawdbot|openclaw|hooks)[\w./-]*|"
    r"\.mcp\.json|claude_desktop_config\.json|\.aider\.conf|\.continue/config|exec-approvals\.json|policies\.(?:json|ya?ml)"
)
"""Files that an agent reads as its own instructions, memory or permissions."""


def agent_file(path: str) -> bool:
    """Whether agents obey a file; one inside a skill's own folder is the skill's."""
    return bool(AGENT_FILES.search(" " + forward(path))) and not re.search(
        r"(?:^|/)skills/[\w.-]+/", path
    )


def persistence(path: str) -> str:
    """What kind of start-up place a path is, empty for none."""
    path = forward(path)
    return next((kind for kind, pattern in PERSISTENCE if pattern.search(path)), "")
