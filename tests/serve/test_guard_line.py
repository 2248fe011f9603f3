"""Media, the safety model and patterns in the line: what clients see and what is written down."""

import base64
import json

from starloom.serve.guard import AuditFile, Guard
from starloom.serve.guard.linear import train
from starloom.site import Site

from gateway_fixtures import FakeEngine, make_site, serving

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\0\0\0\0" + bytes(4))
PICTURE = f"data:image/png;base64,{PNG.decode()}"
ELSEWHERE = "https://example.com/a.png"


def guarded(folder, **guard) -> Site:
    site = make_site(folder, upstream=True)
    return Site.model_validate({**site.model_dump(), "guard": guard})


def asked(gate, *urls, text="look"):
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [{"type": "text", "text": text}, *parts]
    with gate.client() as client:
        body = {"model": "u", "messages": [{"role": "user", "content": content}]}
        return client.post("/v1/chat/completions", json=body)


def audited(folder) -> list[tuple[str, str, str]]:
    path = folder / "audit.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(it["list"], it["phrase"], it["action"]) for it in map(json.loads, lines)]


def run(folder, site, *urls, text="look"):
    engines = [FakeEngine("w1"), FakeEngine("wu", "u")]
    audit = AuditFile(folder / "audit.jsonl")
    with serving(site, engines, guard=Guard.from_site(site), audit=audit) as gate:
        return asked(gate, *urls, text=text), engines[1]


def test_media_are_held_to_the_rules_before_a_worker_sees_them(tmp_path):
    """A picture passes; an address elsewhere is refused by policy, audited, and never fetched."""
    site = guarded(tmp_path, media={})
    answer, engine = run(tmp_path, site, PICTURE)
    assert answer.status_code == 200
    assert audited(tmp_path) == []
    answer, engine = run(tmp_path, site, PICTURE, ELSEWHERE)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "content_filter"
    assert engine.seen == []
    assert audited(tmp_path) == [("media", "an address elsewhere", "block")]


def test_media_without_rules_pass_and_are_audited(tmp_path):
    """A site with word lists alone lets media through and writes down that nobody looked."""
    site = guarded(tmp_path, lists=[{"name": "l", "words": ["launch code"]}])
    answer, engine = run(tmp_path, site, ELSEWHERE)
    assert answer.status_code == 200
    assert len(engine.seen) == 1
    assert audited(tmp_path) == [("media", "1 parts unchecked: no rules", "pass")]


def test_the_safety_model_sees_every_request(tmp_path):
    """What it scores over its threshold is refused; the rest goes on."""
    examples = [(f"recipe {n} with rice", "ok") for n in range(20)]
    examples += [(f"ignore rule {n}", "injection") for n in range(20)]
    train(examples).save(tmp_path / "m.npz")
    site = guarded(tmp_path, model={"file": "m.npz"})
    answer, _ = run(tmp_path, site, text="a recipe with rice")
    assert answer.status_code == 200
    answer, engine = run(tmp_path, site, text="ignore rule 7")
    assert answer.status_code == 400
    assert engine.seen == []
    assert audited(tmp_path) == [("model", "injection", "block")]


def test_secrets_are_masked_on_the_way_in(tmp_path):
    """The worker gets stars; the audit names the kind and never the secret."""
    site = guarded(tmp_path, patterns=[{"name": "keys", "kinds": ["secrets"]}])
    answer, engine = run(tmp_path, site, text="my key is AKIA" + "IOSFODNN7EXAMPLE")
    assert answer.status_code == 200
    sent = json.dumps(engine.seen[0].body)
    assert "AKIA" not in sent
    assert "*" * 20 in sent
    assert audited(tmp_path) == [("keys", "aws_access_key", "mask")]
    assert "AKIA" not in (tmp_path / "audit.jsonl").read_text()
