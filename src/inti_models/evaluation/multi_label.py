"""Predictions for videos that may have several labels: average precision, F1, and a table of classes."""

import csv
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub import EvalResult
from torch import Tensor

from ..files import replacing, write_text
from ..text import csv_cell
from .calibration import expected_calibration_error, reliability_picture


class LabelScores(NamedTuple):
    """A row of the table of classes: videos that have it, and how well it is found (in percent).

    ``average_precision`` and ``recall`` are None for a class that no video has, ``precision`` for one that is never
    predicted, ``f1`` for one to which both apply.
    """

    name: str
    videos: int
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    threshold: float


@dataclass(frozen=True, eq=False)
class MultiLabelEvaluation:
    """A model's predictions for the videos of a data set, in the order of the data set.

    Attributes:
        labels: bool (n, classes), of the videos that could be read.
        probabilities: float32 (n, classes), averaged over the views; of each class by itself.
        thresholds: lowest probability at which each class is a label.
        class_names: names of all classes.
        unreadable: index in the data set -> sentence that names the video and says why it could not be read.
    """

    labels: Tensor
    probabilities: Tensor
    thresholds: tuple[float, ...]
    class_names: tuple[str, ...]
    unreadable: dict[int, str]

    @property
    def predicted(self) -> Tensor:
        """Labels of each video, bool (n, classes)."""
        return self.probabilities.double() >= torch.tensor(self.thresholds, dtype=torch.float64)

    @property
    def macro_ap(self) -> float:
        """Mean average precision (mAP) in percent, over the classes that some video has."""
        return _mean(row.average_precision for row in self.per_class())

    @property
    def micro_ap(self) -> float:
        """Average precision in percent of all pairs of a video and a class in one ranking."""
        return 100 * average_precision(self.probabilities.flatten(), self.labels.flatten())

    @property
    def macro_f1(self) -> float:
        """Mean F1 in percent, over the classes that some video has; a class that is never predicted has 0."""
        return _mean(row.f1 for row in self.per_class() if row.videos)

    @property
    def micro_f1(self) -> float:
        """F1 in percent of all pairs of a video and a class; 0 where nothing is predicted."""
        predicted = self.predicted
        total = int(predicted.sum() + self.labels.sum())
        return 200 * int((predicted & self.labels).sum()) / total if total else 0.0

    @property
    def exact_match(self) -> float:
        """Percent of the videos that get exactly their labels."""
        return 100 * (self.predicted == self.labels).all(dim=1).double().mean().item()

    @property
    def loss(self) -> float:
        """Binary cross-entropy, in nats, averaged over videos and classes."""
        return F.binary_cross_entropy(self.probabilities.double().clamp(0, 1), self.labels.double()).item()

    @property
    def score(self) -> float:
        """Score by which the best epoch is chosen: `macro_ap`."""
        return self.macro_ap

    @property
    def metrics(self) -> dict[str, float | None]:
        """Values of the epoch's row in ``metrics.csv``."""
        return {"validation_loss": self.loss, **self._numbers()}

    def _numbers(self) -> dict[str, float]:
        names = ("macro_ap", "micro_ap", "macro_f1", "micro_f1", "exact_match")
        return {name: getattr(self, name) for name in names}

    def per_class(self) -> list[LabelScores]:
        """Return the table of classes, in their order."""
        predicted, rows = self.predicted, []
        for k, name in enumerate(self.class_names):
            truth, said = self.labels[:, k], predicted[:, k]
            videos, times, hits = int(truth.sum()), int(said.sum()), int((truth & said).sum())
            rows.append(
                LabelScores(
                    name,
                    videos,
                    100 * average_precision(self.probabilities[:, k], truth) if videos else None,
                    100 * hits / times if times else None,
                    100 * hits / videos if videos else None,
                    200 * hits / (videos + times) if videos + times else None,
                    self.thresholds[k],
                )
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return everything but the probabilities, for JSON; percentages with two decimals."""
        return {
            "videos": len(self.labels),
            **{name: _rounded(number) for name, number in self._numbers().items()},
            "loss": round(self.loss, 4),
            "calibration_error": _rounded(expected_calibration_error(self.probabilities, self.labels)),
            "per_class": [_rounded_row(row)._asdict() for row in self.per_class()],
            "unreadable": list(self.unreadable.values()),
        }

    def results(self, dataset_name: str) -> list[EvalResult]:
        """Return mean average precision and F1 for the model card, as `inti_models.save_pretrained` takes them."""
        numbers = {"mAP": self.macro_ap, "micro F1": self.micro_f1}
        return [
            EvalResult(
                task_type="video-classification",
                dataset_type=re.sub(r"\W+", "-", dataset_name.lower()).strip("-"),
                dataset_name=dataset_name,
                metric_type="f1" if "F1" in name else "mean_average_precision",
                metric_value=_rounded(number),
                metric_name=name,
            )
            for name, number in numbers.items()
        ]

    def write_report(self, folder: str | os.PathLike[str]) -> None:
        """Write evaluation.json, per_class.csv and reliability.png to a folder, each whole or not at all.

        Raises:
            OSError: if they cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "evaluation.json", json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")
        with replacing(folder / "per_class.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(LabelScores._fields)
            rows = map(_rounded_row, self.per_class())
            writer.writerows((csv_cell(row.name), *row[1:]) for row in rows)
        with replacing(folder / "reliability.png") as path:
            reliability_picture(self, path)


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Return the area under the steps of precision over recall; 0 where nothing is true. Equal scores count together.

    Args:
        scores: (n,).
        truth: bool (n,).
    """
    if not truth.any():
        return 0.0
    values, order = scores.double().sort(descending=True, stable=True)
    hits = truth[order].double().cumsum(0)
    last = torch.cat([values[1:] < values[:-1], torch.tensor([True])])  # of equal scores
    hits, taken = hits[last], torch.arange(1, len(values) + 1)[last]
    recall_gained = torch.diff(hits, prepend=torch.zeros(1, dtype=torch.float64)) / truth.sum()
    return float((recall_gained * hits / taken).sum())


def _mean(values: Any) -> float:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else 0.0


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 2)


def _rounded_row(row: LabelScores) -> LabelScores:
    return row._replace(
        average_precision=_rounded(row.average_precision),
        precision=_rounded(row.precision),
        recall=_rounded(row.recall),
        f1=_rounded(row.f1),
        threshold=round(row.threshold, 4),
    )
