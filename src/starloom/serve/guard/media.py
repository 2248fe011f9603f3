"""Image, audio and video parts of messages: found, typed by content, measured, held to the rules.

Nothing is fetched and, but for difference hashes, nothing is decoded. What cannot be checked is a
verdict of its own, `pass` or `block` as the site says: never silence.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from starloom.serve.guard.base import Action, Verdict
from starloom.serve.guard.hashes import HashLists
from starloom.serve.guard.images import MediaInfo, image
from starloom.serve.guard.sounds import sound
from starloom.serve.guard.videos import video
from starloom.site import Media

TEXT_PARTS = frozenset(
    [
        "text",
        "input_text",
        "output_text",
        "refusal",
        "summary_text",
        "reasoning_text",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "tool_result",
        "tool_reference",
    ]
)
_HOLDERS = ("image_url", "audio_url", "video_url", "input_audio", "file", "source")
_PAYLOADS = ("url", "data", "file_data", "image_url", "file_url", "file_id")
_HOLDING = frozenset((*_HOLDERS, *_PAYLOADS))
_BARE, _BARE_CHARS = ("data", "file_data"), 512
"""Fields that hold base64 alone. What is short, or has blanks, is looked through as text."""


class MediaPart(NamedTuple):
    """A part of a message that is no text, and what it carries."""

    type: str
    source: str
    """A data URL, base64, an address, or a file's id; empty when nothing is there."""
    name: str
    """The field that held it."""


class Opened(NamedTuple):
    """What became of a part: its bytes when they are here, and why they are not otherwise."""

    data: bytes
    why: str = ""


def media_parts(messages: Any) -> list[MediaPart]:
    """All parts that are no text, in order, out of messages of OpenAI's or Anthropic's shape."""
    return list(_parts(messages)) if isinstance(messages, list) else []


def _parts(items: Sequence[Any]) -> Iterator[MediaPart]:
    for item in items:
        if not isinstance(item, Mapping):
            continue
        content = item.get("content")
        kind = item.get("type")
        is_message = "role" in item or kind == "message"
        if isinstance(kind, str) and kind not in TEXT_PARTS and not is_message:
            yield _part(kind, item)
        elif isinstance(content, list):
            yield from _parts(content)


def _part(kind: str, item: Mapping[str, Any]) -> MediaPart:
    places = [item, *(item[name] for name in _HOLDERS if isinstance(item.get(name), Mapping))]
    for place in places:
        for name in (*_PAYLOADS, *_HOLDERS):
            if isinstance(place.get(name), str) and place[name]:
                return MediaPart(kind, place[name], name)
    return MediaPart(kind, "", "")


def is_payload(key: str, value: Any) -> bool:
    """Whether a field's value is a medium itself and no text: base64, with or without a head."""
    if key not in _HOLDING or not isinstance(value, str) or " " in value:
        return False
    if value.startswith("data:"):
        return value.partition(",")[0].endswith(";base64")
    return key in _BARE and len(value) >= _BARE_CHARS


def opened(part: MediaPart, max_bytes: float) -> Opened:
    """The bytes of a part, or why there are none."""
    source = part.source
    if part.name == "file_id":
        return Opened(b"", "a file's id")
    if not source:
        return Opened(b"", f"a part of type {part.type[:40]!r}")
    if source.startswith("data:"):
        head, comma, source = source.partition(",")
        if not comma or not head.endswith(";base64"):
            return Opened(b"", "a data URL that is not base64")
    elif part.name not in ("data", "file_data"):
        return Opened(b"", "an address elsewhere")
    if len(source) * 3 / 4 > max_bytes + 3:
        return Opened(b"", "too large")
    try:
        return Opened(base64.b64decode(source, validate=True))
    except (binascii.Error, ValueError):
        return Opened(b"", "not base64")


def sniffed(data: bytes) -> MediaInfo | None:
    """What the bytes are, whatever was claimed; None when unknown or broken."""
    for reader in (image, sound, video):
        try:
            info = reader(data)
        except (struct.error, IndexError, OverflowError):
            return None
        if info is not None:
            return info
    return None


class MediaCheck:
    """The rules of a site for media. Immutable."""

    def __init__(self, rules: Media, lists: HashLists) -> None:
        self._rules = rules
        self._lists = lists

    def check(self, parts: Sequence[MediaPart]) -> list[Verdict]:
        """One verdict for each part that is refused, or passed without having been checked."""
        rules = self._rules
        if len(parts) > rules.max_parts:
            return [_verdict("block", f"{len(parts)} parts, over {rules.max_parts}", 0)]
        found = []
        for number, part in enumerate(parts):
            why, certain = self._why(part)
            if why:
                refuse = certain or rules.unchecked == "refuse"
                found.append(_verdict("block" if refuse else "pass", why, number))
        return found

    def _why(self, part: MediaPart) -> tuple[str, bool]:
        """What is wrong with a part, and whether that is certain rather than unknown."""
        rules = self._rules
        data, why = opened(part, rules.max_mib * 2**20)
        if why:
            return why, why in ("too large", "not base64")
        if len(data) > rules.max_mib * 2**20:
            return "too large", True
        if hashlib.sha256(data).digest() in self._lists.sha256:
            return "sha256 on the list", True
        info = sniffed(data)
        if info is None:
            return "an unknown type", False
        if info.type not in rules.types:
            return f"type {info.type}", True
        if info.pixels is None or info.duration_s is None:
            return f"{info.type} without a size or duration", False
        if info.pixels > rules.max_megapixels * 1e6:
            return f"{info.pixels / 1e6:.1f} megapixels", True
        if info.duration_s > rules.max_s:
            return f"{info.duration_s:.0f} s long", True
        if self._lists.dhashes and info.type.startswith("image/"):
            return self._lists.looked_like(data, info, rules.frames, rules.dhash_bits)
        return "", False


def _verdict(action: Action, why: str, number: int) -> Verdict:
    return Verdict(
        list="media", phrase=why, action=action, where="input", start=0, end=0, part=number
    )
