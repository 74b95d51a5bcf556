"""Tests of the number of frames that an MP4 states."""

import struct
from pathlib import Path

import pytest

from inti_models.data.limits import VideoError
from inti_models.data.mp4 import count_frames
from inti_models.data.video import read_clips
from support.numbered import B_FRAMES, Encode


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [("a.mp4", B_FRAMES, 21), ("a.mov", {}, 21), ("a.mkv", {}, 0), ("a.avi", {}, 0)],
)
def test_frames_of_an_mp4_are_counted(encode: Encode, name: str, options: dict[str, str], expected: int) -> None:
    assert count_frames(encode(name, range(21), options=options)) == expected


def test_boxes_with_a_long_size_are_passed(encode: Encode) -> None:
    path = encode("a.mp4", range(5))
    data = path.read_bytes()
    at = data.index(b"moov") - 4
    path.write_bytes(data[:at] + struct.pack(">I4sQ", 1, b"free", 16 + 8) + bytes(8) + data[at:])
    assert count_frames(path) == 5


@pytest.mark.parametrize("count", [2**21, 2**32 - 1])
def test_an_index_that_is_too_long_is_refused_before_it_is_built(encode: Encode, count: int) -> None:
    path = encode("a.mp4", range(5))
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.index(b"stsz") + 12, count)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"a\.mp4 has more frames than the limit"):
        read_clips(path, 2)


@pytest.mark.parametrize("data", [b"", b"ftyp", bytes(8) + b"ftyp", b"\0\0\0\0moov", b"\0\0\0\1moov" * 9])
def test_other_files_have_no_frames(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(data)
    assert count_frames(tmp_path / "a.mp4") == 0


def test_damage_anywhere_in_the_index_does_not_stop_the_count(encode: Encode) -> None:
    path = encode("a.mp4", range(5))
    data = path.read_bytes()
    for at in range(data.index(b"moov"), len(data), 7):
        path.write_bytes(data[:at] + b"\xff\0\xff\0" + data[at + 4 :])
        count_frames(path)
        path.write_bytes(data[:at])
        count_frames(path)
