"""The nouns of provenance."""

import enum
from dataclasses import dataclass, field


class Level(enum.IntEnum):
    """How well a source is known. It moves thresholds; it switches no check off."""

    UNKNOWN = 0
    DEVELOPER = 1
    COMMUNITY = 2
    OFFICIAL = 3


@dataclass(frozen=True, slots=True)
class Publisher:
    """Somebody who publishes skills, as the owner of this site knows them.

    `fingerprints` are full OpenPGP fingerprints (40 hex digits) of primary keys; `origins` are
    prefixes of addresses, ending where a path segment ends; `reason` says why the level was given.
    """

    name: str
    level: Level
    reason: str
    fingerprints: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuthorSignature:
    """A signature that held: the primary key's fingerprint, and when it was made (Unix seconds)."""

    fingerprint: str
    made_s: int


@dataclass(frozen=True, slots=True)
class SourceResult:
    """The level with its reasons, and the hash of every file as it came."""

    level: Level
    publisher: str = ""
    reasons: tuple[str, ...] = ()
    signature: AuthorSignature | None = None
    origin: str = ""
    files: dict[str, str] = field(default_factory=dict)
