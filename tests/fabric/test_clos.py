"""The closed-form Clos."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from starloom.fabric import BadScenario, Clos, Stage
from starloom.site import Fabric


def small() -> Clos:
    """Two pods of two leaves of two hosts, two spines a pod, three cores a spine."""
    return Clos(
        Fabric(hosts=8, tiers=3, hosts_per_leaf=2, spines=2, pods=2, cores_per_spine=3, planes=2)
    )


def test_links_are_counted_by_stage():
    """8 host links, 4 leaves x 2 spines, 2 x 2 spines x 3 cores, each both ways, two planes."""
    clos = small()
    assert clos.stage_counts == (8, 8, 8, 8, 12, 12)
    assert clos.links == 2 * 56


def test_a_way_across_pods_by_hand():
    """Host 1 (leaf 0, pod 0) to host 6 (leaf 3, pod 1) by spine 1 and core 2."""
    clos = small()
    one = np.array([1])
    way = clos.paths(one, np.array([6]), np.array([1]), np.array([2]), np.array([0]))[0]
    assert [*way] == [1, 16 + 1, 32 + (0 + 1) * 3 + 2, 44 + (2 + 1) * 3 + 2, 24 + 3 * 2 + 1, 8 + 6]
    names = [clos.name(int(link)).removeprefix("plane 0, ") for link in way]
    assert names == [
        "host 1 > leaf 0",
        "leaf 0 > spine 1",
        "spine 1 > core 5",
        "core 5 > spine 3",
        "spine 3 > leaf 3",
        "leaf 3 > host 6",
    ]


def test_short_ways_end_early():
    """Two links under one leaf, four in one pod."""
    clos = small()
    src, dst = np.array([0, 0]), np.array([1, 3])
    none = np.zeros(2, dtype=np.int64)
    ways = clos.paths(src, dst, none, none, none + 1)
    assert ((ways >= 0).sum(axis=1) == [2, 4]).all()
    assert (clos.path_links(src, dst) == [2, 4]).all()
    assert (ways[ways >= 0] >= clos.links_per_plane).all()


@given(
    hosts_per_leaf=st.integers(1, 4),
    leaves=st.integers(1, 3),
    pods=st.integers(1, 3),
    spines=st.integers(1, 3),
    cores=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_way_is_connected(hosts_per_leaf, leaves, pods, spines, cores, seed):
    """Whatever the shape, each link of a way begins where the one before it ends."""
    hosts = hosts_per_leaf * leaves * pods
    if hosts < 2:
        return
    clos = Clos(
        Fabric(
            hosts=hosts,
            tiers=3,
            hosts_per_leaf=hosts_per_leaf,
            spines=spines,
            pods=pods,
            cores_per_spine=cores,
        )
    )
    rng = np.random.default_rng(seed)
    src, dst = rng.integers(0, hosts, 20), rng.integers(0, hosts, 20)
    j, k = rng.integers(0, spines, 20), rng.integers(0, cores, 20)
    ways = clos.paths(src, dst, j, k, np.zeros(20, dtype=np.int64))
    for way, start, end in zip(ways, src, dst, strict=True):
        ends = [clos.name(int(link)).split(", ")[1].split(" > ") for link in way if link >= 0]
        assert ends[0][0] == f"host {start}"
        assert ends[-1][1] == f"host {end}"
        assert all(left[1] == right[0] for left, right in pairwise(ends))


def test_rails_put_each_port_on_a_leaf_of_its_own():
    """Port r of nodes 0 and 1 stands on leaf r; nodes 2 and 3 begin the next group of leaves."""
    clos = Clos(Fabric(hosts=16, hosts_per_leaf=2, spines=2, rails=4))
    assert [*clos.leaf_of(np.arange(16))] == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]


def test_round_trip_of_the_reference_fabrics():
    """2 x 4 us + 4 x (4150 + 64) B at 50 GB/s = 8.33712 us; with six links 12.50568 us."""
    two = Clos(Fabric(hosts=128, hosts_per_leaf=16, spines=16))
    three = Clos(Fabric(hosts=128, tiers=3, hosts_per_leaf=4, spines=4, pods=8, cores_per_spine=4))
    assert two.base_rtt_ps(4150, 64) == 8_337_120
    assert three.base_rtt_ps(4150, 64) == 12_505_680


def test_a_million_hosts_cost_nothing():
    """64 pods of 16,384: 2 x (1,048,576 + 1,048,576/32 x 32 + 64 x 32 x 64) links, no arrays."""
    clos = Clos(
        Fabric(hosts=1 << 20, tiers=3, hosts_per_leaf=32, spines=32, pods=64, cores_per_spine=64)
    )
    assert clos.links == 2 * ((1 << 20) + (1 << 20) + 64 * 32 * 64)
    far = clos.paths(*(np.array([value]) for value in (0, (1 << 20) - 1, 31, 63, 0)))
    assert far.shape == (1, 6)
    assert clos.fabric.pod_oversubscription == 8.0


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"hosts": 100, "hosts_per_leaf": 16, "spines": 4}, "do not fill leaves"),
        ({"hosts": 32, "hosts_per_leaf": 16}, "disconnected"),
        ({"hosts": 32, "hosts_per_leaf": 16, "tiers": 1}, "disconnected"),
        ({"hosts": 32, "hosts_per_leaf": 16, "spines": 2, "pods": 2}, "disconnected"),
        ({"hosts": 32, "hosts_per_leaf": 16, "spines": 2, "tiers": 3}, "no core switches"),
        ({"hosts": 256, "hosts_per_leaf": 48, "spines": 32}, "do not fill"),
        ({"hosts": 96, "hosts_per_leaf": 48, "spines": 32, "radix": 64}, "a leaf needs 80 ports"),
        ({"hosts": 96, "hosts_per_leaf": 1, "spines": 1, "radix": 64}, "a spine needs 96 ports"),
        ({"hosts": 32, "hosts_per_leaf": 8, "spines": 4, "rails": 3}, "rails"),
        ({"hosts": -4, "hosts_per_leaf": 8, "spines": 4}, "greater than or equal to 2"),
        ({"hosts": 1 << 30, "hosts_per_leaf": 8, "spines": 4}, "less than or equal"),
    ],
)
def test_what_cannot_be_built_is_refused(values, what):
    """Impossible radix, disconnected parts and negative sizes never become arrays."""
    with pytest.raises(ValidationError, match=what):
        Fabric(**values)


def test_parts_that_do_not_exist_are_named():
    """A fault or a watch on a part that is not there says how many there are."""
    with pytest.raises(BadScenario, match=r"spine 2 does not exist: there are 2"):
        small().leaf_links(0, 2)


def test_stages_by_link():
    """`stage_of` is the inverse of the numbering, in every plane."""
    clos = small()
    stages = clos.stage_of(np.arange(clos.links))
    assert [*np.bincount(stages)] == [16, 16, 16, 16, 24, 24]
    assert stages[clos.links_per_plane] == Stage.HOST_UP
