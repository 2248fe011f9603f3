"""Addresses: what host a text names, whose it is to the skill, and what kinds of host are telling."""

import ipaddress
import re
from dataclasses import dataclass, field
from functools import lru_cache

URL = re.compile(
    r"\b(?:https?|ftp|wss?|hxxps?)://[^\s\"'`<>()\[\]{}|\\^\u3000-\u303f\uff00-\uffef]+",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"^(?:[a-z][a-z0-9+.-]*:)?//(?:[^/@\s]*@)?(\[[0-9a-f:.]+\]|[^/:?#\s]+)", re.IGNORECASE
)

COLLECTORS = re.compile(
    r"(?:^|\.)(?:webhook\.site|requestbin\.\w+|pipedream\.net|requestcatcher\.com|hookbin\.com|beeceptor\.com|"
    r"ngrok(?:-free)?\.(?:io|app|dev)|trycloudflare\.com|loca\.lt|localtunnel\.me|serveo\.net|interact\.sh|"
    r"oast(?:ify)?\.\w+|burpcollaborator\.net|dnslog\.\w+|ceye\.io|canarytokens\.com|typedwebhook\.tools|"
    r"webhook\.\w+\.run|mockbin\.\w+|ptsv\d?\.com|transfer\.sh|file\.io|0x0\.st|bashupload\.com|termbin\.com|ix\.io)$"
)
"""Services that anyone opens in a second to receive what others send, or to stand in front of a laptop."""
PASTES = re.compile(
    r"(?:^|\.)(?:pastebin\.com|paste\.ee|rentry\.co|rentry\.org|glot\.io|hastebin\.com|ghostbin\.\w+|dpaste\.\w+|"
    r"controlc\.com|justpaste\.it|pastes\.io|telegra\.ph|privatebin\.\w+|ideone\.com|paste\.\w+\.\w+|snippet\.host)$"
)
SHORTENERS = re.compile(
    r"^(?:bit\.ly|tinyurl\.com|t\.co|is\.gd|v\.gd|goo\.gl|cutt\.ly|rb\.gy|shorturl\.at|ow\.ly|t\.ly|s\.id|tiny\.cc)$"
)
FORGES = (
    "github.com",
    "gitlab.com",
    "bitbucket.org",
    "codeberg.org",
    "gitee.com",
    "sr.ht",
    "githubusercontent.com",
    "dev.azure.com",
    "huggingface.co",
    "github.io",
    "heroku.com",
)
REGISTRIES = (
    "pypi.org",
    "pythonhosted.org",
    "npmjs.org",
    "npmjs.com",
    "yarnpkg.com",
    "crates.io",
    "rubygems.org",
    "packagist.org",
    "golang.org",
    "maven.org",
    "debian.org",
    "ubuntu.com",
    "download.pytorch.org",
    "pypi.nvidia.com",
    "nvidia.com",
    "npmmirror.com",
    "tuna.tsinghua.edu.cn",
    "aliyun.com",
    "mirrors.cloud.tencent.com",
    "tencent.com",
    "ustc.edu.cn",
    "douban.com",
    "anaconda.org",
    "conda-forge.org",
    "jsr.io",
    "huaweicloud.com",
    "sjtu.edu.cn",
    "npm.pkg.github.com",
    "test.pypi.org",
    "astral.sh",
    "alpinelinux.org",
    "fedoraproject.org",
    "archlinux.org",
    "microsoft.com",
)
INSTALLERS = (
    "sh.rustup.rs",
    "rustup.rs",
    "get.docker.com",
    "bun.sh",
    "bun.com",
    "deno.land",
    "deno.com",
    "astral.sh",
    "install.python-poetry.org",
    "get.pnpm.io",
    "nodejs.org",
    "nodesource.com",
    "brew.sh",
    "ollama.com",
    "ollama.ai",
    "tailscale.com",
    "fly.io",
    "get.k3s.io",
    "get.helm.sh",
    "raw.githubusercontent.com/homebrew",
    "raw.githubusercontent.com/nvm-sh",
    "raw.githubusercontent.com/helm",
    "raw.githubusercontent.com/pyenv",
    "raw.githubusercontent.com/ohmyzsh",
    "pyenv.run",
    "sdk.cloud.google.com",
    "aka.ms",
    "starship.rs",
    "nixos.org",
    "install.determinate.systems",
    "cli.github.com",
    "foundry.paradigm.xyz",
    "sdkman.io",
    "get.sdkman.io",
    "getcomposer.org",
    "rvm.io",
    "get.rvm.io",
    "bootstrap.pypa.io",
    "claude.ai",
    "cursor.com",
    "cli.anthropic.com",
    "opencode.ai",
    "openclaw.ai",
    "clawd.bot",
    "molt.bot",
    "get.volta.sh",
    "mise.run",
    "dl.google.com",
    "packages.microsoft.com",
    "dot.net",
    "awscli.amazonaws.com",
    "deb.nodesource.com",
    "download.docker.com",
    "vercel.com",
    "railway.app",
    "railway.com",
    "supabase.com",
    "run.pulumi.com",
    "get.pulumi.com",
    "cloudflare.com",
    "release.solana.com",
    "release.anza.xyz",
    "sh.railway.app",
    "just.systems",
    "taskfile.dev",
    "get.sops.dev",
    "code.claude.com",
    "antigravity.google",
)
"""Makers whose documented way to install is a script from here: named by their own manuals."""

_TWO_LEVEL = re.compile(r"^(?:co|com|net|org|gov|edu|ac|or|ne|go)\.[a-z]{2}$")
_SHARED = (
    "github.io",
    "gitlab.io",
    "vercel.app",
    "netlify.app",
    "herokuapp.com",
    "workers.dev",
    "pages.dev",
    "web.app",
    "fly.dev",
    "onrender.com",
    "railway.app",
    "azurewebsites.net",
    "cloudfront.net",
    "amazonaws.com",
    "replit.app",
    "repl.co",
    "glitch.me",
    "supabase.co",
    "firebaseapp.com",
    "run.app",
    "deno.dev",
    "duckdns.org",
    "blogspot.com",
    "readthedocs.io",
)
_KNOWN = (
    "google",
    "github",
    "gitlab",
    "microsoft",
    "apple",
    "amazon",
    "paypal",
    "openai",
    "anthropic",
    "facebook",
    "telegram",
    "discord",
    "binance",
    "coinbase",
    "metamask",
    "dropbox",
    "cloudflare",
    "npmjs",
    "pypi",
    "docker",
    "huggingface",
    "openclaw",
    "clawhub",
    "slack",
    "pythonhosted",
)
_LOOKS = str.maketrans("01345$", "olEasS".lower())
RESERVED = re.compile(
    r"(?:^|\.)(?:example|invalid|test|localhost|local)$|(?:^|\.)example\.(?:com|org|net|edu)$|^your[\w-]*\.|yourdomain|my-?server|^<|^\$|^\{"
)


@lru_cache(4096)  # the same host comes again and again
def host_of(address: str) -> str:
    """The host of a URL, or of `host`, `host:port`, `user@host:path`; lower case; empty when unknown."""
    address = address.strip().strip("\"'`")
    found = _HOST.match(address)
    if found:
        host = found[1]
    else:
        host = re.split(r"[/:?#\s]", address.rsplit("@", 1)[-1], maxsplit=1)[0]
        if "." not in host and host != "localhost":
            return ""
    host = host.lower().strip(".[]").replace("[.]", ".").replace("(.)", ".")
    return host if re.fullmatch(r"[^\s\"'<>|\\]{1,253}", host) and "\ufffc" not in host else ""


@lru_cache(4096)
def registrable(host: str) -> str:
    """The part of a host that somebody registered, well enough without the public suffix list."""
    if numeric(host):
        return host
    parts = host.split(".")
    if len(parts) <= 2:
        return host
    tail = ".".join(parts[-2:])
    take = 3 if _TWO_LEVEL.match(tail) or tail in _SHARED else 2
    return ".".join(parts[-take:])


def within(host: str, domains: tuple[str, ...]) -> bool:
    """Whether a host is one of these domains or under one."""
    return any(host == it or host.endswith("." + it) for it in domains)


@lru_cache(4096)
def numeric(host: str) -> bool:
    """Whether a host is an IP address, decimal and hexadecimal spellings included."""
    if re.fullmatch(r"0x[0-9a-f]{6,8}|\d{8,10}", host):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@lru_cache(4096)
def is_local(host: str) -> bool:
    """Loopback, private networks, and names that never leave a machine or a site."""
    if host in ("localhost", "host.docker.internal") or host.endswith(
        (".local", ".localhost", ".lan", ".svc", ".ts.net")
    ):
        return True
    try:
        at = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (at.is_private or at.is_loopback) and not at.is_link_local


@lru_cache(4096)
def lookalike(host: str) -> str:
    """The well-known name that a host imitates, empty for none: `g00gle.com`, `xn--...`, `pypi-org.com`."""
    if "xn--" in host:
        try:
            shown = host.encode().decode("idna")
        except UnicodeError:
            shown = host
        return f"{shown} (written in punycode)"
    label = registrable(host).split(".")[0]
    plain = label.translate(_LOOKS)
    for name in _KNOWN:
        if label != name and plain == name:
            return name
        if (
            len(name) >= 6
            and abs(len(label) - len(name)) <= 1
            and label != name
            and _one_edit(label, name)
        ):
            return name
        if label in (f"{name}-com", f"{name}-org", f"www-{name}", f"{name}com"):
            return name
    return ""


def _one_edit(a: str, b: str) -> bool:
    """One letter more, less, other, or two neighbours swapped."""
    if abs(len(a) - len(b)) > 1:
        return False
    at = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    if len(a) == len(b):
        swapped = a[at : at + 2] == b[at : at + 2][::-1] and a[at + 2 :] == b[at + 2 :]
        return a[at + 1 :] == b[at + 1 :] or swapped
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    return longer[at + 1 :] == shorter[at:]


@dataclass(slots=True)
class Neighbourhood:
    """Which hosts are a skill's own: those that it declares, that bear its name, or that it speaks of most."""

    name: str
    declared: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def see(self, text: str) -> None:
        """Count the hosts that a text names."""
        for m in URL.finditer(text):
            host = host_of(m.group())
            if host:
                domain = registrable(host)
                self.counts[domain] = self.counts.get(domain, 0) + 1

    def declare(self, address: str) -> None:
        host = host_of(address)
        if host:
            self.declared.add(registrable(host))

    def named_like(self, host: str) -> bool:
        """Whether the domain bears the skill's name, or a word of it of four letters or more."""
        label = re.sub(r"[^a-z0-9]", "", registrable(host).split(".")[0])
        words = [it for it in re.split(r"[^a-z0-9]+", self.name.lower()) if len(it) >= 4]
        joined = re.sub(r"[^a-z0-9]", "", self.name.lower())
        if label and (label == joined or (len(label) >= 4 and label in joined)):
            return True
        return any(it in label for it in words if it not in _COMMON_WORDS)

    def own(self, host: str) -> bool:
        """Whether a host is the skill's own service."""
        domain = registrable(host)
        if telling(host) and not (lookalike(host) and self.named_like(host)):
            return False
        return domain in self.declared or self.named_like(host)


_COMMON_WORDS = {
    "skill",
    "skills",
    "agent",
    "agents",
    "tool",
    "tools",
    "helper",
    "code",
    "data",
    "sync",
    "setup",
    "deploy",
    "build",
    "test",
    "team",
    "config",
    "cloud",
    "server",
    "client",
    "install",
    "installer",
    "manager",
    "backup",
    "security",
    "credential",
    "secret",
    "dependency",
    "webhook",
    "hook",
    "mock",
    "proxy",
    "feed",
    "analytics",
    "metrics",
    "schema",
    "debug",
    "feedback",
    "review",
    "format",
    "formatter",
    "lint",
    "repo",
    "git",
    "api",
    "http",
    "https",
    "service",
    "integration",
    "notify",
    "notification",
    "updates",
    "store",
    "deps",
    "mirror",
    "secure",
    "login",
    "account",
    "token",
    "keys",
    "verify",
    "validator",
    "generator",
    "runner",
    "pipeline",
    "database",
    "network",
    "storage",
    "upload",
    "download",
    "package",
    "registry",
    "plugin",
    "project",
    "update",
    "updater",
    "auto",
    "auth",
    "tracker",
    "monitor",
    "report",
    "check",
    "checker",
    "health",
    "file",
    "files",
    "search",
    "web",
    "chat",
    "mail",
    "email",
    "image",
    "video",
    "audio",
    "text",
    "docs",
    "with",
    "from",
    "clawd",
    "claw",
    "open",
    "openclaw",
}


@lru_cache(4096)
def telling(host: str) -> str:
    """Why a host is telling in itself, empty for none."""
    if numeric(host) and not is_local(host):
        return "a bare IP address"
    if COLLECTORS.search(host):
        return "a service that collects what anyone sends, or a tunnel"
    if PASTES.search(host):
        return "a paste site"
    if SHORTENERS.match(host):
        return "a URL shortener"
    if host.endswith((".onion", ".i2p")):
        return "an anonymous network"
    like = lookalike(host)
    return f"a look-alike of {like}" if like else ""
