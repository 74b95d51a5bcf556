"""Recipes: everything that determines a training run, as data. A YAML file, and overrides of it.

The published recipes are the YAML files in ``recipes`` beside this file; each says where its values come from.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from ..data import Limits

RECIPES = Path(__file__).with_name("recipes")
TRAINABLE = ("all", "interpolation", "adapters", "head")
LOSSES = ("auto", "asymmetric")
HEADS = ("auto", "new", "zero_shot")
PRECISIONS = ("no", "fp16", "bf16")
TARGETS = ("logits", "embedding", "both")
# Old name of a key, in runs that began before it was renamed -> key.
RENAMED = {
    "lean": "interpolation_logit_init",
    "train": "trainable",
    "data.max_broken": "data.max_unreadable",
}


@dataclass
class Data:
    """What to train on and to evaluate on.

    Attributes:
        train, validation: a folder with a folder of videos for each class, a list file (see
            `inti_models.data.find_videos`), or "motiondigits". Without a validation set nothing is evaluated.
        root: folder that the paths of lists are relative to; null for the list's own.
        class_names: text file with one class name per line, in the order of class indices.
        train_split, validation_split: values of the lists' columns of splits, or sub-folders; null for all.
        train_args, validation_args: arguments of `MotionDigits`.
        num_workers: data loading processes per training process.
        max_unreadable: fraction of videos that may turn out to be unreadable before the run stops;
            unless it is 0, at least one may.
        multi_label: a video may have several labels, or none; `inti_models.data.find_videos` says how lists say so.
        check: open every video before training, to name all unreadable ones at once; null to do so for up to 10,000
            videos. A resumed run does not check again.
        limits: what a file may ask for, such as {max_pixels: 10000000, timeout: 60}; see `inti_models.data.Limits`.
    """

    train: str = MISSING
    validation: str | None = None
    root: str | None = None
    class_names: str | None = None
    train_split: str | None = None
    validation_split: str | None = None
    train_args: dict[str, Any] = field(default_factory=dict)
    validation_args: dict[str, Any] = field(default_factory=dict)
    num_workers: int = 4
    max_unreadable: float = 0.01
    multi_label: bool = False
    check: bool | None = None
    limits: dict[str, Any] = field(default_factory=dict)


@dataclass
class Augmentation:
    """Augmentation of training clips, the same in all frames of a clip.

    Attributes:
        scale, ratio: area and aspect ratio of the random crop, the area as a fraction of the frame's; (1, 1) takes the
            whole frame.
        hflip: probability of a mirrored clip. 0 where left and right are part of the class.
        auto_augment: timm's RandAugment string, such as "rand-m9-mstd0.5-inc1".
        reprob: probability of random erasing.
        repeats: augmentations of each drawn video in a batch.
        mixup, cutmix: alpha of the Beta distribution, 0 for none.
        mixup_prob, mixup_switch_prob: timm's probabilities, of mixing at all, and of CutMix where both are set.
        smoothing: label smoothing.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    hflip: float = 0.5
    auto_augment: str | None = None
    reprob: float = 0.0
    repeats: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    smoothing: float = 0.0


@dataclass
class Optimization:
    """How the weights are updated.

    Attributes:
        epochs: passes over the training set.
        batch_size: clips per step and process.
        accumulation: steps whose gradients are accumulated for one update.
        optimizer: timm's name.
        opt_args: further arguments of the optimizer, such as {betas: [0.9, 0.98]}.
        lr: learning rate at a global batch of ``lr_batch`` clips, to which it is scaled linearly.
        lr_batch: size of the global batch that ``lr`` is for; null for any.
        weight_decay: decay of the weights; biases and norms have none.
        layer_decay: factor of the learning rate from each block to the one below; null for none.
        fused: update all weights in one kernel, for optimizers that can (AdamW, Adam, SGD); null to do so on a CPU,
            where it was measured to pay off, and to leave it to PyTorch elsewhere.
        clip_grad: maximum norm of the gradient; null for any.
        schedule: timm's name, stepped at each update.
        warmup_epochs, min_lr: arguments of the schedule; ``min_lr`` is scaled like ``lr``.
        ema: decay of the moving average of the weights, which is then evaluated and saved; null for none.
    """

    epochs: int = 10
    batch_size: int = 8
    accumulation: int = 1
    optimizer: str = "adamw"
    opt_args: dict[str, Any] = field(default_factory=dict)
    lr: float = 1e-5
    lr_batch: int | None = None
    weight_decay: float = 0.05
    layer_decay: float | None = None
    fused: bool | None = None
    clip_grad: float | None = 1.0
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    min_lr: float = 0.0
    ema: float | None = None


@dataclass
class Distill:
    """What a compressed model learns from the model without compression, for `inti-models distill`: no labels.

    Attributes:
        targets: "logits" (Kullback-Leibler divergence), "embedding" (one minus the cosine), or "both", their sum.
        temperature: divides the logits of both.
        classes: words of a zero-shot head, whose logits are followed; empty for the model's own head.
        held_out: fraction of the videos, by file, to evaluate on where there is no data.validation.
    """

    targets: str = "logits"
    temperature: float = 1.0
    classes: list[str] = field(default_factory=list)
    held_out: float = 0.1


@dataclass
class Recipe:
    """A training run.

    Attributes:
        model: what `inti_models.load` takes, such as "inti_vit_b16_k400.openai" or "local-dir:runs/mine".
        pretrained: start from the model's weights; false to start from random ones.
        model_args: arguments of the model to change, such as {num_frames: 16, drop_path_rate: 0.1}.
        head: "auto" keeps the head if it is for these classes and otherwise makes a new one, "new" makes a new
            one, "zero_shot" makes one from the class names with the text tower of the model's CLIP.
        factors: numbers of values of labels whose combinations are the classes, such as [10, 12] (digit, motion)
            or [97, 300] (verb, noun), the last varying fastest; the head then sums one term for each label.
        loss: with ``data.multi_label``, "auto" is binary cross-entropy and "asymmetric" timm's asymmetric loss;
            otherwise "auto" is cross-entropy.
        interpolation_logit_init: at the start the logits of an untrained interpolation are minus this for the earlier
            and plus this for the later frame. 0 is the neutral start, at which a clip and its reverse look the same.
        trainable: "all", "head", "interpolation" (and head) or "adapters" (and interpolations and head).
        distill: what to learn from the model without compression; null to learn from labels. The head then stays as it
            is, so that ``trainable`` is "interpolation" or "all" of the rest.
        precision: "no" (float32), "bf16" or "fp16" autocast.
        fsdp: shard parameters over processes (FSDP2) instead of copying them (DDP).
        compile: compile the model with torch.compile.
        tf32: let CUDA multiply float32 matrices in TensorFloat-32.
        channels_last: keep frames and kernels in channels-last order.
        grad_checkpointing: recompute activations instead of keeping them.
        checkpoint_stages: recompute only those after this many compressions, such as [0]; empty for all.
        seed: of everything random.
        views: temporal clips and spatial crops of the final evaluation.
        validate_every: epochs from one evaluation (one view) to the next.
        save_every: updates from one saved state to the next; one is saved after each epoch anyway.
    """

    model: str = MISSING
    pretrained: bool = True
    model_args: dict[str, Any] = field(default_factory=dict)
    head: str = "auto"
    factors: list[int] = field(default_factory=list)
    loss: str = "auto"
    interpolation_logit_init: float = 0.0
    trainable: str = "all"
    distill: Distill | None = None
    data: Data = field(default_factory=Data)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimization: Optimization = field(default_factory=Optimization)
    precision: str = "no"
    fsdp: bool = False
    compile: bool = False
    tf32: bool = False
    channels_last: bool = False
    grad_checkpointing: bool = False
    checkpoint_stages: list[int] = field(default_factory=list)
    seed: int = 0
    views: tuple[int, int] = (1, 1)
    validate_every: int = 1
    save_every: int = 500


_PARTS = {"distill": Distill, "data": Data, "augmentation": Augmentation, "optimization": Optimization}


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a YAML file, or the name of a published recipe, such as "k400_b16".
        overrides: "key=value", such as "optimization.lr=1e-4"; values as in YAML.

    Raises:
        FileNotFoundError: if there is no such file or recipe.
        ValueError: if it is not YAML, or has a key or value that a recipe cannot have.
    """
    path = Path(source)
    if not path.is_file():
        path = recipe_file(str(source))
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"{override!r} is not an override; write key=value, such as optimization.lr=1e-4.")
    try:
        given = [OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides))]
        for values in given:
            for old, new in RENAMED.items():
                if isinstance(values, DictConfig) and OmegaConf.select(values, old) is not None:
                    raise ValueError(f"{old} in {path} or its overrides is now called {new}; rename it.")
        recipe = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Recipe), *given))
    except MissingMandatoryValue as error:
        raise ValueError(f"{path} does not set {error.full_key}; add {error.full_key}=VALUE.") from error
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, TypeError) as error:
        reason = " ".join(str(error).split("full_key")[0].split()).rstrip(".?")
        if key := getattr(error, "full_key", None):
            reason = f"{key}: {reason}"
        raise ValueError(f"{' '.join([str(path), *overrides])} is not a recipe: {reason}.") from error
    assert isinstance(recipe, Recipe)
    _check(recipe)
    return recipe


def recipe_names() -> list[str]:
    """Return the names of the published recipes."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def recipe_file(name: str) -> Path:
    """Return the file of a published recipe.

    Raises:
        FileNotFoundError: if there is none of this name.
    """
    if name not in recipe_names():
        raise FileNotFoundError(f"There is no recipe {name}; pass a YAML file or one of: {', '.join(recipe_names())}.")
    return RECIPES / f"{name}.yaml"


def explain_keys() -> Iterator[tuple[str, str, str]]:
    """Yield each key of a recipe with its default, as YAML ("???": to be given), and its meaning."""
    for prefix, part in {"": Recipe, **{f"{name}.": part for name, part in _PARTS.items()}}.items():
        attributes = str(part.__doc__).partition("Attributes:\n")[2]
        values = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(part)))
        # "a, b: meaning", and lines below that are further in
        for names, meaning in re.findall(r"^ {8}(\w[\w, ]*): (.*(?:\n {12}.*)*)", attributes, re.MULTILINE):
            for name in names.split(", "):
                yield prefix + name, json.dumps(values[name]).strip('"'), " ".join(meaning.split())


def recipe_of_run(path: Path) -> Recipe:
    """Return the recipe that a run wrote, with keys renamed since then under their present names.

    Raises:
        ValueError: if it is not a recipe.
    """
    try:
        values = cast(DictConfig, OmegaConf.load(path))
        for old, new in RENAMED.items():
            value, (parent, _, key) = OmegaConf.select(values, old), old.rpartition(".")
            if value is not None:
                OmegaConf.update(values, new, value)
                del (OmegaConf.select(values, parent) if parent else values)[key]
        return cast(Recipe, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Recipe), values)))
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not a recipe ({error}); restore it, or delete the folder.") from error


def as_yaml(recipe: Recipe) -> str:
    """Return all values of a recipe as YAML that `load_recipe` reads."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def _check(recipe: Recipe) -> None:
    """Raise a ValueError for what types alone do not show."""
    try:
        Limits(**recipe.data.limits)
    except (TypeError, ValueError) as error:
        names = ", ".join(field.name for field in fields(Limits))
        raise ValueError(f"data.limits={recipe.data.limits} is invalid ({error}); set numbers for {names}.") from error
    o, a = recipe.optimization, recipe.augmentation
    if recipe.loss == "asymmetric" and not recipe.data.multi_label:
        raise ValueError(
            "loss=asymmetric is for videos with several labels; add data.multi_label=true, or leave it out."
        )
    if recipe.loss == "asymmetric" and (a.mixup or a.cutmix or a.smoothing):
        raise ValueError(
            "loss=asymmetric needs labels that a clip has or does not have; leave augmentation.mixup, cutmix and "
            "smoothing out, or use loss=auto."
        )
    if recipe.factors and recipe.data.multi_label:
        raise ValueError("factors make combinations of labels, but data.multi_label=true has none; leave one out.")
    choices = {"trainable": TRAINABLE, "head": HEADS, "precision": PRECISIONS, "loss": LOSSES}
    for name, allowed in choices.items():
        if getattr(recipe, name) not in allowed:
            raise ValueError(f"{name}={getattr(recipe, name)!r} is unknown; choose one of {', '.join(allowed)}.")
    at_least_one = {
        "optimization.epochs": o.epochs,
        "optimization.batch_size": o.batch_size,
        "optimization.accumulation": o.accumulation,
        "augmentation.repeats": a.repeats,
        "validate_every": recipe.validate_every,
        "save_every": recipe.save_every,
        **{f"factors[{i}]": factor for i, factor in enumerate(recipe.factors)},
        **{f"views[{i}]": views for i, views in enumerate(recipe.views)},
    }
    for name, value in at_least_one.items():
        if value < 1:
            raise ValueError(f"{name}={value} is not a number of at least 1; pass one.")
    fractions = {
        "data.max_unreadable": recipe.data.max_unreadable,
        "augmentation.hflip": a.hflip,
        "augmentation.reprob": a.reprob,
        "augmentation.mixup_prob": a.mixup_prob,
        "augmentation.mixup_switch_prob": a.mixup_switch_prob,
        "augmentation.smoothing": a.smoothing,
        "optimization.ema": 0.0 if o.ema is None else o.ema,
    }
    for name, fraction in fractions.items():
        if not 0 <= fraction <= 1:
            raise ValueError(f"{name}={fraction} is not a fraction; pass a number from 0 to 1.")
    if recipe.distill is not None:
        _check_distill(recipe, recipe.distill)
    if o.batch_size % a.repeats:
        raise ValueError(
            f"optimization.batch_size={o.batch_size} is not a multiple of augmentation.repeats={a.repeats}; choose one."
        )
    if o.lr < 0 or o.weight_decay < 0:
        raise ValueError(f"optimization.lr={o.lr} and weight_decay={o.weight_decay} must be at least 0.")
    if recipe.views[1] not in (1, 3):
        raise ValueError(f"views={list(recipe.views)} has {recipe.views[1]} crops; use 1 or 3.")
    if recipe.fsdp and o.ema is not None:
        raise ValueError("fsdp=true cannot be combined with optimization.ema; leave one of them out.")


def _check_distill(recipe: Recipe, distill: Distill) -> None:
    a = recipe.augmentation
    if distill.targets not in TARGETS:
        raise ValueError(f"distill.targets={distill.targets!r} is unknown; choose one of {', '.join(TARGETS)}.")
    if not 0 < distill.temperature < math.inf:
        raise ValueError(f"distill.temperature={distill.temperature:g} is not a number above 0; pass one, such as 1.")
    if not 0 < distill.held_out < 1:
        raise ValueError(f"distill.held_out={distill.held_out:g} is not between 0 and 1; pass one that is, as 0.1.")
    if recipe.trainable not in ("interpolation", "all"):
        raise ValueError(f"trainable={recipe.trainable} leaves nothing to distill; choose interpolation or all.")
    if a.mixup or a.cutmix or a.smoothing:
        raise ValueError(
            "augmentation.mixup, cutmix and smoothing are for labels, which distill does not use; set them to 0."
        )
    if recipe.data.multi_label:
        raise ValueError("data.multi_label is for labels, which distill does not use; leave it out.")
    if recipe.views != (1, 1):
        raise ValueError(f"views={list(recipe.views)} are not used by distill, which takes one; leave them out.")
    if not recipe.pretrained:
        raise ValueError("pretrained=false makes a teacher with random weights; name a model with weights.")
    if recipe.factors or recipe.head != "auto":
        raise ValueError("factors and head make a new head, but distill keeps the model's; leave them out.")
