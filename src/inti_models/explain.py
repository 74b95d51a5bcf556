"""What was kept of a clip, and what made the model say so: weights and relevance of every frame and place.

Shapes: ``B`` clips, ``T`` frames (``T_k`` behind k compressions), a grid of ``h x w`` tokens in each.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .vision_transformer import InTIVisionTransformer


@dataclass(frozen=True)
class TokenWeights:
    """Weights of the interpolations on a batch of clips.

    Attributes:
        cascaded: how much of each input token is in the token that it became part of (`frame_weights`; the paper's
            fig. 4), (B, T, h, w).
        stages: the weights that each interpolation gave, (B, T_k, h, w) for k = 0, 1, ...
        class_token: the same of the class token, (B, T_k) each; empty for a model without one.
        span: frames that became one, ``2**len(compress_at)``; fewer in the last group if T is no multiple.
    """

    cascaded: Tensor
    stages: list[Tensor]
    class_token: list[Tensor]
    span: int


@torch.no_grad()
def token_weights(model: InTIVisionTransformer, clip: Tensor) -> TokenWeights:
    """The weights of a model's interpolations on clips (B, T, C, H, W) or images (B, C, H, W)."""
    grid_size = model.patch_embed.dynamic_feat_size((clip.shape[-2], clip.shape[-1]))
    stages = model.interpolation_weights(clip)  # B T_k N each
    return TokenWeights(
        cascaded=model.frame_weights(clip),
        stages=[weights[..., model.num_prefix_tokens :].unflatten(-1, grid_size) for weights in stages],
        class_token=[weights[..., 0] for weights in stages] if model.has_class_token else [],
        span=2 ** len(model.compress_at),
    )


def frame_shares(weights: Tensor) -> Tensor:
    """Which frames counted: the mean weight of each over its places, as a share of all frames' (sums to one).

    Args:
        weights: cascaded weights (B, T, h, w).

    Returns:
        (B, T).
    """
    means = weights.mean(dim=(2, 3))
    return means / means.sum(dim=1, keepdim=True)


def to_pixels(weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Weights of tokens (B, T, h, w) as weights of pixels (B, T, H, W): every pixel of a patch has the patch's."""
    return F.interpolate(weights, size, mode="nearest-exact")


def aggregate(clip: Tensor, weights: Tensor, span: int) -> Tensor:
    """The picture that each group of frames became: their sum, weighted pixel by pixel (the paper's fig. 5).

    The network interpolates tokens, not pixels, and between other blocks; this shows what its weights take.

    Args:
        clip: (B, T, C, H, W).
        weights: cascaded weights (B, T, h, w).
        span: frames of a group.

    Returns:
        (B, ceil(T / span), C, H, W), floating point.
    """
    weighted = clip * to_pixels(weights, (clip.shape[-2], clip.shape[-1])).unsqueeze(2)
    return torch.stack([group.sum(dim=1) for group in weighted.split(span, dim=1)], dim=1)


def relevance(model: InTIVisionTransformer, clip: Tensor, class_index: int | None = None) -> Tensor:
    """Which frames and places made the model say this: gradient times weight, for the logit of a class.

    The first interpolation makes ``y = sum_t w_t x_t`` of each pair. With ``g`` the gradient of the logit with respect
    to y, ``<g, y>`` is the relevance of y (gradient times input, Shrikumar et al., arXiv 1605.01713), and
    ``w_t <g, x_t>``, the logit's derivative with respect to w_t times w_t, is the part of it that frame t gave: parts
    of a pair add up to the relevance of what became of it. Positive parts speak for the class. Without interpolations
    it is gradient times input of the tokens before the last block.

    Args:
        model: the model; parameters get no gradients.
        clip: (B, T, C, H, W), or images (B, C, H, W).
        class_index: the class; None for the most probable one of each clip.

    Returns:
        (B, T, h, w); for a temporal method that embeds several frames as one, T counts these.

    Raises:
        ValueError: for a model without a classifier, or an index that is no class.
    """
    if model.num_classes < 1 or not model.global_pool:
        raise ValueError("The model has no classifier to explain; create it with a number of classes and pooling.")
    if class_index is not None and not 0 <= class_index < model.num_classes:
        raise ValueError(f"class_index={class_index} is no class; pass one from 0 to {model.num_classes - 1}.")
    seen: dict[str, Any] = {}

    def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
        """Remember what goes in and make what comes out a leaf, so that the gradient ends here."""
        seen["args"], seen["output"] = args, output.detach().requires_grad_()
        return seen["output"]

    interpolations = [m for places in model.interpolations.values() for m in places]  # type: ignore[attr-defined]
    layer = interpolations[0] if interpolations else model.blocks[-2] if len(model.blocks) > 1 else model.norm_pre
    hook = layer.register_forward_hook(keep)
    training = model.training
    try:
        with torch.enable_grad():
            logits = model.eval()(clip)
            chosen = logits.argmax(dim=1) if class_index is None else torch.full_like(logits[:, 0], class_index).long()
            (gradient,) = torch.autograd.grad(logits.gather(1, chosen.unsqueeze(1)).sum(), seen["output"])
    finally:
        hook.remove()
        model.train(training)
    grid_size = model.patch_embed.dynamic_feat_size((clip.shape[-2], clip.shape[-1]))
    if interpolations:
        with torch.no_grad():
            x = seen["args"][0]  # B T N C
            _, weights = layer(*seen["args"][:3], True)  # B T N
            pair = torch.arange(x.shape[1], device=x.device) // 2
            parts = weights * (gradient[:, pair] * x).sum(dim=-1)
    else:
        parts = (gradient * seen["output"].detach()).sum(dim=-1)  # B T N, or BT N of an image block
        parts = parts.view(len(clip), -1, parts.shape[-1])
    return parts[..., model.num_prefix_tokens :].unflatten(-1, grid_size)
