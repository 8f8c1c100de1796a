"""What image files hold beside their pixels, and how to leave it out where it is damaged."""

import struct
import zlib
from collections.abc import Callable, Iterator

EXIF = b"Exif\0\0"
PIXEL_TAGS = frozenset(
    [
        *(256, 257, 258, 259, 262, 266),  # sides, bits, compression, photometric, fill order
        *(273, 274, 277, 278, 279, 284),  # strips, orientation, samples, planes
        *(317, 320, 322, 323, 324, 325),  # predictor, palette, tiles
        *(338, 339, 347, 529, 530, 531, 532),  # extra samples, their format, JPEG, YCbCr
    ]
)
"""Tags of a TIFF file without which its pixels cannot be read, or lie on their side."""


def without_metadata(encoded: bytes) -> bytes | None:
    """Leave out of an image file what its pixels do not need.

    EXIF data stay: they hold the orientation.

    Args:
        encoded: The contents of an image file.

    Returns:
        The same image with fewer parts; None where there is nothing to leave out, or the format
        (other than JPEG, PNG and TIFF) has no parts to tell apart.

    Example:
        >>> comment = bytes([255, 254, 0, 4, 1, 1])
        >>> without_metadata(bytes([255, 216]) + comment + bytes([255, 218])).hex()
        'ffd8ffda'
    """
    bare = b""
    for magic, strip in STRIP.items():
        if encoded.startswith(magic):
            try:
                bare = strip(encoded)
            except struct.error:
                # The file ends within a part.
                return None
    return None if bare in (b"", encoded) else bare


def _bare_jpeg(encoded: bytes) -> bytes:
    """Keep no application segments but JFIF's, Adobe's (its colour space) and EXIF's."""
    kept, at = [encoded[:2]], 2
    while encoded[at : at + 1] == b"\xff" and encoded[at + 1 : at + 2] != b"\xda":
        marker, length = struct.unpack_from(">xBH", encoded, at)
        segment = encoded[at : at + 2 + length]
        extra = marker in (*range(0xE1, 0xEE), 0xEF, 0xFE)
        if not extra or (marker == 0xE1 and segment[4:].startswith(EXIF)):
            kept.append(segment)
        at += 2 + length
    return b"".join(kept) + encoded[at:]


def _bare_png(encoded: bytes) -> bytes:
    """Keep the chunks that the format calls critical, transparency and EXIF data."""
    kept = [encoded[:8]]
    for name, body, checksum in _chunks(encoded):
        if name == b"eXIf":
            checksum = struct.pack(">I", zlib.crc32(name + body))
        if name[:1].isupper() or name in (b"tRNS", b"eXIf"):
            kept.append(struct.pack(">I", len(body)) + name + body + checksum)
    return b"".join(kept)


def _chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    at = 8
    while at + 12 <= len(encoded):
        length, name = struct.unpack_from(">I4s", encoded, at)
        end = at + 8 + length
        yield name, encoded[at + 8 : end], encoded[end : end + 4]
        at = end + 4


def _bare_tiff(encoded: bytes) -> bytes:
    """Keep the first directory's tags that say where and how the pixels are stored."""
    order = "<" if encoded.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", encoded, 4)
    (count,) = struct.unpack_from(f"{order}H", encoded, start)
    places = range(start + 2, start + 2 + 12 * count, 12)
    entries = [
        encoded[place : place + 12]
        for place in places
        if struct.unpack_from(f"{order}H", encoded, place)[0] in PIXEL_TAGS
    ]
    head = struct.pack(f"{order}H", len(entries))
    # The directory moves to the end, and the end of the file is its last entry.
    moved = encoded[:4] + struct.pack(f"{order}I", len(encoded)) + encoded[8:]
    return moved + head + b"".join(entries) + bytes(4) if len(entries) < count else encoded


STRIP: dict[bytes, Callable[[bytes], bytes]] = {
    b"\xff\xd8": _bare_jpeg,
    b"\x89PNG\r\n\x1a\n": _bare_png,
    b"II*\0": _bare_tiff,
    b"MM\0*": _bare_tiff,
}
