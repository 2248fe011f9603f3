"""Paths between drives and GPUs: times by hand, limits, and what may not happen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.fabric.storage import exposed_s, load, store
from starloom.site.catalogue import storage_paths
from starloom.site.storage import Drives, StoragePath

MIB = 1 << 20


def path_of(**changes):
    """100 us on the drive, 1 GB/s drives, 80 Gb/s port, everything else free."""
    fields = {
        "name": "plain",
        "drives": Drives(count=4, read_gb_per_s=1, write_gb_per_s=1, read_us=100, write_us=50),
        "port_gbps": 80,
        "port_efficiency": 1.0,
        "one_way_us": 0,
        "host_us": 0,
        "shelf_us": 0,
        "host_cpu_us": 0,
        "shelf_cpu_us": 0,
        "depth": 1000,
        "operation_kib": 1000,
        "gpu_gb_per_s": 100,
        "staged": False,
        "source": "made up for this test",
        "verified": "no",
    }
    return StoragePath(**(fields | changes))


def test_one_operation_is_the_sum_of_its_stations():
    """1,024,000 bytes: 100 us, 1024 us from the drive at 1 GB/s, 102.4 us over 10 GB/s."""
    done = load(path_of(), 1_024_000)
    assert done.operation_s == pytest.approx(1226.4e-6)
    assert done.seconds == done.operation_s


def test_many_operations_flow_at_the_slowest_station():
    """Four drives of 1 GB/s: 11 operations take one, and ten more at 4 GB/s."""
    done = load(path_of(), 11 * 1_024_000)
    assert done.seconds == pytest.approx(1226.4e-6 + 10 * 1_024_000 / 4e9)
    assert done.limits == ("drives",)


def test_few_operations_on_their_way_are_a_limit_of_their_own():
    """Little's law: two operations of 1226.4 us each at a time give 1.67 GB/s."""
    done = load(path_of(depth=2), 1_024_000_000)
    assert done.limits == ("depth",)
    assert done.gb_per_s == pytest.approx(2 * 1.024e6 / 1226.4e-6 / 1e9)


def test_cores_are_a_limit_where_operations_are_small():
    """4 KiB at 1 us of one core: 4.1 GB/s at most, on a path that has plenty else."""
    drives = Drives(count=99, read_gb_per_s=9, write_gb_per_s=9, read_us=1, write_us=1)
    done = load(path_of(drives=drives, host_cpu_us=1, operation_kib=4), MIB)
    assert done.limits == ("host cpu",)
    assert done.gb_per_s == pytest.approx(4.096)
    assert done.host_cpu_s == pytest.approx(256e-6)


def test_replicas_and_gateways_are_paid_in_bytes():
    """A gateway carries each byte twice; three replicas add two more of each written one."""
    path = path_of(gateways=1, replicas=3)
    assert load(path, 100).wire_bytes == 200
    assert store(path, 100).wire_bytes == 400


def test_a_gpu_waits_for_what_computing_does_not_cover():
    """3 s to load beside 2 s to compute: half of it overlapped leaves 2 s, all of it 1 s."""
    assert exposed_s(3.0, 2.0, 0.5) == 2.0
    assert exposed_s([3.0, 1.0], 2.0, 1.0).tolist() == [1.0, 0.0]


def test_sizes_that_are_none_are_refused():
    """Zero, negative and missing sizes are named before anything is computed."""
    for wrong in (0, -1, float("nan"), []):
        with pytest.raises(ValueError, match="positive"):
            load(path_of(), wrong)


@given(st.lists(st.integers(512, 1 << 32), min_size=2, max_size=8), st.booleans())
def test_larger_blocks_never_come_earlier(sizes, writes):
    """On every path of the catalogue time grows with size, and no station is outrun."""
    ordered = np.sort(np.array(sizes, dtype=float))
    for path in storage_paths().values():
        done = (store if writes else load)(path, ordered)
        assert np.all(np.diff(done.seconds) >= -1e-12)
        assert np.all(ordered / done.seconds <= 1e9 * done.gb_per_s * (1 + 1e-9))


def test_the_measured_paths_come_out():
    """26.4 GiB/s into one GPU and 43.4 GiB/s over one port, as the catalogue's source measured."""
    path = storage_paths()["dpu_direct"]
    assert load(path, 1 << 34).gb_per_s == pytest.approx(26.4 * 1.0737, rel=0.01)
    wide = path.model_copy(update={"gpu_gb_per_s": 1000.0})
    assert load(wide, 1 << 34).gb_per_s == pytest.approx(43.4 * 1.0737, rel=0.01)
