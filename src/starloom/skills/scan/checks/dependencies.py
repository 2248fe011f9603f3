"""Dependencies against advisories on disk: OSV's own dump, one zip an ecosystem, as osv-scanner has it.

Layout `DIR/PyPI/all.zip`, `DIR/npm/all.zip` (OSV schema 1.6, ossf.github.io/osv-schema). A missing or old
snapshot says "unknown", never "clean". Versions of PyPI are compared by PEP 440, of npm by semver.
"""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from starloom.skills.base import Finding, Severity
from starloom.skills.scan.base import Context, finding
from starloom.skills.scan.blocks import Document

MAX_AGE_DAYS = 30
_MAX_RECORD_BYTES = 4 << 20


class Dependency(NamedTuple):
    """A package that a skill asks for: its exact version, or empty where it names a range or none."""

    ecosystem: str
    name: str
    version: str
    doc: Document
    start: int
    end: int


@dataclass
class Advisories:
    """A snapshot of OSV records, indexed by ecosystem and package; read when first asked."""

    root: Path
    taken: datetime | None = None
    max_age_days: float = MAX_AGE_DAYS
    _index: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Path, max_age_days: float = MAX_AGE_DAYS) -> "Advisories":
        """A folder in osv-scanner's layout; its date is that of the newest zip."""
        times = [it.stat().st_mtime for it in root.glob("*/all.zip")]
        taken = datetime.fromtimestamp(max(times), UTC) if times else None
        return cls(root, taken, max_age_days)

    @property
    def stamp(self) -> str:
        return self.taken.isoformat() if self.taken else "none"

    def stale(self, now: datetime) -> bool:
        """Whether there is no snapshot, or one older than it may be."""
        return self.taken is None or (now - self.taken).total_seconds() > self.max_age_days * 86_400

    def has(self, ecosystem: str) -> bool:
        return (self.root / ecosystem / "all.zip").exists()

    def of(self, ecosystem: str, name: str) -> list[dict[str, Any]]:
        """The records about one package."""
        if ecosystem not in self._index:
            self._index[ecosystem] = self._read(ecosystem)
        return self._index[ecosystem].get(_normal(ecosystem, name), [])

    def _read(self, ecosystem: str) -> dict[str, list[dict[str, Any]]]:
        index: dict[str, list[dict[str, Any]]] = {}
        try:
            with zipfile.ZipFile(self.root / ecosystem / "all.zip") as archive:
                for info in archive.infolist():
                    if info.file_size > _MAX_RECORD_BYTES or not info.filename.endswith(".json"):
                        continue
                    record = json.loads(archive.read(info))
                    if record.get("withdrawn"):
                        continue
                    for affected in record.get("affected", []):
                        package = affected.get("package", {})
                        if package.get("ecosystem") == ecosystem:
                            index.setdefault(
                                _normal(ecosystem, package.get("name", "")), []
                            ).append({**record, "affected": [affected]})
        except (OSError, zipfile.BadZipFile, ValueError):
            return {}
        return index


def check_dependencies(
    context: Context, advisories: Advisories | None = None, now: datetime | None = None
) -> Iterator[Finding]:
    """Each dependency: known vulnerable, known malicious, a look-alike, or unknown."""
    asked = list(dependencies(context))
    now = now or datetime.now(UTC)
    for it in asked:
        where = it.doc.evidence(it.start, it.end)
        like = imitated(it.ecosystem, it.name)
        if like:
            yield finding(
                "lookalike-dependency", where, f"{it.name} imitates {like}", Severity.HIGH
            )
    if not asked:
        return
    first = asked[0].doc.evidence(asked[0].start, asked[0].end)
    if advisories is None or advisories.stale(now):
        age = (
            "there is no snapshot of advisories"
            if advisories is None or advisories.taken is None
            else f"the snapshot is of {advisories.stamp[:10]}"
        )
        yield finding("dependencies-unknown", first, f"{len(asked)} dependencies: {age}")
        if advisories is None:
            return
    for ecosystem in sorted({it.ecosystem for it in asked}):
        if not advisories.has(ecosystem):
            yield finding("dependencies-unknown", first, f"no advisories for {ecosystem}")
    for it in asked:
        for record in advisories.of(it.ecosystem, it.name):
            yield from _matched(it, record)


def _matched(it: Dependency, record: Mapping[str, Any]) -> Iterator[Finding]:
    where = it.doc.evidence(it.start, it.end)
    name = f"{record.get('id')}: {it.name} {it.version or '(any version)'}"
    if str(record.get("id", "")).startswith("MAL-"):
        if not it.version or affects(it.ecosystem, it.version, record["affected"][0]):
            yield finding("malicious-dependency", where, name, Severity.CRITICAL)
        return
    if it.version and affects(it.ecosystem, it.version, record["affected"][0]):
        yield finding(
            "vulnerable-dependency",
            where,
            name + f": {str(record.get('summary', ''))[:100]}",
            Severity.MEDIUM,
        )


def affects(ecosystem: str, version: str, affected: Mapping[str, Any]) -> bool:
    """Whether a version is named, or lies in a range: events in order, introduced to fixed or last affected."""
    if version in affected.get("versions", []):
        return True
    key = _key(ecosystem, version)
    for span in affected.get("ranges", []):
        if span.get("type") not in ("ECOSYSTEM", "SEMVER"):
            continue
        inside = False
        for event in span.get("events", []):
            if "introduced" in event:
                inside = (
                    inside
                    or event["introduced"] == "0"
                    or key >= _key(ecosystem, event["introduced"])
                )
            if "fixed" in event and key >= _key(ecosystem, event["fixed"]):
                inside = False
            if "last_affected" in event and key > _key(ecosystem, event["last_affected"]):
                inside = False
        if inside:
            return True
    return False


def _key(ecosystem: str, version: str) -> Any:
    """A version to compare with others of its ecosystem; what cannot be read comes first."""
    if ecosystem == "PyPI":
        from packaging.version import InvalidVersion, Version

        try:
            return Version(version)
        except InvalidVersion:
            return Version("0")
    found = re.match(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?", version)
    if found is None:
        return (0, 0, 0, 0, ())
    numbers = tuple(int(it or 0) for it in found.groups()[:3])
    parts = tuple(
        (0, int(it), "") if it.isdigit() else (1, 0, it) for it in (found[4] or "").split(".") if it
    )
    return (*numbers, 0 if parts else 1, parts)


def _normal(ecosystem: str, name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower() if ecosystem == "PyPI" else name.lower()


_REQUIREMENT = re.compile(
    r"^[ \t]*([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?[ \t]*(?:===?[ \t]*([\w.!+*-]+)|[<>~!]=?[^#\n;]*)?[ \t]*(?:;[^#\n]*)?(?:#.*)?$",
    re.MULTILINE,
)
_PIP = re.compile(r"\b(?:pip3?|uv pip|uv|pipx|poetry)\s+(?:install|add)\s+([^|;&\n`]+)")
_NPM = re.compile(
    r"\b(?:npm\s+(?:install|i|add)|yarn\s+add|pnpm\s+(?:add|install)|npx|bunx|bun\s+add)\s+([^|;&\n`]+)"
)


def dependencies(context: Context) -> Iterator[Dependency]:
    """What manifests and installing commands name."""
    seen: set[tuple[str, str, str]] = set()

    def once(it: Dependency) -> Iterator[Dependency]:
        key = (it.ecosystem, _normal(it.ecosystem, it.name), it.version)
        if key not in seen and len(seen) < 2_000:
            seen.add(key)
            yield it

    for doc in context.documents:
        name = doc.path.rsplit("/", 1)[-1].lower()
        if re.fullmatch(r"(?:requirements|constraints)[\w.-]*\.(?:txt|in)", name):
            for m in _REQUIREMENT.finditer(doc.folded):
                yield from once(Dependency("PyPI", m[1], m[2] or "", doc, m.start(), m.end()))
        elif name == "package.json":
            for it in _package(doc):
                yield from once(it)
        elif doc.language in ("markdown", "shell"):
            for pattern, ecosystem in ((_PIP, "PyPI"), (_NPM, "npm")):
                for m in pattern.finditer(doc.folded):
                    for it in _words(m, ecosystem, doc):
                        yield from once(it)


def _package(doc: Document) -> Iterator[Dependency]:
    try:
        parsed = json.loads(doc.folded)
    except (ValueError, RecursionError):
        return
    if not isinstance(parsed, dict):
        return
    for group in ("dependencies", "devDependencies", "optionalDependencies", "peerDependencies"):
        listed = parsed.get(group)
        if not isinstance(listed, dict):
            continue
        for name, wanted in listed.items():
            at = max(doc.folded.find(f'"{name}"'), 0)
            version = str(wanted).lstrip("=v ")
            exact = version if re.fullmatch(r"\d+\.\d+\.\d+(?:-[\w.-]+)?", version) else ""
            yield Dependency("npm", str(name), exact, doc, at, at + len(name) + 2)


def _words(m: re.Match[str], ecosystem: str, doc: Document) -> Iterator[Dependency]:
    skip = False
    for word in m[1].split():
        if skip or word.startswith("-"):
            skip = not skip and word in (
                "-r",
                "-c",
                "-i",
                "--index-url",
                "--extra-index-url",
                "-f",
                "--registry",
                "-e",
                "-t",
                "--target",
                "--prefix",
            )
            continue
        plain = word.strip("\"'")
        if ecosystem == "PyPI":
            found = re.fullmatch(
                r"([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?(?:==([\w.!+-]+)|[<>~!]=?.*)?", plain
            )
        else:
            found = re.fullmatch(
                r"((?:@[\w.-]+/)?[a-z0-9][\w.-]*)(?:@\^?~?v?(\d+\.\d+\.\d+[\w.-]*|latest|\w+))?",
                plain,
            )
        if (
            not found
            or plain in ("install", "add", ".", "global")
            or (
                "." in found[1].split("/")[-1][-5:]
                and "/" not in plain
                and ecosystem == "PyPI"
                and plain.endswith((".txt", ".whl", ".gz"))
            )
        ):
            if ecosystem == "npm":
                return
            continue
        version = found[2] or ""
        at = m.start(1) + m[1].find(word)
        yield Dependency(
            ecosystem, found[1], version if version[:1].isdigit() else "", doc, at, at + len(word)
        )
        if m.group().startswith(("npx", "bunx", "pipx")):
            return


_POPULAR = {
    "PyPI": "requests numpy pandas urllib3 boto3 setuptools cryptography pyyaml certifi python-dateutil pydantic flask django fastapi openai anthropic httpx aiohttp beautifulsoup4 selenium playwright pillow matplotlib scipy scikit-learn tensorflow torch transformers sqlalchemy pytest colorama tqdm click jinja2 websockets discord.py python-telegram-bot web3 ccxt telethon paramiko psutil lxml",
    "npm": "react lodash express axios chalk commander typescript webpack request moment dotenv uuid debug async mongoose puppeteer playwright jest eslint prettier ethers web3 discord.js openai node-fetch cross-env colors rimraf nodemailer socket.io electron next vue cheerio",
}
"""Names worth imitating: the heads of the registries' public download lists."""
_HONEST = {
    "requests2",
    "request",
    "requestes",
    "reacts",
    "preact",
    "lodash-es",
    "colours",
    "color",
    "asynckit",
    "nextjs",
    "click-log",
    "moments",
    "uuid4",
    "uuidv4",
    "jests",
    "clack",
    "flasks",
    "tqdm2",
    "expresso",
    "vuex",
    "vite",
    "chalks",
    "aiohttp2",
    "web3.js",
    "web3js",
    "nuxt",
    "webpack5",
    "typescripts",
    "debugs",
    "nest",
    "text",
    "test",
    "ether",
    "jose",
    "lxm",
    "psutils",
    "axios2",
    "gaxios",
    "rxjs",
}


def imitated(ecosystem: str, name: str) -> str:
    """The popular package that a name is one slip away from, empty for none."""
    plain = _normal(ecosystem, name)
    popular = _POPULAR.get(ecosystem, "").split()
    if plain in popular or plain in _HONEST or len(plain) < 5:
        return ""
    for it in popular:
        if len(it) >= 5 and _slip(plain, it):
            return it
        if it not in ("next", "request", "async") and plain in (
            f"python-{it}s",
            f"{it}-python3",
            f"{it}-official",
            f"{it}-js-official",
            f"{it}-fix",
            f"{it}-patched",
        ):
            return it
    return ""


def _slip(a: str, b: str) -> bool:
    """One letter more, less, other, or two neighbours swapped; separators dropped count, too."""
    if a.replace("-", "") == b.replace("-", ""):
        return a != b
    if abs(len(a) - len(b)) > 1:
        return False
    at = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    if len(a) == len(b):
        return a[at + 1 :] == b[at + 1 :] or (
            a[at : at + 2] == b[at : at + 2][::-1] and a[at + 2 :] == b[at + 2 :]
        )
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    return longer[at + 1 :] == shorter[at:]
