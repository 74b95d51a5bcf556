"""Training: from a recipe to a model in a folder.

Files in the output folder:

- ``recipe.yaml``: all values of the recipe,
- ``last/``, ``best/``: the model after the last and after the best epoch, for `inti_models.load`,
- ``metrics.csv``: one row an epoch; ``tensorboard/``: the same and the training loss in between,
- ``unreadable.json``: videos that could not be read and were replaced by others,
- ``state.pt``: what a run goes on from,
- ``evaluation/``: the last measurement (see `inti_models.evaluation`).
"""

import os
import re
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from timm.data import resolve_input_data_config
from torch import nn

from .checkpoints import ADDED
from .data import (
    FrameSampling,
    MotionDigitsClips,
    VideoDataset,
    create_clip_transform,
    create_train_transform,
    find_videos,
)
from .data.lists import VideoList, read_class_names
from .data.motion_digits import CLASS_NAMES, MotionDigits
from .evaluation import Evaluation, evaluate, write_report
from .files import write_text
from .heads import factorize, fold
from .hub import load, save_pretrained
from .recipe import Recipe, as_yaml, load_recipe
from .trainer import Trainer, create_accelerator
from .vision_transformer import InTIVisionTransformer
from .zero_shot import set_zero_shot_head
from .zoo import create_model

RECIPE = "recipe.yaml"
MOTIONDIGITS = "motiondigits"


def train(recipe: Recipe, output: str | os.PathLike[str]) -> Evaluation | None:
    """Train a model as a recipe says, or go on with it, and measure it. Run it in every process of a launch.

    Args:
        recipe: see `inti_models.recipe.load_recipe`.
        output: folder for everything that is written (see above). One that holds a run of the same recipe is
            taken up where it stopped.

    Returns:
        The last measurement, or None without validation data.

    Raises:
        ValueError: a value of the recipe does not fit the model or the data, the folder holds a run of another
            recipe, too many videos are unreadable, or the loss is not finite.
        OSError: files are missing or cannot be written.
    """
    output = Path(output)
    accelerator = create_accelerator(recipe)
    class_names = data_class_names(recipe)
    model = build_model(recipe, class_names)
    train_set, validation_set = training_data(recipe, model), validation_data(recipe, model)
    if accelerator.is_main_process:
        claim(output, recipe)
    accelerator.wait_for_everyone()

    def export(trained: nn.Module, folder: Path, evaluation: Evaluation | None) -> None:
        assert isinstance(trained, InTIVisionTransformer)
        trained.head = cast(nn.Linear, fold(trained.head))  # timm types a head so
        results = [] if evaluation is None else evaluation.results(Path(str(recipe.data.validation)).name)
        save_pretrained(trained, folder, label_names=class_names, results=results)

    Trainer(model, recipe, train_set, validation_set, output, accelerator, export).run()
    accelerator.wait_for_everyone()
    evaluation = None if validation_set is None else _measure_last(recipe, output, accelerator)
    accelerator.end_training()
    return evaluation


def _measure_last(recipe: Recipe, output: Path, accelerator: Accelerator) -> Evaluation:
    """The model after the last epoch, by the views of the recipe."""
    model = load(output / "last")
    views = validation_data(recipe, model, recipe.views)
    assert views is not None
    evaluation = evaluate(
        model,
        views,
        batch_size=recipe.optimization.batch_size,
        num_workers=recipe.data.num_workers,
        device=accelerator.device,
        precision=recipe.precision,
        max_broken=recipe.data.max_broken,
        work_dir=output / "evaluation",
    )
    if accelerator.is_main_process:
        write_report(evaluation, output / "evaluation")
    return evaluation


def claim(output: Path, recipe: Recipe) -> None:
    """Make the output folder, or see that it holds a run of this recipe.

    Raises:
        ValueError: it holds a run of another recipe.
    """
    file, text = output / RECIPE, as_yaml(recipe)
    if file.exists():
        theirs, ours = as_yaml(load_recipe(file)).splitlines(), text.splitlines()  # with keys that were added since
        if theirs != ours:
            other = next((line.strip() for line in theirs if line not in ours), "fewer values")
            raise ValueError(
                f"{output} holds a run of another recipe ({other}); choose another folder, or delete this one."
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    write_text(file, text)


# From the recipe to model and data


def data_class_names(recipe: Recipe) -> tuple[str, ...]:
    """Names of the classes of the training data, in the order of class indices."""
    if recipe.data.train == MOTIONDIGITS:
        return CLASS_NAMES
    return _videos(recipe, recipe.data.train, recipe.data.train_split).class_names


def build_model(recipe: Recipe, class_names: tuple[str, ...]) -> InTIVisionTransformer:
    """The model that training starts from, with the right head and the right parameters frozen."""
    torch.manual_seed(recipe.seed)
    model = (load if recipe.pretrained else create_model)(recipe.model, **recipe.model_args)
    if recipe.head == "zero_shot":
        set_zero_shot_head(model, class_names)
    elif recipe.head == "new" or tuple(model.pretrained_cfg.get("label_names") or ()) != tuple(class_names):
        model.reset_classifier(len(class_names))
    if recipe.factors:
        model.head = cast(nn.Linear, factorize(model.head, recipe.factors))
    lean_later(model, recipe.lean)
    if recipe.grad_checkpointing:
        model.set_grad_checkpointing(stages=recipe.checkpoint_stages or None)
    freeze(model, recipe.train)
    return model


@torch.no_grad()
def lean_later(model: InTIVisionTransformer, logit: float) -> None:
    """Start untrained interpolations off balance, the logits at -logit for the earlier and +logit for the later frame.

    At the exact mean nothing shows the order of frames, so that neither blocks nor interpolations get a gradient
    towards it: a plateau (measured on MotionDigits). A lean leaves a trail in the tokens that has a direction.
    """
    for name, bias in model.interpolations.named_parameters():
        if name.endswith("predict.logit.bias") and not bias.any():
            bias.copy_(torch.tensor([-logit, logit]))


def freeze(model: InTIVisionTransformer, train: str) -> None:
    """Freeze all parameters but those of the head ("head"), also of the interpolations ("interpolation"), also those
    that the temporal method's paper trains ("adapters"); or none ("all").

    Raises:
        ValueError: there is nothing of the kind to train.
    """
    patterns = {"head": [r"head\."], "interpolation": [r"head\.", r"interpolations\."], "all": [""]}
    if train == "adapters":
        if not model.temporal.mixes_frames:
            raise ValueError("train=adapters, but the model has no temporal method; choose interpolation, head or all.")
        also = model.temporal.also_trained
        patterns["adapters"] = [r"head\.", ADDED.pattern, *(() if also is None else (also,))]
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(re.match(pattern, name) for pattern in patterns[train])


def training_data(recipe: Recipe, model: InTIVisionTransformer) -> MotionDigitsClips | VideoDataset:
    """The training set, as clips for this model."""
    a = recipe.augmentation
    transform = create_train_transform(
        **resolve_input_data_config(model),
        scale=a.scale,
        ratio=a.ratio,
        hflip=a.hflip,
        auto_augment=a.auto_augment,
        reprob=a.reprob,
    )
    if recipe.data.train == MOTIONDIGITS:
        return MotionDigitsClips(_motion_digits(recipe, model, "train"), transform, train=True, seed=recipe.seed)
    return VideoDataset(
        _videos(recipe, recipe.data.train, recipe.data.train_split),
        transform,
        FrameSampling.of(model),
        train=True,
        seed=recipe.seed,
    )


def validation_data(
    recipe: Recipe, model: InTIVisionTransformer, views: tuple[int, int] = (1, 1)
) -> MotionDigitsClips | VideoDataset | None:
    """The validation set, as views for this model and with the classes of the training set; None without one.

    Raises:
        ValueError: it has classes that the training set has not.
    """
    if recipe.data.validation is None:
        return None
    num_clips, num_crops = views
    transform = create_clip_transform(**resolve_input_data_config(model), num_crops=num_crops)
    if recipe.data.validation == MOTIONDIGITS:
        if data_class_names(recipe) != CLASS_NAMES:
            raise ValueError(f"data.train={recipe.data.train} has not the classes of motiondigits; validate elsewhere.")
        return MotionDigitsClips(_motion_digits(recipe, model, "validation"), transform)
    videos = _videos(recipe, recipe.data.validation, recipe.data.validation_split)
    if videos.has_names:
        videos = videos.relabelled(data_class_names(recipe))
    else:  # then its labels are numbers of those
        motion_digits = recipe.data.train == MOTIONDIGITS
        train = None if motion_digits else _videos(recipe, recipe.data.train, recipe.data.train_split)
        classes = CLASS_NAMES if train is None else train.classes
        videos = find_videos(recipe.data.validation, recipe.data.root, classes, recipe.data.validation_split)
    return VideoDataset(videos, transform, FrameSampling.of(model), num_clips=num_clips)


def _videos(recipe: Recipe, source: str, split: str | None) -> VideoList:
    file = recipe.data.class_names
    return find_videos(source, recipe.data.root, None if file is None else read_class_names(file), split)


def _motion_digits(recipe: Recipe, model: InTIVisionTransformer, split: str) -> MotionDigits:
    size = resolve_input_data_config(model)["input_size"][-1]
    args = recipe.data.train_args if split == "train" else recipe.data.validation_args
    return MotionDigits(split, **{"size": size, "num_frames": model.num_frames, **args})
