"""Efficiency and latency of this link beside the published figures of others.

100 ns from end to end, as is sometimes claimed of scale-up links, is below every published *switch*
alone (150 to 250 ns; 130 ns is a simulator's default). It can only be one hop's protocol and port
latency; a load to use is several times that, and a collective's step was validated at 936 ns on an
H100 (ASTRA-sim's HGX-H100 network file).
"""

from dataclasses import dataclass

from starloom.fabric.scaleup import codec
from starloom.fabric.scaleup.base import WIRE_EXTRA_BYTES
from starloom.fabric.scaleup.port import LinkConfig
from starloom.site.catalogue import scale_up_protocols
from starloom.site.links import ScaleUpProtocol

CLAIMED_NS = 100.0
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True)
class Latency:
    """Where the time of one transaction goes, unloaded; a supernode that runs takes the same."""

    send_ns: float
    serial_ns: float
    link_ns: float
    switch_ns: float
    memory_ns: float
    answer_ns: float

    @property
    def hop_ns(self) -> float:
        """One port and one wire, without the switch: what a claim of 100 ns can be about."""
        return self.send_ns + self.serial_ns / 2 + self.link_ns / 2

    @property
    def one_way_ns(self) -> float:
        """From asking until the last bit is at the owner."""
        return self.send_ns + self.serial_ns + self.link_ns + self.switch_ns

    @property
    def end_to_end_ns(self) -> float:
        """Until the answer is back: load to use, store to done."""
        return self.one_way_ns + self.memory_ns + self.answer_ns


def latency(config: LinkConfig, asked_bytes: int, answered_bytes: int, *, reads: bool) -> Latency:
    """Two links and a switch each way, store and forward; payload bytes each way."""

    def serial(payload: int) -> float:
        return codec.wire_bytes([payload]) * 8 / config.gbps

    back = 2 * (config.send_ns + serial(answered_bytes) + config.link_ns) + config.switch_ns
    return Latency(
        send_ns=2 * config.send_ns,
        serial_ns=2 * serial(asked_bytes),
        link_ns=2 * config.link_ns,
        switch_ns=config.switch_ns,
        memory_ns=config.memory_ns if reads else 0.0,
        answer_ns=back,
    )


def load_latency(config: LinkConfig, size_bytes: int = 64) -> Latency:
    return latency(config, 4, size_bytes, reads=True)


def store_latency(config: LinkConfig, size_bytes: int = 64) -> Latency:
    return latency(config, size_bytes, 0, reads=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One protocol's efficiency, of the header where it is known and as published."""

    name: str
    payload_bytes: int
    derived: float | None
    published: float | None
    switch_ns: float | None
    end_to_end_ns: float | None
    source: str


def protocol_efficiency(protocol: ScaleUpProtocol, payload_bytes: int) -> float | None:
    """P / (P + H + gap); none where no header is known."""
    if protocol.header_bytes is None:
        return None
    return payload_bytes / (payload_bytes + protocol.header_bytes + protocol.gap_bytes)


def comparison(config: LinkConfig | None = None, packed: int = 8) -> list[Row]:
    """Ours (one transaction a frame, then `packed`), and the published ones."""
    config = config or LinkConfig()
    header = codec.HEAD.size + codec.ENTRY.size + codec.CHECK.size
    own = f"header {header}, preamble and gap {WIRE_EXTRA_BYTES}; this model"
    end_ns = load_latency(config).end_to_end_ns
    rows = [
        Row("this link", 256, codec.efficiency(256), None, config.switch_ns, end_ns, own),
        Row(
            f"this link, {packed} packed",
            256,
            codec.efficiency(256, packed),
            None,
            config.switch_ns,
            end_ns,
            own,
        ),
    ]
    published = [
        Row(
            one.name,
            one.payload_bytes,
            protocol_efficiency(one, one.payload_bytes),
            one.published_efficiency,
            one.switch_ns,
            one.end_to_end_ns,
            one.source,
        )
        for one in scale_up_protocols().values()
    ]
    return rows + published


def least_published_switch_ns() -> float:
    """The fastest switch that anyone published."""
    return min(one.switch_ns for one in scale_up_protocols().values() if one.switch_ns)


def stands(claimed_ns: float = CLAIMED_NS) -> str:
    """What a claim of so many nanoseconds from end to end is worth, in a sentence."""
    switch, ours = least_published_switch_ns(), load_latency(LinkConfig()).end_to_end_ns
    if claimed_ns < switch:
        return (
            f"{claimed_ns:g} ns end to end is below the fastest published scale-up switch alone"
            f" ({switch:g} ns); a 64-byte load takes {ours:.0f} ns in this model"
        )
    return (
        f"{claimed_ns:g} ns leaves {claimed_ns - switch:g} ns beside the fastest published switch"
    )
