"""What was kept of a clip, and why the model predicts a class: weights and relevance of every frame and position.

Shapes: ``B`` clips, ``T`` frames (``T_k`` after k compressions), a grid of ``h x w`` tokens in each. ``T_0`` frames go
into the first compression: those of the clip, some of them twice where T is not a multiple (`frame_order`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.interpolation import cascade, frame_order, sum_repeats
from ..models.stages import InTIModel


@dataclass(frozen=True)
class ClipWeights:
    """Weights of the interpolations on a batch of clips.

    Attributes:
        frame_weights: how much of each input token is in the token that it became part of (the paper's fig. 4),
            (B, T_0, h, w).
        interpolation_weights: the weights that each interpolation gave, (B, T_k, h, w) for k = 0, 1, ...
        class_token: the same for the class token, (B, T_k) each; empty for a model without one.
        group_size: frames that became one; fewer if the clip is shorter.
        order: the T_0 frames, as indices of the clip's.
    """

    frame_weights: Tensor
    interpolation_weights: list[Tensor]
    class_token: list[Tensor]
    group_size: int
    order: tuple[int, ...]


@dataclass(frozen=True)
class ClipExplanation:
    """A model's predictions for a batch of clips, and why.

    Attributes:
        logits: (B, num_classes).
        weights: weights of the interpolations.
        relevance: relevance of each frame and position for the class, (B, T_0, h, w); see `relevance`.
    """

    logits: Tensor
    weights: ClipWeights
    relevance: Tensor


@torch.no_grad()
def clip_weights(model: InTIModel, clip: Tensor) -> ClipWeights:
    """Return a model's interpolation weights on clips (B, T, C, H, W) or images (B, C, H, W), by one forward pass."""
    clip = model.to_clip(clip)
    return _clip_weights(model, clip, model.interpolation_weights(clip))


def _clip_weights(model: InTIModel, clip: Tensor, weights: Sequence[Tensor]) -> ClipWeights:
    grid_size = model.grid_size(clip)
    order = frame_order(model.embedded_frames(clip.shape[1]), model.group_size)
    places = [of_stage[..., model.num_prefix_tokens :].unflatten(-1, grid_size) for of_stage in weights]
    return ClipWeights(
        frame_weights=cascade(places) if places else clip.new_ones(len(clip), len(order), *grid_size),
        interpolation_weights=places,
        class_token=[of_stage[..., 0] for of_stage in weights] if model.cls_token is not None else [],
        group_size=model.group_size,
        order=order,
    )


def frame_fractions(weights: Tensor) -> Tensor:
    """Return how much each frame counted: its mean weight over positions, as a fraction of all (they sum to one).

    Args:
        weights: frame weights (B, T, h, w).

    Returns:
        (B, T).
    """
    means = weights.mean(dim=(2, 3))
    return means / means.sum(dim=1, keepdim=True)


def to_pixels(weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Spread weights of tokens (B, T, h, w) to pixels (B, T, H, W): every pixel of a patch has the patch's."""
    return F.interpolate(weights, size, mode="nearest-exact")


def aggregate(clip: Tensor, weights: Tensor, group_size: int) -> Tensor:
    """Return the picture that each group of frames became: their sum, weighted pixel by pixel (the paper's fig. 5).

    The network interpolates tokens, not pixels, and between different blocks; this shows what its weights select.

    Args:
        clip: (B, T, C, H, W); frames in the order of the weights.
        weights: frame weights (B, T, h, w).
        group_size: frames of a group.

    Returns:
        (B, ceil(T / group_size), C, H, W), floating point.
    """
    weighted = clip * to_pixels(weights, (clip.shape[-2], clip.shape[-1])).unsqueeze(2)
    return torch.stack([group.sum(dim=1) for group in weighted.split(group_size, dim=1)], dim=1)


def relevance(model: InTIModel, clip: Tensor, class_index: int | None = None) -> Tensor:
    """Return which frames and positions account for the logit of a class: gradient times weight.

    The first interpolation makes ``y = sum_t w_t x_t`` of each pair. With ``g`` the gradient of the logit with respect
    to y, ``<g, y>`` is the relevance of y (gradient times input, Shrikumar et al., arXiv 1605.01713), and
    ``w_t <g, x_t>``, the logit's derivative with respect to w_t times w_t, is the part of it due to frame t: the parts
    of a pair add up to the relevance of the result. Positive parts support the class. Without interpolations
    it is gradient times input of the tokens before the last block.

    Args:
        model: the model; parameters get no gradients.
        clip: (B, T, C, H, W), or images (B, C, H, W).
        class_index: the class; None for the most probable one of each clip.

    Returns:
        (B, T, h, w); for a temporal method that embeds several frames as one, T counts these.

    Raises:
        ValueError: for a model without a classifier, or an index that is not a class.
    """
    clip = model.to_clip(clip)
    parts = explain_clip(model, clip, class_index).relevance
    return sum_repeats(parts, model.embedded_frames(clip.shape[1]), model.group_size)


def explain_clip(model: InTIModel, clip: Tensor, class_index: int | None = None) -> ClipExplanation:
    """Return logits, weights and relevance by one forward and one backward pass; for the rest see `relevance`."""
    if model.num_classes < 1 or not model.global_pool:
        raise ValueError("The model has no classifier to explain; create it with a number of classes and pooling.")
    if class_index is not None and not 0 <= class_index < model.num_classes:
        raise ValueError(f"class_index={class_index} is not a class; pass one from 0 to {model.num_classes - 1}.")
    seen: dict[str, Any] = {}

    def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Keep the input tokens, and make the output tokens a leaf, so that the gradient ends here."""
        tokens, *weights = output if isinstance(output, tuple) else (output,)
        seen["x"], seen["y"] = args[0].detach(), tokens.detach().requires_grad_()
        return (seen["y"], *weights) if weights else seen["y"]

    interpolations = [m for places in model.interpolations.values() for m in places]  # type: ignore[attr-defined]
    layer = interpolations[0] if interpolations else model.blocks[-2] if len(model.blocks) > 1 else model.norm_pre
    clip, training = model.to_clip(clip), model.training
    stage_weights: list[Tensor] = []
    hook = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            tokens = model.eval().forward_stages(clip, weights=stage_weights)
            logits = model.forward_head(model.norm_tokens(tokens))
            chosen = logits.argmax(dim=1) if class_index is None else torch.full_like(logits[:, 0], class_index).long()
            (gradient,) = torch.autograd.grad(logits.gather(1, chosen.unsqueeze(1)).sum(), seen["y"])
    finally:
        hook.remove()
        model.train(training)
    stage_weights = [weights.detach() for weights in stage_weights]
    if interpolations:
        x = seen["x"]  # B T_0 N C
        pair = torch.arange(x.shape[1], device=x.device) // 2
        parts = stage_weights[0] * (gradient[:, pair] * x).sum(dim=-1)
    else:
        parts = (gradient * seen["y"].detach()).sum(dim=-1)  # B T N, or BT N of an image block
        parts = parts.view(len(clip), -1, parts.shape[-1])
    return ClipExplanation(
        logits=logits.detach(),
        weights=_clip_weights(model, clip, stage_weights),
        relevance=parts[..., model.num_prefix_tokens :].unflatten(-1, model.grid_size(clip)),
    )
