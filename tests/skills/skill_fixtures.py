"""What the tests of skills share: a skill from texts, and what is found in it."""

from collections.abc import Mapping
from pathlib import Path

from starloom.skills import Finding, Scanner, Severity, read_skill

FRONT = "---\nname: demo-skill\ndescription: Use when the user wants a demo.\n---\n\n# Demo\n\n"


def made(folder: Path, files: Mapping[str, str | bytes], front: bool = True) -> Path:
    """A skill folder; SKILL.md gets front matter unless it brings its own."""
    texts = {"SKILL.md": "", **files}
    for path, text in texts.items():
        data = text.encode() if isinstance(text, str) else text
        if path == "SKILL.md" and front and not data.startswith(b"---"):
            data = FRONT.encode() + data
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def found(folder: Path, files: Mapping[str, str | bytes], front: bool = True) -> list[Finding]:
    return Scanner().scan(read_skill(made(folder / "demo-skill", files, front))).findings


def rules(findings: list[Finding], least: Severity = Severity.HIGH) -> set[str]:
    return {it.rule.id for it in findings if it.severity >= least}


def sh(code: str) -> dict[str, str]:
    return {"SKILL.md": f"Do this:\n\n```bash\n{code}\n```\n"}
