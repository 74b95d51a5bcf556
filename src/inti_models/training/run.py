"""Training: from a recipe to a model in a folder.

Files in the output folder:

- ``recipe.yaml``: all values of the recipe,
- ``last/``, ``best/``: the model after the last and after the best epoch, for `inti_models.load`,
- ``metrics.csv``: one row per epoch; ``tensorboard/``: the same and the training loss in between,
- ``unreadable.json``: videos that could not be read and were replaced by others,
- ``checked.txt``: digest of the videos that were opened before training,
- ``state.pt``: the state that a run resumes from,
- ``evaluation/``: the final evaluation (see `inti_models.evaluation.evaluate`).

At the end of each epoch a line on stderr reports it: loss, metrics, clips per second, time left.
"""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from timm.data import resolve_input_data_config
from torch import nn

from ..data import FrameSampling, Limits, Source, create_train_transform, open_source, read_class_names
from ..data.sources import ClipDataset, ListedVideos, unreadable_videos
from ..evaluation.evaluate import Evaluation, OtherResultsError, allowed_unreadable, validate, views_of
from ..evaluation.multi_label import MultiLabelEvaluation
from ..files import locked, write_text
from ..models.heads import factorize, fold
from ..models.probabilities import Probabilities
from ..models.registry import create_model
from ..models.stages import InTIModel
from ..text import printable
from ..weights.checkpoint_filter import ADDED
from ..weights.hub import load, save_pretrained
from ..weights.zero_shot import set_zero_shot_head
from .objectives import objective_of
from .recipe import Recipe, as_yaml, recipe_of_run
from .trainer import STATE, Trainer, create_accelerator

RECIPE = "recipe.yaml"
PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}  # of autocast -> of what was trained
CHECKED = 10_000  # videos; more are only checked on request


def train(
    recipe: Recipe, output: str | os.PathLike[str], extend: bool = False
) -> Evaluation | MultiLabelEvaluation | None:
    """Train a model by a recipe, or resume, and evaluate it. Call it in every process of a launch.

    Args:
        recipe: see `inti_models.training.recipe.load_recipe`.
        output: folder for everything that is written (see above). A run of the same recipe in it resumes where it
            stopped.
        extend: also resume a run of fewer epochs than the recipe has now. Its learning rate then follows the schedule
            of the recipe, as if the run had always had that many epochs.

    Returns:
        The final evaluation, or None without validation data.

    Raises:
        ValueError: if a value of the recipe does not fit the model or the data, the folder holds a run of another
            recipe or of other data, too many videos are unreadable, or the loss is not finite.
        BlockingIOError: if another process trains in the folder.
        OSError: if files are missing or cannot be written.
    """
    if recipe.distill is not None:
        raise ValueError("The recipe has a teacher and uses no labels (distill); run inti-models distill.")
    output = Path(output)
    accelerator = create_accelerator(recipe)
    check_unlocked(output, accelerator)
    train_source, validation_source = open_data(recipe)
    class_names = train_source.class_names
    model = build_model(recipe, class_names)
    train_set = training_set(recipe, model, train_source)
    validation_set = None if validation_source is None else views_of(validation_source, model, (1, 1))
    if validation_source is not None:
        views_of(validation_source, model, recipe.views)  # which raises now if the last measurement would

    def export(trained: nn.Module, folder: Path, evaluation: Evaluation | MultiLabelEvaluation | None) -> None:
        assert isinstance(trained, InTIModel)
        trained.head = cast(nn.Linear, fold(trained.head))  # timm types a head so
        results = [] if evaluation is None else evaluation.results(Path(str(recipe.data.validation)).name)
        save_pretrained(trained, folder, label_names=class_names, results=results)

    with claimed(output, recipe, accelerator, train_source, validation_source, extend=extend):
        objective = objective_of(recipe, len(class_names))
        Trainer(model, recipe, train_set, validation_set, output, accelerator, export, objective).run()
        accelerator.wait_for_everyone()
        evaluation = None
        if validation_source is not None:
            evaluation = _measure_last(recipe, validation_source, output, accelerator)
    return evaluation


def _measure_last(
    recipe: Recipe, source: Source, output: Path, accelerator: Accelerator
) -> Evaluation | MultiLabelEvaluation:
    """Evaluate the model after the last epoch, with the views of the recipe."""
    measure = partial(
        validate,
        load(output / "last"),
        source,
        views=recipe.views,
        batch_size=recipe.optimization.batch_size,
        num_workers=recipe.data.num_workers,
        device=accelerator.device,
        precision=PRECISIONS[recipe.precision],
        max_unreadable=recipe.data.max_unreadable,
        output=output / "evaluation",
    )
    try:
        return measure()
    except OtherResultsError:  # of this run by another version of the package
        if accelerator.is_main_process:
            shutil.rmtree(output / "evaluation")
        accelerator.wait_for_everyone()
        return measure()


def check_unlocked(output: Path, accelerator: Accelerator) -> None:
    """Raise now the BlockingIOError that `claimed` would raise once data and model are loaded."""
    if accelerator.is_main_process and output.is_dir():
        with locked(output):
            pass


@contextmanager
def claimed(
    output: Path, recipe: Recipe, accelerator: Accelerator, *sources: Source | None, extend: bool = False
) -> Iterator[None]:
    """Hold the output folder for this run, of this recipe, with its videos checked.

    Raises:
        ValueError: see `claim` and `check_videos`.
        BlockingIOError: if another process trains in the folder.
    """
    with locked(output) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            claim(output, recipe, extend)
            check_videos(output, recipe, *sources)
        accelerator.wait_for_everyone()
        yield
        accelerator.end_training()


def claim(output: Path, recipe: Recipe, extend: bool = False) -> None:
    """Write the recipe to the output folder, or check that it holds a run of it; to extend, one of fewer epochs.

    A run that stopped before it saved anything, such as for a value that does not fit the data, does not count.

    Raises:
        ValueError: if it holds a run of another recipe.
    """
    file, text = output / RECIPE, as_yaml(recipe)
    if not file.exists() or not any((output / saved).exists() for saved in (STATE, "last")):
        write_text(file, text)
        return
    longer = False
    try:
        before = recipe_of_run(file)
        theirs, epochs = as_yaml(before), before.optimization.epochs
        before.optimization.epochs = recipe.optimization.epochs
        longer = as_yaml(before) == text and epochs < recipe.optimization.epochs
    except ValueError:
        theirs = file.read_text(encoding="utf-8", errors="replace")
    if longer and extend:
        write_text(file, text)
    elif longer:
        raise ValueError(f"{output} holds a run of {epochs} epochs; add --extend, or choose another folder.")
    elif theirs != text:
        other = next((line.strip() for line in theirs.splitlines() if line not in text.splitlines()), "fewer values")
        raise ValueError(
            f"{output} holds a run of another recipe ({other}); choose another folder, or delete this one."
        )


def check_videos(output: Path, recipe: Recipe, *sources: Source | None) -> None:
    """Open the videos of training and validation set, unless already done, and name those that cannot be read.

    Raises:
        ValueError: if they are too many.
    """
    lists = [source.videos for source in sources if isinstance(source, ListedVideos)]
    videos = sum(map(len, lists))
    if not lists or recipe.data.check is False or (recipe.data.check is None and videos > CHECKED):
        return
    file = output / "checked.txt"
    digest = hashlib.sha256(repr(lists).encode()).hexdigest()
    if file.exists() and file.read_text(encoding="utf-8").strip() == digest:
        return
    paths = list(dict.fromkeys(path for videos_of in lists for path in videos_of.paths))
    faults = unreadable_videos(paths, Limits(**recipe.data.limits))
    for fault in faults.values():
        print(f"inti-models: {printable(fault)}", file=sys.stderr)
    too_many = []
    for videos_of in lists:
        unreadable = sum(path in faults for path in videos_of.paths)
        if unreadable > allowed_unreadable(recipe.data.max_unreadable, len(videos_of)):
            too_many.append(f"{unreadable} of {len(videos_of)}")
    if too_many:
        raise ValueError(
            f"{' and '.join(too_many)} videos cannot be read, more than data.max_unreadable="
            f"{recipe.data.max_unreadable:g} allows; repair or remove those above, or raise it."
        )
    write_text(file, digest + "\n")


# From the recipe to model and data


def open_data(recipe: Recipe) -> tuple[Source, Source | None]:
    """Return what to train on and what to evaluate on, with the classes of the former; the latter may be None.

    Where the validation set has numbers for classes, they are those of the training set.

    Raises:
        ValueError: if the training set has only one class, or not all classes of the validation set.
    """
    data = recipe.data
    names = None if data.class_names is None else read_class_names(data.class_names)
    open_part = partial(open_source, root=data.root, limits=Limits(**data.limits), multi_label=data.multi_label)
    train = open_part(data.train, "train", class_names=names, split=data.train_split, args=data.train_args)
    if len(train.class_names) < 2:
        raise ValueError(
            f"{data.train} has one class, {train.class_names[0]!r}; expected at least two: a folder for each, or the "
            "names of all in data.class_names."
        )
    if data.validation is None:
        return train, None
    open_validation = partial(open_part, data.validation, split=data.validation_split, args=data.validation_args)
    validation = open_validation(class_names=names)
    if not validation.has_names:
        return train, open_validation(class_names=train.classes)
    return train, validation.relabelled(train.class_names)


def build_model(recipe: Recipe, class_names: tuple[str, ...]) -> InTIModel:
    """Build the model that training starts from, with the right head and the right parameters frozen."""
    torch.manual_seed(recipe.seed)
    model = (load if recipe.pretrained else create_model)(recipe.model, **recipe.model_args)
    if recipe.head == "zero_shot":
        set_zero_shot_head(model, class_names)
    elif recipe.head == "new" or tuple(model.pretrained_cfg.get("label_names") or ()) != tuple(class_names):
        model.reset_classifier(len(class_names))
    if recipe.factors:
        model.head = cast(nn.Linear, factorize(model.head, recipe.factors))
    model.set_probabilities(Probabilities(multi_label=recipe.data.multi_label))  # a calibration was another model's
    init_interpolation_logits(model, recipe.interpolation_logit_init)
    if recipe.grad_checkpointing:
        model.set_grad_checkpointing(stages=recipe.checkpoint_stages or None)
    freeze(model, recipe.trainable)
    return model


@torch.no_grad()
def init_interpolation_logits(model: InTIModel, logit: float) -> None:
    """Start untrained interpolations off balance, the logits at -logit for the earlier and +logit for the later frame.

    At the exact mean nothing shows the order of frames, so that neither blocks nor interpolations get a gradient
    towards it: a plateau (measured on MotionDigits). Unequal weights leave a trace of direction in the tokens.
    """
    for name, bias in model.interpolations.named_parameters():
        if name.endswith("predict.logit.bias") and not bias.any():
            bias.copy_(torch.tensor([-logit, logit]))


def freeze(model: InTIModel, trainable: str) -> None:
    """Freeze all parameters but those of the head ("head"), also of the interpolations ("interpolation"), also those
    that the temporal method's paper trains ("adapters"); or none ("all").

    Raises:
        ValueError: if there is nothing of that kind to train.
    """
    patterns = {"head": [r"head\."], "interpolation": [r"head\.", r"interpolations\."], "all": [""]}
    if trainable == "adapters":
        if not model.temporal.mixes_frames:
            raise ValueError(
                "trainable=adapters, but the model has no temporal method; choose interpolation, head or all."
            )
        also = model.temporal.also_trained
        patterns["adapters"] = [r"head\.", ADDED.pattern, *(() if also is None else (also,))]
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(re.match(pattern, name) for pattern in patterns[trainable])


def training_set(recipe: Recipe, model: InTIModel, source: Source) -> ClipDataset:
    """Return augmented clips of random frames for this model."""
    a = recipe.augmentation
    transform = create_train_transform(
        **resolve_input_data_config(model),
        scale=a.scale,
        ratio=a.ratio,
        hflip=a.hflip,
        auto_augment=a.auto_augment,
        reprob=a.reprob,
    )
    return source.dataset(transform, FrameSampling.of(model), train=True, seed=recipe.seed)
