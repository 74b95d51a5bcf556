"""Alternatives to InTI: video models of other libraries, with random weights (cost does not depend on them).

Each peer is built by its library from its published settings, written out here since nothing is downloaded, with the
frames of InTI (8) where it takes them. Each is called on a clip (B, T, C, H, W) and returns logits (B, classes).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import audit
import timm
import torch
from baselines import drop_static_tokens, drop_tokens, merge_frames, tokens_at_cost
from torch import Tensor, nn

from inti_models.models.reductions import drop_frames, frames_at_cost, keep_frames
from inti_models.models.registry import create_model
from inti_models.models.token_merging import merge_tokens, tome_schedule
from inti_models.models.vision_transformer import InTIVisionTransformer

NUM_CLASSES, LABELS = audit.NUM_CLASSES, audit.LABELS


@dataclass(frozen=True)
class Peer:
    """A model to compare with.

    Attributes:
        build: makes it.
        source: the library's entry point.
        input: shape (T, C, H, W) of a clip.
        note: what differs from its published setting, or that nothing does.
        published_gflops: cost of a view, in 1e9 multiply-adds, by ``published_in``; None where the input differs or
            none is known.
    """

    build: Callable[[], nn.Module]
    source: str
    input: tuple[int, int, int, int]
    note: str
    published_gflops: float | None = None
    published_in: str = ""


class PerFrame(nn.Module):
    """timm's image ViT on every frame; logits of the averaged pooled features."""

    image_model: Any  # timm's models share forward_features, forward_head and head, but no class

    def __init__(self, image_model: nn.Module) -> None:
        super().__init__()
        self.image_model = image_model

    def forward(self, clip: Tensor) -> Tensor:
        vit = self.image_model
        pooled = vit.forward_head(vit.forward_features(clip.flatten(0, 1)), pre_logits=True)  # BT C
        return vit.head(pooled.unflatten(0, clip.shape[:2]).mean(dim=1))


class ChannelsFirst(nn.Module):
    """torchvision's layout, (B, C, T, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        return self.model(clip.transpose(1, 2))


class Logits(nn.Module):
    """The logits of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        return self.model(pixel_values=clip).logits


class XCLIPVideo(nn.Module):
    """X-CLIP's video tower against cached features of the class names."""

    vision_model: nn.Module
    visual_projection: nn.Module
    mit: nn.Module

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model, self.visual_projection, self.mit = model.vision_model, model.visual_projection, model.mit
        self.classes = nn.Linear(model.config.projection_dim, NUM_CLASSES, bias=False)

    def forward(self, clip: Tensor) -> Tensor:
        pooled = self.vision_model(clip.flatten(0, 1))[1]  # BT C
        frames = self.visual_projection(pooled).unflatten(0, clip.shape[:2])
        return self.classes(self.mit(frames)[1])


def _per_frame(name: str) -> nn.Module:
    return PerFrame(timm.create_model(name, num_classes=NUM_CLASSES))


def _naive(name: str) -> InTIVisionTransformer:
    return cast(InTIVisionTransformer, create_model(name, compress_at=()))


def _inti_gflops() -> float:
    return audit.zoo(audit.B16, 8, 224)


def _tome() -> nn.Module:
    naive = _naive(audit.B16)
    return merge_tokens(naive, tome_schedule(naive, 8, _inti_gflops()))


def _fewer_frames(name: str) -> nn.Module:
    naive = _naive(name)
    return keep_frames(naive, frames_at_cost(naive, _inti_gflops(), most=8))


def _fewer_tokens(drop: Callable[..., nn.Module]) -> nn.Module:
    naive = _naive(audit.B16)
    return drop(naive, tokens_at_cost(naive, 8, _inti_gflops()))


def _hiera() -> nn.Module:
    return ChannelsFirst(audit.hiera(96, 1, (2, 3, 16, 3), 16, 224))


def _timesformer() -> nn.Module:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    return Logits(TimesformerForVideoClassification(TimesformerConfig(num_frames=8, **LABELS)))


def _videomae(num_frames: int) -> nn.Module:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    return Logits(VideoMAEForVideoClassification(VideoMAEConfig(num_frames=num_frames, **LABELS)))


def _vivit(num_frames: int) -> nn.Module:
    from transformers import VivitConfig, VivitForVideoClassification

    return Logits(VivitForVideoClassification(VivitConfig(num_frames=num_frames, **LABELS)))


def _x_clip() -> nn.Module:
    from transformers import XCLIPConfig, XCLIPModel

    vision = {"num_frames": 8, "patch_size": 16, "mit_hidden_size": 512, "mit_intermediate_size": 2048}
    return XCLIPVideo(XCLIPModel(XCLIPConfig(vision_config=vision)))


def _mvit() -> nn.Module:
    from torchvision.models.video import mvit_v2_s

    return ChannelsFirst(mvit_v2_s())


def _swin() -> nn.Module:
    from torchvision.models.video import swin3d_b

    return ChannelsFirst(swin3d_b())


def _s3d() -> nn.Module:
    from torchvision.models.video import s3d

    return ChannelsFirst(s3d())


EIGHT, SIXTEEN, THIRTY_TWO = (8, 3, 224, 224), (16, 3, 224, 224), (32, 3, 224, 224)
AS_PUBLISHED = "published setting"
_PE_CORE = "vit_pe_core_base_patch16_224"
_QUICK, _L14 = "vit_base_patch16_clip_quickgelu_224", "vit_large_patch14_clip_quickgelu_224"

# What else can be had for the GFLOPs of inti_vit_b16_k400 on 8 frames, as near as whole frames and tokens allow.
EQUAL_COST: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "naive B/16, fewer frames": (partial(_fewer_frames, audit.B16), "evenly spread"),
    "naive B/16, random tokens dropped": (partial(_fewer_tokens, drop_tokens), "before the first block"),
    "naive B/16, unchanged tokens dropped": (partial(_fewer_tokens, drop_static_tokens), "run-length tokens"),
    "naive B/16, frames dropped": (lambda: drop_frames(create_model(audit.B16)), "where InTI interpolates"),
    "ToMe B/16": (_tome, "tokens merge within frames, in every block"),
    "ToMe B/16 across frames": (lambda: merge_frames(create_model(audit.B16)), "where InTI interpolates"),
    "ST-Adapter B/16, fewer frames": (partial(_fewer_frames, "inti_st_adapter_b16_k400"), "evenly spread"),
    "AIM B/16, fewer frames": (partial(_fewer_frames, "inti_aim_b16_k400"), "evenly spread"),
    "UniFormerV2 B/16, fewer frames": (partial(_fewer_frames, "inti_uniformerv2_b16_k400"), "evenly spread"),
}

PEERS = {
    **{name: Peer(build, "benchmarks/baselines.py", EIGHT, note) for name, (build, note) in EQUAL_COST.items()},
    "timm ViT-B/16 per frame": Peer(lambda: _per_frame(_QUICK), f"timm {_QUICK}, mean of frames", EIGHT, "ours"),
    "timm ViT-L/14 per frame": Peer(lambda: _per_frame(_L14), f"timm {_L14}, mean of frames", EIGHT, "ours"),
    "PE-Core B/16 per frame": Peer(lambda: _per_frame(_PE_CORE), f"timm {_PE_CORE}, mean of frames", EIGHT, "ours"),
    "ST-Adapter B/16": Peer(
        lambda: _naive("inti_st_adapter_b16_k400"), "inti_st_adapter_b16_k400, compress_at=()", EIGHT, AS_PUBLISHED
    ),
    "AIM B/16": Peer(
        lambda: _naive("inti_aim_b16_k400"),
        "inti_aim_b16_k400, compress_at=()",
        EIGHT,
        AS_PUBLISHED,
        606 / 3,
        "README of taoyang1122/adapt-image-models (three views)",
    ),
    "UniFormerV2 B/16": Peer(
        lambda: _naive("inti_uniformerv2_b16_k400"), "inti_uniformerv2_b16_k400, compress_at=()", EIGHT, AS_PUBLISHED
    ),
    "TimeSformer-B": Peer(
        _timesformer,
        "transformers TimesformerForVideoClassification",
        EIGHT,
        AS_PUBLISHED,
        590 / 3,
        "arXiv 2102.05095, 0.59 TFLOPs for three crops",
    ),
    "VideoMAE-B": Peer(
        lambda: _videomae(16),
        "transformers VideoMAEForVideoClassification",
        SIXTEEN,
        AS_PUBLISHED,
        180,
        "arXiv 2203.12602",
    ),
    "VideoMAE-B, 8 frames": Peer(
        lambda: _videomae(8), "transformers VideoMAEForVideoClassification", EIGHT, "8 frames instead of 16"
    ),
    "ViViT-B/16x2": Peer(
        lambda: _vivit(32),
        "transformers VivitForVideoClassification",
        THIRTY_TWO,
        AS_PUBLISHED,
        455.2,
        "arXiv 2103.15691, spatio-temporal attention",
    ),
    "ViViT-B/16x2, 8 frames": Peer(
        lambda: _vivit(8), "transformers VivitForVideoClassification", EIGHT, "8 frames instead of 32"
    ),
    "X-CLIP-B/16": Peer(
        _x_clip,
        "transformers XCLIPModel",
        EIGHT,
        "video tower; features of the class names cached, without the prompt generator",
        145,
        "microsoft/VideoX, X-CLIP/README.md (prompt generator included)",
    ),
    "Hiera-B": Peer(_hiera, "timm Hiera, for videos", SIXTEEN, AS_PUBLISHED),
    "MViTv2-S": Peer(
        _mvit, "torchvision mvit_v2_s", SIXTEEN, AS_PUBLISHED, 64.224, "torchvision MViT_V2_S_Weights.KINETICS400_V1"
    ),
    "Swin3D-B": Peer(
        _swin,
        "torchvision swin3d_b",
        THIRTY_TWO,
        AS_PUBLISHED,
        2 * 140.667,
        "torchvision Swin3D_B_Weights.KINETICS400_V1 (140.667, which is of 16 frames)",
    ),
    "Swin3D-B, 8 frames": Peer(_swin, "torchvision swin3d_b", EIGHT, "8 frames instead of 32"),
    "S3D": Peer(
        _s3d,
        "torchvision s3d",
        SIXTEEN,
        "16 frames; its weights were measured on 128",
        17.979,
        "torchvision S3D_Weights.KINETICS400_V1",
    ),
}


def build(name: str) -> nn.Module:
    """Build a peer by its name in `PEERS`, in evaluation mode, with seeded random weights."""
    torch.manual_seed(0)
    return PEERS[name].build().eval()
