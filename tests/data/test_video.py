"""Tests of reading and writing videos: which frames come out, and what bad files say.

The frames of the tiny test videos carry their own number, as bars of black and white.
"""

import gc
import math
import os
import struct
import threading
import warnings
import wave
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inti_models.data import video
from inti_models.data.video import Limits, VideoError, iterate_frames, read_clips, sample_times, write_video

Encode = Callable[..., Path]

B_FRAMES = {"x264-params": "bframes=2:b-adapt=0:keyint=8:scenecut=0:open-gop=0"}
OPEN_GOP = {"x264-params": "bframes=2:b-adapt=0:keyint=6:scenecut=0:open-gop=1"}
# name, codec, pixel format, encoder options
FORMATS = [
    ("h264_b_frames.mp4", "libx264", "yuv420p", B_FRAMES),
    ("h264_open_gop.mkv", "libx264", "yuv420p", OPEN_GOP),
    ("h264.ts", "libx264", "yuv420p", B_FRAMES),
    ("h264_without_times.h264", "libx264", "yuv420p", B_FRAMES),
    ("h264_b_frames.avi", "libx264", "yuv420p", B_FRAMES),
    ("mpeg4.avi", "mpeg4", "yuv420p", {"g": "5", "qscale": "2"}),
    ("mpeg4_b_frames.avi", "mpeg4", "yuv420p", {"g": "6", "bf": "2", "qscale": "2"}),
    ("vp9.webm", "libvpx-vp9", "yuv420p", {"g": "7", "deadline": "realtime", "cpu-used": "8"}),
    ("mjpeg.mov", "mjpeg", "yuvj420p", {}),
    ("gray.mkv", "ffv1", "gray", {}),
    ("gif.gif", "gif", "rgb8", {}),
]


NUM_BITS = 8
PROBED = 2  # frames that are decoded to see whether the index is right


def numbered_frame(number: int, height: int = 16, width: int = 64) -> np.ndarray:
    """H,W,3: the number in binary, as eight black or white bars of eight pixels."""
    image = np.zeros((height, width, 3), np.uint8)
    for bit in range(NUM_BITS):
        image[:, 8 * bit : 8 * bit + 8] = 255 * (number >> bit & 1)
    return image


def read_numbers(frames: torch.Tensor) -> list:
    """...,3,H,W -> the number in each frame, as nested lists; fails if a bar is grey."""
    bars = frames[..., frames.shape[-2] // 2, 4 : 8 * NUM_BITS : 8].float().mean(-2)
    assert ((bars < 64) | (bars > 192)).all(), f"not a numbered frame: {bars}"
    return ((bars > 128).long() << torch.arange(NUM_BITS)).sum(-1).tolist()


@pytest.fixture
def encode(tmp_path: Path) -> Callable[..., Path]:
    """Encodes frames (H,W,3 arrays, or numbers for `numbered_frame`) to a file in `tmp_path`."""

    def encode(
        name: str,
        frames: Sequence[np.ndarray] | Sequence[int],
        *,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        fps: int = 25,
        pts: Sequence[int] | None = None,
        options: dict[str, str] | None = None,
        matrix: Sequence[int] | None = None,
        source_format: str = "rgb24",
    ) -> Path:
        if codec not in av.codecs_available:
            pytest.skip(f"this FFmpeg has no {codec} encoder")
        images = [numbered_frame(f) if isinstance(f, int) else f for f in frames]
        path = tmp_path / name
        with av.open(f"file:{path}", "w") as container:
            stream = container.add_stream(codec, rate=fps, options=options or {})
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt = pix_fmt
            if matrix is not None:
                stream.set_display_matrix(matrix)
            for k, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, format=source_format)
                frame.pts, frame.time_base = k if pts is None else pts[k], Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return encode


def middles(num_frames: int, length: int) -> list[int]:
    """The frame in the middle of each of `num_frames` segments, by index."""
    return [(2 * i + 1) * length // (2 * num_frames) for i in range(num_frames)]


@pytest.fixture
def counted_frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each frame that comes out of a decoder."""
    decoded: list[int] = []
    decode = video._decode

    def spy(context: object, packet: object) -> list:
        frames = decode(context, packet)
        decoded.extend(frame.pts for frame in frames)
        return frames

    monkeypatch.setattr(video, "_decode", spy)
    return decoded


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "options"), FORMATS)
def test_every_format_gives_the_middle_frame_of_each_segment(
    encode: Encode, name: str, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    path = encode(name, range(21), codec=codec, pix_fmt=pix_fmt, options=options)
    for num_frames in (1, 3, 7, 8, 21, 30):
        clips = read_clips(path, num_frames)
        expected = middles(num_frames, 21)
        assert clips.frames.shape == (1, num_frames, 3, 16, 64)
        assert clips.frames.dtype == torch.uint8
        assert read_numbers(clips.frames) == [expected]
        assert clips.times[0].tolist() == pytest.approx([k / 25 for k in expected], abs=1e-3)


def test_segment_times_equal_index_sampling_at_a_constant_rate() -> None:
    for length in range(1, 70):
        for num_frames in range(1, 34):
            for num_clips in (1, 2, 3):
                times = sample_times(num_frames, length, num_clips=num_clips)
                expected = [
                    [
                        (2 * num_clips * i + 2 * v + 1) * length // (2 * num_clips * num_frames)
                        for i in range(num_frames)
                    ]
                    for v in range(num_clips)
                ]
                assert times.floor().int().tolist() == expected


@pytest.mark.parametrize("rate", [24, 25, 30, 60])
def test_a_constant_rate_is_recognised_through_millisecond_rounding(rate: int) -> None:
    ticks = [round(1000 * k / rate) for k in range(97)]
    timeline = video._Timeline.from_ticks(ticks, ticks[1], 1e-3)
    assert timeline.starts.tolist() == list(range(97))
    assert timeline.end == 97
    assert timeline.unit == pytest.approx(1 / rate, rel=1e-3)


def test_a_dropped_frame_makes_the_rate_variable() -> None:
    ticks = [k for k in range(40) if k != 17]
    timeline = video._Timeline.from_ticks(ticks, 1, 1 / 25)
    assert timeline.starts.tolist() == ticks
    assert timeline.end == 40


def test_a_last_frame_of_unknown_length_lasts_as_long_as_most() -> None:
    timeline = video._Timeline.from_ticks([0, 2, 4, 20, 22, 24], 0, 0.1)
    assert timeline.end == 26


def test_rounded_times_of_matroska_still_equal_index_sampling(encode: Encode) -> None:
    path = encode("a.mkv", range(32), fps=30)
    # Every sample falls exactly on the start of a frame: 1, 3, 5, ...
    assert read_numbers(read_clips(path, 16).frames) == [list(range(1, 32, 2))]


def test_dense_sampling_is_centred_and_keeps_the_stride(encode: Encode) -> None:
    path = encode("a.mp4", range(40))
    dense = read_clips(path, 5, sampling="dense", stride=4)
    assert read_numbers(dense.frames) == [[11, 15, 19, 23, 27]]


def test_dense_clips_start_evenly_from_the_first_possible_frame_to_the_last(
    encode: Encode,
) -> None:
    path = encode("a.mp4", range(40))
    dense = read_clips(path, 4, sampling="dense", stride=3, num_clips=3)
    assert read_numbers(dense.frames) == [[0, 3, 6, 9], [15, 18, 21, 24], [30, 33, 36, 39]]


def test_dense_sampling_repeats_the_last_frame_of_a_short_video(encode: Encode) -> None:
    path = encode("a.mp4", range(6))
    dense = read_clips(path, 5, sampling="dense", stride=2, num_clips=2)
    assert read_numbers(dense.frames) == [[0, 2, 4, 5, 5]] * 2


def test_several_uniform_clips_spread_inside_the_segments(encode: Encode) -> None:
    path = encode("a.mp4", range(24))
    # Segments of 6 frames; three clips at 1/6, 3/6 and 5/6 of each.
    clips = read_clips(path, 4, num_clips=3)
    assert read_numbers(clips.frames) == [[1, 7, 13, 19], [3, 9, 15, 21], [5, 11, 17, 23]]


def test_a_generator_draws_a_frame_from_each_segment(encode: Encode) -> None:
    path = encode("a.mp4", range(40))
    draws = [
        read_numbers(read_clips(path, 5, generator=torch.Generator().manual_seed(seed)).frames)[0] for seed in (0, 1, 0)
    ]
    assert draws[0] == draws[2]
    assert draws[0] != draws[1]
    assert all([k // 8 for k in draw] == list(range(5)) for draw in draws)


def test_a_generator_draws_each_dense_start_where_the_clip_fits() -> None:
    generator = torch.Generator().manual_seed(0)
    times = sample_times(4, 20, sampling="dense", step=3, num_clips=2000, generator=generator).floor()
    assert times.diff(dim=1).unique().tolist() == [3]
    starts, counts = times[:, 0].unique(return_counts=True)
    assert starts.tolist() == list(range(11))  # 20 frames less the 10 that the clip spans
    assert counts.min() > 2000 / 11 / 2


def test_variable_frame_rate_is_sampled_by_time(encode: Encode) -> None:
    # Ten frames in the first half second, the last of which stays until 4.5 s, then ten more.
    pts = [*range(10), *range(90, 100)]
    path = encode("a.mkv", range(20), fps=20, pts=pts)
    clips = read_clips(path, 5)  # at 0.5, 1.5, 2.5, 3.5 and 4.5 s
    assert read_numbers(clips.frames) == [[9, 9, 9, 9, 10]]
    assert clips.times[0].tolist() == pytest.approx([0.45] * 4 + [4.5])
    assert read_numbers(read_clips(path, 50).frames)[0][:6] == [1, 3, 5, 7, 9, 9]


def test_a_last_frame_that_is_held_counts_as_long_as_it_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    first, *others = [Image.fromarray(numbered_frame(k)) for k in range(4)]
    first.save(path, save_all=True, append_images=others, duration=[100, 100, 100, 700])
    clips = read_clips(path, 5)  # at 0.1, 0.3, 0.5, 0.7 and 0.9 s
    assert read_numbers(clips.frames) == [[1, 3, 3, 3, 3]]


def test_times_count_from_the_first_frame(encode: Encode) -> None:
    path = encode("a.mkv", range(10), pts=range(500, 510))
    clips = read_clips(path, 10)
    assert read_numbers(clips.frames) == [list(range(10))]
    assert clips.times[0, 0] == 0


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_very_short_videos_repeat_their_frames(encode: Encode, name: str, length: int) -> None:
    path = encode(name, range(1, length + 1))
    assert read_numbers(read_clips(path, 6).frames) == [[k + 1 for k in middles(6, length)]]


def test_decodes_only_from_the_keyframe_before_each_wanted_frame(encode: Encode, counted_frames: list[int]) -> None:
    options = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=0"}
    path = encode("a.mp4", range(200), options=options)
    clips = read_clips(path, 2)
    assert read_numbers(clips.frames) == [[50, 150]]  # both are keyframes
    assert len(counted_frames) == PROBED + 2

    counted_frames.clear()
    clips = read_clips(path, 3, sampling="dense", stride=60)  # keyframe + 9 in each
    assert read_numbers(clips.frames) == [[39, 99, 159]]
    assert len(counted_frames) == PROBED + 30


def test_stops_after_the_last_wanted_frame(encode: Encode, counted_frames: list[int]) -> None:
    path = encode("a.mp4", range(200), options={"x264-params": "keyint=infinite:scenecut=0:bframes=2"})
    assert read_numbers(read_clips(path, 1).frames) == [[100]]
    # Frames are output in order, a B-frame's reference is decoded before it.
    assert PROBED + 101 <= len(counted_frames) <= PROBED + 104


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "options"), FORMATS)
def test_frames_read_one_by_one_equal_those_of_a_full_decode(
    encode: Encode, name: str, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    generator = np.random.default_rng(0)
    images = list(generator.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8))
    path = encode(name, images, codec=codec, pix_fmt=pix_fmt, options=options)
    whole = read_clips(path, 24).frames[0]
    assert len({frame.numpy().tobytes() for frame in whole}) == 24
    source = video._Video(path, video._Guard(Limits()))
    for rank in range(24):
        [(got, _, image)] = source.read([rank])
        assert got == rank
        assert torch.equal(image, whole[rank])


def test_a_frame_before_its_keyframe_is_decoded_from_the_group_before(
    encode: Encode, counted_frames: list[int]
) -> None:
    path = encode("a.mkv", range(60), options=OPEN_GOP)
    source = video._Video(path, video._Guard(Limits()))
    leading = [
        rank
        for rank, k in enumerate(source.shown)
        if source.packets[k - 1].is_keyframe and source._pts(k) < source._pts(k - 1)
    ]
    assert len(leading) >= 5
    for rank in leading:
        counted_frames.clear()
        [(*_, image)] = source.read([rank])
        assert read_numbers(image) == rank
        assert len(counted_frames) <= 9  # a group is 6 frames


def test_damage_in_one_frame_gives_the_frame_before(encode: Encode) -> None:
    path = encode("a.mov", range(10), codec="png", pix_fmt="rgb24")
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        position = path.read_bytes().index(bytes(packets[4]))
    data = bytearray(path.read_bytes())
    data[position : position + packets[4].size] = bytes(packets[4].size)
    path.write_bytes(data)
    assert read_numbers(read_clips(path, 10).frames) == [[0, 1, 2, 3, 3, 5, 6, 7, 8, 9]]


def test_a_truncated_video_gives_the_part_that_is_there(encode: Encode) -> None:
    options = {"x264-params": "keyint=5:scenecut=0:bframes=0"}
    path = encode("a.mkv", range(100), options=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    numbers = read_numbers(read_clips(path, 8).frames)[0]
    assert numbers == sorted(set(numbers))
    assert 20 < numbers[-1] < 80


def test_a_frame_that_is_cut_in_two_is_left_out(encode: Encode) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    path = encode("whole.avi", list(noise), codec="mjpeg", pix_fmt="yuvj420p")
    whole = read_clips(path, 10).frames[0]
    with av.open(str(path)) as container:
        sixth = [p for p in container.demux(video=0) if p.size][5]
    assert sixth.pos is not None
    path.write_bytes(path.read_bytes()[: sixth.pos + sixth.size // 2])
    assert torch.equal(read_clips(path, 5).frames[0], whole[:5])


def test_frames_outside_an_edit_list_are_not_shown(encode: Encode) -> None:
    path = encode("a.mp4", range(20), options=B_FRAMES)
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12  # version and flags, count; then duration, media time
    _, media_time = struct.unpack_from(">Ii", data, entry)
    frame = 12800 // 25
    struct.pack_into(">I", data, entry, 15 * 1000 // 25)
    struct.pack_into(">i", data, entry + 4, media_time + 5 * frame)
    path.write_bytes(data)
    clips = read_clips(path, 15)
    assert read_numbers(clips.frames) == [list(range(5, 20))]
    assert clips.times[0, 0] == 0


def test_a_truncated_mp4_without_its_index_is_refused(encode: Encode) -> None:
    path = encode("a.mp4", range(30))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"a\.mp4 cannot be opened as a video"):
        read_clips(path, 8)


def test_leaves_no_file_open(encode: Encode, tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("this system does not list open files in /proc")
    good = encode("a.mkv", range(30))
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(good.read_bytes()[:200] + bytes(1000))
    image = tmp_path / "bad.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        read_clips(good, 2)
        for path in (bad, image):
            with pytest.raises(VideoError):
                read_clips(path, 2)
    gc.collect()
    assert len(list(descriptors.iterdir())) == before


def quadrants(height: int = 32, width: int = 64) -> np.ndarray:
    """H,W,3: four grey levels, so that every turn and flip looks different."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = 40
    image[: height // 2, width // 2 :] = 100
    image[height // 2 :, : width // 2] = 160
    image[height // 2 :, width // 2 :] = 220
    return image


ONE = 1 << 16


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "turn"),
    [
        (1, 0, 0, 1, lambda x: x),
        (0, 1, -1, 0, lambda x: np.rot90(x, -1)),
        (-1, 0, 0, -1, lambda x: np.rot90(x, 2)),
        (0, -1, 1, 0, lambda x: np.rot90(x, 1)),
        (-1, 0, 0, 1, lambda x: x[:, ::-1]),
        (1, 0, 0, -1, lambda x: x[::-1]),
        (0, 1, 1, 0, lambda x: x.transpose(1, 0, 2)),
    ],
)
def test_frames_are_turned_as_the_display_matrix_says(
    encode: Encode, a: int, b: int, c: int, d: int, turn: Callable
) -> None:
    matrix = [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]
    path = encode("a.mp4", [quadrants()] * 3, matrix=matrix)
    expected = turn(quadrants())
    image = read_clips(path, 2).frames[0, 1].permute(1, 2, 0).numpy()
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("size", [(17, 65), (16, 65), (33, 79)])
def test_odd_sizes_are_kept(encode: Encode, size: tuple[int, int]) -> None:
    frames = [numbered_frame(k, *size) for k in range(5)]
    path = encode("a.mkv", frames, codec="ffv1", pix_fmt="yuv420p")
    clips = read_clips(path, 5)
    assert clips.frames.shape == (1, 5, 3, *size)
    assert read_numbers(clips.frames) == [[0, 1, 2, 3, 4]]


def test_gray_video_has_three_equal_channels(encode: Encode) -> None:
    gray = np.arange(64, dtype=np.uint8).repeat(16).reshape(16, 64) * 4
    path = encode("a.mkv", [gray] * 2, codec="ffv1", pix_fmt="gray", source_format="gray")
    image = read_clips(path, 1).frames[0, 0]
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    assert torch.equal(image[0], torch.from_numpy(gray))


@pytest.mark.parametrize(("color_range", "expected"), [("tv", 130), ("pc", 128)])
def test_the_range_of_luma_is_respected(encode: Encode, color_range: str, expected: int) -> None:
    # Luma 128: mid grey in the full range, 255 * (128 - 16) / 219 = 130 in the limited one.
    yuv = np.full((24, 32), 128, np.uint8)  # 16 rows of Y, then U and V
    options = {"qp": "0", "x264-params": f"fullrange={'on' if color_range == 'pc' else 'off'}"}
    path = encode("a.mkv", [yuv] * 2, options=options | {"s": "32x16"}, source_format="yuv420p")
    image = read_clips(path, 1).frames[0, 0].float()
    assert image.mean().item() == pytest.approx(expected, abs=0.6)


def test_transparent_pixels_of_a_gif_are_white(tmp_path: Path) -> None:
    frames = []
    for k in range(4):
        image = Image.new("RGBA", (32, 16), (0, 0, 0, 0))
        image.paste((200, 0, 0, 255), (8 * k, 0, 8 * k + 8, 16))
        frames.append(image)
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, disposal=2)
    clip = read_clips(path, 4).frames[0]
    for k in range(4):
        inside = torch.zeros(32, dtype=torch.bool)
        inside[8 * k : 8 * k + 8] = True
        assert clip[k, :, :, inside].float().mean((1, 2)).tolist() == pytest.approx([200, 0, 0], abs=8)
        assert (clip[k, :, :, ~inside] == 255).all()


def test_a_second_stream_of_sound_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        picture = container.add_stream("ffv1", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 16, "yuv420p"
        for k in range(12):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), format="s16", layout="mono")
            samples.sample_rate, samples.pts = 8000, 320 * k
            container.mux(sound.encode(samples))
            frame = av.VideoFrame.from_ndarray(numbered_frame(k))
            frame.pts = k
            container.mux(picture.encode(frame))
        for stream in (sound, picture):
            container.mux(stream.encode())
    assert read_numbers(read_clips(path, 6).frames) == [middles(6, 12)]


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


@pytest.mark.parametrize("name", ["a:b.mkv", "100%d.mkv", "clip 1 é.mkv", "http:x.mkv"])
def test_any_file_name_will_do(encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    encode(name, range(4))
    monkeypatch.chdir(tmp_path)
    clip = read_clips(name, 4).frames[0]
    assert read_numbers(clip) == [0, 1, 2, 3]
    write_video(name, clip, fps=5)
    assert read_clips(name, 4).times[0].tolist() == pytest.approx([0, 0.2, 0.4, 0.6], abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_frames": 0}, "num_frames is 0; expected a whole number of at least 1"),
        ({"num_frames": 2.5}, "num_frames is 2.5"),
        ({"num_clips": 0}, "num_clips is 0"),
        ({"sampling": "random"}, "sampling is 'random'; expected 'uniform' or 'dense'"),
        ({"sampling": "dense"}, "stride is None; sampling='dense' needs a whole number"),
        ({"sampling": "dense", "stride": 0}, "stride is 0"),
        ({"stride": 2}, "stride is 2 but sampling is 'uniform'"),
        ({"num_frames": 10**12}, "do not fit"),
    ],
)
def test_impossible_requests_are_refused(encode: Encode, arguments: dict, sentence: str) -> None:
    path = encode("a.mp4", range(3))
    with pytest.raises(VideoError, match=sentence):
        read_clips(path, **{"num_frames": 4} | arguments)


def write_sound(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(4000))


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.mp4": (lambda path: path.touch(), "is empty"),
    "text.mp4": (lambda path: path.write_text("hello\n" * 50), "cannot be opened as a video"),
    "text.txt": (lambda path: path.write_text("hello\n" * 50), "cannot be opened as a video"),
    "noise.avi": (lambda path: path.write_bytes(os.urandom(5000)), "cannot be opened as a video"),
    "sound.wav": (write_sound, "has no video, only audio"),
    "folder": (lambda path: path.mkdir(), "holds no images"),
    "text.png": (lambda path: path.write_text("hello"), "cannot be read as an image"),
    "pipe.mp4": (lambda path: os.mkfifo(path), "is not a regular file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_one_sentence(tmp_path: Path, name: str) -> None:
    make, sentence = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(VideoError, match=sentence) as caught:
        read_clips(tmp_path / name, 4)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*absent\.mp4"):
        read_clips(tmp_path / "absent.mp4", 4)


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(VideoError, match="cannot be read as an image"):
        read_clips(path, 1)


def test_a_playlist_may_not_open_other_files(encode: Encode, tmp_path: Path) -> None:
    encode("a.ts", range(5))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        read_clips(playlist, 4)


def test_frames_above_the_limit_are_refused(encode: Encode, tmp_path: Path) -> None:
    encode("a.mp4", range(3))
    Image.new("RGB", (64, 16)).save(tmp_path / "a.png")
    for name in ("a.mp4", "a.png"):
        assert read_clips(tmp_path / name, 2, limits=Limits(max_pixels=16 * 64)).frames.shape[1] == 2
        for read in (
            lambda path: read_clips(path, 2, limits=Limits(max_pixels=16 * 64 - 1)),
            lambda path: next(iterate_frames(path, max_pixels=16 * 64 - 1)),
        ):
            with pytest.raises(VideoError, match="frames of 64x16 pixels, more than the limit of 1023"):
                read(tmp_path / name)


def test_more_frames_than_the_limit_are_refused_while_they_are_counted(encode: Encode) -> None:
    path = encode("a.mp4", range(12))
    assert read_clips(path, 2, limits=Limits(max_frames=12)).frames.shape[1] == 2
    with pytest.raises(VideoError, match="a.mp4 has more frames than the limit of 11: cut it first"):
        read_clips(path, 2, limits=Limits(max_frames=11))
    with pytest.raises(ValueError, match="max_frames is 0; expected frames above 0"):
        Limits(max_frames=0)


def test_a_pipe_among_the_frames_of_a_folder_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(VideoError, match=r"1\.png is not a regular file; expected an image"):
        read_clips(tmp_path, 2)
    with pytest.raises(VideoError, match=r"1\.png is not a regular file"):
        list(iterate_frames(tmp_path))


def test_a_result_above_the_limit_is_refused(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode("a.mp4", range(3))
    monkeypatch.setattr(video, "MAX_BYTES", 10 * 3 * 16 * 64)
    assert read_clips(path, 10).frames.shape[1] == 10
    with pytest.raises(VideoError, match=r"11 frames of 64x16 pixels .* more than the limit"):
        read_clips(path, 11)


def test_an_image_with_an_absurd_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    with pytest.raises(VideoError, match="frames of 9000x9000 pixels, more than the limit"):
        read_clips(path, 1)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("size", [(32, 64), (33, 65), (31, 64)])
def test_a_written_video_reads_back(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    frames = torch.stack([torch.from_numpy(numbered_frame(k, *size)).permute(2, 0, 1) for k in range(7)])
    path = tmp_path / f"a{suffix}"
    write_video(path, frames, fps=12.5)
    clips = read_clips(path, 7)
    assert clips.frames.shape == (1, 7, 3, *size)
    assert read_numbers(clips.frames) == [list(range(7))]
    assert (clips.frames[0].float() - frames.float()).abs().mean() < 4
    assert clips.times[0].tolist() == pytest.approx([k / 12.5 for k in range(7)], abs=1e-3)
    assert os.listdir(tmp_path) == [path.name]


def test_written_colours_read_back(tmp_path: Path) -> None:
    colors = torch.tensor([[220, 30, 30], [30, 200, 60], [20, 60, 210]], dtype=torch.uint8)
    frames = colors[:, :, None, None].expand(3, 3, 32, 32)
    write_video(tmp_path / "a.mp4", frames, fps=10)
    back = read_clips(tmp_path / "a.mp4", 3).frames[0].float().mean((2, 3))
    assert (back - colors.float()).abs().max() < 5


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    too_wide = torch.zeros(1, 3, 2, 40_000, dtype=torch.uint8)  # H.264 ends at 16,384
    with pytest.raises(OSError, match=r"cannot write .*a\.mp4"):
        write_video(path, too_wide, fps=10)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_write_that_cannot_be_completed_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("not allowed")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_video(tmp_path / "a.mp4", torch.zeros(2, 3, 16, 16, dtype=torch.uint8), fps=10)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "frames", "fps", "sentence"),
    [
        ("a.mp4", torch.zeros(2, 3, 8, 8), 10, "frames are torch.float32"),
        ("a.mp4", torch.zeros(2, 8, 8, 3, dtype=torch.uint8), 10, r"shape \(2, 8, 8, 3\)"),
        ("a.mp4", torch.zeros(0, 3, 8, 8, dtype=torch.uint8), 10, "with T, H, W >= 1"),
        ("a.mp4", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 0, "fps is 0"),
        ("a.mp4", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), float("nan"), "fps is nan"),
        ("a.mp4", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 1e-9, "slowest rate"),
        ("a.xyz", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 10, "ends in .mp4, .mov or .mkv"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, name: str, frames: torch.Tensor, fps: float, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        write_video(tmp_path / name, frames, fps)
    assert os.listdir(tmp_path) == []


# --- One clock for both readers ---

CLOCKED = [
    *FORMATS,
    ("mpeg2.mpg", "mpeg2video", "yuv420p", {"bf": "2", "g": "12", "qscale": "2"}),
    ("mpeg1.mpeg", "mpeg1video", "yuv420p", {"bf": "2", "g": "12", "qscale": "2"}),
    ("mpeg2.vob", "mpeg2video", "yuv420p", {"bf": "2", "g": "12", "qscale": "2"}),
    ("mpeg2.ts", "mpeg2video", "yuv420p", {"bf": "2", "g": "12", "qscale": "2"}),
]
PIPED = (".mkv", ".webm", ".ts", ".mpg", ".vob", ".avi", ".gif")


def all_frames(frames: Iterable[tuple[float, torch.Tensor]]) -> tuple[list[float], list[int]]:
    """Times and numbers of the frames of `iterate_frames`."""
    times, images = zip(*frames, strict=True)
    return list(times), read_numbers(torch.stack(images))


def through_a_pipe(path: Path) -> Iterator[tuple[float, torch.Tensor]]:
    """`iterate_frames` of something that cannot be read twice."""
    read, write = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), open(write, "wb") as pipe:
            pipe.write(path.read_bytes())

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        with open(read, "rb") as pipe:
            yield from iterate_frames(pipe)
    finally:
        feeder.join()


def assert_one_clock(path: Path, numbers: Sequence[int], times: Sequence[float] | None = None) -> None:
    """Both readers, and one that reads a pipe where the container allows it, give these frames at these times."""
    times = [k / 25 for k in range(len(numbers))] if times is None else times
    readings = [iterate_frames(path)] + ([through_a_pipe(path)] if path.suffix in PIPED else [])
    for reading in readings:
        got_times, got = all_frames(reading)
        assert got == list(numbers)
        assert got_times == pytest.approx(times, abs=2e-3)
    for sampling in ({}, {"sampling": "dense", "stride": 2}):
        clips = read_clips(path, 8, **sampling)
        for number, time in zip(read_numbers(clips.frames)[0], clips.times[0].tolist(), strict=True):
            assert time == pytest.approx(times[numbers.index(number)], abs=2e-3)


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "options"), CLOCKED)
def test_both_readers_give_every_frame_at_its_time(
    encode: Encode, name: str, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    path = encode(name, range(50), codec=codec, pix_fmt=pix_fmt, options=options)
    assert_one_clock(path, range(50))
    assert read_numbers(read_clips(path, 8).frames) == [middles(8, 50)]
    assert all_frames(iterate_frames(path, fps=5))[1] == list(range(0, 50, 5))
    with path.open("rb") as file:
        assert all_frames(iterate_frames(file)) == all_frames(iterate_frames(path))


@pytest.mark.parametrize(
    ("starts", "lengths"),
    [
        ((0, 0), (20, 20)),
        ((0, 0, 0), (12, 12, 12)),
        ((0, 19), (20, 20)),  # goes back by one frame
        ((0, 15), (20, 20)),
        ((500, 0), (20, 8)),
        ((0, 25 * 3600), (20, 20)),
        ((25 * 3600, 0, 25 * 7200), (12, 12, 12)),
        ((0, 0), (20, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize(("codec", "options"), [("libx264", B_FRAMES), ("mpeg2video", {"bf": "2", "g": "6"})])
def test_joined_recordings_follow_each_other(
    encode: Encode, starts: Sequence[int], lengths: Sequence[int], codec: str, options: dict[str, str]
) -> None:
    joined, numbers = b"", []
    for k, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        part = range(80 * k, 80 * k + length)
        pts = range(start, start + length)
        joined += encode(f"{k}.ts", part, codec=codec, pts=pts, options=options | {"qscale": "2"}).read_bytes()
        numbers += part
    path = encode("all.ts", [0])
    path.write_bytes(joined)
    with pytest.warns(UserWarning, match=r"all\.ts: the clock jumps (back|forward) by .* bridged by the duration"):
        assert read_numbers(read_clips(path, 6).frames) == [[numbers[k] for k in middles(6, len(numbers))]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_one_clock(path, numbers)


@pytest.fixture
def retime(encode: Encode) -> Callable[[Sequence[int]], Path]:
    """Makes a Matroska file whose frames, numbered from 0, have these times in milliseconds."""

    def retime(times: Sequence[int]) -> Path:
        source = encode("source.mkv", range(len(times)), options={"bf": "0", "g": "10"})
        path = source.with_name("retimed.mkv")
        with av.open(str(source)) as container, av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(container.streams.video[0])
            for k, packet in enumerate(p for p in container.demux(video=0) if p.size):
                packet.pts = packet.dts = times[k]
                packet.time_base, packet.stream = Fraction(1, 1000), stream
                output.mux(packet)
        return path

    return retime


HOUR = 3_600_000


@pytest.mark.parametrize(
    "jumps",
    [{1: HOUR}, {20: HOUR}, {39: HOUR}, {38: 24 * HOUR}, {10: 61_000, 11: 70_000}, dict.fromkeys(range(1, 10), HOUR)],
    ids=str,
)
def test_a_gap_that_no_rate_explains_is_bridged(retime: Callable[..., Path], jumps: dict[int, int]) -> None:
    path = retime([40 * k + sum(jump for at, jump in jumps.items() if at <= k) for k in range(40)])
    with pytest.warns(UserWarning, match=rf"jumps forward by {min(jumps.values()) // 1000}\.0 s after"):
        assert read_numbers(read_clips(path, 8).frames) == [middles(8, 40)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_one_clock(path, range(40))


@pytest.mark.parametrize("gap", [400, 8_000, 59_000])
def test_a_frame_that_is_held_is_no_jump(retime: Callable[..., Path], gap: int) -> None:
    times = [40 * k + (gap if k >= 20 else 0) for k in range(40)]
    assert_one_clock(retime(times), range(40), [t / 1000 for t in times])


@pytest.mark.parametrize("step", [2 * 60_000, HOUR])
def test_slow_pictures_are_no_jumps(retime: Callable[..., Path], step: int) -> None:
    clips = read_clips(retime([step * k for k in range(12)]), 6)
    assert read_numbers(clips.frames) == [middles(6, 12)]
    assert clips.times[0, -1] == step * 11 / 1000


@pytest.mark.parametrize("equal", [[5], [19], [1], [5, 6], [3, 12], [18, 19]], ids=str)
def test_equal_times_keep_the_others(retime: Callable[..., Path], equal: list[int]) -> None:
    times = [100 * k for k in range(11)] + [9000 + 100 * k for k in range(9)]
    for k in equal:
        times[k] = times[k - 1]
    path = retime(times)
    clips = read_clips(path, 8)
    end = times[-1] + 40  # the stated length of a frame
    expected = [max(k for k in range(20) if times[k] <= (2 * i + 1) * end / 16) for i in range(8)]
    assert read_numbers(clips.frames) == [expected]
    for reading in (iterate_frames(path), through_a_pipe(path)):
        got, numbers = all_frames(reading)
        assert numbers == list(range(20))
        assert got == pytest.approx([t / 1000 for t in times])


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ([7, 8, 9, 10], [0, 1, 2, 3]),
        ([0, 1, 2, 0, 4, 5], [0, 1, 2, 3, 4, 5]),  # one wrong time, earlier
        ([0, 1, 2, 9999, 4, 5], [0, 1, 2, 3, 4, 5]),  # and later
        ([0, 1, 2, 1, 2, 3], [0, 1, 2, 3, 4, 5]),  # back by one frame
        ([0, 1, 2, 5, 6], [0, 1, 2, 5, 6]),
        ([None, 5, 6, None, 8], [0, 1, 2, 3, 4]),
        ([None, None, None], [0, 1, 2]),
        ([0, None, None, 2, 4], [0, 1, 2, 2, 4]),  # not back before what was only assumed
        ([0, 5000, 10_000], [0, 1, 2]),
        ([9, 9, 9, 10], [0, 0, 0, 1]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*the clock jumps")
def test_rules_of_the_clock(stated: list[float | None], expected: list[float]) -> None:
    clock = video._Clock(Path("a.ts"), 1, 1)
    assert [clock(time) for time in stated] == expected


@given(st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40)), min_size=1, max_size=30), st.integers(1, 1000))
def test_the_clock_starts_at_zero_and_never_goes_back(stated: list[int | None], period: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clock = video._Clock(Path("a.ts"), period, 1e-3)
        times = [clock(time) for time in stated]
    assert times[0] == 0
    assert all(0 <= b - a <= clock.longest + period for a, b in pairwise(times))


def without_packets(path: Path, count: int) -> Path:
    """The stream without its first packets, times and all."""
    cut = path.with_stem("cut")
    with av.open(str(path)) as container, av.open(str(cut), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for k, packet in enumerate(p for p in container.demux(video=0) if p.size):
            if k >= count:
                packet.stream = stream
                output.mux(packet)
    return cut


@pytest.mark.parametrize("count", [1, 5, 13])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264", {"bf": "0", "g": "8"}),
        ("a.ts", "libx264", OPEN_GOP),
        ("a.mp4", "libx264", B_FRAMES),
        ("a.ts", "mpeg2video", {"bf": "2", "g": "12", "qscale": "2"}),
        ("a.mpeg", "mpeg2video", {"bf": "2", "g": "12", "qscale": "2"}),
    ],
)
def test_a_stream_that_begins_inside_a_group_counts_what_decodes(
    encode: Encode, name: str, codec: str, options: dict[str, str], count: int
) -> None:
    path = without_packets(encode(name, range(60), codec=codec, options=options), count)
    with av.open(str(path)) as container:
        decoded = [read_numbers(video._channels_first(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]
    assert 20 < len(decoded) < 60
    assert decoded == sorted(set(decoded))
    times = [(n - decoded[0]) / 25 for n in decoded]
    assert_one_clock(path, decoded, times)
    if decoded == list(range(decoded[0], 60)):
        assert read_numbers(read_clips(path, 8).frames) == [[decoded[k] for k in middles(8, len(decoded))]]


def test_a_first_keyframe_that_does_not_decode_is_left_out(encode: Encode) -> None:
    path = encode("a.mkv", range(40), options=B_FRAMES)
    with av.open(str(path)) as container:
        packet = next(p for p in container.demux(video=0) if p.size)
        position = path.read_bytes().index(bytes(packet))
    data = bytearray(path.read_bytes())
    data[position + 4 : position + packet.size] = bytes(packet.size - 4)
    path.write_bytes(data)
    assert_one_clock(path, range(8, 40))


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", B_FRAMES), ("mpeg4", {"g": "6", "bf": "2"}), ("mpeg4", {"g": "6"}), ("mjpeg", {})],
)
def test_damage_in_the_middle_of_an_avi_shortens_nothing(encode: Encode, codec: str, options: dict[str, str]) -> None:
    path = encode(
        "a.avi", range(100), codec=codec, options=options, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p"
    )
    data = bytearray(path.read_bytes())
    begin, end = data.index(b"movi"), data.rindex(b"idx1")
    for at in range(begin + (end - begin) * 3 // 10, begin + (end - begin) * 7 // 10):
        data[at] = 0
    path.write_bytes(data)
    times = [time for time, _ in iterate_frames(path)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(99 / 25, abs=0.13)
    last = read_clips(path, 100).times[0, -1]
    assert last == pytest.approx(times[-1])


def test_an_encoder_delay_at_the_start_of_an_avi_takes_no_time(encode: Encode) -> None:
    """As Xvid writes it: after the first frame comes a packet that gives none."""
    source = encode("source.avi", range(40), options=B_FRAMES)
    path = source.with_name("a.avi")
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
        filler = bytes([0, 0, 0, 1, 12, 255, 128])  # a unit of H.264 that is no picture
        for k, data in enumerate([packets[0], filler, *packets[1:]]):
            packet = av.Packet(data)
            packet.dts = packet.pts = k
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, k == 0
            output.mux(packet)
    assert_one_clock(path, range(40))


def test_a_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 16, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        frame = av.VideoFrame.from_ndarray(numbered_frame(1))
        frame.pts = 0
        for packet in [*cover.encode(frame), *cover.encode(), *sound.encode(samples), *sound.encode()]:
            container.mux(packet)
    with pytest.raises(VideoError, match="has no video, only a cover picture and audio; expected a video"):
        read_clips(path, 4)


# --- Frames as they come ---


def ramp(path, num_frames=30, fps=10):
    """A video whose gray level tells the frame."""
    levels = torch.arange(num_frames, dtype=torch.uint8).mul(8).view(-1, 1, 1, 1)
    write_video(path, levels.expand(-1, 3, 32, 48).contiguous(), fps=fps)
    return path


def ranks(frames):
    return [round(float(frame.float().mean()) / 8) for _, frame in frames]


def test_every_frame_comes_with_its_time(tmp_path):
    frames = list(iterate_frames(ramp(tmp_path / "a.mp4")))
    assert ranks(frames) == list(range(30))
    assert [time for time, _ in frames] == pytest.approx([i / 10 for i in range(30)])
    expected = read_clips(tmp_path / "a.mp4", 30).frames[0]
    assert torch.equal(torch.stack([frame for _, frame in frames]), expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"fps": 5}, range(0, 30, 2)), ({"every": 7}, range(0, 30, 7)), ({"fps": 5, "every": 3}, range(0, 30, 6))],
    ids=str,
)
def test_fewer_frames_come_by_time_or_by_number(tmp_path, options, expected):
    assert ranks(iterate_frames(ramp(tmp_path / "a.mp4"), **options)) == list(expected)
    assert ranks(iterate_frames(tmp_path / "a.mp4", fps=3)) == [0, 4, 7, 10, 14, 17, 20, 24, 27]
    assert ranks(iterate_frames(tmp_path / "a.mp4", fps=100)) == list(range(30))  # none comes twice


def test_frames_come_from_a_pipe_while_it_is_written(tmp_path):
    video = ramp(tmp_path / "a.mkv").read_bytes()
    os.mkfifo(tmp_path / "pipe")

    def write():
        with (tmp_path / "pipe").open("wb") as pipe:
            pipe.write(video)

    writer = threading.Thread(target=write)
    writer.start()
    assert ranks(iterate_frames(tmp_path / "pipe")) == list(range(30))
    writer.join()
    with (tmp_path / "a.mkv").open("rb") as file:
        assert ranks(iterate_frames(file)) == list(range(30))


def test_an_mp4_with_its_index_at_the_end_cannot_be_piped(tmp_path):
    noise = torch.randint(0, 256, (60, 3, 128, 128), dtype=torch.uint8)
    write_video(tmp_path / "a.mp4", noise, fps=10)
    with pytest.raises(VideoError, match=r"cannot be read from a pipe; .*ffmpeg -i IN.mp4 .*faststart"):
        next(through_a_pipe(tmp_path / "a.mp4"))
    assert len(list(iterate_frames(tmp_path / "a.mp4"))) == 60


def test_frames_come_from_a_folder(tmp_path):
    for i in range(3):
        Image.new("RGB", (8, 8), (8 * i,) * 3).save(tmp_path / f"{i}.png")
    frames = list(iterate_frames(tmp_path))
    assert ranks(frames) == [0, 1, 2]
    assert [time for time, _ in frames] == pytest.approx([0, 0.04, 0.08])


@pytest.mark.parametrize(
    ("options", "message"), [({"fps": 0}, "fps is 0"), ({"fps": math.nan}, "fps is nan"), ({"every": 0}, "every is 0")]
)
def test_impossible_rate_is_told_in_a_sentence(tmp_path, options, message):
    with pytest.raises(VideoError, match=message):
        next(iterate_frames(tmp_path / "a.mp4", **options))


def test_stream_without_frames_is_told_in_a_sentence(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        next(iterate_frames(tmp_path / "a.mp4"))
    with (tmp_path / "a.mp4").open("rb") as file, pytest.raises(VideoError, match="cannot be opened as a video"):
        next(iterate_frames(file))
    with pytest.raises(FileNotFoundError):
        next(iterate_frames(tmp_path / "none.mp4"))


def test_longer_video_than_allowed_is_refused(tmp_path):
    path = ramp(tmp_path / "a.mp4")  # 30 frames, 10 a second
    assert read_clips(path, 4, limits=Limits(max_duration=3.0)).frames.shape[1] == 4
    with pytest.raises(VideoError, match=r"a.mp4 lasts 3.0 s, more than the limit of 2.9 s: cut it first"):
        read_clips(path, 4, limits=Limits(max_duration=2.9))


def test_reading_leaves_no_threads_behind(tmp_path):
    """A process that is forked with a decoder whose threads it lacks waits for them for ever when it is freed."""
    write_video(tmp_path / "clip.mp4", torch.zeros(40, 3, 64, 64, dtype=torch.uint8), fps=10)
    read_clips(tmp_path / "clip.mp4", 8)  # which also starts what stays
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/task"))
        read_clips(tmp_path / "clip.mp4", 8)
        for _ in iterate_frames(tmp_path / "clip.mp4"):
            pass
        next(iterate_frames(tmp_path / "clip.mp4"))
        assert len(os.listdir("/proc/self/task")) == before
    finally:
        gc.enable()


def test_reading_is_given_up_after_a_time(tmp_path):
    write_video(tmp_path / "clip.mp4", torch.zeros(40, 3, 64, 64, dtype=torch.uint8), fps=10)
    assert read_clips(tmp_path / "clip.mp4", 2, limits=Limits(timeout=60)).frames.shape == (1, 2, 3, 64, 64)
    with pytest.raises(VideoError, match=r"clip.mp4 is not read after 1e-06 s: allow more time, or make a shorter"):
        read_clips(tmp_path / "clip.mp4", 2, limits=Limits(timeout=1e-6))
    with pytest.raises(ValueError, match="timeout is 0; expected seconds above 0"):
        Limits(timeout=0)


def test_decoding_is_in_one_thread_while_logging_is_on(tmp_path):
    """PyAV's callback for messages and the freeing of frame threads wait for each other."""
    write_video(tmp_path / "clip.mp4", torch.zeros(40, 3, 64, 64, dtype=torch.uint8), fps=10)

    def started():
        """The threads that reading starts."""
        gc.collect()  # decoders of other tests, with theirs
        before = len(os.listdir("/proc/self/task"))
        frames = iterate_frames(tmp_path / "clip.mp4")
        next(frames)
        after = len(os.listdir("/proc/self/task"))
        frames.close()
        return after - before

    level = av.logging.get_level()
    try:
        av.logging.set_level(av.logging.ERROR)
        assert started() == 0
        av.logging.set_level(None)
        assert started() > 0
    finally:
        av.logging.set_level(level)


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


def test_names_that_are_numbers_are_a_series_too(tmp_path: Path) -> None:
    folder = stills(tmp_path / "frames", "1.png", "2.png", "flow_x_1.png")
    with pytest.raises(VideoError, match=r"several series, \* \(2\), flow_x_\* \(1\)"):
        read_clips(folder, 2)
    assert [int(frame[0, 0, 0]) for frame in read_clips(folder / "*", 2).frames[0]] == [0, 10]
