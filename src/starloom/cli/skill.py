"""`starloom skill`: vet, sign and verify skills for agents."""

import json as json_
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starloom.cli import show
from starloom.skills.base import Skill

if TYPE_CHECKING:
    from starloom.skills import Report

app = typer.Typer(help="Vet, sign and verify skills for agents.", no_args_is_help=True)

_Skill = Annotated[Path, typer.Argument(help="A skill's folder, or an archive of it.")]
_PolicyFile = Annotated[Path | None, typer.Option("--policy", help="A policy file (YAML).")]
_Origin = Annotated[str, typer.Option(help="Where it came from: an address.")]
_AuthorKeys = Annotated[
    list[Path] | None, typer.Option("--author-key", help="An author's public key (OpenPGP).")
]
_Advisories = Annotated[
    Path | None, typer.Option(help="A snapshot of OSV: DIR/PyPI/all.zip, DIR/npm/all.zip.")
]
_Ring = Annotated[Path, typer.Option("--ring", help="The ring of trusted release keys (JSON).")]


@app.command("vet")
def vet_(
    skills: Annotated[list[Path], typer.Argument(help="Folders or archives.")],
    policy: _PolicyFile = None,
    origin: _Origin = "",
    author_key: _AuthorKeys = None,
    advisories: _Advisories = None,
    format_: Annotated[str, typer.Option("--format", help="text, json, sarif or html.")] = "text",
    output: Annotated[Path | None, typer.Option(help="Write there instead of to stdout.")] = None,
    ask_is_ok: Annotated[
        bool, typer.Option("--ask-is-ok", help="Exit 0 when a person must look.")
    ] = False,
) -> None:
    """Vet SKILLS; nothing of them runs. Exit 0: pass, 1: a person must look, 3: blocked."""
    if format_ not in ("text", "json", "sarif", "html"):
        raise typer.BadParameter("text, json, sarif or html", param_hint="--format")
    if format_ in ("sarif", "html") and len(skills) > 1:
        raise typer.BadParameter(f"{format_} is of one skill", param_hint="--format")
    reports = [_vetted(it, policy, origin, author_key, advisories) for it in skills]
    written = _written(reports, format_)
    if output is not None:
        output.write_text(written, "utf-8")
    else:
        typer.echo(written)
    decisions = {it.verdict.decision for it in reports}
    if "block" in decisions:
        raise typer.Exit(3)
    if "ask" in decisions and not ask_is_ok:
        raise typer.Exit(1)


def _vetted(
    path: Path,
    policy: Path | None,
    origin: str,
    author_key: list[Path] | None,
    advisories: Path | None,
) -> "Report":
    from starloom.skills import Policy, Scanner, vet
    from starloom.skills.scan.checks.dependencies import Advisories
    from starloom.skills.source.gpg import AuthorKeys

    scanner = Scanner(advisories=Advisories.load(advisories) if advisories else None)
    rules = Policy.load(policy) if policy else Policy()
    if not author_key:
        return vet(path, rules, origin=origin, scanner=scanner)
    with AuthorKeys(*(it.read_bytes() for it in author_key)) as keys:
        return vet(path, rules, origin=origin, keys=keys, scanner=scanner)


def _written(reports: "list[Report]", format_: str) -> str:
    from starloom.skills.report import page, report_record, sarif

    if format_ == "json":
        records = [report_record(it) for it in reports]
        return json_.dumps(
            records[0] if len(records) == 1 else records, indent=2, ensure_ascii=False
        )
    if format_ == "sarif":
        return json_.dumps(sarif(reports[0]), indent=2, ensure_ascii=False)
    if format_ == "html":
        return page(reports[0])
    return "\n\n".join(map(_text, reports))


def _text(report: "Report") -> str:
    lines = [f"{report.skill.name}: {report.verdict.decision} (source {report.source.level.name})"]
    lines += [f"  {it}" for it in report.source.reasons]
    for it in report.findings:
        via = f" inside {', '.join(it.evidence.via)}" if it.evidence.via else ""
        lines.append(
            f"  {it.severity.name:8} {it.rule.id:22} {it.evidence.file}:{it.evidence.line}{via}"
            f"  {it.rule.title}: {it.note}"
        )
        if it.severity >= 2:
            lines.append(f"           fix: {it.rule.fix}")
    return "\n".join(_printable(it) for it in lines)


def _printable(text: str) -> str:
    """Nothing that a terminal would obey or hide."""
    return "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in text)


@app.command()
def keygen(
    owner: Annotated[str, typer.Argument(help="Whose key it is.")],
    key: Annotated[Path, typer.Option(help="Where the private key goes (mode 0600).")],
    ring: _Ring,
    days: Annotated[float, typer.Option(help="How long it counts.")] = 365.0,
    threshold: Annotated[int, typer.Option(help="How many owners must sign.")] = 1,
) -> None:
    """Make a release key, and a first ring with it, or add it to a ring that was not used yet."""
    from starloom.skills.sign.keys import KeyRing, new_key, write_key

    now = time.time()
    signer, entry = new_key(owner, now, now + days * 86_400)
    held = KeyRing.from_dict(json_.loads(ring.read_bytes())).keys if ring.exists() else ()
    made = KeyRing(
        1, threshold if len({*(it.owner for it in held), owner}) >= threshold else 1, (*held, entry)
    )
    write_key(signer, key)
    ring.write_bytes(made.to_json())
    typer.echo(
        f"key {entry.keyid} of {owner}: {key}\n"
        f"ring of {len(made.keys)} keys, {made.threshold} must sign: {ring}"
    )


@app.command()
def sign(
    skill: _Skill,
    key: Annotated[list[Path], typer.Option(help="A private key; give as many as must sign.")],
    version: Annotated[int, typer.Option(help="Counts up with each release.")],
    policy: _PolicyFile = None,
    origin: _Origin = "",
    author_key: _AuthorKeys = None,
    advisories: _Advisories = None,
    approved_by: Annotated[
        list[str] | None, typer.Option(help="Who approved what the policy asks about.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where the envelope goes; SKILL/SKILL.release.json.")
    ] = None,
) -> None:
    """Vet SKILL and release it under a signed envelope; a blocked skill is refused."""
    from starloom.skills.sign.keys import read_key
    from starloom.skills.sign.load import ENVELOPE_NAME
    from starloom.skills.sign.release import release

    report = _vetted(skill, policy, origin, author_key, advisories)
    target = output or skill / ENVELOPE_NAME
    report.skill = _without(report, ENVELOPE_NAME)
    envelope = release(
        report, version, [read_key(it) for it in key], time.time(), approved_by or ()
    )
    target.write_bytes(envelope)
    typer.echo(
        f"{report.skill.name} {version}: {report.verdict.decision}, signed by {len(key)}: {target}"
    )


def _without(report: "Report", name: str) -> Skill:
    return replace(report.skill, files=tuple(it for it in report.skill.files if it.path != name))


@app.command()
def verify(
    skill: _Skill,
    ring: _Ring,
    envelope: Annotated[
        Path | None, typer.Option(help="The envelope, if not in the skill's folder.")
    ] = None,
    revocations: Annotated[Path | None, typer.Option(help="A signed revocation list.")] = None,
    into: Annotated[
        Path | None, typer.Option(help="Also load it: a read-only copy goes under this folder.")
    ] = None,
    state: Annotated[Path, typer.Option(help="The record of loaded versions.")] = Path(
        "skill-versions.json"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify SKILL against its release; exit 2 where a byte, a date or a key is wrong."""
    from starloom.skills.sign import KeyRing, Loader, RevocationList

    trusted = KeyRing.from_dict(json_.loads(ring.read_bytes()))
    listed = RevocationList()
    if revocations is not None:
        listed = listed.successor(revocations.read_bytes(), trusted, time.time())
    loader = Loader(trusted, state, time.time, listed)
    data = envelope.read_bytes() if envelope else None
    made, _ = loader.verify(skill, data)
    copy = loader.load(skill, into, data) if into else None
    if json:
        show.as_json(
            {
                "skill": made.skill,
                "version": made.version,
                "manifest": made.identity,
                "files": made.files,
                "expires_s": made.expires_s,
                "copy": str(copy) if copy else None,
            }
        )
        return
    typer.echo(
        f"{made.skill} {made.version}: {len(made.files)} files as released, "
        f"manifest {made.identity[:16]}"
    )
    if copy:
        typer.echo(f"read-only copy: {copy}")
