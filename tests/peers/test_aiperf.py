"""AIPerf, unchanged, replays a slice of a real trace against a running site."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from starloom.serve.tiny import model_path

from running import up

SCALE = 16
"""Lengths of the trace are divided by this: the tiny models hold 32k tokens and run on one core."""
BLOCK_TOKENS = 512
REQUESTS = 40

SITE = """\
name: t-aiperf
gateway: {port: 0}
nodes: [{name: n0}]
models: [{name: loom-s, path: "package:loom-s", block_tokens: 32}]
workers:
  - {name: s0, node: n0, model: loom-s, engine: embedded}
  - {name: s1, node: n0, model: loom-s, engine: embedded}
pool: {node: n0, dram_gib: 0.25}
"""


def scaled(line: str) -> str:
    row = json.loads(line)
    row["input_length"] = max(row["input_length"] // SCALE, 1)
    row["output_length"] = max(row["output_length"] // SCALE, 1)
    block = BLOCK_TOKENS // SCALE
    row["hash_ids"] = row["hash_ids"][: -(-row["input_length"] // block)]
    return json.dumps(row)


def cached_tokenizer(home: Path) -> str:
    """Lay the tokenizer out as Hugging Face's cache does, and name it.

    AIPerf 0.13 takes a local folder in its main process, but its decoding processes look into that
    cache alone.
    """
    cache = home / "hub/models--starloom--loom-s"
    revision = "0" * 40
    shutil.copytree(model_path("loom-s"), cache / "snapshots" / revision)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(revision)
    return "starloom/loom-s"


@pytest.mark.peers
@pytest.mark.data
@pytest.mark.timeout(600)
def test_a_slice_of_the_mooncake_trace(data_dir, repository):
    """Real arrival times for 40 requests, lengths / 16: none fails, and prefixes are reused."""
    aiperf = repository / ".venv-aiperf/bin/aiperf"
    if not aiperf.exists():
        pytest.skip("no AIPerf (make bench-peers)")
    trace = (data_dir / "mooncake/conversation_trace.jsonl").read_text().splitlines()
    with tempfile.TemporaryDirectory(prefix="loom-") as name:
        folder = Path(name)
        (folder / "trace.jsonl").write_text("\n".join(map(scaled, trace[:REQUESTS])) + "\n")
        with up(folder, SITE) as site:
            tokenizer = cached_tokenizer(folder / "hf")
            command = [
                aiperf,
                "profile",
                "--model",
                "loom-s",
                "--tokenizer",
                tokenizer,
                "--url",
                site.url,
                "--endpoint-type",
                "chat",
                "--streaming",
                "--api-key",
                site.key,
                "--input-file",
                folder / "trace.jsonl",
                "--custom-dataset-type",
                "mooncake_trace",
                "--fixed-schedule",
                "--fixed-schedule-auto-offset",
                "--isl-block-size",
                BLOCK_TOKENS // SCALE,
                "--extra-inputs",
                "ignore_eos:true",
                "--artifact-dir",
                folder / "artifacts",
                "--ui",
                "none",
                "--workers-max",
                "2",
            ]
            ran = subprocess.run(
                list(map(str, command)),
                cwd=folder,
                env={**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
                timeout=500,
            )
            assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
            exported = next((folder / "artifacts").rglob("profile_export_aiperf.json"))
            report = json.loads(exported.read_text())
            cached = sum(site.metric("starloom_cached_tokens_total").values())
    assert report["request_count"]["avg"] == REQUESTS
    assert not report.get("error_summary")
    assert cached > 0
