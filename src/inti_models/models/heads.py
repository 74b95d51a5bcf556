"""Heads other than a linear layer: for classes that are combinations of labels, and for classes given as texts."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .probabilities import Probabilities


class CosineHead(nn.Module):
    """A cosine classifier in the space that an image-text model shares with texts: features (B, C) -> (B, K).

    ``logit_k = <p / |p|, w_k> + b_k`` with the feature ``p``, projected into the shared space of ``D`` values. For
    texts ``t_k`` of unit length and the model's scale ``s`` and bias ``b``, ``w_k = s * t_k`` and ``b_k = b``: on an
    image these are the logits of CLIP (arXiv 2103.00020; there is no ``b``) and of SigLIP (arXiv 2303.15343). Their
    softmax is the probability of each class among all of them, for SigLIP too; their sigmoid, in a model trained with
    it, that of each class by itself.

    Args:
        dim: features ``C``.
        embed_dim: width ``D`` of the shared space.
        num_classes: ``K``.
    """

    def __init__(self, dim: int, embed_dim: int, num_classes: int, device=None, dtype=None) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, embed_dim, device=device, dtype=dtype)
        self.classes = nn.Linear(embed_dim, num_classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(F.normalize(self.projection(x), dim=-1))

    @property
    def has_sigmoid(self) -> bool:
        """Whether the sigmoid of a logit is a probability: all classes share one bias, and it is not 0."""
        bias = self.classes.bias
        return bool(bias.any()) and bool((bias == bias[0]).all())


class ProjectionHead(nn.Module):
    """An image-text model's projection into the space that it shares with texts, without classes: (B, C) -> (B, D).

    Args:
        dim: features ``C``.
        embed_dim: width ``D`` of the shared space.
    """

    def __init__(self, dim: int, embed_dim: int, device=None, dtype=None) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, embed_dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x)


def text_head(dim: int, embed_dim: int, num_classes: int, device=None, dtype=None) -> CosineHead | ProjectionHead:
    """Return a head with a projection into the space of texts, with or without classes."""
    if num_classes:
        return CosineHead(dim, embed_dim, num_classes, device, dtype)
    return ProjectionHead(dim, embed_dim, device, dtype)


def set_text_head(model: Any, head: CosineHead, label_names: Sequence[str], background: int = 0) -> None:
    """Give an `InTIModel` a `CosineHead`, with a class for each label name, in its precision and on its device.

    A video may have several labels if the head is that of a model trained with a sigmoid. The last
    ``background`` classes mean "none of these".
    """
    model.reset_classifier(len(label_names))
    model.set_probabilities(Probabilities(multi_label=head.has_sigmoid, background=background))
    model.head = head.to(model.patch_embed.proj.weight)
    model._model_args["text_dim"] = head.projection.out_features
    model.pretrained_cfg = {
        **model.pretrained_cfg,
        "num_classes": len(label_names),
        "label_names": tuple(label_names),
    }
    model.default_cfg = model.pretrained_cfg  # timm's old name for it


class FactorizedHead(nn.Module):
    """A linear classifier whose logits are sums of one term for each label: features (B, C) -> (B, product of factors).

    With the logits ``a_i + b_j`` of a combination (i, j) the softmax over all combinations is the product of the
    softmaxes over i and over j, and its cross-entropy the sum of theirs: what is learned about a label serves all
    combinations. The last label varies fastest.

    Args:
        dim: features ``C``.
        factors: number of values of each label.
    """

    def __init__(self, dim: int, factors: Sequence[int], device=None, dtype=None) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.terms = nn.Linear(dim, sum(factors), device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.joint_logits(self.terms(x).movedim(-1, 0)).movedim(0, -1)

    def joint_logits(self, terms: Tensor) -> Tensor:
        """Sum the logits of labels for each combination, (sum of factors, ...) -> (product of factors, ...)."""
        sums = terms.new_zeros(1, *terms.shape[1:])
        for term in terms.split(self.factors):
            sums = (sums.unsqueeze(1) + term).flatten(0, 1)
        return sums

    def factor_logits(self, sums: Tensor) -> Tensor:
        """Return the logits of each label with sums closest to these, equal if possible; inverts `joint_logits`."""
        table = sums.unflatten(0, self.factors)
        labels = range(len(self.factors))
        means = [table.mean(dim=[j for j in labels if j != i]) if len(labels) > 1 else table for i in labels]
        return torch.cat([means[0], *(mean - table.mean(dim=tuple(labels)) for mean in means[1:])])


@torch.no_grad()
def factorize(head: nn.Module, factors: Sequence[int]) -> FactorizedHead:
    """Return the `FactorizedHead` closest to a linear classifier, and equal to it if it was one.

    Raises:
        ValueError: if the classifier is not linear, or does not have one row for each combination.
    """
    if not isinstance(head, nn.Linear):
        raise ValueError(f"A head of class {type(head).__name__} has no factors; leave factors out, or use head=new.")
    linear = head
    if linear.out_features != prod(factors):
        raise ValueError(
            f"factors={list(factors)} make {prod(factors)} combinations, but there are {linear.out_features} classes; "
            "give the number of values of each label."
        )
    weight = linear.weight
    head = FactorizedHead(linear.in_features, factors, weight.device, weight.dtype)
    head.terms.weight.copy_(head.factor_logits(weight))
    head.terms.bias.copy_(head.factor_logits(linear.bias))
    return head


@torch.no_grad()
def fold(head: nn.Module) -> nn.Module:
    """Return the linear classifier equal to a `FactorizedHead`; any other head as it is."""
    if not isinstance(head, FactorizedHead):
        return head
    weight, bias = head.terms.weight, head.terms.bias
    linear = nn.Linear(weight.shape[1], prod(head.factors), device=weight.device, dtype=weight.dtype)
    linear.weight.copy_(head.joint_logits(weight))
    linear.bias.copy_(head.joint_logits(bias))
    return linear
