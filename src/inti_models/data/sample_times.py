"""Which times of a video make a clip."""

import torch
from torch import Tensor

from .limits import MAX_BYTES, VideoError
from .protocols import ONE_CLIP, RULES, is_dense

SAMPLINGS = ("uniform", "dense", *RULES)


def check_request(num_frames: int, sampling: str, stride: int | None, num_clips: int = 1) -> None:
    """Raise a `VideoError` for arguments of `read_clips` that make no sense."""
    for name, value in (("num_frames", num_frames), ("num_clips", num_clips)):
        if not isinstance(value, int) or value < 1:
            raise VideoError(f"{name} is {value!r}; expected a whole number of at least 1.")
    if sampling not in SAMPLINGS:
        raise VideoError(f"sampling is {sampling!r}; expected one of {', '.join(map(repr, SAMPLINGS))}.")
    if not is_dense(sampling) and stride is not None:
        raise VideoError(
            f"stride is {stride!r} but sampling is {sampling!r}, which has none: leave stride out, or "
            "pass sampling='dense'."
        )
    if is_dense(sampling) and (not isinstance(stride, int) or stride < 1):
        raise VideoError(
            f"stride is {stride!r}; sampling={sampling!r} needs a whole number of at least 1: the "
            "frames from one sampled frame to the next."
        )
    if sampling in ONE_CLIP and num_clips > 1:
        raise VideoError(f"num_clips is {num_clips}, but sampling {sampling!r} has one clip per video: take one.")
    if num_clips * num_frames * 3 > MAX_BYTES:
        raise VideoError(f"{num_clips} clips of {num_frames} frames do not fit {MAX_BYTES} bytes: ask for fewer.")


def sample_times(
    num_frames: int,
    duration: float,
    *,
    sampling: str = "uniform",
    step: float = 1.0,
    period: float = 1.0,
    num_clips: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return times to sample, float64 (V, T), in the unit of `duration` (see `read_clips` for the meaning).

    Args:
        num_frames: T.
        duration: Length of the video.
        sampling: "uniform" or "dense", or a rule of `protocols`, of which only these two random forms are known here.
        step: Time from one sampled frame to the next ("dense").
        period: Time one frame is shown on average; the last sample needs this much room ("dense").
        num_clips: V.
        generator: If given, positions are random.
    """
    i = torch.arange(num_frames, dtype=torch.float64)
    v = torch.arange(num_clips, dtype=torch.float64)[:, None]
    if not is_dense(sampling):
        if generator is not None:
            offset = torch.rand(num_clips, num_frames, generator=generator, dtype=torch.float64)
            return (i + offset) * duration / num_frames
        # Numerator and denominator stay whole numbers, so that a sample which falls exactly on
        # the start of a frame is not rounded to the frame before.
        numerator = 2 * num_clips * i + 2 * v + 1
        return numerator * duration / (2 * num_clips * num_frames)

    room = max(duration - (num_frames - 1) * step - period, 0.0)
    if generator is not None:
        u = torch.rand(num_clips, 1, generator=generator, dtype=torch.float64)
        start = u * (room + period)
    elif num_clips == 1:
        start = torch.full((1, 1), room / 2, dtype=torch.float64)
    else:
        start = room * v / (num_clips - 1)
    return start + i * step
