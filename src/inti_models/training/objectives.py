"""What a training run minimises, and what its epochs are measured by.

The loop (`Trainer`) knows neither: it hands its objective the network, clips and labels, and asks for a loss; after an
epoch it hands over videos, and asks for a measurement.
"""

from typing import Any, Protocol

from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from ..data import ClipMixup
from ..evaluation.evaluate import Evaluation, Videos, evaluate
from .recipe import Augmentation


class Measurement(Protocol):
    """What is known of a model after an epoch, such as an `Evaluation`."""

    @property
    def score(self) -> float:
        """Of which the best epoch has most; at least 0."""
        ...

    @property
    def metrics(self) -> dict[str, float | None]:
        """What stands in the epoch's row of ``metrics.csv``."""
        ...


class Objective(Protocol):
    """What is minimised, and by what the result is measured."""

    def mix(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the clips (B, T, C, H, W) of a batch and their labels, with the global generators in a known state."""
        ...

    def loss(self, model: nn.Module, clips: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch as it was mixed, called under autocast; the one place where the model is run."""
        ...

    def measure(self, model: nn.Module, videos: Videos, **settings: Any) -> Measurement:
        """Measure a model, the same in every process; the settings are arguments of `evaluate`."""
        ...


class Classification:
    """One class for each clip: cross-entropy, of smoothed or mixed labels where these are asked for; top-1.

    Args:
        augmentation: of which mixing and smoothing are used.
        num_classes: of the data.
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
