"""Tests of training augmentation: alike in all frames, and pixels mixed as labels are."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from inti_models.data import ClipMixup, create_clip_transform, create_train_transform, seeded

CONFIG = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "mean": (0.48, 0.46, 0.41),
    "std": (0.27, 0.26, 0.28),
    "crop_pct": 1.0,
    "crop_mode": "center",
}
STILL = {"scale": (1, 1), "hflip": 0.0}
RANDOM = {
    "crop": {"hflip": 0.0},
    "flip": {**STILL, "hflip": 0.5},
    "RandAugment": {**STILL, "auto_augment": "rand-m9-n3-p1.0-mstd0.5-inc1"},
    "AugMix": {**STILL, "auto_augment": "augmix-m5-w2"},
    "AutoAugment": {**STILL, "auto_augment": "original-mstd0.5"},
    "3-Augment": {**STILL, "auto_augment": "3a"},
    "erasing, noise": {**STILL, "reprob": 0.9},
    "erasing, colours": {**STILL, "reprob": 0.9, "remode": "rand", "recount": 3},
    "erasing, zeros": {**STILL, "reprob": 0.9, "remode": "const"},
    "all": {"auto_augment": "rand-m9-mstd0.5-inc1", "reprob": 0.5},
}


def random_clip(num_frames: int = 4, height: int = 40, width: int = 52) -> Tensor:
    return torch.randint(0, 256, (num_frames, 3, height, width), dtype=torch.uint8)


def smooth_clip(num_frames: int = 4, size: int = 32) -> Tensor:
    """Gradients, on which crops and rotations show but interpolation hardly does."""
    ramp = torch.linspace(0, 255, size)
    frame = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size), ramp.flip(0).expand(size, size)])
    return frame.to(torch.uint8).repeat(num_frames, 1, 1, 1)


def pixels(result: Tensor) -> Tensor:
    """Undoes the normalisation of CONFIG, back to 0..255."""
    mean, std = (torch.tensor(CONFIG[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (result * std + mean) * 255


@pytest.mark.parametrize("name", RANDOM)
def test_identical_frames_stay_identical(name: str) -> None:
    transform = create_train_transform(**CONFIG, **RANDOM[name])
    clip = random_clip(1).repeat(4, 1, 1, 1)
    for draw in range(8):
        with seeded(draw):
            result = transform(clip)
        assert result.shape == (4, 3, 32, 32)
        assert result.dtype == torch.float32
        assert torch.isfinite(result).all()
        assert torch.equal(result, result[:1].expand_as(result))


@pytest.mark.parametrize("name", RANDOM)
def test_draws_differ_and_come_again_with_their_key(name: str) -> None:
    transform = create_train_transform(**CONFIG, **RANDOM[name])
    assert transform.is_random
    clip = random_clip()
    results = []
    for draw in (*range(10), *range(10)):
        with seeded(3, draw):
            results.append(transform(clip))
    for first, second in zip(results[:10], results[10:], strict=True):
        assert torch.equal(first, second)
    assert any(not torch.equal(results[0], other) for other in results[1:10])


@pytest.mark.parametrize("size", [(32, 32), (40, 40), (40, 52), (52, 40)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("channels", [1, 3])
def test_without_augmentation_it_is_the_evaluation_transform(
    size: tuple[int, int], interpolation: str, channels: int
) -> None:
    config = {**CONFIG, "interpolation": interpolation, "input_size": (channels, 32, 32)}
    if channels == 1:
        config |= {"mean": (0.5,), "std": (0.25,)}
    transform = create_train_transform(**config, **STILL)
    assert not transform.is_random
    clip = random_clip(3, *size)
    before, state = clip.clone(), torch.get_rng_state()
    assert torch.equal(transform(clip), create_clip_transform(**config)(clip))
    assert torch.equal(clip, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_mirrored_clip_is_the_mirror_image() -> None:
    clip = random_clip(3, 32, 32)
    still = create_train_transform(**CONFIG, **STILL)(clip)
    mirrored = create_train_transform(**CONFIG, **{**STILL, "hflip": 1.0})(clip)
    assert torch.equal(mirrored, still.flip(-1))


def test_random_crop_takes_boxes_of_the_area_and_ratio_that_are_asked_for() -> None:
    """In a clip whose red is the column and green the row, the crop can be read off the result."""
    clip = torch.zeros(2, 3, 96, 128, dtype=torch.uint8)
    clip[:, 0] = torch.arange(128)
    clip[:, 1] = torch.arange(96)[:, None]
    transform = create_train_transform(**CONFIG, scale=(0.2, 0.5), ratio=(0.8, 1.25), hflip=0.0)
    shares, lefts = [], []
    for draw in range(40):
        with seeded(draw):
            result = pixels(transform(clip))
        width = (result[0, 0, 16, 24] - result[0, 0, 16, 8]) * 2  # half of the columns lie between
        height = (result[0, 1, 24, 16] - result[0, 1, 8, 16]) * 2
        shares.append(float(width * height) / (96 * 128))
        lefts.append(float(result[0, 0, 16, 0]))
        assert 0.75 < width / height < 1.33
    assert min(shares) > 0.17
    assert max(shares) < 0.54
    assert max(shares) - min(shares) > 0.15
    assert max(lefts) - min(lefts) > 30


def test_rand_augment_is_timms_on_each_frame() -> None:
    """One frame through timm's own augmentation, with the generators as the clip's find them."""
    config = "rand-m9-n2-p1.0-mstd0.5-inc1"
    transform = create_train_transform(**CONFIG, **STILL, auto_augment=config)
    hparams = {"translate_const": 14, "img_mean": (122, 117, 105), "interpolation": Image.Resampling.BICUBIC}
    timms = rand_augment_transform(config, hparams)
    clip, changed = smooth_clip(2), 0
    for draw in range(12):
        with seeded(draw):
            result = transform(clip)
            random.seed(), np.random.seed()
        with seeded(draw):
            key = random.getrandbits(64)
        with seeded(key):
            frame = timms(Image.fromarray(clip[0].permute(1, 2, 0).numpy()))
        expected = torch.from_numpy(np.array(frame)).permute(2, 0, 1)
        torch.testing.assert_close(pixels(result)[1], expected.float(), atol=1e-3, rtol=0)
        changed += not torch.equal(expected, clip[0])
    assert changed > 8


def test_frames_that_differ_are_altered_by_the_same_operation() -> None:
    """Grey frames are changed by solarising and blurring but not by desaturating: both of them or neither."""
    clip = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    clip[0, :, :, 10:20], clip[1, :, :, 10:20] = 250, 200
    transform = create_train_transform(**CONFIG, **STILL, auto_augment="rand-m9-n1-p1.0-t3a")
    plain = create_train_transform(**CONFIG, **STILL)(clip)
    seen = set()
    for draw in range(12):
        with seeded(draw):
            result = transform(clip)
        changed = [not torch.allclose(result[t], plain[t], atol=1e-4) for t in range(2)]
        assert changed[0] == changed[1]
        seen.add(changed[0])
    assert seen == {True, False}


@pytest.mark.parametrize(("mode", "fill"), [("const", 1), ("rand", 1), ("pixel", None)])
def test_one_box_is_erased_from_all_frames_and_the_rest_stays(mode: str, fill: int | None) -> None:
    clip = random_clip(4, 32, 32)
    plain = create_train_transform(**CONFIG, **STILL)(clip)
    transform = create_train_transform(**CONFIG, **STILL, reprob=1.0, remode=mode)
    for draw in range(5):
        with seeded(draw):
            result = transform(clip)
        erased = (result != plain).any(dim=1)  # T H W
        assert torch.equal(erased, erased[:1].expand_as(erased))
        rows, columns = erased[0].any(dim=1).nonzero(), erased[0].any(dim=0).nonzero()
        box = result[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert erased.sum() == 4 * box[0, 0].numel()
        assert 0.02 * 1024 * 0.7 < box[0, 0].numel() < 1024 / 3 * 1.3
        assert torch.equal(box, box[:1].expand_as(box))
        if fill:
            assert all(len(box[0, c].unique()) == 1 for c in range(3))
        else:
            assert abs(box[0].std() - 1) < 0.35


def test_erasing_happens_as_often_as_it_is_asked_for() -> None:
    clip = random_clip(2, 32, 32)
    plain = create_train_transform(**CONFIG, **STILL)(clip)
    transform = create_train_transform(**CONFIG, **STILL, reprob=0.25)
    erased = 0
    for draw in range(200):
        with seeded(draw):
            erased += not torch.equal(transform(clip), plain)
    assert 30 < erased < 70


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": (0.5, 0.2)}, r"scale is \(0.5, 0.2\)"),
        ({"scale": (0, 1)}, r"scale is \(0, 1\)"),
        ({"ratio": (2, 1)}, r"ratio is \(2, 1\)"),
        ({"hflip": 1.5}, "hflip is 1.5; expected a probability"),
        ({"reprob": -1}, "reprob is -1"),
        ({"remode": "noise"}, "remode is 'noise'"),
        ({"auto_augment": "rand-q9"}, "auto_augment is 'rand-q9', which timm does not know"),
        ({"auto_augment": "rand-m9x"}, "auto_augment is 'rand-m9x', which timm does not know"),
        ({"auto_augment": "policy"}, "auto_augment is 'policy', which timm does not know"),
        ({"interpolation": "nearest"}, "interpolation is 'nearest'"),
        ({"std": (0.0,)}, "std is"),
    ],
)
def test_impossible_values_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_train_transform(**{**CONFIG, **arguments})


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="hflips"):
        create_train_transform(**CONFIG, hflips=0.5)


@pytest.mark.parametrize("clip", [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_what_is_no_clip_is_refused(clip: Tensor) -> None:
    with pytest.raises(ValueError, match="clip "):
        create_train_transform(**CONFIG)(clip)


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_seeded_draws_depend_on_the_key_and_leave_the_generators_as_they_were() -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = [draws() for _ in range(3)]
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    assert draws() == expected[0]
    with seeded(5, 6):
        first = draws()
        with seeded(7):
            inner = draws()
        second = draws()
    assert draws() == expected[1]
    with pytest.raises(KeyError), seeded(5, 6):
        assert draws() == first
        raise KeyError
    assert draws() == expected[2]
    with seeded(5, 6):
        assert (draws(), draws()) == (first, second)
    with seeded(6, 5):
        assert all(a != b for a, b in zip(draws(), first, strict=True))
    assert inner not in (first, second)


# Mixing. Clip b holds the number 2**b in every pixel, so that sums tell which clips are in them.


def marked_clips(batch: int = 4, num_frames: int = 3, size: int = 32) -> Tensor:
    marks = 2.0 ** torch.arange(batch)
    return marks.view(-1, 1, 1, 1, 1).expand(batch, num_frames, 3, size, size).clone()


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("mixup_alpha", "cutmix_alpha"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_pixels_and_labels_are_mixed_alike(
    mode: str, smoothing: float, mixup_alpha: float, cutmix_alpha: float
) -> None:
    """The share of a clip's own mark in its pixels is the share of its own label in its target."""
    mix = ClipMixup(mixup_alpha, cutmix_alpha, label_smoothing=smoothing, num_classes=6, mode=mode)
    labels = torch.tensor([4, 0, 5, 2])
    own, other = 2.0 ** torch.arange(4), 2.0 ** torch.arange(4).flip(0)
    coefficients = []
    for key in range(12):
        with seeded(key):
            mixed, targets = mix(marked_clips(), labels)
        assert mixed.shape == (4, 3, 3, 32, 32)
        assert targets.shape == (4, 6)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
        share = (mixed.mean(dim=(1, 2, 3, 4)) - other) / (own - other)
        label_share = (targets[range(4), labels] - smoothing / 6) / (1 - smoothing)
        torch.testing.assert_close(share, label_share, atol=2e-5, rtol=0)
        partner_share = (targets[range(4), labels.flip(0)] - smoothing / 6) / (1 - smoothing)
        torch.testing.assert_close(1 - share, partner_share, atol=2e-5, rtol=0)
        coefficients.append(share)
    drawn = torch.stack(coefficients)
    assert drawn.max() - drawn.min() > 0.3
    if mode == "batch":
        torch.testing.assert_close(drawn, drawn[:, :1].expand_as(drawn), atol=2e-5, rtol=0)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_all_frames_and_channels_are_mixed_alike(mode: str) -> None:
    """Also where a clip's frames differ: what is added to a frame is the frame of the same time."""
    clips = marked_clips()
    moving = clips + 100 * torch.arange(3.0).view(3, 1, 1, 1) + 10 * torch.arange(3.0).view(3, 1, 1)
    mix = ClipMixup(0.8, 1.0, num_classes=6, mode=mode)
    for key in range(8):
        with seeded(key):
            still, _ = mix(clips.clone(), torch.arange(4))
        with seeded(key):
            mixed, _ = mix(moving.clone(), torch.arange(4))
        torch.testing.assert_close(mixed - moving, still - clips, atol=1e-3, rtol=0)
        assert torch.equal(still, still[:, :1, :1].expand_as(still))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_cutmix_cuts_one_box_out_of_all_frames(mode: str) -> None:
    mix = ClipMixup(0.0, 1.0, num_classes=6, mode=mode)
    boxes = set()
    for key in range(8):
        with seeded(key):
            mixed, targets = mix(marked_clips(), torch.arange(4))
        for clip, own, target, label in zip(mixed, 2.0 ** torch.arange(4), targets, range(4), strict=True):
            foreign = clip != own  # T C H W
            assert torch.equal(foreign, foreign[:1, :1].expand_as(foreign))
            if not foreign.any():
                continue
            rows, columns = foreign[0, 0].any(dim=1).nonzero(), foreign[0, 0].any(dim=0).nonzero()
            height, width = int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)
            assert foreign[0, 0].sum() == height * width
            assert float(target[label]) == pytest.approx(0.9 * (1 - height * width / 1024) + 0.1 / 6, abs=1e-5)
            boxes.add((int(rows.min()), int(columns.min()), height, width))
    assert len(boxes) > 4


def test_unmixed_batch_has_smoothed_labels() -> None:
    clips = marked_clips()
    mixed, targets = ClipMixup(0.8, 1.0, prob=0.0, label_smoothing=0.3, num_classes=3)(
        clips.clone(), torch.tensor([0, 1, 2, 1])
    )
    assert torch.equal(mixed, clips)
    torch.testing.assert_close(targets[0], torch.tensor([0.8, 0.1, 0.1]))


def test_switch_prob_chooses_between_mixup_and_cutmix() -> None:
    def blends(switch_prob: float) -> int:
        mix = ClipMixup(0.8, 1.0, switch_prob=switch_prob, num_classes=4)
        count = 0
        for key in range(10):
            with seeded(key):
                mixed, _ = mix(marked_clips(), torch.arange(4))
            values = set(mixed.unique().tolist())
            count += not values <= {1.0, 2.0, 4.0, 8.0}
        return count

    assert blends(0.0) == 10
    assert blends(1.0) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ClipMixup(0.0, 0.0), "expected one above 0"),
        (lambda: ClipMixup(-1.0, 1.0), "mixup_alpha is -1.0"),
        (lambda: ClipMixup(prob=2), "prob is 2"),
        (lambda: ClipMixup(mode="clip"), "mode is 'clip'"),
        (lambda: ClipMixup()(marked_clips(3), torch.arange(3)), "A batch of 3 clips cannot be mixed in pairs"),
        (lambda: ClipMixup()(marked_clips(4)[:, 0], torch.arange(4)), r"expected \(B, T, C, H, W\) and \(B,\)"),
        (lambda: ClipMixup()(marked_clips(4), torch.arange(2)), r"expected \(B, T, C, H, W\) and \(B,\)"),
    ],
)
def test_what_cannot_be_mixed_is_refused(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
