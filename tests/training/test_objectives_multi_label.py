"""Tests of training on videos with several labels: the losses, mixing, and a run from files."""

import csv
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import nn

from inti_models import load
from inti_models.cli import main
from inti_models.data import ClipMixup, seeded, write_video
from inti_models.data.motion_digits import MOTIONS, MotionDigits
from inti_models.models.probabilities import Probabilities
from inti_models.training.objectives import MultiLabel
from inti_models.training.recipe import Augmentation, Data, load_recipe
from inti_models.training.run import train
from support.runs import assert_equal, metrics, optimization, tiny_recipe, weights

CLIPS = torch.linspace(-2, 2, 4 * 2 * 3 * 4 * 4).reshape(4, 2, 3, 4, 4)
LABELS = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])


class Logits(nn.Module):
    def forward(self, clips):
        return clips[:, 0, :, 0, 0]


def test_loss_is_binary_cross_entropy_of_smoothed_labels() -> None:
    logits = Logits()(CLIPS)
    plain = MultiLabel(Augmentation(), 3).loss(Logits(), CLIPS, LABELS)
    torch.testing.assert_close(plain, F.binary_cross_entropy_with_logits(logits, LABELS))
    smooth = MultiLabel(Augmentation(smoothing=0.2), 3).loss(Logits(), CLIPS, LABELS)
    torch.testing.assert_close(smooth, F.binary_cross_entropy_with_logits(logits, LABELS.clamp(0.1, 0.9)))
    asymmetric = MultiLabel(Augmentation(), 3, asymmetric=True).loss(Logits(), CLIPS, LABELS)
    torch.testing.assert_close(asymmetric, AsymmetricLossMultiLabel()(logits, LABELS) / 12)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_clips_with_several_labels_are_mixed_as_those_with_one_are(mode) -> None:
    """One label each, given as (B,) and as (B, classes): the same clips and targets."""
    single = torch.tensor([2, 0, 1, 2])
    mix = ClipMixup(0.8, 1.0, num_classes=3, label_smoothing=0.0, mode=mode)
    with seeded(3):
        clips, targets = mix(CLIPS.clone(), single)
    with seeded(3):
        same_clips, same = mix(CLIPS.clone(), F.one_hot(single, 3).float())
    torch.testing.assert_close(same_clips, clips)
    torch.testing.assert_close(same, targets)
    assert ((targets > 0) & (targets < 1)).any()
    with seeded(3):
        _, several = mix(CLIPS.clone(), LABELS)
    with seeded(3):
        _, weights_of = ClipMixup(0.8, 1.0, num_classes=4, label_smoothing=0.0, mode=mode)(
            CLIPS.clone(), torch.arange(4)
        )
    torch.testing.assert_close(several, weights_of @ LABELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """16 clips and a list that gives each its digit and its motion."""
    folder = tmp_path_factory.mktemp("digits")
    digits = MotionDigits("train", size=32, length=16, num_frames=4)
    with (folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "labels"])
        for i in range(16):
            clip, label = digits[i]
            write_video(folder / f"{i}.mp4", clip, fps=8)
            rows.writerow([f"{i}.mp4", f"{label // len(MOTIONS)}|{MOTIONS[label % len(MOTIONS)]}"])
    (folder / "class_names.txt").write_text("\n".join([*MOTIONS, *map(str, range(10))]))
    return folder


def recipe_of(folder, **changes):
    path = str(folder / "list.csv")
    data = Data(train=path, validation=path, num_workers=0, multi_label=True)
    return tiny_recipe(**{"data": data, "optimization": optimization(epochs=2, batch_size=8), **changes})


def test_a_run_from_files_measures_saves_resumes_calibrates_and_predicts(folder, tmp_path, monkeypatch, capsys) -> None:
    recipe = recipe_of(folder, augmentation=Augmentation(mixup=0.5))
    evaluation = train(recipe, tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert {"macro_ap", "micro_ap", "macro_f1", "micro_f1", "exact_match", "validation_loss"} <= rows[-1].keys()
    assert "top1" not in rows[-1]
    model = load(tmp_path / "run" / "best")
    assert model.probabilities == Probabilities(multi_label=True)
    assert model.pretrained_cfg["label_names"] == [*MOTIONS, *map(str, range(10))]

    from inti_models.training.trainer import Trainer

    save, saved = Trainer._save, []

    def stop_after_the_first(self):
        save(self)
        saved.append(self)
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(recipe), tmp_path / "again")
    resumed = train(dataclasses.replace(recipe), tmp_path / "again")
    assert_equal(weights(tmp_path / "again"), weights(tmp_path / "run"))
    assert resumed.macro_ap == evaluation.macro_ap

    model = str(tmp_path / "run" / "last")
    capsys.readouterr()
    assert main(["validate", str(folder / "list.csv"), "--model", model, "--workers", "0", "--calibrate"]) == 0
    printed = capsys.readouterr().out
    assert f"mAP         {evaluation.macro_ap:.2f}%" in printed and "temperature" in printed
    calibrated = load(model).probabilities
    assert calibrated.multi_label and calibrated.temperature != 1 and len(calibrated.thresholds) == 22
    assert main(["predict", str(folder / "0.mp4"), "--model", model, "--threshold", "0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 22
    assert main(["predict", str(folder / "0.mp4"), "--model", model, "--threshold", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  none of these"]


def test_asymmetric_loss_trains(folder, tmp_path) -> None:
    recipe = recipe_of(folder, loss="asymmetric", optimization=optimization(epochs=1, batch_size=8))
    assert train(recipe, tmp_path / "run").macro_ap > 0


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["loss=asymmetric"], "data.multi_label=true"),
        (["loss=asymmetric", "data.multi_label=true", "augmentation.mixup=0.5"], "mixup"),
        (["data.multi_label=true", "factors=[10,12]"], "factors"),
        (["loss=focal"], "loss='focal'"),
    ],
)
def test_what_does_not_fit_is_refused(overrides, named) -> None:
    with pytest.raises(ValueError, match=named):
        load_recipe("motiondigits", overrides)
