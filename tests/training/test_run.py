"""From a recipe to a model in a folder: what is trained, from where, and what a run leaves."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from torch import nn

import inti_models
from inti_models.data import open_source, write_video
from inti_models.data.motion_digits import CLASS_NAMES
from inti_models.files import locked
from inti_models.models.heads import FactorizedHead
from inti_models.models.registry import create_model
from inti_models.training.recipe import Data, Recipe, load_recipe
from inti_models.training.run import build_model, check_videos, freeze, init_interpolation_logits, train
from support.runs import assert_equal, metrics, optimization, tiny_recipe, weights

FACTORIZED = tiny_recipe(factors=[10, 12], trainable="interpolation")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the factorized recipe."""
    output = tmp_path_factory.mktemp("run") / "run"
    train(FACTORIZED, output)
    return output


def test_a_run_leaves_models_metrics_and_the_recipe(run):
    for folder in ("last", "best"):
        model = inti_models.load(run / folder)
        assert tuple(model.pretrained_cfg["label_names"]) == CLASS_NAMES
        assert isinstance(model.head, nn.Linear)
        assert model.num_frames == 2
        assert model.compress_at == (1,)
    assert load_recipe(run / "recipe.yaml") == FACTORIZED
    rows = metrics(run)
    assert [row["updates"] for row in rows] == [4, 8]
    assert list((run / "tensorboard").iterdir())
    report = json.loads((run / "evaluation/evaluation.json").read_text())
    assert report["videos"] == 24
    assert report["top1"] == pytest.approx(rows[-1]["top1"], abs=0.01)  # one view, as in between


def test_data_are_searched_once(tmp_path, monkeypatch):
    searched = []

    def search(data, part="validation", **options):
        searched.append(part)
        return open_source(data, part, **options)

    monkeypatch.setattr("inti_models.training.run.open_source", search)
    monkeypatch.setattr("inti_models.evaluation.evaluate.open_source", search)
    train(tiny_recipe(optimization=optimization(epochs=1)), tmp_path / "run")
    assert searched == ["train", "validation"]


def test_views_that_the_validation_set_cannot_give_are_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="2 clips per video were requested, but motiondigits has one"):
        train(tiny_recipe(views=(2, 1)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def model(**changes):
    return build_model(tiny_recipe(**changes), CLASS_NAMES)


def test_only_what_is_asked_for_is_trained(run):
    """Here head and interpolations. The head is saved as one linear layer."""
    before = model(trainable="interpolation").state_dict()
    changed = {name for name, tensor in weights(run).items() if not torch.equal(tensor, before[name])}
    assert all(name.startswith(("interpolations.", "head.")) for name in changed)
    assert "head.weight" in changed
    assert any(name.startswith("interpolations.") for name in changed)


def test_freezing_leaves_the_head_and_refuses_what_is_not_there():
    network = model()
    freeze(network, "head")
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    freeze(network, "all")
    assert all(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="trainable=adapters, but the model has no temporal method"):
        freeze(network, "adapters")


# What each paper trains beside the head and the interpolations; ``#`` is a number.
TRAINED = {
    ("st_adapter", ("before", ("attn", "mlp"))): {
        f"blocks.#.temporal.{place}.{module}" for place in ("attn", "mlp") for module in ("fc1", "conv", "fc2")
    },
    # arXiv 2302.03024; the official tools/train.py freezes all but these names
    ("aim", ("adapt_input", True)): {"temporal.time_embed", "norm"}
    | {
        f"blocks.#.temporal.{name}.{module}"
        for name in ("time_in", "time", "space", "joint")
        for module in ("fc1", "fc2")
    },
    ("uniformerv2", ("local_reduction", 1.5)): {"temporal.video_token", "temporal.balance", "norm"}
    | {
        f"blocks.#.temporal.{place}.{module}"
        for place in ("attn", "mlp")
        for module in ("norm", "reduce", "conv", "expand")
    }
    | {
        f"temporal.units.#.{module}"
        for module in (
            *("position", "norm_query", "norm_tokens", "query", "key_value", "proj", "norm_mlp"),
            *("mlp.fc1", "mlp.fc2"),
        )
    },
    ("divided_attention", None): {"temporal.time_embed"}
    | {f"blocks.#.temporal.{module}" for module in ("norm", "attn.qkv", "attn.proj")},
}


@pytest.mark.parametrize(("key", "expected"), TRAINED.items(), ids=[key[0] for key in TRAINED])
def test_freezing_leaves_what_the_paper_of_the_temporal_method_trains(key, expected):
    temporal, arg = key
    args = {"temporal": temporal, "temporal_args": dict([arg] if arg else []), "depth": 4}
    network = create_model(tiny_recipe().model, **{**tiny_recipe().model_args, **args})
    freeze(network, "adapters")
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {"head.weight", "head.bias"} < trained
    assert {name for name, _ in network.named_parameters() if name.startswith("interpolations.")} < trained
    rest = {name for name in trained if not name.startswith(("head.", "interpolations."))}
    assert {re.sub(r"\.(weight|bias)$", "", re.sub(r"\.\d+\.", ".#.", name)) for name in rest} == expected
    assert all(f"blocks.{i}." in " ".join(rest) for i in range(4))


def test_a_leaning_start_tells_a_clip_from_its_reverse():
    clip = torch.randn(1, 2, 3, 32, 32)
    network = model().eval()
    assert torch.allclose(network(clip), network(clip.flip(1)), atol=1e-6)
    init_interpolation_logits(network, 1.0)
    (interpolation_weights,) = network.interpolation_weights(clip)
    expected = torch.tensor([-1.0, 1.0]).softmax(0)
    torch.testing.assert_close(interpolation_weights[0], expected.unsqueeze(1).expand(2, 17))
    assert not torch.allclose(network(clip), network(clip.flip(1)), atol=1e-6)


def test_a_trained_interpolation_does_not_lean():
    network = model()
    for bias in (p for name, p in network.named_parameters() if name.endswith("logit.bias")):
        nn.init.constant_(bias, 0.3)
    before = {name: p.clone() for name, p in network.named_parameters()}
    init_interpolation_logits(network, 1.0)
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())


def test_head_is_kept_where_the_classes_are_the_models_own_and_new_elsewhere():
    kept = Recipe(model="inti_vit_t8_32_motiondigits")
    own = build_model(kept, CLASS_NAMES)
    assert torch.equal(own.head.weight, inti_models.load(kept.model).head.weight)
    other = build_model(kept, ("cat", "dog"))
    assert other.head.out_features == 2
    torch.testing.assert_close(other.blocks[0].mlp.fc1.weight, own.blocks[0].mlp.fc1.weight)
    assert not torch.equal(build_model(dataclasses.replace(kept, head="new"), CLASS_NAMES).head.weight, own.head.weight)
    factorized = build_model(dataclasses.replace(kept, factors=[10, 12]), CLASS_NAMES)
    assert isinstance(factorized.head, FactorizedHead)


def test_clips_of_fewer_frames_than_the_schedule_spans_train(tmp_path):
    """Their last interpolations get no gradient."""
    args = {**tiny_recipe().model_args, "compress_at": [1, 1, 2], "num_frames": 2}
    train(tiny_recipe(model_args=args, optimization=optimization(epochs=1)), tmp_path / "run")
    assert len(metrics(tmp_path / "run")) == 1


def test_a_model_of_another_size_is_trained_and_saved_at_that_size(tmp_path):
    args = {**tiny_recipe().model_args, "img_size": 48}
    evaluation = train(tiny_recipe(model_args=args, optimization=optimization(epochs=1)), tmp_path / "run")
    assert len(evaluation.labels) == 24
    assert inti_models.load(tmp_path / "run/last").patch_embed.img_size == (48, 48)


def test_a_run_whose_recipe_has_keys_of_before_is_resumed(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    text = (folder / "recipe.yaml").read_text()
    for new, old in {
        "interpolation_logit_init:": "lean:",
        "trainable:": "train:",
        "  max_unreadable:": "  max_broken:",
    }.items():
        assert new in text
        text = text.replace(new, old)
    (folder / "recipe.yaml").write_text(text)
    settings = json.loads((folder / "evaluation" / "settings.json").read_text())
    (folder / "evaluation" / "settings.json").write_text(json.dumps(settings | {"model": "as it was printed before"}))
    assert train(FACTORIZED, folder).labels.tolist()  # which measured it again
    assert_equal(weights(folder), weights(run))
    assert metrics(folder) == metrics(run)
    with pytest.raises(ValueError, match=r"another recipe \(trainable: interpolation\)"):
        train(dataclasses.replace(FACTORIZED, trainable="head"), folder)


def test_a_folder_that_another_process_writes_to_is_refused_at_once(run, monkeypatch):
    monkeypatch.setattr("inti_models.training.run.open_data", None)  # before data are opened
    with locked(run), pytest.raises(BlockingIOError, match="Another process is writing to"):
        train(FACTORIZED, run)


@pytest.fixture
def listed(tmp_path):
    """38 videos as a source, of which number 3 is unreadable, a recipe, and the folder of both."""
    for i in range(38):
        video = tmp_path / "train" / ("even", "odd")[i % 2] / f"{i}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        if i == 0:
            write_video(video, torch.zeros(2, 3, 16, 16, dtype=torch.uint8), fps=2)
        else:
            shutil.copy(tmp_path / "train" / "even" / "0.mp4", video)
    (tmp_path / "train" / "odd" / "3.mp4").write_text("no video")
    (tmp_path / "run").mkdir()
    recipe = tiny_recipe()
    return open_source(tmp_path / "train"), recipe, tmp_path


def checking(recipe, **data):
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **data))


def test_one_unreadable_video_is_allowed_and_remembered(listed, capsys, monkeypatch):
    source, recipe, folder = listed
    assert recipe.data.max_unreadable == 0.01
    check_videos(folder / "run", recipe, source, None)
    assert "3.mp4" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # a resumed run
        patch.setattr("inti_models.training.run.unreadable_videos", None)
        check_videos(folder / "run", recipe, source, None)
        with pytest.raises(TypeError):  # of another list
            check_videos(folder / "run", recipe, source, source)
    assert capsys.readouterr().err == ""


def test_all_unreadable_videos_are_listed_before_training_is_refused(listed, capsys):
    source, recipe, folder = listed
    (folder / "train" / "even" / "30.mp4").write_text("no video either")
    for recipe, allowed in ((recipe, "0.01"), (checking(recipe, max_unreadable=0), "0")):  # noqa: B020
        with pytest.raises(ValueError, match=f"2 of 38 videos .* more than data.max_unreadable={allowed} allows"):
            check_videos(folder / "run", recipe, source, None)
        said = capsys.readouterr().err
        assert "/3.mp4" in said and "30.mp4" in said
    assert not list((folder / "run").iterdir())
    check_videos(folder / "run", checking(recipe, max_unreadable=0.06), source, None)


def test_long_lists_are_checked_on_request_only(listed, monkeypatch):
    source, recipe, folder = listed
    monkeypatch.setattr("inti_models.training.run.CHECKED", 37)
    check_videos(folder / "run", checking(recipe, max_unreadable=0), source, None)
    with pytest.raises(ValueError, match="1 of 38 videos"):
        check_videos(folder / "run", checking(recipe, max_unreadable=0, check=True), source, None)
    check_videos(folder / "run", checking(recipe, max_unreadable=0, check=False), source, None)


def test_a_run_of_another_recipe_is_not_continued(run):
    before = weights(run)
    with pytest.raises(ValueError, match="holds a run of 2 epochs; add --extend"):
        train(dataclasses.replace(FACTORIZED, optimization=optimization(epochs=3)), run)
    for other in (optimization(epochs=1), optimization(epochs=3, lr=2e-3)):
        with pytest.raises(ValueError, match="holds a run of another recipe"):
            train(dataclasses.replace(FACTORIZED, optimization=other), run, extend=True)
    assert_equal(weights(run), before)


def test_a_run_that_is_extended_ends_as_one_that_had_all_epochs_at_first(tmp_path, capsys):
    def recipe(epochs):  # the learning rate is one number: else it would have been another in the first epoch
        return tiny_recipe(optimization=optimization(epochs=epochs, warmup_epochs=0, min_lr=1e-3))

    train(recipe(2), tmp_path / "whole")
    train(recipe(1), tmp_path / "extended")
    first = weights(tmp_path / "extended")
    capsys.readouterr()
    train(recipe(2), tmp_path / "extended", extend=True)
    assert "epoch 2 of 2: train_loss" in capsys.readouterr().err
    assert not all(torch.equal(first[name], tensor) for name, tensor in weights(tmp_path / "extended").items())
    assert_equal(weights(tmp_path / "extended"), weights(tmp_path / "whole"))
    assert metrics(tmp_path / "extended") == metrics(tmp_path / "whole")
    train(recipe(2), tmp_path / "extended")  # is a run of two epochs now
    assert "epoch 2 of 2: train_loss" not in (said := capsys.readouterr().err)
    assert "has its 2 epochs already" in said


def test_a_finished_run_is_not_trained_again(run):
    written = (run / "last/model.safetensors").stat().st_mtime_ns
    report = (run / "evaluation/evaluation.json").read_text()
    assert len(train(FACTORIZED, run).labels) == 24
    assert (run / "last/model.safetensors").stat().st_mtime_ns == written
    assert (run / "evaluation/evaluation.json").read_text() == report


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="trainable=adapters"):
        train(tiny_recipe(trainable="adapters"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_is_not_trained_on(tmp_path):
    (tmp_path / "videos/all/run").mkdir(parents=True)
    (tmp_path / "videos/all/run/a.mp4").touch()
    with pytest.raises(ValueError, match="has one class, 'all'"):
        train(tiny_recipe(data=Data(train=str(tmp_path / "videos"))), tmp_path / "run")
