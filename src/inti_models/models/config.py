"""The arguments that InTI adds to those of an image model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from .interpolation import CONTEXTS, Weighting
from .probabilities import Probabilities

SAMPLINGS = ("uniform", "dense", "dense_rounded", "dense_looped", "uniform_centers", "uniform_offsets")
ROUNDINGS = ("timm", "st_adapter", "slowfast", "mmaction")
PROTOCOL = ("antialias", "resize_rounding", "views")  # fields that are saved only where they are not the default
OUTPUT = tuple(field.name for field in fields(Probabilities))  # likewise


@dataclass(frozen=True)
class InTIConfig:
    """The arguments that InTI adds to those of an image model; flat in a saved ``config.json``.

    Attributes:
        compress_at: numbers of blocks already run at which to compress; non-decreasing, repeats allowed.
            ``()`` is the naive per-frame adaptation, None the `default_schedule`.
        reduction: see `InterFrameInterpolation`.
        context: see `InterFrameInterpolation`.
        weighting: see `InterFrameInterpolation`.
        num_frames: frames a clip is sampled to. Metadata for the data pipeline; any T runs.
        sampling: ``"uniform"`` (segments) or ``"dense"`` (every ``frame_stride``-th frame), or a rule of published
            models that begins with one of these (`inti_models.data.protocols`). Metadata, as are the next four.
        frame_stride: stride of dense sampling.
        antialias: whether frames are resized with antialiasing.
        resize_rounding: whose code rounds sizes and crops; see `inti_models.data.create_clip_transform`.
        views: temporal clips and spatial crops of a video by which the model was measured.
        temporal: name of a method in `temporal.METHODS` whose modules let frames see each other; None for
            none. Its modules see the frames that remain at their depth.
        temporal_args: arguments of the method.
        text_dim: width of the space shared with texts, for a head that projects into it: a `CosineHead`, or without
            classes a `ProjectionHead`; None for timm's linear one.
        multi_label, temperature, thresholds, background: see `Probabilities`.

    Raises:
        ValueError: for an invalid number of frames, sampling, rounding, views or stride.
    """

    compress_at: Sequence[int] | None = None
    reduction: int = 16
    context: Sequence[str] = CONTEXTS
    weighting: Weighting = "softmax"
    num_frames: int = 8
    sampling: str = "uniform"
    frame_stride: int | None = None
    antialias: bool = True
    resize_rounding: str = "timm"
    views: tuple[int, int] = (1, 1)
    temporal: str | None = None
    temporal_args: Mapping[str, Any] | None = None
    text_dim: int | None = None
    multi_label: bool = False
    temperature: float = 1.0
    thresholds: Sequence[float] | None = None
    background: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.num_frames, int) or self.num_frames < 1:
            raise ValueError(
                f"num_frames={self.num_frames!r} is not a number of frames; pass an integer of at least 1."
            )
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling={self.sampling!r} is unknown; choose one of {', '.join(map(repr, SAMPLINGS))}.")
        if self.resize_rounding not in ROUNDINGS or not isinstance(self.antialias, bool):
            raise ValueError(
                f"resize_rounding={self.resize_rounding!r}, antialias={self.antialias!r} are unknown; choose one of "
                f"{', '.join(map(repr, ROUNDINGS))}, and True or False."
            )
        if len(self.views) != 2 or any(type(n) is not int or n < 1 for n in self.views) or self.views[1] not in (1, 3):
            raise ValueError(f"views={self.views!r} is not clips and 1 or 3 crops; pass two integers, such as (4, 3).")
        if self.frame_stride is not None and (not isinstance(self.frame_stride, int) or self.frame_stride < 1):
            raise ValueError(
                f"frame_stride={self.frame_stride!r} is not a stride; pass an integer of at least 1, or None."
            )
        _ = self.probabilities

    @property
    def probabilities(self) -> Probabilities:
        """How logits become probabilities."""
        return Probabilities(**{name: getattr(self, name) for name in OUTPUT})

    @classmethod
    def split(cls, model_args: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Split the arguments of a model into its config and the arguments of its image model."""
        names = {field.name for field in fields(cls)}
        own = {name: value for name, value in model_args.items() if name in names}
        return cls(**own), {name: value for name, value in model_args.items() if name not in names}

    def model_args(self) -> dict[str, Any]:
        """Return the arguments as they are saved; those of a temporal method or text head only where there is one."""
        args = {field.name: getattr(self, field.name) for field in fields(self)}
        args["context"] = tuple(self.context)
        args = {name: value for name, value in args.items() if name not in OUTPUT} | self.probabilities.model_args()
        for field in fields(self):
            if field.name in PROTOCOL and args[field.name] == field.default:
                del args[field.name]  # as before there was any
        args["temporal_args"] = None if self.temporal is None else dict(self.temporal_args or {})
        optional = ("temporal", "temporal_args", "text_dim")
        return {name: value for name, value in args.items() if value is not None or name not in optional}
