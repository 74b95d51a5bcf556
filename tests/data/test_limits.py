"""Tests of what a file may ask for."""

import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from inti_models.data import limits, video
from inti_models.data.limits import Limits, VideoError
from inti_models.data.video import check_video, iterate_frames, read_clips
from inti_models.data.write import write_video
from support.hostile import write_gif_bomb
from support.numbered import B_FRAMES, Encode, middles, ramp, read_numbers


def test_frames_above_the_limit_are_refused(encode: Encode, tmp_path: Path) -> None:
    encode("a.mp4", range(3))
    Image.new("RGB", (64, 16)).save(tmp_path / "a.png")
    for name in ("a.mp4", "a.png"):
        assert read_clips(tmp_path / name, 2, limits=Limits(max_pixels=16 * 64)).frames.shape[1] == 2
        for read in (
            lambda path: read_clips(path, 2, limits=Limits(max_pixels=16 * 64 - 1)),
            lambda path: next(iterate_frames(path, limits=Limits(max_pixels=16 * 64 - 1))),
        ):
            with pytest.raises(VideoError, match="frames of 64x16 pixels, more than the limit of 1023"):
                read(tmp_path / name)


def test_more_frames_than_the_limit_are_refused_while_they_are_counted(encode: Encode) -> None:
    path = encode("a.mp4", range(12))
    assert read_clips(path, 2, limits=Limits(max_frames=12)).frames.shape[1] == 2
    with pytest.raises(VideoError, match="a.mp4 has more frames than the limit of 11: cut it first"):
        read_clips(path, 2, limits=Limits(max_frames=11))
    with pytest.raises(ValueError, match="max_frames is 0; expected a number above 0"):
        Limits(max_frames=0)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_no_container_has_more_frames_than_the_limit(encode: Encode, name: str) -> None:
    path = encode(name, range(12))
    assert read_clips(path, 2, limits=Limits(max_frames=12)).frames.shape[1] == 2
    with pytest.raises(VideoError, match=f"{name} has more frames than the limit of 11: cut it first"):
        read_clips(path, 2, limits=Limits(max_frames=11))


def test_a_gif_or_folder_of_more_frames_than_the_limit_is_refused_before_it_is_read(
    tmp_path: Path, counted_frames: list[int]
) -> None:
    bomb = write_gif_bomb(tmp_path / "a.gif", 16, 300)
    (tmp_path / "frames").mkdir()
    for k in range(300):
        (tmp_path / "frames" / f"{k}.png").write_bytes(b"not read")
    for path in (bomb, tmp_path / "frames"):
        for check in (partial(read_clips, num_frames=2), check_video):
            with pytest.raises(VideoError, match="has more frames than the limit of 299"):
                check(path, limits=Limits(max_frames=299))
    assert not counted_frames


def test_a_small_file_that_asks_for_much_is_refused_before_it_is_decoded(
    tmp_path: Path, counted_frames: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gif_bomb(tmp_path / "a.gif", 1000, 40)
    assert read_clips(path, 4).frames.shape[1] == 4  # below what any file may ask for
    monkeypatch.setattr(limits, "FREE_PIXELS", 30 * 1000**2)
    counted_frames.clear()
    with pytest.raises(VideoError, match=r"has 9\d\d bytes, .* more than the limit of 16384 for each byte: cut it"):
        read_clips(path, 4)
    assert len(counted_frames) <= 2
    assert read_clips(path, 4, limits=Limits(max_pixels_per_byte=10**6)).frames.shape[1] == 4
    assert read_clips(path, 1).frames.shape[1] == 1  # for which half of the frames suffice


def test_frames_that_have_to_be_counted_are_bounded_too(
    encode: Encode, counted_frames: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode("a.avi", range(40), options=B_FRAMES)  # without presentation times
    monkeypatch.setattr(limits, "FREE_PIXELS", 1)
    enough = 40 * 16 * 64 / path.stat().st_size
    assert read_numbers(read_clips(path, 4, limits=Limits(max_pixels_per_byte=enough)).frames) == [middles(4, 40)]
    counted_frames.clear()
    with pytest.raises(VideoError, match="more than the limit of .* for each byte"):
        read_clips(path, 4, limits=Limits(max_pixels_per_byte=enough * 0.9))
    assert len(counted_frames) <= 2


def test_reading_ends_when_it_is_stopped(encode: Encode, tmp_path: Path) -> None:
    stop = threading.Event()
    encode("a.mp4", range(8))
    stills = tmp_path / "frames"
    stills.mkdir()
    Image.new("RGB", (8, 8)).save(stills / "0.png")
    for path in (tmp_path / "a.mp4", stills):
        assert read_clips(path, 2, stop=stop).frames.shape[1] == 2
    stop.set()
    for path in (tmp_path / "a.mp4", stills):
        with pytest.raises(VideoError, match="was not read, as reading was stopped"):
            read_clips(path, 2, stop=stop)


def test_a_result_above_the_limit_is_refused(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode("a.mp4", range(3))
    monkeypatch.setattr(video, "MAX_BYTES", 10 * 3 * 16 * 64)
    assert read_clips(path, 10).frames.shape[1] == 10
    with pytest.raises(VideoError, match=r"11 frames of 64x16 pixels .* more than the limit"):
        read_clips(path, 11)


def test_longer_video_than_allowed_is_refused(tmp_path):
    path = ramp(tmp_path / "a.mp4")  # 30 frames, 10 a second
    assert read_clips(path, 4, limits=Limits(max_duration=3.0)).frames.shape[1] == 4
    with pytest.raises(VideoError, match=r"a.mp4 lasts 3.0 s, more than the limit of 2.9 s: cut it first"):
        read_clips(path, 4, limits=Limits(max_duration=2.9))


def test_reading_is_given_up_after_a_time(tmp_path):
    write_video(tmp_path / "clip.mp4", torch.zeros(40, 3, 64, 64, dtype=torch.uint8), fps=10)
    assert read_clips(tmp_path / "clip.mp4", 2, limits=Limits(timeout=60)).frames.shape == (1, 2, 3, 64, 64)
    with pytest.raises(VideoError, match=r"clip.mp4 was not read within 1e-06 s: allow more time, or make a shorter"):
        read_clips(tmp_path / "clip.mp4", 2, limits=Limits(timeout=1e-6))
    with pytest.raises(ValueError, match="timeout is 0; expected a number above 0"):
        Limits(timeout=0)
