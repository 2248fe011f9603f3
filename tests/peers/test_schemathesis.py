"""Schemathesis, unchanged, reads the gateway's OpenAPI document and asks whatever it allows.

Left out: `positive_data_acceptance`, since a body can have the right shape and still ask for what
the model cannot do.
"""

import json
import subprocess

import pytest

from gateway_fixtures import KEY
from member_fixtures import ADMIN_KEY, gateway
from surface_fixtures import USAGE, stream, surface, whole
from upstream_fixtures import FakeUpstream

EXAMPLES = 60


def answered(asked):
    """What a server elsewhere says to each path."""
    if asked.path == "/tokenize":
        return b'{"count": 1, "max_model_len": 9, "tokens": [1]}'
    if asked.path.endswith("/chat/completions"):
        streams = asked.body.get("stream")
        return stream({"content": "hello"}) if streams else whole({"content": "hello"})
    if asked.path.endswith("/completions"):
        choice = {"index": 0, "text": "hello", "finish_reason": "stop"}
        base = {"id": "x", "object": "text_completion", "created": 1, "model": "m"}
        answer = {**base, "choices": [choice], "usage": USAGE}
        if asked.body.get("stream"):
            return f"data: {json.dumps(answer)}\n\ndata: [DONE]\n\n".encode()
        return json.dumps(answer).encode()
    return json.dumps({"data": [], "usage": USAGE}).encode()


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_document_holds(tmp_path, repository):
    """No answer is undocumented, of another shape, or a fault of ours; wrong bodies are refused."""
    limits = {"failed_keys_per_min": 1 << 20}  # it tries many
    with surface(tmp_path, FakeUpstream(answered), own=True, limits=limits) as gate:
        check(repository, tmp_path, f"{gate.url}/openapi.json", KEY)


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_admin_apis_part_holds(tmp_path, repository):
    """The same of what is asked with the admin key; the document itself is a tenant's to read."""
    limits = {"failed_keys_per_min": 1 << 20}
    with gateway(tmp_path, own=True, gateway={"limits": limits}) as gate:
        document = tmp_path / "openapi.json"
        with gate.client() as client:
            document.write_text(client.get("/openapi.json").text)
        more = ("--url", gate.url, "--include-path-regex", "^/admin/")
        check(repository, tmp_path, str(document), ADMIN_KEY, *more)


def check(repository, folder, document, key, *more):
    binary = repository / ".venv-schemathesis/bin/schemathesis"
    if not binary.exists():
        pytest.skip("no Schemathesis (make bench-peers)")
    command = [
        *(str(binary), "run", document, *more),
        *("--header", f"Authorization: Bearer {key}"),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
        *("--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=580)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
