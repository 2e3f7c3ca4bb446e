"""Sizes of images, out of the first bytes of their base64."""

import base64
import random
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.image_size import image_size

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480) + bytes(30)
GIF = b"GIF89a" + struct.pack("<HH", 30, 20) + bytes(30)
FRAME = struct.pack(">HHBHHB", 0xFFC2, 17, 8, 480, 640, 3)
JPEG_WITH_NOTES = (
    b"\xff\xd8" + struct.pack(">HH", 0xFFE1, 60_002) + random.Random(1).randbytes(60_000)
    + struct.pack(">HHB", 0xFFC4, 3, 0) + FRAME + bytes(20)
)  # fmt: skip


def webp(kind: bytes, data: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 99) + b"WEBP" + kind + struct.pack("<I", 80) + data


VP8X = webp(b"VP8X", b"\x10\0\0\0" + (639).to_bytes(3, "little") + (479).to_bytes(3, "little"))
VP8 = webp(b"VP8 ", b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", 640 | 0x4000, 480) + bytes(9))
VP8L = webp(b"VP8L", b"\x2f" + struct.pack("<I", 639 | 479 << 14) + bytes(9))


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (PNG, (640, 480)),
        (GIF, (30, 20)),
        (GIF.replace(b"89a", b"87a"), (30, 20)),
        (b"\xff\xd8" + FRAME, (640, 480)),
        (JPEG_WITH_NOTES, (640, 480)),
        (VP8X, (640, 480)),
        (VP8, (640, 480)),
        (VP8L, (640, 480)),
        (PNG[:20], (0, 0)),
        (PNG.replace(b"IHDR", b"IDAT"), (0, 0)),
        (PNG.replace(struct.pack(">I", 640), bytes(4)), (0, 0)),
        (GIF[:9], (0, 0)),
        (VP8X[:29], (0, 0)),
        (VP8.replace(b"\x9d\x01\x2a", b"\x9d\x01\x2b"), (0, 0)),
        (VP8L.replace(b"\x2f", b"\x2e"), (0, 0)),
        (webp(b"ICCP", bytes(20)), (0, 0)),
        (b"\xff\xd8" + bytes(20), (0, 0)),
        (b"\xff\xd8\xff\xe1\x00\x02", (0, 0)),
        (b"\xff\xd8" + b"\xff\xe1\x00\x02" * 100 + FRAME, (0, 0)),
        (b"BM" + bytes(60), (0, 0)),
        (b"", (0, 0)),
    ],
)
def test_the_size_is_read_out_of_the_header(image: bytes, size: tuple[int, int]) -> None:
    """PNG, GIF, JPEG and three kinds of WebP; whatever is odd has no size."""
    encoded = base64.b64encode(image).decode()
    assert image_size(encoded) == size
    assert image_size(f"data:image/x;base64,{encoded}", len("data:image/x;base64,")) == size
    assert image_size(base64.urlsafe_b64encode(image).decode().rstrip("=")) == size


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.one_of(st.text(max_size=80), st.binary(max_size=80).map(base64.b64encode).map(str)))
@example("\ud800" * 40)
@example("é" * 40)
@example("A")
def test_no_text_raises(text: str) -> None:
    """What is no base64 has no size."""
    assert len(image_size(text)) == 2
