"""Byte patterns by YARA (yara-x): for binaries and whatever no parser of ours reads.

Compiled when first used. Without yara-x the scan goes on with its other checks, and says so in the
facts of the result (`yara`).
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

MAX_BYTES = 16 * 2**20
TIMEOUT_S = 10


def available() -> bool:
    """Whether yara-x is installed."""
    return _rules() is not None


def matches(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Names of rules that hold, each with the place of its first match."""
    rules = _rules()
    if rules is None:
        return
    import yara_x

    scanner = yara_x.Scanner(rules)
    scanner.set_timeout(TIMEOUT_S)
    for rule in scanner.scan(data[:MAX_BYTES]).matching_rules:
        at, length = 0, 0
        for pattern in rule.patterns:
            for match in pattern.matches:
                at, length = match.offset, match.length
                break
            if length:
                break
        yield rule.identifier, at, data[at : at + min(length, 120)]


@cache
def _rules() -> Any:
    try:
        import yara_x
    except ImportError:
        return None
    return yara_x.compile((files("starloom.skills.scan") / "patterns.yar").read_text("utf-8"))
