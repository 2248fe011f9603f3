"""Pipeline parallelism across sites: interleaved 1F1B, operation by operation.

Every rank works off its list of forward and backward passes in Megatron's order; one starts when
the rank is free and its input is there, which a border delays. Sends do not hold the rank up.
Microbatches are one sequence. The formula knows only warm-up and drain; whether the steady state
hides the rest comes out here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from starloom.plan.across.article import t_cal_s
from starloom.plan.across.base import Across, ring_crossings
from starloom.plan.across.formula import balanced
from starloom.plan.across.ring import Simulated
from starloom.plan.errors import BadPlan

MAX_OPERATIONS = 2_000_000
Op = tuple[bool, int, int]
"""(forward, microbatch, chunk)."""


@dataclass(frozen=True, slots=True)
class Pipe:
    """Ranks of one replica in the order of the model."""

    chunk_s: tuple[float, ...]
    """Forward of one chunk of a microbatch, by rank; backward takes twice that."""
    delay_s: tuple[float, ...]
    """From rank r to r + 1, the last one back to rank 0; the same both ways."""
    chunks: int
    microbatches: int


def simulate_pipeline(run: Across) -> Simulated:
    """Step time of `pp`. Raises `BadPlan` where microbatches are not whole rounds of the ranks."""
    far, near = (_pipe(run, distance=distance) for distance in (True, False))
    at_zero = step_s(near)
    return Simulated(step_s(far), at_zero, at_zero)


def step_s(pipe: Pipe) -> float:
    """Time from the first forward to the last backward."""
    ranks, last = len(pipe.chunk_s), len(pipe.chunk_s) * pipe.chunks - 1
    orders = [list(_order(pipe, rank)) for rank in range(ranks)]
    done: dict[tuple[bool, int, int], float] = {}
    at, free = [0] * ranks, [0.0] * ranks
    moved = True
    while moved:
        moved = False
        for rank in range(ranks):
            order, place = orders[rank], at[rank]
            while place < len(order):
                forward, batch, chunk = order[place]
                stage = chunk * ranks + rank
                if forward:
                    ready = 0.0 if stage == 0 else done.get((True, batch, stage - 1))
                    edge = (rank - 1) % ranks
                    first = stage == 0
                else:
                    first = stage == last
                    ready = done.get((first, batch, stage if first else stage + 1))
                    edge = rank
                if ready is None:
                    break
                begin = max(free[rank], ready if first else ready + pipe.delay_s[edge])
                free[rank] = begin + pipe.chunk_s[rank] * (1 if forward else 2)
                done[forward, batch, stage] = free[rank]
                place += 1
                moved = True
            at[rank] = place
    if any(place < len(order) for place, order in zip(at, orders, strict=True)):
        raise AssertionError("the schedule waits for itself")
    return max(free)


def _order(pipe: Pipe, rank: int) -> Iterator[Op]:
    """Megatron-LM's interleaved schedule: warm-up, one forward and one backward, drain."""
    ranks, chunks = len(pipe.chunk_s), pipe.chunks
    total = pipe.microbatches * chunks
    warm = min(total, 2 * (ranks - rank - 1) + (chunks - 1) * ranks)
    if chunks == 1:
        warm = min(total, ranks - rank - 1)

    def forward(number: int) -> Op:
        lap, place = divmod(number, ranks * chunks)
        return True, lap * ranks + place % ranks, place // ranks

    def backward(number: int) -> Op:
        lap, place = divmod(number, ranks * chunks)
        return False, lap * ranks + place % ranks, chunks - 1 - place // ranks

    for number in range(warm):
        yield forward(number)
    for number in range(total - warm):
        yield forward(warm + number)
        yield backward(number)
    for number in range(total - warm, total):
        yield backward(number)


def _pipe(run: Across, *, distance: bool) -> Pipe:
    microbatches = run.global_batch // run.data
    if microbatches % run.pipeline:
        raise BadPlan(
            f"{microbatches} microbatches a replica are not whole rounds of {run.pipeline} ranks:"
            f" make `global_batch` a multiple of {run.data * run.pipeline}"
        )
    operations = 2 * microbatches * run.chunks * run.pipeline
    if operations > MAX_OPERATIONS:
        raise BadPlan(f"{operations:,} operations: simulate at most {MAX_OPERATIONS:,}")
    site_of = [site for site, count in enumerate(run.stages) for _ in range(count)]
    delays = [0.0] * run.pipeline
    if distance:
        crossings = ring_crossings(run).one_way_s
        for rank in range(run.pipeline):
            here, there = site_of[rank], site_of[(rank + 1) % run.pipeline]
            if here != there:
                delays[rank] = crossings[here]
    # With one speed every rank does the same; else layers go by speed, as far as whole ones can.
    fastest, slowest = max(run.speeds), min(run.speeds)
    mean = t_cal_s(run) * slowest / (3 * microbatches * run.chunks)  # of TFLOPS 1
    speeds = [run.speeds[site] for site in site_of]
    if fastest == slowest:
        chunk_s = [mean / speed for speed in speeds]
    else:
        layers = balanced(run.layers, speeds)
        even = run.layers / run.pipeline
        chunk_s = [mean / s * count / even for s, count in zip(speeds, layers, strict=True)]
    return Pipe(tuple(chunk_s), tuple(delays), run.chunks, microbatches)
