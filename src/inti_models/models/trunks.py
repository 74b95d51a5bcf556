"""Video models from image models: which class of timm's becomes which of ours."""

from collections.abc import Sequence
from typing import Any

from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from .config import InTIConfig
from .eva import InTIEva
from .stages import InTIModel
from .vision_transformer import InTIVisionTransformer

# Class of the image model -> class of the video model on it; docs/add_a_trunk.md adds another.
TRUNKS: dict[type[nn.Module], type[InTIModel]] = {VisionTransformer: InTIVisionTransformer, Eva: InTIEva}

# Class of an image model that is none of these -> why not, and what to take instead.
_INSTEAD: dict[type[nn.Module], str] = {
    NaFlexVit: "its frames may differ in size, and then no token has a partner at its place; take a model of one size, "
    "such as timm.create_model('vit_base_patch16_siglip_256') for 'naflexvit_base_patch16_siglip'",
    VisionTransformerDistilled: "its two heads make two predictions; take one without distillation, such as "
    "timm.create_model('deit3_base_patch16_224')",
}


def from_image_model(
    vit: nn.Module,
    compress_at: Sequence[int] | None = None,
    num_classes: int | None = None,
    **inti_args: Any,
) -> InTIModel:
    """Make a video model of an instantiated timm `VisionTransformer` (CLIP, SigLIP, SigLIP2, DINOv2, AugReg, DeiT3,
    ...) or `Eva` (PE-Core, EVA02, DINOv3, EUPE, ...), or of another class in `TRUNKS`.

    The image model's modules become part of the video model, not copies of them: pass
    ``copy.deepcopy(vit)`` to keep using ``vit`` by itself.

    Args:
        vit: the image model, with its weights.
        compress_at: see `InTIConfig`; None for the default schedule.
        num_classes: classes of a new head; None to keep the image model's head.
        **inti_args: the other fields of `InTIConfig`. With ``text_dim`` the image model's head is its projection into
            the space of texts, of this width: `InTIModel.encode` embeds there, and there are no classes unless
            ``num_classes`` says how many.

    Raises:
        TypeError: for what is not a model, or a model whose class is not exactly one of `TRUNKS`.
        ValueError: for a model with patch dropout, a schedule that does not fit, or a head that is not a projection of
            ``text_dim``.
    """
    _check_trunk(vit)
    if not isinstance(getattr(vit, "patch_drop", None), nn.Identity | None):
        raise ValueError("Cannot wrap a model with patch dropout: create it with patch_drop_rate=0.")
    model, parameter = TRUNKS[type(vit)].adopt(vit), next(vit.parameters())
    config = InTIConfig(compress_at=compress_at, **inti_args)
    if config.text_dim is not None:
        model.num_classes = num_classes or 0
    model.add_interpolations(config, parameter.device, parameter.dtype)
    if config.text_dim is not None:
        model.head.projection = _projection(vit, config.text_dim)
    elif num_classes is not None:
        model.reset_classifier(num_classes)

    cfg = getattr(vit, "pretrained_cfg", None)
    if cfg and cfg.get("architecture"):  # from timm's registry: can be created again as `inti_vit`
        model._model_args["base"] = cfg["architecture"]
        weight_source = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "tag", "state_dict")
        model.pretrained_cfg = {k: v for k, v in cfg.items() if k not in weight_source}
        model.pretrained_cfg["architecture"] = "inti_vit"
        model.default_cfg = model.pretrained_cfg  # timm's old name for it
    return model


def _projection(vit: Any, text_dim: int) -> nn.Linear:
    """The head of an image-text model; a ValueError if it has another width, or is none."""
    if not isinstance(vit.head, nn.Linear) or vit.head.out_features != text_dim:
        found = f"of {vit.head.out_features}" if isinstance(vit.head, nn.Linear) else "not linear"
        raise ValueError(
            f"text_dim={text_dim}, but the image model's head is {found}; pass the width of its projection, and "
            "create the image model without num_classes."
        )
    return vit.head


def _check_trunk(vit: Any) -> None:
    """Raise a TypeError for all but an image model of a class in `TRUNKS`."""
    if type(vit) in TRUNKS:
        return
    kind = type(vit).__name__
    if vit is None:
        raise TypeError("The image model is None; pass one, such as timm.create_model('vit_base_patch16_clip_224').")
    if isinstance(vit, str):
        raise TypeError(
            f"{vit!r} is a name; pass the model, timm.create_model({vit!r}), or use "
            f"timm.create_model('inti_vit', base={vit!r})."
        )
    if isinstance(vit, InTIModel):
        raise TypeError(f"Cannot wrap an {kind}: it is a video model already; use it, or pass its image model.")
    if not isinstance(vit, nn.Module):
        raise TypeError(f"Cannot wrap a {kind}: it is not a model; pass one of timm's, such as a VisionTransformer.")
    why = _INSTEAD.get(
        type(vit),
        f"it is not exactly one of timm's {', '.join(trunk.__name__ for trunk in TRUNKS)}; take one that is, such as "
        "timm.create_model('vit_base_patch16_clip_224'), or add this class as docs/add_a_trunk.md shows",
    )
    raise TypeError(f"Cannot wrap a {kind}: {why}.")
