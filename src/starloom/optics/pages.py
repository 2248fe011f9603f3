"""What is shown of a design, as blocks: the console prints the tables, the page adds pictures."""

from collections.abc import Mapping, Sequence

import numpy as np

from starloom.optics import design, plots, summary
from starloom.optics.engine import Design
from starloom.optics.report import Block

_SHOWN_CHANNELS = 12


def design_blocks(
    made: Design, swept: design.PowerSweep | None = None, *, pictures: bool
) -> list[Block]:
    """One link. `pictures` needs matplotlib."""
    found = [_spectrum(made, pictures), _noise(made, pictures)]
    if pictures:
        found.append(Block("Margin of each channel", svg=plots.margins(made)))
    if swept is not None:
        found.append(_sweep(swept, pictures))
    found += [
        _modes(made),
        _output(made),
        _powers(made),
        _latency(made),
        _otdr(made),
        _protection(made),
    ]
    return [*found, _ground_wire(made)] if made.link.ground_wire is not None else found


def headline(made: Design) -> list[str]:
    """A link in three sentences."""
    link = made.link
    good = int((made.margin_db >= 0).sum())
    spread = made.cd_ps_per_nm
    return [
        f"{link.km:,.1f} km in {len(link.line)} spans; {good} of {made.spectrum.size} channels of"
        f" {link.mode} have a margin of zero or more above {link.margin_db:g} dB kept back:"
        f" {made.capacity_gbps / 1e3:,.1f} Tb/s.",
        f"Worst channel: OSNR {made.osnr_db.min():.2f} dB, GSNR {made.gsnr_db.min():.2f} dB,"
        f" margin {made.margin_db.min():.2f} dB.",
        f"Dispersion up to {np.abs(spread).max():,.0f} ps/nm, PMD {made.pmd_ps:.2f} ps,"
        f" PDL {made.pdl_db:.2f} dB; gas peak {made.gas_peak_db.max():.2f} dB,"
        f" channel mean {made.gas_mean_db.max():.2f} dB.",
    ]


def compare_blocks(designs: Mapping[str, Design], *, pictures: bool) -> list[Block]:
    """Several links side by side."""
    rows = [_compared(name, made) for name, made in designs.items()]
    columns = (
        "link",
        "km",
        "channels",
        "works",
        "Tb/s",
        "OSNR dB",
        "GSNR dB",
        "margin dB",
        "round trip ms",
        "reach km",
        "CD ps/nm",
        "gas peak dB",
    )
    found = [Block("Side by side", columns=columns, rows=rows)]
    if pictures:
        found.append(Block("Margin of each channel", svg=plots.side_by_side(designs)))
    noises = sorted({name for made in designs.values() for name in summary.noise_snr_db(made, 0)})
    order = [f"{name}_snr_db" for name in next(iter(designs.values())).noise]
    noises.sort(key=order.index)
    shares = [
        [name, *(summary.noise_snr_db(made, int(made.margin_db.argmin()))[n] for n in noises)]
        for name, made in designs.items()
    ]
    heads = ["link", *(name.removesuffix("_snr_db") for name in noises)]
    text = "SNR that each noise alone would leave the worst channel, dB in its symbol rate."
    found.append(Block("Where the noise comes from", text=text, columns=heads, rows=shares))
    for name, made in designs.items():
        if made.flags:
            found.append(Block(f"To know about {name}", text="; ".join(made.flags) + "."))
    return found


def _compared(name: str, made: Design) -> list[object]:
    told = summary.latency(made.link)
    return [
        name,
        made.link.km,
        made.spectrum.size,
        made.works,
        made.capacity_gbps / 1e3,
        float(made.osnr_db.min()),
        float(made.gsnr_db.min()),
        float(made.margin_db.min()),
        told["round_trip_us"] / 1e3,
        design.reach_km(made.link),
        float(np.abs(made.cd_ps_per_nm).max()),
        float(made.gas_peak_db.max()),
    ]


def _spectrum(made: Design, pictures: bool) -> Block:
    """The two worst channels, and some evenly over the band."""
    size = made.spectrum.size
    even = np.linspace(0, size - 1, min(size, _SHOWN_CHANNELS - 2)).astype(int)
    chosen = sorted({*even.tolist(), *np.argsort(made.margin_db)[:2].tolist()})
    told = summary.channels(made)
    names = ("launch_dbm", "received_dbm", "osnr_db", "gsnr_db", "margin_db", "gas_peak_db")
    rows = [
        [f"{told['thz'][at]:.4f}", f"{told['nm'][at]:.2f}", *(told[name][at] for name in names)]
        for at in chosen
    ]
    heads = ["THz", "nm", *(name.replace("_", " ") for name in names)]
    picture = plots.spectrum(made) if pictures else ""
    return Block("Spectrum", svg=picture, columns=heads, rows=rows)


def _noise(made: Design, pictures: bool) -> Block:
    worst, best = int(made.margin_db.argmin()), int(made.margin_db.argmax())
    at_worst, at_best = (summary.noise_snr_db(made, at) for at in (worst, best))
    rows = [
        [name.removesuffix("_snr_db"), at_worst[name], at_best[name]]
        for name in at_worst
        if at_worst[name] is not None
    ]
    rows.append(["all", float(made.snr_db[worst]), float(made.snr_db[best])])
    needed = made.required_snr_db
    rows.append(["needed", float(needed[worst]), float(needed[best])])
    text = "SNR that each noise alone would leave, dB in the symbol rate."
    picture = plots.noises(made) if pictures else ""
    columns = ("noise", "worst channel", "best channel")
    return Block("Where the noise comes from", text=text, svg=picture, columns=columns, rows=rows)


def _sweep(swept: design.PowerSweep, pictures: bool) -> Block:
    rows = [
        [float(x) for x in row]
        for row in zip(swept.launch_dbm, swept.osnr_db, swept.gsnr_db, swept.margin_db, strict=True)
    ]
    columns = ("launch dBm", "OSNR dB", "GSNR dB", "margin dB")
    text = f"Worst channel; the best launch is {swept.best_dbm:.2f} dBm a channel."
    picture = plots.sweep(swept) if pictures else ""
    return Block("Power sweep", text=text, svg=picture, columns=columns, rows=rows)


def _modes(made: Design) -> Block:
    rows = [
        [o.mode, o.channels, o.working, o.worst_margin_db, o.capacity_gbps / 1e3]
        for o in design.mode_offers(made.link)
    ]
    columns = ("mode", "channels", "working", "worst margin dB", "Tb/s")
    text = "Each with the same total launch power, and as many channels as fit."
    return Block("What other modes would carry", text=text, columns=columns, rows=rows)


def _output(made: Design) -> Block:
    told = summary.output_table(made)
    rows = [list(row.values()) for row in told["rows"]]
    columns = ("span km", "spans", "span loss dB", "output dBm", "amplifier gives dBm")
    text = (
        f"Total output of each amplifier for an OSNR of {told['required_osnr_db']:.1f} dB over"
        f" {made.link.km:,.0f} km, noise of amplifiers alone. Span length decides, not distance."
    )
    return Block("Output needed, by span length", text=text, columns=columns, rows=rows)


def _powers(made: Design) -> Block:
    rows = [[p.place, p.total_dbm, p.max_dbm, p.within] for p in made.powers]
    columns = ("place", "total dBm", "limit dBm", "within")
    return Block("Power at each part", columns=columns, rows=rows)


def _latency(made: Design) -> Block:
    told = summary.latency(made.link)
    rows: list[Sequence[object]] = list(told["stages_us"].items())
    rows += [
        ("one way", told["one_way_us"]),
        ("round trip", told["round_trip_us"]),
        ("of it fibre", told["fibre_round_trip_us"]),
        ("asymmetry, forth less back", told["asymmetry_us"]),
        ("error of a two-way clock", told["clock_error_us"]),
    ]
    for limit in told["limits"]:
        rows.append((f"left of {limit['limit_us']:g} us {limit['of']}", limit["left_us"]))
        if limit["of"] == "round trip":
            beside = limit["limit_us"] - told["fibre_round_trip_us"]
            rows.append(("left beside the fibre", round(beside, 6)))
    return Block("Latency", columns=("part", "us"), rows=rows)


def _otdr(made: Design) -> Block:
    rows = [list(row.values()) for row in summary.summary(made)["otdr"]]
    columns = ("span", "km", "covered km", "whole", "blind zones", "blind km")
    about = made.link.otdr
    ends = "both ends" if about.two_ended else "one end"
    text = f"{about.dynamic_range_db:g} dB on standard fibre, from {ends}."
    return Block("What an OTDR sees", text=text, columns=columns, rows=rows)


def _ground_wire(made: Design) -> Block:
    rows = [list(row.values()) for row in summary.ground_wire(made.link)]
    columns = ("fibre", "krad/s", "receiver follows")
    text = "How fast a stroke of lightning turns polarisation in this wire."
    return Block("On a ground wire", text=text, columns=columns, rows=rows)


def _protection(made: Design) -> Block:
    rows = [
        [row["scheme"], row["stated"], f"{row['availability']:.5%}", *list(row.values())[3:]]
        for row in summary.protection(made.link)
    ]
    columns = (
        "scheme",
        "stated",
        "availability",
        "down min/year",
        "switch ms",
        "path diff us",
        "buffer bytes",
        "added us",
    )
    return Block("Protection", columns=columns, rows=rows)
