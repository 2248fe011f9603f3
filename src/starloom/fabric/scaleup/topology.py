"""Supernodes and clusters of them in closed form: parts, hops, loss of a card, budgets.

Orthogonal (OEX): chip boards stand at right angles to switch cards and mate with each directly;
every chip has one link to every card, so that one switch hop joins any two chips and the death of
one card costs each chip 1/m of its rate. A cable tray joins the same parts by cables.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from starloom.fabric.scaleup.errors import BadSupernode

LANE_BUDGET_DB = 28.0
"""Ball to ball at 26.56 GHz for lanes of 106 Gb/s (IEEE 802.3ck, 100GBASE-KR1)."""
HOURS_PER_YEAR = 8766
WATER_J_PER_L_K = 4186.0 * 0.998


@dataclass(frozen=True, slots=True)
class Part:
    """Something that a lane passes; losses are assumed, of good laminates and connectors."""

    name: str
    loss_db: float
    fits: float = 0.0
    """Failures in 10**9 hours of one such part."""


ORTHOGONAL = (
    Part("chip board, 15 cm", 5.3),
    Part("orthogonal connector", 1.5, fits=10),
    Part("switch card, 20 cm", 7.0),
)
CABLE_TRAY = (
    Part("chip board, 10 cm", 3.5),
    Part("connector", 1.2, fits=10),
    Part("cable, 1.2 m", 8.4, fits=20),
    Part("connector", 1.2, fits=10),
    Part("switch card, 12 cm", 4.2),
)


@dataclass(frozen=True, slots=True)
class Supernode:
    """Chips around switch cards, one level."""

    chips: int
    cards: int = 8
    gbps_per_card: float = 400.0
    """One chip's link to one card, each way."""
    asic_gbps: float = 51_200.0
    """What one card switches."""
    lane_gbps: float = 100.0
    chips_per_board: int = 4
    path: tuple[Part, ...] = ORTHOGONAL
    chip_w: float = 1000.0
    card_w: float = 900.0
    """Assumed: one switch ASIC and what surrounds it."""

    def __post_init__(self) -> None:
        if self.chips < 2 or self.cards < 1 or self.chips % self.chips_per_board:
            raise BadSupernode(
                f"{self.chips} chips, {self.chips_per_board} a board, {self.cards} cards:"
                " give full boards and at least one card"
            )
        needs = self.chips * self.gbps_per_card
        if needs > self.asic_gbps:
            raise BadSupernode(
                f"{self.chips} chips of {self.gbps_per_card:g} Gb/s need {needs:g} Gb/s of a card,"
                f" which switches {self.asic_gbps:g}: use more cards with slower links each"
            )
        if self.margin_db < 0:
            raise BadSupernode(
                f"the path loses {self.loss_db:.1f} dB of {LANE_BUDGET_DB:g}: shorten it or retime"
            )

    @property
    def gb_per_s(self) -> float:
        """Of one chip, each way, in 10**9 bytes, before headers."""
        return self.cards * self.gbps_per_card / 8

    @property
    def switch_hops(self) -> int:
        return 1

    @property
    def lost_with_a_card(self) -> float:
        """Share of every chip's rate."""
        return 1 / self.cards

    @property
    def boards(self) -> int:
        return self.chips // self.chips_per_board

    @property
    def lanes(self) -> int:
        return ceil(self.chips * self.cards * self.gbps_per_card / self.lane_gbps)

    @property
    def joints(self) -> int:
        """Board-to-card meetings: one connector each where they stand at right angles."""
        return self.boards * self.cards

    @property
    def cables(self) -> int:
        """One a joint where the path has a cable."""
        return self.joints if any(part.name.startswith("cable") for part in self.path) else 0

    @property
    def loss_db(self) -> float:
        return sum(part.loss_db for part in self.path)

    @property
    def margin_db(self) -> float:
        return LANE_BUDGET_DB - self.loss_db

    @property
    def failures_per_year(self) -> float:
        """Of connectors and cables."""
        return self.joints * sum(part.fits for part in self.path) * HOURS_PER_YEAR / 1e9

    @property
    def power_w(self) -> float:
        return self.chips * self.chip_w + self.cards * self.card_w

    def coolant_l_per_min(self, rise_k: float = 10.0) -> float:
        """Water that carries all of it away at this rise: P / (rho c dT)."""
        return self.power_w / (WATER_J_PER_L_K * rise_k) * 60


OEX32 = Supernode(chips=32)
OEX128 = Supernode(chips=128)


class Upper(StrEnum):
    """What joins supernodes."""

    ELECTRICAL = "electrical"
    """Packet switches behind optics."""
    CIRCUIT = "circuit"
    """Optical circuit switches alone: who talks to whom is set beforehand."""
    BOTH = "both"
    """Half of the uplinks each."""


class Scope(StrEnum):
    """What a group of chips shares."""

    SUPERNODE = "supernode"
    """One switch hop, one address space, load and store; one operating system image may span it."""
    SUPERPOD = "superpod"
    """Load and store by unified addresses across supernodes; an operating system for each."""
    SUPERCLUSTER = "supercluster"
    """Messages only: addresses end at the network."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Supernodes joined by one or two levels above their cards."""

    name: str
    supernodes: int
    supernode: Supernode
    uplinks_per_card: int
    """Ports of `port_gbps` from each card to the level above."""
    radix: int = 64
    port_gbps: float = 800.0
    upper: Upper = Upper.ELECTRICAL
    reconfigure_s: float = 0.03
    """Of circuit switches; tens of milliseconds are usual of mirrors, assumed."""

    def __post_init__(self) -> None:
        card = self.supernode
        used = card.chips * card.gbps_per_card + self.uplinks_per_card * self.port_gbps
        if self.supernodes < 2 or self.uplinks_per_card < 1:
            raise BadSupernode(f"{self.name}: give two supernodes or more, and uplinks")
        if used > card.asic_gbps:
            raise BadSupernode(
                f"{self.name}: a card would switch {used:g} Gb/s and can {card.asic_gbps:g}:"
                " fewer uplinks, or fewer chips in a supernode"
            )
        if self.supernodes > self.radix**2 // 2:
            raise BadSupernode(
                f"{self.name}: two levels of radix {self.radix} join {self.radix**2 // 2} cards:"
                " use larger supernodes"
            )

    @property
    def chips(self) -> int:
        return self.supernodes * self.supernode.chips

    @property
    def upper_levels(self) -> int:
        return 1 if self.supernodes <= self.radix or self.upper is Upper.CIRCUIT else 2

    @property
    def convergence(self) -> float:
        """A chip's rate inside over its share of the uplinks."""
        card = self.supernode
        return card.chips * card.gbps_per_card / (self.uplinks_per_card * self.port_gbps)

    @property
    def uplinks(self) -> int:
        return self.supernodes * self.supernode.cards * self.uplinks_per_card

    @property
    def electrical_uplinks(self) -> int:
        share = {Upper.ELECTRICAL: 1.0, Upper.CIRCUIT: 0.0, Upper.BOTH: 0.5}[self.upper]
        return round(self.uplinks * share)

    @property
    def upper_switches(self) -> int:
        """Packet switches: one level has ports for every uplink, two levels three times as many."""
        ports = self.electrical_uplinks * (1 if self.upper_levels == 1 else 3)
        return ceil(ports / self.radix)

    @property
    def circuit_ports(self) -> int:
        return self.uplinks - self.electrical_uplinks

    @property
    def optics(self) -> int:
        """Optical ends: two a packet link, one a circuit port (the mirror has none)."""
        links = self.electrical_uplinks * (1 if self.upper_levels == 1 else 2)
        return 2 * links + self.circuit_ports

    @property
    def switch_hops(self) -> int:
        """Packet switches on the longest way."""
        return 2 if self.upper is Upper.CIRCUIT else 1 + 2 * self.upper_levels

    def scope(self, group: int, *, unified_nodes: int = 1024) -> Scope:
        """What a group of so many chips can share, with addresses for `unified_nodes` of them.

        Raises `BadSupernode` for a group that the cluster does not hold.
        """
        if not 1 <= group <= self.chips:
            raise BadSupernode(f"{self.name}: {group} chips of {self.chips}")
        if group <= self.supernode.chips:
            return Scope.SUPERNODE
        return Scope.SUPERPOD if group <= unified_nodes else Scope.SUPERCLUSTER


def circuit_pays_from_bytes(
    before_gb_per_s: float, after_gb_per_s: float, reconfigure_s: float
) -> float:
    """Bytes between two ends from which setting a circuit first is faster than not.

    V / before = V / after + t, so V = t before after / (after - before). Infinite where the circuit
    is not faster.
    """
    if after_gb_per_s <= before_gb_per_s:
        return float("inf")
    gain = after_gb_per_s - before_gb_per_s
    return 1e9 * reconfigure_s * before_gb_per_s * after_gb_per_s / gain


def clusters() -> list[Cluster]:
    """256, 800, 8,192 and 16,384 chips, the card's ports divided between chips and uplinks."""
    small = Supernode(chips=32)
    # A card of 51.2T with 64 chips of 400G has 25.6T left: 32 uplinks of 800G, no convergence.
    large = Supernode(chips=64)
    return [
        Cluster("X256", 8, small, uplinks_per_card=16),
        Cluster("X800", 25, small, uplinks_per_card=16),
        Cluster("X8192", 128, large, uplinks_per_card=32),
        Cluster("X16384", 256, large, uplinks_per_card=32),
    ]
