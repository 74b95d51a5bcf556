"""From a video file to labels."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from .data import create_clip_transform, read_clips, resolve_clip_config
from .vision_transformer import InTIVisionTransformer


@dataclass(frozen=True)
class Label:
    """A class and its probability for a video.

    Attributes:
        index: class index.
        name: class name, or the index as text where the model has no names.
        probability: 0 to 1.
    """

    index: int
    name: str
    probability: float


class VideoClassifier:
    """Reads video files, images or folders of frames and says what is in them.

    Frames, sampling, size and normalisation follow the model's own config. Views are clips spread over time
    and crops along the longer side; their probabilities are averaged.

    Args:
        model: an InTI model with a classifier; it is moved to ``device`` and put into evaluation mode.
        views: temporal clips and spatial crops, such as (4, 3); crops are 1 or 3.
        device: where to run.

    Raises:
        ValueError: for a model without a classifier, or views that cannot be.
    """

    def __init__(
        self, model: InTIVisionTransformer, views: tuple[int, int] = (1, 1), device: str | torch.device = "cpu"
    ) -> None:
        if model.num_classes < 1:
            raise ValueError("The model has no classifier (num_classes=0); create it with a number of classes.")
        self.num_clips, num_crops = views
        if self.num_clips < 1:
            raise ValueError(f"views={views} asks for {self.num_clips} clips; ask for at least one.")
        self.model, self.device = model.to(device).eval(), torch.device(device)
        self.transform = create_clip_transform(**resolve_clip_config(model), num_crops=num_crops)
        names = model.pretrained_cfg.get("label_names") or ()
        self.label_names = tuple(names) if len(names) == model.num_classes else None

    def views(self, path: str | os.PathLike[str]) -> Tensor:
        """The model's input for a file: views (V, T, C, H, W)."""
        clips = read_clips(
            path,
            self.model.num_frames,
            sampling=self.model.sampling,
            stride=self.model.frame_stride,
            num_clips=self.num_clips,
        )
        frames = torch.stack([self.transform(clip) for clip in clips.frames])  # V T C H W, or V 3 T C H W
        return frames if frames.ndim == 5 else frames.flatten(0, 1)

    @torch.inference_mode()
    def probabilities(self, path: str | os.PathLike[str]) -> Tensor:
        """Probability of each class, (num_classes,), averaged over the views."""
        return self.model(self.views(path).to(self.device)).float().softmax(dim=-1).mean(dim=0).cpu()

    def __call__(self, path: str | os.PathLike[str], topk: int = 5) -> list[Label]:
        """The ``topk`` most probable classes, most probable first.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read as a video.
        """
        top = self.probabilities(path).topk(min(topk, self.model.num_classes))
        return [
            Label(index, self.label_names[index] if self.label_names else str(index), probability)
            for probability, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
