"""Tests of reading video files: packets, keyframes, damage, colours and rotation."""

import gc
import os
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from inti_models.data import decoding
from inti_models.data.decoding import VideoFile
from inti_models.data.limits import Guard, Limits, VideoError
from inti_models.data.video import iterate_frames, read_clips
from inti_models.data.write import write_video
from support.numbered import (
    B_FRAMES,
    FORMATS,
    OPEN_GOP,
    Encode,
    middles,
    numbered_frame,
    quadrants,
    read_numbers,
)

PROBED = 2  # frames that are decoded to see whether the index is right


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


@pytest.mark.parametrize("options", [{}, B_FRAMES, OPEN_GOP], ids=["plain", "b-frames", "open-gop"])
@pytest.mark.parametrize("length", [1, 2, 9, decoding.SHORT_FRAMES])
def test_a_short_video_is_opened_once_and_gives_the_same_frames(
    encode: Encode, counted_frames: list[int], monkeypatch: pytest.MonkeyPatch, length: int, options: dict[str, str]
) -> None:
    path, opened = encode("a.mp4", range(length), options=options), []
    open_stream = decoding.open_stream
    monkeypatch.setattr(
        decoding, "open_stream", lambda *args, **kwargs: opened.append(1) or open_stream(*args, **kwargs)
    )
    short = read_clips(path, 8)
    assert len(opened) == 1 and len(counted_frames) == length
    monkeypatch.setattr(decoding, "SHORT_FRAMES", 0)
    long = read_clips(path, 8)
    assert len(opened) == 3
    assert torch.equal(short.frames, long.frames) and torch.equal(short.times, long.times)


def test_a_header_that_says_short_does_not_make_a_long_video_stay_in_memory(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode("a.mp4", range(30))
    monkeypatch.setattr(decoding, "SHORT_BYTES", 5 * 64 * 64)
    assert VideoFile(path, Guard(Limits())).kept is None
    monkeypatch.undo()
    assert len(VideoFile(path, Guard(Limits())).kept or ()) == 30


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
    source = VideoFile(path, Guard(Limits()))
    for rank in range(24):
        [(got, _, image)] = source.read([rank])
        assert got == rank
        assert torch.equal(image, whole[rank])


def test_a_frame_before_its_keyframe_is_decoded_from_the_group_before(
    encode: Encode, counted_frames: list[int]
) -> None:
    path = encode("a.mkv", range(60), options=OPEN_GOP)
    source = VideoFile(path, Guard(Limits()))
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


def test_a_playlist_may_not_open_other_files(encode: Encode, tmp_path: Path) -> None:
    encode("a.ts", range(5))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        read_clips(playlist, 4)


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


def test_as_many_threads_decode_as_compute_and_none_while_logging_is_on(tmp_path):
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
        torch.set_num_threads(2)
        assert started() == 0
        av.logging.set_level(None)
        assert started() > 0
        torch.set_num_threads(1)
        assert started() == 0
    finally:
        av.logging.set_level(level)
