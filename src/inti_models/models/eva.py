"""timm's `Eva` (PE-Core, EVA02, DINOv3, EUPE, RoPE-ViT, ...) as a trunk of InTI."""

from typing import Any

from timm.models.eva import Eva
from timm.models.eva import checkpoint_filter_fn as image_checkpoint_filter_fn
from torch import Tensor

from .inputs import BlockInputs
from .stages import InTIModel, Tensors


class InTIEva(InTIModel, Eva):  # type: ignore[misc]  # forward_intermediates has one option more
    """A video classifier that halves the frames between the blocks of an image ViT with rotary position embeddings.

    Like `InTIVisionTransformer`, on the other of timm's two classes of plain ViTs. The two tokens that an interpolation
    merges are at the same position, and so is the result: the rotation of each position is unchanged.
    Where training shifts, jitters or rescales the coordinates of the rotation, they are drawn once for each forward
    pass, so that all frames of a clip share them.

    Args:
        **kwargs: fields of `InTIConfig`, and timm's `Eva` arguments.

    Raises:
        ValueError, TypeError: see `InTIModel`.
    """

    def embed_positions(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return tokens (B*T, N, C) of patches, and the rotation, one per block where it is learned (RoPE-Mixed)."""
        return self._pos_embed(patches)

    def block_args(self, index: int, inputs: BlockInputs) -> dict[str, Any]:
        """Return the block's rotation and the attention mask."""
        rope = inputs.positions[index] if self.rope_mixed else inputs.positions
        return {"rope": rope, "attn_mask": inputs.attn_mask, "is_causal": inputs.is_causal}

    def map_image_checkpoint(self, tensors: Tensors) -> Tensors:
        """Apply timm's mapping, which knows EVA's, open_clip's, Meta's DINOv3, EUPE and Perception Encoder layouts."""
        return image_checkpoint_filter_fn(tensors, self)
