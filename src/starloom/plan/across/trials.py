"""Published trials as inequality checks: what our modes say at the same distance.

Press figures are bounds without batch size, overlap or step time. So a trial is compared with the
given run at the trial's distance and number of sites, and a miss is a result like any other.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from starloom.plan.across.base import Across, LatencyMode, Leg, Strategy, TrainingSite
from starloom.plan.across.formula import loss, modes_of
from starloom.plan.errors import BadPlan

COLUMNS = ("id", "n_dc", "distance_km", "strategy", "metric", "relation", "value", "verified")
_EQUAL_WITHIN = 0.1
"""Share of the value within which `=` and `~` hold."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One published figure, as a loss in percent."""

    id: str
    sites: int
    km: float
    strategies: tuple[Strategy, ...]
    relation: str
    """`=`, `~`, `<` or `<=`."""
    loss_pct: float
    source: str = ""

    def holds(self, ours_pct: float) -> bool:
        """Whether a loss of ours agrees with the figure."""
        if self.relation in ("<", "<="):
            return ours_pct <= self.loss_pct
        return abs(ours_pct - self.loss_pct) <= _EQUAL_WITHIN * self.loss_pct

    @property
    def stated(self) -> str:
        return f"{self.relation} {self.loss_pct:g} %"


SHIPPED = (
    Trial("seed_dp_600", 2, 600.0, ("dp-ring",), "=", 4.9, "ZTE Technologies 2026-04, p. 34-35"),
    Trial("seed_pp_600", 2, 600.0, ("pp",), "<", 1.0, "ZTE Technologies 2026-04, p. 34-35"),
    Trial("seed_jiangsu_300", 2, 300.0, ("dp-ring", "pp"), "=", 2.8, "the same, p. 32"),
)
"""Those of the source of `examples/across/article.yaml`; used where no file is given."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A trial beside one strategy and mode of ours."""

    trial: Trial
    strategy: Strategy
    mode: LatencyMode
    ours_pct: float
    holds: bool


def read(path: Path) -> tuple[list[Trial], list[str]]:
    """(trials that can be compared, why the others cannot). Raises `BadPlan` for another file."""
    found: list[Trial] = []
    left_out: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacks = set(COLUMNS) - set(reader.fieldnames or ())
            if lacks:
                raise BadPlan(f"{path}:1: has no column {', '.join(sorted(lacks))}")
            for row in reader:
                try:
                    trial = _trial(row)
                except ValueError as error:
                    raise BadPlan(f"{path}:{reader.line_num}: {error}") from error
                if isinstance(trial, str):
                    left_out.append(f"{row['id']}: {trial}")
                else:
                    found.append(trial)
    except OSError as error:
        raise BadPlan(f"{path}: cannot be read: {error.strerror}") from error
    return found, left_out


def check(run: Across, trials: list[Trial]) -> Iterator[Checked]:
    """Each trial beside every strategy that it may mean, in every mode of it."""
    for trial in trials:
        there = _like(run, trial)
        for strategy in trial.strategies:
            for mode in modes_of(strategy):
                ours = loss(there, strategy, mode).loss_pct
                yield Checked(trial, strategy, mode, ours, trial.holds(ours))


def _trial(row: dict[str, str]) -> Trial | str:
    """A row as a trial, or why it is none."""
    if row["verified"] != "yes":
        return "not verified"
    if row["metric"] not in ("te_loss", "performance_vs_single_dc"):
        return f"{row['metric']} is no loss against one site"
    if not row["distance_km"]:
        return "no distance stated"
    relation, value = row["relation"], row["value"]
    if row["metric"] == "te_loss":
        bound = float(value)
    elif relation == "range":
        relation, bound = "<=", 100 - float(value.split("-")[0])
    else:
        relation = {">": "<", "=": "=", "~": "~", ">=": "<="}.get(relation, relation)
        bound = 100 - float(value)
    if relation not in ("=", "~", "<", "<="):
        return f"relation {relation!r} is no bound on a loss"
    sites = int(row["n_dc"]) if row["n_dc"] else 2
    km = float(row["distance_km"].split("-")[0])
    return Trial(
        row["id"],
        sites,
        km,
        _strategies(row["strategy"]),
        relation,
        round(bound, 6),
        row.get("source", ""),
    )


def _strategies(stated: str) -> tuple[Strategy, ...]:
    """Those that a word may mean; ring and pipeline where it says nothing."""
    words = stated.upper()
    dp, pp = "DP" in words, "PP" in words
    if dp and not pp:
        return ("dp-ring",)
    if pp and not dp:
        return ("pp",)
    return ("dp-ring", "pp")


def _like(run: Across, trial: Trial) -> Across:
    """The run with as many sites as the trial had, one leg of its length, and the rest at hand."""
    leg = run.legs[0]
    far = leg.model_copy(update={"km": trial.km, "varied": True})
    if trial.sites == 2:
        even = _even(run, (1, 1))
        return run.model_copy(update={"sites": even, "legs": (far,)})
    at_hand = Leg(km=0.0, fibre=leg.fibre, us_per_km=leg.us_per_km, varied=False)
    even = _even(run, (4, 3, 1))
    return run.model_copy(update={"sites": even, "legs": (far, at_hand, at_hand)})


def _even(run: Across, shares: tuple[int, ...]) -> tuple[TrainingSite, ...]:
    """Sites with shares of the GPUs; raises `BadPlan` where replicas do not divide so."""
    world = sum(site.gpus for site in run.sites)
    if run.data % sum(shares) or run.pipeline % sum(shares):
        raise BadPlan(
            f"{run.data} replicas of {run.pipeline} stages cannot be cut {shares}: trials need"
            " multiples of 8"
        )
    each = world // sum(shares)
    return tuple(
        TrainingSite(name=f"site-{at}", gpus=share * each) for at, share in enumerate(shares)
    )
