"""The packet core's shell: it runs the compiled loop, breaks and mends links, reads queues."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from starloom.fabric.base import PS_PER_US, Flows, Result, Told
from starloom.fabric.clos import Ints
from starloom.fabric.errors import TooLarge
from starloom.fabric.faults import Change
from starloom.fabric.packet import layout as at
from starloom.fabric.packet.loop import run as run_events
from starloom.fabric.packet.memory import Memory, needed_bytes
from starloom.fabric.scenario import Scenario

EVENTS_A_LOOK = 1_000_000
ROOM_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Watch:
    """Queues to record over time."""

    links: Ints
    every_us: float = 1.0
    until_us: float = float("inf")


def _silent(_share: float, _word: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class PacketCore:
    """Every packet, acknowledgement and trimmed header on every link."""

    name: str = "packet"
    room_bytes: int = ROOM_BYTES
    """Memory that a run may take."""
    watch: Watch | None = None

    def run(self, scenario: Scenario, seed: int, told: Told = _silent) -> Result:
        """Deterministic in (scenario, seed). Raises `TooLarge` before it takes memory."""
        return self.run_flows(scenario, scenario.flows(seed), seed, told)

    def run_flows(
        self, scenario: Scenario, flows: Flows, seed: int, told: Told = _silent
    ) -> Result:
        """As `run`, with flows that are given; the seed draws hashes and marks."""
        flows.check(scenario.clos)
        self._fits(scenario, flows)
        run = _Run(scenario, flows, seed, self.watch, self.room_bytes)
        run.to_the_end(told)
        return run.result()

    def _fits(self, scenario: Scenario, flows: Flows) -> None:
        needs = needed_bytes(scenario, flows)
        if needs > self.room_bytes:
            raise TooLarge(
                f"{len(flows):,} flows of {int(flows.payload_bytes.sum()):,} bytes in all on"
                f" {scenario.clos.links:,} links need {needs / 2**30:.1f} GiB, and a packet run may"
                f" take {self.room_bytes / 2**30:.1f}: send fewer bytes, or use the flow core"
            )


class _Run:
    def __init__(
        self, scenario: Scenario, flows: Flows, seed: int, watch: Watch | None, room_bytes: int
    ) -> None:
        self._room_bytes = room_bytes
        self._flows = flows
        self._memory = Memory.of(scenario, flows, seed)
        self._until_ps = min(round(scenario.until_us * PS_PER_US), at.NEVER - 1)
        self._changes = scenario.changes()
        self._watch = watch
        columns = [at.L_ROOM, at.L_ECN_LOW, at.L_ECN_HIGH]
        self._rooms = self._memory.links[:, columns] if len(self._changes) else np.empty((0, 3))
        self._seen: list[tuple[int, Ints]] = []
        self._cpu_s = 0.0

    def to_the_end(self, told: Told) -> None:
        """Until all flows are done, nothing can happen, or time is up."""
        self._memory.m[at.G_STOP] = -1
        run_events(self._memory.m, self._memory.x, 0)  # compiled here: the time below is of events
        for stop_ps, change in self._stops():
            self._memory.m[at.G_STOP] = stop_ps
            if self._until_stop(told) in (at.DONE, at.EMPTY):
                return
            if change is None:
                self._look(stop_ps)
            else:
                self._apply(change)

    def _until_stop(self, told: Told) -> int:
        memory, flows = self._memory, len(self._flows)
        while True:
            began = time.process_time()
            status = run_events(memory.m, memory.x, EVENTS_A_LOOK)
            self._cpu_s += time.process_time() - began
            done = int(memory.m[at.G_FINISHED])
            told(done / flows, f"{done} of {flows} flows")
            if status == at.NEEDS_ROOM:
                if 2 * memory.m.nbytes > self._room_bytes:
                    raise TooLarge(
                        f"at {memory.m[at.G_NOW] / PS_PER_US:.1f} us the packets under way fill"
                        f" {memory.m.nbytes / 2**30:.1f} GiB, and a run may take"
                        f" {self._room_bytes / 2**30:.1f}: congestion does not settle; send fewer"
                        " flows at once, or use another congestion control or balancing"
                    )
                memory.grow()
            elif status != at.RUNNING:
                return status

    def _stops(self) -> Iterator[tuple[int, int | None]]:
        """When to look up: at each change, by its index, and at each sample; at last at the end."""
        changes = [(int(when), which) for which, when in enumerate(self._changes.at_ps)]
        sample_ps, every_ps, last_ps = at.NEVER, 1, -1
        if self._watch is not None:
            sample_ps, every_ps = 0, max(1, round(self._watch.every_us * PS_PER_US))
            last_ps = round(min(self._watch.until_us, self._until_ps / PS_PER_US) * PS_PER_US)
        while True:
            change_ps = changes[0][0] if changes else at.NEVER
            if min(change_ps, sample_ps) > self._until_ps:
                break
            if change_ps <= sample_ps:
                yield changes.pop(0)
            else:
                yield sample_ps, None
                sample_ps = sample_ps + every_ps if sample_ps + every_ps <= last_ps else at.NEVER
        yield self._until_ps, None

    def _look(self, now_ps: int) -> None:
        if self._watch is not None:
            rows = self._memory.links[self._watch.links]
            self._seen.append((now_ps, rows[:, at.L_LO_BYTES] + rows[:, at.L_HI_BYTES]))

    def _apply(self, which: int) -> None:
        """Something breaks or is mended."""
        row = self._memory.links[self._changes.link[which]]
        what, value = Change(int(self._changes.what[which])), float(self._changes.value[which])
        if what is Change.CAPACITY:
            row.view(np.float64)[at.LF_CAPACITY] = value
            if value > 0:  # room and thresholds are configured as times
                full = self._rooms[self._changes.link[which]]
                row[[at.L_ROOM, at.L_ECN_LOW, at.L_ECN_HIGH]] = full * value
        elif what is Change.LOSS:
            row.view(np.float64)[at.LF_LOSS] = value
        else:
            self._memory.m[at.G_AVOIDED] += int(value) - row[at.L_AVOIDED]
            row[at.L_AVOIDED] = int(value)

    def result(self) -> Result:
        """What the run left behind."""
        m, links, rows = self._memory.m, self._memory.links, self._memory.flows
        done = rows[:, at.S_DONE_AT]
        watched = np.empty(0, dtype=np.int64) if self._watch is None else self._watch.links
        return Result(
            core="packet",
            fct_ps=np.where(done >= 0, done - self._flows.start_ps, -1),
            link_bytes=links[:, at.L_SENT].copy(),
            end_ps=int(m[at.G_NOW]),
            cpu_s=self._cpu_s,
            new_packets=rows[:, at.S_NEW].copy(),
            retransmitted=rows[:, at.S_RESENT].copy(),
            link_trims=links[:, at.L_TRIMS].copy(),
            link_drops=links[:, at.L_DROPS].copy(),
            queue_peak_bytes=links[:, at.L_PEAK].copy(),
            hops=int(m[at.G_HOPS]),
            events=int(m[at.G_EVENTS]),
            samples_ps=np.array([when for when, _ in self._seen], dtype=np.int64),
            samples_bytes=np.array([held for _, held in self._seen], dtype=np.int64).reshape(
                len(self._seen), len(watched)
            ),
            watched=watched,
        )
