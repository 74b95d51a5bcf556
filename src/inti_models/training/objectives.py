"""What a training run minimises, and how its epochs are measured.

The loop (`Trainer`) knows neither: it passes network, clips and labels to its objective, which returns a loss; after an
epoch it passes videos, and gets a measurement.
"""

from typing import Any, Protocol

import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from ..data import ClipMixup
from ..evaluation.evaluate import Evaluation, Videos, evaluate, evaluate_multi_label
from ..evaluation.multi_label import MultiLabelEvaluation
from .recipe import Augmentation, Recipe


class Measurement(Protocol):
    """Result of measuring a model after an epoch, such as an `Evaluation`."""

    @property
    def score(self) -> float:
        """Score by which the best epoch is chosen, higher is better; at least 0."""
        ...

    @property
    def metrics(self) -> dict[str, float | None]:
        """Values of the epoch's row in ``metrics.csv``."""
        ...


class Objective(Protocol):
    """What is minimised, and how the result is measured."""

    def mix(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the clips (B, T, C, H, W) of a batch and their labels, with the global generators in a known state."""
        ...

    def loss(self, model: nn.Module, clips: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a mixed batch, called under autocast; the only place where the model is run."""
        ...

    def measure(self, model: nn.Module, videos: Videos, **settings: Any) -> Measurement:
        """Measure a model, the same in every process; the settings are arguments of `evaluate`."""
        ...


class Classification:
    """One class for each clip: cross-entropy, of smoothed or mixed labels if requested; top-1.

    Args:
        augmentation: its mixing and smoothing are used.
        num_classes: number of classes of the data.
    """

    def __init__(self, augmentation: Augmentation, num_classes: int) -> None:
        a = augmentation
        self.mixup: ClipMixup | None = None
        self.criterion: nn.Module
        if a.mixup or a.cutmix:
            self.mixup = ClipMixup(
                a.mixup, a.cutmix, a.mixup_prob, a.mixup_switch_prob, a.smoothing, num_classes=num_classes
            )
            self.criterion = SoftTargetCrossEntropy()
        else:
            self.criterion = LabelSmoothingCrossEntropy(a.smoothing) if a.smoothing else nn.CrossEntropyLoss()

    def mix(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return (clips, labels) if self.mixup is None else self.mixup(clips, labels)

    def loss(self, model: nn.Module, clips: Tensor, labels: Tensor) -> Tensor:
        return self.criterion(model(clips), labels)

    def measure(self, model: nn.Module, videos: Videos, **settings: Any) -> Evaluation:
        return evaluate(model, videos, **settings)


class MultiLabel:
    """Several labels for each clip, or none: binary cross-entropy, or the asymmetric loss (arXiv 2009.14119); mAP.

    Labels are (B, classes), 1 for those that a clip has. Mixed clips have mixed labels, which are meaningful only for
    binary cross-entropy. Smoothing moves them from 0 and 1 towards one half.

    Args:
        augmentation: its mixing and smoothing are used.
        num_classes: number of classes of the data.
        asymmetric: use timm's asymmetric loss, which learns less from the many labels that a clip does not have.
    """

    def __init__(self, augmentation: Augmentation, num_classes: int, asymmetric: bool = False) -> None:
        a = augmentation
        self.smoothing = a.smoothing
        self.mixup = None
        if a.mixup or a.cutmix:
            self.mixup = ClipMixup(
                a.mixup, a.cutmix, a.mixup_prob, a.mixup_switch_prob, a.smoothing, num_classes=num_classes
            )
        self.asymmetric = AsymmetricLossMultiLabel() if asymmetric else None

    def mix(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return (clips, labels) if self.mixup is None else self.mixup(clips, labels)

    def loss(self, model: nn.Module, clips: Tensor, labels: Tensor) -> Tensor:
        logits = model(clips).float()
        if self.asymmetric is not None:
            return self.asymmetric(logits, labels) / labels.numel()  # timm's is the sum
        return F.binary_cross_entropy_with_logits(logits, labels + self.smoothing * (0.5 - labels))

    def measure(self, model: nn.Module, videos: Videos, **settings: Any) -> MultiLabelEvaluation:
        return evaluate_multi_label(model, videos, **settings)


def objective_of(recipe: Recipe, num_classes: int) -> Objective:
    """Return the objective that a recipe asks for."""
    if recipe.data.multi_label:
        return MultiLabel(recipe.augmentation, num_classes, recipe.loss == "asymmetric")
    return Classification(recipe.augmentation, num_classes)
