"""Training on MotionDigits with a network of two blocks: what must be equal is equal, to the bit where it can be."""

import csv
import dataclasses
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import inti_models
from inti_models.data.motion_digits import CLASS_NAMES
from inti_models.heads import SumOfTerms
from inti_models.recipe import Data, Optimization, Recipe, as_yaml, load_recipe, save_recipe
from inti_models.trainer import Trainer, create_accelerator
from inti_models.training import build_model, freeze, lean_later, train, training_data
from inti_models.zoo import create_model


def tiny_recipe(**changes) -> Recipe:
    """Two epochs of four updates."""
    recipe = Recipe(
        model="inti_vit_t8_32_motiondigits",
        pretrained=False,
        model_args={"depth": 2, "embed_dim": 32, "num_heads": 1, "compress_at": [1], "num_frames": 2},
        data=Data(
            train="motiondigits",
            validation="motiondigits",
            train_args={"length": 64},
            validation_args={"length": 24},
            num_workers=0,
        ),
        optimization=Optimization(epochs=2, batch_size=16, lr=1e-3, warmup_epochs=0.25),
    )
    return dataclasses.replace(recipe, **changes)


def optimization(**changes) -> Optimization:
    return dataclasses.replace(tiny_recipe().optimization, **changes)


def weights(output: Path, folder: str = "last") -> dict[str, torch.Tensor]:
    return load_file(output / folder / "model.safetensors")


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def metrics(output: Path) -> list[dict[str, float]]:
    """metrics.csv without the seconds."""
    with (output / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def launch(recipe: Recipe, output: Path, *, before: str = "", processes: int = 1) -> subprocess.CompletedProcess:
    """Train in processes of their own, after running some Python there."""
    file, script = output.with_suffix(".yaml"), output.with_suffix(".py")
    save_recipe(recipe, file)
    script.write_text(
        f"{before}\nfrom inti_models.recipe import load_recipe\nfrom inti_models.training import train\n"
        f"if __name__ == '__main__':\n    train(load_recipe({str(file)!r}), {str(output)!r})\n"
    )
    command = [sys.executable, str(script)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
        command = [sys.executable, *launcher, str(script)]
    return subprocess.run(command, capture_output=True, text=True)


# Everything random at once: drop path, mixing, erasing, a moving average, accumulated gradients.
EVENTFUL = tiny_recipe(
    model_args={**tiny_recipe().model_args, "drop_path_rate": 0.2},
    factors=[10, 12],
    lean=1.0,
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
    done = launch(EVENTFUL, output)
    assert done.returncode == 0, done.stderr
    return output


def kill_at(function: str, call: int) -> str:
    """Python that makes a run kill itself when it calls a function of the trainer for the n-th time."""
    return f"""
import os, signal
import inti_models.trainer as trainer
calls = 0
def killing(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
{function} = killing({function})
"""


# Where a run is killed: (function of the trainer, number of the call that kills).
KILLED_AT = {
    "after the first saved state": ("trainer.seed_process", 5),
    "while a state is written": ("os.replace", 3),
    "in the measurement of the last epoch": ("trainer.evaluate", 2),
}


@pytest.mark.parametrize(("function", "call"), KILLED_AT.values(), ids=KILLED_AT)
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(undisturbed, tmp_path, function, call):
    output = tmp_path / "run"
    killed = launch(EVENTFUL, output, before=kill_at(function, call))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = launch(EVENTFUL, output)
    assert again.returncode == 0, again.stderr
    for folder in ("last", "best"):
        assert_equal(weights(output, folder), weights(undisturbed, folder))
    assert metrics(output) == metrics(undisturbed)
    report, expected = (json.loads((run / "evaluation/evaluation.json").read_text()) for run in (output, undisturbed))
    assert report == expected


def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    done = launch(tiny_recipe(), one)
    assert done.returncode == 0, done.stderr
    done = launch(tiny_recipe(optimization=optimization(batch_size=8)), two, processes=2)
    assert done.returncode == 0, done.stderr
    assert_close_runs(one, two)


def assert_close_runs(one: Path, two: Path) -> None:
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    expected = weights(one)
    for name, tensor in weights(two).items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-4, rtol=1e-3, msg=name)
    before = create_model(tiny_recipe().model, num_classes=120, **tiny_recipe().model_args).state_dict()
    assert not torch.allclose(before["blocks.0.mlp.fc1.weight"], expected["blocks.0.mlp.fc1.weight"], atol=2e-3)


def test_accumulated_batches_do_what_one_large_batch_does(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    train(tiny_recipe(), one)
    train(tiny_recipe(optimization=optimization(batch_size=4, accumulation=4)), two)
    assert_close_runs(one, two)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="shards where there are several GPUs")
def test_sharding_without_gpus_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"fsdp=true shards the model over several GPUs.* set fsdp=false"):
        train(tiny_recipe(fsdp=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_leaves_models_metrics_and_the_recipe(undisturbed):
    for folder in ("last", "best"):
        model = inti_models.load(undisturbed / folder)
        assert tuple(model.pretrained_cfg["label_names"]) == CLASS_NAMES
        assert isinstance(model.head, nn.Linear)
        assert model.num_frames == 2
        assert model.compress_at == (1,)
    assert load_recipe(undisturbed / "recipe.yaml") == EVENTFUL
    rows = metrics(undisturbed)
    assert [row["updates"] for row in rows] == [4, 8]
    assert list((undisturbed / "tensorboard").iterdir())
    report = json.loads((undisturbed / "evaluation/evaluation.json").read_text())
    assert report["videos"] == 24
    assert report["top1"] == pytest.approx(rows[-1]["top1"], abs=0.01)  # one view, as in between


def model(**changes):
    return build_model(tiny_recipe(**changes), CLASS_NAMES)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_moving_average_is_what_is_saved(tmp_path, decay):
    averaged, plain = tmp_path / "averaged", tmp_path / "plain"
    train(tiny_recipe(optimization=optimization(ema=decay)), averaged)
    if decay == 1:  # it never moves
        assert_equal(weights(averaged), model().state_dict())
    else:
        train(tiny_recipe(), plain)
        assert_equal(weights(averaged), weights(plain))


def test_best_model_is_that_of_the_best_epoch(tmp_path):
    recipe = tiny_recipe(optimization=optimization(epochs=4))
    train(recipe, tmp_path / "run")
    tops = [row["top1"] for row in metrics(tmp_path / "run")]
    best = tops.index(max(tops))
    shorter = tiny_recipe(optimization=optimization(epochs=4))
    stop = tmp_path / "stopped"
    done = launch(shorter, stop, before=kill_at("evaluate", best + 2)) if best < 3 else None
    expected = weights(tmp_path / "run") if done is None else weights(stop)
    assert_equal(weights(tmp_path / "run", "best"), expected)


def test_only_what_is_asked_for_is_trained(tmp_path):
    recipe = tiny_recipe(train="interpolation")
    before = model(train="interpolation").state_dict()
    train(recipe, tmp_path / "run")
    changed = {name for name, tensor in weights(tmp_path / "run").items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(("interpolations.", "head.")) for name in changed)
    assert "head.weight" in changed
    assert any(name.startswith("interpolations.") for name in changed)


def test_freezing_leaves_the_head_and_refuses_what_is_not_there():
    network = model()
    freeze(network, "head")
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    freeze(network, "all")
    assert all(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="train=adapters, but the model has no temporal method"):
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


SHARDED = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from inti_models.zoo import create_model

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
args = {"depth": 2, "embed_dim": 32, "num_heads": 1, "compress_at": [1], "num_frames": 4}
for temporal, temporal_args in {
    "uniformerv2": {"num_global": 2, "stride": 2, "local_reduction": 2},
    "aim": {},
    "st_adapter": {"width": 8},
}.items():
    torch.manual_seed(0)
    make = lambda: create_model("inti_vit_t8_32_motiondigits", temporal=temporal, temporal_args=temporal_args, **args)
    copied, sharded = make(), make()
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
"""


def test_a_sharded_temporal_model_takes_the_step_of_a_whole_one(tmp_path):
    """FSDP2 itself: accelerate does without it on CPUs."""
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_leaning_start_tells_a_clip_from_its_reverse():
    clip = torch.randn(1, 2, 3, 32, 32)
    network = model().eval()
    assert torch.allclose(network(clip), network(clip.flip(1)), atol=1e-6)
    lean_later(network, 1.0)
    (interpolation_weights,) = network.interpolation_weights(clip)
    expected = torch.tensor([-1.0, 1.0]).softmax(0)
    torch.testing.assert_close(interpolation_weights[0], expected.unsqueeze(1).expand(2, 17))
    assert not torch.allclose(network(clip), network(clip.flip(1)), atol=1e-6)


def test_a_trained_interpolation_does_not_lean():
    network = model()
    for bias in (p for name, p in network.named_parameters() if name.endswith("logit.bias")):
        nn.init.constant_(bias, 0.3)
    before = {name: p.clone() for name, p in network.named_parameters()}
    lean_later(network, 1.0)
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
    assert isinstance(factorized.head, SumOfTerms)


def test_layer_decay_slows_the_lower_blocks(tmp_path):
    """With hardly anything left a layer further down, only the head moves."""
    train(tiny_recipe(optimization=optimization(layer_decay=1e-12, weight_decay=0.0)), tmp_path / "run")
    before = model().state_dict()
    for name, tensor in weights(tmp_path / "run").items():
        moved = (tensor - before[name]).abs().max() > 1e-9
        assert moved == name.startswith("head."), name


def test_clips_of_fewer_frames_than_the_schedule_spans_train(tmp_path):
    """Their last interpolations get no gradient."""
    args = {**tiny_recipe().model_args, "compress_at": [1, 1, 2], "num_frames": 2}
    train(tiny_recipe(model_args=args), tmp_path / "run")
    assert len(metrics(tmp_path / "run")) == 2


def test_a_model_of_another_size_is_trained_and_saved_at_that_size(tmp_path):
    args = {**tiny_recipe().model_args, "img_size": 48}
    evaluation = train(tiny_recipe(model_args=args, optimization=optimization(epochs=1)), tmp_path / "run")
    assert len(evaluation.labels) == 24
    assert inti_models.load(tmp_path / "run/last").patch_embed.img_size == (48, 48)


def test_a_run_of_another_recipe_is_not_continued(tmp_path):
    train(tiny_recipe(optimization=optimization(epochs=1)), tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds a run of another recipe \(epochs: 1\)"):
        train(tiny_recipe(), tmp_path / "run")
    assert_equal(weights(tmp_path / "run"), before)


def test_a_finished_run_is_not_trained_again(tmp_path):
    recipe = tiny_recipe(optimization=optimization(epochs=1))
    first = train(recipe, tmp_path / "run")
    written = (tmp_path / "run/last/model.safetensors").stat().st_mtime_ns
    second = train(recipe, tmp_path / "run")
    assert (tmp_path / "run/last/model.safetensors").stat().st_mtime_ns == written
    assert torch.equal(first.probabilities, second.probabilities)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"The loss is not finite after \d+ updates; lower optimization.lr"):
        train(tiny_recipe(optimization=optimization(lr=1e30, clip_grad=None, warmup_epochs=0.0)), tmp_path / "run")


def test_too_little_data_for_one_update_is_refused(tmp_path):
    with pytest.raises(ValueError, match="64"):
        train(tiny_recipe(optimization=optimization(batch_size=65)), tmp_path / "run")
    with pytest.raises(ValueError, match="has 64 videos, less than one update of 80 clips"):
        train(tiny_recipe(optimization=optimization(batch_size=16, accumulation=5)), tmp_path / "run2")


def test_a_network_of_any_kind_can_be_fitted(tmp_path):
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * 32 * 32, 120)

        def forward(self, x):
            return self.head(x.mean(dim=1).flatten(1))

    recipe = tiny_recipe()
    network = Mean()
    before = network.head.weight.clone()
    trainer = Trainer(network, recipe, training_data(recipe, model()), None, tmp_path, create_accelerator(recipe))
    progress = trainer.run()
    assert progress.updates == 8
    assert progress.history[1]["train_loss"] < progress.history[0]["train_loss"]
    assert not torch.equal(network.head.weight, before)


def test_yaml_holds_the_whole_recipe():
    assert "drop_path_rate" in as_yaml(EVENTFUL)
