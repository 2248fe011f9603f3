"""What any expert's prose shows of how sure it can be: length, repetition, hedges, arithmetic."""

import math
import re
import zlib
from functools import lru_cache

from starloom.agents.camv.calculator import steps

HEDGES = {
    "cannot": r"cannot|can't|unable to",
    "too_little_said": r"not enough information|insufficient|more information|does not give",
    "none_of_them": r"none of",
    "closest": r"closest|nearest",
    "approximately": r"approximately|roughly",
    "assumes": r"assum",
    "however": r"however",
    "slip": r"mistake|error|incorrect",
    "starts_again": r"re-?check|recalc|another approach|let's try",
    "not_listed": r"not (?:listed|given|among|provided)|(?:doesn't|does not) match",
}
_HEDGES = tuple(re.compile(it, re.IGNORECASE) for it in HEDGES.values())
SHORT_CHARS = 40

NAMES = (
    "is_short",
    "length",
    "length_squared",
    "cut_off",
    "compressibility",
    *HEDGES,
    "equations",
    "has_false_equation",
)


@lru_cache(maxsize=256)
def features(text: str) -> tuple[float, ...]:
    """As `NAMES`; lengths on a log scale, compressibility is deflated over plain bytes."""
    chain = steps(text)
    size = math.log1p(len(text)) / 8
    raw = text.encode()
    return (
        float(len(text) < SHORT_CHARS),
        size,
        size * size,
        float(bool(text) and text.rstrip()[-1:] not in tuple(".)}$]*!?0123456789")),
        len(zlib.compress(raw)) / len(raw) if len(raw) > 300 else 0.5,
        *(float(bool(hedge.search(text))) for hedge in _HEDGES),
        min(len(chain), 8) / 8,
        float(any(not it.holds for it in chain)),
    )
