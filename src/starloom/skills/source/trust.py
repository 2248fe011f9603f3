"""What level a skill earns: by a pinned key, or by its address as far as that proves anything."""

from collections.abc import Sequence

from starloom.skills.base import Skill
from starloom.skills.errors import SignatureRefused, SkillError
from starloom.skills.manifest import SIGNATURE_NAME, canonical, manifest
from starloom.skills.source.base import AuthorSignature, Level, Publisher, SourceResult
from starloom.skills.source.gpg import AuthorKeys


def assess(
    skill: Skill,
    origin: str = "",
    publishers: Sequence[Publisher] = (),
    keys: AuthorKeys | None = None,
) -> SourceResult:
    """The level of a skill that came from `origin`.

    A publisher with pinned keys is believed by signature only: their address can be typed by
    anyone. One without is believed by address, and then never above COMMUNITY. A signature that is
    there and does not hold makes any skill UNKNOWN, whatever its address.
    """
    reasons: list[str] = []
    files = {it.path: it.sha256 for it in skill.files if not it.in_archive}
    signature, refused = _signature(skill, publishers, keys, reasons)
    if refused:
        return SourceResult(Level.UNKNOWN, "", tuple(reasons), None, origin, files)
    if signature is not None:
        for it in publishers:
            if signature.fingerprint in it.fingerprints:
                reasons.append(f"signed by {it.name} ({signature.fingerprint}): {it.reason}")
                return SourceResult(it.level, it.name, tuple(reasons), signature, origin, files)
    for it in publishers:
        if not any(_under(origin, prefix) for prefix in it.origins):
            continue
        if it.fingerprints:
            reasons.append(
                f"{origin} is an address of {it.name}, whose skills are signed; this one is not"
            )
            continue
        level = min(it.level, Level.COMMUNITY)
        reasons.append(f"from {origin}, an address of {it.name}: {it.reason}")
        return SourceResult(level, it.name, tuple(reasons), None, origin, files)
    reasons.append(f"nobody known publishes at {origin}" if origin else "its origin was not given")
    return SourceResult(Level.UNKNOWN, "", tuple(reasons), signature, origin, files)


def _signature(
    skill: Skill, publishers: Sequence[Publisher], keys: AuthorKeys | None, reasons: list[str]
) -> tuple[AuthorSignature | None, bool]:
    """The author's signature, and whether there is one that must be refused."""
    entry = skill.file(SIGNATURE_NAME)
    if entry is None or entry.data is None:
        reasons.append("not signed by its author")
        return None, False
    if keys is None:
        reasons.append(
            "signed, but no author keys are pinned here: the signature counts for nothing"
        )
        return None, False
    pinned = {it for publisher in publishers for it in publisher.fingerprints}
    try:
        return keys.verify(canonical(manifest(skill)), entry.data, pinned), False
    except (SignatureRefused, SkillError) as error:
        reasons.append(f"its author's signature is refused: {error}")
        return None, True


def _under(origin: str, prefix: str) -> bool:
    """Whether an address lies under a prefix, compared by whole path segments."""
    plain = prefix.rstrip("/")
    return origin == plain or origin.startswith(plain + "/")
