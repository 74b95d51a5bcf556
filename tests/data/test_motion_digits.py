"""MotionDigits: what the clips show is measured on their pixels, without any network."""

import os
import pickle
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from inti_models.data import motion_digits
from inti_models.data.motion_digits import (
    CLASS_NAMES,
    MOTIONS,
    ORDER_FREE_MOTIONS,
    REVERSED_MOTION,
    MotionDigits,
    MotionDigitsBatch,
    class_index,
    split_labels,
)

NOISE = round(2 * 255 * 0.04) + 1  # the most that pixel noise makes two equal frames differ


def scene(data: MotionDigits, motion: str, count: int) -> dict[str, Tensor]:
    """The scenes of the first `count` clips, all made to show one motion."""
    index = np.arange(count)
    motions = np.full(count, MOTIONS.index(motion))
    return data._scene(index, motions, index % 10)


def turning(theta: Tensor) -> Tensor:
    """Angle in radians, clockwise on the screen, of sprites' upright axis: ...×2×3 -> ..."""
    return torch.atan2(-theta[..., 1, 0], theta[..., 1, 1])


def brightness(clips: Tensor) -> Tensor:
    """How much of a digit, card or blob is at each pixel: B×T×3×H×W -> B×T×H×W.

    No background is brighter than half; the weakest channel of what moves is, where it is opaque.
    """
    return (clips.amin(dim=2).float() - 255 * 0.56).clamp(min=0)


def moments(clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre x and y (in shares of the frame) and clockwise lean (radians) of what moves: B×T."""
    weight = brightness(clips)
    weight = weight / weight.sum(dim=(-2, -1), keepdim=True)
    size = clips.shape[-1]
    place = (torch.arange(size) + 0.5) / size
    x = (weight * place).sum(dim=(-2, -1))
    y = (weight * place[:, None]).sum(dim=(-2, -1))
    dx, dy = place - x[..., None, None], place[:, None] - y[..., None, None]
    xx, yy, xy = ((weight * d).sum(dim=(-2, -1)) for d in (dx * dx, dy * dy, dx * dy))
    lean = 0.5 * torch.atan2(-2 * xy, yy - xx)
    return x, y, lean


def differences(values: Tensor) -> Tensor:
    return values[:, 1:] - values[:, :-1]


# Names, labels.


def test_class_is_digit_and_motion() -> None:
    assert len(CLASS_NAMES) == 120
    assert CLASS_NAMES[class_index(7, "swing")] == "7, swing"
    motions, digits = split_labels(torch.arange(120))
    names = [f"{digit}, {MOTIONS[motion]}" for motion, digit in zip(motions, digits, strict=True)]
    assert tuple(names) == CLASS_NAMES


def test_reversing_twice_changes_nothing_and_only_order_free_motions_keep_their_name() -> None:
    assert [REVERSED_MOTION[REVERSED_MOTION[m]] for m in range(12)] == list(range(12))
    kept = [MOTIONS[m] for m in range(12) if REVERSED_MOTION[m] == m]
    assert tuple(kept) == ORDER_FREE_MOTIONS


def test_every_block_holds_each_class_once_in_random_order() -> None:
    data = MotionDigits("train", size=16, num_frames=1)
    labels = data.render(range(240)).labels
    first, second = labels[:120].tolist(), labels[120:].tolist()
    assert sorted(first) == sorted(second) == list(range(120))
    assert first != second


def test_only_the_motions_asked_for_occur_and_classes_keep_their_meaning() -> None:
    data = MotionDigits("train", size=16, num_frames=1, motions=("still", "up"))
    batch = data.render(range(20))
    expected = [class_index(d, m) for d in range(10) for m in ("still", "up")]
    assert sorted(batch.labels.tolist()) == sorted(expected)
    motions, digits = split_labels(batch.labels)
    assert torch.equal(motions, batch.motions) and torch.equal(digits, batch.digits)


# Determinism.


def test_a_clip_is_the_same_in_any_batch_and_any_instance() -> None:
    data = MotionDigits("train", size=32)
    clips = data.render([9, 2, 40, 2]).clips
    again = MotionDigits("train", size=32, length=41)
    assert torch.equal(clips[1], clips[3])
    assert torch.equal(clips[2], again.render(torch.tensor([40])).clips[0])
    assert torch.equal(clips[0], pickle.loads(pickle.dumps(data))[9][0])
    many = data.render(range(64))  # more than are drawn in one piece
    assert torch.equal(clips[2], many.clips[40])
    assert data[40][1] == many.labels[40]


def test_loader_gives_the_rendered_batch() -> None:
    data = MotionDigits("train", size=16, length=10)
    clips, labels = next(iter(DataLoader(data, batch_size=10)))
    batch = data.render(range(10))
    assert torch.equal(clips, batch.clips) and torch.equal(labels, batch.labels)
    assert clips.dtype == torch.uint8 and clips.shape == (10, 8, 3, 16, 16)


def test_other_seed_and_split_give_other_clips() -> None:
    clips = MotionDigits("train", size=16).render(range(8)).clips
    for other in (MotionDigits("train", size=16, seed=1), MotionDigits("validation", size=16)):
        assert not (other.render(range(8)).clips == clips).flatten(1).all(dim=1).any()


def test_published_clips_do_not_change_unnoticed() -> None:
    """Reported accuracies are of these clips: whoever changes them has to measure again."""
    batch = MotionDigits("validation").render(range(4))
    assert batch.labels.tolist() == [34, 36, 41, 115]
    means = batch.clips.float().mean(dim=(1, 2, 3, 4))
    assert means.tolist() == pytest.approx([83.436, 81.937, 79.003, 78.815], abs=0.05)


def test_splits_share_no_scan_and_hold_a_fifth_of_each_digit() -> None:
    _, digits = motion_digits._scans()
    used = {
        split: set(
            MotionDigits(split, num_frames=1)
            ._scene(np.arange(9000), np.zeros(9000, dtype=int), np.arange(9000) % 10)["scan"]
            .tolist()
        )
        for split in ("train", "validation")
    }
    assert not used["train"] & used["validation"]
    for digit in range(10):
        of_digit = set(np.flatnonzero(digits == digit).tolist())
        share = len(used["validation"] & of_digit) / len(of_digit)
        assert share == pytest.approx(0.2, abs=0.01)
    assert len(used["train"] | used["validation"]) > 0.98 * len(digits)


def test_scans_are_of_their_digit() -> None:
    data = MotionDigits("train", num_frames=1)
    digits = np.arange(300) % 10
    scans = data._scene(np.arange(300), np.zeros(300, dtype=int), digits)["scan"]
    assert (motion_digits._scans()[1][scans] == digits).all()


# Motion, measured on pixels, with clear digits and with hidden or blurred ones.


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["clear", "occluded"])
def rendered(request: pytest.FixtureRequest) -> MotionDigitsBatch:
    return MotionDigits("train", size=48, occlusion=request.param).render(range(240))


def of_motion(batch: MotionDigitsBatch, motion: str) -> tuple[Tensor, Tensor]:
    """Clips of one motion, and where neighbouring frames both show, or both cover, the digit."""
    chosen = batch.motions == MOTIONS.index(motion)
    clear = batch.clear[chosen]
    return batch.clips[chosen], clear[:, 1:] == clear[:, :-1]


@pytest.mark.parametrize(("motion", "sign"), [("left", -1), ("right", 1)])
def test_left_and_right(rendered: MotionDigitsBatch, motion: str, sign: int) -> None:
    clips, alike = of_motion(rendered, motion)
    x, y, _ = moments(clips)
    assert (sign * differences(x)[alike] > 0.03).all()
    assert (differences(y)[alike].abs() < 0.02).all()


@pytest.mark.parametrize(("motion", "sign"), [("up", -1), ("down", 1)])
def test_up_and_down(rendered: MotionDigitsBatch, motion: str, sign: int) -> None:
    clips, alike = of_motion(rendered, motion)
    x, y, _ = moments(clips)
    assert (sign * differences(y)[alike] > 0.03).all()
    assert (differences(x)[alike].abs() < 0.02).all()


@pytest.mark.parametrize(("motion", "sign"), [("grow", 1), ("shrink", -1)])
def test_grow_and_shrink(rendered: MotionDigitsBatch, motion: str, sign: int) -> None:
    # In occluded clips a frame shows a card, a blob or a digit, which spread differently.
    area = (brightness(of_motion(rendered, motion)[0]) > 0).float().mean(dim=(-2, -1))
    halves = area[:, 4:].mean(dim=1) / area[:, :4].mean(dim=1)
    assert (halves**sign > 1.25).all()


@pytest.mark.parametrize(("motion", "sign"), [("fade in", 1), ("fade out", -1)])
def test_fade_in_and_out(rendered: MotionDigitsBatch, motion: str, sign: int) -> None:
    clips = of_motion(rendered, motion)[0].float()
    halves = (clips[:, 4:].mean(dim=1) - clips[:, :4].mean(dim=1)).mean(dim=(1, 2, 3))
    assert (sign * halves > 1.5).all()


@pytest.mark.parametrize(("motion", "sign"), [("clockwise", 1), ("anticlockwise", -1)])
def test_rotation_by_the_pose_drawn(motion: str, sign: int) -> None:
    angles = turning(scene(MotionDigits("train"), motion, 200)["theta"])
    degrees = torch.rad2deg(differences(angles)) * sign
    assert (degrees > 12).all() and (degrees < 20).all()
    assert angles.abs().max() < np.radians(75)


@pytest.mark.parametrize(("motion", "sign"), [("clockwise", 1), ("anticlockwise", -1)])
def test_rotation_turns_the_long_axis(motion: str, sign: int) -> None:
    """Ones and noughts are longer than wide, as blobs are, so that their lean can be measured."""
    for occlusion in (0.0, 1.0):
        data = MotionDigits("train", size=48, motions=(motion,), occlusion=occlusion)
        batch = data.render(range(100))
        long = (batch.digits == 1) | (batch.digits == 0)
        if occlusion:
            long &= ~covered_by_card(data, 100)
        lean = moments(batch.clips[long])[2]
        assert len(lean) > 4
        assert (sign * (lean[:, -1] - lean[:, 0]) > np.radians(60)).all()


def covered_by_card(data: MotionDigits, count: int) -> Tensor:
    motions, digits = data._classes(np.arange(count))
    return data._scene(np.arange(count), motions, digits)["cover"] == 0


@pytest.mark.parametrize("motion", ["clockwise", "swing"])
def test_turning_keeps_the_area(motion: str) -> None:
    area = 1 / torch.linalg.det(scene(MotionDigits("train"), motion, 50)["theta"][..., :2])
    torch.testing.assert_close(area, area[:, :1].expand(-1, 8))
    assert area.sqrt().min() > 0.42 * 1.3 - 1e-3 and area.sqrt().max() < 0.54 * 1.3 + 1e-3


def test_swing_turns_both_ways_and_far() -> None:
    angles = turning(scene(MotionDigits("train"), "swing", 500)["theta"])
    steps = torch.rad2deg(differences(angles))
    assert (steps.amax(dim=1) > 12).all() and (steps.amin(dim=1) < -12).all()
    assert (torch.rad2deg(angles.amax(dim=1) - angles.amin(dim=1)) > 60).all()


def test_still_does_not_move() -> None:
    clips = MotionDigits("train", motions=("still",), occlusion=0).render(range(30)).clips.int()
    assert (clips - clips[:, :1]).abs().max() <= NOISE
    assert (clips - clips[:, :1]).abs().max() > 0  # yet no frame is a mere copy


# Time.


@pytest.mark.parametrize("motion", ["right", "down", "anticlockwise", "shrink", "fade out"])
def test_second_of_a_pair_is_the_first_backwards(motion: str) -> None:
    """Pose, opacity and occlusion reversed; all else as it was (noise is drawn for each frame)."""
    data = MotionDigits("train", occlusion=0.5)
    forwards = scene(data, MOTIONS[REVERSED_MOTION[MOTIONS.index(motion)]], 64)
    backwards = scene(data, motion, 64)
    for name in ("theta", "opacity", "clear"):
        torch.testing.assert_close(backwards[name], forwards[name].flip(1))
    for name in forwards.keys() - {"theta", "opacity", "clear"}:
        assert torch.equal(backwards[name], forwards[name])
    moved = any(not torch.equal(forwards[name], forwards[name].flip(1)) for name in ("theta", "opacity"))
    assert moved


@pytest.mark.parametrize("motion", ORDER_FREE_MOTIONS)
def test_order_free_motions_are_distributed_as_their_reverse(motion: str) -> None:
    drawn = scene(MotionDigits("train", occlusion=1.0), motion, 4000)
    steps = differences(turning(drawn["theta"]))
    # Between any two frames as many turn one way as the other, alike at the start and the end.
    assert steps.mean(dim=0).abs().max() < 0.02
    early, late = steps[:, 0].sort().values, -steps[:, -1].sort().values.flip(0)
    assert (early - late).abs().max() < 0.05
    shown = drawn["clear"].float().mean(dim=0)
    assert (shown - shown.flip(0)).abs().max() < 0.03


@pytest.mark.parametrize("motion", MOTIONS)
def test_other_lengths_sample_the_same_motion(motion: str) -> None:
    few = MotionDigits("train", num_frames=2, occlusion=0, motions=(motion,)).render([0, 11])
    many = MotionDigits("train", num_frames=6, occlusion=0, motions=(motion,)).render([0, 11])
    assert torch.equal(few.labels, many.labels)
    same = (few.clips.int() - many.clips[:, [1, 4]].int()).abs()
    assert same.max() <= NOISE
    if motion != "still":
        assert (few.clips.int() - many.clips[:, [0, 5]].int()).abs().max() > NOISE


def test_clear_moment_is_the_same_at_any_length() -> None:
    short = MotionDigits("train", size=16, num_frames=8, occlusion=1).render(range(60)).clear
    long = MotionDigits("train", size=16, num_frames=32, occlusion=1).render(range(60)).clear
    centre = [(c * (torch.arange(c.shape[1]) + 0.5)).sum(1) / c.sum(1) / c.shape[1] for c in (short, long)]
    assert (centre[0] - centre[1]).abs().max() < 1 / 8
    assert centre[0].std() > 0.1


# Hidden and blurred digits.


def test_clear_marks_exactly_the_frames_that_occlusion_leaves_alone() -> None:
    hidden = MotionDigits("train", size=32, occlusion=1.0).render(range(60))
    shown = MotionDigits("train", size=32, occlusion=0.0).render(range(60))
    assert shown.clear.all()
    equal = (hidden.clips == shown.clips).flatten(2).all(dim=2)
    assert torch.equal(equal, hidden.clear)
    change = (hidden.clips.float() - shown.clips.float()).abs().flatten(2).amax(dim=2)
    assert change[~hidden.clear].min() > 12


def test_nothing_of_the_digit_is_in_hidden_or_blurred_frames() -> None:
    data = MotionDigits("train", size=32, occlusion=1.0)
    index, motions = np.arange(24), np.arange(24) % 12
    one = data._scene(index, motions, np.full(24, 1))
    eight = data._scene(index, motions, np.full(24, 8))
    clips = [motion_digits._draw(s, 32) for s in (one, eight)]
    equal = (clips[0] == clips[1]).flatten(2).all(dim=2)
    assert torch.equal(equal, ~one["clear"])


@pytest.mark.parametrize(("num_frames", "clear"), [(2, 1), (4, 1), (8, 2), (16, 4), (32, 8)])
def test_a_quarter_of_the_frames_stays_clear(num_frames: int, clear: int) -> None:
    data = MotionDigits("train", size=16, num_frames=num_frames, occlusion=1.0)
    assert (data.render(range(24)).clear.sum(dim=1) == clear).all()


def test_occlusion_is_the_share_of_clips() -> None:
    clear = scene(MotionDigits("train", occlusion=0.3), "still", 6000)["clear"]
    assert (~clear).any(dim=1).float().mean() == pytest.approx(0.3, abs=0.03)


def test_cards_and_blobs_both_occur() -> None:
    card = covered_by_card(MotionDigits("train"), 2000)
    assert card.float().mean() == pytest.approx(0.5, abs=0.05)


def test_clear_frames_of_fading_and_growing_digits_can_be_read() -> None:
    data = MotionDigits("train", occlusion=1.0)
    for motion in ("fade in", "fade out"):
        drawn = scene(data, motion, 500)
        assert drawn["opacity"][drawn["clear"]].min() > 0.4
    for motion in ("grow", "shrink"):
        drawn = scene(data, motion, 500)
        shrinking = torch.linalg.det(drawn["theta"][..., :2]).sqrt()[drawn["clear"]]
        assert (1 / shrinking).min() > 0.38  # half the frame's side is 1


# Sizes and single pictures.


def test_size_changes_only_the_resolution() -> None:
    small = MotionDigits("train", size=32).render(range(24)).clips.float()
    large = MotionDigits("train", size=64).render(range(24)).clips.float()
    halved = F.avg_pool2d(large.flatten(0, 1), 2).unflatten(0, large.shape[:2])
    error = (small - halved).abs().mean(dim=(1, 2, 3, 4))
    other = (small - halved.roll(1, 0)).abs().mean(dim=(1, 2, 3, 4))
    assert error.max() < 8 and error.max() < other.min() / 2


def test_odd_sizes_and_lengths_render() -> None:
    batch = MotionDigits("train", size=17, num_frames=3, length=5).render(range(5))
    assert batch.clips.shape == (5, 3, 3, 17, 17) and batch.clear.shape == (5, 3)
    assert MotionDigits("train", size=16).render([]).clips.shape == (0, 8, 3, 16, 16)


def test_one_frame_is_a_clear_still_picture() -> None:
    data = MotionDigits("train", num_frames=1, occlusion=1.0)
    batch = data.render(range(120))
    assert batch.clips.shape == (120, 1, 3, 64, 64) and batch.clear.all()
    assert torch.equal(batch.clips, MotionDigits("train", num_frames=1, occlusion=0.0).render(range(120)).clips)
    drawn = scene(data, "fade in", 200)
    assert drawn["opacity"].min() >= 0.5 and drawn["opacity"].std() > 0.1
    angles = turning(scene(data, "clockwise", 200)["theta"])
    assert angles.max() > 0.8 and angles.min() < -0.8


def test_held_out_pictures_can_be_read_by_comparing_with_training_scans() -> None:
    opaque = tuple(name for name in MOTIONS if not name.startswith("fade"))
    data = MotionDigits("validation", num_frames=1, motions=opaque)
    index = np.arange(600)
    motions, digits = data._classes(index)
    theta = data._scene(index, motions, digits)["theta"][:, 0]
    upright = F.affine_grid(inverse(theta), [600, 1, 26, 26], align_corners=False)
    seen = F.grid_sample(brightness(data.render(index).clips), upright, align_corners=False)
    seen = F.normalize(seen.flatten(1), dim=1)

    scans = np.concatenate(motion_digits._split_scans("train"))
    sharp, _ = motion_digits._sprites(torch.device("cpu"))
    known = F.normalize(sharp[scans].flatten(1), dim=1)
    nearest = (seen @ known.T).argmax(dim=1)
    right = motion_digits._scans()[1][scans[nearest]] == digits
    assert right.mean() > 0.9


def inverse(theta: Tensor) -> Tensor:
    linear = torch.linalg.inv(theta[..., :2])
    return torch.cat([linear, -linear @ theta[..., 2:]], dim=-1)


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"split": "test"}, "split is 'test': pass 'train' or 'validation'"),
        ({"size": 8}, "size is 8, too small.*at least 16"),
        ({"num_frames": 0}, "num_frames is 0: pass 1"),
        ({"length": 0}, "length is 0: pass"),
        ({"motions": ("left", "jump")}, "motion is 'jump', but it must be one of: left, right"),
        ({"motions": ()}, r"motions is \(\): pass"),
        ({"motions": "left"}, "motions is 'left': pass a sequence"),
        ({"motions": ("left", "left")}, "motions is .*different names"),
        ({"occlusion": 1.5}, "occlusion is 1.5.*from 0 to 1"),
        ({"occlusion": float("nan")}, "occlusion is nan.*from 0 to 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        MotionDigits(**{"split": "train"} | arguments)


def test_class_index_names_its_mistakes() -> None:
    with pytest.raises(ValueError, match="digit is 10.*0 to 9"):
        class_index(10, "left")
    with pytest.raises(ValueError, match="motion is 'jump'"):
        class_index(1, "jump")


@pytest.mark.parametrize("index", [-1, 3])
def test_index_out_of_range_is_named(index: int) -> None:
    data = MotionDigits("train", size=16, length=3)
    with pytest.raises(IndexError, match=f"index {index} is out of range.*3 clips.*0 to 2"):
        data[index]


def test_iteration_ends() -> None:
    assert len(list(MotionDigits("train", size=16, num_frames=1, length=3))) == 3


def test_missing_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    motion_digits._scans.cache_clear()
    with pytest.raises(ImportError, match=r"sklearn.*inti_models\[motiondigits\]"):
        MotionDigits("train")


# Export.


def read(path: Path) -> Tensor:
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def test_exported_files_show_the_clips_and_are_listed(tmp_path: Path) -> None:
    data = MotionDigits("validation", length=5)
    list_file = data.export(tmp_path)
    lines = [line.rsplit(" ", 1) for line in list_file.read_text().splitlines()]
    batch = data.render(range(5))
    assert [int(label) for _, label in lines] == batch.labels.tolist()
    for (name, _), clip in zip(lines, batch.clips, strict=True):
        frames = read(tmp_path / name)
        assert frames.shape == clip.shape
        error = (frames.float() - clip.float()).abs().mean(dim=(1, 2, 3))
        assert error.max() < 16
    assert (tmp_path / "class_names.txt").read_text().splitlines() == list(CLASS_NAMES)


def test_repeated_export_keeps_finished_files(tmp_path: Path) -> None:
    data = MotionDigits("train", size=32, length=3)
    data.export(tmp_path)
    files = sorted((tmp_path / "train").iterdir())
    assert len(files) == 3
    for file in files:
        os.utime(file, (1, 1))
    files[1].unlink()
    data.export(tmp_path)
    assert sorted((tmp_path / "train").iterdir()) == files
    assert [file.stat().st_mtime == 1 for file in files] == [True, False, True]


def test_export_does_not_mix_settings(tmp_path: Path) -> None:
    MotionDigits("train", size=32, length=1).export(tmp_path)
    MotionDigits("validation", size=32, length=1).export(tmp_path)
    with pytest.raises(ValueError, match="train.json says.*other settings: pass another directory"):
        MotionDigits("train", size=32, length=1, seed=1).export(tmp_path)


def test_export_names_its_mistakes(tmp_path: Path) -> None:
    data = MotionDigits("train", size=32, length=1)
    with pytest.raises(ValueError, match="fps is 0: pass"):
        data.export(tmp_path, fps=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot make the folder .*file.*can be written"):
        data.export(tmp_path / "file")
