"""The flow core: max-min rates against a plain-Python oracle, events by hand, the bridge."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.fabric import BadScenario, Clos, Flows, Result, Scenario, TooLarge
from starloom.fabric.flow import FlowCore
from starloom.fabric.flow.bridge import Bridge, Sample, leave_one_out, packet_samples
from starloom.fabric.flow.classes import classes
from starloom.fabric.flow.maxmin import fill
from starloom.fabric.flow.routes import drawn, sprayed
from starloom.site import Fabric

SMALL = {"hosts": 16, "hosts_per_leaf": 4, "spines": 4}
LS128 = {"hosts": 128, "hosts_per_leaf": 16, "spines": 16}
FT128 = {
    "hosts": 128,
    "tiers": 3,
    "hosts_per_leaf": 4,
    "spines": 4,
    "pods": 8,
    "cores_per_spine": 4,
}


def scenario(traffic, *, fabric=None, balancing="spray", **more) -> Scenario:
    parts = traffic if isinstance(traffic, list) else [traffic]
    data = {"name": "t", "fabric": fabric or SMALL, "traffic": parts, "balancing": balancing}
    return Scenario.model_validate({**data, **more})


def lone(src, dst, size=4_086_000, **more) -> dict:
    return {"kind": "lone", "src": src, "dst": dst, "bytes": size, **more}


def rates(paths, capacity, weight=None, cap=None):
    """`fill` on lists."""
    n = len(paths)
    starts = np.concatenate([[0], np.cumsum([len(path) for path in paths])]).astype(np.int64)
    links = np.array([link for path in paths for link in path], dtype=np.int32)
    weight = np.ones(n) if weight is None else np.array(weight, dtype=np.float64)
    cap = np.full(n, np.inf) if cap is None else np.array(cap, dtype=np.float64)
    bounded = np.flatnonzero(np.isfinite(cap))
    order = bounded[np.argsort(cap[bounded], kind="stable")]
    found = np.full(n, -1.0)
    room = np.array(capacity, dtype=np.float64)
    fill(starts, links, weight, cap, order, room, np.arange(n), n, found)
    return found


def oracle(paths, capacity, weight, cap):
    """Textbook progressive filling: raise all by the least step, freeze, repeat."""
    rate = [0.0] * len(paths)
    growing = set(range(len(paths)))
    left = list(capacity)
    while growing:
        steps = [cap[f] - rate[f] for f in growing]
        for link, room in enumerate(left):
            load = sum(weight[f] * paths[f].count(link) for f in growing)
            if load:
                steps.append(room / load)
        step = min(steps)
        for f in growing:
            rate[f] += step
            for link in paths[f]:
                left[link] -= step * weight[f]
        full = {link for link, room in enumerate(left) if room <= 1e-9 * capacity[link]}
        growing -= {f for f in growing if rate[f] >= cap[f] - 1e-12 or full.intersection(paths[f])}
    return rate


@st.composite
def networks(draw):
    links = draw(st.integers(1, 6))
    capacity = draw(st.lists(st.integers(1, 20), min_size=links, max_size=links))
    path = st.lists(st.integers(0, links - 1), min_size=1, max_size=links, unique=True)
    paths = draw(st.lists(path, min_size=1, max_size=12))
    weight = draw(st.lists(st.integers(1, 4), min_size=len(paths), max_size=len(paths)))
    some = st.one_of(st.just(float("inf")), st.floats(0.01, 10))
    cap = draw(st.lists(some, min_size=len(paths), max_size=len(paths)))
    return paths, [float(c) for c in capacity], weight, cap


class TestMaxMin:
    def test_a_parking_lot(self):
        """One flow over both links, one on each: 1/2, 1/2 of the first, the rest of the second."""
        assert rates([[0, 1], [0], [1]], [1, 2]).tolist() == [0.5, 0.5, 1.5]

    def test_five_flows_by_hand(self):
        """Unit links: the first fills at 1/3 with three flows, the second at 2/3, the last at 1."""
        paths = [[0], [0, 1], [0], [1, 2], [3]]
        assert rates(paths, [1, 1, 1, 1]) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2 / 3, 1])

    def test_weights_are_so_many_flows(self):
        """Three flows in one class beside a single one: a quarter each."""
        assert rates([[0], [0]], [1], weight=[3, 1]).tolist() == [0.25, 0.25]

    def test_a_cap_leaves_room_for_others(self):
        assert rates([[0], [0]], [1], cap=[0.2, np.inf]) == pytest.approx([0.2, 0.8])

    def test_without_links_a_flow_gets_its_cap(self):
        assert rates([[], [0]], [1], cap=[7, np.inf]) == pytest.approx([7, 1])

    @settings(max_examples=80)
    @given(networks())
    def test_equals_the_oracle(self, network):
        found = rates(network[0], network[1], network[2], network[3])
        assert found == pytest.approx(oracle(*network), rel=1e-6)

    @settings(max_examples=40)
    @given(networks())
    def test_every_flow_has_a_bottleneck(self, network):
        """No link is over its capacity, and each flow is at its cap or fastest on a full link."""
        paths, capacity, weight, cap = network
        found = rates(paths, capacity, weight, cap)
        load = np.zeros(len(capacity))
        for path, rate, heavy in zip(paths, found, weight, strict=True):
            load[path] += rate * heavy
        assert (load <= np.array(capacity) * (1 + 1e-9)).all()
        for path, rate, most in zip(paths, found, cap, strict=True):
            tight = [
                load[link] >= capacity[link] * (1 - 1e-9)
                and all(
                    rate >= other * (1 - 1e-9)
                    for p, other in zip(paths, found, strict=True)
                    if link in p
                )
                for link in path
            ]
            assert rate == pytest.approx(most) or any(tight)


class TestClasses:
    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=25, deadline=None)
    def test_grouping_changes_no_time(self, seed):
        """A drawn set of flows with repeats: each ends when it ends ungrouped."""
        rng = np.random.default_rng(seed)
        clos = Clos(Fabric.model_validate(SMALL))
        src = np.repeat(rng.integers(0, 16, 10), 3)
        dst = (src + np.repeat(rng.integers(1, 16, 10), 3)) % 16
        flows = Flows.of(src, dst, 1000)
        routes = sprayed(clos, flows, np.ones(clos.links))
        group = classes(routes, np.full(30, 1e6), np.zeros(30))
        assert group.weight.sum() == 30
        assert len(group) <= 10
        bytes_per_us = routes.capacity_gbps * 125
        paths = [routes.links[routes.starts[f] : routes.starts[f + 1]].tolist() for f in range(30)]
        whole = rates(paths, bytes_per_us)
        found = np.full(len(group), -1.0)
        every = np.arange(len(group))
        fill(
            group.starts,
            group.links,
            group.weight,
            group.cap,
            group.cap_order,
            group.capacity,
            every,
            len(group),
            found,
        )
        assert found[group.of_flow] == pytest.approx(whole)


class TestRoutes:
    def test_drawn_ways_are_the_closs_own(self):
        """A way of ECMP has the links that the Clos names for some spine."""
        clos = Clos(Fabric.model_validate(FT128))
        flows = Flows.of(np.arange(127), np.arange(1, 128), 1000)
        routes = drawn(clos, flows, np.random.default_rng(0), np.ones(clos.links), np.empty(0, int))
        lengths = np.diff(routes.starts)
        assert lengths.tolist() == clos.path_links(flows.src, flows.dst).tolist()
        assert (clos.stage_of(routes.links[routes.starts[:-1]]) == 0).all()

    def test_avoided_links_are_drawn_around(self):
        clos = Clos(Fabric.model_validate(SMALL))
        flows = Flows.of(np.arange(4), np.arange(4, 8), 1000)
        avoided = np.array([clos.leaf_links(0, spine)[0] for spine in range(3)])
        routes = drawn(clos, flows, np.random.default_rng(0), np.ones(clos.links), avoided)
        assert not np.isin(routes.links, avoided).any()

    def test_a_million_hosts_need_thousands_of_trunks(self):
        """1,024 leaves: 2 x 1,024 trunks beside the hosts' own links, and none per spine."""
        fabric = {"hosts": 1 << 20, "hosts_per_leaf": 1024, "spines": 1024}
        clos = Clos(Fabric.model_validate(fabric))
        routes = sprayed(clos, Flows.of(np.array([0]), np.array([5000]), 1), np.ones(clos.links))
        assert len(routes.capacity_gbps) == 2 * (1 << 20) + 2 * 1024


class TestEvents:
    def test_a_lone_flow(self):
        """4 MB over 4 links of 1 us: 81.257 us on the wire and 8.254 of way: 89.511 us."""
        run = FlowCore().run(scenario(lone(0, 127, 4_000_194), fabric=LS128), 0)
        assert run.fct_us[0] == pytest.approx(89.511, abs=1e-3)

    def test_two_into_one_share_and_the_longer_goes_on_alone(self):
        """1,000 and 3,000 packets into one host: 2 x 1,000 together, then 2,000 alone."""
        packet_us = 4150 * 8e-3 / 400
        parts = [lone(0, 15, 4_086_000), lone(1, 15, 3 * 4_086_000)]
        times = FlowCore().run(scenario(parts), 0).fct_us
        way = times[0] - 2000 * packet_us
        assert 8 < way < 9
        assert times[1] - way == pytest.approx(4000 * packet_us)

    def test_a_late_start_counts_from_itself(self):
        """The second flow comes when the first is half done; both then have half the link."""
        alone = 1000 * 4150 * 8e-3 / 400
        parts = [lone(0, 15), lone(1, 15, start_us=alone / 2)]
        times = FlowCore().run(scenario(parts), 0).fct_us
        way = FlowCore().run(scenario(lone(0, 15)), 0).fct_us[0] - alone
        assert times - way == pytest.approx([1.5 * alone, 1.5 * alone], rel=1e-6)

    def test_an_outage_is_waited_out(self):
        """The only host link is down for 50 us: the flow ends 50 us later."""
        fault = {"kind": "link", "host": 15, "from_us": 20, "until_us": 70}
        plain = FlowCore().run(scenario(lone(0, 15)), 0).fct_us[0]
        held = FlowCore().run(scenario(lone(0, 15), faults=[fault]), 0).fct_us[0]
        assert held == pytest.approx(plain + 50)

    def test_a_flow_that_never_gets_through_is_told(self):
        fault = {"kind": "link", "host": 15, "from_us": 20}
        run = FlowCore().run(scenario(lone(0, 15), faults=[fault], until_us=1000), 0)
        assert run.fct_ps.tolist() == [-1]
        assert run.finished == 0

    @pytest.mark.parametrize("balancing", ["ecmp", "spray"])
    def test_ways_that_are_known_dead_are_left(self, balancing):
        """Three of four spines die at 10 us: 10 of 83 us at full rate, the rest at a quarter."""
        faults = [
            {"kind": "switch", "tier": "spine", "index": s, "from_us": 10, "detect_us": 0}
            for s in range(3)
        ]
        parts = [lone(h, 15 - h) for h in range(4)]
        run = FlowCore().run(scenario(parts, balancing=balancing, faults=faults), 0)
        assert run.finished == 4
        assert run.makespan_us >= 10 + 4 * 73 + 8.2

    def test_two_planes_carry_twice(self):
        one = FlowCore().run(scenario(lone(0, 15)), 0).fct_us[0]
        two = FlowCore().run(scenario(lone(0, 15), fabric={**SMALL, "planes": 2}), 0).fct_us[0]
        assert one - two == pytest.approx(41.5)

    def test_oversubscription_binds_the_trunk(self):
        """16 hosts of a leaf over 2 uplinks: 8 x 20.335 us for 1 MB, if all leave the leaf."""
        fabric = {"hosts": 32, "hosts_per_leaf": 16, "spines": 2}
        parts = [lone(h, 16 + h, 1_001_070) for h in range(16)]
        run = FlowCore().run(scenario(parts, fabric=fabric), 0)
        assert run.fct_us.max() == pytest.approx(8 * 20.335 + 8.25, abs=0.02)


class TestCore:
    def test_bytes_are_conserved(self):
        """What leaves hosts reaches hosts, and the trunks carry what crosses leaves."""
        for balancing in ("ecmp", "spray"):
            run_of = scenario({"kind": "permutation", "bytes": 4086}, balancing=balancing)
            run, clos = FlowCore().run(run_of, 3), run_of.clos
            flows = run_of.flows(3)
            crossing = (clos.leaf_of(flows.src) != clos.leaf_of(flows.dst)).sum()
            stage = np.bincount(clos.stage_of(np.arange(clos.links)), weights=run.link_bytes)
            assert stage[:2].tolist() == [16 * 4150, 16 * 4150]
            assert stage[2:4] == pytest.approx(crossing * 4150, rel=1e-3)

    def test_the_same_seed_gives_the_same_bytes(self):
        case = scenario({"kind": "permutation", "bytes": 1 << 20}, balancing="ecmp", fabric=LS128)
        one, two = (FlowCore().run(case, 7) for _ in range(2))
        assert one.fct_ps.tobytes() == two.fct_ps.tobytes()
        assert FlowCore().run(case, 8).fct_ps.tobytes() != one.fct_ps.tobytes()

    def test_slack_errs_by_no_more_than_it_says(self):
        case = scenario({"kind": "permutation", "bytes": 4 << 20}, balancing="ecmp", fabric=LS128)
        exact, fast = FlowCore(slack=0).run(case, 1), FlowCore(slack=0.01).run(case, 1)
        assert fast.events <= exact.events
        assert fast.fct_us == pytest.approx(exact.fct_us, rel=0.02)

    @pytest.mark.parametrize(
        ("hosts", "leaf", "mark", "draws"), [(128, 16, 0.6, 60), (1024, 32, 0.527, 6)]
    )
    def test_ecmp_reaches_half_to_60_pct_of_line_rate(self, hosts, leaf, mark, draws):
        """A permutation under random hashing: the mean rate over draws."""
        clos = Clos(Fabric(hosts=hosts, hosts_per_leaf=leaf, spines=leaf))
        means = []
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            order = rng.permutation(hosts)
            flows = Flows.of(order, np.roll(order, 1), 1)
            routes = drawn(clos, flows, rng, np.ones(clos.links), np.empty(0, int))
            paths = np.split(routes.links, routes.starts[1:-1])
            means.append(rates([p.tolist() for p in paths], np.ones(clos.links)).mean())
        assert np.mean(means) == pytest.approx(mark, rel=0.03)

    def test_too_much_is_refused_before_it_is_made(self):
        case = scenario({"kind": "permutation", "bytes": 1}, fabric=LS128)
        with pytest.raises(TooLarge, match="max_gib"):
            FlowCore(max_gib=1e-6).run(case, 0)

    def test_an_all_to_all_of_256_hosts(self):
        """65,280 flows, sprayed: each host sends 255 x 4,150 B at 400 Gb/s and all end together."""
        fabric = {"hosts": 256, "hosts_per_leaf": 16, "spines": 16}
        run = FlowCore().run(scenario({"kind": "all_to_all", "bytes": 4086}, fabric=fabric), 0)
        assert run.fct_us.max() == pytest.approx(255 * 4150 * 8e-3 / 400 + 8.25, abs=0.1)
        assert run.cpu_s < 5


class TestBridge:
    KEY = ("spray", "nscc")

    def samples(self, rng) -> list[Sample]:
        """Packet runs made up by the form itself, of three sizes."""
        found = []
        for at, size in enumerate((1 << 20, 4 << 20, 8 << 20)):
            case = scenario({"kind": "permutation", "bytes": size}, fabric=LS128, name=f"s{at}")
            flows = case.flows(0)
            fluid = Sample.of(case, flows, FlowCore().run(case, 0).fct_us)
            true = np.array([0.1, 0, 0, 0.4, 0, 0, 0.05, 0, 0.1])
            times = fluid.fluid_us + fluid.terms @ true + rng.normal(0, 0.01)
            found.append(Sample.of(case, flows, times))
        return found

    def test_it_finds_what_was_put_in_and_carries_over(self):
        """Errors below 1 % on runs that it did not see, from 10 % and more."""
        samples = self.samples(np.random.default_rng(0))
        raw = [abs(sample.error(sample.fluid_us)[0]) for sample in samples]
        left_out = leave_one_out(samples)
        assert min(raw) > 8
        assert len(left_out) == 3
        assert all(abs(error) < 1 for errors in left_out.values() for error in errors[:1])

    def test_a_result_is_corrected_in_the_fluids_order(self):
        samples = self.samples(np.random.default_rng(0))
        bridge = Bridge.fit(samples)
        case = scenario({"kind": "permutation", "bytes": 2 << 20}, fabric=LS128)
        plain = FlowCore().run(case, 0)
        better = bridge.corrected(case, 0, plain)
        assert better.fct_us.mean() > 1.05 * plain.fct_us.mean()
        slowest = np.argsort(plain.fct_ps)
        assert (np.diff(better.fct_ps[slowest]) >= -1).all() or len(set(plain.fct_ps)) < 128

    def test_what_it_was_not_fitted_for_is_refused(self):
        case = scenario(lone(0, 15), balancing="reps")
        with pytest.raises(BadScenario, match="reps/nscc"):
            Bridge.fit(self.samples(np.random.default_rng(0))).corrected(
                case, 0, FlowCore().run(case, 0)
            )

    def test_runs_that_did_not_end_are_refused(self):
        case = scenario({"kind": "permutation", "bytes": 4086})

        def unfinished(one: Scenario, seed: int) -> Result:
            run = FlowCore().run(one, seed)
            run.fct_ps[0] = -1
            return run

        with pytest.raises(BadScenario, match="not every flow ended"):
            packet_samples([case], unfinished)


@pytest.mark.data
class TestAgainstPackets:
    @pytest.mark.parametrize(
        "run_id",
        [
            "perm128_ls_ecmp_s1",
            "perm128_ls_ecmp_s2",
            "perm128_ft_ecmp_s1",
            "perm1024_ls_ecmp_s1_1MB",
        ],
    )
    def test_ecmp_means_within_6_pct(self, data_dir: Path, run_id):
        """A packet simulator's permutations, over 16 hash draws."""
        folder = data_dir / "htsim"
        with (folder / "htsim_runs.csv").open() as file:
            run = next(row for row in csv.DictReader(file) if row["run_id"] == run_id)
        fabric = FT128 if "_ft_" in run_id else LS128
        if "1024" in run_id:
            fabric = {"hosts": 1024, "hosts_per_leaf": 32, "spines": 32}
        traffic = {
            "kind": "listed",
            "csv": "htsim_fct.csv",
            "run_id": run_id,
            "bytes": int(run["payload_bytes_per_flow"]),
        }
        case = scenario(traffic, fabric=fabric, balancing="ecmp", base=folder)
        mean = np.mean([FlowCore().run(case, seed).fct_us.mean() for seed in range(16)])
        assert mean == pytest.approx(float(run["fct_mean_us"]), rel=0.06)
