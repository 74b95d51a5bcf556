"""Few examples: heads on features that are computed once, a linear probe and class prototypes.

The network is unchanged, and each video goes through it once; a head is then fitted to the features within a second.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Source
from ..evaluation.calibration import fit_temperature
from ..evaluation.evaluate import collect, views_of
from ..evaluation.multi_label import average_precision
from ..files import locked, write_text
from ..models.heads import CosineHead, set_text_head
from ..models.probabilities import Probabilities
from ..models.stages import InTIModel
from ..weights.hub import load, save_pretrained

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the penalty of the linear probe; the best by cross-validation is taken
FOLDS = 5
SCALE = 10.0  # of the cosines of prototypes, where there are too few videos to fit it


class Features(nn.Module):
    """A model up to its classifier: clips (B, T, C, H, W) -> features (B, num_features)."""

    def __init__(self, model: InTIModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(clips), pre_logits=True)


@dataclass(frozen=True)
class Probe:
    """A fitted head.

    Attributes:
        head: features (B, C) -> logits (B, classes), float32.
        cross_validated: percent of the videos that a head fitted without them gets right (with several labels mean
            average precision); None where a class has only one video, or there are too few.
        validation: likewise for other videos; None where there are none.
    """

    head: nn.Module
    cross_validated: float | None
    validation: float | None = None


def probe(
    name: str,
    source: Source,
    output: str | os.PathLike[str],
    validation: Source | None = None,
    *,
    views: tuple[int, int] | None = None,
    **settings: Any,
) -> dict[str, Probe]:
    """Fit heads to a few videos of each class, and save a model with each.

    Args:
        name: model, repository or folder for `inti_models.load`; its weights stay as they are.
        source: the videos.
        output: folder for the models ``linear`` and, for one label per video, ``prototypes``, for ``probe.json``, and
            for ``features``, from which a stopped run resumes.
        validation: videos to evaluate on.
        views: views of each video, whose features are averaged; None for the model's own.
        **settings: see `inti_models.evaluation.evaluate.collect`.

    Returns:
        A probe for each model.

    Raises:
        ValueError: if there is only one class, or the validation videos have other classes; or see `collect`.
        BlockingIOError: if another process writes to ``output``.
    """
    names, folder = source.class_names, Path(output)
    if len(names) < 2:
        raise ValueError(f"There is one class, {names[0]!r}; expected at least two.")
    others = None if validation is None else validation.relabelled(names)
    torch.manual_seed(0)  # so that what no checkpoint has is the same when a run resumes
    model = load(name, num_classes=0)
    with locked(folder):
        read = Features(model)

        def features_of(part: Source, work_dir: Path) -> tuple[Tensor, Tensor]:
            clips = views_of(part, model, views)
            labels, features, _ = collect(read, clips, _as_is, width=model.num_features, work_dir=work_dir, **settings)
            return features, labels

        features, labels = features_of(source, folder / "features")
        held_out = None if others is None else features_of(others, folder / "validation_features")
        methods = {"linear": fit_linear} if source.multi_label else {"linear": fit_linear, "prototypes": fit_prototypes}
        probes = {}
        for method, fit in methods.items():
            head, accuracy = fit(features, labels, len(names))
            measured = None if held_out is None else score(head(held_out[0]), held_out[1])
            probes[method] = Probe(head, accuracy, measured)
            _give(model, head, names, source.multi_label)
            save_pretrained(model, folder / method, label_names=names)
        report = {
            "model": name,
            "videos": len(labels),
            "classes": len(names),
            "metric": "mAP" if source.multi_label else "top1",
            **{m: {"cross_validated": p.cross_validated, "validation": p.validation} for m, p in probes.items()},
        }
        write_text(folder / "probe.json", json.dumps(report, indent=2) + "\n")
    return probes


def _as_is(features: Tensor, dim: int) -> Tensor:
    return features


def _give(model: InTIModel, head: nn.Module, names: tuple[str, ...], multi_label: bool) -> None:
    """Put a head on a model, with its entries in the config."""
    if isinstance(head, CosineHead):
        set_text_head(model, head, names)
    else:
        model.reset_classifier(len(names))
        model.head = head
        model.set_probabilities(Probabilities(multi_label=multi_label))


@torch.no_grad()
def score(logits: Tensor, labels: Tensor) -> float:
    """Return the percent of videos labelled right, or with several labels the mean average precision in percent."""
    if labels.ndim == 1:
        return 100 * (logits.argmax(dim=1) == labels).double().mean().item()
    present = [k for k in range(labels.shape[1]) if labels[:, k].any()]
    return 100 * sum(average_precision(logits[:, k], labels[:, k].bool()) for k in present) / len(present)


def split_folds(labels: Tensor, num_classes: int) -> list[Tensor]:
    """Return the videos of each fold of cross-validation, each class spread over them; none if a class has one video.

    Videos with several labels are spread as they come.
    """
    n = len(labels)
    if labels.ndim == 2:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        return list(order.tensor_split(FOLDS)) if n >= 2 * FOLDS else []
    smallest = int(labels.bincount(minlength=num_classes)[labels.unique()].min())
    order = labels.argsort(stable=True)
    count = min(FOLDS, smallest)
    return [order[k::count] for k in range(count)] if count > 1 else []


def held_out_logits(fit: Callable[[Tensor, Tensor], nn.Module], features: Tensor, labels: Tensor, folds: Any) -> Tensor:
    """Return logits (n, classes) of each video by a head that was fitted without its fold."""
    logits = []
    for fold in folds:
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[fold] = False
        logits.append(fit(features[kept], labels[kept])(features[fold]).detach())
    return torch.cat(logits)[torch.cat(list(folds)).argsort()]


def fit_linear(features: Tensor, labels: Tensor, num_classes: int) -> tuple[nn.Linear, float | None]:
    """Fit a linear classifier to features (n, C): logistic regression, its penalty chosen by cross-validation.

    Returns:
        The classifier, and its cross-validation score, for the penalty with the best one.
    """
    folds, best, strength = split_folds(labels, num_classes), None, 1e-1
    for candidate in STRENGTHS if folds else ():
        fit = partial(logistic_regression, num_classes=num_classes, strength=candidate)
        said = held_out_logits(fit, features, labels, folds)
        if best is None or score(said, labels) >= best:  # of equal ones the stronger
            best, strength = score(said, labels), candidate
    return logistic_regression(features, labels, num_classes, strength), best


def logistic_regression(features: Tensor, labels: Tensor, num_classes: int, strength: float) -> nn.Linear:
    """Minimise the cross-entropy (with several labels, the binary one) plus ``strength / 2`` times the squared weights.

    The features are standardised for it; the returned classifier takes them as they are.
    """
    mean, std = features.double().mean(dim=0), features.double().std(dim=0, unbiased=False).clamp_min(1e-6)
    x = (features.double() - mean) / std
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = x @ weight.T + bias
        if labels.ndim == 1:
            fit = F.cross_entropy(logits, labels)
        else:
            fit = F.binary_cross_entropy_with_logits(logits, labels.double(), reduction="none").sum(dim=1).mean()
        total = fit + strength / 2 * weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    linear = nn.Linear(x.shape[1], num_classes)
    with torch.no_grad():
        linear.weight.copy_(weight / std)
        linear.bias.copy_(bias - (weight / std) @ mean)
    return linear


def fit_prototypes(features: Tensor, labels: Tensor, num_classes: int) -> tuple[CosineHead, float | None]:
    """Fit class prototypes: the cosine of a video's feature with the mean feature of each class (arXiv 1911.04623).

    The mean of all features is subtracted first, and all are scaled to unit length. The cosines are scaled so that the
    probabilities fit, where there are videos to tell. A class without videos has a logit of 0.

    Returns:
        The head, and its cross-validation score.
    """
    folds = split_folds(labels, num_classes)
    if not folds:
        return prototypes(features, labels, num_classes, SCALE), None
    said = held_out_logits(lambda f, y: prototypes(f, y, num_classes, 1.0), features, labels, folds)
    scale = 1 / fit_temperature(said.softmax(dim=1), labels)
    return prototypes(features, labels, num_classes, scale), score(said, labels)


@torch.no_grad()
def prototypes(features: Tensor, labels: Tensor, num_classes: int, scale: float) -> CosineHead:
    """Return a head with the prototype of each class, its cosines times a scale."""
    width, mean = features.shape[1], features.mean(dim=0)
    units = F.normalize(features - mean, dim=1)
    sums = torch.zeros(num_classes, width).index_add_(0, labels, units)
    head = CosineHead(width, width, num_classes)
    head.projection.weight.copy_(torch.eye(width))
    head.projection.bias.copy_(-mean)
    head.classes.weight.copy_(scale * F.normalize(sums, dim=1))
    head.classes.bias.zero_()
    return head
