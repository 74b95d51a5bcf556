"""Compression learned without labels: a compressed model learns to answer like the model without compression.

This is the trainer's loop with another objective (`Distillation`). Files in the output folder are those of
`inti_models.training.run`, except that ``evaluation/`` is ``fidelity/``, with the table of the result and of what needs
no training (`inti_models.evaluation.fidelity`).
"""

import copy
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Limits, Source, open_source
from ..data.sources import NAMED, ListedVideos
from ..data.unlabelled import check_apart, find_unlabelled, hold_out
from ..evaluation.evaluate import Videos, views_of
from ..evaluation.fidelity import (
    TEACHER,
    Fidelity,
    Readout,
    Report,
    controls,
    gflops_of,
    outputs_of,
    write_fidelity,
)
from ..files import check_input
from ..models.stages import InTIModel
from ..weights.hub import create, load, save_pretrained
from ..weights.zero_shot import set_zero_shot_head
from .recipe import Distill, Recipe
from .run import check_unlocked, claimed, freeze, init_interpolation_logits, training_set
from .trainer import Trainer, create_accelerator

DISTILLED, FIDELITY = "distilled", "fidelity"
INHERITED = (
    "The student inherits its teacher's blindness to the order of frames: a clip and its reverse mean the same to it."
)


class Distillation:
    """Distance to a teacher on the same pixels: divergence of logits, cosine of embeddings, or both; without labels.

    Args:
        teacher: maps (B, T, C, H, W) to features (B, C), like the network being trained; it stays as it is.
        readout: readout of the features of both.
        distill: what to follow.

    Raises:
        ValueError: if logits are to be followed, but the head has no classes.
    """

    def __init__(self, teacher: nn.Module, readout: Readout, distill: Distill) -> None:
        if not readout.has_classes and distill.targets != "embedding":
            raise ValueError(
                f"The model has no classes, and so no logits to follow (distill.targets={distill.targets}); name some "
                "words (--classes), or set distill.targets=embedding."
            )
        self.teacher = teacher.requires_grad_(False).eval()
        self.readout = readout.requires_grad_(False).eval()
        self.targets, self.temperature = distill.targets, distill.temperature
        self._measured: tuple[Videos, Tensor, Tensor] | None = None

    def mix(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return clips, labels

    def loss(self, model: nn.Module, clips: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher(clips)
        return self.distance(model(clips), wanted)

    def distance(self, features: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss for features (B, C) of the student and the teacher, in float32: logits may be near 100."""
        loss = features.new_zeros((), dtype=torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            features, wanted = features.float(), wanted.float()
            if self.targets != "embedding":
                loss = loss + self.readout.divergence(features, wanted, self.temperature)
            if self.targets != "logits":
                embedding = self.readout.embedding
                loss = loss + 1 - torch.cosine_similarity(embedding(features), embedding(wanted)).mean()
        return loss

    def measure(self, model: nn.Module, videos: Videos, **settings: Any) -> Fidelity:
        """Compare with the teacher, which is run on the videos once."""
        if self._measured is None or self._measured[0] is not videos:
            outputs, labels = outputs_of({"teacher": self.teacher}, videos, **settings)
            self._measured = videos, outputs["teacher"], labels
        _, wanted, labels = self._measured
        features = outputs_of({"student": model}, videos, **settings)[0]["student"]
        return Fidelity.of(self.readout, features, wanted, self.readout.known(labels, videos))


def distill(recipe: Recipe, output: str | os.PathLike[str], extend: bool = False) -> Report:
    """Train a model's compression without labels, or resume, and evaluate it. Call it in every process of a launch.

    Args:
        recipe: such as ``load_recipe("distill", ["model=inti_vit_b16_k400", "data.train=videos"])``. The teacher is
            ``model`` with ``compress_at=()``, the student the same with the schedule of ``model_args``, or its own.
            ``data.train`` is a folder of videos, a list, or "motiondigits".
        output: folder for everything that is written. A run of the same recipe in it is resumed.
        extend: see `inti_models.train`.

    Returns:
        Fidelity on the held-out videos, of the result and of what needs no training.

    Raises:
        ValueError, BlockingIOError, OSError: see `inti_models.train`; or if the model has no compression to learn,
            interpolations that are already trained, or no logits to follow.
    """
    if recipe.distill is None:
        raise ValueError("The recipe does not say what to learn from the teacher; start from the distill recipe.")
    output = Path(output)
    accelerator = create_accelerator(recipe)
    check_unlocked(output, accelerator)
    for path in (recipe.data.train, recipe.data.validation):
        if path is not None and path not in NAMED:
            check_input(path)
    teacher, student = build_pair(recipe)
    readout = Readout.take(teacher)
    train_source, held_out_source = open_unlabelled(recipe, readout.label_names)
    head = copy.deepcopy(Readout.take(student).head)  # of the student that is saved
    measured_on = recipe.data.validation or recipe.data.train
    objective = Distillation(teacher.to(accelerator.device), readout.to(accelerator.device), recipe.distill)
    train_set = training_set(recipe, student, train_source)
    held_out = views_of(held_out_source, student, (1, 1))

    def save(model: InTIModel, folder: Path, report: Report, clips: int) -> None:
        model.head = head
        save_pretrained(
            model,
            folder,
            results=report.results(f"{len(held_out)} held-out clips of {Path(measured_on).absolute().name}"),
            description=describe(recipe, teacher, clips),
        )

    def export(trained: nn.Module, folder: Path, measured: Fidelity | None) -> None:
        assert isinstance(trained, InTIModel) and measured is not None
        report = Report({DISTILLED: (gflops_of(trained, teacher), measured)}, {})
        save(trained, folder, report, trainer.progress.updates * trainer.global_batch)

    with claimed(output, recipe, accelerator, train_source, held_out_source, extend=extend):
        trainer = Trainer(student, recipe, train_set, held_out, output, accelerator, export, objective)
        progress = trainer.run()
        accelerator.wait_for_everyone()
        last = load(output / "last")
        last.head = nn.Identity()
        report = compare(
            teacher,
            readout,
            {DISTILLED: last},
            student.compress_at,
            held_out,
            batch_size=recipe.optimization.batch_size,
            num_workers=recipe.data.num_workers,
            device=accelerator.device,
            autocast=recipe.precision,
            max_unreadable=recipe.data.max_unreadable,
        )
        if accelerator.is_main_process:
            clips = progress.updates * trainer.global_batch
            save(last.cpu(), output / "last", report, clips)
            write_fidelity(report, output / FIDELITY, **_facts(recipe, last, clips))
        accelerator.wait_for_everyone()
    return report


def compare(
    teacher: InTIModel,
    readout: Readout,
    students: dict[str, nn.Module],
    compress_at: tuple[int, ...],
    held_out: Videos,
    **settings: Any,
) -> Report:
    """Compare students and what needs no training on the same clips, all against the teacher.

    Args:
        teacher: returns features, without its head.
        readout: its head.
        students: name -> model that returns features.
        compress_at: schedule of the controls.
        held_out: videos; with labels where they have class names.
        **settings: as `outputs_of` takes them.
    """
    made, without = controls(teacher, compress_at)
    models: dict[str, nn.Module] = {**students, **made, TEACHER: teacher}
    outputs, labels = outputs_of(models, held_out, **settings)
    known = readout.known(labels, held_out)
    fidelity = {name: Fidelity.of(readout, outputs[name], outputs[TEACHER], known) for name in models}
    return Report({name: (gflops_of(models[name], teacher), fidelity[name]) for name in models}, without)


def build_pair(recipe: Recipe) -> tuple[InTIModel, InTIModel]:
    """Build the teacher, which compresses nothing, and the student: the same weights, with interpolations to train.

    Raises:
        ValueError: if the student compresses nothing either, or nothing trainable; the weights come with trained
            interpolations, or without the head; or the softmax of a single class is to be followed.
    """
    assert recipe.distill is not None
    args = dict(recipe.model_args)
    classes = recipe.distill.classes
    if classes:
        args["num_classes"] = 0
    shape = create(recipe.model, device="meta", **args)
    if not shape.compress_at:
        raise ValueError(
            f"{recipe.model} compresses nothing; say after which blocks to compress (--compress-at, --budget, "
            "model_args.compress_at)."
        )
    torch.manual_seed(recipe.seed)
    student = load(recipe.model, **args)
    if any(bool(p.any()) for name, p in student.interpolations.named_parameters() if ".predict.logit." in name):
        raise ValueError(
            f"{recipe.model} has trained interpolations, so without them it cannot be the teacher; name the "
            "model it was made from."
        )
    teacher = load(recipe.model, **{**args, "compress_at": ()})
    # What no file has is drawn anew by each load.
    if any(not torch.equal(p, q) for p, q in zip(teacher.head.parameters(), student.head.parameters(), strict=True)):
        raise ValueError(
            f"{recipe.model} has no weights for its head of {teacher.num_classes} classes, whose logits are random; "
            "name some words (--classes), or set distill.targets=embedding and model_args.num_classes=0."
        )
    if classes:
        for model in (teacher, student):
            set_zero_shot_head(model, classes)
    if teacher.num_classes == 1 and not teacher.probabilities.multi_label and recipe.distill.targets != "embedding":
        raise ValueError(
            "One class alone has a probability of 1 for any clip, which is nothing to follow; name more words "
            "(--classes), or set distill.targets=embedding."
        )
    init_interpolation_logits(student, recipe.interpolation_logit_init)
    if recipe.grad_checkpointing:
        student.set_grad_checkpointing(stages=recipe.checkpoint_stages or None)
    freeze(student, recipe.trainable)
    if recipe.trainable == "interpolation" and not any(p.requires_grad for p in student.interpolations.parameters()):
        raise ValueError(
            "The interpolations of weighting=uniform have nothing to learn; leave the weighting out, or set "
            "trainable=all."
        )
    return teacher, student


def open_unlabelled(recipe: Recipe, class_names: tuple[str, ...]) -> tuple[Source, Source]:
    """Open what to learn from and what is held out, by file; labels that are ``class_names`` are only for evaluation.

    Raises:
        FileNotFoundError, ValueError: see `find_unlabelled` and `hold_out`.
    """
    assert recipe.distill is not None
    data, limits = recipe.data, Limits(**recipe.data.limits)
    if data.class_names is not None:
        raise ValueError("data.class_names is for labels, which distill does not use; leave it out.")
    find = partial(find_unlabelled, root=data.root, class_names=class_names)

    def opened(path: str, part: str, split: str | None, args: dict[str, Any]) -> Source:
        if path in NAMED or args:
            return open_source(path, part, split=split, args=args)
        return ListedVideos(find(path, split=split), limits)

    train = opened(data.train, "train", data.train_split, data.train_args)
    if data.validation is not None:
        validation = opened(data.validation, "validation", data.validation_split, data.validation_args)
        if isinstance(train, ListedVideos) and isinstance(validation, ListedVideos):
            check_apart(train.videos, validation.videos)
        return train, validation
    if not isinstance(train, ListedVideos):
        return train, opened(data.train, "validation", None, data.validation_args)
    kept, held_out = hold_out(train.videos, recipe.distill.held_out)
    return ListedVideos(kept, limits), ListedVideos(held_out, limits)


def describe(recipe: Recipe, teacher: InTIModel, clips: int) -> str:
    """Return the model card's description of a distilled model."""
    data = Path(recipe.data.train).absolute().name
    blind = "" if teacher.temporal.mixes_frames else f" {INHERITED}"
    trained = "its interpolations only" if recipe.trainable == "interpolation" else "all but its head"
    return (
        f"Compression learned without labels from `{recipe.model}` without compression, the teacher, on {clips:,} "
        f"clips of {data}; trained were {trained}. Below is how closely it follows the teacher on clips that were held "
        f"out.{blind}"
    )


def _facts(recipe: Recipe, student: InTIModel, clips: int) -> dict[str, Any]:
    assert recipe.distill is not None
    return {
        "teacher": recipe.model,
        "compress_at": list(student.compress_at),
        "trained": recipe.trainable,
        "targets": recipe.distill.targets,
        "temperature": recipe.distill.temperature,
        "data": recipe.data.train,
        "clips": clips,
    }
