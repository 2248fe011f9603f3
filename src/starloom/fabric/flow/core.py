"""The flow core: a scenario as a fluid. Rates are max-min fair at every moment; queues are empty.

It answers in milliseconds what the packet core answers in minutes, and leaves out what a fluid has
not: start-up, queueing, retransmission, the congestion control's own share. `bridge.py` fits those
on packet runs. Loss and the congestion control of a scenario are ignored here.
"""

import time
from functools import cache

import numpy as np
from numpy.typing import NDArray

from starloom.fabric.base import PS_PER_US, Flows, Result, Told
from starloom.fabric.clos import Clos, Floats, Ints, Stage
from starloom.fabric.errors import TooLarge
from starloom.fabric.faults import Change, Changes
from starloom.fabric.flow.classes import Classes, classes
from starloom.fabric.flow.events import advance
from starloom.fabric.flow.routes import SPRAYED, Routes, drawn, sprayed
from starloom.fabric.scenario import Scenario, Transport

BYTES_PER_FLOW = 400
"""What one flow takes while routes and classes are made; measured with a million."""
BYTES_PER_LINK = 40


def silent(share: float, word: str) -> None:
    """Progress for nobody."""
    del share, word


class FlowCore:
    """One run of a scenario as a fluid; deterministic in (scenario, seed).

    `slack`: flows that end within this share of the elapsed time leave together, each at the time
    that its own rate gives. By default 0 to 2,000 flows, then 0.2 %, from 50,000 on 1 %.
    """

    name = "flow"

    def __init__(self, *, slack: float | None = None, max_gib: float = 8.0) -> None:
        self._slack = None if slack is None else float(slack)
        self._max_gib = max_gib

    def run(self, scenario: Scenario, seed: int, told: Told = silent) -> Result:
        """Raises `TooLarge` before it takes memory."""
        self._fits(scenario.flow_count, scenario.clos)
        return self.run_flows(scenario, scenario.flows(seed), seed, told)

    def run_flows(self, scenario: Scenario, flows: Flows, seed: int, told: Told = silent) -> Result:
        """As `run`, with flows that are given; the seed draws ways."""
        clos = scenario.clos
        flows.check(clos)
        self._fits(len(flows), clos)
        _compiled()
        began = time.process_time()
        run = _Run(clos, flows, scenario, np.random.default_rng([seed, 0x5EED]))
        changes = scenario.changes()
        solves = run.until(changes, scenario.until_us, self._window(len(flows)), told)
        fct = np.where(run.end_us >= 0, run.end_us - run.begin_us + run.extra_us, -1.0)
        return Result(
            core=self.name,
            fct_ps=np.where(fct >= 0, np.rint(fct * PS_PER_US), -1).astype(np.int64),
            link_bytes=np.rint(run.link_bytes).astype(np.int64),
            end_ps=round(run.now_us * PS_PER_US),
            cpu_s=time.process_time() - began,
            events=solves,
        )

    def _window(self, flows: int) -> float:
        if self._slack is not None:
            return self._slack
        return 0.0 if flows <= 2_000 else 0.002 if flows <= 50_000 else 0.01

    def _fits(self, flows: int, clos: Clos) -> None:
        gib = (flows * BYTES_PER_FLOW + clos.links * BYTES_PER_LINK) / 2**30
        if gib > self._max_gib:
            what = f"{flows:,} flows over {clos.links:,} links need about {gib:.1f} GiB"
            raise TooLarge(f"{what}; {self._max_gib:g} may be used: cut flows or raise max_gib")


def wire_bytes(payload_bytes: Ints, transport: Transport) -> Floats:
    """On the wire: whole packets, as the transport sends them."""
    packets = -(-payload_bytes // transport.payload_bytes)
    return (packets * transport.wire_bytes).astype(np.float64)


def lone_extra_us(clos: Clos, flows: Flows, transport: Transport) -> Floats:
    """What an unloaded flow takes beyond its bytes at the host's rate: there and back again.

    H links of a way: 2 x latency, the last packet stored and forwarded H-1 times, one
    acknowledgement over H links.
    """
    latency_us = np.array(clos.stage_latency_ps) / PS_PER_US
    pairs = [latency_us[low] + latency_us[low + 1] for low in (Stage.HOST_UP, Stage.LEAF_UP, 4)]
    packet_us = transport.wire_bytes * 8e-3 / clos.fabric.link_gbps
    ack_us = transport.ack_bytes * 8e-3 / clos.fabric.link_gbps
    by_links = np.zeros(7)
    for hops in (2, 4, 6):
        one_way = sum(pairs[: hops // 2])
        by_links[hops] = 2 * one_way + (hops - 1) * packet_us + hops * ack_us
    return by_links[clos.path_links(flows.src, flows.dst)]


class _Run:
    """The state between two changes of the fabric."""

    def __init__(
        self, clos: Clos, flows: Flows, scenario: Scenario, rng: np.random.Generator
    ) -> None:
        self._clos = clos
        self._flows = flows
        self._spray = scenario.balancing in SPRAYED
        self._rng = rng
        self._share = np.ones(clos.links)
        self._avoided = np.zeros(clos.links, dtype=bool)
        self.begin_us = flows.start_ps / PS_PER_US
        self.left = wire_bytes(flows.payload_bytes, scenario.transport)
        self.extra_us = lone_extra_us(clos, flows, scenario.transport)
        self.end_us = np.full(len(flows), -1.0)
        self.link_bytes = np.zeros(clos.links)
        self.now_us = 0.0
        self._routes = self._route()

    def _route(self) -> Routes:
        if self._spray:
            usable = np.where(self._avoided, 0.0, self._share)
            return sprayed(self._clos, self._flows, usable)
        avoided = np.flatnonzero(self._avoided)
        return drawn(self._clos, self._flows, self._rng, self._share, avoided)

    def until(self, changes: Changes, until_us: float, slack: float, told: Told) -> int:
        """Run to the end, from change to change; returns the number of solves."""
        at_us = changes.at_ps / PS_PER_US
        stops = [*np.unique(at_us[at_us < until_us]), until_us]
        solves = 0
        for stop in stops:
            solves += self._segment(float(stop), slack)
            told(float((self.end_us >= 0).mean()), "flows ended")
            if (self.end_us >= 0).all():
                break
            self._apply(changes, at_us == stop)
        return solves

    def _apply(self, changes: Changes, now: NDArray[np.bool_]) -> None:
        rerouted = False
        for at in np.flatnonzero(now):
            link, value = changes.link[at], changes.value[at]
            if changes.what[at] == Change.CAPACITY:
                self._share[link] = value
            elif changes.what[at] == Change.AVOIDED:
                self._avoided[link] = value > 0
                rerouted = True
        if self._spray or rerouted:
            kept = self._routes
            self._routes = self._route()
            if not self._spray:
                self._routes = self._only_where_avoided(kept)
        elif now.any():
            capacity = self._clos.gbps() * self._share
            self._routes = Routes(self._routes.starts, self._routes.links, capacity)

    def _only_where_avoided(self, kept: Routes) -> Routes:
        """Flows whose old way crosses nothing that is avoided stay on it."""
        bad = self._avoided[kept.links]
        moved = np.zeros(len(self._flows), dtype=bool)
        owner = np.repeat(np.arange(len(self._flows)), np.diff(kept.starts))
        moved[owner[bad]] = True
        # Every way of one flow has the same number of links, so that paths can be exchanged.
        which = np.repeat(moved, np.diff(kept.starts))
        links = np.where(which, self._routes.links, kept.links)
        return Routes(kept.starts, links, self._routes.capacity_gbps)

    def _segment(self, stop_us: float, slack: float) -> int:
        """From now to `stop_us`, with the fabric as it is."""
        open_ = np.flatnonzero(self.end_us < 0)
        routes = _part(self._routes, open_)
        group = classes(routes, self.left[open_], self.begin_us[open_])
        before = group.left.copy()
        end, now, solves = _advance(group, self.now_us, stop_us, slack)
        moved = (before - group.left)[group.of_flow]
        self.link_bytes += routes.link_bytes(self._clos, moved)
        self.left[open_] -= moved
        self.end_us[open_] = end[group.of_flow]
        self.now_us = now
        return solves


def _advance(
    group: Classes, now_us: float, stop_us: float, slack: float
) -> tuple[Floats, float, int]:
    """Times at which classes ended (-1: not yet), the time reached, and solves."""
    count = len(group)
    end = np.full(count, -1.0)
    now, solves = advance(
        group.starts,
        group.links,
        group.weight,
        group.cap,
        group.cap_order,
        group.capacity,
        group.begin,
        np.argsort(group.begin, kind="stable"),
        group.left,
        np.zeros(count),
        end,
        np.array([0, 0, count]),
        np.zeros(count, dtype=np.int64),
        now_us,
        stop_us,
        slack,
    )
    return end, float(now), int(solves)


@cache
def _compiled() -> None:
    """Compile, or load what was compiled, once a process: `cpu_s` is without it."""
    way = Routes(np.array([0, 1]), np.zeros(1, dtype=np.int32), np.ones(1))
    _advance(classes(way, np.ones(1), np.zeros(1)), 0.0, 1.0, 0.0)


def _part(routes: Routes, flows: Ints) -> Routes:
    """The routes of some flows, which keep their order."""
    if len(flows) == len(routes.starts) - 1:
        return routes
    lengths = np.diff(routes.starts)
    keep = np.zeros(len(lengths), dtype=bool)
    keep[flows] = True
    starts = np.concatenate([[0], np.cumsum(lengths[flows])])
    links = routes.links[np.repeat(keep, lengths)]
    return Routes(starts, links, routes.capacity_gbps, routes.widths)
