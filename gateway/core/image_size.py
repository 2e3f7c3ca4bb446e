"""An image's width and height, read out of the first bytes of its base64.

Never more than a few hundred characters are decoded, wherever in the data they stand. Sources: PNG
(RFC 2083, IHDR), GIF89a, WebP (RFC 9649), JPEG (ITU T.81, B.2.2: frame headers).
"""

import binascii
from typing import Final, Literal

Size = tuple[int, int]
UNKNOWN: Final[Size] = (0, 0)

_HEAD_BYTES = 32
_MOST_SEGMENTS = 64
_SEGMENT_BYTES = 9  # as far as a frame header says the size
# Start-of-frame markers: C0 to CF but for DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def image_size(data: str, start: int = 0) -> Size:
    """Return (width, height) of an image whose base64 begins at `start`; (0, 0) if it is unclear.

    Never raises, whatever the text is.
    """
    head = _bytes_at(data, start, 0, _HEAD_BYTES)
    size = UNKNOWN
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        size = _pair(head[16:24], 4, "big")
    elif head.startswith((b"GIF87a", b"GIF89a")):
        size = _pair(head[6:10], 2, "little")
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        size = _webp(head)
    elif head.startswith(b"\xff\xd8"):
        size = _jpeg(data, start)
    return size if min(size) > 0 else UNKNOWN


def _pair(two: bytes, size: int, order: Literal["big", "little"]) -> Size:
    if len(two) < 2 * size:
        return UNKNOWN
    return int.from_bytes(two[:size], order), int.from_bytes(two[size:], order)


def _webp(head: bytes) -> Size:
    """Extended, lossy and lossless files each have their own place for the size."""
    kind = head[12:16]
    if kind == b"VP8X":
        less_one = _pair(head[24:30], 3, "little")
        return (less_one[0] + 1, less_one[1] + 1) if less_one[1] else UNKNOWN
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = _pair(head[26:30], 2, "little")
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and head[20:21] == b"\x2f":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return UNKNOWN


def _jpeg(data: str, start: int) -> Size:
    """Go from segment to segment; a camera's notes stand before the frame header."""
    place = 2
    for _ in range(_MOST_SEGMENTS):
        segment = _bytes_at(data, start, place, _SEGMENT_BYTES)
        if len(segment) < _SEGMENT_BYTES or not segment.startswith(b"\xff"):
            return UNKNOWN
        if segment[1] in _FRAMES:
            height, width = _pair(segment[5:9], 2, "big")
            return width, height
        place += 2 + int.from_bytes(segment[2:4], "big")
    return UNKNOWN


def _bytes_at(data: str, start: int, offset: int, length: int) -> bytes:
    """Return decoded bytes of base64; fewer where it ends, none where it is none."""
    group, skipped = divmod(offset, 3)
    first = start + 4 * group
    last = first + 4 * (-(-(skipped + length) // 3))
    text = data[first:last].replace("-", "+").replace("_", "/")
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4))[skipped : skipped + length]
    except ValueError:
        return b""
