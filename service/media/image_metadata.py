"""Measures what a picture carries besides its pixels, before any library unpacks it.

Walks the outer structure of JPEG, PNG and WebP only, stops at the first thing it does not
understand, and leaves it to the decoder to judge whether that is damage.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from service.errors import ImageMetadataError

_JPEG_MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)
_JPEG_START_OF_SCAN = 0xDA
_JPEG_BARE = {0x00, 0x01, *range(0xD0, 0xDA)}  # markers without anything behind them
_JPEG_METADATA = {*range(0xE0, 0xF0), 0xFE}  # APP0 to APP15, and comments
_PNG_METADATA = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"sPLT"}
_PNG_COMPRESSED = {b"zTXt", b"iTXt", b"iCCP"}
_WEBP_METADATA = {b"ICCP", b"EXIF", b"XMP "}


def check_metadata(data: bytes, format_name: str, most: int) -> None:
    """Raise ImageMetadataError if EXIF, colour profile and texts, unpacked, exceed `most` bytes."""
    walk = {"JPEG": _jpeg_sizes, "PNG": _png_sizes, "WEBP": _webp_sizes}[format_name]
    total = 0
    for size in walk(data, most):
        total += size
        if total > most:
            raise ImageMetadataError(
                f"The picture carries more than {most} bytes of EXIF, colour profile or text; "
                "export it without metadata."
            )


def _jpeg_sizes(data: bytes, most: int) -> Iterator[int]:
    del most
    at = 2
    while (found := _JPEG_MARKER.search(data, at)) is not None:
        marker, end = found[1][0], found.end()
        if marker == _JPEG_START_OF_SCAN:
            return
        told = int.from_bytes(data[end : end + 2], "big")
        length = 0 if marker in _JPEG_BARE else max(2, told)
        # And what stands between segments, which decoders go through byte by byte.
        yield end - at + (length if marker in _JPEG_METADATA else 0)
        at = end + length


def _png_sizes(data: bytes, most: int) -> Iterator[int]:
    at = 8
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind in _PNG_METADATA:
            yield length
        if kind in _PNG_COMPRESSED:
            yield _unpacked_bytes(_deflated(kind, data[at + 8 : at + 8 + length]), most)
        at += 12 + length


def _webp_sizes(data: bytes, most: int) -> Iterator[int]:
    del most
    at = 12
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at + 4 : at + 8], "little"), data[at : at + 4]
        if kind in _WEBP_METADATA:
            yield length
        at += 8 + length + length % 2


def _deflated(kind: bytes, chunk: bytes) -> bytes:
    """The compressed part of a PNG chunk, behind its keyword, flags and languages."""
    rest = chunk.partition(b"\0")[2]
    if kind != b"iTXt":
        return rest[1:]
    return rest[2:].split(b"\0", 2)[-1] if rest[:1] == b"\1" else b""


def _unpacked_bytes(deflated: bytes, most: int) -> int:
    """Bytes that `deflated` unpacks to, counted no further than just above `most`."""
    try:
        return len(zlib.decompressobj().decompress(deflated, most + 1))
    except zlib.error:
        return 0
