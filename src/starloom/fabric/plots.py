"""Pictures of a run, as SVG text. Needs the extra `plots` (matplotlib)."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from starloom.fabric.base import PS_PER_US, Result
from starloom.fabric.clos import Clos, Floats, Stage
from starloom.fabric.errors import NoPlots
from starloom.optics import plots as drawing
from starloom.optics.errors import NoPlots as NoMatplotlib

_MOST_LEAVES = 64
_WORDS = {
    Stage.HOST_UP: "host up",
    Stage.LEAF_DOWN: "leaf to host",
    Stage.LEAF_UP: "leaf to spine",
    Stage.SPINE_DOWN: "spine to leaf",
    Stage.SPINE_UP: "spine to core",
    Stage.CORE_DOWN: "core to spine",
}


def pictures(clos: Clos, result: Result) -> dict[str, str]:
    """All that the run has something for, by name: topology, heat, fct, queues."""
    made: dict[str, Callable[[], str]] = {
        "topology": lambda: topology(clos),
        "heat": lambda: heat(clos, result),
        "fct": lambda: completion(result),
        "queues": lambda: queues(clos, result),
    }
    if not result.finished:
        del made["fct"]
    if not len(result.samples_ps):
        del made["queues"]
    try:
        return {name: draw() for name, draw in made.items()}
    except NoMatplotlib as error:
        raise NoPlots(str(error)) from error


def utilisation(clos: Clos, result: Result) -> Floats:
    """Share of the run in which each link sent."""
    duration_s = max(result.end_ps, 1) * 1e-12
    return result.link_bytes * 8e-9 / clos.gbps() / duration_s


def topology(clos: Clos) -> str:
    """Tiers as rows of one pod and one plane, a dot for a leaf's hosts; counts are of all."""
    fabric = clos.fabric
    picture = drawing.figure(height_in=3.0)
    axes = picture.subplots()
    leaves = min(fabric.leaves_per_pod, _MOST_LEAVES)
    spines = min(fabric.spines, _MOST_LEAVES)
    tiers = [("hosts", leaves), ("leaves", leaves), ("spines", spines)]
    cores = min(fabric.cores, _MOST_LEAVES)
    if cores:
        tiers.append(("cores", cores))
    places = [np.linspace(0, 1, count + 2)[1:-1] for _, count in tiers if count]
    for low, (below, above) in enumerate(pairwise(places)):
        for at, left in enumerate(below):
            for to, right in enumerate(above):
                if low == 1 or at == (to // max(clos.cores, 1) if low == 2 else to):
                    axes.plot([left, right], [low, low + 1], color="#bbbbbb", lw=0.4, zorder=1)
    counts = (fabric.hosts, fabric.leaves, fabric.spines * fabric.pods, fabric.cores)
    for row, (place, (word, _)) in enumerate(zip(places, tiers, strict=False)):
        axes.scatter(place, np.full(len(place), row), s=14, color="#4477aa", zorder=2)
        axes.text(-0.02, row, f"{counts[row]:,} {word}", ha="right", va="center", fontsize=8)
    planes = f", {fabric.planes} planes" if fabric.planes > 1 else ""
    shown = f"one pod of {fabric.pods}, " if fabric.pods > 1 else ""
    axes.set_title(
        f"{shown}{fabric.link_gbps:g} Gb/s links{planes},"
        f" {fabric.oversubscription:.3g}:1 at leaves",
        fontsize=9,
    )
    axes.set_xlim(-0.2, 1.02)
    axes.set_axis_off()
    return drawing.svg(picture)


def heat(clos: Clos, result: Result) -> str:
    """Utilisation of links between leaves and spines, up and down, over all planes."""
    load = utilisation(clos, result).reshape(clos.planes, clos.links_per_plane)
    starts = clos.stage_starts
    stages = (Stage.LEAF_UP, Stage.SPINE_DOWN) if clos.spines else (Stage.HOST_UP, Stage.LEAF_DOWN)
    width = clos.spines or clos.fabric.hosts_per_leaf
    picture = drawing.figure(height_in=3.4)
    for axes, stage in zip(picture.subplots(1, 2), stages, strict=True):
        shown = load[:, starts[stage] : starts[stage + 1]].mean(axis=0).reshape(-1, width)
        image: Any = axes.imshow(shown, aspect="auto", vmin=0, vmax=1, cmap="viridis")
        axes.set_title(_WORDS[stage], fontsize=9)
        axes.set_xlabel("spine of the pod" if clos.spines else "port")
        axes.set_ylabel("leaf")
    picture.colorbar(image, ax=picture.axes, label="share of time busy", shrink=0.8)
    return drawing.svg(picture)


def completion(result: Result) -> str:
    """The distribution of flow completion times."""
    picture = drawing.figure(height_in=2.8)
    axes = picture.subplots()
    times = np.sort(result.fct_us)
    axes.step(times, np.arange(1, len(times) + 1) / len(times), where="post", color="#4477aa")
    for share in (0.5, 0.99):
        at = float(np.quantile(times, share))
        axes.axvline(at, color="#ee6677", lw=0.8, ls="--")
        axes.text(at, 0.03, f" p{100 * share:g}: {at:.4g} us", fontsize=8, color="#ee6677")
    axes.set_xlabel("completion time, us")
    axes.set_ylabel("share of flows")
    axes.set_ylim(0, 1.02)
    return drawing.svg(picture)


def queues(clos: Clos, result: Result) -> str:
    """Watched queues over time."""
    picture = drawing.figure(height_in=2.8)
    axes = picture.subplots()
    for column, link in enumerate(result.watched):
        held = result.samples_bytes[:, column] / 1e3
        axes.plot(result.samples_ps / PS_PER_US, held, lw=0.9, label=clos.name(int(link)))
    axes.set_xlabel("us")
    axes.set_ylabel("waiting, kB")
    axes.legend(fontsize=7)
    return drawing.svg(picture)
