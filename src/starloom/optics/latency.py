"""How long light and equipment take: group index, one way, round trip, asymmetry.

Light in a fibre of group index n_g takes n_g / c: 3.33564 us/km in vacuum, 4.897 us/km in a
standard single-mode fibre (n_g 1.468), 3.337-3.38 us/km in hollow-core fibres (n_g 1.0003-1.0133).
A hollow-core figure of 3.33 us/km, as is often printed, is faster than light: it is refused here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from starloom.optics.errors import BadLink

C_KM_PER_S = 299_792.458
"""Speed of light in vacuum, exact by definition of the metre (SI)."""
VACUUM_US_PER_KM = 1e6 / C_KM_PER_S

SMF_GROUP_INDEX = 1.468
"""G.652 at 1550 nm; data sheets print 1.4676-1.4682 (4.895-4.897 us/km)."""
HCF_GROUP_INDEX = 1.0013
"""Anti-resonant hollow-core, 3.340 us/km: within the range of published cables, which print
3.337-3.38. The light runs in air (n 1.00027); waveguide dispersion and the cable's excess length
add the rest. Assumed where a cable's own figure is not given."""


def us_per_km(group_index: float) -> float:
    """One-way delay of a kilometre of fibre; raises `BadLink` for an index below vacuum's."""
    if not group_index >= 1.0:
        raise BadLink(
            f"group index {group_index:g} is below 1, faster than light in vacuum:"
            f" give {HCF_GROUP_INDEX} for hollow-core, {SMF_GROUP_INDEX} for solid-core fibre"
        )
    return group_index * VACUUM_US_PER_KM


def group_index(us_per_km: float) -> float:
    """The inverse of `us_per_km`; raises `BadLink` for a delay below vacuum's 3.33564 us/km."""
    if not us_per_km >= VACUUM_US_PER_KM:
        raise BadLink(
            f"{us_per_km:g} us/km is faster than light in vacuum ({VACUUM_US_PER_KM:.5f} us/km):"
            " hollow-core cables measure 3.337-3.38"
        )
    return us_per_km / VACUUM_US_PER_KM


def fibre_us(length_km: float, group_index: float = SMF_GROUP_INDEX) -> float:
    """One-way delay of a fibre."""
    if not length_km >= 0:
        raise BadLink(f"a fibre of {length_km:g} km: give a length of zero or more")
    return length_km * us_per_km(group_index)


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of a path that takes time: a fibre, a transponder, a switch."""

    name: str
    us: float
    """One way."""
    is_fibre: bool = False


def fibre_stage(name: str, length_km: float, group_index: float = SMF_GROUP_INDEX) -> Stage:
    """A fibre as a stage of a path."""
    return Stage(name, fibre_us(length_km, group_index), is_fibre=True)


@dataclass(frozen=True, slots=True)
class LatencyBudget:
    """Where the time of a path goes, there and back. The way back is the same where not given."""

    forth: Sequence[Stage]
    back: Sequence[Stage] | None = None

    @property
    def one_way_us(self) -> float:
        return sum(stage.us for stage in self.forth)

    @property
    def back_us(self) -> float:
        return self.one_way_us if self.back is None else sum(stage.us for stage in self.back)

    @property
    def round_trip_us(self) -> float:
        return self.one_way_us + self.back_us

    @property
    def fibre_round_trip_us(self) -> float:
        back = self.forth if self.back is None else self.back
        return sum(stage.us for stage in (*self.forth, *back) if stage.is_fibre)

    @property
    def equipment_round_trip_us(self) -> float:
        return self.round_trip_us - self.fibre_round_trip_us

    @property
    def asymmetry_us(self) -> float:
        """Forth less back."""
        return self.one_way_us - self.back_us

    @property
    def clock_error_us(self) -> float:
        """What two-way time transfer (PTP, IEEE 1588) errs by, which takes both ways for equal."""
        return self.asymmetry_us / 2

    def left_us(self, round_trip_us: float) -> float:
        """What a round-trip limit, or a measured round trip, leaves over; below zero: too slow."""
        return round_trip_us - self.round_trip_us


OTU4_FRAME_US = 1.168
"""ITU-T G.709, table 7-3."""


def encryption_us(frames: int = 4) -> float:
    """One way through an OTN encryptor and its decryptor that hold `frames` OTU4 frames each.

    Ciphers of layer 1 work on whole frames; how many a product holds is on its data sheet.
    """
    return 2 * frames * OTU4_FRAME_US
