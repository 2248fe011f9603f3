"""A link as GNPy's JSON: topology, equipment and spectrum.

GNPy 3.0.1 has no place for a hollow core's group index and Kerr index (its 1.468 and 2.6e-20 are
fixed) nor for gas and interference. What it has no place for stands under `metadata.starloom`,
where GNPy does not look, and comes back when we read the file again.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from starloom.optics import fibre as glass
from starloom.optics.base import Amplifier, Section, Span
from starloom.optics.engine import link_plan
from starloom.optics.link import Link

Json = dict[str, Any]


def to_gnpy(link: Link) -> tuple[Json, Json]:
    """(topology, equipment) of a link; both are what `gnpy-transmission-example` reads."""
    elements: list[Json] = [_element("A", "Transceiver")]
    for at, span in enumerate(link.line, start=1):
        joints = [loss for loss, _ in link.joints(span)]
        last = len(span.sections) - 1
        for place, part in enumerate(span.sections):
            end_db = span.connectors_db[1] + span.ageing_db + link.repairs_db(span)
            element = _element(f"span {at}.{place + 1}", "Fiber", part.fibre)
            element["params"] = {
                "length": part.km,
                "length_units": "km",
                "loss_coef": _loss_coef(link, part),
                "att_in": 0,
                "con_in": span.connectors_db[0] if place == 0 else 0,
                "con_out": end_db if place == last else joints[place],
            }
            element["metadata"]["starloom"] = {"section": part.model_dump(mode="json")}
            elements.append(element)
        element = _element(f"amplifier {at}", "Edfa", span.amplifier or link.amplifier)
        gain = passive_loss_db(link, span) if span.gain_db is None else span.gain_db
        element["operational"] = {"gain_target": round(gain, 6), "tilt_target": 0, "out_voa": 0}
        elements.append(element)
    elements.append(_element("B", "Transceiver"))
    names = [element["uid"] for element in elements]
    pairs = pairwise(names)
    topology = {
        "network_name": link.name,
        "elements": elements,
        "connections": [{"from_node": left, "to_node": right} for left, right in pairs],
    }
    return topology, _equipment(link)


def spectrum_to_gnpy(link: Link) -> Json:
    """The channels as GNPy's `--spectrum` file: one partition a band."""
    mode, thz = link.mode_noun, link_plan(link).thz
    spacing = (link.spacing_ghz or mode.slot_ghz) * 1e9
    partitions = []
    for band in link.band_nouns:
        inside = thz[(thz > band.from_thz) & (thz < band.to_thz)]
        if inside.size:
            partitions.append(
                {
                    "f_min": float(inside[0]) * 1e12,
                    "f_max": float(inside[-1]) * 1e12,
                    "baud_rate": mode.baud_gbd * 1e9,
                    "slot_width": spacing,
                    "delta_pdb": 0,
                    "roll_off": 0.15,
                    "tx_osnr": link.transceiver.tx_osnr_db or 100,
                    "label": band.name,
                }
            )
    return {"spectrum": partitions}


def passive_loss_db(link: Link, span: Span) -> float:
    """A span's loss in the middle of the spectrum, gas and Raman transfer apart."""
    middle = np.array([float(np.median(link_plan(link).thz))])
    fibres = sum(
        float(glass.loss_db_per_km(link.fibre(part.fibre), middle, part.loss_db_per_km)[0])
        * part.km
        + link.splices_db(part)
        for part in span.sections
    )
    joints = sum(loss for loss, _ in link.joints(span))
    return fibres + joints + sum(span.connectors_db) + span.ageing_db + link.repairs_db(span)


def _element(uid: str, kind: str, variety: str | None = None) -> Json:
    place = {"city": uid, "region": "", "latitude": 0, "longitude": 0}
    element: Json = {"uid": uid, "type": kind, "metadata": {"location": place}}
    return element if variety is None else {**element, "type_variety": variety}


def _loss_coef(link: Link, part: Section) -> float | Json:
    fibre = link.fibre(part.fibre)
    splices = link.splices_db(part) / part.km
    if part.loss_db_per_km is None and fibre.loss_by_thz:
        thz, loss = zip(*fibre.loss_by_thz, strict=True)
        return {"value": [x + splices for x in loss], "frequency": [f * 1e12 for f in thz]}
    return (part.loss_db_per_km or fibre.loss_db_per_km) + splices


def _equipment(link: Link) -> Json:
    mode = link.mode_noun
    spacing = (link.spacing_ghz or mode.slot_ghz) * 1e9
    thz = link_plan(link).thz
    names = dict.fromkeys(part.fibre for span in link.spans for part in span.sections)
    fibres = []
    for name in names:
        fibre = link.fibre(name)
        entry: Json = {
            "type_variety": name,
            "dispersion": fibre.dispersion_ps_per_nm_km * 1e-6,
            "effective_area": fibre.effective_area_um2 * 1e-12,
            "pmd_coef": fibre.pmd_ps_per_sqrt_km * 1e-12 / 1e3**0.5,
        }
        if fibre.dispersion_slope_ps_per_nm2_km is not None:
            entry["dispersion_slope"] = fibre.dispersion_slope_ps_per_nm2_km * 1e3
        fibres.append(entry)
    used = dict.fromkeys(link.amplifier_noun(span.amplifier).name for span in link.spans)
    amplifiers = [_edfa(link.amplifier_noun(name)) for name in used]
    spans = {
        "power_mode": False,
        "delta_power_range_db": [0, 0, 1],
        "max_fiber_lineic_loss_for_raman": 0.25,
        "target_extended_gain": 2.5,
        "max_length": 1000,
        "length_units": "km",
        "max_loss": 100,
        "padding": 0,
        "EOL": 0,
        "con_in": 0,
        "con_out": 0,
    }
    signal: dict[str, Any] = {
        "f_min": float(thz[0]) * 1e12,
        "f_max": float(thz[-1]) * 1e12,
        "baud_rate": mode.baud_gbd * 1e9,
        "spacing": spacing,
        "power_dbm": link.launch_dbm,
        "tx_power_dbm": link.launch_dbm,
        "power_range_db": [0, 0, 1],
        "roll_off": 0.15,
        "tx_osnr": link.transceiver.tx_osnr_db or 100,
        "sys_margins": link.margin_db,
    }
    trx = {
        "format": mode.name,
        "baud_rate": mode.baud_gbd * 1e9,
        "OSNR": mode.required_osnr_db,
        "bit_rate": mode.rate_gbps * 1e9,
        "roll_off": 0.15,
        "tx_osnr": signal["tx_osnr"],
        "min_spacing": spacing,
        "cost": 1,
    }
    band = {"min": signal["f_min"] - spacing, "max": signal["f_max"] + spacing}
    return {
        "Edfa": amplifiers,
        "Fiber": fibres,
        "Span": [spans],
        "Roadm": [
            {
                "target_pch_out_db": -20,
                "add_drop_osnr": 100,
                "pmd": 0,
                "pdl": 0,
                "restrictions": {"preamp_variety_list": [], "booster_variety_list": []},
            }
        ],
        "SI": [signal],
        "Transceiver": [{"type_variety": "starloom", "frequency": band, "mode": [trx]}],
    }


def _edfa(amplifier: Amplifier) -> Json:
    return {
        "type_variety": amplifier.name,
        "type_def": "fixed_gain",
        "gain_flatmax": 60,
        "gain_min": 0,
        "p_max": amplifier.max_output_dbm,
        "nf0": amplifier.noise_figure_db,
        "f_min": amplifier.from_thz * 1e12,
        "f_max": amplifier.to_thz * 1e12,
        "allowed_for_design": True,
    }
