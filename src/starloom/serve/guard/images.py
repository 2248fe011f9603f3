"""Headers of images: type, size, frames and duration, read without decoding anything."""

import struct
from collections.abc import Iterator
from typing import NamedTuple


class MediaInfo(NamedTuple):
    """What a file's own bytes say that it is. 0 where its kind has none, None where not told."""

    type: str
    width: int | None = 0
    height: int | None = 0
    frames: int = 1
    duration_s: float | None = 0.0

    @property
    def pixels(self) -> int | None:
        """Of all frames of an image, which decoders may unfold at once; of one frame of a video."""
        if self.width is None or self.height is None:
            return None
        frames = self.frames if self.type.startswith("image/") else 1
        return self.width * self.height * frames


def image(data: bytes) -> MediaInfo | None:
    """None when it is no image that we know. Raises `struct.error` or IndexError when cut short."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] == b"BM" and len(data) > 26:
        width, height = struct.unpack_from("<ii", data, 18)
        return MediaInfo("image/bmp", abs(width), abs(height))
    return None


def _png(data: bytes) -> MediaInfo:
    """PNG, third edition: IHDR comes first; acTL tells frames of an animation, fcTL their time."""
    if data[12:16] != b"IHDR":
        raise struct.error("a PNG without IHDR")
    width, height = struct.unpack_from(">II", data, 16)
    frames, duration_s, at = 1, 0.0, 8
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"acTL":
            frames = max(1, *struct.unpack_from(">I", data, at + 8))
        elif name == b"fcTL":
            number, base = struct.unpack_from(">HH", data, at + 8 + 20)
            duration_s += number / (base or 100)
        at += 12 + size
    return MediaInfo("image/png", width, height, frames, duration_s)


def _jpeg(data: bytes) -> MediaInfo:
    """ITU-T T.81: the frame header SOFn holds the size; segments before it are skipped."""
    at = 2
    while True:
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 1
            continue
        (size,) = struct.unpack_from(">H", data, at + 1)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 4)
            return MediaInfo("image/jpeg", width, height)
        if size < 2 or marker in (0xD9, 0xDA):
            raise struct.error("a JPEG without a frame header")
        at += 1 + size


def _gif(data: bytes) -> MediaInfo:
    """GIF89a: blocks up to the trailer; each image descriptor is a frame."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    frames, centiseconds = 0, 0
    while at < len(data) and data[at] != 0x3B:
        if data[at] == 0x21:
            if data[at + 1] == 0xF9:
                centiseconds += struct.unpack_from("<H", data, at + 4)[0]
            at += 2
        elif data[at] == 0x2C:
            frames += 1
            size_x, size_y, packed = struct.unpack_from("<HHB", data, at + 5)
            width, height = max(width, size_x), max(height, size_y)
            at += 10 + (3 << ((packed & 7) + 1) if packed & 0x80 else 0) + 1
        else:
            raise struct.error("an unknown block in a GIF")
        while data[at]:
            at += 1 + data[at]
        at += 1
    return MediaInfo("image/gif", width, height, max(frames, 1), centiseconds / 100)


def _webp(data: bytes) -> MediaInfo:
    """RFC 9649: VP8 or VP8L alone, or VP8X with one ANMF chunk a frame."""
    width = height = frames = milliseconds = 0
    for name, body in riff(data, 12):
        if name == b"VP8X":
            width = 1 + int.from_bytes(body[4:7], "little")
            height = 1 + int.from_bytes(body[7:10], "little")
        elif name == b"ANMF":
            frames += 1
            milliseconds += int.from_bytes(body[12:15], "little")
            width = max(width, 1 + int.from_bytes(body[6:9], "little"))
            height = max(height, 1 + int.from_bytes(body[9:12], "little"))
        elif name == b"VP8 " and body[3:6].tobytes() == b"\x9d\x01\x2a":
            x, y = struct.unpack_from("<HH", body, 6)
            width, height = max(width, x & 0x3FFF), max(height, y & 0x3FFF)
        elif name == b"VP8L" and body[:1].tobytes() == b"\x2f":
            bits = int.from_bytes(body[1:5], "little")
            width = max(width, 1 + (bits & 0x3FFF))
            height = max(height, 1 + (bits >> 14 & 0x3FFF))
    if not width or not height:
        raise struct.error("a WebP without a size")
    return MediaInfo("image/webp", width, height, max(frames, 1), milliseconds / 1000)


def riff(data: bytes, at: int) -> Iterator[tuple[bytes, memoryview]]:
    """The chunks of a RIFF file from `at` on."""
    view = memoryview(data)
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        yield name, view[at + 8 : at + 8 + size]
        at += 8 + size + (size & 1)
