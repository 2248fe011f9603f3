"""Headers of videos: type, size, frames and duration, read without decoding anything."""

import struct
from collections.abc import Iterator

from starloom.serve.guard.images import MediaInfo

_MAX_BOXES = 10_000
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")


def video(data: bytes) -> MediaInfo | None:
    """None when it is no video that we know. Raises `struct.error` or IndexError when cut short."""
    if data[4:8] == b"ftyp":
        return _mp4(data)
    if data.startswith(b"\x1aE\xdf\xa3"):
        return _webm(data)
    return None


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """ISO/IEC 14496-12: name, first and last byte of the bodies of the boxes in a range."""
    count = 0
    while at + 8 <= end and count < _MAX_BOXES:
        count += 1
        size, name = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        if size == 0:
            size = end - at
        if size < body - at:
            raise struct.error("a box smaller than its head")
        yield name, body, min(at + size, end)
        at += size


def _mp4(data: bytes) -> MediaInfo:
    """Duration from `mvhd`, size from `tkhd`, frames from `stsz` of the largest picture track."""
    brand = data[8:12]
    width = height = 0
    frames, duration_s = 1, None
    for name, first, last in _boxes(data, 0, len(data)):
        if name != b"moov":
            continue
        for inner, start, end in _boxes(data, first, last):
            if inner == b"mvhd":
                form, place = (">IQ", 20) if data[start] == 1 else (">II", 12)
                scale, ticks = struct.unpack_from(form, data, start + place)
                duration_s = ticks / scale if scale else None
            elif inner == b"trak":
                x, y, samples = _track(data, start, end)
                if x * y > width * height:
                    width, height, frames = x, y, max(samples, 1)
    if brand in _IMAGE_BRANDS:
        kind = "avif" if brand.startswith(b"avi") else "heic"
        return MediaInfo(f"image/{kind}", None, None, 1, None)
    kind = "video/quicktime" if brand == b"qt  " else "video/mp4"
    if duration_s is not None and not width:
        return MediaInfo("audio/mp4", 0, 0, 1, duration_s)
    return MediaInfo(kind, width or None, height or None, frames, duration_s)


def _track(data: bytes, first: int, last: int) -> tuple[int, int, int]:
    width = height = samples = 0
    for name, start, end in _boxes(data, first, last):
        if name == b"tkhd":
            x, y = struct.unpack_from(">II", data, start + (88 if data[start] == 1 else 76))
            width, height = x >> 16, y >> 16
        elif name in (b"mdia", b"minf", b"stbl"):
            samples = max(samples, _track(data, start, end)[2])
        elif name == b"stsz":
            (samples,) = struct.unpack_from(">I", data, start + 8)
    return width, height, samples


_SEGMENT, _INFO, _TRACKS, _ENTRY, _PICTURE = 0x18538067, 0x1549A966, 0x1654AE6B, 0xAE, 0xE0
_SCALE, _DURATION, _WIDTH, _HEIGHT, _CLUSTER = 0x2AD7B1, 0x4489, 0xB0, 0xBA, 0x1F43B675


def _webm(data: bytes) -> MediaInfo:
    """RFC 8794 and 9559: sizes and duration stand before the clusters."""
    scale_ns, ticks = 1_000_000, None
    width = height = 0
    for name, first, last in _elements(data, 0, len(data)):
        if name == _SCALE:
            scale_ns = int.from_bytes(data[first:last], "big")
        elif name == _DURATION:
            (ticks,) = struct.unpack(">f" if last - first == 4 else ">d", data[first:last])
        elif name == _WIDTH:
            width = max(width, int.from_bytes(data[first:last], "big"))
        elif name == _HEIGHT:
            height = max(height, int.from_bytes(data[first:last], "big"))
    duration_s = None if ticks is None else ticks * scale_ns / 1e9
    return MediaInfo("video/webm", width or None, height or None, 1, duration_s)


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    count = 0
    while at < end and count < _MAX_BOXES:
        count += 1
        name, at = _number(data, at, keep=True)
        size, at = _number(data, at, keep=False)
        last = min(end, at + size)
        if name == _CLUSTER:
            return
        if name in (_SEGMENT, _INFO, _TRACKS, _ENTRY, _PICTURE):
            yield from _elements(data, at, last)
        else:
            yield name, at, last
        at = last


def _number(data: bytes, at: int, *, keep: bool) -> tuple[int, int]:
    """A variable-size integer, and where it ends; `keep` leaves the length marker in."""
    first = data[at]
    if first == 0:
        raise struct.error("an EBML number of more than 8 bytes")
    size = 9 - first.bit_length()
    number = int.from_bytes(data[at : at + size], "big")
    return (number if keep else number & (1 << 7 * size) - 1), at + size
