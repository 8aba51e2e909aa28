"""Pictures for the documentation: the same to the eye, with 256 colours in place of all."""

import struct
import zlib
from collections import Counter

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {2: 3, 6: 4}  # colours, and colours with transparency


def smaller(png):
    """The picture as 8 bits a pixel: the 256 colours that it has most of, and for each other the nearest of them."""
    chunks, at = {}, len(SIGNATURE)
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        chunks[kind] = chunks.get(kind, b"") + png[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert depth == 8 and colours in CHANNELS and not interlaced, chunks[b"IHDR"]
    rows = unfiltered(zlib.decompress(chunks[b"IDAT"]), width, CHANNELS[colours])
    pixels = [[bytes(row[at : at + 3]) for at in range(0, len(row), CHANNELS[colours])] for row in rows]
    seen = Counter(pixel for row in pixels for pixel in row)
    palette = [colour for colour, _ in seen.most_common(256)]
    distance = lambda one, other: sum((a - b) ** 2 for a, b in zip(one, other))
    place = {colour: at for at, colour in enumerate(palette)}
    for colour in seen:
        if colour not in place:
            place[colour] = min(range(len(palette)), key=lambda at: distance(palette[at], colour))
    data = b"".join(b"\0" + bytes(place[pixel] for pixel in row) for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = [(b"IHDR", head), (b"PLTE", b"".join(palette)), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]
    return SIGNATURE + b"".join(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts)


def unfiltered(data, width, channels):
    """The rows without what makes them compress better (PNG, section 9)."""
    stride, above, rows = width * channels, bytes(width * channels), []
    for start in range(0, len(data), stride + 1):
        kind, row = data[start], bytearray(data[start + 1 : start + 1 + stride])
        for at in range(stride) if kind else ():
            left, up = row[at - channels] if at >= channels else 0, above[at]
            corner = above[at - channels] if at >= channels else 0
            guess = (0, left, up, (left + up) // 2, paeth(left, up, corner))[kind]
            row[at] = (row[at] + guess) & 255
        rows.append(row)
        above = row
    return rows


def paeth(left, up, corner):
    whole = left + up - corner
    return min((left, up, corner), key=lambda one: abs(whole - one))
