"""Training for real over two sites on one machine, beside what the formulas say of it.

System `measured`, case `real:STRATEGY:MS` (one-way delay): `step_s`, and `loss_pct` against the
same run over a line of no length. System `starloom`: `dependency_pct`, `barrier_pct` (ring only)
and `simulated_pct`, from the measured step without delay; `handshake_pct` as well: gloo moves data
only when the receiver has said that it is ready, so that a step of the ring which crosses the line
waits a round trip (`notifyRecvReady` in its TCP transport), which no formula of the source has.
`real:resume`: `loss_difference` between a run whose last rank was killed and that was resumed, and
one that was left alone.

The line is long and the model tiny, so losses are large: it is the mechanism that is checked.
"""

import multiprocessing
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from starloom.bench.across_line import TwoSites, available
from starloom.bench.base import BenchError, Results, Told
from starloom.plan.across import Pipe
from starloom.plan.across.pipe import step_s as pipe_step_s
from starloom.plan.across.ring import all_reduce

DELAY_S, GBPS = 0.1, 1.0
_GRADIENT_BYTES = 382_000 * 4.0
_WARM = 2
_PATIENCE_S = 240.0
_MICROBATCHES = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """A run: which ranks stand where, and what they do."""

    strategy: str
    ranks: tuple[int, ...]
    """Site of each rank."""
    steps: int = 8
    buckets: int = 1
    local_steps: int = 4
    seed: int = 0
    checkpoint: Path | None = None
    save_every: int = 0
    kill_at: int | None = None


RUNS = (
    Asked("dp", (0, 0, 1, 1)),
    Asked("dp", (0, 0, 1, 1), buckets=3),
    Asked("pp", (0, 1)),
    Asked("local", (0, 1), steps=12),
)


def bench_real(results: Results, told: Told) -> None:
    """Add rows, or a note where this machine cannot make sites."""
    missing = available()
    if missing is None:
        try:
            import torch  # noqa: F401 - the ranks need it
        except ImportError:
            missing = "torch is absent: pip install 'starloom[engine]'"
    if missing is not None:
        results.notes.append(f"training for real was left out: {missing}")
        return
    for asked in RUNS:
        name = asked.strategy + (f"-{asked.buckets}" if asked.buckets > 1 else "")
        told(f"training for real: {name}")
        near, far = (typical_s(asked, train(asked, delay)) for delay in (0.0, DELAY_S))
        case = f"real:{name}:{DELAY_S * 1e3:g}ms"
        results.add("measured", case, "step_s", far, "s")
        results.add("measured", case, "loss_pct", 100 * (1 - near / far), "%")
        for metric, waits in expected_waits_s(asked, near).items():
            results.add("starloom", case, metric, 100 * waits / (near + waits), "%")
    told("training for real: killed and resumed")
    results.add("measured", "real:resume", "loss_difference", resumed_difference(), "")


def expected_waits_s(asked: Asked, near_s: float) -> dict[str, float]:
    """What a step should wait for a line of `DELAY_S`, by mode and by simulation."""
    world = len(asked.ranks)
    if asked.strategy == "pp":
        # A pass of one stage: near_s is (M + 1) rounds of forward and backward of equal stages.
        chunk = near_s / (3 * (_MICROBATCHES + 1))
        pipes = [Pipe((chunk, chunk), (d, 0.0), 1, _MICROBATCHES) for d in (0.0, DELAY_S)]
        idle, late = (pipe_step_s(pipe) for pipe in pipes)
        return {"dependency_pct": 2 * DELAY_S, "simulated_pct": late - idle}
    every = asked.local_steps if asked.strategy == "local" else 1
    exchanges = asked.buckets
    delay = np.array(
        [
            DELAY_S if here != asked.ranks[(at + 1) % world] else 0.0
            for at, here in enumerate(asked.ranks)
        ]
    )
    send = np.full(world, _GRADIENT_BYTES / asked.buckets / world * 8 / (GBPS * 1e9))
    send[delay == 0] = 0.0
    done = np.zeros(world)
    still = done.copy()
    for _ in range(exchanges):
        done = all_reduce(done, send, delay)
        still = all_reduce(still, send, np.zeros(world))
    steps = 2 * (world - 1)
    laps = np.tile(delay, 3)
    path_s = max(float(laps[at : at + steps].sum()) for at in range(world))
    return {
        "dependency_pct": exchanges * path_s / every,
        "barrier_pct": exchanges * steps * DELAY_S / every,
        "handshake_pct": exchanges * steps * 2 * DELAY_S / every,
        "simulated_pct": float(done.max() - still.max()) / every,
    }


def train(asked: Asked, delay_s: float, *, wide_windows: bool = True) -> list[dict[str, Any]]:
    """Run all ranks over a line; what each answers. Raises `BenchError` where one fails.

    Ranks are forked from one process that has torch already: an import takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["starloom.bench.across_rank"])
    with (
        tempfile.TemporaryDirectory(prefix="starloom-across-") as folder,
        TwoSites(delay_s, GBPS, wide_windows=wide_windows) as sites,
    ):
        meeting = Path(folder) / "ranks"
        count = len(asked.ranks)
        started = [_start(context, sites, asked, rank, meeting) for rank in range(count)]
        try:
            return [_answer(process, answer) for process, answer in started]
        finally:
            for process, answer in started:
                process.kill()
                process.join()
                answer.close()


def _start(
    context: Any, sites: TwoSites, asked: Asked, rank: int, meeting: Path
) -> tuple[Any, Any]:
    told = {
        "rank": rank,
        "world": len(asked.ranks),
        "meeting": str(meeting),
        "strategy": asked.strategy,
        "steps": asked.steps,
        "buckets": asked.buckets,
        "local_steps": asked.local_steps,
        "microbatches": _MICROBATCHES,
        "seed": asked.seed,
        "checkpoint": None if asked.checkpoint is None else str(asked.checkpoint),
        "save_every": asked.save_every,
        "kill_at": asked.kill_at,
    }
    from starloom.bench.across_rank import rank_in

    ours, theirs = context.Pipe(duplex=False)
    holder = sites.holder(asked.ranks[rank])
    process = context.Process(target=rank_in, args=(holder, told, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _answer(process: Any, answer: Any) -> dict[str, Any]:
    if not answer.poll(_PATIENCE_S):
        raise BenchError(f"a rank did not end in {_PATIENCE_S:g} s")
    try:
        found: dict[str, Any] = answer.recv()
    except EOFError:
        process.join(timeout=5)
        raise BenchError(f"a rank failed with exit code {process.exitcode}") from None
    return found


def typical_s(asked: Asked, ranks: list[dict[str, Any]]) -> float:
    """A step of the slowest rank, the first ones left out.

    The median; with local steps the mean over whole rounds, since only every H-th step waits.
    """
    found: list[float]
    if asked.strategy == "local":
        rounds = [rank["seconds"][asked.local_steps :] for rank in ranks]
        found = [statistics.mean(seconds) for seconds in rounds]
    else:
        found = [statistics.median(rank["seconds"][_WARM:]) for rank in ranks]
    return max(found)


def resumed_difference() -> float:
    """Largest difference of losses between a run left alone and one killed and resumed."""
    with tempfile.TemporaryDirectory(prefix="starloom-across-") as folder:
        kept = Path(folder) / "checkpoint.pt"
        alone = train(Asked("dp", (0, 1), steps=8), 0.0)
        broken = Asked("dp", (0, 1), steps=8, checkpoint=kept, save_every=2, kill_at=5)
        try:
            train(broken, 0.0)
        except BenchError:
            pass
        else:
            raise BenchError("the rank that was to be killed lived on")
        again = train(Asked("dp", (0, 1), steps=8, checkpoint=kept, save_every=2), 0.0)
    ends = [run[0]["losses"][-4:] for run in (alone, again)]
    return float(max(abs(a - b) for a, b in zip(*ends, strict=True)))
