"""Data sets of clips with labels.

They return `Sample`s. In training, a sample is determined by (seed, index, draw) alone, whichever process computes
it, so that a run can resume at any batch.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .augmentation import TrainTransform, seeded
from .limits import DEFAULT_LIMITS, Limits, VideoError
from .lists import VideoList
from .motion_digits import CLASS_NAMES, MotionDigits
from .sampling import FrameSampling
from .transforms import ClipTransform

__all__ = ["MotionDigitsClips", "Sample", "VideoDataset"]

# Clip, label, and what was wrong with the video ("" if nothing was). Where a video may have several labels, the label
# is float32 (classes,): 1 for those that it has.
Sample = tuple[Tensor, Any, str]
# Index (evaluation), or index and draw (training).
Key = int | tuple[int, int]

Transform = TrainTransform | ClipTransform | Callable[[Tensor], Tensor]


class VideoDataset(Dataset[Sample]):
    """Clips of video files as a model's input.

    With ``train=False`` a key is an index, and the clip has all views of the video, (V, T, C, H, W): ``num_clips``
    times the crops of the transform. A video that cannot be read gives zeros, its label, and as fault a sentence
    that says why.

    With ``train=True`` a key is (index, draw), as `TrainSampler` yields, and the clip is (T, C, H, W), of random
    frames. The sample is determined by (seed, index, draw) alone, and the global generators are left unchanged. A
    video that cannot be read is replaced by another at random; the fault is about the first.

    Args:
        videos: see `find_videos`.
        transform: uint8 (T, 3, H, W) -> float (T, C, H, W), or with crops (3, T, C, H, W).
        frames: which frames of a video make a clip, such as `FrameSampling.of(model)`.
        num_clips: temporal clips of a video (evaluation).
        train: whether frames are random.
        seed: seed of everything random.
        attempts: unreadable videos in a row after which reading stops with a `VideoError` (training).
        limits: what a file may ask for.

    Raises:
        ValueError: for arguments that make no sense.
    """

    def __init__(
        self,
        videos: VideoList,
        transform: Transform,
        frames: FrameSampling,
        num_clips: int = 1,
        train: bool = False,
        seed: int = 0,
        attempts: int = 10,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if num_clips < 1:
            raise ValueError(f"num_clips is {num_clips}; expected a number of at least 1.")
        if train and num_clips != 1:
            raise ValueError(f"num_clips is {num_clips}; expected 1, as training takes one clip of a video.")
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}; expected a number of at least 1.")
        self.videos, self.transform, self.frames, self.num_clips = videos, transform, frames, num_clips
        self.train, self.seed, self.attempts, self.limits = train, seed, attempts, limits

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.videos.class_names

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: Key) -> Sample:
        index, draw = _index_and_draw(key, self.train)
        if not self.train:
            return self._views(index)
        with seeded(self.seed, index, draw):
            return self._random_clip(index)

    def _views(self, index: int) -> Sample:
        label = self._label(index)
        try:
            clips = self._read(index)
        except (VideoError, OSError) as error:
            black = torch.zeros(self.num_clips, self.frames.num_frames, 3, 32, 32, dtype=torch.uint8)
            return torch.zeros_like(_as_views(black, self.transform)), label, str(error)
        return _as_views(clips, self.transform), label, ""

    def _random_clip(self, index: int) -> Sample:
        fault = ""
        for _ in range(self.attempts):
            try:
                clip = self._read(index, torch.default_generator)[0]
            except (VideoError, OSError) as error:
                fault = fault or str(error)
                index = int(torch.randint(len(self), ()))
            else:
                return self.transform(clip), self._label(index), fault
        raise VideoError(f"{self.attempts} videos in a row cannot be read; the first: {fault}")

    def _label(self, index: int) -> int | Tensor:
        label = self.videos.labels[index]
        if not self.videos.multi_label:
            return label
        several = torch.zeros(len(self.class_names))
        several[list(label)] = 1
        return several

    def _read(self, index: int, generator: torch.Generator | None = None) -> Tensor:
        """uint8 (V, T, 3, H, W)."""
        return self.frames.read(self.videos.paths[index], self.num_clips, generator, self.limits).frames


class MotionDigitsClips(Dataset[Sample]):
    """Clips of `MotionDigits` as a model's input, as the `Sample`s of `VideoDataset`, without faults.

    Clip ``index`` is the same in each draw; only the transform's random choices differ.

    Args:
        digits: the clips.
        transform: uint8 (T, 3, H, W) -> float (T, C, H, W), or with crops (3, T, C, H, W).
        train: whether keys are (index, draw), and clips (T, C, H, W) rather than (V, T, C, H, W).
        seed: seed of the transform.
    """

    def __init__(self, digits: MotionDigits, transform: Transform, train: bool = False, seed: int = 0) -> None:
        self.digits, self.transform, self.train, self.seed = digits, transform, train, seed
        # Then clips can go through it end to end, as if they were one.
        self.is_framewise = isinstance(transform, ClipTransform) or (
            isinstance(transform, TrainTransform) and not transform.is_random
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASS_NAMES

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, key: Key) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """Return several samples, rendered together; PyTorch's DataLoader calls this for a batch."""
        pairs = [_index_and_draw(key, self.train) for key in keys]
        batch = self.digits.render([index for index, _ in pairs])
        return [
            (clip, label, "")
            for clip, label in zip(self._transformed(batch.clips, pairs), batch.labels.tolist(), strict=True)
        ]

    def _transformed(self, clips: Tensor, pairs: list[tuple[int, int]]) -> Iterable[Tensor]:
        """uint8 (B, T, 3, H, W) -> B samples' clips."""
        if not self.is_framewise:
            return [self._transformed_alone(*item) for item in zip(clips, pairs, strict=True)]
        frames = self.transform(clips.flatten(0, 1)).unflatten(-4, clips.shape[:2])  # B T C H W, or 3 B T C H W
        if self.train:
            return frames
        return frames[:, None] if frames.ndim == 5 else frames.transpose(0, 1)

    def _transformed_alone(self, clip: Tensor, pair: tuple[int, int]) -> Tensor:
        if not self.train:
            return _as_views(clip[None], self.transform)
        with seeded(self.seed, *pair):
            return self.transform(clip)


def _index_and_draw(key: Key, train: bool) -> tuple[int, int]:
    if isinstance(key, tuple) != train:
        raise TypeError(
            f"{key!r} is not a key of a training set; expected (index, draw), as TrainSampler yields."
            if train
            else f"{key!r} is not a key of an evaluation set; expected an index."
        )
    return key if isinstance(key, tuple) else (key, 0)


def _as_views(clips: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Transform views, uint8 (V, T, 3, H, W) -> float (V * crops, T, C, H', W')."""
    views = torch.stack([transform(clip) for clip in clips])
    return views if views.ndim == 5 else views.flatten(0, 1)
