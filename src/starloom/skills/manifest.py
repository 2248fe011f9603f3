"""The one list of a skill's files: what authors sign, releases name, and loading compares."""

import hashlib
import re
import unicodedata

from starloom.skills.base import Skill
from starloom.skills.errors import Unsignable

SIGNATURE_NAME = "SKILL.asc"
"""The author's detached signature over the manifest; the one file that the manifest leaves out."""
_DECEPTIVE = re.compile(
    "[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)


def manifest(skill: Skill) -> dict[str, str]:
    """Path to SHA-256 of every file, sorted. Archives are hashed whole.

    Raises `Unsignable` where two readers could see two lists: links, devices, files that were not
    read, names that differ by case or by Unicode form alone, names with invisible characters.
    """
    if skill.problems:
        raise Unsignable(f"{skill.name}: not read in full: {skill.problems[0]}")
    listed: dict[str, str] = {}
    folded: dict[str, str] = {}
    for entry in skill.files:
        if entry.in_archive or entry.path == SIGNATURE_NAME:
            continue
        if entry.kind != "file":
            raise Unsignable(f"{entry.path}: a {entry.kind}; ship the file itself")
        if entry.data is None:
            raise Unsignable(f"{entry.path}: {entry.problem or 'not read'}")
        path = unicodedata.normalize("NFC", entry.path)
        if _DECEPTIVE.search(path) or path != entry.path:
            raise Unsignable(f"{entry.path!a}: rename it; invisible or decomposed characters")
        key = unicodedata.normalize("NFKC", path).casefold()
        if key in folded:
            raise Unsignable(f"{path} and {folded[key]} are one file on some systems: rename one")
        folded[key] = path
        listed[path] = entry.sha256
    if not listed:
        raise Unsignable(f"{skill.name}: has no files")
    return dict(sorted(listed.items()))


def canonical(listed: dict[str, str]) -> bytes:
    """The bytes that are signed: `sha256  path` a line, as `sha256sum -c` reads it."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(listed.items())).encode()


def digest(listed: dict[str, str]) -> str:
    """SHA-256 of the canonical manifest: the skill's identity."""
    return hashlib.sha256(canonical(listed)).hexdigest()
