"""Which frames and which pixels make a clip in the official code of published video models.

Checkpoints converted from them were trained and measured on clips made slightly differently from ours: starts
of clips are rounded or placed differently, short videos are looped, sides and offsets of crops are rounded up or down,
and frames are resized without antialiasing. Each rule below is one of theirs, by the index of a frame:

- `"dense_rounded"` (ST-Adapter on Kinetics): frames ``stride`` apart; starts spread from the first possible to the
  last, rounded to the nearest; past the end the last frame is repeated.
- `"dense_looped"` (mmaction2, so AIM on Kinetics): one start in the middle of each of V parts of the possible starts;
  past its end, a short video starts again.
- `"uniform_centers"` (ST-Adapter and AIM on Something-Something): the middle of each of T segments with rounded ends.
- `"uniform_offsets"` (UniFormerV2): the rounded start of each of T segments, and for each of V clips another offset
  from it.

The golden arrays in tests/data/golden are the output of the official code.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _dense_rounded(num_frames: int, stride: int, length: int, num_clips: int) -> list[list[int]]:
    room = max(length - ((num_frames - 1) * stride + 1), 0)
    starts = [room // 2] if num_clips == 1 else [round(room / (num_clips - 1) * v) for v in range(num_clips)]
    return [[min(start + i * stride, length - 1) for i in range(num_frames)] for start in starts]


def _dense_looped(num_frames: int, stride: int, length: int, num_clips: int) -> list[list[int]]:
    part = (length - num_frames * stride + 1) / num_clips
    starts = [int(v * part + part / 2) if length >= num_frames * stride else 0 for v in range(num_clips)]
    return [[(start + i * stride) % length for i in range(num_frames)] for start in starts]


def _uniform_centers(num_frames: int, stride: int, length: int, num_clips: int) -> list[list[int]]:
    ends = [round((length - 1) / num_frames * i) for i in range(num_frames + 1)]
    return [[(start + end) // 2 for start, end in zip(ends, ends[1:], strict=False)]] * num_clips


def _uniform_offsets(num_frames: int, stride: int, length: int, num_clips: int) -> list[list[int]]:
    segment = (length - 1) / num_frames
    offsets = [int(segment / (num_clips + 1) * (v + 1)) for v in range(num_clips)]
    return [[min(round(segment * i) + offset, length - 1) for i in range(num_frames)] for offset in offsets]


RULES: dict[str, Callable[[int, int, int, int], list[list[int]]]] = {
    "dense_rounded": _dense_rounded,
    "dense_looped": _dense_looped,
    "uniform_centers": _uniform_centers,
    "uniform_offsets": _uniform_offsets,
}
ONE_CLIP = ("uniform_centers",)  # rules that know no second clip of a video


def frame_indices(sampling: str, num_frames: int, stride: int | None, length: int, num_clips: int) -> Tensor:
    """Return which frames of a video of ``length`` frames make its clips, int64 (V, T), by one of `RULES`."""
    return torch.tensor(RULES[sampling](num_frames, stride or 1, length, num_clips))


def is_dense(sampling: str) -> bool:
    """Return whether frames are a stride apart, rather than spread over the video."""
    return sampling.startswith("dense")


def resized(rounding: str, height: int, width: int, size: int) -> tuple[int, int]:
    """Return the height and width that a frame is resized to, so that its short side is ``size``."""
    if rounding == "mmaction":
        scale = size / min(height, width)
        return int(height * scale + 0.5), int(width * scale + 0.5)
    if rounding == "slowfast" and min(height, width) != size:  # in floating point, which may be one pixel less
        return (
            (math.floor(height / width * size), size) if width < height else (size, math.floor(width / height * size))
        )
    return (size, width * size // height) if height <= width else (height * size // width, size)


def crop_offsets(rounding: str, spare: int, num_crops: int) -> list[int]:
    """Return where crops begin along a side that is ``spare`` pixels longer than they are."""
    middle = -(-spare // 2) if rounding == "slowfast" else spare // 2
    if num_crops == 1:
        return [middle]
    return [0, middle, 2 * middle if rounding == "mmaction" else spare]


ROUNDINGS = ("timm", "st_adapter", "slowfast", "mmaction")
