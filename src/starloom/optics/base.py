"""What a link is made of: the nouns of a link file.

Powers are per channel unless a name says total. Losses are positive numbers in dB. Frequencies are
optical, in THz; baud rates in GBd. Order is the way of the light: the booster launches into the
first span, and each span ends with an amplifier, the last one being the receiver's preamplifier.
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from starloom.optics.latency import us_per_km
from starloom.site.base import Count, Name, Noun, Positive

Floats = NDArray[np.float64]
Loss = Annotated[float, Field(ge=0, le=100)]
Verified = Literal["yes", "partial", "no"]

C_M_PER_S = 299_792_458.0
PLANCK_J_S = 6.626_070_15e-34
REFERENCE_GHZ = 12.5
"""Bandwidth of an OSNR: 0.1 nm near 1550 nm."""
SPLICE_DB = {("hollow", "hollow"): 0.05, ("hollow", "solid"): 0.3, ("solid", "solid"): 0.02}
"""Joints by the kinds of fibre on both sides. Hollow ones as a 20 km field cable of 2024 was
reported (HCF-HCF 0.05 dB, HCF-SMF below 0.3 dB); solid to solid is a usual fusion splice."""


class Gas(Noun):
    """What fills a hollow core. Dry nitrogen or argon absorbs nothing: leave all at zero."""

    co2_ppm: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    h2o_ppm: Annotated[float, Field(ge=0, le=1e5)] = 0.0
    """Approximate: see `gas.py`."""
    pressure_atm: Annotated[float, Field(gt=0, le=20)] = 1.0
    temperature_k: Annotated[float, Field(ge=200, le=350)] = 296.0


class Fibre(Noun):
    """A kind of fibre, as a data sheet tells it at 1550 nm."""

    name: Name
    kind: Literal["solid", "hollow"]
    loss_db_per_km: Positive
    loss_by_thz: tuple[tuple[Positive, Positive], ...] = ()
    """(THz, dB/km) in rising order where loss depends on frequency; between them it is a line."""
    dispersion_ps_per_nm_km: float
    dispersion_slope_ps_per_nm2_km: float | None = None
    """Where absent, D grows as frequency squared, which keeps beta2's ratio to D as at 1550 nm."""
    effective_area_um2: Positive
    n2_m2_per_w: Positive
    """Kerr index: silica 2.6e-20."""
    group_index: Annotated[float, Field(ge=1, le=2)]
    pmd_ps_per_sqrt_km: Annotated[float, Field(ge=0)] = 0.0
    imi_db_per_km: Annotated[float, Field(lt=0)] | None = None
    """Inter-modal interference that a kilometre adds, below the signal; none in a single mode."""
    raman: bool
    """Whether light scatters off glass (SRS)."""
    drum_km: Positive | None = None
    """Length between splices of the same fibre; none are counted where absent."""
    backscatter_db: Annotated[float, Field(le=0)] = 0.0
    """Rayleigh backscatter against a standard single-mode fibre."""
    max_total_dbm: float | None = None
    """Total power above which the fibre itself may burn (fibre fuse)."""
    source: str
    verified: Verified

    @model_validator(mode="after")
    def _holds(self) -> "Fibre":
        rising = [thz for thz, _ in self.loss_by_thz]
        if len(rising) == 1 or rising != sorted(set(rising)):
            raise ValueError("`loss_by_thz` needs two or more points with rising frequencies")
        if self.dispersion_ps_per_nm_km == 0:
            raise ValueError("the GN model needs dispersion: give a small value instead of zero")
        return self

    @property
    def us_per_km(self) -> float:
        return us_per_km(self.group_index)


class Amplifier(Noun):
    """A lumped amplifier, flat over its band."""

    name: Name
    noise_figure_db: Annotated[float, Field(ge=3, le=20)]
    """3 dB is the quantum limit at high gain."""
    max_output_dbm: float
    """Total."""
    from_thz: Positive
    to_thz: Positive
    fibre_m: Annotated[float, Field(ge=0)] = 0.0
    """Doped fibre and pigtails inside, for latency."""
    mtbf_h: Positive | None = None
    source: str
    verified: Verified


class Mode(Noun):
    """How a transponder sends: line rate, baud rate, and the OSNR that it needs."""

    name: Name
    rate_gbps: Positive
    """Client bits."""
    baud_gbd: Positive
    slot_ghz: Positive
    required_osnr_db: float
    """In 0.1 nm, back to back, at the limit of its error correction."""
    max_cd_ps_per_nm: Positive = 80_000.0
    max_pmd_ps: Positive = 30.0
    source: str
    verified: Verified

    @model_validator(mode="after")
    def _fits(self) -> "Mode":
        if self.baud_gbd > self.slot_ghz:
            raise ValueError(f"{self.baud_gbd:g} GBd do not fit a slot of {self.slot_ghz:g} GHz")
        return self


class Transceiver(Noun):
    """What the ends add, whatever the fibre. Defaults are assumed, of a good module of 2025."""

    enob_bits: Positive = 6.0
    """Effective bits of each converter: one DAC, one ADC."""
    papr_db: Loss = 9.0
    """Peak to average power of the signal at the converters."""
    linewidth_khz: Annotated[float, Field(ge=0)] = 50.0
    """Of each laser: transmitter and local oscillator."""
    pilot_every: Count = 32
    """Symbols between the pilots that the carrier's phase is read from."""
    tx_osnr_db: float | None = None
    """Of the transmitter with its booster, in 0.1 nm."""
    pdl_db: Loss = 0.0
    """Of each amplifier site; sites add as root of squares."""
    equaliser: Literal["none", "receiver", "both"] = "receiver"
    """Who evens out a gas line: nobody, the receiver, or pre-emphasis and receiver together."""
    latency_us: Annotated[float, Field(ge=0)] = 0.0
    """Of both ends together, one way: mapping, error correction, DSP."""


class Section(Noun):
    """A piece of one fibre."""

    fibre: Name
    km: Positive
    gas: Gas = Gas()
    loss_db_per_km: Positive | None = None
    """Where the cable on site differs from the data sheet."""
    joint_db: Loss | None = None
    """Loss of the joint to the next section; by the kinds of fibre where absent."""


class Span(Noun):
    """Sections between two amplifiers, and the amplifier at the end."""

    sections: Annotated[tuple[Section, ...], Field(min_length=1)]
    repeat: Annotated[int, Field(ge=1, le=1000)] = 1
    connectors_db: tuple[Loss, Loss] = (0.0, 0.0)
    """Loss of the connectors at the start and at the end."""
    connector_max_dbm: float | None = None
    """Total power that connectors and splices of this span may take."""
    ageing_db: Loss = 0.0
    repairs: Annotated[int, Field(ge=0)] = 0
    """Cuts to be mended over the cable's life: two splices of its first section's fibre each."""
    amplifier: Name | None = None
    gain_db: Loss | None = None
    """Flat gain of the amplifier; where absent it restores the launch power of each channel."""


class Stage(Noun):
    """Equipment on the way that takes time."""

    name: str
    us: Annotated[float, Field(ge=0)]


class Latency(Noun):
    """The latency question of a link."""

    equipment: tuple[Stage, ...] = ()
    """One way, beside the transceivers."""
    back_extra_km: float = 0.0
    """The way back is longer by this much of the first fibre (shorter: below zero)."""
    max_round_trip_us: Positive | None = None
    max_one_way_us: Positive | None = None


class Protection(Noun):
    """How a link survives a cut."""

    scheme: Literal["none", "client", "channel", "section", "odu-sncp"] = "none"
    diverse_km: Positive | None = None
    """Length of the protecting path; the working one's where absent."""
    diverse_fibre: Name | None = None
    hitless: bool = False
    """Both copies run, and the receiver picks frame by frame: needs a skew buffer."""
    fibre_mtbf_km_h: Positive = 4.38e6
    """Cable-kilometre hours between cuts: 2 a year on 1,000 km, assumed, after what carriers
    report of buried long-haul cable (about 1 to 4)."""
    fibre_mttr_h: Positive = 12.0
    equipment_mtbf_h: Positive = 200_000.0
    """Of a transponder end; assumed."""
    equipment_mttr_h: Positive = 4.0


class GroundWire(Noun):
    """Fibre within the earth wire of a power line (OPGW), and what strikes it."""

    rise_a_per_s: Positive = 1e11
    """Of a stroke's current; a first stroke's front is of this order."""
    struck_m: Positive = 100.0
    """Of wire that carries it."""
    receiver_rad_per_s: Positive = 1e6
    """How fast a polarisation the receiver follows; assumed."""


class Otdr(Noun):
    """The reflectometer that watches the fibre."""

    dynamic_range_db: Positive = 40.0
    """On standard single-mode fibre, one way."""
    margin_db: Loss = 3.0
    pulse_ns: Positive = 1000.0
    two_ended: bool = True


class Band(Noun):
    """A range of frequencies that carries channels."""

    name: Name
    from_thz: Positive
    to_thz: Positive

    @model_validator(mode="after")
    def _rises(self) -> "Band":
        if self.to_thz <= self.from_thz:
            raise ValueError(f"a band from {self.from_thz:g} to {self.to_thz:g} THz: swap the ends")
        return self
