"""Augmentation of training clips: every random choice is the same in all frames of a clip.

Crop and flip are torchvision's; RandAugment, random erasing, Mixup and CutMix are timm's. These draw from the global
generators of torch, NumPy and Python; `seeded` makes their draws depend on a key alone.
"""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import str_to_pil_interp
from torch import Tensor
from torchvision.transforms import v2

from .transforms import INTERPOLATIONS, ClipTransform, check_clip, create_clip_transform

__all__ = ["ClipMixup", "TrainTransform", "create_train_transform", "seeded"]

_ERASING_MODES = ("const", "rand", "pixel")


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU), NumPy and Python from ``key``, and restore them afterwards.

    Args:
        key: numbers of at least 0.
    """
    seeds = np.random.SeedSequence(key).generate_state(3)
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(int(seeds[0]))
    np.random.seed(seeds[1])
    random.seed(int(seeds[2]))
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


@dataclass(frozen=True)
class TrainTransform:
    """Random crop, flip and augmentation of a clip; see `create_train_transform`, which checks the values.

    Attributes:
        spatial: random crop and flip of a uint8 clip (T, 3, H, W); None for none.
        augment: what timm does to a PIL image, done identically to each frame; None for none.
        finish: the remaining steps: luma, centre crop if there was no random one, normalisation.
        erase: what timm does to an image tensor; None for none.
    """

    spatial: Callable[[Tensor], Tensor] | None
    augment: Callable[[Image.Image], Image.Image] | None
    finish: ClipTransform
    erase: Callable[[Tensor], Tensor] | None

    @property
    def is_random(self) -> bool:
        """Whether two calls can differ; if not, each frame's result depends on that frame only."""
        return any(part is not None for part in (self.spatial, self.augment, self.erase))

    def __call__(self, clip: Tensor) -> Tensor:
        """Transform a uint8 RGB clip (T, 3, H, W) to float32 (T, C, H', W')."""
        check_clip(clip)
        if self.spatial is not None:
            clip = self.spatial(clip)
        if self.augment is not None:
            clip = _augment(clip, self.augment)
        clip = self.finish(clip)
        if self.erase is not None:
            # Erased once into an empty picture, which then covers every frame.
            cover = self.erase(torch.full_like(clip[0], torch.nan))
            clip = torch.where(cover.isnan(), clip, cover)
        return clip


def create_train_transform(
    input_size: Sequence[int] = (3, 224, 224),
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
    interpolation: str = "bicubic",
    *,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    hflip: float = 0.5,
    auto_augment: str | None = None,
    reprob: float = 0.0,
    remode: str = "pixel",
    recount: int = 1,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
) -> TrainTransform:
    """Return the training transform for whole clips, from the keys of timm's data config and timm's augmentations.

        config = timm.data.resolve_input_data_config(model)
        transform = create_train_transform(**config, auto_augment="rand-m9-mstd0.5-inc1", reprob=0.25)

    Args:
        input_size: C, H, W of the model's input.
        mean: one value per channel, for pixels in 0 to 1.
        std: likewise.
        interpolation: "bicubic" or "bilinear".
        scale: smallest and largest fraction of the frame's area that the random crop takes. (1, 1) takes the centre
            instead of a random crop, as `create_clip_transform` does.
        ratio: smallest and largest width to height of the random crop, before it is resized.
        hflip: probability that a clip is mirrored; 0 where left and right matter.
        auto_augment: timm's config of RandAugment ("rand-m9-mstd0.5-inc1"), AugMix ("augmix-...") or AutoAugment
            ("original", "v0", "3a"). All frames get the same operations of the same magnitudes.
        reprob: probability that a box is erased (Zhong et al., 2020), the same in all frames.
        remode: what an erased box is filled with: noise ("pixel"), one colour ("rand") or zeros ("const").
        recount: maximum number of boxes to erase.
        crop_pct: for evaluation; accepted so that a data config fits as it is, and ignored.
        crop_mode: likewise.

    Raises:
        ValueError: for a value that is not one of these.
    """
    finish = create_clip_transform(input_size, interpolation, mean, std, crop_pct=1.0)
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale is {tuple(scale)}; expected two fractions of the frame's area, such as (0.08, 1).")
    if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio is {tuple(ratio)}; expected two ratios of width to height, such as (0.75, 1.33).")
    for name, value in (("hflip", hflip), ("reprob", reprob)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected a probability from 0 to 1.")
    if remode not in _ERASING_MODES or recount < 1:
        raise ValueError(
            f"remode is {remode!r} and recount {recount}; expected one of {', '.join(_ERASING_MODES)}, and at least 1."
        )
    spatial: list[Callable[[Tensor], Tensor]] = []
    if tuple(scale) != (1, 1):
        method = INTERPOLATIONS[interpolation]
        spatial.append(v2.RandomResizedCrop(finish.input_size[1:], tuple(scale), tuple(ratio), method, antialias=True))
    if hflip:
        spatial.append(v2.RandomHorizontalFlip(hflip))
    return TrainTransform(
        spatial=v2.Compose(spatial) if spatial else None,
        augment=_auto_augment(auto_augment, finish) if auto_augment else None,
        finish=finish,
        erase=RandomErasing(reprob, mode=remode, max_count=recount, device="cpu") if reprob else None,
    )


def _auto_augment(config: str, finish: ClipTransform) -> Callable[[Image.Image], Image.Image]:
    """Return timm's augmentation of a PIL image, with the arguments that timm's `create_transform` gives it."""
    mean = finish.mean if len(finish.mean) == 3 else finish.mean * 3
    hparams = {
        "translate_const": int(min(finish.input_size[1:]) * 0.45),
        "img_mean": tuple(min(255, round(255 * value)) for value in mean),
        "interpolation": str_to_pil_interp(finish.interpolation),
    }
    try:
        if config.startswith("rand"):
            return rand_augment_transform(config, hparams)
        if config.startswith("augmix"):
            return augment_and_mix_transform(config, hparams | {"translate_pct": 0.3})
        return auto_augment_transform(config, hparams)
    except (AssertionError, ValueError, KeyError) as error:
        raise ValueError(
            f"auto_augment is {config!r}, which timm does not know ({error}); "
            "expected a config such as 'rand-m9-mstd0.5-inc1', 'augmix-m3' or 'v0'."
        ) from error


def _augment(clip: Tensor, augment: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Augment each frame of a clip, uint8 T,3,H,W, with the generators in the same state."""
    key = random.getrandbits(64)
    frames = []
    for frame in clip.permute(0, 2, 3, 1).numpy():
        with seeded(key):
            frames.append(np.asarray(augment(Image.fromarray(frame))))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


class ClipMixup:
    """timm's `Mixup` on clips: those of a batch are mixed in pairs, and their labels likewise.

    timm's would take the channels of (B, T, C, H, W) for rows and time for channels. Frames and channels are
    therefore merged around the call, so that pixels of all frames are mixed by one coefficient and CutMix cuts one box
    out of all frames. (mixup: Zhang et al., 2018; CutMix: Yun et al., 2019.)

    Args:
        mixup_alpha: parameter of the Beta distribution of mixup's coefficient; 0 for none.
        cutmix_alpha: likewise of CutMix.
        prob: probability that a batch (or pair, or clip) is mixed.
        switch_prob: probability of CutMix instead of mixup where both are on.
        label_smoothing: fraction of the label that is spread over all classes.
        num_classes: number of classes.
        mode: what has one coefficient and box: the "batch", a "pair", or each "elem"ent.

    Raises:
        ValueError: for a value that is not one of these.
    """

    def __init__(
        self,
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        label_smoothing: float = 0.1,
        num_classes: int = 1000,
        mode: str = "batch",
    ) -> None:
        if min(mixup_alpha, cutmix_alpha) < 0 or max(mixup_alpha, cutmix_alpha) == 0:
            raise ValueError(
                f"mixup_alpha is {mixup_alpha} and cutmix_alpha {cutmix_alpha}; expected one above 0 and none below."
            )
        for name, value in (("prob", prob), ("switch_prob", switch_prob), ("label_smoothing", label_smoothing)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected a fraction from 0 to 1.")
        if mode not in ("batch", "pair", "elem"):
            raise ValueError(f"mode is {mode!r}; expected 'batch', 'pair' or 'elem'.")
        self.mixup = Mixup(
            mixup_alpha=mixup_alpha,
            cutmix_alpha=cutmix_alpha,
            prob=prob,
            switch_prob=switch_prob,
            mode=mode,
            label_smoothing=label_smoothing,
            num_classes=num_classes,
        )

    def __call__(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix clips (B, T, C, H, W), in place, and labels, int64 (B,); return the clips and targets (B, classes).

        Labels of clips that may have several, float (B, classes), are mixed as they are, without smoothing.

        Raises:
            ValueError: for a batch that cannot be mixed.
        """
        if clips.ndim != 5 or labels.shape not in (clips.shape[:1], (len(clips), self.mixup.num_classes)):
            raise ValueError(
                f"clips have shape {tuple(clips.shape)} and labels {tuple(labels.shape)}; "
                "expected (B, T, C, H, W) and (B,) or (B, classes)."
            )
        if len(clips) % 2:
            raise ValueError(f"A batch of {len(clips)} clips cannot be mixed in pairs; use an even batch size.")
        mixup = self.mixup
        if labels.ndim == 2:  # as if each clip were a class: how much of each is in each
            mixup = copy.copy(self.mixup)
            mixup.num_classes, mixup.label_smoothing = len(clips), 0.0
        own = labels if labels.ndim == 1 else torch.arange(len(clips), device=labels.device)
        mixed, targets = mixup(clips.flatten(1, 2), own)
        return mixed.unflatten(1, clips.shape[1:3]), targets if labels.ndim == 1 else targets.to(labels) @ labels
