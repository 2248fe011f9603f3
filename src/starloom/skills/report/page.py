"""A report as one HTML page without script: hostile text is shown as text, nothing is fetched."""

from html import escape

from starloom.skills.base import Finding, Severity
from starloom.skills.vetting import Report

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8884;vertical-align:top}
code{font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}
.b{padding:.1rem .5rem;border-radius:.3rem;color:#fff;white-space:nowrap}
.CRITICAL,.block{background:#8b1a1a}.HIGH{background:#b3541e}.MEDIUM,.ask{background:#8a6d00}.LOW{background:#456}.INFO,.pass{background:#2e6b3a}
article{border-left:4px solid #8886;padding:.2rem 0 .2rem 1rem;margin:1rem 0}
"""
_LOADS = "default-src 'none'; style-src 'unsafe-inline'"
_WORDS = {"pass": "may be released", "ask": "a person must look at it", "block": "must not be used"}


def page(report: Report) -> str:
    """The page, complete. It has no script, and its policy lets it load nothing."""
    verdict, source = report.verdict, report.source
    counts = {it: sum(x.severity is it for x in report.findings) for it in Severity}
    summary = (
        ", ".join(
            f"{counts[it]} {it.name.lower()}" for it in sorted(Severity, reverse=True) if counts[it]
        )
        or "nothing found"
    )
    reasons = "".join(f"<li>{_text(it)}</li>" for it in verdict.reasons[:50])
    stages = "".join(
        f"<tr><td>{_text(it.stage)}</td><td>{_text(it.skipped or it.worst.name)}</td>"
        f"<td>{len(it.findings)}</td>"
        f"<td>{_text(', '.join(f'{key} {value}' for key, value in it.facts.items()))}</td></tr>"
        for it in report.stages
    )
    files = "".join(
        f"<tr><td><code>{_text(path)}</code></td><td><code>{digest}</code></td></tr>"
        for path, digest in source.files.items()
    )
    name, decided = _text(report.skill.name), verdict.decision
    publisher = _text(f"{source.publisher} {source.origin}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_LOADS}">'
        f'<meta name="viewport" content="width=device-width"><title>{name}: {decided}</title>'
        f"<style>{_STYLE}</style></head><body>"
        f'<h1>{name} <span class="b {decided}">{decided}</span></h1>'
        f"<p>This skill {_WORDS[decided]}: {summary}.</p><ul>{reasons}</ul>"
        f"<h2>Source</h2><p>{source.level.name} {publisher}</p>"
        f"<ul>{''.join(f'<li>{_text(it)}</li>' for it in source.reasons)}</ul>"
        f"<h2>Stages</h2><table><tr><th>stage<th>worst<th>findings<th>facts</tr>{stages}</table>"
        f"<h2>Findings</h2>{''.join(map(_article, report.findings)) or '<p>None.</p>'}"
        f"<h2>Files</h2><table><tr><th>path<th>SHA-256</tr>{files}</table></body></html>"
    )


def _article(it: Finding) -> str:
    where = f"{it.evidence.file}:{it.evidence.line}"
    via = f" (inside {', '.join(it.evidence.via)})" if it.evidence.via else ""
    shown = f"<p><code>{_text(it.evidence.text)}</code></p>" if it.evidence.text else ""
    badge = f'<span class="b {it.severity.name}">{it.severity.name}</span>'
    lists = " ".join((*it.rule.owasp, *it.rule.atlas))
    return (
        f"<article><p>{badge} <b>{_text(it.rule.title)}</b>: {_text(it.note)}</p>"
        f"<p><code>{_text(where)}</code>{_text(via)}, rule <code>{it.rule.id}</code>, {lists}</p>"
        f"{shown}<p>Why: {_text(it.rule.why)} Fix: {_text(it.rule.fix)}</p></article>"
    )


def _text(text: str) -> str:
    """Hostile text made harmless: escaped, what shows nothing spelt out."""
    return escape("".join(c if c.isprintable() or c == "\n" else f"<U+{ord(c):04X}>" for c in text))
