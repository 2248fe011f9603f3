"""Which facts does the next step need? Learned from past runs, asked before the step's arguments.

A language model's context should hold what the task will use and nothing else. So tool outputs go
to the fact base whole, and before a tool is called the facts that such calls need are brought back:
a logistic model over how often values of that place fed that tool, and over what has just been
spoken of. It sees what stands before the call: no later message, and not the call's arguments.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from starloom.agents.facts.tokens import token_count

Floats = NDArray[np.float64]
_WORD = re.compile(r"[\w-]+")
_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: f"{at:02d}" for at, name in enumerate(_NAMES, 1)}
_DAY = re.compile(rf"\b({'|'.join(_MONTHS)})[a-z]*\.? (\d{{1,2}})\b", re.IGNORECASE)
_ISO = re.compile(r"\d{4}-\d\d-\d\d")
_BACKOFF = 4.0
_RIDGE = 1.0


@dataclass(frozen=True, slots=True)
class Held:
    """A value that tool outputs hold: where it stands, and what stands beside it in its record."""

    value: str
    tool: str
    pattern: str
    key: str
    output: int
    """Which tool output it came with last, counted from 1."""
    seen: int
    beside: frozenset[str]
    asked: frozenset[str]
    """Arguments of the call that brought it."""

    @property
    def place(self) -> str:
        return f"{self.tool}:{self.pattern}"


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known before a call: the tool, what was said, and what is held but not in context."""

    tool: str
    said_by_user: str
    last_by_user: str
    last_by_agent: str
    said_by_agent: str
    output: int
    used: frozenset[str]
    """Values that earlier calls carried."""
    held: tuple[Held, ...]


@dataclass(slots=True)
class Need:
    """The model. `learn` once, then `probabilities` per moment."""

    _counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    _needed: Counter[tuple[str, ...]] = field(default_factory=Counter)
    _weights: Floats = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def learn(cls, moments: Iterable[tuple[Moment, frozenset[str]]]) -> "Need":
        """From moments with the values that the call then carried."""
        model = cls()
        shown = [(it, _signs(it), needed) for it, needed in moments]
        for moment, signs, needed in shown:
            for held, sign in zip(moment.held, signs, strict=True):
                for level in _levels(moment, held, sign):
                    model._counts[level] += 1
                    model._needed[level] += held.value in needed
        rows, target = [], []
        for moment, signs, needed in shown:
            for held, sign in zip(moment.held, signs, strict=True):
                right = held.value in needed
                rows.append(model._features(moment, held, sign, out=right))
                target.append(right)
        model._weights = _logistic(np.array(rows), np.array(target, dtype=float))
        return model

    def probabilities(self, moment: Moment) -> Floats:
        """One for each of `moment.held`."""
        if not moment.held:
            return np.zeros(0)
        signs = _signs(moment)
        rows = [self._features(moment, h, s) for h, s in zip(moment.held, signs, strict=True)]
        out: Floats = 1 / (1 + np.exp(-np.clip(np.array(rows) @ self._weights, -30, 30)))
        return out

    def _features(
        self, moment: Moment, held: Held, sign: list[float], out: bool | None = None
    ) -> list[float]:
        """`out`: the label to take back out of the counts, where the row was counted itself."""
        rate = 0.02
        logits = []
        for level in _levels(moment, held, sign):
            n, k = self._counts[level], self._needed[level]
            if out is not None:
                n, k = n - 1, k - out
            rate = (k + _BACKOFF * rate) / (n + _BACKOFF)
            logits.append(math.log(rate / (1 - rate)))
        return [1.0, *logits, *sign]


def _levels(moment: Moment, held: Held, sign: Sequence[float]) -> list[tuple[str, ...]]:
    """From the broadest group of like cases to the narrowest."""

    def spoken(*signs: int) -> str:
        return "".join(str(int(sign[it] > 0)) for it in signs)

    return [
        (moment.tool,),
        (moment.tool, held.key),
        (moment.tool, held.place),
        (moment.tool, held.place, spoken(0, 1, 2)),
        (moment.tool, held.place, spoken(0, 1, 2, 3, 5, 6, 12, 13)),
    ]


def _signs(moment: Moment) -> list[list[float]]:
    """Per held value: mentions, neighbours' mentions, age, how many like it there are."""
    agent, user = _words(moment.last_by_agent), _words(moment.last_by_user)
    ever = _words(moment.said_by_agent) | _words(moment.said_by_user)
    alike = Counter((it.place, it.output) for it in moment.held)
    out = []
    for it in moment.held:
        names = {_day(v) for v in it.beside if len(v) > 3}
        age = moment.output - it.output
        n = alike[it.place, it.output]
        own = it.value if len(it.value) > 2 else ""
        parts = _WORD.findall(_day(own))
        out.append(
            [
                float(bool(parts) and agent.issuperset(parts)),
                float(bool(names & agent)),
                float(bool(names & user) or (bool(parts) and user.issuperset(parts))),
                float(bool(parts) and ever.issuperset(parts)),
                float(len(names & ever) / max(len(names), 1)),
                float(bool(names & moment.used)),
                float(age == 0),
                float(age <= 2),
                min(age, 10) / 10,
                1 / n,
                math.log(n),
                min(it.seen, 5) / 5,
                float(bool(it.asked & (agent | user))),
                float(bool(it.asked & moment.used)),
            ]
        )
    return out


def _day(value: str) -> str:
    """An ISO date without its year, as people say it; anything else as it is."""
    return value[5:] if _ISO.fullmatch(value) else value


def _words(text: str) -> frozenset[str]:
    """Words as they stand, and days of the year as ISO dates end (`05-20` for May 20)."""
    found = set(_WORD.findall(text))
    found |= {_day(it) for it in found}
    found |= {f"{_MONTHS[m.lower()[:3]]}-{int(d):02d}" for m, d in _DAY.findall(text)}
    return frozenset(found)


def _logistic(rows: Floats, target: Floats) -> Floats:
    """Ridge logistic regression by Newton's method."""
    weights = np.zeros(rows.shape[1])
    prior = _RIDGE * np.eye(len(weights))
    for _ in range(40):
        p = 1 / (1 + np.exp(-np.clip(rows @ weights, -30, 30)))
        gradient = rows.T @ (p - target) + _RIDGE * weights
        hessian = (rows * (p * (1 - p))[:, None]).T @ rows + prior
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def rendered(found: Sequence[Held]) -> str:
    """Facts as they enter a context: each name once, then its values."""
    by_key: dict[str, list[str]] = {}
    for it in found:
        by_key.setdefault(it.key, []).append(it.value)
    return "\n".join(f"{key}={','.join(values)}" for key, values in by_key.items())


def cost_tokens(found: Sequence[Held]) -> int:
    return token_count(rendered(found)) if found else 0
