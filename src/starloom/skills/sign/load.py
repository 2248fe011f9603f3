"""The only way a skill reaches an agent: verified, copied from the verified bytes, read-only.

What is compared is what is copied: files are read once, hashed, and written from that memory, so
that nobody changes them in between. The copy lies outside the reach of whoever wrote the original.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starloom.skills.base import Skill
from starloom.skills.errors import Changed, Downgraded, Expired, SignatureRefused, Unsigned
from starloom.skills.manifest import SIGNATURE_NAME, manifest
from starloom.skills.read import Limits, read_skill
from starloom.skills.sign.base import MAX_ENVELOPE_BYTES, Release
from starloom.skills.sign.keys import KeyRing
from starloom.skills.sign.release import released
from starloom.skills.sign.revocation import RevocationList

ENVELOPE_NAME = "SKILL.release.json"
"""Beside the skill's folder or inside it; not part of the skill."""
_CLOCK_SLACK_S = 300.0


@dataclass
class Loader:
    """Verifies and copies. `state` keeps the highest version of each skill that was ever loaded."""

    ring: KeyRing
    state: Path
    clock: Callable[[], float]
    revocations: RevocationList = field(default_factory=RevocationList)
    limits: Limits = field(default_factory=Limits)

    def verify(self, folder: Path, envelope: bytes | None = None) -> tuple[Release, Skill]:
        """The release and the bytes that it is of. Raises the kinds of `SignatureRefused`."""
        skill = read_skill(folder, self.limits)
        inside = skill.file(ENVELOPE_NAME)
        if envelope is None:
            if inside is None or inside.data is None or len(inside.data) > MAX_ENVELOPE_BYTES:
                raise Unsigned(f"{folder}: no {ENVELOPE_NAME}")
            envelope = inside.data
        now = self.clock()
        made = released(envelope, self.ring, now, self.revocations.keys())
        if now >= made.expires_s:
            raise Expired(
                f"{made.skill} {made.version}: the release is past its date: vet and sign again"
            )
        if made.issued_s > now + _CLOCK_SLACK_S:
            raise Expired(f"{made.skill} {made.version}: released in the future: check the clock")
        self.revocations.check(made, now)
        plain = Skill(
            skill.name,
            skill.root,
            tuple(it for it in skill.files if it.path != ENVELOPE_NAME),
            skill.problems,
        )
        _same(made, manifest(plain))
        return made, plain

    def load(self, folder: Path, into: Path, envelope: bytes | None = None) -> Path:
        """A read-only copy under `into`, named by skill and identity; the same copy if it is there.

        Raises the kinds of `SignatureRefused`, `Downgraded` among them when a newer version was
        loaded.
        """
        made, skill = self.verify(folder, envelope)
        seen = self._seen()
        if made.version < seen.get(made.skill, 0):
            raise Downgraded(
                f"{made.skill} {made.version}: version {seen[made.skill]} was loaded before"
            )
        name = (
            "".join(c if c.isalnum() or c in "-_." else "_" for c in made.skill).lstrip(".")
            or "skill"
        )
        target = into / f"{name}-{made.identity[:16]}"
        into.mkdir(parents=True, exist_ok=True)
        if target.exists():
            _same(made, manifest(read_skill(target, self.limits)))
        else:
            _copy(skill, target)
        self._remember({**seen, made.skill: made.version})
        return target

    def _seen(self) -> dict[str, int]:
        try:
            held = json.loads(self.state.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise SignatureRefused(
                f"{self.state}: the record of loaded versions cannot be read"
            ) from None
        return {str(key): int(value) for key, value in held.items()}

    def _remember(self, seen: dict[str, int]) -> None:
        """Replace the record in one step, so that a crash leaves the old one or the new one."""
        self.state.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.state.parent, prefix=".versions-")
        with os.fdopen(handle, "w") as file:
            json.dump(seen, file, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(self.state)


def _same(made: Release, files: dict[str, str]) -> None:
    """Raises `Changed` that names the first file that differs."""
    for path in sorted(made.files.keys() | files.keys()):
        if path not in files:
            raise Changed(f"{made.skill}: {path} is missing")
        if path not in made.files:
            raise Changed(f"{made.skill}: {path} was added after signing")
        if files[path] != made.files[path]:
            raise Changed(f"{made.skill}: {path} is not what was signed")


def _copy(skill: Skill, target: Path) -> None:
    """Write all files from memory into a new folder, then take the right to write away."""
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".loading-"))
    try:
        for entry in skill.files:
            if entry.in_archive or entry.path == SIGNATURE_NAME or entry.data is None:
                continue
            path = scratch / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            runs = 0o555 if entry.mode & 0o111 else 0o444
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(entry.data)
            path.chmod(runs)
        for folder in sorted(scratch.rglob("*"), reverse=True):
            if folder.is_dir():
                folder.chmod(0o555)
        scratch.chmod(0o555)
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
