"""Faults in the packet core: what breaks is felt, what is known is avoided."""

import numpy as np
import pytest

pytest.importorskip("numba")

from starloom.fabric import Result, Scenario
from starloom.fabric.packet import PacketCore

pytestmark = pytest.mark.timeout(600)  # cold compilation, on a machine that others use too
FABRIC = {"hosts": 32, "hosts_per_leaf": 8, "spines": 8}


def ran(faults, fabric=FABRIC, size=1_000_000, **values) -> Result:
    made = Scenario.model_validate(
        {
            "name": "test",
            "fabric": fabric,
            "traffic": [{"kind": "permutation", "bytes": size}],
            "faults": faults,
            "until_us": 50_000,
            **values,
        }
    )
    return PacketCore().run(made, 1)


def test_a_dead_spine_hurts_until_it_is_known():
    """Local and notified avoidance after 20 us ends far sooner than timeouts alone."""
    dead = {"kind": "switch", "tier": "spine", "index": 3, "from_us": 5}
    healthy, blind = ran([]), ran([dead], balancing="bitmap")
    aware = ran([{**dead, "detect_us": 20}], balancing="bitmap")
    assert blind.finished == aware.finished == 32
    assert blind.link_drops.sum() > aware.link_drops.sum() > 0
    assert healthy.makespan_us < aware.makespan_us < blind.makespan_us


def test_notification_reaches_the_far_leaves():
    """The way down is avoided only once far leaves know: a late word costs more packets."""
    dead = {"kind": "link", "leaf": 0, "spine": 3, "from_us": 5, "detect_us": 5}
    soon = ran([{**dead, "notify_us": 5}], balancing="adaptive")
    late = ran([{**dead, "notify_us": 200}], balancing="adaptive")
    assert soon.link_drops.sum() < late.link_drops.sum()
    assert soon.makespan_us < late.makespan_us


def test_a_flapping_link_is_used_again():
    """Down from 5 to 15 us: all flows end, and the link carries bytes after that."""
    flap = {"kind": "link", "leaf": 0, "spine": 3, "from_us": 5, "until_us": 15, "detect_us": 1}
    found, gone = ran([flap]), ran([{**flap, "until_us": None}])
    made = Scenario.model_validate(
        {"name": "t", "fabric": FABRIC, "traffic": [{"kind": "permutation", "bytes": 1}]}
    )
    up = made.clos.leaf_links(0, 3)[0]
    assert found.finished == 32
    assert found.link_bytes[up] > 1.3 * gone.link_bytes[up]


def test_a_grey_link_loses_its_share():
    """5 % of what one host sends is corrupted: within four standard deviations of that."""
    found = ran([{"kind": "link", "host": 3, "loss": 0.05}], size=2_000_000)
    made = Scenario.model_validate(
        {"name": "t", "fabric": FABRIC, "traffic": [{"kind": "permutation", "bytes": 1}]}
    )
    up, _ = made.clos.host_links(3)
    sent = found.link_bytes[up] / 4150
    expected = 0.05 * sent
    assert found.finished == 32
    assert abs(found.link_drops[up] - expected) < 4 * np.sqrt(expected) + 5
    assert found.retransmitted.sum() >= found.link_drops[up] * 0.5


def test_a_lost_plane_halves_the_rate_and_no_more():
    """After a plane dies the other carries all: about twice the time of what was left."""
    fabric = {**FABRIC, "planes": 2, "link_gbps": 200}
    both = ran([], fabric, balancing="mixed")
    one = ran([{"kind": "plane", "plane": 1, "detect_us": 0}], fabric, balancing="mixed")
    assert one.finished == 32
    assert one.makespan_us == pytest.approx(2 * both.makespan_us, rel=0.25)


def test_a_slow_spine_slows_sprayed_flows_more_than_careful_ones():
    """A spine at a quarter of its rate: the mixed scheme passes over it, blind spraying cannot."""
    slow = {"kind": "switch", "tier": "spine", "index": 0, "capacity": 0.25}
    blind, careful = ran([slow], balancing="spray"), ran([slow], balancing="mixed")
    assert careful.makespan_us < blind.makespan_us
