"""Media parts: found, typed by content, measured by their headers, and held to the rules."""

import asyncio
import base64
import hashlib
import io
import struct
import time
import wave
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_guard import site

from starloom.serve.guard import Guard, is_payload, media_parts
from starloom.serve.guard.hashes import HashLists, dhashes
from starloom.serve.guard.media import MediaCheck, MediaPart, sniffed
from starloom.site import Media, SiteError

Image = pytest.importorskip("PIL.Image")


def picture(kind, size=(60, 40), frames=1, seed=0, **more) -> bytes:
    out = io.BytesIO()
    shown = [
        Image.effect_mandelbrot(size, (-2 + seed, -1.5, 1 + number / 3, 1.5), 20).convert("RGB")
        for number in range(frames)
    ]
    many = {"save_all": True, "append_images": shown[1:], "duration": 250} if frames > 1 else {}
    shown[0].save(out, kind, **many, **more)
    return out.getvalue()


def wav(seconds=1.5) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\0\0" * int(8000 * seconds))
    return out.getvalue()


def box(name: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), name) + body


def mp4(width=640, height=360, seconds=12, frames=300) -> bytes:
    mvhd = box(b"mvhd", struct.pack(">4xIIII", 0, 0, 1000, seconds * 1000))
    tkhd = box(b"tkhd", bytes(76) + struct.pack(">II", width << 16, height << 16))
    stsz = box(b"stsz", struct.pack(">4xII", 0, frames))
    trak = box(b"trak", tkhd, box(b"mdia", box(b"minf", box(b"stbl", stsz))))
    return box(b"ftyp", b"isom\0\0\0\0") + box(b"mdat", b"xx") + box(b"moov", mvhd, trak)


def element(name: str, body: bytes) -> bytes:
    return bytes.fromhex(name) + struct.pack(">Q", 1 << 56 | len(body)) + body


def webm(width=320, height=200, seconds=3.0) -> bytes:
    info = element("1549a966", element("4489", struct.pack(">d", seconds * 1000)))
    sizes = element("b0", struct.pack(">H", width)) + element("ba", struct.pack(">H", height))
    tracks = element("1654ae6b", element("ae", element("e0", sizes)))
    return element("1a45dfa3", b"") + element("18538067", info + tracks + element("1f43b675", b"z"))


def mp3(frames=100) -> bytes:
    return b"ID3\4\0\0\0\0\0\5" + bytes(5) + (b"\xff\xfb\x90\x00" + bytes(413)) * frames


def flac(seconds=2) -> bytes:
    bits = 44100 << 44 | 1 << 41 | 15 << 36 | 44100 * seconds
    return b"fLaC\x80\0\0\x22" + bytes(10) + bits.to_bytes(8, "big") + bytes(16)


def ogg(seconds=4) -> bytes:
    head = b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead" + bytes(11)
    return head + b"OggS\0\4" + struct.pack("<q", 48000 * seconds) + bytes(14)


def bomb(width=60_000, height=60_000) -> bytes:
    """A PNG of 3.6 gigapixels in some kilobytes."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (picture("PNG"), ("image/png", 60, 40, 1, 0)),
        (picture("PNG", frames=3), ("image/png", 60, 40, 3, 0.75)),
        (picture("JPEG"), ("image/jpeg", 60, 40, 1, 0)),
        (picture("JPEG", progressive=True), ("image/jpeg", 60, 40, 1, 0)),
        (picture("GIF"), ("image/gif", 60, 40, 1, 0)),
        (picture("GIF", frames=4), ("image/gif", 60, 40, 4, 1)),
        (picture("WEBP"), ("image/webp", 60, 40, 1, 0)),
        (picture("WEBP", lossless=True), ("image/webp", 60, 40, 1, 0)),
        (picture("WEBP", frames=3), ("image/webp", 60, 40, 3, 0.75)),
        (picture("BMP"), ("image/bmp", 60, 40, 1, 0)),
        (wav(), ("audio/wav", 0, 0, 1, 1.5)),
        (mp3(), ("audio/mpeg", 0, 0, 1, pytest.approx(100 * 1152 / 44100))),
        (flac(), ("audio/flac", 0, 0, 1, 2)),
        (ogg(), ("audio/ogg", 0, 0, 1, 4)),
        (mp4(), ("video/mp4", 640, 360, 300, 12)),
        (webm(), ("video/webm", 320, 200, 1, 3)),
        (bomb(), ("image/png", 60_000, 60_000, 1, 0)),
    ],
)
def test_headers_tell_type_size_and_duration(data, expected):
    """Files as Pillow and the standard library write them, and small ones made by hand."""
    assert sniffed(data) == expected


WHOLE = [*map(picture, ("PNG", "JPEG", "GIF", "WEBP")), mp4(), webm(), mp3(2), wav(0.01)]


@given(st.binary(max_size=80), st.integers(0, 400), st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7]))
def test_broken_files_are_unknown_and_never_an_error(junk, cut, which):
    """Any file cut short or with junk in it gives an answer, none gives an exception."""
    data = WHOLE[which]
    for broken in (data[:cut], data[:cut] + junk, junk, data[:12] + junk + data[12 + len(junk) :]):
        info = sniffed(broken)
        assert info is None or info.type.partition("/")[0] in ("image", "audio", "video")


def url(data: bytes, claim="image/png") -> str:
    return f"data:{claim};base64,{base64.b64encode(data).decode()}"


def test_parts_of_all_shapes_are_found_in_order():
    """OpenAI's chat and responses shapes, vLLM's video, Anthropic's sources; texts are none."""
    messages = [
        {"role": "system", "content": "text"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:,a"}},
                {"type": "image_url", "image_url": "data:,b"},
                {"type": "input_image", "image_url": "data:,c"},
                {"type": "input_audio", "input_audio": {"data": "d", "format": "wav"}},
                {"type": "video_url", "video_url": {"url": "http://e"}},
                {"type": "file", "file": {"file_data": "data:,f", "filename": "x"}},
                {"type": "input_file", "file_id": "g"},
                {"type": "image", "source": {"type": "base64", "data": "h"}},
                {"type": "hologram", "text": "i"},
            ],
        },
    ]
    parts = media_parts(messages)
    assert [part.source[-1:] for part in parts] == ["a", "b", "c", "d", "e", "f", "g", "h", ""]
    assert media_parts("x") == media_parts([1, {"role": "user", "content": None}]) == []


NO_LISTS = HashLists()


def why(data_or_part, lists=NO_LISTS, **rules):
    part = data_or_part
    if isinstance(part, bytes):
        part = MediaPart("image_url", url(part), "url")
    found = MediaCheck(Media(**rules), lists).check([part])
    return [(it.action, it.phrase) for it in found]


def test_the_content_decides_not_the_claim():
    """A PNG that is called a JPEG is a PNG; a program that is called a PNG is unknown."""
    assert why(MediaPart("image_url", url(picture("PNG"), "image/jpeg"), "url")) == []
    assert why(picture("PNG"), types=["image/jpeg"]) == [("block", "type image/png")]
    assert why(b"\x7fELF" + bytes(100)) == [("block", "an unknown type")]
    assert why(b"\x7fELF" + bytes(100), unchecked="pass") == [("pass", "an unknown type")]


def test_bounds_hold_before_anything_is_decoded():
    """Bytes, pixels of all frames, seconds and the number of parts; a bomb costs no time."""
    assert why(bytes(3 << 20), max_mib=1) == [("block", "too large")]
    began = time.perf_counter()
    assert why(bomb(), HashLists(dhashes=(0,))) == [("block", "3600.0 megapixels")]
    assert time.perf_counter() - began < 1
    assert why(picture("GIF", frames=4), max_megapixels=0.009) == [("block", "0.0 megapixels")]
    assert why(mp4(seconds=700)) == [("block", "700 s long")]
    part = MediaPart("image_url", url(picture("PNG")), "url")
    [verdict] = MediaCheck(Media(max_parts=2), HashLists()).check([part] * 3)
    assert (verdict.action, verdict.phrase) == ("block", "3 parts, over 2")


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (MediaPart("image_url", "https://example.com/x.png", "url"), "an address elsewhere"),
        (MediaPart("file", "file-123", "file_id"), "a file's id"),
        (MediaPart("hologram", "", ""), "a part of type 'hologram'"),
        (
            MediaPart("image_url", "data:image/svg+xml,<svg/>", "url"),
            "a data URL that is not base64",
        ),
        (
            MediaPart("video_url", url(webm(width=0)), "url"),
            "video/webm without a size or duration",
        ),
    ],
)
def test_what_cannot_be_checked_is_never_silent(part, reason):
    """The site's policy decides, and either way there is a verdict that says so."""
    assert why(part, unchecked="refuse") == [("block", reason)]
    assert why(part, unchecked="pass") == [("pass", reason)]


def test_exact_and_difference_hashes(tmp_path):
    """The same file, and the same picture scaled, recompressed or inside an animation."""
    known, other = picture("PNG", (90, 60)), picture("PNG", (90, 60), seed=0.9)
    exact = HashLists(sha256=frozenset([hashlib.sha256(known).digest()]))
    assert why(known, exact) == [("block", "sha256 on the list")]
    assert why(other, exact) == []
    [bits] = dhashes(known, 1, 1)
    seen = HashLists(dhashes=(bits,))
    with Image.open(io.BytesIO(known)) as shown:
        small = io.BytesIO()
        shown.resize((45, 30)).save(small, "JPEG", quality=60)
    assert why(small.getvalue(), seen) == [("block", "looks like one on the list")]
    assert why(other, seen) == []
    frames = [Image.open(io.BytesIO(data)) for data in (other, other, known, other)]
    moving = io.BytesIO()
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:], duration=100)
    assert why(moving.getvalue(), seen) == [("block", "looks like one on the list")]
    assert why(moving.getvalue(), seen, frames=1) == []


def test_a_site_states_media_rules_and_lists(tmp_path):
    """From the file to a verdict; lists that are wrong are named with line and fix."""
    data = picture("PNG")
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "hashes").write_text(f"# known\n{digest.upper()} # remark\n")
    whole = site(tmp_path).model_dump()
    good = type(site(tmp_path)).model_validate(
        {**whole, "guard": {"media": {"sha256_file": "hashes"}}}
    )
    part = MediaPart("image_url", url(data), "url")
    [verdict] = asyncio.run(Guard.from_site(good).check_deep([], [part]))
    assert (verdict.list, verdict.action, verdict.phrase) == (
        "media",
        "block",
        "sha256 on the list",
    )
    (tmp_path / "hashes").write_text("12\n")
    with pytest.raises(SiteError, match=r"hashes:1: guard.media.sha256_file: no hash"):
        Guard.from_site(good)


def test_without_rules_media_pass_and_are_written_down(tmp_path):
    """A guard with word lists alone says of media that nobody looked."""
    guard = Guard.from_site(site(tmp_path, {"name": "l", "words": ["x"]}))
    [verdict] = asyncio.run(guard.check_deep(["t"], [MediaPart("image_url", "http://x", "url")]))
    assert (verdict.action, verdict.phrase) == ("pass", "1 parts unchecked: no rules")


def test_payloads_are_no_text_and_texts_are_no_payload():
    """Base64 in a medium's field is skipped by word lists; text that is put there is not."""
    assert is_payload("url", url(b"x" * 99))
    assert is_payload("data", "QUJD" * 200)
    assert not is_payload("text", url(b"x"))
    assert not is_payload("url", "data:;base64,open the doors")
    assert not is_payload("data", "opening")
