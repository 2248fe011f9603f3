"""Our policy: the worker on which the request costs everybody the least time."""

from collections.abc import Sequence

from starloom.serve.schedule.base import Ask, Decision, Trip, WorkerView
from starloom.serve.schedule.forecast import Forecaster


class Starloom:
    """The least of: time to our first token, what our blocks displace, and what we cost others.

    - Our time: what is left of the prefill ahead, and our own, less what the worker holds.
    - Displaced: a block that we add pushes one out that would have been reused about as often as
      blocks are; so our prefill counts again by the share of tokens that is reused.
    - Others: each decoding request stands still while we prefill; and every later step they share
      with us reads our context too, as ours read theirs. A second of theirs, between tokens, is
      worth that of a first token times how long people wait for first tokens over how long for the
      rest, so that a percent counts for either, times .6.

    All rates are learned (`Forecaster`), so nothing needs tuning. A prefix that everybody shares
    pulls nobody to the worker that saw it first: it is worth the prefill that it saves, and is
    computed again elsewhere once the queue there is longer than that.
    """

    def __init__(self) -> None:
        self._forecaster = Forecaster()

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision:
        forecast = self._forecaster.forecast(ask, workers)
        at = int(forecast.cost_s.argmin())
        worker = workers[at]
        why = (
            f"cost {1000 * forecast.cost_s[at]:.0f} ms, first token in"
            f" {1000 * forecast.ttft_s[at]:.0f}; {worker.overlap_blocks} blocks held,"
            f" {worker.outstanding} outstanding"
        )
        return Decision(worker.name, why)

    def forget(self, worker: str) -> None:
        self._forecaster.forget(worker)

    def learn(self, trip: Trip) -> None:
        self._forecaster.learn(trip)
