"""Tests of `read_clips` and `iterate_frames`."""

import gc
import math
import os
import threading
import wave
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from inti_models.data.limits import VideoError
from inti_models.data.video import iterate_frames, read_clips
from inti_models.data.write import write_video
from support.numbered import (
    FORMATS,
    Encode,
    middles,
    ramp,
    read_numbers,
    through_a_pipe,
)


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


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_very_short_videos_repeat_their_frames(encode: Encode, name: str, length: int) -> None:
    path = encode(name, range(1, length + 1))
    assert read_numbers(read_clips(path, 6).frames) == [[k + 1 for k in middles(6, length)]]


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


@pytest.mark.parametrize("name", ["a:b.mkv", "100%d.mkv", "clip 1 é.mkv", "http:x.mkv"])
def test_any_file_name_will_do(encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    encode(name, range(4))
    monkeypatch.chdir(tmp_path)
    clip = read_clips(name, 4).frames[0]
    assert read_numbers(clip) == [0, 1, 2, 3]
    write_video(name, clip, fps=5)
    assert read_clips(name, 4).times[0].tolist() == pytest.approx([0, 0.2, 0.4, 0.6], abs=1e-3)


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
def test_impossible_rate_is_refused_in_one_sentence(tmp_path, options, message):
    with pytest.raises(VideoError, match=message):
        next(iterate_frames(tmp_path / "a.mp4", **options))


def test_stream_without_frames_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        next(iterate_frames(tmp_path / "a.mp4"))
    with (tmp_path / "a.mp4").open("rb") as file, pytest.raises(VideoError, match="cannot be opened as a video"):
        next(iterate_frames(file))
    with pytest.raises(FileNotFoundError):
        next(iterate_frames(tmp_path / "none.mp4"))
