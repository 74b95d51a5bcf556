"""Clips are made as the official code of published video models makes them; the golden arrays are what it gave."""

import numpy as np
import pytest
import torch
from PIL import Image

from inti_models.data import VideoError, create_clip_transform, read_clips
from inti_models.data.protocols import RULES, frame_indices
from inti_models.data.sample_times import SAMPLINGS
from inti_models.data.transforms import ROUNDINGS
from inti_models.models import config
from support.modules import ROOT, load_module

made = load_module("tests/data/golden/make.py")
GOLDEN = np.load(ROOT / "tests" / "data" / "golden" / "protocols.npz")
INTERPOLATION = {"st_adapter": "bicubic", "mmaction": "bilinear", "slowfast": "bilinear"}


@pytest.mark.parametrize("sampling", [*RULES, "uniform_centers_aim"])
def test_frames_are_those_of_the_official_code(sampling):
    cases = [key.split("/") for key in GOLDEN.files if key.startswith(f"{sampling}/")]
    assert {int(length) for _, length, _ in cases} >= {5, 8, 37, 300}
    for _, length, clips in cases:
        rule = sampling.removesuffix("_aim")
        stride = made.STRIDE if rule.startswith("dense") else None
        found = frame_indices(rule, made.FRAMES, stride, int(length), int(clips))
        assert found.tolist() == GOLDEN[f"{sampling}/{length}/{clips}"].tolist(), (length, clips)


@pytest.mark.parametrize("rounding", [name for name in ROUNDINGS if name != "timm"])
@pytest.mark.parametrize("num_crops", [1, 3])
@pytest.mark.parametrize(("height", "width"), made.SIZES)
def test_pixels_are_those_of_the_official_code_within_a_grey_level(rounding, num_crops, height, width):
    size = (3, made.SIDE, made.SIDE)
    transform = create_clip_transform(
        size, INTERPOLATION[rounding], [0], [1], 1.0, num_crops=num_crops, antialias=False, rounding=rounding
    )
    clip = torch.from_numpy(made.draw(height, width)).permute(0, 3, 1, 2)
    found = transform(clip).unflatten(0, (1, -1))[0] if num_crops == 1 else transform(clip)
    crops = found[None] if num_crops == 1 else found
    expected = torch.from_numpy(GOLDEN[f"{rounding}/{height}x{width}/{num_crops}"].astype(np.float32)) / 64
    difference = (crops[:, 0] * 255 - expected).abs()
    assert difference.max() <= 1, difference.max()
    if min(height, width) != made.SIDE:  # which antialiasing and rounding would not pass
        ours = create_clip_transform(size, INTERPOLATION[rounding], [0], [1], 1.0, num_crops=num_crops)(clip)
        assert ((ours[None] if num_crops == 1 else ours)[:, 0] * 255 - expected).abs().max() > 4


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Length -> a folder of so many frames, the grey level of each its number, modulo 256."""
    folders = {}
    for length in (5, 37, 300):
        folders[length] = tmp_path_factory.mktemp(f"frames{length}")
        for i in range(length):
            Image.fromarray(np.full((2, 2, 3), i % 256, np.uint8)).save(folders[length] / f"{i}.png")
    return folders


@pytest.mark.parametrize("length", [5, 37, 300])
@pytest.mark.parametrize("sampling", RULES)
def test_the_reader_takes_the_frames_of_the_rule(videos, sampling, length):
    clips = 1 if sampling == "uniform_centers" else 4
    stride = made.STRIDE if sampling.startswith("dense") else None
    read = read_clips(videos[length], made.FRAMES, sampling=sampling, stride=stride, num_clips=clips)
    expected = GOLDEN[f"{sampling}/{length}/{clips}"]
    assert read.frames[:, :, 0, 0, 0].tolist() == (expected % 256).tolist()
    period = read.times[0, 1:].max() / max(expected[0, 1:].max(), 1)
    torch.testing.assert_close(read.times, torch.from_numpy(expected.astype(float)) * period, rtol=1e-6, atol=1e-6)


def test_random_clips_of_a_rule_are_those_of_its_plain_form(videos):
    for rule, plain, stride in (("dense_looped", "dense", 4), ("uniform_offsets", "uniform", None)):
        first, second = (
            read_clips(videos[37], 8, sampling=name, stride=stride, generator=torch.Generator().manual_seed(1)).frames
            for name in (rule, plain)
        )
        assert torch.equal(first, second)


def test_what_a_rule_has_not_is_refused(videos):
    with pytest.raises(VideoError, match="one clip per video"):
        read_clips(videos[5], 8, sampling="uniform_centers", num_clips=3)
    with pytest.raises(VideoError, match="stride is 2"):
        read_clips(videos[5], 8, sampling="uniform_offsets", stride=2)
    with pytest.raises(ValueError, match="square"):
        create_clip_transform((3, 24, 32), crop_pct=1.0, rounding="mmaction")
    with pytest.raises(ValueError, match="rounding is 'opencv'"):
        create_clip_transform(rounding="opencv")


def test_a_fused_model_gets_whole_grey_levels():
    clip = torch.from_numpy(made.draw(45, 64)).permute(0, 3, 1, 2)
    args = {"input_size": (3, 24, 24), "crop_pct": 1.0, "antialias": False, "rounding": "st_adapter"}
    levels = create_clip_transform(**args, normalize=False)(clip)
    exact = create_clip_transform(**args, mean=[0], std=[1])(clip) * 255
    assert levels.dtype == torch.uint8
    assert (levels.float() - exact.clamp(0, 255)).abs().max() <= 0.5 + 1e-3


def test_models_and_reader_know_the_same_names():
    assert config.SAMPLINGS == SAMPLINGS and config.ROUNDINGS == ROUNDINGS
