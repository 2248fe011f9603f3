"""`bench kvshare`: its sites, and (slow) the whole of it."""

import pytest

from starloom.bench import kvshare
from starloom.bench.base import Options


def test_the_arms_differ_in_the_node_alone(tmp_path):
    """Without it nothing of a node, a tenant or a key is left; all else is the same."""
    host = kvshare._Host("one", (), ("a", "b"))
    alone = kvshare._site(host, None, tmp_path)
    shared = kvshare._site(host, "tcp://127.0.0.1:7801", tmp_path)
    assert [node.address for node in shared.pool.nodes] == ["tcp://127.0.0.1:7801"]
    assert shared.pool.tenant == "bench"
    keys = ("nodes", "node_timeout_s", "tenant", "key_file", "tenants_file")
    plain = {field: getattr(alone.pool, field) for field in keys}
    assert shared.model_copy(update={"pool": shared.pool.model_copy(update=plain)}) == alone


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_shared_prompt_begins_sooner_on_another_host():
    """8k and 32k: three engines answer alike, and KV over the network beats computing it again."""
    results = kvshare.bench(Options(), lambda _: None)
    found = {(row["system"], row["case"], row["metric"]): row["value"] for row in results.rows}
    for size in ("8k", "32k"):
        assert found["shared", f"{size}_other_host", "speedup"] > 2
        alone = found["alone", f"{size}_other_host", "ttft_ms"]
        assert found["shared", f"{size}_other_host", "ttft_ms"] < alone
