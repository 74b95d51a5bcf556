"""InTI video transformers: image ViTs that halve the frames between their blocks (arXiv 2408.06840)."""

from . import zoo
from .hub import load, push_to_hub, save_pretrained
from .interpolation import InterFrameInterpolation
from .schedules import schedule_for
from .streaming import StreamingClassifier, forward_chunked
from .vision_transformer import InTIVisionTransformer, from_image_model
from .zero_shot import zero_shot_head

__version__ = "0.1.0"
__all__ = [
    "InTIVisionTransformer",
    "InterFrameInterpolation",
    "StreamingClassifier",
    "forward_chunked",
    "from_image_model",
    "load",
    "push_to_hub",
    "save_pretrained",
    "schedule_for",
    "zero_shot_head",
    "zoo",
]
