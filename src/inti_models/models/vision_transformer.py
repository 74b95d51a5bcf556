"""timm's `VisionTransformer` (CLIP, SigLIP, DINOv2, AugReg, ...) as a trunk of InTI."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as image_checkpoint_filter_fn
from torch import Tensor

from .inputs import BlockInputs
from .stages import InTIModel, Tensors


class InTIVisionTransformer(InTIModel, VisionTransformer):
    """A video classifier that halves the frames between the blocks of an image ViT.

    Each frame runs through the same image blocks; after ``compress_at[k]`` blocks an
    `InterFrameInterpolation` turns every two frames into one. After the last block: final norm, the
    image model's pooling on each remaining frame, mean over frames, head.

    The input is a clip (B, T, C, H, W) with any T >= 1, or an image (B, C, H, W), which is a clip of one
    frame; for an image every method returns what timm's `VisionTransformer` returns. A clip without a
    batch dimension, (T, C, H, W), cannot be told from a batch of images: add the dimension yourself. Where T is not a
    multiple of ``2**len(compress_at)``, some frames are taken twice: see `interpolation.frame_order`.

    Args:
        **kwargs: fields of `InTIConfig`, and timm's `VisionTransformer` arguments.

    Raises:
        ValueError, TypeError: see `InTIModel`.
    """

    def embed_positions(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return the tokens (B*T, N, C) of patches; no rotary embedding."""
        return self._pos_embed(patches), None

    def block_args(self, index: int, inputs: BlockInputs) -> dict[str, Any]:
        """Return the attention mask, for blocks that take one."""
        if inputs.attn_mask is None and not inputs.is_causal:
            return {}
        return {"attn_mask": inputs.attn_mask, "is_causal": inputs.is_causal}

    def map_image_checkpoint(self, tensors: Tensors) -> Tensors:
        """Apply timm's mapping, which knows OpenAI's, open_clip's, DINOv2's and other layouts."""
        return image_checkpoint_filter_fn(tensors, self)
