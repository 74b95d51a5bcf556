"""Evaluation of any network that classifies clips: views of videos become accuracy, tables and pictures.

The processes of torch.distributed split the work, if there is a process group (accelerate's ``Accelerator()`` or
``PartialState()`` make one). Results are kept video by video, so that a killed run resumes.
"""

import csv
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple, Protocol, TypeVar, cast
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from huggingface_hub import EvalResult
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..data import ClipTransform, FrameSampling, Limits, Source, open_source
from ..data.limits import DEFAULT_LIMITS
from ..data.sources import ClipDataset
from ..files import locked, replacing, write_text
from ..models.heads import CosineHead
from ..models.precision import choose_precision, set_precision
from ..models.probabilities import THRESHOLD, Probabilities, tempered
from ..models.stages import InTIModel
from ..text import csv_cell, printable
from ..weights.tensor_files import digest
from .calibration import expected_calibration_error, reliability_picture
from .multi_label import MultiLabelEvaluation

_logger = logging.getLogger(__name__)
_Value = TypeVar("_Value")
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_CLASSES = 40  # of a picture, to be legible


class OtherResultsError(ValueError):
    """A ``work_dir`` with results of another model, of other data or of another precision."""


class Videos(Protocol):
    """Videos to evaluate on, such as a `VideoDataset` that is not for training.

    Item i is (views (V, T, C, H, W), label, fault); a fault is a sentence that names a video that cannot be read. Where
    a video may have several labels, a label is float (classes,): 1 for those that it has.
    """

    @property
    def class_names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Any, str]: ...


class ClassAccuracy(NamedTuple):
    """A row of the table of classes: videos of the class, and the percent of them that are labelled right."""

    name: str
    videos: int
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model's predictions for the videos of a data set, in the order of the data set.

    Attributes:
        labels: int64 (n,), of the videos that could be read.
        probabilities: float32 (n, classes), averaged over the views.
        class_names: names of all classes.
        unreadable: index in the data set -> sentence that names the video and says why it could not be read.
    """

    labels: Tensor
    probabilities: Tensor
    class_names: tuple[str, ...]
    unreadable: dict[int, str]

    def ranking(self) -> Tensor:
        """Classes of each video, the most probable first, int64 (n, classes).

        Views that are sure of different classes tie; the first class then wins, on any machine (unlike with `topk`).
        """
        return self.probabilities.argsort(dim=1, descending=True, stable=True)

    def top(self, k: int) -> float:
        """Return the percent of the videos whose class is among the ``k`` most probable ones."""
        hits = self.ranking()[:, :k] == self.labels.unsqueeze(1)
        return 100 * hits.any(dim=1).double().mean().item()

    @property
    def top1(self) -> float:
        """Percent of the videos whose class is the most probable one."""
        return self.top(1)

    @property
    def top5(self) -> float | None:
        """Percent of the videos whose class is among the five most probable ones; None for five classes or fewer."""
        return self.top(5) if len(self.class_names) > 5 else None

    @property
    def mean_class(self) -> float:
        """Mean over the classes that occur of the percent of their videos that are labelled right."""
        return float(np.mean([row.accuracy for row in self.per_class() if row.accuracy is not None]))

    @property
    def loss(self) -> float:
        """Cross-entropy, in nats, of the averaged probabilities."""
        return F.nll_loss(self.probabilities.clamp_min(torch.finfo(torch.float32).tiny).log(), self.labels).item()

    @property
    def score(self) -> float:
        """Score by which the best epoch of a training run is chosen: top-1."""
        return self.top1

    @property
    def metrics(self) -> dict[str, float | None]:
        """Values of an epoch's row in ``metrics.csv``."""
        return {"validation_loss": self.loss, "top1": self.top1, "top5": self.top5}

    def confusion(self) -> Tensor:
        """Return the videos of each class (row) labelled as each class (column), int64 (classes, classes)."""
        classes = len(self.class_names)
        return torch.bincount(self.labels * classes + self.ranking()[:, 0], minlength=classes**2).unflatten(
            0, (classes, -1)
        )

    def per_class(self) -> list[ClassAccuracy]:
        """Return the table of classes, in their order; the accuracy of a class without videos is None."""
        confusion = self.confusion()
        counts = zip(self.class_names, confusion.sum(dim=1).tolist(), confusion.diagonal().tolist(), strict=True)
        return [ClassAccuracy(name, n, 100 * right / n if n else None) for name, n, right in counts]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the probabilities, for JSON; numbers with two decimals."""
        numbers = {"top1": self.top1, "top5": self.top5, "mean_class": self.mean_class, "loss": self.loss}
        classes = [row._replace(accuracy=_rounded(row.accuracy)) for row in self.per_class()]
        return {
            "videos": len(self.labels),
            **{name: _rounded(number) for name, number in numbers.items()},
            "calibration_error": _rounded(expected_calibration_error(self.probabilities, self.labels)),
            "per_class": [row._asdict() for row in classes],
            "unreadable": list(self.unreadable.values()),
        }

    def results(self, dataset_name: str) -> list[EvalResult]:
        """Return top-1 and top-5 for the model card, as `inti_models.save_pretrained` takes them."""
        numbers = {"top-1": self.top1, "top-5": self.top5}
        dataset_type = re.sub(r"\W+", "-", dataset_name.lower()).strip("-")
        return [
            EvalResult(
                task_type="video-classification",
                dataset_type=dataset_type,
                dataset_name=dataset_name,
                metric_type="accuracy",
                metric_value=_rounded(number),
                metric_name=name,
            )
            for name, number in numbers.items()
            if number is not None
        ]


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 2)


def evaluate(model: nn.Module, dataset: Videos, **settings: Any) -> Evaluation:
    """Evaluate a model on a data set: the softmax of its logits, averaged over the views of each video.

    Args, Raises: see `collect`.

    Returns:
        The same in every process.
    """
    labels, raw, faults = collect(model, dataset, Tensor.softmax, **settings)
    said = getattr(model, "probabilities", Probabilities())
    temperature = 1.0 if said.multi_label else said.temperature
    return Evaluation(labels, tempered(raw, temperature, False), tuple(dataset.class_names), faults)


def evaluate_multi_label(model: nn.Module, dataset: Videos, **settings: Any) -> MultiLabelEvaluation:
    """Evaluate a model on videos that may have several labels, by its thresholds.

    The probabilities are the sigmoid of its logits, averaged over the views of each video; the softmax for an InTI
    model that gives one label per video, such as a CLIP text head.

    Args, Raises: see `collect`.

    Returns:
        The same in every process.
    """
    said = getattr(model, "probabilities", Probabilities(multi_label=True))
    read = _sigmoid if said.multi_label else Tensor.softmax
    labels, raw, faults = collect(model, dataset, read, **settings)
    thresholds = said.thresholds or (THRESHOLD,) * len(dataset.class_names)
    probabilities = tempered(raw, said.temperature, said.multi_label)
    return MultiLabelEvaluation(labels.bool(), probabilities, tuple(thresholds), tuple(dataset.class_names), faults)


def _sigmoid(logits: Tensor, dim: int) -> Tensor:
    return logits.sigmoid()


@torch.no_grad()
def collect(
    model: nn.Module,
    dataset: Videos,
    read: Callable[..., Tensor],
    *,
    batch_size: int,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    autocast: str = "no",
    precision: str | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    max_unreadable: float = 0.01,
    progress: bool = True,
    width: int | None = None,
) -> tuple[Tensor, Tensor, dict[int, str]]:
    """Run a model on a data set, and keep its output for each video.

    The global random generators stay as they are.

    Args:
        model: from clips (B, T, C, H, W) to logits (B, classes). It is moved to ``device`` and put into evaluation
            mode. It may be wrapped only if it is sharded (FSDP), and then without a ``work_dir``.
        dataset: the videos, see `Videos`.
        read: turns logits into what is averaged over the views, called as ``read(logits, dim=-1)``.
        batch_size: clips that go through the model together; views of a video are split if they are more.
        num_workers: processes that read videos, for each process that evaluates.
        device: where to run.
        autocast: "no", "bf16" or "fp16".
        precision: of an InTI model, instead of autocast (see `inti_models.models.precision.set_precision`); None
            evaluates the model as it is.
        work_dir: folder, visible to all processes, that keeps the result of each video. A run with the same
            model, data and precision, on any number of processes, takes what is there and evaluates the rest, including
            unreadable videos.
        max_unreadable: fraction of the videos that may be unreadable; unless it is 0, at least one may be.
        progress: show a bar.
        width: number of values per video; None for one for each class.

    Returns:
        The same in every process: labels of the videos that could be read, int64 (n,) or (n, classes); what was read,
        float32 (n, width); and index -> sentence for those that could not be read.

    Raises:
        ValueError: if there are no videos, or more are unreadable than ``max_unreadable`` allows; ``work_dir`` is
            another run's; the classes of model and data differ; the model's output is not finite; or ``autocast`` is
            unknown.
        OSError: if ``work_dir`` cannot be written.
    """
    if autocast not in DTYPES:
        raise ValueError(f"autocast is {autocast!r}; expected one of {', '.join(DTYPES)}.")
    if batch_size < 1 or len(dataset) < 1:
        raise ValueError(f"batch_size is {batch_size} for {len(dataset)} videos; both have to be at least 1.")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device, classes = torch.device(device), len(dataset.class_names) if width is None else width
    model.to(device).eval()
    views, label, _ = dataset[0]  # V T C H W
    label_of_row = ("label", "<i8", (len(label),) if isinstance(label, Tensor) else ())
    row = np.dtype([("index", "<i8"), label_of_row, ("probabilities", "<f4", (classes,))])

    name = getattr(model, "precision", "float32") if precision is None else choose_precision(precision, device)
    name = name if autocast == "no" else autocast
    done, results = np.empty(0, row), os.devnull
    if work_dir is not None:
        done = _of_first_process(lambda: _finished(Path(work_dir), row, _settings(model, dataset, views, name, read)))
        results = os.fspath(Path(work_dir, f"{uuid4().hex}.rows"))
    if precision is not None:  # after the weights are known by their digest
        set_precision(cast(InTIModel, model), precision, device)
    todo = np.setdiff1d(np.arange(len(dataset)), done["index"])
    # As many videos for each process, for a sharded model's processes work in step. The few that two of them measure
    # count once.
    mine = [int(todo[i % len(todo)]) for i in range(rank, -(-len(todo) // world) * world, world)]
    step = max(1, batch_size // len(views))
    loader = DataLoader(
        cast(Dataset, dataset),
        step,
        sampler=mine,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
    )
    measured, faults = [np.empty(0, row)], dict[int, str]()
    bar = tqdm(total=len(mine), desc="evaluate", unit="video", disable=not progress or rank > 0)
    with bar, open(results, "wb") as file:
        for start, (clips, labels, sentences) in zip(range(0, len(mine), step), loader, strict=True):
            indices = mine[start : start + step]
            faults |= {index: sentence for index, sentence in zip(indices, sentences, strict=True) if sentence}
            check_unreadable(faults, len(dataset), max_unreadable)
            probabilities = _values(model, read, clips, batch_size, device, autocast)
            _check_output(probabilities, indices, classes)
            rows = np.empty(len(indices), row)
            rows["index"], rows["label"], rows["probabilities"] = indices, labels, probabilities
            measured.append(rows[[not sentence for sentence in sentences]])
            file.write(measured[-1].tobytes())
            file.flush()
            bar.update(len(indices))

    parts = of_all_processes((np.concatenate(measured), faults))
    table = np.concatenate([done, *(rows for rows, _ in parts)])
    table = table[np.unique(table["index"], return_index=True)[1]]
    faults = dict(sorted((index, fault) for _, some in parts for index, fault in some.items()))
    check_unreadable(faults, len(dataset), max_unreadable)
    for fault in faults.values() if rank == 0 else ():
        _logger.warning(fault)
    labels, probabilities = (torch.from_numpy(table[name].copy()) for name in ("label", "probabilities"))
    return labels, probabilities, faults


def validate(
    model: InTIModel,
    data: str | os.PathLike[str] | Source,
    *,
    views: tuple[int, int] | None = None,
    root: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    precision: str | None = None,
    max_unreadable: float = 0.01,
    limits: Limits = DEFAULT_LIMITS,
    output: str | os.PathLike[str] | None = None,
) -> Evaluation | MultiLabelEvaluation:
    """Evaluate a model on videos with labels, by its own frames, size and class names; see `collect` for the rest.

    Videos may have several labels if they were opened so, and those of a path if the model `gives_several_labels`.

    Args:
        model: an InTI model with a classifier.
        data: a folder, a list file, or the name of a data set (see `inti_models.data.open_source`); or one opened.
        views: temporal clips and spatial crops of each video, such as (4, 3); None for the model's own.
        root: see `inti_models.data.open_source`.
        class_names: see `inti_models.data.open_source`.
        precision: see `collect`.
        limits: what a file may ask for, unless the data were opened before.
        output: folder for the report (see `write_report`), and for the results of a stopped run.

    Raises:
        FileNotFoundError: if there are no such data.
        ValueError: if the model has no classifier, not the classes of the data, or already another precision; or see
            `collect`.
        BlockingIOError: if another process writes to ``output``.
    """
    if model.num_classes < 1:
        raise ValueError("The model has no classifier (num_classes=0); create it with a number of classes.")
    if isinstance(data, str | os.PathLike):
        several = gives_several_labels(model)
        data = open_source(data, root=root, class_names=class_names, limits=limits, multi_label=several)
    names = model.pretrained_cfg.get("label_names") or ()
    if len(names) == model.num_classes:
        data = data.relabelled(names)
    with ExitStack() as held:
        if output is not None:
            _of_first_process(lambda: held.enter_context(locked(output)))
        measure = evaluate_multi_label if data.multi_label else evaluate
        evaluation = measure(
            model,
            views_of(data, model, views),
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
            precision=precision,
            work_dir=output,
            max_unreadable=max_unreadable,
        )
        if output is not None and (not dist.is_initialized() or dist.get_rank() == 0):
            write_report(evaluation, output)
        return evaluation


def gives_several_labels(model: InTIModel) -> bool:
    """Return whether a model was trained on videos with several labels, so that its data have them too.

    A text head from a model trained with a sigmoid fits videos with one label just as well.
    """
    return model.probabilities.multi_label and not isinstance(model.head, CosineHead)


def views_of(source: Source, model: InTIModel, views: tuple[int, int] | None = None) -> ClipDataset:
    """Return the views, temporal clips and spatial crops, of each video for this model; None for its own number."""
    num_clips, num_crops = model.views if views is None else views
    return source.dataset(ClipTransform.of(model, num_crops), FrameSampling.of(model), num_clips)


def _values(
    model: nn.Module,
    read: Callable[..., Tensor],
    clips: Tensor,
    batch_size: int,
    device: torch.device,
    autocast: str,
) -> Tensor:
    """Return what is read from logits of views (B, V, T, C, H, W), averaged over V: float32 (B, width) on the CPU."""
    with torch.autocast(device.type, DTYPES[autocast], enabled=autocast != "no"):
        pieces = clips.flatten(0, 1).split(batch_size)
        logits = torch.cat([model(piece.to(device, non_blocking=True)) for piece in pieces])
    return read(logits.float(), dim=-1).unflatten(0, clips.shape[:2]).mean(dim=1).cpu()


def _check_output(probabilities: Tensor, indices: Sequence[int], classes: int) -> None:
    if probabilities.shape[1] != classes:
        raise ValueError(f"The model has {probabilities.shape[1]} classes, the data {classes}; give it another head.")
    for index, finite in zip(indices, probabilities.isfinite().all(dim=1).tolist(), strict=True):
        if not finite:
            raise ValueError(f"The model's output for video {index} is not finite; try float32 or other weights.")


def allowed_unreadable(fraction: float, videos: int) -> int:
    """Return how many of ``videos`` may be unreadable: the fraction of them, but at least one unless it is 0."""
    return max(int(fraction * videos), 1 if fraction > 0 else 0)


def check_unreadable(faults: dict[int, str], videos: int, max_unreadable: float) -> None:
    """Raise a ValueError if more videos are unreadable than this fraction allows, or all."""
    if len(faults) > allowed_unreadable(max_unreadable, videos) or len(faults) == videos:
        raise ValueError(
            f"At least {len(faults)} of {videos} videos cannot be read, too many for max_unreadable={max_unreadable:g}"
            "; fix the list or its root, or raise max_unreadable. "
            f"The first: {next(iter(faults.values()))}"
        )


def contents_of(dataset: Any) -> str:
    """Return what a data set is made of, as text: its classes, and its videos with their labels."""
    source = getattr(dataset, "videos", None) or getattr(dataset, "digits", None)
    return repr((len(dataset), tuple(dataset.class_names), source))


def _settings(
    model: nn.Module, dataset: Videos, views: Tensor, precision: str, read: Callable[..., Tensor]
) -> dict[str, Any]:
    """Return what the results of a run depend on. A data set is known by its contents and its first item."""
    return {
        "model": hashlib.sha256(f"{model}{digest(model.state_dict())}".encode()).hexdigest(),
        "data": hashlib.sha256(f"{contents_of(dataset)}{digest({'views': views})}".encode()).hexdigest(),
        "views": list(views.shape),
        "precision": precision,
        "read": read.__name__.strip("_"),
    }


def _finished(folder: Path, row: np.dtype, settings: dict[str, Any]) -> np.ndarray:
    """Return the rows that earlier runs left in a folder, which is made and marked with these settings if it is new."""
    file = folder / "settings.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(settings, indent=2) + "\n")
    theirs = {"read": settings["read"], **json.loads(file.read_text(encoding="utf-8"))}  # older runs do not say
    if theirs.get("precision") == "no":  # as older runs call it
        theirs["precision"] = "float32"
    other = [name for name in settings if theirs.get(name) != settings[name]]
    if other:
        raise OtherResultsError(
            f"{folder} keeps results of other {' and '.join(other)}; name another work_dir or remove it."
        )
    contents = [path.read_bytes() for path in sorted(folder.glob("*.rows"))]
    rows = np.concatenate([np.empty(0, row)] + [np.frombuffer(c, row, len(c) // row.itemsize) for c in contents])
    return rows[rows["probabilities"].any(axis=1)]  # a power cut can leave zeros


def _of_first_process(function: Callable[[], _Value]) -> _Value:
    """Return or raise in all processes what ``function`` returns or raises in the first."""
    if not dist.is_initialized():
        return function()
    box: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            box = [function()]
        except (OSError, ValueError) as error:
            box = [error]
    dist.broadcast_object_list(box)
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]


def of_all_processes(value: _Value) -> list[_Value]:
    """Return the values of all processes, in each of them."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def confusion_picture(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Draw the confusion matrix, in percent of each class's videos, to a file in any format that matplotlib writes.

    Of more than `MOST_CLASSES` classes, those most often confused with another are drawn.

    Raises:
        ValueError: if there is no such format.
        OSError: if the file cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and only for pictures

    confusion = evaluation.confusion()
    classes = len(evaluation.class_names)
    percent = 100 * confusion / confusion.sum(dim=1, keepdim=True).clamp_min(1)
    errors = confusion.sum(dim=0) + confusion.sum(dim=1) - 2 * confusion.diagonal()
    shown = errors.topk(min(classes, MOST_CLASSES)).indices.sort().values
    names = [shorten(printable(evaluation.class_names[i]), 60, placeholder=" ...") for i in shown.tolist()]

    side = 3 + 0.22 * len(names)
    figure = Figure(figsize=(side + 1, side))
    axes = figure.add_subplot()
    image = axes.imshow(percent[shown][:, shown].numpy(), cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.set(xlabel="predicted", ylabel="class")
    selection = f", {len(names)} of {classes} classes" if len(names) < classes else ""
    axes.set_title(f"top-1 {evaluation.top1:.1f}%, {len(evaluation.labels)} videos{selection}", fontsize=10)
    figure.colorbar(image, label="% of the class's videos", shrink=0.6)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def write_report(evaluation: Evaluation | MultiLabelEvaluation, folder: str | os.PathLike[str]) -> None:
    """Write evaluation.json, per_class.csv, reliability.png and, for one label per video, confusion.png to a folder,
    each whole or not at all.

    In the table an apostrophe comes before names that a spreadsheet would take for formulas (`text.from_csv_cell`).

    Raises:
        OSError: if they cannot be written.
    """
    if isinstance(evaluation, MultiLabelEvaluation):
        evaluation.write_report(folder)
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "evaluation.json", json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False) + "\n")
    with replacing(folder / "per_class.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(ClassAccuracy._fields)
        rows = evaluation.per_class()
        writer.writerows((csv_cell(row.name), row.videos, _rounded(row.accuracy)) for row in rows)
    with replacing(folder / "confusion.png") as path:
        confusion_picture(evaluation, path)
    with replacing(folder / "reliability.png") as path:
        reliability_picture(evaluation, path)
