"""GNPy's JSON as a link: one line between two transceivers of a topology."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from starloom.optics.base import Amplifier, Band, Fibre, Mode, Section, Span
from starloom.optics.errors import BadTopology
from starloom.optics.link import Link

Json = dict[str, Any]
_VARIETIES = {"SSMF": "smf"}
_PASSED = ("Roadm",)
"""Elements that may stand beside a transceiver; their own noise is not counted."""


def from_gnpy(
    topology: Mapping[str, Any],
    equipment: Mapping[str, Any] | None = None,
    spectrum: Mapping[str, Any] | None = None,
    *,
    ends: tuple[str, str] | None = None,
) -> Link:
    """The line between two transceivers (the first two where `ends` is absent) as a link.

    `equipment` gives amplifiers, fibres and a spectrum (`SI`); `spectrum` replaces that one.
    Without both, amplifiers have a noise figure of 5 dB and there are 96 channels of 32 GBd. Raises
    `BadTopology` for a part that this room does not model, by its uid.
    """
    kit = _Kit(equipment or {}, spectrum or {})
    spans: list[Span] = []
    sections: list[Section] = []
    begin_db, end_db = 0.0, 0.0
    for element in _path(topology, ends):
        uid, kind = element["uid"], element["type"]
        params = element.get("params", {})
        if kind == "Fiber":
            if sections:
                sections[-1] = sections[-1].model_copy(update={"joint_db": end_db})
            into_db = (params.get("att_in") or 0) + kit.connector(params, "con_in")
            if sections and into_db:
                joint = (sections[-1].joint_db or 0) + into_db
                sections[-1] = sections[-1].model_copy(update={"joint_db": joint})
            begin_db = begin_db if sections else into_db
            sections += _sections(element, kit)
            end_db = kit.connector(params, "con_out")
        elif kind == "Fused":
            end_db += params.get("loss", 1.0)
        elif kind in ("Edfa", "Multiband_amplifier"):
            if not sections:
                kit.booster = kit.amplifier(element)
                continue
            spans.append(_span(element, kit, sections, (begin_db, end_db)))
            sections, begin_db, end_db = [], 0.0, 0.0
        elif kind != "Transceiver":
            raise BadTopology(f"element {uid!r}: a {kind} within a line is not modelled here")
    if sections:
        spans.append(Span(sections=tuple(sections), connectors_db=(begin_db, end_db)))
    if not spans:
        raise BadTopology("there is no fibre between the two transceivers")
    return kit.link(str(topology.get("network_name", "gnpy")), spans)


@dataclass(slots=True)
class _Kit:
    """What an equipment file knows, and what was made of it so far."""

    equipment: Mapping[str, Any]
    spectrum: Mapping[str, Any]
    fibres: dict[str, Fibre] = field(default_factory=dict)
    amplifiers: dict[str, Amplifier] = field(default_factory=dict)
    booster: str | None = None

    def _entry(self, kind: str, variety: str) -> Json:
        entries: Iterable[Json] = self.equipment.get(kind, ())
        return next((e for e in entries if e.get("type_variety", "default") == variety), {})

    def connector(self, params: Mapping[str, Any], key: str) -> float:
        given = params.get(key)
        return float(self._entry("Span", "default").get(key, 0) if given is None else given)

    def fibre(self, element: Mapping[str, Any]) -> str:
        variety, params = element.get("type_variety", "SSMF"), element.get("params", {})
        entry = {**self._entry("Fiber", variety), **params}
        known = ("dispersion", "effective_area", "pmd_coef", "dispersion_slope")
        entry = {key: entry[key] for key in known if entry.get(key) is not None}
        name = _plain(_VARIETIES.get(variety, variety))
        if not entry and name == "smf":
            return name
        name = f"gnpy-{name}"
        slope = entry.get("dispersion_slope")
        loss = entry_loss(params)
        self.fibres.setdefault(
            name,
            Fibre(
                name=name,
                kind="solid",
                loss_db_per_km=loss,
                dispersion_ps_per_nm_km=entry.get("dispersion", 1.67e-5) * 1e6,
                dispersion_slope_ps_per_nm2_km=None if slope is None else slope / 1e3,
                effective_area_um2=entry.get("effective_area", 83e-12) * 1e12,
                n2_m2_per_w=2.6e-20,
                group_index=1.468,
                pmd_ps_per_sqrt_km=entry.get("pmd_coef", 1.265e-15) * 1e12 * 1e3**0.5,
                raman=True,
                source="GNPy's equipment file; n2 and group index are fixed in GNPy",
                verified="partial",
            ),
        )
        return name

    def amplifier(self, element: Mapping[str, Any]) -> str:
        if element["type"] == "Multiband_amplifier":
            return self.amplifier({**element["amplifiers"][0], "type": "Edfa"})
        variety = element.get("type_variety") or "default"
        entry = self._entry("Edfa", variety)
        name = f"gnpy-{_plain(variety)}"
        self.amplifiers.setdefault(
            name,
            Amplifier(
                name=name,
                noise_figure_db=_noise_figure(entry, element.get("operational", {})),
                max_output_dbm=entry.get("p_max", 23.0),
                from_thz=180.0,
                to_thz=200.0,
                source="GNPy's equipment file; the band is taken to be wide enough",
                verified="partial",
            ),
        )
        return name

    def link(self, name: str, spans: Sequence[Span]) -> Link:
        """With channels from each f_min to f_max, both ends included."""
        signal = self._entry("SI", "default")
        default = {
            "f_min": signal.get("f_min", 191.35e12),
            "f_max": signal.get("f_max", 196.1e12),
            "slot_width": signal.get("spacing", 50e9),
            "baud_rate": signal.get("baud_rate", 32e9),
        }
        parts: Sequence[Json] = self.spectrum.get("spectrum", ()) or [default]
        kinds = {(part["slot_width"], part["baud_rate"]) for part in parts}
        if len(kinds) > 1:
            raise BadTopology("a spectrum of several baud rates or slots cannot be read yet")
        spacing, baud = (value / 1e9 for value in kinds.pop())
        bands = tuple(
            Band(
                name=f"gnpy-{number}",
                from_thz=part["f_min"] / 1e12 - spacing / 2e3,
                to_thz=part["f_max"] / 1e12 + spacing / 2e3,
            )
            for number, part in enumerate(parts, start=1)
        )
        mode = Mode(
            name="gnpy",
            rate_gbps=100,
            baud_gbd=baud,
            slot_ghz=spacing,
            required_osnr_db=12.5,
            source="spectrum of GNPy's equipment file; rate and OSNR assumed: choose a mode",
            verified="no",
        )
        first = spans[0].amplifier or next(iter(self.amplifiers), "edfa-23")
        return Link.model_validate(
            {
                "name": _plain(name) or "gnpy",
                "band": tuple(band.name for band in bands),
                "bands": bands,
                "mode": "gnpy",
                "modes": (mode,),
                "launch_dbm": signal.get("power_dbm", 0),
                "amplifier": first,
                "booster": self.booster,
                "spans": tuple(spans),
                "transceiver": {"tx_osnr_db": signal.get("tx_osnr", 40)},
                "fibres": tuple(self.fibres.values()),
                "amplifiers": tuple(self.amplifiers.values()),
            }
        )


def entry_loss(params: Mapping[str, Any]) -> float:
    """dB/km of a fibre's parameters, in the middle where it depends on frequency."""
    loss = params.get("loss_coef", 0.2)
    return float(np.median(loss["value"]) if isinstance(loss, Mapping) else loss)


def _sections(element: Mapping[str, Any], kit: _Kit) -> list[Section]:
    """A fibre, cut where it has lumped losses."""
    kept = element.get("metadata", {}).get("starloom", {}).get("section")
    if kept is not None:
        return [Section.model_validate(kept)]
    params, uid = element.get("params", {}), element["uid"]
    units = params.get("length_units", "km")
    if units not in ("km", "m"):
        raise BadTopology(f"element {uid!r}: length in {units!r}: give `km` or `m`")
    if not params.get("length"):
        raise BadTopology(f"element {uid!r}: a fibre needs a `length`")
    km = params["length"] * (1 if units == "km" else 1e-3)
    fibre, loss = kit.fibre(element), entry_loss(params)
    lumped = sorted((x["position"], x["loss"]) for x in params.get("lumped_losses", ()))
    cuts = [0.0, *(at for at, _ in lumped), km]
    if any(right <= left for left, right in pairwise(cuts)):
        raise BadTopology(f"element {uid!r}: lumped losses must lie within its {km:g} km")
    losses = [loss for _, loss in lumped] + [None]
    return [
        Section(fibre=fibre, km=right - left, loss_db_per_km=loss, joint_db=joint)
        for left, right, joint in zip(cuts, cuts[1:], losses, strict=False)
    ]


def _span(
    element: Mapping[str, Any], kit: _Kit, sections: Sequence[Section], ends: tuple[float, float]
) -> Span:
    operational = element.get("operational") or {}
    gain = operational.get("gain_target")
    if gain is not None:
        gain -= operational.get("out_voa") or 0
    return Span(
        sections=tuple(sections),
        connectors_db=ends,
        amplifier=kit.amplifier(element),
        gain_db=gain,
    )


def _noise_figure(entry: Mapping[str, Any], operational: Mapping[str, Any]) -> float:
    """Fixed, or on the line between the ends of a variable gain's range."""
    if "nf0" in entry:
        return float(entry["nf0"])
    if "nf_min" not in entry:
        return 5.0
    low, high = entry.get("gain_min", 0), entry.get("gain_flatmax", 30)
    gain = operational.get("gain_target") or high
    return float(np.interp(gain, (low, high), (entry["nf_max"], entry["nf_min"])))


def _path(topology: Mapping[str, Any], ends: tuple[str, str] | None) -> list[Json]:
    """Elements from one transceiver to the other, by fewest hops."""
    elements = {element["uid"]: element for element in topology.get("elements", ())}
    boxes = [uid for uid, element in elements.items() if element["type"] == "Transceiver"]
    if ends is None:
        if len(boxes) < 2:
            raise BadTopology("a topology needs two transceivers; this one has fewer")
        ends = boxes[0], boxes[1]
    for end in ends:
        if end not in boxes:
            raise BadTopology(f"no transceiver {end!r}; there are: {', '.join(sorted(boxes))}")
    after: dict[str, list[str]] = {}
    for hop in topology.get("connections", ()):
        after.setdefault(hop["from_node"], []).append(hop["to_node"])
    start, goal = ends
    came: dict[str, str | None] = {start: None}
    queue = deque([start])
    while queue and goal not in came:
        here = queue.popleft()
        for there in after.get(here, ()):
            if there not in came and (there == goal or there not in boxes):
                came[there] = here
                queue.append(there)
    if goal not in came:
        raise BadTopology(f"no way from {start!r} to {goal!r}")
    back: list[Json] = []
    at: str | None = goal
    while at is not None:
        if at not in elements:
            raise BadTopology(f"connection to {at!r}, which is no element")
        back.append(elements[at])
        at = came[at]
    path = back[::-1]
    at_ends = {1, len(path) - 2}
    return [e for n, e in enumerate(path) if not (e["type"] in _PASSED and n in at_ends)]


def _plain(name: str) -> str:
    """As a name of a site file: lower case, letters and digits, at most 50 of them."""
    kept = "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower())
    return kept.strip("-")[:50] or "gnpy"
