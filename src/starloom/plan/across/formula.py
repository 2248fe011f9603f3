"""What distance costs a training step, in closed form.

Three latency modes for the ring all-reduce, named in every output:

- `dependency`: a chunk goes twice around the ring (reduce-scatter, then all-gather), so its
  critical path has two laps: with two sites 2 RTT an all-reduce or bucket. The source's literal
  figure.
- `barrier`: each of the 2 (d - 1) steps waits for all: the longest border, one way, each time.
- `calibrated`: 60 round trips of waiting in one T_batch. It fits the field's 4.9 % at 600 km; the
  source states no mechanism, and nothing else here is tuned to it.

Loss is the share of a step that is waiting: T_com / (T_cal + T_com). Sites with the ring's border
crossed once each (three or more) count a lap as the sum of one-way delays: half a round trip where
two sites have a whole one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from starloom.plan.across.article import batches, flows, gradient_bytes, t_batch_s, t_cal_s
from starloom.plan.across.base import (
    HALF_BYTES,
    Across,
    LatencyMode,
    Strategy,
    ring_crossings,
)
from starloom.plan.errors import BadPlan

MODES: tuple[LatencyMode, ...] = ("dependency", "barrier", "calibrated")


@dataclass(frozen=True, slots=True)
class Loss:
    """One strategy in one latency mode."""

    strategy: Strategy
    mode: LatencyMode
    latency_s: float
    """Waiting for light and equipment that one step shows."""
    transfer_s: float
    """Bytes over their share of the line, overlap taken off; not in `latency` losses."""
    t_batch_s: float
    t_cal_s: float

    @property
    def loss_pct(self) -> float:
        """By latency, on T_DP,cal: the figure for comparisons."""
        return _loss_pct(self.latency_s, self.t_cal_s)

    @property
    def on_batch_pct(self) -> float:
        """By latency, on T_batch; of the calibrated mode, which counts by T_batch, the same."""
        if self.mode == "calibrated":
            return self.loss_pct
        return _loss_pct(self.latency_s, self.t_batch_s)

    @property
    def with_transfer_pct(self) -> float:
        """By latency and bytes, on T_DP,cal."""
        return _loss_pct(self.latency_s + self.transfer_s, self.t_cal_s)


def modes_of(strategy: Strategy) -> tuple[LatencyMode, ...]:
    """Those that a strategy has: only the ring has steps to wait for and a field figure to fit."""
    return MODES if strategy == "dp-ring" else ("dependency",)


def loss(run: Across, strategy: Strategy, mode: LatencyMode = "dependency") -> Loss:
    """Waiting in one step. Raises `BadPlan` for a mode that the strategy has not."""
    if mode not in modes_of(strategy):
        raise BadPlan(f"{strategy} has no {mode!r} latency: use {modes_of(strategy)[0]!r}")
    if strategy == "pp":
        latency, transfer = _pipeline(run)
    elif strategy == "local":
        latency, transfer = _hierarchical(run)
        latency, transfer = latency / run.local_steps, transfer / run.local_steps
    elif strategy == "dp-ring":
        latency, transfer = _ring(run, mode)
    elif strategy == "dp-hierarchical":
        latency, transfer = _hierarchical(run)
    else:
        latency, transfer = _in_network(run)
    if strategy.startswith("dp") and mode != "calibrated":
        latency, transfer = _shown(run, latency, transfer)
    return Loss(strategy, mode, latency, transfer, t_batch_s(run), t_cal_s(run))


def crossing_km(run: Across, loss_pct: float, mode: LatencyMode = "calibrated") -> float:
    """Length of the varied legs at which the ring loses so much; the others stay.

    Latency is a line over length, so two points of it give the third.
    """
    allowed = loss_pct / (100 - loss_pct) * t_cal_s(run)
    near, far = (loss(run.at_km(km), "dp-ring", mode).latency_s for km in (0.0, 1000.0))
    if far <= near:
        raise BadPlan("no leg is varied: nothing depends on distance")
    return 1000.0 * (allowed - near) / (far - near)


def _loss_pct(waiting_s: float, compute_s: float) -> float:
    return 100 * waiting_s / (compute_s + waiting_s)


def _ring(run: Across, mode: LatencyMode) -> tuple[float, float]:
    """(latency of one all-reduce, transfer of all gradients): seconds."""
    crossings = ring_crossings(run)
    moved_s = _line_s(run, 2 * (run.data - 1) / run.data * gradient_bytes(run))
    if mode == "barrier":
        return 2 * (run.data - 1) * crossings.longest_s, moved_s
    if mode == "calibrated":
        return run.ring_round_trips * crossings.lap_s * batches(run), moved_s
    return 2 * crossings.lap_s, moved_s


def _hierarchical(run: Across) -> tuple[float, float]:
    """Within sites first; then a ring of S sites over shards: 2 (S - 1) steps.

    Each GPU holds 1 / replicas of a site's sum, so a border sees every weight 2 (S - 1) / S times.
    """
    sites = len(run.sites)
    steps = 2 * (sites - 1)
    shard = gradient_bytes(run) * run.replica_gpus * steps / sites
    return steps * ring_crossings(run).longest_s, shard * 8 / (run.line_tbps * 1e12)


def _in_network(run: Across) -> tuple[float, float]:
    """Switches add up: every site sends its sum to one of them and gets the whole back.

    The root is the site with the nearest farthest neighbour; the border sees every weight once each
    way, both ways at once.
    """
    distances = _between(run)
    root_s = min(max(row) for row in distances)
    whole = gradient_bytes(run) * run.replica_gpus
    return 2 * root_s, whole * 8 / (run.line_tbps * 1e12)


def _between(run: Across) -> list[list[float]]:
    """One way between any two sites, by the shorter way around."""
    delays = ring_crossings(run).one_way_s
    count = len(run.sites)
    around = sum(delays) if count > 2 else 2 * delays[0]
    found = []
    for one in range(count):
        row = []
        for other in range(count):
            low, high = sorted((one, other))
            forth = sum(delays[low:high])
            row.append(min(forth, around - forth))
        found.append(row)
    return found


def _pipeline(run: Across) -> tuple[float, float]:
    """Interleaved 1F1B: only warm-up and drain show.

    The first microbatch goes v times down the chain of sites, and v - 1 times from its end back to
    its start (each GPU holds v chunks, Narayanan et al., arXiv:2104.04473); the last one does so
    backward. With two sites that is 2 (2 v - 1) one-way delays. The steady state hides the rest as
    long as enough microbatches are under way: see the simulation. Transfers: one microbatch's
    activation each time.
    """
    crossings = ring_crossings(run).one_way_s
    chain, home = crossings[:-1], crossings[-1]
    activation = run.sequence * run.hidden * HALF_BYTES / run.tensor * run.stage_gpus
    transfer = activation * 8 / (run.line_tbps * 1e12)
    laps, returns = 2 * run.chunks, 2 * (run.chunks - 1)
    latency = laps * sum(chain) + returns * home
    return latency, (laps * len(chain) + returns) * transfer


def _line_s(run: Across, gpu_bytes: float) -> float:
    """One flow's bytes over its share of the line."""
    return gpu_bytes * flows(run) * 8 / (run.line_tbps * 1e12)


def _shown(run: Across, latency: float, transfer: float) -> tuple[float, float]:
    """What overlap leaves of `buckets` exchanges one after the other.

    The last bucket is ready when the backward pass is over: nothing can hide it.
    """
    whole, one = latency * run.buckets, latency
    kept = max(one, (1 - run.overlap) * whole)
    return kept, max(transfer / run.buckets, (1 - run.overlap) * transfer)


def balanced(parts: int, speeds: Sequence[float]) -> list[int]:
    """Whole parts (layers, microbatches) to workers so that the slowest is done soonest.

    Greedy is optimal here: each part goes to who would be done with it first; everybody gets one.
    """
    if parts < len(speeds):
        raise BadPlan(f"{parts} parts for {len(speeds)} workers: somebody would have none")
    counts = [1] * len(speeds)
    for _ in range(parts - len(speeds)):
        soonest = min(range(len(speeds)), key=lambda at: ((counts[at] + 1) / speeds[at], at))
        counts[soonest] += 1
    return counts


def balance_loss_pct(parts: int, speeds: Sequence[float]) -> float:
    """What uneven chips cost even when parts are dealt by speed: ideal over real time, from 1."""
    counts = balanced(parts, speeds)
    slowest = max(count / speed for count, speed in zip(counts, speeds, strict=True))
    return 100 * (1 - parts / sum(speeds) / slowest)
