"""Small models with random weights."""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import nn

# Arguments of a small image ViT with a grid that is not square.
TINY = {
    "img_size": (32, 48),
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 5,
}


def randomize_model_(model: nn.Module) -> nn.Module:
    """Draw every parameter anew, those that start at zero or one included, and return the model for evaluation.

    Matrices and kernels keep the scale of their input; vectors and embeddings have a deviation of 0.5.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            embedding = parameter.ndim in (1, 3)
            parameter.normal_(std=0.5 if embedding else 2 * parameter[0].numel() ** -0.5)
    return model.eval()


def digits_model(compress_at: Sequence[int] = (), **kwargs: Any) -> nn.Module:
    """The small model of the zoo for four frames, 16 + 1 tokens a frame, with random weights."""
    args = {"img_size": 32, "num_classes": 10, "compress_at": compress_at, "num_frames": 4}
    return randomize_model_(timm.create_model("inti_vit_t8_32_motiondigits", **{**args, **kwargs}))


def assert_all_train(model: nn.Module, clip: torch.Tensor) -> None:
    """Every parameter gets a gradient that is not zero."""
    model.train()(clip).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


# Families of image models -> a model of timm's, and arguments beside `TINY` that make a miniature of it; what is said
# of a family, the others have not.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("vit_base_patch16_clip_224", {}),
    "metaclip2": ("vit_huge_patch14_clip_quickgelu_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {}),  # attention pooling, no class token; SigLIP2 too
    "dinov2": ("vit_small_patch14_reg4_dinov2", {}),  # registers, layer scale
    "deit3": ("deit3_small_patch16_224", {}),
    "augreg": ("vit_small_patch16_224", {}),
    "pe_core": ("vit_pe_core_base_patch16_224", {}),  # attention pooling after rotation
    "pe_core_gigantic": ("vit_pe_core_gigantic_patch14_448", {}),  # without class token
    "pe_spatial": ("vit_pe_spatial_base_patch16_512", {}),
    "eva": ("eva_giant_patch14_clip_224", {}),  # no rotation
    "eva02": ("eva02_base_patch14_224", {}),  # norm after the mean over places
    "eva02_clip": ("eva02_base_patch16_clip_224", {}),
    "eva02_enormous": ("eva02_enormous_patch14_clip_224", {}),  # norm after each branch
    "dinov3": ("vit_base_patch16_dinov3", {}),  # any size, rotation for each
    "eupe": ("vit_base_patch16_dinov3_qkvb", {}),
    "rope_mixed": ("vit_small_patch16_rope_mixed_ape_224", {}),  # a learned rotation in each block
    "rope_mixed_dynamic": ("vit_small_patch16_rope_mixed_224", {"dynamic_img_size": True}),
    "rope_gap": ("vit_medium_patch16_rope_reg1_gap_256", {}),
    "sapiens2": ("vit_base_patch16_sapiens2", {"num_kv_heads": 1}),  # grouped keys
    "lingbot": ("vit_small_patch16_lingbot", {}),
}


# Those that a test of something else needs not all of: one for each way in which trunks differ.
SOME_FAMILIES = ("siglip", "pe_core", "eva02_clip", "dinov3", "rope_mixed")


def miniature(family: str, **args: Any) -> nn.Module:
    """A small image model of a family, with random weights."""
    name, of_family = FAMILIES[family]
    return randomize_model_(timm.create_model(name, **{**TINY, **of_family, **args}))
