"""Tests of data sets of clips."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from inti_models.data import (
    FrameSampling,
    MotionDigitsClips,
    TrainSampler,
    VideoDataset,
    VideoError,
    VideoList,
    create_clip_transform,
    create_train_transform,
    find_videos,
    read_clips,
    write_video,
)
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits

CONFIG = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "crop_pct": 1.0,
    "crop_mode": "center",
}


# Clips of files. Each pixel of frame t of video k is 20 k + t, so that a clip shows what it is made of.


def make_videos(root: Path, count: int = 6, num_frames: int = 10) -> VideoList:
    for k in range(count):
        frames = torch.arange(20 * k, 20 * k + num_frames, dtype=torch.uint8)
        write_video(root / f"{k}.mp4", frames.view(-1, 1, 1, 1).expand(-1, 3, 32, 32), 25)
    paths = tuple(str(root / f"{k}.mp4") for k in range(count))
    return VideoList(paths, tuple(range(count)), tuple("abcdef"[:count]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> VideoList:
    return make_videos(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def textured(tmp_path_factory: pytest.TempPathFactory) -> VideoList:
    """Videos on which every augmentation shows."""
    root = tmp_path_factory.mktemp("textured")
    generator = torch.Generator().manual_seed(0)
    for k in range(6):
        coarse = torch.rand(8, 3, 9, 12, generator=generator)
        frames = torch.nn.functional.interpolate(coarse, (36, 48), mode="bicubic").clamp(0, 1) * 255
        write_video(root / f"{k}.mp4", frames.to(torch.uint8), 25)
    return VideoList(tuple(str(root / f"{k}.mp4") for k in range(6)), tuple(range(6)), tuple("abcdef"))


@pytest.fixture
def broken(tmp_path: Path) -> VideoList:
    """Of six videos, number 0 is missing, 2 is empty and 3 is no video."""
    videos = make_videos(tmp_path)
    Path(videos.paths[0]).unlink()
    Path(videos.paths[2]).write_bytes(b"")
    Path(videos.paths[3]).write_bytes(b"no video" * 100)
    return videos


def values(clip: Tensor) -> Tensor:
    """Undoes the normalisation of CONFIG; the mean pixel of each frame."""
    return ((clip * 0.25 + 0.5) * 255).mean(dim=(-3, -2, -1))


def train_set(videos: VideoList, augment: bool = True, **arguments: object) -> VideoDataset:
    config = {"auto_augment": "rand-m9-mstd0.5-inc1", "reprob": 0.5} if augment else {"scale": (1, 1), "hflip": 0}
    sampling = {name: arguments.pop(name) for name in ("num_frames", "sampling", "stride") if name in arguments}
    frames = FrameSampling(**{"num_frames": 4, **sampling})
    return VideoDataset(videos, create_train_transform(**CONFIG, **config), frames, **{"train": True, **arguments})


@pytest.mark.parametrize("sampling", [{"sampling": "uniform"}, {"sampling": "dense", "stride": 2}])
@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 1), (2, 1), (2, 3)])
def test_evaluation_clips_are_all_views(textured: VideoList, sampling: dict, num_clips: int, num_crops: int) -> None:
    transform = create_clip_transform(**CONFIG, num_crops=num_crops)
    dataset = VideoDataset(textured, transform, FrameSampling(3, **sampling), num_clips)
    assert len(dataset) == 6
    assert dataset.class_names == tuple("abcdef")
    clip, label, fault = dataset[4]
    assert (label, fault) == (4, "")
    assert clip.shape == (num_clips * num_crops, 3, 3, 32, 32)
    clips = read_clips(textured.paths[4], 3, num_clips=num_clips, **sampling).frames
    assert torch.equal(clip, torch.stack([transform(frames) for frames in clips]).flatten(0, -5))
    assert torch.equal(dataset[4][0], clip)


def test_unreadable_video_gives_zeros_and_a_fault_in_evaluation(broken: VideoList) -> None:
    dataset = VideoDataset(broken, create_clip_transform(**CONFIG, num_crops=3), FrameSampling(4), num_clips=2)
    for index in (0, 2, 3):
        clip, label, fault = dataset[index]
        assert clip.shape == dataset[1][0].shape == (6, 4, 3, 32, 32)
        assert clip.dtype == torch.float32
        assert not clip.any()
        assert label == index
        assert broken.paths[index] in fault
        assert "\n" not in fault
    assert dataset[1][2] == ""
    clips, labels, faults = next(iter(DataLoader(dataset, batch_size=6)))
    assert clips.shape == (6, 6, 4, 3, 32, 32)
    assert labels.tolist() == list(range(6))
    assert labels.dtype == torch.int64
    assert [bool(fault) for fault in faults] == [True, False, True, True, False, False]


def test_training_takes_random_frames_in_their_order(plain: VideoList) -> None:
    dataset = train_set(plain, augment=False, num_frames=3)
    frames = torch.stack([values(dataset[2, draw][0]).round() - 40 for draw in range(30)])  # draws x T
    assert (frames.diff(dim=1) >= 0).all()
    for t, (low, high) in enumerate([(0, 3), (3, 6), (6, 9)]):
        assert low - 1 <= frames[:, t].min() <= low + 1
        assert high - 1 <= frames[:, t].max() <= high + 1
    dense = train_set(plain, augment=False, num_frames=3, sampling="dense", stride=2)
    frames = torch.stack([values(dense[2, draw][0]).round() - 40 for draw in range(30)])
    assert (frames.diff(dim=1) - 2).abs().max() <= 1
    assert frames[:, 0].max() - frames[:, 0].min() >= 4


def test_samples_depend_on_seed_index_and_draw_alone(textured: VideoList) -> None:
    keys = [(index, draw) for index in range(3) for draw in range(3)]
    samples = {key: train_set(textured, seed=1)[key] for key in keys}
    dataset = train_set(textured, seed=1)
    for key in reversed(keys):
        random.seed(len(key)), np.random.seed(key[0]), torch.manual_seed(key[1])
        clip, label, fault = dataset[key]
        assert torch.equal(clip, samples[key][0])
        assert clip.shape == (4, 3, 32, 32)
        assert (label, fault) == (key[0], "")
    for key in keys:
        others = [samples[other][0] for other in keys if other != key] + [train_set(textured, seed=2)[key][0]]
        assert not any(torch.equal(samples[key][0], other) for other in others)


def test_samples_leave_the_global_generators_as_they_were(textured: VideoList, broken: VideoList) -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    for dataset in (train_set(textured), train_set(broken)):
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        _ = dataset[0, 0], dataset[3, 1]
        assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


@pytest.mark.parametrize("kind", ["textured", "broken"])
def test_workers_give_the_same_samples(kind: str, request: pytest.FixtureRequest) -> None:
    dataset = train_set(request.getfixturevalue(kind), seed=3)
    sampler = TrainSampler(6, 2, seed=0, repeats=2)
    batches = []
    for workers in (0, 1, 2):
        torch.manual_seed(workers)
        batches.append(list(DataLoader(dataset, batch_sampler=sampler, num_workers=workers)))
    for first, *others in zip(*batches, strict=True):
        for other in others:
            assert torch.equal(first[0], other[0])
            assert torch.equal(first[1], other[1])
            assert first[2] == other[2]


def test_resumed_epoch_has_the_same_batches(textured: VideoList) -> None:
    dataset, sampler = train_set(textured), TrainSampler(6, 2, seed=0)
    loader = DataLoader(dataset, batch_sampler=sampler)
    sampler.set_epoch(1)
    whole = list(loader)
    sampler.set_epoch(1, start_batch=2)
    (rest,) = list(loader)
    assert torch.equal(rest[0], whole[2][0])
    assert torch.equal(rest[1], whole[2][1])


def test_unreadable_video_is_replaced_in_training(broken: VideoList) -> None:
    dataset = train_set(broken, augment=False)
    readable, replacements = {1, 4, 5}, set()
    for index in (0, 2, 3):
        for draw in range(8):
            clip, label, fault = dataset[index, draw]
            assert label in readable
            assert values(clip).mean() == pytest.approx(20 * label + 4.5, abs=2)  # label and pixels of one video
            assert broken.paths[index] in fault
            assert torch.equal(train_set(broken, augment=False)[index, draw][0], clip)
            replacements.add(label)
    assert replacements == readable
    assert dataset[1, 0][2] == ""


def test_videos_that_cannot_be_read_in_a_row_stop_training(broken: VideoList) -> None:
    nothing = VideoList(broken.paths[2:4], (0, 1), ("a", "b"))
    with pytest.raises(VideoError, match=r"4 videos in a row cannot be read; the first: .*2\.mp4 is empty"):
        train_set(nothing, attempts=4)[0, 0]
    with pytest.raises(VideoError, match="3 videos in a row"):
        list(
            DataLoader(
                train_set(nothing, attempts=3),
                batch_sampler=TrainSampler(2, 1, 0),
                num_workers=1,
            )
        )


def test_keys_of_the_wrong_kind_are_refused(plain: VideoList) -> None:
    digits = MotionDigits("train", size=16, num_frames=2, length=4)
    transform = create_clip_transform(**CONFIG)
    for train in (train_set(plain), MotionDigitsClips(digits, transform, train=True)):
        with pytest.raises(TypeError, match=r"0 is not a key of a training set; expected \(index, draw\)"):
            train[0]
    for evaluation in (VideoDataset(plain, transform, FrameSampling(4)), MotionDigitsClips(digits, transform)):
        with pytest.raises(TypeError, match=r"\(0, 1\) is not a key of an evaluation set"):
            evaluation[0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"sampling": "sparse"}, "sampling is 'sparse'"),
        ({"sampling": "dense"}, "stride is None"),
        ({"num_clips": 2}, "num_clips is 2; expected 1"),
        ({"attempts": 0}, "attempts is 0"),
    ],
)
def test_impossible_arguments_are_refused(plain: VideoList, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_set(plain, **arguments)


def test_folder_of_frames_is_a_video(tmp_path: Path) -> None:
    for name, grey in (("run", 50), ("walk", 90)):
        folder = tmp_path / name / "clip"
        folder.mkdir(parents=True)
        for t in range(6):
            Image.new("RGB", (32, 32), (grey + t,) * 3).save(folder / f"img_{t}.png")
    videos = find_videos(tmp_path)
    clip, label, _ = VideoDataset(videos, create_clip_transform(**CONFIG), FrameSampling(3))[1]
    assert label == 1
    torch.testing.assert_close(values(clip[0]), torch.tensor([91.0, 93.0, 95.0]))


# MotionDigits

DIGITS = {"size": 32, "num_frames": 3, "length": 20}


@pytest.mark.parametrize("num_crops", [1, 3])
def test_motion_digits_have_the_samples_of_the_transform(num_crops: int) -> None:
    digits = MotionDigits("validation", **DIGITS)
    transform = create_clip_transform(**{**CONFIG, "input_size": (3, 24, 24)}, num_crops=num_crops)
    dataset = MotionDigitsClips(digits, transform)
    assert len(dataset) == 20
    assert dataset.class_names == CLASS_NAMES
    samples = dataset.__getitems__([7, 3])
    for index, (clip, label, fault) in zip([7, 3], samples, strict=True):
        frames, expected = digits[index]
        views = transform(frames)
        assert torch.equal(clip, views[None] if num_crops == 1 else views)
        assert (label, fault) == (expected, "")
        assert torch.equal(dataset[index][0], clip)
    # A transform that is not known takes the long way.
    other = MotionDigitsClips(digits, lambda clip: transform(clip)).__getitems__([7, 3])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(samples, other, strict=True))


@pytest.mark.parametrize("augment", [False, True])
def test_motion_digits_for_training(augment: bool) -> None:
    digits = MotionDigits("train", **DIGITS)
    transform = create_train_transform(**CONFIG) if augment else create_train_transform(**CONFIG, scale=(1, 1), hflip=0)
    dataset = MotionDigitsClips(digits, transform, train=True, seed=4)
    keys = [(3, 0), (3, 1), (8, 0)]
    samples = dataset.__getitems__(keys)
    for key, (clip, label, fault) in zip(keys, samples, strict=True):
        assert clip.shape == (3, 3, 32, 32)
        assert (label, fault) == (digits[key[0]][1], "")
        assert torch.equal(dataset[key][0], clip)
    assert torch.equal(samples[0][0], samples[1][0]) is not augment
    if not augment:
        assert torch.equal(samples[0][0], create_clip_transform(**CONFIG)(digits[3][0]))
    sampler = TrainSampler(20, 4, seed=0)
    for clips, labels, _ in DataLoader(dataset, batch_sampler=sampler, num_workers=2):
        assert clips.shape == (4, 3, 3, 32, 32)
        assert labels.shape == (4,)
