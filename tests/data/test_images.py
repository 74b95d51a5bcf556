"""Tests of still images and folders of frames."""

import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inti_models.data.limits import VideoError
from inti_models.data.video import check_video, iterate_frames, read_clips
from support.numbered import middles, numbered_frame, quadrants, read_numbers


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tiff", ".ppm", ".JPG"])
def test_an_image_is_a_video_of_one_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    options = {".webp": {"lossless": True}, ".JPG": {"quality": 95}}.get(suffix, {})
    Image.fromarray(numbered_frame(37, 17, 65)).save(path, **options)
    clips = read_clips(path, 3, num_clips=2)
    assert clips.frames.shape == (2, 3, 3, 17, 65)
    assert read_numbers(clips.frames) == [[37] * 3] * 2
    assert clips.times.tolist() == [[0] * 3] * 2


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(quadrants()).save(path, exif=exif)
    image = read_clips(path, 1).frames[0, 0].permute(1, 2, 0).numpy()
    assert np.array_equal(image, np.rot90(quadrants(), -1))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.full((4, 4), 0x8034, np.uint16)), (0x80, 0x80, 0x80)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (200, 100, 0, 51)), (244, 224, 204)),
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
    ],
)
def test_other_kinds_of_pixels_become_rgb(tmp_path: Path, image: Image.Image, expected: tuple[int, int, int]) -> None:
    image.save(tmp_path / "a.png")
    frame = read_clips(tmp_path / "a.png", 1).frames[0, 0]
    assert frame[:, 2, 2].tolist() == list(expected)


def test_a_folder_of_frames_is_read_in_natural_order(tmp_path: Path) -> None:
    for k in range(12):
        Image.fromarray(numbered_frame(k)).save(tmp_path / f"img_{k}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "._img_3.png").write_bytes(b"not a frame either")
    assert read_numbers(read_clips(tmp_path, 12).frames) == [list(range(12))]
    assert read_numbers(read_clips(tmp_path, 4).frames) == [middles(4, 12)]


def test_frames_of_a_folder_must_have_one_size(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "0.png")
    Image.new("RGB", (24, 10)).save(tmp_path / "1.png")
    with pytest.raises(VideoError, match=r"frames of 20x10 and of 24x10 pixels.*resize them"):
        read_clips(tmp_path, 2)


def test_an_animation_in_an_image_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    frames = [Image.new("RGB", (8, 8), (60 * k, 0, 0)) for k in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(VideoError, match="3 pictures in one WEBP file: convert it to a GIF"):
        read_clips(path, 2)


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(VideoError, match="cannot be read as an image"):
        read_clips(path, 1)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "broken link"])
def test_what_is_no_file_among_the_frames_of_a_folder_is_refused(tmp_path: Path, kind: str) -> None:
    folder = stills(tmp_path / "f", *(f"{k}.png" for k in range(9)))
    with socket.socket(socket.AF_UNIX) as server:
        make = {
            "pipe": os.mkfifo,
            "socket": lambda path: server.bind(str(path)),
            "device": lambda path: path.symlink_to("/dev/zero"),
            "folder": Path.mkdir,
            "broken link": lambda path: path.symlink_to("nowhere"),
        }
        make[kind](folder / "9.png")
        for read in (lambda: read_clips(folder, 1), lambda: next(iterate_frames(folder)), lambda: check_video(folder)):
            with pytest.raises(VideoError, match=r"9\.png is not a regular file; expected an image"):
                read()


def test_an_image_with_an_absurd_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    with pytest.raises(VideoError, match="frames of 9000x9000 pixels, more than the limit"):
        read_clips(path, 1)


def stills(folder: Path, *names: str) -> Path:
    """Images whose grey is their place in the arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (10 * i,) * 3).save(folder / name, format="PNG")
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("img_1.png", "img_2.png", "img_10.png"),
        ("0.10.png", "0.25.png", "0.5.png", "1.png", "1.25.png", "10.png"),
        ("img_00001.jpg", "IMG_2.JPG", "img_003.png"),
        ("s1_f2.png", "s1_f10.png", "s2_f1.png"),
        ("1.2.3.png", "1.2.10.png", "1.10.1.png"),
        ("a.png", "b.png", "c.png"),
    ],
)
def test_frames_of_a_folder_come_by_value(tmp_path: Path, names: tuple) -> None:
    frames = read_clips(stills(tmp_path / "frames", *names), len(names)).frames[0]
    assert [int(frame[0, 0, 0]) for frame in frames] == [10 * i for i in range(len(names))]


@pytest.mark.parametrize(
    "other",
    [
        ("flow_x_1.png", "flow_x_2.png"),
        ("img_1_mask.png", "img_2_mask.png"),
        ("mask_1.png",),
        ("cover.png",),
        ("img_1.jpg", "img_2.jpg"),
        ("depth1.png", "depth2.png"),
    ],
)
def test_folder_of_several_series_is_refused_unless_one_is_named(tmp_path: Path, other: tuple) -> None:
    folder = stills(tmp_path / "frames", "img_1.png", "img_2.png", *other)
    with pytest.raises(VideoError, match="img_"):
        read_clips(folder, 2)
    frames = read_clips(folder / ("img_*" if "img_1.jpg" not in other else "img_*.png"), 2).frames[0]
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 10]
    with pytest.raises(VideoError, match="holds no images"):
        read_clips(folder / "none*", 2)


@pytest.mark.parametrize("names", [("01.png", "001.png"), ("img_2.png", "img_02.png"), ("0.5.png", "0.50.png")])
def test_two_images_of_one_number_are_refused(tmp_path: Path, names: tuple) -> None:
    folder = stills(tmp_path / "frames", *names)
    with pytest.raises(VideoError, match="two images with one number") as error:
        read_clips(folder, 2)
    assert all(name in str(error.value) for name in names)


def test_names_that_are_numbers_are_a_series_too(tmp_path: Path) -> None:
    folder = stills(tmp_path / "frames", "1.png", "2.png", "flow_x_1.png")
    with pytest.raises(VideoError, match=r"several series, \* \(2\), flow_x_\* \(1\)"):
        read_clips(folder, 2)
    assert [int(frame[0, 0, 0]) for frame in read_clips(folder / "*", 2).frames[0]] == [0, 10]
