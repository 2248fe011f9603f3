"""Does a supernode keep what the link asks of it? Each rule with the figures it is judged on.

What could not be built at all is refused earlier (`BadSupernode`); these rules are about what can
be built and would be slow or fragile.
"""

from dataclasses import dataclass

from starloom.fabric.scaleup import codec
from starloom.fabric.scaleup.base import MAX_PAYLOAD
from starloom.fabric.scaleup.credits import cells, cells_for
from starloom.fabric.scaleup.figures import load_latency
from starloom.fabric.scaleup.port import LinkConfig
from starloom.fabric.scaleup.retry import window_for
from starloom.fabric.scaleup.topology import Supernode

LEAST_MARGIN_DB = 3.0
"""Left for ageing and temperature; assumed."""
MOST_LOST_WITH_A_CARD = 0.25
LEAST_EFFICIENCY = 0.9
"""Of 256-byte transactions, packed as the link packs them."""
MOST_LOAD_NS = 1000.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule's verdict."""

    rule: str
    kept: bool
    found: str


def conforms(plan: Supernode, link: LinkConfig) -> list[Finding]:
    """All rules, in a fixed order."""
    largest = codec.HEAD.size + codec.ENTRY.size + MAX_PAYLOAD + codec.CHECK.size
    round_trip = 2 * link.link_ns + link.send_ns + link.serial_ns(largest)
    room = max(cells_for(link.gbps, round_trip), cells(largest))
    window = window_for(link.gbps, round_trip, codec.LEAST + codec.CHECK.size)
    efficiency = codec.efficiency(256, link.pack)
    load_ns = load_latency(link).end_to_end_ns
    return [
        Finding(
            "a channel's room covers the round trip and the largest frame",
            link.room_cells >= room,
            f"{link.room_cells} cells of {room}",
        ),
        Finding(
            "retry keeps a round trip of the smallest frames",
            link.window >= window,
            f"{link.window} frames of {window}",
        ),
        Finding(
            "the retry timeout is longer than a round trip",
            link.timeout_ns > 2 * round_trip,
            f"{link.timeout_ns:g} ns, round trip {round_trip:.0f}",
        ),
        Finding(
            f"256-byte transactions reach {LEAST_EFFICIENCY:.0%} of the wire",
            efficiency >= LEAST_EFFICIENCY,
            f"{efficiency:.1%} with {link.pack} packed",
        ),
        Finding(
            f"a load of 64 bytes takes at most {MOST_LOAD_NS:g} ns",
            load_ns <= MOST_LOAD_NS,
            f"{load_ns:.0f} ns",
        ),
        Finding(
            f"the path keeps {LEAST_MARGIN_DB:g} dB in hand",
            plan.margin_db >= LEAST_MARGIN_DB,
            f"{plan.margin_db:.1f} dB",
        ),
        Finding(
            f"a dead card costs at most {MOST_LOST_WITH_A_CARD:.0%}",
            plan.lost_with_a_card <= MOST_LOST_WITH_A_CARD,
            f"{plan.lost_with_a_card:.1%}",
        ),
        Finding(
            "the plan's links and the link agree on their rate",
            plan.gbps_per_card == link.gbps,
            f"{plan.gbps_per_card:g} and {link.gbps:g} Gb/s",
        ),
    ]
