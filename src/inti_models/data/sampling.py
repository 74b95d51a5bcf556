"""Which frames of a video make a clip."""

import os
import threading
from dataclasses import dataclass
from typing import Protocol

import torch

from .limits import DEFAULT_LIMITS, Limits
from .sample_times import check_request
from .video import Clips, read_clips


class Sampled(Protocol):
    """A model that says which frames it takes, as `inti_models.InTIModel` does."""

    num_frames: int
    sampling: str
    frame_stride: int | None


@dataclass(frozen=True)
class FrameSampling:
    """A model's choice of frames: which ones of a video make a clip.

    Attributes:
        num_frames: frames of a clip, T.
        sampling: "uniform", "dense", or a rule of published models; see `read_clips`.
        stride: frames of the video from one sampled frame to the next (dense); None for uniform.

    Raises:
        ValueError: for values that make no sense.
    """

    num_frames: int
    sampling: str = "uniform"
    stride: int | None = None

    def __post_init__(self) -> None:
        check_request(self.num_frames, self.sampling, self.stride)

    @classmethod
    def of(cls, model: Sampled) -> "FrameSampling":
        """Return the choice of this model."""
        return cls(model.num_frames, model.sampling, model.frame_stride)

    def read(
        self,
        path: str | os.PathLike[str],
        num_clips: int = 1,
        generator: torch.Generator | None = None,
        limits: Limits = DEFAULT_LIMITS,
        stop: threading.Event | None = None,
    ) -> Clips:
        """Read clips of a file with `read_clips`."""
        return read_clips(
            path,
            self.num_frames,
            sampling=self.sampling,
            stride=self.stride,
            num_clips=num_clips,
            generator=generator,
            limits=limits,
            stop=stop,
        )
