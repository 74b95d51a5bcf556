"""Tests of heads on features that are computed once."""

import json

import pytest
import torch
import torch.nn.functional as F

from inti_models import load
from inti_models.cli import main
from inti_models.data import write_video
from inti_models.data.motion_digits import MOTIONS, MotionDigits
from inti_models.inference.predict import VideoClassifier
from inti_models.training.probe import (
    Features,
    fit_linear,
    fit_prototypes,
    held_out_logits,
    logistic_regression,
    prototypes,
    score,
    split_folds,
)

NAME = "inti_vit_t8_32_motiondigits"


def blobs(n: int = 60, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, 8, generator=generator)
    return 5 + 3 * (centres[labels] + 0.7 * torch.randn(n, 8, generator=generator)), labels


def test_linear_probe_is_the_logistic_regression_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = blobs()
    x = (features - features.mean(0)) / features.std(0, unbiased=False)
    strength = 1e-2
    theirs = linear_model.LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=1000).fit(x, labels)
    ours = logistic_regression(features, labels, 3, strength)
    expected = torch.from_numpy(theirs.predict_proba(x.numpy())).float()
    torch.testing.assert_close(ours(features).softmax(dim=1), expected, atol=1e-4, rtol=1e-3)


def test_several_labels_are_regressions_of_their_own() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = blobs()
    several = torch.stack([labels == 0, labels < 2, features[:, 0] > 5], dim=1).long()
    x = (features - features.mean(0)) / features.std(0, unbiased=False)
    ours = logistic_regression(features, several, 3, 0.1)(features).sigmoid()
    for k in range(3):
        theirs = linear_model.LogisticRegression(C=1 / (0.1 * len(x)), tol=1e-8).fit(x, several[:, k])
        expected = torch.from_numpy(theirs.predict_proba(x.numpy())[:, 1]).float()
        torch.testing.assert_close(ours[:, k], expected, atol=1e-4, rtol=1e-3)


def test_prototypes_are_means_of_unit_features_and_their_logits_cosines() -> None:
    features, labels = blobs()
    head = prototypes(features, labels, 4, scale=7.0)  # the last class has no video
    units = F.normalize(features - features.mean(0), dim=1)
    for k in range(3):
        cosine = F.cosine_similarity(units, units[labels == k].mean(0, keepdim=True))
        torch.testing.assert_close(head(features)[:, k], 7 * cosine)
    assert not head(features)[:, 3].any()


@pytest.mark.parametrize("fit", [fit_linear, fit_prototypes])
def test_the_score_by_cross_validation_is_of_videos_that_were_left_out(fit) -> None:
    features, labels = blobs()
    _, accuracy = fit(features, labels, 3)
    assert accuracy > 80
    noise = torch.randn(60, 40, generator=torch.Generator().manual_seed(1))
    head, accuracy = fit(noise, labels, 3)
    assert score(head(noise), labels) > accuracy + 15  # it fits noise, and cross-validation shows it
    assert accuracy < 55


def test_folds_have_each_video_once_and_all_classes() -> None:
    labels = torch.tensor([0] * 7 + [1] * 3 + [2] * 12)[torch.randperm(22)]
    folds = split_folds(labels, 4)
    assert len(folds) == 3  # as few as the smallest class has videos
    assert sorted(torch.cat(folds).tolist()) == list(range(22))
    assert all(len(labels[fold].unique()) == 3 for fold in folds)
    said = held_out_logits(lambda f, y: lambda x: x, labels[:, None].float(), labels, folds)
    assert torch.equal(said.squeeze(1), labels.float())  # in the order of the videos
    assert split_folds(torch.tensor([0, 0, 1]), 2) == []


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four clips of each of two motions, and two more to measure on."""
    folder, digits = tmp_path_factory.mktemp("few"), MotionDigits("validation", size=32, length=8, motions=MOTIONS[:2])
    for i in range(8):
        clip, label = digits[i]
        path = folder / ("train" if i < 6 else "test") / MOTIONS[label % len(MOTIONS)] / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, clip, fps=8)
    return folder


def test_command_computes_features_once_and_saves_models_that_predict(videos, tmp_path, capsys, monkeypatch) -> None:
    calls = []
    forward = Features.forward
    monkeypatch.setattr(Features, "forward", lambda self, clips: calls.append(len(clips)) or forward(self, clips))
    command = ["probe", str(videos / "train"), "--model", NAME, "--output", str(tmp_path / "p"), "--workers", "0"]
    command += ["--validation", str(videos / "test")]
    assert main(command) == 0
    assert sum(calls) == 8
    calls.clear()
    first = capsys.readouterr().out
    assert main(command) == 0
    assert not calls and capsys.readouterr().out == first  # nothing is computed again
    report = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert report["videos"] == 6 and report["metric"] == "top1"
    for method in ("linear", "prototypes"):
        model = load(tmp_path / "p" / method)
        assert list(model.pretrained_cfg["label_names"]) == sorted(MOTIONS[:2])
        trunk = load(NAME)
        assert torch.equal(model.blocks[0].attn.qkv.weight, trunk.blocks[0].attn.qkv.weight)
        classify = VideoClassifier(model)
        paths = sorted((videos / "test").rglob("*.mp4"))
        right = [classify(path, topk=1)[0].name == path.parent.name for path in paths]
        assert 100 * sum(right) / len(right) == report[method]["validation"]


def test_a_stopped_probe_resumes_with_the_videos_that_are_left(videos, tmp_path, monkeypatch) -> None:
    forward, seen = Features.forward, []

    def command(folder):
        command = ["probe", str(videos / "train"), "--model", NAME, "--output", str(tmp_path / folder)]
        return main([*command, "--workers", "0", "--batch-size", "2"])

    def stops(self, clips):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(clips))
        return forward(self, clips)

    monkeypatch.setattr(Features, "forward", stops)
    assert command("stopped") != 0
    assert not (tmp_path / "stopped" / "linear").exists()
    monkeypatch.setattr(Features, "forward", lambda self, clips: seen.append(len(clips)) or forward(self, clips))
    assert command("stopped") == 0 and sum(seen) == 6
    assert command("whole") == 0 and sum(seen) == 12
    for method in ("linear", "prototypes"):
        ours, whole = (load(tmp_path / folder / method).state_dict() for folder in ("stopped", "whole"))
        assert all(torch.equal(tensor, whole[name]) for name, tensor in ours.items())


def test_several_labels_have_a_linear_probe_alone(videos, tmp_path, capsys) -> None:
    paths = sorted((videos / "train").rglob("*.mp4"))
    rows = [f"{path},clip|{path.parent.name}" for path in paths]
    (tmp_path / "list.csv").write_text("path,labels\n" + "\n".join(rows) + "\n")
    command = ["probe", str(tmp_path / "list.csv"), "--model", NAME, "--output", str(tmp_path / "p")]
    assert main([*command, "--multi-label", "--workers", "0", "--root", "/"]) == 0
    assert not (tmp_path / "p" / "prototypes").exists()
    assert "not measured: there are too few videos" in capsys.readouterr().out
    model = load(tmp_path / "p" / "linear")
    assert model.probabilities.multi_label
    for path in paths:
        assert {label.name for label in VideoClassifier(model)(path)} >= {"clip"}


def test_one_class_is_refused(videos, tmp_path, capsys) -> None:
    (tmp_path / "one" / "left").mkdir(parents=True)
    (tmp_path / "one" / "left" / "a.mp4").write_bytes(next((videos / "train").rglob("*.mp4")).read_bytes())
    assert main(["probe", str(tmp_path / "one"), "--model", NAME, "--output", str(tmp_path / "p")]) == 1
    assert "There is one class, 'left'" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
