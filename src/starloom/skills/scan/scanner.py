"""The static scan of a skill: cut it up once, ask every check, merge what they find.

Nothing of the skill is run, imported, rendered or fetched. Whatever was not read in full is a
finding of its own (`unread`, `locked`): silence never means clean.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import yaml

from starloom.skills.base import Evidence, Finding, Severity, Skill, StageResult, merged
from starloom.skills.scan.base import Check, Context, finding
from starloom.skills.scan.blocks import MAX_TEXT_BYTES, Block, Document, blocks, document, guessed
from starloom.skills.scan.checks import ALL
from starloom.skills.scan.checks.dependencies import Advisories, check_dependencies
from starloom.skills.scan.code import LANGUAGES, new_session
from starloom.skills.scan.decode import MAX_DEPTH, layers
from starloom.skills.scan.flow import Session, Value
from starloom.skills.scan.hosts import Neighbourhood
from starloom.skills.scan.judge import Judge, judged
from starloom.skills.scan.normalise import fold

VERSION = "1"
"""Of the rules: it goes into what is signed."""
_MAX_BLOCKS = 3_000
_SESSION_STEPS = 60_000
_SKILL_STEPS = 600_000
"""Of all code of a skill together: seconds of our time, not hours."""


@dataclass(frozen=True)
class Scanner:
    """Checks, and what they need from outside. One scanner serves many skills, in any thread."""

    checks: Sequence[Check] = ALL
    advisories: Advisories | None = None
    judge: Judge | None = None
    """A model that may only raise; None for none."""
    facts: dict[str, object] = field(default_factory=dict)

    def scan(self, skill: Skill) -> StageResult:
        """All findings, the worst first; facts say what was looked at."""
        context, unread = prepared(skill)
        found = list(unread)
        for check in self.checks:
            if check is check_dependencies:
                found += check_dependencies(context, self.advisories)
            else:
                found += check(context)
        found = merged(found)
        if self.judge is not None:
            found = merged([*found, *judged(self.judge, context, found)])
        facts: dict[str, object] = {
            "rules": VERSION,
            "files": len(skill.files),
            "texts": len(context.documents),
            "blocks": len(context.blocks),
            "advisories": self.advisories.stamp if self.advisories else "none",
        }
        return StageResult("scan", found, facts | self.facts)


def prepared(skill: Skill) -> tuple[Context, list[Finding]]:
    """A skill cut into documents, blocks and acts; with findings for what could not be cut up."""
    context = Context(skill)
    unread: list[Finding] = []
    for entry in skill.files:
        if (
            entry.data is not None
            and len(entry.data) > MAX_TEXT_BYTES
            and b"\x00" not in entry.data[:4096]
        ):
            where = Evidence(entry.path, 1)
            unread.append(
                finding(
                    "unread",
                    where,
                    f"a text of more than {MAX_TEXT_BYTES:,} bytes: its code and words were not checked",
                )
            )
            continue
        doc = document(entry)
        if doc is not None:
            context.documents.extend(_with_layers(doc))
    context.front = _front(context.documents)
    name = context.front.get("name")
    context.hosts = Neighbourhood(f"{skill.name} {name if isinstance(name, str) else ''}")
    for doc in context.documents:
        context.hosts.see(doc.folded)
    context.declared = tuple(_declared(context.front))[:100]
    for it in context.declared:
        context.hosts.declare(it)
    _read_code(context, unread)
    return context, unread


def _with_layers(doc: Document) -> Iterator[Document]:
    """A document, and what is encoded in it, to a depth."""
    yield doc
    waiting = [(doc, 1)]
    made = 0
    while waiting and made < 100:
        outer, depth = waiting.pop()
        for layer in layers(outer.folded):
            made += 1
            language = guessed(layer.text) if layer.coding != "entities" else ""
            inner = Document(
                doc.path,
                fold(layer.text),
                language or "text",
                (*outer.via, layer.coding),
                outer.line(layer.start),
            )
            yield inner
            if depth < MAX_DEPTH:
                waiting.append((inner, depth + 1))


def _front(documents: Iterable[Document]) -> dict[str, object]:
    """The YAML between the first two `---` of SKILL.md; empty where there is none that can be read."""
    for doc in documents:
        if doc.path.rsplit("/", 1)[-1].lower() != "skill.md" or doc.base_line:
            continue
        found = re.match(r"\ufeff?\s*---[ \t]*\r?\n(.*?)\r?\n---", doc.folded[:65_536], re.DOTALL)
        if found is None or (re.search(r"[&*]\w+", found[1]) and found[1].count("*") > 50):
            return {}
        try:
            parsed = yaml.load(found[1], Loader=_LOADER)  # noqa: S506 - a safe loader, in C where there is one
        except (yaml.YAMLError, ValueError, RecursionError):
            parsed = _plain(found[1])
        return parsed if isinstance(parsed, dict) else {}
    return {}


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _plain(text: str) -> dict[str, object]:
    """`key: value` lines of front matter that is no YAML: agents read those, too."""
    pairs = (it.partition(":") for it in text.split("\n") if re.match(r"[\w-]+:", it))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def _declared(front: dict[str, object]) -> Iterator[str]:
    """Addresses in the front matter: home page, API host."""
    stack: list[object] = [front]
    seen = 0
    while stack and seen < 500:
        it = stack.pop()
        seen += 1
        if isinstance(it, str):
            yield from re.findall(r"https?://[^\s\"',)]+", it)
        elif isinstance(it, dict):
            for key, value in it.items():
                if key in (
                    "homepage",
                    "url",
                    "website",
                    "api",
                    "api_base",
                    "host",
                    "domain",
                    "repository",
                ) or isinstance(value, dict | list):
                    stack.append(value)
        elif isinstance(it, list):
            stack.extend(it)


def _read_code(context: Context, unread: list[Finding]) -> None:
    left = _SKILL_STEPS
    for doc in context.documents:
        shared: Session | None = None
        for count, block in enumerate(blocks(doc)):
            if count >= _MAX_BLOCKS:
                unread.append(
                    finding(
                        "unread",
                        doc.evidence_at_line(1),
                        f"more than {_MAX_BLOCKS:,} pieces of code",
                        Severity.HIGH,
                    )
                )
                break
            context.blocks.append((doc, block))
            if block.kind != "code" or block.language not in LANGUAGES:
                continue
            # Blocks of one page are run one after another by whoever follows it: files are shared.
            session = new_session()
            session.budget = granted = max(min(_SESSION_STEPS, left), 0)
            if shared is not None:
                session.files = shared.files
                session.variables = shared.variables
            shared = session
            _run_block(session, block)
            left -= granted - max(session.budget, 0)
            if session.budget <= 0:
                unread.append(
                    finding(
                        "unread",
                        doc.evidence_at_line(block.line),
                        "code with more steps than are followed",
                        Severity.MEDIUM,
                    )
                )
            context.sessions.append((doc, block, session))


def _run_block(session: Session, block: Block) -> None:
    try:
        LANGUAGES[block.language](session, Value(block.text), 1)
    except RecursionError:
        session.budget = 0
