"""Training runs on MotionDigits with a network of two blocks, and what they leave."""

import csv
import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file

from inti_models.training.recipe import Data, Optimization, Recipe


def tiny_recipe(**changes) -> Recipe:
    """Two epochs of four updates."""
    recipe = Recipe(
        model="inti_vit_t8_32_motiondigits",
        pretrained=False,
        model_args={"depth": 2, "embed_dim": 16, "num_heads": 1, "compress_at": [1], "num_frames": 2},
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


def metrics(output: Path) -> list[dict[str, float]]:
    """Return metrics.csv without the seconds."""
    with (output / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
