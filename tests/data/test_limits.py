"""Tests of what a file may ask for."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from inti_models.data import video
from inti_models.data.limits import Limits, VideoError
from inti_models.data.video import iterate_frames, read_clips
from inti_models.data.write import write_video
from support.numbered import Encode, ramp


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
    with pytest.raises(VideoError, match=r"clip.mp4 is not read after 1e-06 s: allow more time, or make a shorter"):
        read_clips(tmp_path / "clip.mp4", 2, limits=Limits(timeout=1e-6))
    with pytest.raises(ValueError, match="timeout is 0; expected seconds above 0"):
        Limits(timeout=0)
