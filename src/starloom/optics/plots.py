"""Pictures of designs, as SVG text. Needs the extra `plots` (matplotlib)."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from starloom.optics.design import PowerSweep
from starloom.optics.engine import Design
from starloom.optics.errors import NoPlots

_NOISES = {
    "ase": ("ASE", "#4477aa"),
    "tx": ("transmitter", "#66ccee"),
    "nli": ("Kerr", "#ee6677"),
    "pigtail": ("Kerr in pigtails", "#aa3377"),
    "imi": ("inter-modal", "#228833"),
    "gas": ("gas, after equalisation", "#ccbb44"),
    "eepn": ("EEPN", "#bbbbbb"),
    "floor": ("transceiver floor", "#888888"),
}
"""Names and colours (Paul Tol's bright scheme, safe for the colour-blind)."""
_GOOD, _BAD = "#4477aa", "#ee6677"


def figure(width_in: float = 8.6, height_in: float = 3.2) -> Any:
    """An empty figure without global state; raises `NoPlots` where matplotlib is absent."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NoPlots("pictures need matplotlib: pip install 'starloom[plots]'") from None
    return Figure(figsize=(width_in, height_in), layout="constrained")


def svg(made: Any) -> str:
    """The same figure gives the same text."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "starloom", "svg.fonttype": "none"}):
        made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def spectrum(made: Design) -> str:
    """OSNR and GSNR of each channel, and below them what gas takes over the band."""
    picture = figure(height_in=4.4)
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    thz = made.spectrum.thz
    for values, label, colour in (
        (made.osnr_db, "OSNR", _GOOD),
        (made.gsnr_db, "GSNR", "#228833"),
        (made.spectrum.required_osnr_db, "needed, back to back", "black"),
    ):
        style = {"linestyle": "--", "lw": 1} if label.startswith("needed") else {"lw": 1.4}
        above.plot(thz, values, label=label, color=colour, **style)
    above.set_ylabel("dB in 0.1 nm")
    above.legend(loc="lower right", fontsize=8, ncols=3)
    above.set_title(f"{made.link.name}: {made.spectrum.size} channels", fontsize=10)
    points = made.gas_db.shape[1]
    across = (np.arange(points) + 0.5) / points - 0.5
    grid = thz[:, None] + across[None, :] * made.spectrum.baud_gbd[:, None] * 1e-3
    below.plot(grid.ravel(), made.gas_db.ravel(), lw=0.6, color="#ccbb44", label="gas, in band")
    below.step(thz, made.gas_mean_db, where="mid", lw=1, color="black", label="channel mean")
    below.set_ylabel("gas, dB")
    below.set_xlabel("THz")
    below.legend(loc="upper right", fontsize=8)
    return svg(picture)


def margins(made: Design) -> str:
    """Margin of each channel."""
    picture = figure(height_in=2.4)
    axes = picture.subplots()
    colours = np.where(made.margin_db >= 0, _GOOD, _BAD)
    width = made.spectrum.slot_ghz / 1e3 * 0.85
    axes.bar(made.spectrum.thz, made.margin_db, width=width, color=colours)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xlabel("THz")
    axes.set_ylabel("margin, dB")
    return svg(picture)


def noises(made: Design) -> str:
    """Which noise makes how much of the whole, channel by channel."""
    picture = figure(height_in=2.8)
    axes = picture.subplots()
    named = {name: made.noise[name] for name in _NOISES if float(made.noise[name].max()) > 1e-9}
    whole = np.sum(list(named.values()), axis=0)
    layers = [100 * noise / whole for noise in named.values()]
    labels = [_NOISES[name][0] for name in named]
    at, size = made.spectrum.thz, made.spectrum.size
    if size == 1:
        at, layers = np.array([at[0] - 0.1, at[0] + 0.1]), [np.repeat(x, 2) for x in layers]
    axes.stackplot(at, layers, labels=labels, colors=[_NOISES[n][1] for n in named])
    axes.set(xlabel="THz", ylabel="share of noise, %", ylim=(0, 100), xlim=(at[0], at[-1]))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return svg(picture)


def sweep(swept: PowerSweep) -> str:
    """Worst channel by launch power."""
    picture = figure(height_in=3.0)
    axes = picture.subplots()
    axes.plot(swept.launch_dbm, swept.osnr_db, label="OSNR", color=_GOOD)
    axes.plot(swept.launch_dbm, swept.gsnr_db, label="GSNR", color="#228833")
    axes.plot(swept.launch_dbm, swept.margin_db, label="margin", color="black")
    axes.axvline(swept.best_dbm, color="#888888", lw=0.8, ls=":")
    axes.set_xlabel("launch, dBm a channel")
    axes.set_ylabel("worst channel, dB")
    axes.legend(fontsize=8)
    return svg(picture)


def side_by_side(designs: Mapping[str, Design]) -> str:
    """Margins of several links over one axis."""
    picture = figure(height_in=3.0)
    axes = picture.subplots()
    for (name, made), colour in zip(designs.items(), _colours(len(designs)), strict=True):
        axes.plot(made.spectrum.thz, made.margin_db, label=name, color=colour, lw=1.4)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xlabel("THz")
    axes.set_ylabel("margin, dB")
    axes.legend(fontsize=8)
    return svg(picture)


def _colours(count: int) -> Sequence[str]:
    wheel = [_GOOD, _BAD, "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888"]
    return [wheel[at % len(wheel)] for at in range(count)]
