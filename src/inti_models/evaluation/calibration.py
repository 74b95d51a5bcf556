"""Whether probabilities mean what they say: expected calibration error, reliability, temperature, thresholds.

Calibration by one temperature: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599.
"""

import math
import os
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.probabilities import THRESHOLD, tempered

BINS = 15  # of equal width, as in the paper
_RANGE = (0.02, 50.0)  # of temperatures


class Measured(Protocol):
    """A measurement to calibrate by, such as an `Evaluation`."""

    @property
    def labels(self) -> Tensor:
        """int64 (n,), or bool (n, K) where a video may have several labels."""
        ...

    @property
    def probabilities(self) -> Tensor:
        """(n, K)."""
        ...


class Bin(NamedTuple):
    """Claims whose confidence is from ``low`` to ``high``: how many, their mean, the fraction that holds."""

    low: float
    high: float
    claims: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Calibration fitted to a measurement.

    Attributes:
        temperature: what to divide logits by.
        thresholds: threshold of each class, where a video may have several labels; otherwise None.
        error_before: expected calibration error of the measurement, in percent.
        error_after: likewise with the temperature. Each half of the videos is measured with the temperature of the
            other half, so that nothing was fitted to the videos that it is measured on.
    """

    temperature: float
    thresholds: tuple[float, ...] | None
    error_before: float
    error_after: float


def claims(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the confidence of each claim and whether it holds: float64 (m,) and bool (m,).

    With one label a video (n,), a claim is its most probable class; with several, (n, K), that a video has a class, for
    each video and class.
    """
    if labels.ndim == 2:
        return probabilities.double().flatten(), labels.bool().flatten()
    confidence, said = probabilities.double().max(dim=1)
    return confidence, said == labels


def reliability(confidence: Tensor, holds: Tensor, bins: int = BINS) -> list[Bin]:
    """Return the bins of equal width that have claims; a bin has its upper end, the first one 0 too."""
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    table = []
    for k in index.unique().tolist():
        of_bin = index == k
        mean, right = confidence[of_bin].mean().item(), holds[of_bin].double().mean().item()
        table.append(Bin(k / bins, (k + 1) / bins, int(of_bin.sum()), mean, right))
    return table


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Return the mean distance, in percent, between the confidence of `claims` and the fraction of them that holds."""
    table = reliability(*claims(probabilities, labels), bins)
    total = sum(each.claims for each in table)
    return 100 * sum(each.claims / total * abs(each.confidence - each.accuracy) for each in table)


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float:
    """Return the temperature at which the probabilities (n, K) have the least cross-entropy with the labels.

    The cross-entropy is convex in the inverse of the temperature, so that a golden-section search finds the minimum.
    """
    logits = _logits(probabilities, labels)
    low, high = map(math.log, _RANGE)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _entropy(logits, labels, math.exp(left)) < _entropy(logits, labels, math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def _logits(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return logits (n, K) that have these probabilities, float64."""
    p = probabilities.double().clamp_min(1e-300)
    return p.log() - (1 - p).clamp_min(1e-16).log() if labels.ndim == 2 else p.log()


def _entropy(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Return the cross-entropy of the labels with the probabilities of logits (n, K) divided by a temperature."""
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits / temperature, labels.double()).item()
    return F.cross_entropy(logits / temperature, labels).item()


def fit_thresholds(probabilities: Tensor, labels: Tensor) -> tuple[float, ...]:
    """Return for each class the threshold at which its F1 is best; 0.5 for a class that no video has.

    It is midway between two probabilities, so that it means the same for slightly different videos.
    """
    return tuple(_threshold(p, truth) for p, truth in zip(probabilities.double().T, labels.bool().T, strict=True))


def _threshold(p: Tensor, truth: Tensor) -> float:
    if not truth.any():
        return THRESHOLD
    values, order = p.sort(descending=True, stable=True)
    hits = truth[order].double().cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(p) + 1) + truth.sum())
    last = torch.cat([values[1:] < values[:-1], torch.tensor([True])])  # of equal ones, all are taken or none
    best = int(f1.where(last, -1).argmax())
    below = values[best + 1].item() if best + 1 < len(p) else 0.0
    return (values[best].item() + below) / 2


def calibrate(measured: Measured) -> Calibration:
    """Fit a temperature, and thresholds where a video may have several labels, to a model's output for videos.

    Raises:
        ValueError: if there are fewer than two videos, or no temperature fits them best, as for a model that is right
            about all of them or knows nothing of them.
    """
    probabilities, labels = measured.probabilities, measured.labels
    if len(labels) < 2:
        raise ValueError(f"There are {len(labels)} videos, too few to calibrate by halves; pass at least two.")
    several, temperature = labels.ndim == 2, fit_temperature(probabilities, labels)
    logits = _logits(probabilities, labels)
    low, least, high = (_entropy(logits, labels, t) for t in (_RANGE[0], temperature, _RANGE[1]))
    if least >= min(low, high):  # at an end, or the same everywhere
        what = "is right about all" if low < high else "knows nothing"
        raise ValueError(
            f"No temperature from {_RANGE[0]} to {_RANGE[1]:g} fits {len(labels)} videos best, as for a model that "
            f"{what} of them; calibrate it on more videos, or others."
        )
    halves = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tensor_split(2)
    after = probabilities.clone()
    for mine, other in (halves, halves[::-1]):
        after[mine] = tempered(probabilities[mine], fit_temperature(probabilities[other], labels[other]), several)
    return Calibration(
        temperature,
        fit_thresholds(tempered(probabilities, temperature, several), labels) if several else None,
        expected_calibration_error(probabilities, labels),
        expected_calibration_error(after, labels),
    )


def reliability_picture(measured: Measured, path: str | os.PathLike[str]) -> None:
    """Draw how often claims of each confidence hold, to a file in any format that matplotlib writes.

    Raises:
        ValueError: if there is no such format.
        OSError: if the file cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and only for pictures

    table = reliability(*claims(measured.probabilities, measured.labels))
    figure = Figure(figsize=(4.6, 5.6), layout="constrained")
    axes, counts = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    lows, width = [each.low for each in table], 1 / BINS
    axes.bar(lows, [each.accuracy for each in table], width, align="edge", edgecolor="white", label="hold")
    axes.plot([each.confidence for each in table], [each.accuracy for each in table], "o-", color="C1", markersize=4)
    axes.set(ylabel="fraction that holds", xlim=(0, 1), ylim=(0, 1))
    error = expected_calibration_error(measured.probabilities, measured.labels)
    axes.set_title(f"expected calibration error {error:.1f}%", fontsize=10)
    counts.bar(lows, [each.claims for each in table], width, align="edge", edgecolor="white")
    counts.set(xlabel="confidence", ylabel="claims", yscale="log")
    figure.savefig(path, dpi=150)
