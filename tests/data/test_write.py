"""Tests of writing videos."""

import os
from pathlib import Path

import pytest
import torch

from inti_models.data.video import read_clips
from inti_models.data.write import write_video
from support.numbered import numbered_frame, read_numbers


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
