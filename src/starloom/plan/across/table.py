"""A run over distances, strategies and GPU speeds: the rows that commands and benches print."""

from collections.abc import Iterator
from dataclasses import dataclass

from starloom.plan.across import pipe, ring
from starloom.plan.across.base import Across, LatencyMode, Strategy
from starloom.plan.across.formula import Loss, loss, modes_of


@dataclass(frozen=True, slots=True)
class Point:
    """One cell of the table."""

    km: float
    gpu_speed: float
    loss: Loss
    simulated: ring.Simulated | None
    """The same for every mode of a strategy: a simulation has no mode. None: there is none."""

    @property
    def strategy(self) -> Strategy:
        return self.loss.strategy

    @property
    def mode(self) -> LatencyMode:
        return self.loss.mode


_SIMULATIONS = {
    "dp-ring": ring.simulate_ring,
    "dp-hierarchical": ring.simulate_hierarchical,
    "local": ring.simulate_local,
    "pp": pipe.simulate_pipeline,
}


def points(run: Across, *, simulate: bool = True) -> Iterator[Point]:
    """Every strategy of the run in every mode, over its distances and GPU speeds.

    Without distances, at the lengths that the legs have.
    """
    for speed in run.gpu_speeds:
        faster = run.with_gpus(speed)
        for km in run.distances_km or (None,):
            there = faster if km is None else faster.at_km(km)
            length = max(leg.km for leg in there.legs)
            for strategy in run.strategies:
                how = _SIMULATIONS.get(strategy) if simulate else None
                simulated = None if how is None else how(there)
                for mode in modes_of(strategy):
                    yield Point(length, speed, loss(there, strategy, mode), simulated)
