"""The training loop: what must be equal is equal, to the bit where it can be, whatever happened to the process."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from inti_models.data import MotionDigitsClips
from inti_models.data.motion_digits import CLASS_NAMES
from inti_models.evaluation.evaluate import evaluate, views_of
from inti_models.models.registry import create_model
from inti_models.training import objectives, trainer
from inti_models.training.recipe import Recipe
from inti_models.training.run import build_model, open_data, train, training_set
from inti_models.training.trainer import Trainer, create_accelerator
from support.processes import forked, killing, launched
from support.runs import assert_equal, metrics, optimization, tiny_recipe, weights


def initial_weights() -> dict[str, torch.Tensor]:
    return build_model(tiny_recipe(), CLASS_NAMES).state_dict()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A run of the tiny recipe."""
    output = tmp_path_factory.mktemp("plain") / "run"
    train(tiny_recipe(), output)
    return output


# Everything random at once: drop path, mixing, erasing, a moving average, accumulated gradients.
EVENTFUL = tiny_recipe(
    model_args={**tiny_recipe().model_args, "drop_path_rate": 0.2},
    factors=[10, 12],
    interpolation_logit_init=1.0,
    save_every=3,
    optimization=optimization(batch_size=8, accumulation=2, ema=0.8),
)
EVENTFUL.augmentation.mixup = EVENTFUL.augmentation.cutmix = 0.5
EVENTFUL.augmentation.reprob = 0.3
EVENTFUL.data.num_workers = 1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """A run of the eventful recipe that nothing stopped."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    train(EVENTFUL, output)
    return output


# Where a run is killed: module, function, and number of the call that kills.
KILLED_AT = {
    "after the first saved state": (trainer, "seed_process", 5),
    "while a state is written": (os, "replace", 3),
    "in the measurement of the last epoch": (objectives, "evaluate", 2),
}


@pytest.mark.parametrize("where", KILLED_AT.values(), ids=KILLED_AT)
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(undisturbed, tmp_path, where):
    output = tmp_path / "run"

    def killed() -> None:
        with killing(*where):
            train(EVENTFUL, output)

    assert forked(killed) == -signal.SIGKILL
    train(EVENTFUL, output)
    for folder in ("last", "best"):
        assert_equal(weights(output, folder), weights(undisturbed, folder))
    assert metrics(output) == metrics(undisturbed)
    report, expected = (json.loads((run / "evaluation/evaluation.json").read_text()) for run in (output, undisturbed))
    assert report == expected


def assert_close_runs(one: Path, two: Path) -> None:
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    expected, before = weights(one), initial_weights()
    for name, tensor in weights(two).items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=1e-3, msg=name)
    assert not torch.allclose(before["blocks.0.mlp.fc1.weight"], expected["blocks.0.mlp.fc1.weight"], atol=2e-3)


def test_two_processes_do_what_one_does_with_twice_the_batch(plain, tmp_path):
    recipe = tiny_recipe(optimization=optimization(batch_size=8))
    assert launched(lambda: train(recipe, tmp_path / "two"), 2) == [0, 0]
    assert_close_runs(plain, tmp_path / "two")


def test_accumulated_batches_do_what_one_large_batch_does(plain, tmp_path):
    train(tiny_recipe(optimization=optimization(batch_size=4, accumulation=4)), tmp_path / "two")
    assert_close_runs(plain, tmp_path / "two")


def shard(temporal: str, temporal_args: dict) -> None:
    """Take a step with a whole model and with a sharded one, and compare them."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    args = {"depth": 2, "embed_dim": 32, "num_heads": 1, "compress_at": [1], "num_frames": 4}
    torch.manual_seed(0)
    copied, sharded = (
        create_model("inti_vit_t8_32_motiondigits", temporal=temporal, temporal_args=temporal_args, **args)
        for _ in range(2)
    )
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.normal_(std=0.2)
    sharded.load_state_dict(copied.state_dict())
    for block in sharded.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    clips = torch.randn(2, 8, 3, 32, 32)  # the same in both processes
    for model in (copied.eval(), sharded.eval()):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        model(clips).square().mean().backward()
        optimizer.step()
    for (name, one), two in zip(copied.named_parameters(), sharded.parameters(), strict=True):
        assert isinstance(two, DTensor), name
        torch.testing.assert_close(two.full_tensor(), one, atol=1e-5, rtol=1e-4, msg=name)
        torch.testing.assert_close(two.grad.full_tensor(), one.grad, atol=1e-4, rtol=1e-3, msg=name)
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("temporal", "temporal_args"),
    [
        ("uniformerv2", {"num_global": 2, "stride": 2, "local_reduction": 2}),
        ("aim", {}),
        ("st_adapter", {"width": 8}),
    ],
    ids=["uniformerv2", "aim", "st_adapter"],
)
def test_a_sharded_temporal_model_takes_the_step_of_a_whole_one(temporal, temporal_args):
    """FSDP2 itself: accelerate does without it on CPUs."""
    assert launched(lambda: shard(temporal, temporal_args), 2) == [0, 0]


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="shards where there are several GPUs")
def test_sharding_without_gpus_is_refused():
    with pytest.raises(ValueError, match=r"fsdp=true shards the model over several GPUs"):
        create_accelerator(tiny_recipe(fsdp=True))


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_that_of_the_run_and_ends_with_it(tmp_path, tf32):
    matmul, during = torch.backends.cuda.matmul, []
    before = matmul.fp32_precision
    fit(tiny_recipe(tf32=tf32), tmp_path / "run", lambda *_: during.append(matmul.fp32_precision))
    assert set(during) == {"tf32" if tf32 else before}
    assert matmul.fp32_precision == before != "tf32"


def test_runs_of_one_process_have_each_their_own_precision():
    for precision in ("bf16", "no", "bf16"):
        assert create_accelerator(tiny_recipe(precision=precision)).mixed_precision == precision


def test_moving_average_is_what_is_saved(plain, tmp_path):
    """One that forgets everything is the model itself, and one that forgets nothing is that of the start."""
    train(tiny_recipe(optimization=optimization(ema=0.0)), tmp_path / "forgets")
    assert_equal(weights(tmp_path / "forgets"), weights(plain))
    train(tiny_recipe(optimization=optimization(ema=1.0)), tmp_path / "keeps")
    assert_equal(weights(tmp_path / "keeps"), initial_weights())


class Mean(nn.Module):
    """A linear classifier of the mean frame."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, 120)

    def forward(self, x):
        return self.head(x.mean(dim=1).flatten(1))


def fit(recipe: Recipe, output: Path, export=None) -> tuple[Mean, trainer.Progress]:
    """Train a `Mean`, and return it with what was noted."""
    torch.manual_seed(0)
    network, data_of = Mean(), build_model(recipe, CLASS_NAMES)
    train_source, validation_source = open_data(recipe)
    sets = training_set(recipe, data_of, train_source), views_of(validation_source, data_of)
    return network, Trainer(network, recipe, *sets, output, create_accelerator(recipe), export).run()


def test_each_update_of_a_run_has_a_seed_of_its_own(tmp_path, monkeypatch):
    seeds, seed_process = [], trainer.seed_process
    monkeypatch.setattr(trainer, "seed_process", lambda *of: (seeds.append(of), seed_process(*of))[1])
    recipe = tiny_recipe(seed=3)
    fit(recipe, tmp_path)
    assert seeds == [(3, update, 0) for update in range(8)]  # of both epochs


def test_a_network_of_any_kind_can_be_fitted(tmp_path):
    network, progress = fit(tiny_recipe(), tmp_path)
    torch.manual_seed(0)
    assert not torch.equal(network.head.weight, Mean().head.weight)
    assert progress.updates == 8
    assert [row["updates"] for row in progress.history] == [4, 8]
    assert progress.history[1]["train_loss"] < progress.history[0]["train_loss"]
    views = views_of(open_data(tiny_recipe())[1], build_model(tiny_recipe(), CLASS_NAMES))
    measured = evaluate(network, views, batch_size=24)
    assert progress.history[1]["top1"] == measured.top1
    assert progress.history[1]["validation_loss"] == pytest.approx(measured.loss)


def test_a_state_of_other_data_is_refused(tmp_path, monkeypatch):
    recipe = tiny_recipe(optimization=optimization(epochs=1))
    fit(recipe, tmp_path)
    for part in ("train", "validation"):
        data = dataclasses.replace(recipe.data, **{f"{part}_args": {"length": 80}})
        with pytest.raises(ValueError, match=f"holds a run on other {part}(ing)? data: videos or their labels"):
            fit(dataclasses.replace(recipe, data=data), tmp_path)
    for names, change in (
        ((*CLASS_NAMES[:-1], "renamed"), f"'{CLASS_NAMES[-1]}' is 'renamed' now"),
        ((*CLASS_NAMES, "added"), "no class is 'added' now"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(MotionDigitsClips, "class_names", names)
            with pytest.raises(ValueError, match=f"holds a run on other classes: {change}"):
                fit(recipe, tmp_path)


def test_a_state_of_before_which_does_not_name_its_data_is_resumed(tmp_path):
    recipe = tiny_recipe(optimization=optimization(epochs=1))
    _, progress = fit(recipe, tmp_path)
    state = torch.load(tmp_path / "state.pt")
    del state["data"]
    torch.save(state, tmp_path / "state.pt")
    assert fit(recipe, tmp_path)[1] == progress


def test_an_objective_of_ones_own_decides_what_is_learned_and_what_is_measured(tmp_path):
    """A regression to brightness: no classes, another loss, another score, and a column of its own."""

    class Brightness(objectives.Classification):
        def loss(self, model, clips, labels):
            return (model(clips)[:, 0] - clips.mean(dim=(1, 2, 3, 4))).square().mean()

        def measure(self, model, videos, **settings):
            errors = [self.loss(model, videos[i][0], None).item() for i in range(len(videos))]
            return SimpleNamespace(score=1 / (1 + sum(errors)), metrics={"error": sum(errors)})

    recipe, exported = tiny_recipe(optimization=optimization(lr=1e-2)), []
    data_of = build_model(recipe, CLASS_NAMES)
    train_source, validation_source = open_data(recipe)
    sets = training_set(recipe, data_of, train_source), views_of(validation_source, data_of)
    progress = Trainer(
        Mean(),
        recipe,
        *sets,
        tmp_path,
        create_accelerator(recipe),
        lambda network, folder, measured: exported.append(measured),
        Brightness(recipe.augmentation, 120),
    ).run()
    first, last = (row["error"] for row in progress.history)
    assert last < first
    assert progress.best == exported[-1].score == 1 / (1 + last)
    assert "top1" not in progress.history[0] and "error" in metrics(tmp_path)[0]


def test_best_model_is_that_of_the_best_epoch(tmp_path):
    exported = []  # folder, weights and top-1 of what is saved
    fit(
        tiny_recipe(optimization=optimization(epochs=6, lr=3e-3)),
        tmp_path,
        lambda network, folder, evaluation: exported.append((folder.name, network.head.weight, evaluation.top1)),
    )
    tops = [top1 for folder, _, top1 in exported if folder == "last"]
    assert len(tops) == 6 and tops[0] < max(tops)
    record, expected = -1.0, []
    for top1 in tops:
        expected += ["best", "last"] if top1 > record else ["last"]
        record = max(record, top1)
    assert [folder for folder, _, _ in exported] == expected
    assert "last" in expected[:-1]
    for (folder, best, _), (_, last, _) in zip(exported, exported[1:], strict=False):
        assert folder == "last" or torch.equal(best, last)


def test_epochs_are_measured_when_it_is_due_and_at_the_end(tmp_path):
    _, progress = fit(tiny_recipe(optimization=optimization(epochs=3), validate_every=2), tmp_path)
    assert ["top1" in row for row in progress.history] == [False, True, True]


def test_layer_decay_slows_the_lower_blocks(tmp_path):
    """With hardly anything left a layer further down, only the head moves."""
    recipe = tiny_recipe(optimization=optimization(epochs=1, layer_decay=1e-12, weight_decay=0.0))
    train(recipe, tmp_path / "run")
    before = initial_weights()
    for name, tensor in weights(tmp_path / "run").items():
        moved = (tensor - before[name]).abs().max() > 1e-9
        assert moved == name.startswith("head."), name


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"The loss is not finite after \d+ updates; lower optimization.lr"):
        train(tiny_recipe(optimization=optimization(lr=1e30, clip_grad=None, warmup_epochs=0.0)), tmp_path / "run")


def test_too_little_data_for_one_update_is_refused(tmp_path):
    with pytest.raises(ValueError, match="64"):
        fit(tiny_recipe(optimization=optimization(batch_size=65)), tmp_path)
    with pytest.raises(ValueError, match="has 64 videos, fewer than one update of 80 clips"):
        fit(tiny_recipe(optimization=optimization(batch_size=16, accumulation=5)), tmp_path)
    assert not list(tmp_path.iterdir())
