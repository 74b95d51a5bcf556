"""The index of an MP4 or MOV file, as far as it says how long the index is.

FFmpeg makes an entry of 24 bytes or more for each frame before it returns the first, so that opening a file of tiny
frames takes 35 times its size in memory.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

_FIRST = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})
_MOST_BOXES = 2**16  # of one box that are looked at

Place = tuple[int, int]


def count_frames(path: Path) -> int:
    """Return the number of frames of the longest video track that an MP4 or MOV states; 0 for other files."""
    with path.open("rb") as file:
        if file.read(8)[4:] not in _FIRST:
            return 0
        most = 0
        for media in _inside(file, (0, file.seek(0, 2)), b"moov", b"trak", b"mdia"):
            # Handler: version and flags, 4 bytes, type. Sizes: version and flags, size of all or 0, number.
            if any(_read(file, begin + 8, 4) == b"vide" for begin, _ in _inside(file, media, b"hdlr")):
                for begin, _ in _inside(file, media, b"minf", b"stbl", b"stsz"):
                    most = max(most, int.from_bytes(_read(file, begin + 8, 4), "big"))
        return most


def _inside(file: BinaryIO, place: Place, *kinds: bytes) -> Iterator[Place]:
    """Yield the places of the boxes reached by these kinds, one inside the other."""
    if not kinds:
        yield place
        return
    for kind, inner in islice(_boxes(file, *place), _MOST_BOXES):
        if kind == kinds[0]:
            yield from _inside(file, inner, *kinds[1:])


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, Place]]:
    """Yield kind and content of each box from begin to end."""
    while begin + 8 <= end:
        size, kind = struct.unpack(">I4s", _read(file, begin, 8).ljust(8, b"\0"))
        header = 8
        if size == 1:
            size, header = int.from_bytes(_read(file, begin + 8, 8), "big"), 16
        elif size == 0:
            size = end - begin
        if size < header:
            return
        yield kind, (begin + header, min(begin + size, end))
        begin += size


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
