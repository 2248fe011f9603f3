"""Data parallelism across sites, step by step: chunks around a ring, and sums between sites.

Nothing here is fitted to the calibrated mode. What a flow over a border gets comes from the
fabric's flow core: all flows of one step at once over the line, max-min fair, with others'
background load. Light goes both ways on a pair of fibres, so each direction has the line's whole
capacity; the source's arithmetic counts both directions' flows against one.
Who waits for whom comes from the collective's own dependencies.

Assumed: every GPU has a port of its own (`nic_gbps`); a hop within a site takes 10 us; gradients of
bucket k of B are ready when k / B of the last microbatch's backward pass is done (two thirds of its
time); a rank begins a bucket when its last one is complete, as NCCL's kernels do.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from starloom.fabric import Flows, Scenario
from starloom.fabric.flow import FlowCore
from starloom.plan.across.article import gradient_bytes, t_batch_s, t_cal_s
from starloom.plan.across.base import Across, ring_crossings

Array = NDArray[np.float64]
HOP_S = 10e-6
_SPINES = 8
_GENEROUS = 64
"""Ways up of a site, so that no leaf is narrower than its hosts."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """One strategy, simulated."""

    step_s: float
    at_zero_km_s: float
    """The same over a line without length: what bandwidth alone costs is in both."""
    one_site_s: float
    """The same in one site, every flow at its port's rate."""

    @property
    def loss_pct(self) -> float:
        """What distance takes: comparable with the formula's latency loss."""
        return 100 * (1 - self.at_zero_km_s / self.step_s)

    @property
    def whole_loss_pct(self) -> float:
        """What being apart takes, the line's bandwidth included."""
        return 100 * (1 - self.one_site_s / self.step_s)


def simulate_ring(run: Across) -> Simulated:
    """Ring all-reduce over all replicas, bucket after bucket."""
    near = run.at_km(0.0)
    return Simulated(
        _ring_step(run, _border_s(run, run.replica_gpus, _chunk_bytes(run))),
        _ring_step(near, _border_s(run, run.replica_gpus, _chunk_bytes(run)), no_distance=True),
        _ring_step(near, _port_s(run, _chunk_bytes(run)), no_distance=True),
    )


def simulate_hierarchical(run: Across) -> Simulated:
    """Sums within sites, a ring of sites over shards, and back; all GPUs cross at once."""
    holders = min(run.replicas)
    sites = len(run.sites)
    shard = gradient_bytes(run) / run.buckets / holders / sites
    border = _border_s(run, holders * run.replica_gpus, shard)
    delay = ring_crossings(run).longest_s
    return Simulated(
        *(
            _hierarchical_step(run, crossing, latency)
            for crossing, latency in (
                (border, delay),
                (border, 0.0),
                (_port_s(run, shard), 0.0),
            )
        )
    )


def simulate_local(run: Across) -> Simulated:
    """One hierarchical exchange between sites in `local_steps` steps; mean step."""
    every = simulate_hierarchical(run)
    compute = t_cal_s(run)

    def mean(step_s: float) -> float:
        return compute + (step_s - compute) / run.local_steps

    return Simulated(mean(every.step_s), mean(every.at_zero_km_s), mean(every.one_site_s))


def _ring_step(run: Across, border_s: float, *, no_distance: bool = False) -> float:
    """Time of one step: compute, then what of the all-reduces comes after it.

    `send[i]`: chunk time of the edge behind replica i; `delay[i]`: what light takes on it.
    """
    replicas = run.data
    send = np.full(replicas, _port_s(run, _chunk_bytes(run)))
    delay = np.full(replicas, HOP_S)
    edges = np.cumsum(run.replicas) - 1
    send[edges] = border_s
    if not no_distance:
        delay[edges] += np.array(ring_crossings(run).one_way_s)
    done = np.zeros(replicas)
    for ready in _ready_s(run):
        done = all_reduce(np.maximum(done, ready), send, delay)
    return float(done.max())


def all_reduce(start: Array, send: Array, delay: Array) -> Array:
    """When each rank has finished: 2 (d - 1) steps; rank i sends to i + 1.

    A rank sends in step k what came in step k - 1, when its port is free again.
    """
    have, free = start.copy(), start.copy()
    for _ in range(2 * (len(start) - 1)):
        begin = np.maximum(have, free)
        free = begin + send
        have = np.roll(free + delay, 1)
    return np.maximum(have, free)


def _hierarchical_step(run: Across, border_s: float, delay_s: float) -> float:
    within = max(
        2 * (count - 1) * (_port_s(run, gradient_bytes(run) / run.buckets / count) + HOP_S)
        for count in run.replicas
    )
    steps = 2 * (len(run.sites) - 1)
    each = within + steps * (border_s + delay_s + HOP_S)
    done = 0.0
    for ready in _ready_s(run):
        done = max(done, ready) + each
    return done


def _ready_s(run: Across) -> Array:
    """When each bucket's gradients are there, the last one at the end of compute."""
    compute = t_cal_s(run)
    backward = 2 / 3 * t_batch_s(run) / run.batch
    return compute - backward * (1 - np.arange(1, run.buckets + 1) / run.buckets)


def _chunk_bytes(run: Across) -> float:
    return gradient_bytes(run) / run.buckets / run.data


def _port_s(run: Across, size_bytes: float) -> float:
    return size_bytes * 8 / (run.nic_gbps * 1e9)


def _border_s(run: Across, flows: int, size_bytes: float) -> float:
    """Time of the slowest of equal flows over one border, all at once, light apart."""
    line_gbps = run.line_tbps * 1e3 * (1 - run.background)
    return _flow_core_s(flows, round(size_bytes), run.nic_gbps, line_gbps)


@lru_cache(maxsize=256)
def _flow_core_s(flows: int, size_bytes: int, nic_gbps: float, line_gbps: float) -> float:
    """Two sites as pods, their border as the links to the core; packets have no headers here."""
    per_leaf = -(-flows // _SPINES)
    hosts = per_leaf * _SPINES
    scenario = Scenario.model_validate(
        {
            "name": "border",
            "fabric": {
                "hosts": 2 * hosts,
                "tiers": 3,
                "hosts_per_leaf": per_leaf,
                "spines": _SPINES,
                "pods": 2,
                "cores_per_spine": 1,
                "link_gbps": nic_gbps,
                "leaf_up_gbps": nic_gbps * max(1.0, _GENEROUS * per_leaf / _SPINES / 8),
                "spine_up_gbps": line_gbps / _SPINES,
                "link_us": 0.0,
            },
            "traffic": [{"kind": "lone", "bytes": 1, "src": 0, "dst": 1}],
            "transport": {"header_bytes": 0, "ack_bytes": 1},
            "balancing": "spray",
        }
    )
    sources = np.arange(flows)
    asked = Flows.of(sources, sources + hosts, size_bytes)
    return FlowCore().run_flows(scenario, asked, seed=0).makespan_us * 1e-6
