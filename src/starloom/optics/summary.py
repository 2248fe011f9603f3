"""A design as plain data: what commands print, and what `--json` gives to programs."""

from typing import Any, get_args

import numpy as np

from starloom.optics import design, otdr
from starloom.optics.base import Floats
from starloom.optics.budget import latency_budget, limits
from starloom.optics.engine import Design
from starloom.optics.link import Link
from starloom.optics.opgw import rotation_rad_per_s
from starloom.optics.protection import Scheme, survival

Json = dict[str, Any]
_BIT = 6
"""Decimals of figures in JSON."""


def summary(made: Design) -> Json:
    """Everything that is known of a design, units in the names, channels as columns."""
    link, worst = made.link, int(made.margin_db.argmin())
    return {
        "link": link.name,
        "km": _round(link.km),
        "spans": len(link.line),
        "mode": link.mode,
        "works": made.works,
        "capacity_gbps": _round(made.capacity_gbps),
        "worst": {"thz": _round(float(made.spectrum.thz[worst])), **noise_snr_db(made, worst)},
        "margin_db": _ends(made.margin_db),
        "osnr_db": _ends(made.osnr_db),
        "gsnr_db": _ends(made.gsnr_db),
        "gas": {
            "peak_db": _round(float(made.gas_peak_db.max())),
            "channel_mean_db": _round(float(made.gas_mean_db.max())),
            "of_it_approximate_db": _round(float(made.gas_approximate.max())),
        },
        "cd_ps_per_nm": _ends(made.cd_ps_per_nm),
        "pmd_ps": _round(made.pmd_ps),
        "pdl_db": _round(made.pdl_db),
        "latency": latency(link),
        "otdr": [
            {
                "span": number,
                "km": _round(seen.km),
                "covered_km": _round(seen.covered_km),
                "whole": seen.whole,
                "blind_zones": seen.blind_zones,
                "blind_km": _round(seen.blind_km),
            }
            for number, seen in enumerate((otdr.coverage(link, s) for s in link.spans), start=1)
        ],
        "protection": protection(link),
        "ground_wire": ground_wire(link),
        "powers": [
            {"place": p.place, "total_dbm": _round(p.total_dbm), "max_dbm": p.max_dbm}
            for p in made.powers
        ],
        "flags": made.flags,
        "channels": channels(made),
    }


def channels(made: Design) -> dict[str, list[float]]:
    """One list a quantity, one value a channel."""
    columns: dict[str, Floats] = {
        "thz": made.spectrum.thz,
        "nm": made.spectrum.nm,
        "baud_gbd": made.spectrum.baud_gbd,
        "launch_dbm": made.launch_dbm,
        "received_dbm": made.received_dbm,
        "osnr_db": made.osnr_db,
        "gsnr_db": made.gsnr_db,
        "snr_db": made.snr_db,
        "required_snr_db": made.required_snr_db,
        "margin_db": made.margin_db,
        "gas_peak_db": made.gas_peak_db,
        "gas_mean_db": made.gas_mean_db,
    }
    return {name: [_round(x) for x in values.tolist()] for name, values in columns.items()}


def noise_snr_db(made: Design, channel: int) -> dict[str, float | None]:
    """SNR that each noise alone would leave a channel, in its symbol rate; None where absent."""
    found: dict[str, float | None] = {}
    for name, noise in made.noise.items():
        value = float(noise[channel])
        found[f"{name}_snr_db"] = _round(-10 * np.log10(value)) if value > 1e-12 else None
    return found


def latency(link: Link) -> Json:
    """The budget, by stage and in sum."""
    budget = latency_budget(link)
    return {
        "stages_us": {stage.name: _round(stage.us) for stage in budget.forth},
        "one_way_us": _round(budget.one_way_us),
        "round_trip_us": _round(budget.round_trip_us),
        "fibre_round_trip_us": _round(budget.fibre_round_trip_us),
        "asymmetry_us": _round(budget.asymmetry_us),
        "clock_error_us": _round(budget.clock_error_us),
        "limits": [
            {"of": x.name, "limit_us": x.limit_us, "left_us": _round(x.left_us), "kept": x.kept}
            for x in limits(link)
        ],
    }


def protection(link: Link) -> list[Json]:
    """Each scheme on this link; the one that the file states is marked."""
    rows: list[Json] = []
    for scheme in get_args(Scheme):
        kept = survival(link, scheme)
        rows.append(
            {
                "scheme": scheme,
                "stated": scheme == link.protection.scheme,
                "availability": round(kept.availability, 9),
                "down_minutes_per_year": _round(kept.down_minutes_per_year),
                "switch_ms": kept.switch_ms,
                "difference_us": _round(kept.difference_us),
                "skew_buffer_bytes": _round(kept.skew_buffer_bytes),
                "added_us": _round(kept.added_us),
            }
        )
    return rows


def ground_wire(link: Link) -> list[Json]:
    """What a stroke does to polarisation in each of the link's fibres, and in glass beside it."""
    wire = link.ground_wire
    if wire is None:
        return []
    names = dict.fromkeys(part.fibre for span in link.spans for part in span.sections)
    rows: list[Json] = []
    for name in dict.fromkeys([*names, "smf"]):
        speed = rotation_rad_per_s(link.fibre(name), wire.rise_a_per_s, wire.struck_m)
        followed = speed <= wire.receiver_rad_per_s
        rows.append({"fibre": name, "krad_per_s": _round(speed / 1e3), "followed": followed})
    return rows


def output_table(made: Design, span_kms: tuple[float, ...] = (80, 100, 160, 200, 400)) -> Json:
    """Total output that each span length takes to meet the mode's need over the link's length.

    By noise of amplifiers alone, for the first span's longest section and its amplifier;
    connectors, ageing and repairs of each span as stated.
    """
    link, span = made.link, made.link.spans[0]
    part = max(span.sections, key=lambda section: section.km)
    per_km = part.loss_db_per_km or link.fibre(part.fibre).loss_db_per_km
    fixed = sum(span.connectors_db) + span.ageing_db + link.repairs_db(span)
    amplifier = link.amplifier_noun(span.amplifier)
    needed = link.mode_noun.required_osnr_db + link.margin_db
    rows = []
    for count in dict.fromkeys(max(1, round(link.km / km)) for km in span_kms):
        loss = per_km * link.km / count + fixed
        output = design.output_needed_dbm(
            required_osnr_db=needed,
            span_loss_db=loss,
            spans=count,
            channels=made.spectrum.size,
            noise_figure_db=amplifier.noise_figure_db,
        )
        rows.append(
            {
                "span_km": _round(link.km / count),
                "spans": count,
                "span_loss_db": _round(loss),
                "output_dbm": _round(output),
                "amplifier_gives_dbm": amplifier.max_output_dbm,
            }
        )
    return {"required_osnr_db": needed, "rows": rows}


def sweep_json(sweep: design.PowerSweep) -> Json:
    """A power sweep as columns."""
    return {
        "best_dbm": _round(sweep.best_dbm),
        **{
            name: [_round(x) for x in getattr(sweep, name).tolist()]
            for name in ("launch_dbm", "osnr_db", "gsnr_db", "margin_db")
        },
    }


def _ends(values: Floats) -> dict[str, float]:
    return {"worst": _round(float(values.min())), "best": _round(float(values.max()))}


def _round(value: float) -> float:
    return round(float(value), _BIT)
