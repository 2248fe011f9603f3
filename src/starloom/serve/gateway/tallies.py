"""Counts and histograms whose cost a request is a few dictionary look-ups.

`prometheus_client` takes a lock and looks its children up for each observation, several times what
this costs; it still writes the page. Only the event loop's thread counts, so there is no lock.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Tally(Collector):
    """A counter family: `name` goes without `_total`, and `labels` names what a key holds."""

    def __init__(self, name: str, what: str, labels: Sequence[str]) -> None:
        self._family = (name, what, tuple(labels))
        self._counts: dict[tuple[str, ...], float] = {}

    def add(self, key: tuple[str, ...], count: float = 1) -> None:
        """Count for the values `key` of the labels."""
        self._counts[key] = self._counts.get(key, 0) + count

    def collect(self) -> Iterable[Metric]:
        name, what, labels = self._family
        family = CounterMetricFamily(name, what, labels=labels)
        for key, count in self._counts.items():
            family.add_metric(key, count)
        yield family


class Spread(Collector):
    """A histogram family with one label; `bounds` are the upper bounds of its buckets, rising."""

    def __init__(self, name: str, what: str, label: str, bounds: Sequence[float]) -> None:
        self._family = (name, what, (label,))
        self._bounds = tuple(bounds)
        self._rows: dict[str, list[int]] = {}
        """By the label's value: how many fell into each bucket, the last of them unbounded."""
        self._sums: dict[str, float] = {}

    def observe(self, key: str, value: float) -> None:
        """Count a value for `key`."""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = [0] * (len(self._bounds) + 1)
            self._sums[key] = 0.0
        row[bisect_left(self._bounds, value)] += 1
        self._sums[key] += value

    def collect(self) -> Iterable[Metric]:
        name, what, labels = self._family
        family = HistogramMetricFamily(name, what, labels=labels)
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for key, row in self._rows.items():
            buckets = list(zip(bounds, map(float, accumulate(row)), strict=True))
            family.add_metric([key], buckets, self._sums[key])
        yield family
