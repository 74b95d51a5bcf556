"""Evaluation transform of whole clips: uint8 (T, C, H, W) -> float (T, C, H, W)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from timm.data import resolve_input_data_config
from timm.data.constants import (
    DEFAULT_CROP_MODE,
    DEFAULT_CROP_PCT,
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
)
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .protocols import ROUNDINGS, crop_offsets, resized

__all__ = ["ClipTransform", "create_clip_transform"]

INTERPOLATIONS = {
    "bicubic": v2.InterpolationMode.BICUBIC,
    "bilinear": v2.InterpolationMode.BILINEAR,
}
_CROP_MODES = ("center", "squash")

# ITU-R 601 luma in 16-bit fixed point, as in Pillow's convert("L").
_LUMA = (19595, 38470, 7471)


class Prepared(Protocol):
    """A model that says how its frames are resized, as `inti_models.InTIVisionTransformer` does."""

    antialias: bool
    resize_rounding: str
    normalization_fused: bool


@dataclass(frozen=True)
class ClipTransform:
    """Resizing, cropping and normalisation of a clip; see `create_clip_transform`, which checks the values.

    Attributes:
        input_size: C, H, W of the result; C = 1 makes luma.
        interpolation: "bicubic" or "bilinear".
        mean: C values, for pixels in 0 to 1.
        std: C values.
        crop_pct: Fraction of the resized sides that the crop takes (`num_crops=1`).
        crop_mode: "center" resizes the short side and keeps the aspect ratio, "squash" resizes
            both sides.
        num_crops: 1: the centre. 3: left, centre and right of a wide frame, top, centre and bottom
            of a high one.
        normalize: Whether to normalise; otherwise the result is uint8.
        antialias: Whether to antialias where a frame becomes smaller. Otherwise, it is resized in floating point.
        rounding: How sides and offsets that are not whole numbers are rounded.
    """

    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str
    num_crops: int
    normalize: bool = True
    antialias: bool = True
    rounding: str = "timm"

    @classmethod
    def of(cls, model: Prepared, num_crops: int = 1, normalize: bool = True) -> "ClipTransform":
        """Return the transform that this model takes; it gets pixels if its normalisation is fused."""
        return create_clip_transform(
            **resolve_input_data_config(model),
            num_crops=num_crops,
            normalize=normalize and not model.normalization_fused,
            antialias=model.antialias,
            rounding=model.resize_rounding,
        )

    def __call__(self, clip: Tensor) -> Tensor:
        """Transform uint8 RGB (T, 3, H, W) to float32 or uint8 (T, C, H', W'), with three crops (3, T, C, H', W')."""
        check_clip(clip)
        channels, height, width = self.input_size
        if channels == 1:
            clip = _to_luma(clip)
        clip = F.resize(
            clip if self.antialias else clip.float(),  # no rounding, nor clamping of what bicubic overshoots
            list(self._resized(*clip.shape[-2:])),
            interpolation=INTERPOLATIONS[self.interpolation],
            antialias=self.antialias,
        )
        spare_h, spare_w = clip.shape[-2] - height, clip.shape[-1] - width
        if self.rounding == "timm":
            if self.num_crops == 1:
                return self._normalize(F.center_crop(clip, [height, width]))
            corners = [
                (round(spare_h * place), round(spare_w * place)) for place in (0, 0.5, 1)
            ]  # one of the two is zero
        else:
            rows, columns = (crop_offsets(self.rounding, spare, self.num_crops) for spare in (spare_h, spare_w))
            corners = list(zip(rows, columns, strict=True))
        crops = [clip[..., top : top + height, left : left + width] for top, left in corners]
        return self._normalize(torch.stack(crops) if self.num_crops > 1 else crops[0])

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the size to resize a frame to."""
        _, target_h, target_w = self.input_size
        if self.rounding != "timm":
            return resized(self.rounding, height, width, target_h)
        if self.num_crops == 1:
            target_h, target_w = (math.floor(x / self.crop_pct) for x in (target_h, target_w))
        if self.crop_mode == "squash":
            return target_h, target_w
        if target_h == target_w:
            if height <= width:
                return target_h, int(target_h * width / height)
            return int(target_w * height / width), target_w
        ratio = min(height / target_h, width / target_w)
        return round(height / ratio), round(width / ratio)

    def _normalize(self, clip: Tensor) -> Tensor:
        if not self.normalize:
            return clip if self.antialias else clip.round().clamp(0, 255).to(torch.uint8)
        mean, std = (torch.tensor(values, device=clip.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return clip.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)


def create_clip_transform(
    input_size: Sequence[int] = (3, 224, 224),
    interpolation: str = "bicubic",
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
    crop_pct: float = DEFAULT_CROP_PCT,
    crop_mode: str = DEFAULT_CROP_MODE,
    num_crops: int = 1,
    normalize: bool = True,
    antialias: bool = True,
    rounding: str = "timm",
) -> ClipTransform:
    """Return the evaluation transform for whole clips, from the keys of timm's data config.

        config = timm.data.resolve_input_data_config(model)
        transform = create_clip_transform(**config)

    (timm's config of the model as it is now: `timm.data.resolve_model_data_config` gives that of its checkpoint, which
    may have another size or other channels.)

    (`ClipTransform.of(model)` also takes what the model's own config says about antialiasing and rounding.)

    It does to each frame what `timm.data.create_transform(**config)` does to a PIL image. The
    two resizes round differently: by 0.25 of 255 grey levels on average, by 4 at sharp edges.

    Args:
        input_size: C, H, W of the model's input. C is 3, or 1 for luma.
        interpolation: "bicubic" or "bilinear".
        mean: One value per channel, for pixels in 0 to 1; a single value serves all channels.
        std: Likewise.
        crop_pct: Fraction of the resized sides that the crop takes. Does not apply to three crops:
            there the short side becomes the input size, and the crops cover the frame (up to
            about 2:1).
        crop_mode: "center" keeps the aspect ratio, "squash" does not.
        num_crops: 1 (centre) or 3 (along the longer side; needs `crop_mode="center"`).
        normalize: False leaves pixels as uint8, for a model with `fuse_normalization`.
        antialias: False as in most official code of video models.
        rounding: "timm", or whose official code is followed: "st_adapter", "slowfast" (PySlowFast, so UniFormerV2) or
            "mmaction" (mmaction2, so AIM); see `inti_models.data.protocols`.

    Raises:
        ValueError: For a value that is not one of these.
    """
    if len(input_size) != 3 or input_size[0] not in (1, 3) or min(input_size) < 1:
        raise ValueError(f"input_size is {input_size}; expected (channels, height, width) with 1 or 3 channels.")
    channels, height, width = input_size
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {interpolation!r}; expected one of {', '.join(INTERPOLATIONS)}.")
    if crop_mode not in _CROP_MODES:
        raise ValueError(f"crop_mode is {crop_mode!r}; expected one of {', '.join(_CROP_MODES)}.")
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct is {crop_pct}; expected a fraction above 0 and up to 1.")
    if num_crops not in (1, 3):
        raise ValueError(f"num_crops is {num_crops}; expected 1 or 3.")
    if num_crops == 3 and crop_mode != "center":
        raise ValueError(
            f"num_crops is 3 but crop_mode is {crop_mode!r}, which sees the whole frame at once: "
            "use num_crops=1, or crop_mode='center'."
        )
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding is {rounding!r}; expected one of {', '.join(ROUNDINGS)}.")
    if rounding != "timm" and (height != width or crop_pct != 1 or crop_mode != "center"):
        raise ValueError(
            f"rounding is {rounding!r}, which is for square crops as large as the short side: use it with input_size "
            "(channels, side, side), crop_pct=1 and crop_mode='center'."
        )
    return ClipTransform(
        input_size=(channels, height, width),
        interpolation=interpolation,
        mean=_per_channel("mean", mean, channels),
        std=_per_channel("std", std, channels),
        crop_pct=float(crop_pct),
        crop_mode=crop_mode,
        num_crops=num_crops,
        normalize=normalize,
        antialias=antialias,
        rounding=rounding,
    )


def _per_channel(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(float(value) for value in values)
    if len(values) not in (1, channels):
        raise ValueError(
            f"{name} has {len(values)} values for {channels} input channels; expected one per channel, or one for all."
        )
    if name == "std" and min(values) <= 0:
        raise ValueError(f"std is {values}; expected values above zero.")
    return values if len(values) == channels else values * channels


def check_clip(clip: Tensor) -> None:
    """Raise a ValueError for what is not a clip, uint8 (T, 3, H, W)."""
    if clip.dtype != torch.uint8:
        raise ValueError(f"clip is {clip.dtype}; expected torch.uint8 with values 0 to 255, as read_clips gives.")
    if clip.ndim != 4 or clip.shape[1] != 3 or 0 in clip.shape:
        raise ValueError(
            f"clip has shape {tuple(clip.shape)}; expected (T, 3, H, W): one clip, frames first, then RGB channels."
        )


def _to_luma(clip: Tensor) -> Tensor:
    """Convert to luma, uint8 (T, 3, H, W) -> (T, 1, H, W), as Pillow does."""
    red, green, blue = clip.to(torch.int32).split(1, dim=1)
    luma = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2] + 0x8000
    return (luma >> 16).to(torch.uint8)
