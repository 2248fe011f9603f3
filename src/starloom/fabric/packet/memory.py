"""A scenario laid out as the packet core's memory, before its first event (see `layout`)."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from starloom.fabric.base import PS_PER_US, Flows
from starloom.fabric.clos import Clos, Floats, Ints, Stage
from starloom.fabric.packet import layout as at
from starloom.fabric.packet.congestion import CONTROLS, Control, Network
from starloom.fabric.scenario import Scenario, Transport

BALANCING = ("ecmp", "flowlet", "spray", "reps", "adaptive", "bitmap", "mixed")
FULL_QUEUE = ("trim", "drop", "pause")
RINGS = {"reps": 8, "mixed": 64}
"""Good entropies that a sender keeps; REPS has 8, the mixed scheme a list without end."""
PFC_TIMEOUT_US = 4096.0
"""Where nothing is lost a timer only guards against faults; InfiniBand's 4.096 us x 2^10."""
CNP_EVERY_US = 50
PACKET_ROWS = 8192
HEAP_ROOM = 1 << 16


@dataclass(slots=True)
class Memory:
    """All words of a run, and where the tables in it are."""

    m: Ints
    links: Ints
    """Views: (links, L_WORDS), and so on."""
    flows: Ints
    packets_at: int

    @property
    def x(self) -> Floats:
        return self.m.view(np.float64)

    @classmethod
    def of(cls, scenario: Scenario, flows: Flows, seed: int) -> Self:
        """Lay a run out."""
        clos, transport = scenario.clos, scenario.transport
        network = network_of(clos, transport)
        control = CONTROLS[scenario.congestion].of(scenario.congestion_options)
        lanes = _Lanes(clos.links, len(flows))
        rings = RINGS.get(scenario.balancing, 0)
        penalties = scenario.entropies if scenario.balancing in ("bitmap", "mixed") else 0
        payload = transport.payload_bytes
        packets = int((-(-flows.payload_bytes // payload)).sum())
        link_rows, link_floats = _links(clos, transport, network, lanes)
        sizes = {
            "links": clos.links * at.L_WORDS,
            "hosts": clos.hosts * at.H_WORDS,
            "flows": len(flows) * at.S_WORDS,
            "of_flows": packets * at.T_WORDS,
            "rings": len(flows) * rings,
            "penalties": len(flows) * penalties,
            "lanes": lanes.words,
            "heap": HEAP_ROOM * at.EVENT_WORDS,
            "packets": PACKET_ROWS * at.P_WORDS,
        }
        starts, end = {}, at.MAP_START
        for name, size in sizes.items():
            starts[name] = end
            end += size
        m = np.zeros(end, dtype=np.int64)

        def table(name: str, words: int) -> Ints:
            return m[starts[name] : starts[name] + sizes[name]].reshape(-1, words)

        links = table("links", at.L_WORDS)
        links[:] = link_rows
        links.view(np.float64)[:, at.LF_BYTE_PS : at.LF_UTIL + 1] = link_floats
        links[:, at.L_BASE] = starts["links"] + at.L_WORDS * clos.links_per_plane * (
            np.arange(clos.links) // clos.links_per_plane
        )
        table("hosts", at.H_WORDS)[:, [at.H_PULL_HEAD, at.H_PULL_TAIL]] = at.NONE
        rows = table("flows", at.S_WORDS)
        _flows(rows, clos, transport, flows, starts["of_flows"])
        count = np.arange(len(flows))
        rows[:, at.S_RING_AT] = starts["rings"] + count * rings
        rows[:, at.S_PENALTIES_AT] = starts["penalties"] + count * penalties
        control.begin(network, rows.view(np.float64))
        if control.credits:
            rows[:, at.S_CREDIT] = control.first_bytes(network)
            rows[:, at.S_SPECULATING] = 1
        lanes.write(m, starts["lanes"])
        _globals(m, scenario, network, control, seed)
        m[at.G_RING] = rings
        m[at.G_LINKS] = starts["links"]
        m[at.G_HOSTS_AT] = starts["hosts"]
        m[at.G_HEAP_AT] = starts["heap"]
        m[at.G_HEAP_ROOM] = HEAP_ROOM
        m[at.G_FLOWS] = len(flows)
        m[at.G_FREE] = at.NONE
        found = cls(m, links, rows, starts["packets"])
        found._add_packets(starts["packets"], PACKET_ROWS)
        found._draw(scenario, seed)
        found._start(flows, starts["lanes"], starts["flows"])
        return found

    def grow(self) -> None:
        """Twice the packets, or places in the heap: whichever is nearer its end.

        They come behind all else, so that every row stays where it is.
        """
        m, old = self.m, len(self.m)
        room = int(m[at.G_HEAP_ROOM])
        if m[at.G_FREE_COUNT] < room - m[at.G_HEAP]:
            more = (old - self.packets_at) // at.P_WORDS
            self._extend(more * at.P_WORDS)
            self._add_packets(old, more)
            return
        heap = m[m[at.G_HEAP_AT] :][: room * at.EVENT_WORDS]
        self._extend(2 * heap.size)
        self.m[old : old + heap.size] = heap
        self.m[at.G_HEAP_AT], self.m[at.G_HEAP_ROOM] = old, 2 * room

    def _extend(self, words: int) -> None:
        link_at, flow_at = self._at(self.links), self._at(self.flows)
        self.m = np.concatenate([self.m, np.zeros(words, dtype=np.int64)])
        self.links = self.m[link_at : link_at + self.links.size].reshape(self.links.shape)
        self.flows = self.m[flow_at : flow_at + self.flows.size].reshape(self.flows.shape)

    def _at(self, view: Ints) -> int:
        start = view.__array_interface__["data"][0] - self.m.__array_interface__["data"][0]
        return int(start) // 8

    def _add_packets(self, start: int, count: int) -> None:
        rows = self.m[start : start + count * at.P_WORDS].reshape(-1, at.P_WORDS)
        rows[:, at.P_NEXT] = start + at.P_WORDS * np.arange(1, count + 1)
        rows[-1, at.P_NEXT] = self.m[at.G_FREE]
        self.m[at.G_FREE] = start
        self.m[at.G_FREE_COUNT] += count

    def _draw(self, scenario: Scenario, seed: int) -> None:
        """Where each sender's walk over entropies and planes begins."""
        rng = np.random.default_rng([seed, 0xE7])
        self.flows[:, at.S_XOR] = rng.integers(0, scenario.entropies, len(self.flows))
        self.flows[:, at.S_PLANE] = rng.integers(0, scenario.clos.planes, len(self.flows))

    def _start(self, flows: Flows, lanes_at: int, flows_at: int) -> None:
        """All flows into the lane of starts, in order of time."""
        m, lane = self.m, at.LANE_START
        order = np.argsort(flows.start_ps, kind="stable")
        events = m[lanes_at : lanes_at + at.EVENT_WORDS * len(order)].reshape(-1, at.EVENT_WORDS)
        events[:, 0] = flows.start_ps[order]
        events[:, 1] = np.arange(len(order))
        events[:, 2] = at.E_START + at.KINDS * (flows_at + at.S_WORDS * order)
        m[lane + at.LN_COUNT] = len(order)
        m[lane + at.LN_TIME] = events[0, 0]
        m[lane + at.LN_SEQ] = 0
        m[at.G_SEQ] = len(order)


def network_of(clos: Clos, transport: Transport) -> Network:
    """What a congestion control is told."""
    return Network(
        rtt_ps=clos.base_rtt_ps(transport.wire_bytes, transport.ack_bytes),
        byte_ps=8000.0 / (clos.fabric.link_gbps * clos.planes),
        wire_bytes=transport.wire_bytes,
        payload_bytes=transport.payload_bytes,
        trims=transport.full_queue == "trim",
        hops=clos.diameter_links,
    )


def queue_bytes(network: Network, bdp: float) -> int:
    """So many bandwidth-delay products in whole packets, as the reference rounds them."""
    packets = np.ceil(network.bdp_bytes / network.wire_bytes)
    return int(np.ceil(packets * bdp)) * network.wire_bytes


def needed_bytes(scenario: Scenario, flows: Flows) -> int:
    """Memory of a run, packets under way not counted."""
    payload = scenario.transport.payload_bytes
    packets = int((-(-flows.payload_bytes // payload)).sum())
    each_flow = at.S_WORDS + RINGS.get(scenario.balancing, 0) + 6 * at.EVENT_WORDS
    if scenario.balancing in ("bitmap", "mixed"):
        each_flow += scenario.entropies
    each_link = at.L_WORDS + 16 * at.EVENT_WORDS
    words = packets * at.T_WORDS + len(flows) * each_flow + scenario.clos.links * each_link
    return 8 * words


class _Lanes:
    """Which lane an event of which delay goes into."""

    def __init__(self, links: int, flows: int) -> None:
        self._of: dict[int, int] = {}
        self._flows = _power(flows)
        self._links = _power(min(max(4 * links, 1024), 1 << 18))

    def lane(self, delay_ps: int) -> int:
        """Odd delays beyond the number of lanes go into the heap."""
        found = self._of.get(delay_ps)
        if found is None:
            if len(self._of) == at.MAX_LANES - 2:
                return at.HEAP
            found = at.LANE_FREE + at.LN_WORDS * len(self._of)
            self._of[delay_ps] = found
        return found

    @property
    def _sizes(self) -> list[int]:
        return [self._flows, self._flows, *[self._links] * len(self._of)]

    @property
    def words(self) -> int:
        return at.EVENT_WORDS * sum(self._sizes)

    def write(self, m: Ints, start: int) -> None:
        """The heads of the lanes; their rings begin at `start`."""
        for index, size in enumerate(self._sizes):
            lane = at.LANES + at.LN_WORDS * index
            m[lane + at.LN_AT] = start
            m[lane + at.LN_MASK] = size - 1
            m[lane + at.LN_TIME] = at.NEVER
            start += at.EVENT_WORDS * size
        m[at.G_LANES_END] = at.LANES + at.LN_WORDS * len(self._sizes)


def _power(count: int) -> int:
    return 1 << max(4, int(count).bit_length())


def _globals(m: Ints, scenario: Scenario, network: Network, control: Control, seed: int) -> None:
    clos, transport = scenario.clos, scenario.transport
    drawn = np.random.SeedSequence([seed, 0x5EED]).generate_state(2, np.uint64)
    queue_us = queue_bytes(network, transport.queue_bdp) * network.byte_ps / PS_PER_US
    rto_us = PFC_TIMEOUT_US if transport.full_queue == "pause" else 15 + 6 * queue_us
    values = {
        at.G_RANDOM: int(drawn[0] >> np.uint64(1)) | 1,
        at.G_SALT: int(drawn[1] >> np.uint64(24)),
        at.G_CONGESTION: control.code,
        at.G_BALANCING: BALANCING.index(scenario.balancing),
        at.G_FULL_QUEUE: FULL_QUEUE.index(transport.full_queue),
        at.G_GO_BACK: int(transport.reliability == "go_back_n"),
        at.G_TELEMETRY: int(control.telemetry),
        at.G_WIRE: transport.wire_bytes,
        at.G_ACK: transport.ack_bytes,
        at.G_ACK_EVERY: transport.ack_every_bytes,
        at.G_RTO: round(rto_us * PS_PER_US),
        at.G_ENTROPIES: scenario.entropies,
        at.G_HOSTS: clos.hosts,
        at.G_SPINES: clos.spines,
        at.G_CORES: clos.cores,
        at.G_PLANES: clos.planes,
        at.G_PER_PLANE: clos.links_per_plane * at.L_WORDS,
        at.G_XOFF: transport.xoff_bytes,
        at.G_XON: transport.xon_bytes,
        at.G_NETWORK_RTT: round(network.rtt_ps),
        at.G_FLOWLET: round(network.rtt_ps),
        at.G_CNP_EVERY: CNP_EVERY_US * PS_PER_US if control.cnp else 0,
        at.G_PULL_BYTES: 4 * transport.payload_bytes,
    }
    for place, value in values.items():
        m[place] = value
    m[at.G_START_1 : at.G_START_1 + 5] = at.L_WORDS * np.array(clos.stage_starts[1:6])
    x = m.view(np.float64)
    x[at.GF_PULL_PS] = network.byte_ps / control.pace if control.credits else 0.0
    x[at.GF_MARK] = transport.ecn_max_probability
    numbers = control.numbers(network)
    x[at.GF_PARAMETERS : at.GF_PARAMETERS + len(numbers)] = numbers


def _links(
    clos: Clos, transport: Transport, network: Network, lanes: _Lanes
) -> tuple[Ints, Floats]:
    rows = np.zeros((clos.links_per_plane, at.L_WORDS), dtype=np.int64)
    floats = np.zeros((clos.links_per_plane, 4))
    heads = [at.L_LO_HEAD, at.L_LO_TAIL, at.L_HI_HEAD, at.L_HI_TAIL, at.L_SERVING]
    rows[:, [*heads, at.L_READY_HEAD, at.L_READY_TAIL]] = at.NONE
    rows[:, at.L_LEVEL_AT] = -PS_PER_US
    for stage in Stage:
        first = clos.stage_starts[stage]
        of_stage = slice(first, first + clos.stage_counts[stage])
        byte_ps = 8000.0 / clos.stage_gbps[stage]
        latency = clos.stage_latency_ps[stage]
        scale = network.byte_ps / byte_ps
        for column, value in {
            at.L_STAGE: int(stage),
            at.L_LATENCY: latency,
            at.L_ROOM: int(queue_bytes(network, transport.queue_bdp) * scale),
            at.L_ECN_LOW: int(queue_bytes(network, transport.ecn_low_bdp) * scale),
            at.L_ECN_HIGH: int(queue_bytes(network, transport.ecn_high_bdp) * scale),
            at.L_LANE_LATENCY: lanes.lane(latency),
            at.L_LANE_FULL: lanes.lane(int(transport.wire_bytes * byte_ps + 0.5)),
            at.L_LANE_ACK: lanes.lane(int(transport.ack_bytes * byte_ps + 0.5)),
        }.items():
            rows[of_stage, column] = value
        rows[of_stage, at.L_ENTERS] = _enters(clos, stage)
        floats[of_stage, 0] = byte_ps
    floats[:, at.LF_CAPACITY - at.LF_BYTE_PS] = 1.0
    return np.tile(rows, (clos.planes, 1)), np.tile(floats, (clos.planes, 1))


def _enters(clos: Clos, stage: Stage) -> Ints:
    """The switch (or host) that each link of a stage ends at, counted over its plane."""
    link = np.arange(clos.stage_counts[stage], dtype=np.int64)
    j, k = clos.spines, clos.cores
    if stage is Stage.HOST_UP:
        return clos.leaf_of(link)
    if stage is Stage.LEAF_DOWN:
        return link
    if stage is Stage.LEAF_UP:
        leaf, spine = np.divmod(link, j)
        return leaf // clos.fabric.leaves_per_pod * j + spine
    if stage is Stage.SPINE_DOWN:
        return link // j
    if stage is Stage.SPINE_UP:
        return link % (j * k)
    return link // k


def _flows(rows: Ints, clos: Clos, transport: Transport, flows: Flows, of_flows: int) -> None:
    payload = transport.payload_bytes
    packets = -(-flows.payload_bytes // payload)
    last = flows.payload_bytes - (packets - 1) * payload + transport.header_bytes
    long_ago = -at.NEVER >> 1
    columns: dict[int, Ints | int] = {
        at.S_SRC: flows.src,
        at.S_DST: flows.dst,
        at.S_SRC_LEAF: clos.leaf_of(flows.src),
        at.S_DST_LEAF: clos.leaf_of(flows.dst),
        at.S_SRC_POD: clos.pod_of(flows.src),
        at.S_DST_POD: clos.pod_of(flows.dst),
        at.S_PACKETS: packets,
        at.S_FIRST: of_flows + at.T_WORDS * (np.cumsum(packets) - packets),
        at.S_LAST_SIZE: last,
        at.S_START: flows.start_ps,
        at.S_BACKLOG: (packets - 1) * transport.wire_bytes + last,
        at.S_DONE_AT: at.NONE,
        at.S_READY_NEXT: at.NONE,
        at.S_CREDIT: 1 << 60,
        at.R_NACKED: at.NONE,
        at.R_PULL_NEXT: at.NONE,
        at.R_CNP_AT: long_ago,
        at.S_CHANGED_AT: long_ago,
    }
    for column, value in columns.items():
        rows[:, column] = value
