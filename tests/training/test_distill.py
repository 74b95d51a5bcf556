"""Compression learned without labels: the trainer's loop, with a teacher that sees the same pixels."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributions import Bernoulli, kl_divergence
from torch.nn import functional as F

import inti_models
from inti_models.data import write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from inti_models.evaluation.fidelity import PLAIN_MEAN, TEACHER, Fidelity, Readout
from inti_models.models.registry import create_model
from inti_models.training import trainer
from inti_models.training.distill import DISTILLED, Distillation, build_pair, describe, distill, open_unlabelled
from inti_models.training.recipe import Data, Distill, Recipe, as_yaml, load_recipe, recipe_of_run
from inti_models.training.run import claim, train, training_set
from support.models import randomize_model_
from support.processes import forked, killing, launched
from support.runs import assert_equal, metrics, optimization, tiny_recipe, weights


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A saved model of two blocks without compression, whose frames differ in what they say."""
    torch.manual_seed(0)
    args = {"depth": 2, "embed_dim": 16, "num_heads": 1, "num_frames": 4}
    model = randomize_model_(create_model("inti_vit_t8_32_motiondigits", compress_at=(), **args))
    folder = tmp_path_factory.mktemp("teacher") / "model"
    inti_models.save_pretrained(model, folder, label_names=CLASS_NAMES)
    return folder


def recipe_of(teacher: Path, **changes) -> Recipe:
    """Two epochs of four updates."""
    recipe = tiny_recipe(
        model=str(teacher),
        pretrained=True,
        model_args={"compress_at": [1]},
        trainable="interpolation",
        distill=Distill(),
        optimization=optimization(lr=1e-2),
    )
    recipe.augmentation.scale, recipe.augmentation.reprob = (0.5, 1.0), 0.3
    return dataclasses.replace(recipe, **changes)


@pytest.fixture(scope="module")
def undisturbed(teacher, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("distilled") / "run"
    distill(recipe_of(teacher), output)
    return output


def test_only_interpolations_differ_from_the_start(teacher, undisturbed):
    before, after = load_file(teacher / "model.safetensors"), weights(undisturbed)
    added = {name for name in after if name.startswith("interpolations.")}
    assert after.keys() - before.keys() == added and before.keys() <= after.keys()
    assert_equal(before, {name: after[name] for name in before})
    assert after["interpolations.1.0.predict.logit.weight"].any()


def test_student_follows_its_teacher_better_than_what_needs_no_training(undisturbed):
    report = json.loads((undisturbed / "fidelity" / "fidelity.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert rows[DISTILLED]["kl"] < rows[PLAIN_MEAN]["kl"]
    assert rows[TEACHER]["agreement"] == 100 and rows[TEACHER]["cosine"] == pytest.approx(1, abs=1e-5)
    assert rows[TEACHER]["gflops"] > rows[DISTILLED]["gflops"]
    assert metrics(undisturbed)[-1]["kl"] == pytest.approx(rows[DISTILLED]["kl"], rel=1e-5)
    assert report["clips"] == 2 * 64 and report["compress_at"] == [1]


def test_card_says_teacher_data_clips_fidelity_and_what_the_student_cannot_see(teacher, undisturbed):
    card = (undisturbed / "last" / "README.md").read_text()
    rows = json.loads((undisturbed / "fidelity" / "fidelity.json").read_text())["rows"]
    for said in (str(teacher), "128 clips", "motiondigits", "24 held-out", "order of frames"):
        assert said in card, said
    for row in rows:
        assert f"{row['name']}: agreement %: {round(row['agreement'], 2)}" in card


def test_saved_student_is_a_model_like_any_other(teacher, undisturbed):
    model, naive = inti_models.load(undisturbed / "last"), inti_models.load(teacher)
    assert model.compress_at == (1,) and tuple(model.pretrained_cfg["label_names"]) == CLASS_NAMES
    still = torch.randn(1, 1, 3, 32, 32).expand(2, 4, 3, 32, 32)
    torch.testing.assert_close(model.eval()(still), naive.eval()(still))  # of equal frames, any mean is the same


KILLED_AT = {"between two states": (trainer, "seed_process", 6), "while one is written": (os, "replace", 3)}


@pytest.mark.parametrize("where", KILLED_AT.values(), ids=KILLED_AT)
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(teacher, undisturbed, tmp_path, where):
    def killed() -> None:
        with killing(*where):
            distill(recipe_of(teacher), tmp_path / "run")

    assert forked(killed) == -signal.SIGKILL
    distill(recipe_of(teacher), tmp_path / "run")
    assert_equal(weights(tmp_path / "run"), weights(undisturbed))
    assert metrics(tmp_path / "run") == metrics(undisturbed)


def test_two_processes_do_what_one_does_with_twice_the_batch(teacher, undisturbed, tmp_path):
    recipe = recipe_of(teacher, optimization=optimization(lr=1e-2, batch_size=8))
    assert launched(lambda: distill(recipe, tmp_path / "two"), 2) == [0, 0]
    one, two = weights(undisturbed), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=0, msg=name)


def test_all_but_the_head_can_be_trained(teacher, tmp_path):
    distill(recipe_of(teacher, trainable="all", optimization=optimization(epochs=1)), tmp_path / "run")
    before, after = load_file(teacher / "model.safetensors"), weights(tmp_path / "run")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if not name.startswith("head.")}


# The objective


def pair(teacher, **changes):
    recipe = recipe_of(teacher, **changes)
    naive, student = build_pair(recipe)
    readout = Readout.take(naive)
    Readout.take(student)
    return recipe, naive, student, readout


def test_teacher_and_student_see_the_same_pixels(teacher):
    recipe, naive, student, readout = pair(teacher)
    seen = []

    class Seen(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, clips):
            seen.append(clips)
            return self.model(clips)

    clips = torch.stack([training_set(recipe, student, open_unlabelled(recipe, ())[0])[i, 0][0] for i in range(4)])
    Distillation(Seen(naive), readout, Distill()).loss(Seen(student), clips, None).backward()
    assert torch.equal(seen[0], seen[1])
    assert {name for name, p in student.named_parameters() if p.grad is not None} == {
        name for name, _ in student.named_parameters() if name.startswith("interpolations.")
    }


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_loss_is_the_divergence_of_softened_logits_and_the_cosine(teacher, temperature):
    _, naive, _, readout = pair(teacher)
    features, wanted = torch.randn(5, 16), torch.randn(5, 16)
    p, q = ((readout.head(x) / temperature).softmax(dim=1) for x in (wanted, features))
    kl = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
    cosine = 1 - F.cosine_similarity(features, wanted).mean()
    for targets, expected in (("logits", kl), ("embedding", cosine), ("both", kl + cosine)):
        loss = Distillation(naive, readout, Distill(targets, temperature)).distance(features, wanted)
        torch.testing.assert_close(loss, expected)


def test_of_classes_by_themselves_the_divergence_is_that_of_each_sigmoid(teacher):
    _, naive, _, readout = pair(teacher, model_args={"compress_at": [1], "multi_label": True})
    features, wanted = torch.randn(5, 16), torch.randn(5, 16)
    p, q = ((readout.head(x) / 2).sigmoid() for x in (wanted, features))
    kl = 4 * kl_divergence(Bernoulli(p), Bernoulli(q)).sum(dim=1).mean()
    loss = Distillation(naive, readout, Distill("logits", 2.0)).distance(features, wanted)
    torch.testing.assert_close(loss, kl)
    assert Fidelity.of(readout, wanted, wanted).kl == pytest.approx(0, abs=1e-6)


def test_low_precision_of_the_trunk_is_not_that_of_the_logits(teacher):
    _, naive, _, readout = pair(teacher)
    features, wanted = torch.randn(5, 16), torch.randn(5, 16)
    objective = Distillation(naive, readout, Distill("both"))
    expected = objective.distance(features, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective.distance(features, wanted), expected)


def test_frozen_statistics_stay_as_they_are(tmp_path):
    args = {"depth": 2, "embed_dim": 16, "num_heads": 1, "num_frames": 4}
    args |= {"temporal": "uniformerv2", "temporal_args": {"local_reduction": 2, "num_global": 1}}
    model = randomize_model_(create_model("inti_vit_t8_32_motiondigits", compress_at=(), **args))
    inti_models.save_pretrained(model, tmp_path / "model", label_names=CLASS_NAMES)
    changes = optimization(epochs=1, lr=1e-2, weight_decay=0.5, ema=0.5)
    distill(recipe_of(tmp_path / "model", optimization=changes), tmp_path / "run")
    before, after = load_file(tmp_path / "model" / "model.safetensors"), weights(tmp_path / "run")
    assert any("running_mean" in name for name in before)
    assert_equal(before, {name: after[name] for name in before})
    assert any(after[name].any() for name in after.keys() - before.keys() if ".logit." in name)


def test_equal_frames_leave_nothing_to_learn(teacher):
    _, naive, student, readout = pair(teacher)
    still = torch.randn(3, 1, 3, 32, 32).expand(3, 4, 3, 32, 32)
    assert Distillation(naive, readout, Distill("both")).loss(student, still, None) < 1e-5


def test_a_model_without_classes_follows_the_embedding(teacher, tmp_path):
    recipe = recipe_of(teacher, model_args={"compress_at": [1], "num_classes": 0}, distill=Distill("embedding"))
    report = distill(recipe, tmp_path / "run")
    fidelity = report.rows[DISTILLED][1]
    assert fidelity.agreement is None and fidelity.cosine > report.rows[PLAIN_MEAN][1].cosine
    with pytest.raises(ValueError, match="has no classes, and so no logits to follow"):
        distill(dataclasses.replace(recipe, distill=Distill("logits")), tmp_path / "other")


# Videos of one's own


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twenty videos in one folder."""
    folder = tmp_path_factory.mktemp("videos")
    digits = MotionDigits("train", length=20, num_frames=4)
    for i in range(20):
        write_video(folder / f"{i:02d}.mp4", digits[i][0], fps=8)
    return folder


def test_a_plain_folder_of_videos_is_enough(teacher, folder, tmp_path):
    recipe = recipe_of(teacher, optimization=optimization(epochs=1, batch_size=8), distill=Distill(held_out=0.2))
    recipe.data = dataclasses.replace(recipe.data, train=str(folder), validation=None, train_args={})
    report = distill(recipe, tmp_path / "run")
    assert report.rows[DISTILLED][1].videos == 4 and report.rows[DISTILLED][1].accuracy is None
    train_source, held_out = open_unlabelled(recipe, CLASS_NAMES)
    assert len(train_source.videos) == 16 and not {*train_source.videos.paths} & {*held_out.videos.paths}
    assert open_unlabelled(recipe, CLASS_NAMES)[1].videos == held_out.videos  # the same ones again


def test_labels_serve_to_measure_where_they_are_the_models_classes(teacher, tmp_path):
    digits = MotionDigits("train", length=12, num_frames=4)
    for i in range(12):
        clip, label = digits[i]
        (tmp_path / CLASS_NAMES[label]).mkdir(exist_ok=True)
        write_video(tmp_path / CLASS_NAMES[label] / f"{i}.mp4", clip, fps=8)
    recipe = recipe_of(teacher)
    recipe.data = dataclasses.replace(recipe.data, train=str(tmp_path), validation=None, train_args={})
    source = open_unlabelled(recipe, CLASS_NAMES)[1]
    assert source.class_names == CLASS_NAMES
    assert CLASS_NAMES[source.videos.labels[0]] == Path(source.videos.paths[0]).parent.name
    assert open_unlabelled(recipe, ("other", "classes"))[1].class_names == ()


def test_what_is_measured_on_must_not_be_learned_from(teacher, folder, tmp_path):
    recipe = recipe_of(teacher)
    (tmp_path / "again").symlink_to(folder)
    recipe.data = dataclasses.replace(recipe.data, train=str(folder), validation=str(tmp_path / "again"), train_args={})
    recipe.data.validation_args = {}
    with pytest.raises(ValueError, match="20 of the 20 videos of data.validation are in data.train too"):
        open_unlabelled(recipe, ())


def test_the_working_folder_has_a_name_in_the_card(teacher, folder, monkeypatch):
    monkeypatch.chdir(folder)
    recipe = recipe_of(teacher)
    recipe.data.train = "."
    assert f"8 clips of {folder.name};" in describe(recipe, build_pair(recipe)[0], 8)


# What cannot be


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_args": {}}, "compresses nothing; say after which blocks"),
        ({"distill": None}, "does not say what to learn from the teacher"),
        ({"model_args": {"compress_at": [1], "num_classes": 7}}, "no weights for its head of 7 classes"),
        ({"model_args": {"compress_at": [1], "weighting": "uniform"}}, "have nothing to learn"),
    ],
)
def test_what_cannot_be_distilled_is_refused(teacher, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        distill(recipe_of(teacher, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_videos_that_are_not_there_are_missed_before_the_model_is_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file or folder none"):
        distill(recipe_of("no model either", data=Data(train="none")), tmp_path / "run")


def test_probability_of_a_single_class_is_nothing_to_follow(tmp_path):
    args = {"depth": 2, "embed_dim": 16, "num_heads": 1, "num_frames": 4, "num_classes": 1, "compress_at": [1]}
    for name, multi_label in (("softmax", False), ("sigmoid", True)):
        model = create_model("inti_vit_t8_32_motiondigits", **args, multi_label=multi_label)
        inti_models.save_pretrained(model, tmp_path / name)
    with pytest.raises(ValueError, match="One class alone has a probability of 1"):
        build_pair(recipe_of(tmp_path / "softmax"))
    build_pair(recipe_of(tmp_path / "sigmoid"))


@pytest.mark.parametrize(
    "override",
    [
        *(f"distill.temperature={t}" for t in (0, -1, ".nan", ".inf")),
        *(f"distill.held_out={fraction}" for fraction in (0, 1, ".nan")),
        *("trainable=head", "pretrained=false", "head=new", "augmentation.mixup=0.2", "augmentation.smoothing=0.1"),
        *("data.multi_label=true", "views=[4,3]", "distill.targets=features"),
    ],
)
def test_a_recipe_that_makes_no_sense_without_labels_is_refused(override):
    with pytest.raises(ValueError, match=override.partition("=")[0].rpartition(".")[2]):
        load_recipe("distill", ["model=any", "data.train=any", override])


def test_a_run_is_not_resumed_with_another_target(teacher, undisturbed):
    with pytest.raises(ValueError, match="another recipe"):
        distill(recipe_of(teacher, distill=Distill("both")), undisturbed)


def test_a_run_that_never_began_leaves_the_folder_free(teacher, tmp_path):
    with pytest.raises(ValueError, match="fewer than one batch"):
        distill(recipe_of(teacher, optimization=optimization(batch_size=100)), tmp_path / "run")
    recipe = recipe_of(teacher, optimization=optimization(batch_size=32))
    claim(tmp_path / "run", recipe)
    assert as_yaml(recipe_of_run(tmp_path / "run" / "recipe.yaml")) == as_yaml(recipe)


def test_interpolations_that_were_trained_make_no_teacher(undisturbed, tmp_path):
    with pytest.raises(ValueError, match="has trained interpolations"):
        distill(recipe_of(undisturbed / "last", model_args={}), tmp_path / "run")


def test_a_recipe_with_a_teacher_is_not_for_labels(teacher, tmp_path):
    with pytest.raises(ValueError, match="run inti-models distill"):
        train(recipe_of(teacher), tmp_path / "run")
