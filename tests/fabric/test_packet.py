"""The packet core: closed forms, conservation, determinism, and the reference simulator's runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from starloom.bench.base import Options, Results
from starloom.bench.fabric import references
from starloom.fabric import Flows, Result, Scenario, Stage
from starloom.fabric.errors import TooLarge
from starloom.fabric.packet import PacketCore, Watch
from starloom.fabric.packet.memory import Memory

pytestmark = pytest.mark.timeout(600)  # cold compilation, on a machine that others use too
TWO = {"hosts": 128, "hosts_per_leaf": 16, "spines": 16}
THREE = {
    "hosts": 128,
    "tiers": 3,
    "hosts_per_leaf": 4,
    "spines": 4,
    "pods": 8,
    "cores_per_spine": 4,
}
SMALL = {"hosts": 16, "hosts_per_leaf": 4, "spines": 4}
PAUSE = {"full_queue": "pause", "ack_every_bytes": 0}


def scenario(fabric=SMALL, traffic=None, **values) -> Scenario:
    lone = [{"kind": "lone", "src": 0, "dst": fabric["hosts"] - 1, "bytes": 4_000_194}]
    base = {"name": "test", "fabric": fabric, "traffic": traffic or lone}
    return Scenario.model_validate({**base, **values})


def ran(made: Scenario, seed=1, **options) -> Result:
    return PacketCore(**options).run(made, seed)


@pytest.mark.parametrize(("fabric", "links"), [(TWO, 4), (THREE, 6)])
def test_a_lone_flow_takes_its_wire_time_and_one_round_trip(fabric, links):
    """979 packets of 4150 B at 50 GB/s, H links of 1 us each way, H-1 stored packets, an answer.

    By hand: 81.257 + 4 + 3 x 0.083 + 4 + 4 x 0.00128 = 89.511 us, and 93.680 us with six links;
    the reference simulator has 89.507 and 93.676.
    """
    by_hand = 979 * 0.083 + 2 * links + (links - 1) * 0.083 + links * 64 / 50e3
    assert by_hand == pytest.approx({4: 89.507, 6: 93.676}[links], rel=1e-4)
    found = ran(scenario(fabric, balancing="ecmp"))
    assert found.fct_us[0] == pytest.approx(by_hand, rel=1e-4)


def test_hops_are_counted_by_hand():
    """Three packets over four links; answers to the first and, as it asks, the last: 12 + 8."""
    found = ran(scenario(traffic=[{"kind": "lone", "src": 0, "dst": 15, "bytes": 3 * 4086}]))
    assert found.hops == 3 * 4 + 2 * 4
    assert found.link_bytes.sum() == 4 * (3 * 4150 + 2 * 64)


def test_a_heap_that_fills_grows(monkeypatch):
    """Timers beyond the heap's first places change nothing but the memory."""
    traffic = [{"kind": "permutation", "bytes": 200_000}]
    made = scenario(TWO, traffic, balancing="ecmp")
    usual = ran(made)
    monkeypatch.setattr("starloom.fabric.packet.memory.HEAP_ROOM", 32)
    grown = ran(made)
    assert (grown.fct_ps == usual.fct_ps).all()
    assert grown.events == usual.events


def test_packets_that_fill_a_run_s_memory_end_it(monkeypatch):
    """What no estimate foresees is refused with time, size and fix, not taken from the machine."""
    monkeypatch.setattr("starloom.fabric.packet.memory.PACKET_ROWS", 256)
    made = scenario(TWO, [{"kind": "permutation", "bytes": 200_000}], balancing="ecmp")
    begins = Memory.of(made, made.flows(1), 1).m.nbytes
    with pytest.raises(TooLarge, match="under way fill"):
        ran(made, room_bytes=begins + 1)


def test_the_last_packet_carries_the_rest():
    """5000 bytes are a full packet and one of 914 bytes and a header."""
    made = scenario(traffic=[{"kind": "lone", "src": 0, "dst": 1, "bytes": 5000}])
    found = ran(made)
    assert found.link_bytes[made.clos.host_links(0)[0]] == 4150 + 914 + 64


def test_a_run_repeats_itself_and_seeds_differ():
    """The same scenario and seed give the same bytes; another seed draws other ways."""
    made = scenario(traffic=[{"kind": "permutation", "bytes": 400_000}], balancing="ecmp")
    one, two, other = ran(made, 3), ran(made, 3), ran(made, 4)
    for name in ("fct_ps", "link_bytes", "queue_peak_bytes", "retransmitted"):
        assert (getattr(one, name) == getattr(two, name)).all()
    assert one.events == two.events
    assert (one.fct_ps != other.fct_ps).any()


BALANCING = ("ecmp", "flowlet", "spray", "reps", "bitmap", "mixed", "adaptive")
CONGESTION = ("nscc", "rccc", "dcqcn", "swift", "hpcc", "encc", "pfc")


@settings(max_examples=25, deadline=None)
@given(
    balancing=st.sampled_from(BALANCING),
    congestion=st.sampled_from(CONGESTION),
    full_queue=st.sampled_from(["trim", "drop", "pause"]),
    planes=st.integers(1, 2),
    size=st.integers(1, 60_000),
    seed=st.integers(0, 99),
)
def test_every_flow_ends_and_nothing_is_lost_unseen(
    balancing, congestion, full_queue, planes, size, seed
):
    """Whatever is chosen: all flows end, and every packet was sent, once or again, and counted."""
    made = scenario(
        {**SMALL, "planes": planes},
        [{"kind": "incast", "senders": 6, "bytes": size}, {"kind": "permutation", "bytes": size}],
        balancing=balancing,
        congestion=congestion,
        transport={"full_queue": full_queue, "queue_bdp": 0.1 if full_queue != "pause" else 1},
    )
    found = ran(made, seed)
    assert found.finished == 22
    assert (found.new_packets == -(-size // 4086)).all()
    into_hosts = found.link_bytes[made.clos.stage_of(np.arange(made.clos.links)) == 1].sum()
    payload = 22 * size + 64 * int(found.new_packets.sum())
    assert into_hosts >= payload
    if full_queue == "pause":
        assert found.link_drops.sum() == found.link_trims.sum() == 0
    if full_queue == "drop":
        assert found.link_trims.sum() == 0


def test_go_back_n_repeats_and_selective_repeat_does_not():
    """Spraying reorders: go back N takes that for loss, selective repeat sends nothing twice."""
    again = {}
    for reliability in ("selective", "go_back_n"):
        made = scenario(
            traffic=[{"kind": "permutation", "bytes": 400_000}],
            transport={**PAUSE, "reliability": reliability},
            congestion="pfc",
        )
        found = ran(made)
        assert found.finished == 16
        again[reliability] = int(found.retransmitted.sum())
    assert again["selective"] == 0
    assert again["go_back_n"] > 0


def test_pfc_holds_the_queue_below_threshold_and_headroom():
    """Each way in may hold xoff and what is under way: 2 x 1 us x 50 GB/s, and two packets."""
    xoff = 200_000
    made = scenario(
        traffic=[{"kind": "incast", "senders": 3, "bytes": 2_000_000}],
        transport={**PAUSE, "xoff_bytes": xoff, "xon_bytes": 150_000},
        congestion="pfc",
        balancing="ecmp",
    )
    found = ran(made)
    down = made.clos.host_links(0)[1]
    headroom = 2 * 50_000 + 2 * 4150
    assert xoff < found.queue_peak_bytes[down] <= 3 * (xoff + headroom)
    assert found.retransmitted.sum() == 0


def test_queues_are_seen_over_time():
    """A watched queue is read at each step; its highest reading is at most its true peak."""
    made = scenario(traffic=[{"kind": "incast", "senders": 8, "bytes": 400_000}])
    down = made.clos.host_links(0)[1]
    found = ran(made, watch=Watch(np.array([down]), every_us=0.5))
    assert (np.diff(found.samples_ps) == 500_000).all()
    seen = found.samples_bytes[:, 0].max()
    assert 0.8 * found.queue_peak_bytes[down] < seen


def test_planes_share_the_load():
    """Two planes of half the rate carry a sprayed flow at the rate of one; both are used alike."""
    one = scenario({**SMALL, "link_gbps": 400})
    two = scenario({**SMALL, "link_gbps": 200, "planes": 2})
    found = ran(two)
    up = found.link_bytes[[two.clos.host_links(0, plane)[0] for plane in (0, 1)]]
    assert up[0] == pytest.approx(up[1], rel=0.01)
    assert found.fct_us[0] == pytest.approx(ran(one).fct_us[0], rel=0.03)


def test_ecmp_keeps_a_flow_on_one_way():
    """Of a leaf's four ways up a flow's data takes one; its answers another, once."""
    made = scenario(balancing="ecmp")
    found = ran(made)
    ups = [made.clos.leaf_links(0, spine)[0] for spine in range(4)]
    assert (found.link_bytes[ups] > 0).sum() == 1


@pytest.mark.data
@pytest.mark.parametrize(
    ("run_id", "mean_pct", "max_pct"),
    [
        ("one_4MB", 0.1, 0.1),
        ("one_4MB_3tier", 0.1, 0.1),
        ("incast8_nscc", 5, 3),
        ("incast32_nscc", 5, 3),
        ("incast8_rccc", 3, 3),
        ("perm128_ls_oblivious64_s1", 5, 10),
        ("perm128_ls_ecmp_ar_s1", 5, 10),
        ("roce_one_4MB", 0.1, 0.1),
        ("roce_perm128_ar_s1_1MB", 5, 10),
    ],
)
def test_the_reference_is_met(data_dir, run_id, mean_pct, max_pct):
    """The mean of three seeds against one run of the reference, flow by flow the same traffic."""
    known = references(Options(data=data_dir / "htsim"), Results())
    run = next(one for one in known if one.run_id == run_id)
    found = [PacketCore().run_flows(run.scenario, run.flows, seed) for seed in range(3)]
    mean_us = np.mean([one.fct_us.mean() for one in found])
    assert mean_us == pytest.approx(run.mean_us, rel=mean_pct / 100)
    assert np.mean([one.makespan_us for one in found]) == pytest.approx(
        run.max_us, rel=max_pct / 100
    )


def test_tails_stand_in_the_known_order():
    """ECMP above spraying above REPS above the mixed scheme; adaptive routing is the shortest."""
    tails = {}
    for balancing in ("ecmp", "spray", "reps", "mixed", "adaptive"):
        made = scenario(TWO, [{"kind": "permutation", "bytes": 2_000_000}], balancing=balancing)
        flows = made.flows(0)
        found = [PacketCore().run_flows(made, flows, seed) for seed in (0, 1)]
        tails[balancing] = np.mean([one.makespan_us for one in found])
    assert [*tails] == sorted(tails, key=lambda name: -tails[name])


def test_links_of_other_rates_and_latencies():
    """A spine link of twice the rate and 3 us: the lone flow waits for its host's link alone."""
    fabric = {**SMALL, "leaf_up_gbps": 800, "leaf_up_us": 3.0, "switch_us": 0.5}
    made = scenario(fabric, balancing="ecmp")
    by_hand = 979 * 0.083 + 2 * (2 * 1 + 2 * 3 + 3 * 0.5) + 0.083 + 2 * 0.0415
    assert ran(made).fct_us[0] == pytest.approx(by_hand, rel=2e-4)
    assert made.clos.stage_gbps[Stage.LEAF_UP] == 800


def test_flows_may_start_late():
    """Completion counts from a flow's own start."""
    made = scenario()
    flows = Flows.of([0, 1], [4, 5], 100_000, np.array([0, 50_000_000]))
    found = PacketCore().run_flows(made, flows, 0)
    assert found.fct_us[0] == pytest.approx(found.fct_us[1], rel=0.01)
