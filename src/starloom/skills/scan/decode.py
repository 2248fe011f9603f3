"""What is written in base64, hex, percent, HTML entities or escapes, read to a bound.

Only what decodes to text that looks written by a person or for a shell comes back: a picture or a
key in base64 is data, not a hidden instruction.
"""

import base64
import binascii
import codecs
import html
import re
import string
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

MAX_DEPTH = 3
MAX_LAYERS = 200
MAX_BYTES = 1 << 20
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{24,}={0,2}(?![A-Za-z0-9+/_-])")
_HEX = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}[\s:,]{0,2}){16,}(?![0-9A-Fa-f])")
_ESCAPED = re.compile(r"(?:(?:\\+x[0-9A-Fa-f]{2}|\\+u00[0-9A-Fa-f]{2}|\\+[0-3][0-7]{2}){8,})")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}|[\w.~/-]){12,}")
_ENTITIES = re.compile(r"(?:&#(?:x[0-9A-Fa-f]{2,5}|[0-9]{2,6});){4,}")
_PRINTABLE = set(string.printable) - set("\x0b\x0c")


@dataclass(frozen=True, slots=True)
class Layer:
    """Text found inside text: how it was written, the span that it stood in, and what it says."""

    coding: str
    start: int
    end: int
    text: str


def layers(text: str) -> Iterator[Layer]:
    """Everything that decodes, outermost only; call again on a layer's text for what is inside."""
    room = MAX_BYTES
    for count, layer in enumerate(_candidates(text)):
        room -= len(layer.text)
        if room < 0 or count >= MAX_LAYERS:
            return
        yield layer


def _candidates(text: str) -> Iterator[Layer]:
    for m in _BASE64.finditer(text):
        found = base64_text(m.group())
        if found:
            yield Layer("base64", m.start(), m.end(), found)
    for m in _HEX.finditer(text):
        found = hex_text(m.group())
        if found:
            yield Layer("hex", m.start(), m.end(), found)
    if "\\" in text:
        for m in _ESCAPED.finditer(text):
            found = unescaped(m.group())
            if readable(found):
                yield Layer("escapes", m.start(), m.end(), found)
    if "%" in text:
        for m in _PERCENT.finditer(text):
            if m.group().count("%") >= 6 and m.group().count("%") * 4 > len(m.group()):
                found = urllib.parse.unquote(m.group(), errors="replace")
                if readable(found):
                    yield Layer("percent", m.start(), m.end(), found)
    if "&#" in text:
        for m in _ENTITIES.finditer(text):
            yield Layer("entities", m.start(), m.end(), html.unescape(m.group()))


def base64_text(written: str) -> str:
    """What base64 (either alphabet, padding optional) says, empty when it is not text."""
    body = re.sub(r"\s", "", written).rstrip("=").replace("-", "+").replace("_", "/")
    if len(body) < 8 or len(body) > MAX_BYTES or len(body) % 4 == 1:
        return ""
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        return ""
    return as_text(data)


def hex_text(written: str) -> str:
    """What pairs of hex digits say, empty when it is not text."""
    digits = re.sub(r"[^0-9A-Fa-f]", "", re.sub(r"\\x|0x", "", written))
    if len(digits) % 2 or len(digits) > 2 * MAX_BYTES:
        return ""
    return as_text(bytes.fromhex(digits))


def unescaped(written: str) -> str:
    r"""`\x41`, `\u0041`, `\101` as characters."""
    return re.sub(
        r"\\+(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|([0-3][0-7]{2}))",
        lambda m: chr(int(m[1] or m[2], 16) if m[1] or m[2] else int(m[3], 8)),
        written,
    )


def rot13(written: str) -> str:
    """ROT13, as droppers use it."""
    return codecs.decode(written, "rot13")


def as_text(data: bytes) -> str:
    """Bytes as text (UTF-8, or UTF-16 as PowerShell's -EncodedCommand has it), empty when they are none."""
    if len(data) >= 8 and data[1::2].count(0) > len(data) * 0.4:
        found = data.decode("utf-16-le", "replace")
        return found if readable(found) else ""
    try:
        found = data.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return found if readable(found) else ""


def readable(text: str) -> bool:
    """Whether nearly all characters are ones that people or shells write."""
    if len(text) < 6:
        return False
    good = sum(c in _PRINTABLE or (c > "\x9f" and c.isprintable()) for c in text)
    return good >= 0.97 * len(text)
