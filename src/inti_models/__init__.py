"""InTI video transformers: image ViTs that halve the frames between their blocks (arXiv 2408.06840)."""

from . import zoo
from .interpolation import InterFrameInterpolation
from .vision_transformer import InTIVisionTransformer, from_image_model

__version__ = "0.1.0"
__all__ = ["InTIVisionTransformer", "InterFrameInterpolation", "from_image_model", "zoo"]
