"""The bridge between the cores: what a fluid leaves out, fitted on packet runs of 128-1,024 hosts.

Flows of a run are put in order of their time in either core, and rank by rank the packet core's is

    packet = fluid + T (a + b (H - 4)/2 + c log2(ways / 16)) + d RTT + e W + f W^2/T
                   + z (T (g + h log2(ways / 16)) + i RTT)

T is the flow's own bytes at its host's rate, H the links of its way, `ways` how many it could
take, RTT the fabric's unloaded round trip, W what the fluid let it wait, and z the normal quantile
of its rank. The first line is what start-up, queues and contention beyond fair shares cost, the
second how far equal flows spread. Nine numbers per load balancing and congestion control, found by
least squares on relative errors with a weak pull towards zero. The form is ours.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Self

import numpy as np

from starloom.fabric.base import PS_PER_US, Flows, Result
from starloom.fabric.clos import Floats, Ints
from starloom.fabric.errors import BadScenario
from starloom.fabric.flow.core import FlowCore, lone_extra_us, wire_bytes
from starloom.fabric.flow.routes import SPRAYED
from starloom.fabric.scenario import Scenario

Key = tuple[str, str]
"""Load balancing, congestion control."""
WAITS = 4
"""Which term is W."""
PULL = 0.02
DRAWS = 8
"""Fluid runs that a drawn routing is averaged over, rank by rank."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of both cores: times in us, sorted, and what the form needs of each rank."""

    name: str
    key: Key
    fluid_us: Floats
    packet_us: Floats
    terms: Floats
    """Shape (flows, 9)."""

    @classmethod
    def of(cls, scenario: Scenario, flows: Flows, packet_us: Floats, seed: int = 0) -> Self:
        """From a scenario's flows and the packet core's times of them (any order).

        Raises `BadScenario` where not every flow ended in both cores.
        """
        draws = 1 if scenario.balancing in SPRAYED else DRAWS
        runs = [FlowCore().run_flows(scenario, flows, at) for at in range(seed, seed + draws)]
        if any(run.finished < len(flows) for run in runs) or len(packet_us) < len(flows):
            raise BadScenario(f"{scenario.name}: not every flow ended, the bridge needs them all")
        fluid = np.mean([np.sort(run.fct_ps) for run in runs], axis=0) / PS_PER_US
        terms = np.mean([_terms(scenario, flows, run)[0] for run in runs], axis=0)
        return cls(scenario.name, _key(scenario), fluid, np.sort(packet_us), terms)

    def error(self, times_us: Floats) -> tuple[float, float, float]:
        """Errors of mean, 99th percentile and largest, in percent of the packet core's."""
        theirs = self.packet_us
        pairs = (
            (times_us.mean(), theirs.mean()),
            (np.percentile(times_us, 99), np.percentile(theirs, 99)),
            (times_us.max(), theirs.max()),
        )
        mean, p99, largest = (float(100 * (ours / his - 1)) for ours, his in pairs)
        return mean, p99, largest


@dataclass(frozen=True, slots=True)
class Bridge:
    """Nine numbers per load balancing and congestion control that it was fitted for."""

    found: Mapping[Key, Floats]

    @classmethod
    def fit(cls, samples: Sequence[Sample]) -> Self:
        """Least squares over all ranks of all samples of a key; each sample weighs the same."""
        found = {}
        for key in {sample.key for sample in samples}:
            mine = [sample for sample in samples if sample.key == key]
            rows, values = [], []
            for sample in mine:
                weight = 1 / (sample.packet_us * np.sqrt(len(sample.packet_us)))
                rows.append(sample.terms * weight[:, None])
                values.append((sample.packet_us - sample.fluid_us) * weight)
            matrix, value = np.concatenate(rows), np.concatenate(values)
            scale = np.sqrt((matrix**2).sum(axis=0)) + 1e-12
            pulled = np.concatenate([matrix / scale, PULL * np.eye(matrix.shape[1])])
            target = np.concatenate([value, np.zeros(matrix.shape[1])])
            found[key] = np.linalg.lstsq(pulled, target, rcond=None)[0] / scale
        return cls(found)

    def times_us(self, sample: Sample) -> Floats:
        """The fluid's times of a sample, corrected, in order."""
        return _corrected(sample.fluid_us, sample.terms, self._of(sample.key))

    def corrected(self, scenario: Scenario, seed: int, result: Result) -> Result:
        """A flow core's result with corrected times; flows keep the fluid's order.

        Raises `BadScenario` where the bridge was not fitted for the scenario's key.
        """
        known = self._of(_key(scenario))
        terms, order = _terms(scenario, scenario.flows(seed), result)
        fct = result.fct_ps.copy()
        times = _corrected(result.fct_ps[order] / PS_PER_US, terms, known)
        fct[order] = np.rint(times * PS_PER_US).astype(np.int64)
        return replace(result, fct_ps=fct)

    def _of(self, key: Key) -> Floats:
        if key not in self.found:
            have = ", ".join("/".join(one) for one in sorted(self.found))
            raise BadScenario(f"the bridge was not fitted for {'/'.join(key)}; it was for: {have}")
        return self.found[key]


def leave_one_out(samples: Sequence[Sample]) -> dict[str, tuple[float, float, float]]:
    """Errors of each sample (mean, p99, largest; %) by a bridge that did not see it.

    Samples whose key has no other are left out: nothing would be fitted.
    """
    told = {}
    for sample in samples:
        others = [one for one in samples if one is not sample and one.key == sample.key]
        if others:
            told[sample.name] = sample.error(Bridge.fit(others).times_us(sample))
    return told


def packet_samples(
    scenarios: Iterable[Scenario], run: Callable[[Scenario, int], Result], seed: int = 0
) -> list[Sample]:
    """Runs of a packet core beside the fluid's, to fit or to judge on."""
    return [Sample.of(one, one.flows(seed), run(one, seed).fct_us, seed) for one in scenarios]


def _key(scenario: Scenario) -> Key:
    return scenario.balancing, scenario.congestion


def _terms(scenario: Scenario, flows: Flows, result: Result) -> tuple[Floats, Ints]:
    """The form's nine terms of each rank, and the flows in order of the fluid's time.

    Flows that did not end have no rank. Equal times are ranked by a drawn order, always the same.
    """
    clos, transport = scenario.clos, scenario.transport
    ended = np.flatnonzero(result.fct_ps >= 0)
    drawn = np.random.default_rng(0).permutation(len(ended))
    order = ended[drawn][np.argsort(result.fct_ps[ended][drawn], kind="stable")]
    gbps = clos.fabric.link_gbps * clos.planes
    own = (wire_bytes(flows.payload_bytes, transport) * 8e-3 / gbps)[order]
    lone = own + lone_extra_us(clos, flows, transport)[order]
    waits = np.maximum(result.fct_ps[order] / PS_PER_US - lone, 0.0)
    stages = (clos.path_links(flows.src, flows.dst)[order] - 4) / 2
    rtt = clos.base_rtt_ps(transport.wire_bytes, transport.ack_bytes) / PS_PER_US
    normal = NormalDist()
    rank = np.array([normal.inv_cdf((at + 0.5) / len(order)) for at in range(len(order))])
    round_trip = np.full(len(order), rtt)
    ways = max(clos.spines, 1) * max(clos.cores, 1) * clos.planes
    spread = own * np.log2(ways / 16)
    columns = (
        own,
        own * stages,
        spread,
        round_trip,
        waits,
        waits**2 / own,
        rank * own,
        rank * spread,
        rank * rtt,
    )
    return np.stack(columns, axis=1), order


def _corrected(fluid_us: Floats, terms: Floats, found: Floats) -> Floats:
    """Never faster than alone on the wire."""
    alone = fluid_us - terms[:, WAITS]
    return np.maximum(np.maximum.accumulate(fluid_us + terms @ found), alone)
