"""Enough of PNG to tell a picture from an empty one (ISO/IEC 15948)."""

import struct
import zlib
from itertools import pairwise
from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
"""Bytes a pixel by colour type, at 8 bits a channel without a palette, as Chromium writes it."""


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG as (type, data), each with its checksum verified."""
    assert data.startswith(SIGNATURE), "not a PNG"
    found, at = [], len(SIGNATURE)
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + size)
        assert zlib.crc32(kind + body) == checksum, f"damaged chunk {kind!r}"
        found.append((kind, body))
        at += size + 12
    return found


def varied_rows(path: Path) -> tuple[int, int, int]:
    """Width and height in pixels, and the number of rows that are not of one colour.

    A row is stored as differences to its left or upper neighbours: a row of one colour, or equal
    to the one above, has one value repeated from its second pixel on.
    """
    parts = chunks(path.read_bytes())
    width, height, depth, colour = struct.unpack_from(">IIBB", dict(parts)[b"IHDR"])
    assert depth == 8
    pixel = CHANNELS[colour]
    rows = zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT"))
    stride = 1 + width * pixel
    varied = 0
    for start in range(0, len(rows), stride):
        row = rows[start + 1 : start + stride]
        pixels = [row[at : at + pixel] for at in range(pixel, len(row), pixel)]
        varied += any(left != right for left, right in pairwise(pixels))
    return width, height, varied
