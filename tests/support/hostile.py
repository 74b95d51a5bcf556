"""Files that ask for more than they have."""

import struct
from pathlib import Path


def write_gif_bomb(path: Path, side: int, frames: int) -> Path:
    """Write a GIF of 23 bytes a frame, each of which changes one pixel of a square of this side."""
    delay = b"\x21\xf9\x04\x00\x04\x00\x00\x00"
    pixel = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    header = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    path.write_bytes(header + (delay + pixel) * frames + b";")
    return path
