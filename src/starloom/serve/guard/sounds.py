"""Headers of sounds: type and duration, read without decoding anything."""

import struct

from starloom.serve.guard.images import MediaInfo, riff

_MP3_KBPS = {
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""ISO/IEC 11172-3 and 13818-3, layer III, by MPEG version (3: 1, 2 and 0: 2 and 2.5)."""
_MP3_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_TAIL_BYTES = 65536


def sound(data: bytes) -> MediaInfo | None:
    """None when it is no sound that we know. Raises `struct.error` or IndexError when cut short."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return MediaInfo("audio/wav", duration_s=_wav_s(data))
    if data.startswith(b"fLaC"):
        bits = int.from_bytes(data[18:26], "big")
        rate, samples = bits >> 44, bits & (1 << 36) - 1
        return MediaInfo("audio/flac", duration_s=samples / rate if rate and samples else None)
    if data.startswith(b"OggS"):
        return MediaInfo("audio/ogg", duration_s=_ogg_s(data))
    if data.startswith(b"ID3") or (len(data) > 4 and _mp3_frame(data, 0)):
        return _mp3(data)
    return None


def _wav_s(data: bytes) -> float | None:
    bytes_per_s, size = 0, 0
    for name, body in riff(data, 12):
        if name == b"fmt ":
            (bytes_per_s,) = struct.unpack_from("<I", body, 8)
        elif name == b"data":
            size += len(body)
    return size / bytes_per_s if bytes_per_s else None


def _ogg_s(data: bytes) -> float | None:
    """RFC 3533: the last page's granule position counts samples (48 kHz in Opus, RFC 7845)."""
    head = data[28:256]
    if (at := head.find(b"OpusHead")) >= 0:
        rate = 48000
    elif (at := head.find(b"\x01vorbis")) >= 0:
        (rate,) = struct.unpack_from("<I", head, at + 12)
    else:
        return None
    last = data.rfind(b"OggS", max(0, len(data) - _TAIL_BYTES))
    if last < 0 or not rate:
        return None
    (granule,) = struct.unpack_from("<q", data, last + 6)
    return float(granule / rate) if granule >= 0 else None


def _mp3_frame(data: bytes, at: int) -> tuple[int, int, int, int] | None:
    """Version, kbit/s, Hz and bytes of the layer III frame at `at`."""
    head = int.from_bytes(data[at : at + 4], "big")
    version, layer = head >> 19 & 3, head >> 17 & 3
    rate, hz = head >> 12 & 15, head >> 10 & 3
    if head >> 21 != 0x7FF or version == 1 or layer != 1 or rate in (0, 15) or hz == 3:
        return None
    kbps, hertz = _MP3_KBPS[3 if version == 3 else 2][rate - 1], _MP3_HZ[version][hz]
    size = (144 if version == 3 else 72) * kbps * 1000 // hertz + (head >> 9 & 1)
    return version, kbps, hertz, size


def _mp3(data: bytes) -> MediaInfo | None:
    """Frames by the Xing or Info tag where there is one, else each frame by its own header."""
    at = 0
    if data.startswith(b"ID3"):
        size = 0
        for byte in data[6:10]:
            size = size << 7 | byte & 0x7F
        at = 10 + size
    first = _mp3_frame(data, at)
    if first is None:
        return None
    samples = 1152 if first[0] == 3 else 576
    frames, seconds = 0, 0.0
    while (frame := _mp3_frame(data, at)) is not None:
        frames += 1
        seconds += samples / frame[2]
        at += frame[3]
    return MediaInfo("audio/mpeg", duration_s=seconds)
