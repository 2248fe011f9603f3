"""Lists of files and images that are refused: exact hashes, and difference hashes of what is seen.

A difference hash (dHash) has a bit for each of 8 x 8 places: whether the grey image, shrunk to
9 x 8, grows brighter there from left to right. It survives scaling and recompression, not cropping,
turning or mirroring.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from starloom.serve.guard.images import MediaInfo
from starloom.site import Media, Problem

_WIDTH, _HEIGHT = 9, 8


class HashLists(NamedTuple):
    sha256: frozenset[bytes] = frozenset()
    dhashes: tuple[int, ...] = ()

    def looked_like(self, data: bytes, info: MediaInfo, frames: int, bits: int) -> tuple[str, bool]:
        """What `MediaCheck` says of an image that passed all else."""
        try:
            hashes = list(dhashes(data, info.frames, frames))
        except (OSError, ValueError, SyntaxError, EOFError):
            return "an image that cannot be decoded", False
        near = any((one ^ other).bit_count() <= bits for one in hashes for other in self.dhashes)
        return ("looks like one on the list", True) if near else ("", False)


def dhashes(data: bytes, frames: int, most: int) -> Iterator[int]:
    """The hashes of at most `most` frames, evenly spread from the first on. Needs Pillow."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as shown:
        count = min(frames, getattr(shown, "n_frames", 1))
        for number in sorted({index * count // most for index in range(most)}):
            shown.seek(number)
            grey = shown.convert("L").resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS).tobytes()
            bits = 0
            for place in range(_WIDTH * _HEIGHT):
                if place % _WIDTH:
                    bits = bits << 1 | (grey[place] > grey[place - 1])
            yield bits


def hash_lists(base: Path, rules: Media, problems: list[Problem]) -> HashLists:
    """The lists of a site; what is wrong with them is added to `problems`."""
    exact = _read(base, rules.sha256_file, "sha256_file", 64, problems)
    seen = _read(base, rules.dhash_file, "dhash_file", 16, problems)
    if rules.dhash_file is not None:
        try:
            import PIL  # noqa: F401
        except ImportError:
            what, fix = "difference hashes need Pillow", "pip install 'starloom[media]'"
            problems.append(Problem(str(base), 1, "guard.media.dhash_file", what, fix))
    return HashLists(
        frozenset(bytes.fromhex(line) for line in exact), tuple(int(line, 16) for line in seen)
    )


def _read(
    base: Path, file: str | None, field: str, digits: int, problems: list[Problem]
) -> list[str]:
    if file is None:
        return []
    path, where = base / file, f"guard.media.{field}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fix = f"correct `{field}`; it is relative to the folder of the site file"
        problems.append(Problem(str(path), 1, where, f"cannot be read: {error}", fix))
        return []
    found = []
    for number, line in enumerate(lines, 1):
        hexadecimal = line.partition("#")[0].strip().lower()
        if re.fullmatch(f"[0-9a-f]{{{digits}}}", hexadecimal):
            found.append(hexadecimal)
        elif hexadecimal:
            what, fix = "no hash", f"write {digits} hex digits a line, `#` before a remark"
            problems.append(Problem(str(path), number, where, what, fix))
    return found
