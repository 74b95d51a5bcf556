"""Data by path or name, and what of it cannot be read."""

import pytest
import torch
from PIL import Image

from inti_models.data import (
    FrameSampling,
    Limits,
    VideoError,
    create_clip_transform,
    open_source,
    read_clips,
    write_video,
)
from inti_models.data.motion_digits import CLASS_NAMES
from inti_models.data.sources import unreadable_videos


def test_videos_that_cannot_be_opened_are_all_named_as_in_reading(tmp_path):
    write_video(tmp_path / "good.mp4", torch.zeros(4, 3, 32, 32, dtype=torch.uint8), fps=4)
    for folder in ("frames", "no frames"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "frames" / "1.png")
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    names = ("good.mp4", "frames", "text.mp4", "no frames", "empty.mp4", "broken.jpg", "missing.mp4")
    faults = unreadable_videos([str(tmp_path / name) for name in names])
    assert list(faults) == [str(tmp_path / name) for name in names[2:]]
    for path, fault in faults.items():
        with pytest.raises((ValueError, OSError)) as error:
            read_clips(path, 2)
        assert str(error.value) == fault


def test_limits_hold_for_all_that_a_source_reads(tmp_path):
    (tmp_path / "cats").mkdir()
    write_video(tmp_path / "cats" / "a.mp4", torch.zeros(4, 3, 32, 32, dtype=torch.uint8), fps=4)
    transform, limits = create_clip_transform((3, 32, 32)), Limits(max_frames=3)
    source = open_source(tmp_path, limits=limits)
    for part in (source, source.relabelled(("cats", "dogs"))):
        assert "limit of 3" in part.dataset(transform, FrameSampling(2))[0][2]
        with pytest.raises(VideoError, match="limit of 3"):
            part.dataset(transform, FrameSampling(2), train=True)[0, 0]
    path = str(tmp_path / "cats" / "a.mp4")
    assert "limit of 3" in unreadable_videos([path], limits)[path]
    assert open_source(tmp_path).dataset(transform, FrameSampling(2))[0][2] == ""


def test_digits_have_the_size_and_frames_of_the_model_unless_others_are_asked_for():
    transform = create_clip_transform((3, 40, 40))
    source = open_source("motiondigits", args={"length": 3})
    clip, label, fault = source.dataset(transform, FrameSampling(5))[2]
    assert (clip.shape, fault) == ((1, 5, 3, 40, 40), "")
    assert 0 <= label < len(source.class_names) == len(CLASS_NAMES)
    other = open_source("motiondigits", "train", args={"num_frames": 2, "size": 32}).dataset(
        transform, FrameSampling(5)
    )
    assert (other.digits.split, other.digits.size, other[0][0].shape) == ("train", 32, (1, 2, 3, 40, 40))


def test_what_does_not_fit_is_refused(tmp_path):
    digits = open_source("motiondigits")
    assert digits.relabelled(CLASS_NAMES) is digits
    with pytest.raises(
        ValueError, match=r"with the classes cat, dog, \.\.\. does not have the classes of motiondigits"
    ):
        digits.relabelled(("cat", "dog"))
    with pytest.raises(ValueError, match=r"\{'length': 3\} are arguments for motiondigits, not for"):
        open_source(tmp_path, args={"length": 3})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source("nowhere")
