"""`bench kv`: its rows, its notes, and that it would notice wrong bytes. Without peers."""

import shutil
from pathlib import Path

import pytest

from starloom.bench import BenchError, Options, kv, kv_meters
from starloom.bench.kv_meters import Case, Dram, Memcpy

SIZE = 1 << 20
SMALL = (
    Case("dram32m", SIZE, 3),
    Case("view32m", SIZE, 4, 4),
    Case("ssd1m", SIZE, 4, 2),
    Case("remote32m", SIZE, 2),
    Case("unix32m", SIZE, 2),
    Case("hash1m", 4 * kv.TOKENS, 1),
)


@pytest.fixture(scope="module")
def results():
    """One run without peers: neither their environments nor their programs are found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv, "QUICK", SMALL)
        patch.setattr(kv_meters.View, "LOOKS", 5)
        patch.setattr(kv_meters, "TOKENS", 10_000)
        patch.setattr(kv, "environment", lambda _: Path("/nowhere"))
        patch.setattr(kv.shutil, "which", lambda _: None)
        return kv.bench(Options(quick=True), lambda _: None)


def test_rows_of_our_systems(results):
    """Each case has ours, and the machine's own mark where there is one."""
    found = {(row["system"], row["case"], row["metric"]) for row in results.rows}
    both, get = {"put_gbps", "get_gbps"}, {"get_p50_us", "cpu_s_per_gb"}
    expected = {
        ("starloom", "dram32m"): both | get,
        ("memcpy", "dram32m"): both | get,
        ("starloom", "view32m"): {"put_gbps"} | get,
        ("starloom", "ssd1m"): both | get,
        ("starloom", "remote32m"): both | get,
        ("bare_tcp", "remote32m"): both | get,
        ("starloom", "unix32m"): both | get,
        ("bare_tcp", "unix32m"): both | get,
        ("starloom", "hash1m"): get,
    }
    assert found == {(*pair, metric) for pair, metrics in expected.items() for metric in metrics}
    assert all(row["value"] > 0 for row in results.rows if row["metric"] != "cpu_s_per_gb")


def test_notes_name_who_is_absent_and_what_has_no_row(results):
    notes = results.notes
    [absent] = [note for note in notes if note.startswith("absent")]
    assert all(name in absent for name in ("lmcache", "mooncake", "nixl", "fio", "redis-server"))
    assert any("a single block takes" in note for note in notes)
    assert any(note.startswith("dram32m: rate as a multiple") for note in notes)


@pytest.mark.parametrize("kind", [Memcpy, Dram])
def test_wrong_bytes_end_the_bench(kind, monkeypatch):
    """What came back is compared: a system that moves nothing does not get a figure."""
    meter = kind(Case("dram32m", SIZE, 2))
    meter.round()
    monkeypatch.setattr(kind, "get", lambda self, numbers: None)
    with pytest.raises(BenchError, match="did not come back"):
        meter.round()


def test_calls_of_a_case():
    """Batches cover all objects, the last one may be shorter."""
    assert Case("x", 1, 5, 2).calls() == [range(2), range(2, 4), range(4, 5)]


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
def test_fio_is_read(tmp_path):
    """One write and one read of the whole file, and its CPU time."""
    fio = kv_meters.Fio(Case("ssd1m", SIZE, 8, 4), tmp_path)
    found = fio.round()
    assert (len(found.put_s), len(found.get_s), found.objects) == (1, 1, 16)
    assert found.get_s[0] > 0
    fio.close()
    assert list(tmp_path.iterdir()) == []
