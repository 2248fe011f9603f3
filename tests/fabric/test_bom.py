"""Bills of material: the closed forms by hand, and the published savings beside them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.fabric import BadScenario
from starloom.fabric.bom import (
    bill,
    cheapest_kind,
    mean_switch_hops,
    non_blocking,
    pods_of_16k,
    two_tier_saving,
)
from starloom.site import Fabric

CHASSIS = {"leaf": "chassis-576x800g", "spine": "chassis-576x800g", "core": "chassis-576x800g"}


@given(st.integers(2, 64).map(lambda half: 2 * half))
def test_two_tiers_carry_half_the_square_of_the_radix(radix):
    """k^2/2 hosts, 3 switches per k hosts, 2 links and no core."""
    made = bill(non_blocking(radix, 2), **CHASSIS)
    assert made.hosts == radix**2 // 2
    assert made.devices * radix == 3 * made.hosts
    assert made.link_count == 2 * made.hosts


@given(st.integers(2, 32).map(lambda half: 2 * half))
def test_three_tiers_carry_a_quarter_of_the_cube(radix):
    """k^3/4 hosts, 5 switches per k hosts, 3 links."""
    made = bill(non_blocking(radix, 3), **CHASSIS)
    assert made.hosts == radix**3 // 4
    assert made.devices * radix == 5 * made.hosts
    assert made.link_count == 3 * made.hosts


def test_planes_are_copies():
    """Eight planes of radix 64 are 8 x the switches of one: 768, as DeepSeek's MPFT counts."""
    assert bill(non_blocking(64, 2, planes=8)).devices == 8 * 96


def test_splitting_ports_over_planes_replaces_a_tier():
    """Boxes of 64 x 800G, two planes of 400G: 128^2/2 = 8,192 hosts on two tiers."""
    split = bill(non_blocking(128, 2, planes=2, link_gbps=400))
    assert split.hosts == 8192
    assert split.devices == 2 * 192
    assert split.switch_hops == 3


def test_a_pod_of_16k_is_8_to_1():
    """512 leaves, 32 chassis; 64 PoDs are 1,048,576 ports with 8:1 between, 7 are 114,688."""
    pod = bill(pods_of_16k(1), spine="chassis-576x800g")
    assert (pod.hosts, pod.leaves, pod.spines) == (16384, 512, 32)
    million = pods_of_16k(64)
    assert million.hosts == 1_048_576
    assert million.pod_oversubscription == 8
    assert pods_of_16k(7).hosts == 114_688


def test_cores_share_a_chassis():
    """2,048 cores of 64 ports; nine fit a chassis of 576: 228."""
    made = bill(pods_of_16k(64), spine="chassis-576x800g", core="chassis-576x800g")
    assert made.cores == 2048
    assert made.core_boxes == 228


def test_what_follows_of_the_published_saving():
    """Latency by link hops and devices follow; optics and fibre fall 33 %, or 50 % with copper."""
    saving = {claim.what: claim for claim in two_tier_saving()}
    assert saving["latency (link hops)"].follows
    assert saving["devices"].ours_pct == pytest.approx(-40)
    assert saving["optics"].ours_pct == pytest.approx(-100 / 3)
    assert saving["fibre"].ours_pct == pytest.approx(-100 / 3)
    assert saving["optics, hosts on copper"].ours_pct == pytest.approx(-50)
    assert not saving["optics"].follows
    assert not saving["fibre"].follows


def test_optics_are_counted_by_ends():
    """Radix 4, two tiers, copper hosts: 8 leaf links, 16 ends, 16 fibres a link."""
    kinds = {"host": "copper", "leaf": "pluggable"}
    made = bill(non_blocking(4, 2), kinds=kinds)
    assert made.links == {"host": 8, "leaf": 8, "spine": 0}
    assert made.optics == 16
    assert made.fibres == 128
    assert made.power_w == pytest.approx(6 * 1100 + 8 * 0.2 + 8 * 32)
    assert made.failures_per_year == pytest.approx((8 * 20 + 8 * 1000) * 8766e-9)


def test_the_cheapest_kind_that_reaches():
    assert cheapest_kind(2) == "copper"
    assert cheapest_kind(50) == "cpo"
    with pytest.raises(BadScenario, match="500"):
        cheapest_kind(2000)


def test_rails_keep_equal_ranks_under_one_leaf():
    """64 nodes of 8: a rail of 64 nodes stands on two leaves of 32, a balanced leaf on 4 nodes.

    Same rail: 31 of 63 others under one leaf, 3 - 2 x 31/63; balanced: 31 of 511 others.
    """
    shape = {"hosts": 512, "hosts_per_leaf": 32, "spines": 32}
    rails = mean_switch_hops(Fabric.model_validate({**shape, "rails": 8}))
    balanced = mean_switch_hops(Fabric.model_validate(shape))
    assert rails.same_rail == pytest.approx(3 - 2 * 31 / 63)
    assert balanced.same_rail == pytest.approx(3 - 2 * 31 / 511)
    assert rails.same_rail < balanced.same_rail


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: non_blocking(7, 2), "even radix"),
        (lambda: bill(non_blocking(128, 2)), "102400 Gb/s in all, box-64x800g has 51200"),
        (lambda: bill(non_blocking(8, 2), kinds={"leaf": "copper"}), "reaches 2 m"),
        (lambda: bill(non_blocking(8, 2), kinds={"leaf": "string"}), "string"),
        (lambda: bill(non_blocking(8, 2), leaf="abacus"), "abacus"),
        (lambda: mean_switch_hops(pods_of_16k(2)), "one PoD"),
    ],
)
def test_what_cannot_be_built_is_named(make, word):
    with pytest.raises(BadScenario, match=word):
        make()
