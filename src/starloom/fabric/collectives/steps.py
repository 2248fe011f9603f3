"""Collectives as flows, step by step, so that either core can run what the closed forms state.

Steps follow one another: each waits for the slowest flow of the one before. Equal ones run once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from starloom.fabric.base import Flows, Result
from starloom.fabric.clos import Ints
from starloom.fabric.collectives.base import Algorithm, Kind
from starloom.fabric.collectives.errors import BadCollective

RunFlows = Callable[[Flows], Result]
"""A core on a fabric: flows in, a result out."""


@dataclass(frozen=True, slots=True)
class Step:
    """Flows that start together, so many times over."""

    flows: Flows
    times: int = 1


def steps(
    kind: Kind | str, hosts: Ints, size_bytes: int, algorithm: Algorithm | str = Algorithm.RING
) -> list[Step]:
    """The steps of one collective among `hosts`, in the order of the ring.

    `ring` and `halving_doubling` of an allreduce, reduce-scatter or all-gather; all-to-all and send
    in one step. Raises `BadCollective` for what has no steps here.
    """
    kind, n = Kind(kind), len(hosts)
    hosts = np.asarray(hosts, dtype=np.int64)
    if n < 2:
        raise BadCollective(f"a collective among {n} hosts: give two or more")
    if kind is Kind.SEND:
        return [Step(Flows.of(hosts[:1], hosts[1:2], size_bytes))]
    if kind is Kind.ALL_TO_ALL:
        shift, at = np.divmod(np.arange(n * (n - 1)), n)
        src, dst = hosts[at], hosts[(at + shift + 1) % n]
        return [Step(Flows.of(src, dst, -(-size_bytes // n)))]
    if kind not in (Kind.ALL_REDUCE, Kind.REDUCE_SCATTER, Kind.ALL_GATHER):
        raise BadCollective(f"no steps of {kind}: give a reduce, gather or all-to-all")
    sweeps = 2 if kind is Kind.ALL_REDUCE else 1
    if algorithm == Algorithm.RING:
        flows = Flows.of(hosts, np.roll(hosts, -1), -(-size_bytes // n))
        return [Step(flows, sweeps * (n - 1))]
    if algorithm == Algorithm.HALVING_DOUBLING:
        if n & (n - 1):
            raise BadCollective(f"halving and doubling among {n} hosts: give a power of two")
        at, found = np.arange(n), []
        for bit in range(n.bit_length() - 1):
            share = -(-size_bytes // (n >> bit))
            found.append(Step(Flows.of(hosts, hosts[at ^ (1 << bit)], share), sweeps))
        return found
    raise BadCollective(f"no steps of {algorithm}: give ring or halving_doubling")


def run_us(found: list[Step], run: RunFlows) -> float:
    """Microseconds of all steps. Raises `BadCollective` where a flow does not end."""
    total = 0.0
    for step in found:
        result = run(step.flows)
        if result.finished < len(step.flows):
            raise BadCollective(f"{len(step.flows) - result.finished} flows of a step did not end")
        total += step.times * result.makespan_us
    return total
