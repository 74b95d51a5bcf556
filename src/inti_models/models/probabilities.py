"""From logits to probabilities: of one class among all, or of each class by itself; temperature, thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

THRESHOLD = 0.5  # of a class by itself, where none was fitted


@dataclass(frozen=True)
class Probabilities:
    """How a model's logits become probabilities, and which of them count; saved with the model.

    With one label a video a probability is the softmax of the logits: that of a class among all. With several
    (``multi_label``) it is the sigmoid of a logit: that of a class by itself.

    Attributes:
        multi_label: whether a video may have several labels, or none.
        temperature: found by calibration (arXiv 1706.04599): logits are divided by it. It acts after the mean over
            the views of a video, whose probabilities are what is measured.
        thresholds: lowest probability at which each class is a label; None for 0.5 with several labels a video, and
            for 0 with one.
        background: number of last classes that are prompts of no class and mean "none of these".

    Raises:
        ValueError: for invalid values.
    """

    multi_label: bool = False
    temperature: float = 1.0
    thresholds: Sequence[float] | None = None
    background: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.multi_label, bool):
            raise ValueError(f"multi_label={self.multi_label!r} is neither True nor False; pass one of them.")
        if not _is_number(self.temperature) or not 1e-3 <= self.temperature <= 1e3:
            raise ValueError(f"temperature={self.temperature!r} is not a temperature; pass one from 0.001 to 1000.")
        if self.thresholds is not None:
            if isinstance(self.thresholds, str) or not isinstance(self.thresholds, Sequence):
                raise ValueError(f"thresholds={self.thresholds!r} is not a list; pass one from 0 to 1 for each class.")
            wrong = next((t for t in self.thresholds if not _is_number(t) or not 0 <= t <= 1), None)
            if wrong is not None:
                raise ValueError(f"The threshold {wrong!r} is not a probability; pass one from 0 to 1 for each class.")
        if type(self.background) is not int or self.background < 0:
            raise ValueError(f"background={self.background!r} is not a number of classes; pass an integer, 0 or more.")

    def check(self, num_classes: int) -> None:
        """Raise a ValueError if these do not fit ``num_classes`` classes."""
        if self.thresholds is not None and len(self.thresholds) != num_classes:
            raise ValueError(f"{len(self.thresholds)} thresholds do not fit {num_classes} classes; pass one for each.")
        if self.background and self.background >= num_classes:
            raise ValueError(f"background={self.background} leaves none of {num_classes} classes; pass fewer.")

    def model_args(self) -> dict[str, Any]:
        """Return the values that are not the default, as they are saved."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.thresholds is not None:
            values["thresholds"] = [float(threshold) for threshold in self.thresholds]
        return {field.name: values[field.name] for field in fields(self) if values[field.name] != field.default}

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the probabilities (K,) of the logits of views (V, K), averaged over the views and calibrated."""
        each = logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)
        return tempered(each.mean(dim=0), self.temperature, self.multi_label)

    def threshold(self, index: int) -> float:
        """Return the lowest probability at which a class is a label."""
        if self.thresholds is None:
            return THRESHOLD if self.multi_label else 0.0
        return self.thresholds[index]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def tempered(probabilities: Tensor, temperature: float, multi_label: bool) -> Tensor:
    """Return the probabilities (..., K) of logits that are divided by a temperature, in the same precision.

    Of one view, ``softmax(logits / temperature)``, or with several labels ``sigmoid(logits / temperature)``.
    """
    if temperature == 1.0:
        return probabilities
    p = probabilities.double()
    if multi_label:
        return ((p.clamp_min(1e-300).log() - (1 - p).clamp_min(1e-16).log()) / temperature).sigmoid().to(probabilities)
    return (p.clamp_min(1e-300).log() / temperature).softmax(dim=-1).to(probabilities)
