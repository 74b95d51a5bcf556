"""Inputs of a model, a clip or an image as a clip of one frame, and of its blocks.

The functions are opaque to FX, which cannot trace branches on shapes.

Shapes: ``B`` clips, ``T`` frames, ``N`` tokens per frame, ``C`` channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockInputs:
    """Inputs of the blocks besides tokens, the same for all frames of a clip.

    Attributes:
        grid_size: height and width of the token grid.
        positions: what the blocks of some trunks take for positions: a rotation, a bias.
        attn_mask: attention mask (N, N).
        is_causal: causal attention within each frame.
    """

    grid_size: tuple[int, int]
    positions: Any = None
    attn_mask: Tensor | None = None
    is_causal: bool = False


@register_notrace_function
def as_clip(x: Tensor, in_chans: int, img_size: tuple[int, int] | None, patch_size: tuple[int, int] | None) -> Tensor:
    """Return a clip (B, T, C, H, W) as it is, and an image (B, C, H, W) as a clip of one frame.

    Ambiguous shapes are read as stated: (T, C, H, W) is a batch of T images, and (B, C, T, H, W)
    with T equal to the number of channels is a clip of C frames.

    Args:
        x: clip or image.
        in_chans: channels expected.
        img_size: exact size expected, if any.
        patch_size: what the size has to be divisible by, if anything.

    Raises:
        ValueError: for a wrong number of dimensions, channels or frames, a wrong size, or integers.
    """
    shape = tuple(x.shape)
    if x.ndim not in (4, 5):
        raise ValueError(f"Input of shape {shape} is neither a clip (B, T, C, H, W) nor an image (B, C, H, W).")
    if not x.is_floating_point():
        raise ValueError(
            f"Input is {x.dtype}, not floating point; normalise it first, for example with "
            "inti_models.data.create_clip_transform."
        )
    if shape[-3] != in_chans:
        advice = "check the layout"
        if x.ndim == 5 and shape[1] == in_chans:
            advice = "this looks like (B, C, T, H, W): pass x.transpose(1, 2)"
        elif x.ndim == 4 and shape[0] == in_chans:
            advice = "this looks like (C, T, H, W): pass x.transpose(0, 1).unsqueeze(0)"
        raise ValueError(
            f"Input of shape {shape} has {shape[-3]} channels where {in_chans} are expected in a clip "
            f"(B, T, C, H, W) or image (B, C, H, W); {advice}."
        )
    clip = x if x.ndim == 5 else x.unsqueeze(1)
    if clip.shape[1] == 0:
        raise ValueError(f"Input of shape {shape} has no frames; pass at least one.")
    if img_size is not None and shape[-2:] != tuple(img_size):
        raise ValueError(
            f"Frames are {shape[-2]}x{shape[-1]}, the model expects {img_size[0]}x{img_size[1]}; resize them, call "
            "model.set_input_size(...), or create the model with img_size=... or dynamic_img_size=True."
        )
    if patch_size is not None and (shape[-2] % patch_size[0] or shape[-1] % patch_size[1]):
        raise ValueError(
            f"Frames are {shape[-2]}x{shape[-1]}, not a multiple of the patch size {patch_size[0]}x{patch_size[1]}; "
            "resize them or create the model with dynamic_img_pad=True."
        )
    return clip


@register_notrace_function
def as_frames(x: Tensor) -> Tensor:
    """Return the features of an image, (B, N, C), as those of one frame, (B, 1, N, C)."""
    return x if x.ndim == 4 else x.unsqueeze(1)


@register_notrace_function
def drop_frame_dim(x: Tensor, drop: bool) -> Tensor:
    """Drop the frame dimension, for images: (B, 1, ...) -> (B, ...)."""
    return x.squeeze(1) if drop else x


@register_notrace_function
def is_image(x: Tensor, ndim: int) -> bool:
    """Return whether ``x`` has the ``ndim`` dimensions of an image (or its features)."""
    return x.ndim == ndim


@register_notrace_function
def check_mask(attn_mask: Tensor | None, is_causal: bool, temporal: bool) -> Tensor | None:
    """Return the mask; raise a ValueError if it is not one (N, N) for all frames, or a temporal method would see it."""
    if temporal and (attn_mask is not None or is_causal):
        raise ValueError("attn_mask and is_causal are for models without a temporal method; leave them out.")
    if attn_mask is not None and attn_mask.ndim != 2:
        raise ValueError(f"attn_mask has shape {tuple(attn_mask.shape)}; pass one mask (N, N) for all frames.")
    return attn_mask


@torch.no_grad()
def fold_normalization(proj: nn.Conv2d, mean: Sequence[float], std: Sequence[float]) -> None:
    """Fold ``(pixel / 255 - mean) / std`` into a patch embedding, in place; one value for all channels, or one each."""
    mean_, std_ = (
        torch.as_tensor(values, dtype=torch.float64, device=proj.weight.device).expand(proj.in_channels)
        for values in (mean, std)
    )
    weight = proj.weight.double() / std_.view(1, -1, 1, 1)
    bias = -(weight.sum(dim=(2, 3)) @ mean_) + (0 if proj.bias is None else proj.bias.double())
    proj.weight.copy_(weight / 255)
    proj.bias = nn.Parameter(bias.to(proj.weight.dtype), requires_grad=proj.weight.requires_grad)
