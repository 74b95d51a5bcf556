"""timm's `VisionTransformer` (CLIP, SigLIP, DINOv2, AugReg, ...) as a trunk of InTI."""

from collections.abc import Sequence
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .stages import BlockInputs, InTIConfig, InTIModel


class InTIVisionTransformer(InTIModel, VisionTransformer):
    """A video classifier that halves the frames between the blocks of an image ViT.

    Each frame runs through the same image blocks; after ``compress_at[k]`` blocks an
    `InterFrameInterpolation` turns every two frames into one. After the last block: final norm, the
    image model's pooling on each remaining frame, mean over frames, head.

    The input is a clip (B, T, C, H, W) with any T >= 1, or an image (B, C, H, W), which is a clip of one
    frame; for an image every method returns what timm's `VisionTransformer` returns. A clip without a
    batch dimension, (T, C, H, W), cannot be told from a batch of images: add the dimension yourself. Where T is no
    multiple of ``2**len(compress_at)``, some frames are taken twice: see `interpolation.frame_order`.

    Args:
        **kwargs: fields of `InTIConfig`, and timm's `VisionTransformer` arguments.

    Raises:
        ValueError, TypeError: see `InTIModel`.
    """

    def embed_positions(self, patches: Tensor) -> tuple[Tensor, None]:
        """Patches of frames -> tokens (BT, N, C); no rotary embedding."""
        return self._pos_embed(patches), None

    def block_args(self, index: int, inputs: BlockInputs) -> dict[str, Any]:
        """The attention mask, for blocks that take one."""
        if inputs.attn_mask is None and not inputs.is_causal:
            return {}
        return {"attn_mask": inputs.attn_mask, "is_causal": inputs.is_causal}


def from_image_model(
    vit: VisionTransformer,
    compress_at: Sequence[int] | None = None,
    num_classes: int | None = None,
    **inti_args: Any,
) -> InTIVisionTransformer:
    """Make a video model of any instantiated timm `VisionTransformer` (CLIP, SigLIP, DINOv2, AugReg, ...).

    The image model's modules become part of the video model, not copies of them: pass
    ``copy.deepcopy(vit)`` to go on using ``vit`` by itself.

    Args:
        vit: the image model, with its weights.
        compress_at: see `InTIVisionTransformer`; None for the default schedule.
        num_classes: classes of a new head; None to keep the image model's head.
        **inti_args: the other fields of `InTIConfig`.

    Raises:
        TypeError: for a model that is not exactly timm's `VisionTransformer`.
        ValueError: for a model with patch dropout, or a schedule that does not fit.
    """
    if type(vit) is not VisionTransformer:
        raise TypeError(
            f"Cannot wrap a {type(vit).__name__}; from_image_model takes timm's VisionTransformer itself, such as "
            "timm.create_model('vit_base_patch16_clip_224') (classes with a forward pass of their own, such as "
            "NaFlexVit, Eva or VisionTransformerDistilled, would lose it)."
        )
    if not isinstance(vit.patch_drop, nn.Identity):
        raise ValueError("Cannot wrap a model with patch dropout: create it with patch_drop_rate=0.")
    model, parameter = InTIVisionTransformer.adopt(vit), next(vit.parameters())
    model.add_interpolations(InTIConfig(compress_at=compress_at, **inti_args), parameter.device, parameter.dtype)
    if num_classes is not None:
        model.reset_classifier(num_classes)

    cfg = getattr(vit, "pretrained_cfg", None)
    if cfg and cfg.get("architecture"):  # from timm's registry: can be created again as `inti_vit`
        model._model_args["base"] = cfg["architecture"]
        weight_source = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "tag", "state_dict")
        model.pretrained_cfg = {k: v for k, v in cfg.items() if k not in weight_source}
        model.pretrained_cfg["architecture"] = "inti_vit"
        model.default_cfg = model.pretrained_cfg  # timm's old name for it
    return model
