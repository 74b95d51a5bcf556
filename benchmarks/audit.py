"""What published Kinetics-400 models cost, counted by one counter: writes results/audit.json, and prints a table.

    python benchmarks/audit.py

Published GFLOPs do not compare: several papers leave attention out, some state one view and others all of them. Here a
multiply-add is one operation, and matrix products and convolutions are counted, attention's and the embedding's
included, for one view and for all views of a video. `torch.utils.flop_counter` counts the models of the zoo and of
other libraries on the meta device, where nothing is computed; what no installed library has (EVL, DiST, BIKE's header,
InternVideo2) is added by closed formulas of its official code's layers. papers.yaml has the published numbers and
where each was read; `inti-models benchmark` measures time.
"""

import argparse
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from inti_models.models.registry import create_model

PAPERS = Path(__file__).parent / "papers.yaml"
RESULTS = Path(__file__).parent / "results" / "audit.json"
NUM_CLASSES = 400
LABELS: dict[str, Any] = {"num_labels": NUM_CLASSES}  # an argument that transformers does not declare


def count(model: nn.Module, shape: tuple[int, ...]) -> float:
    """Count the multiply-adds, in 1e9, of a forward pass of a model on the meta device."""
    model.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(shape, device="meta"))
    return counter.get_total_flops() / 2e9  # torch counts a multiply-add as two


# --- Models of the zoo and of other libraries -------------------------------------------------------------------------


@cache
def zoo(name: str, frames: int, size: int, **options: Any) -> float:
    """Count a model of the zoo on a clip."""
    model = create_model(name, num_frames=frames, img_size=size, device="meta", **options)
    return count(model, (1, frames, 3, size, size))


def original(name: str, frames: int, size: int) -> float:
    """Count a model of the zoo without compression: a temporal method as published, or CLIP on every frame."""
    return zoo(name, frames, size, compress_at=())


def with_shape(build: Callable[[int, int], nn.Module], channels_first: bool, frames: int, size: int) -> float:
    """Count a model of another library; ``build`` takes frames and size, ``channels_first`` is (B, C, T, H, W)."""
    with torch.device("meta"):
        model = build(frames, size)
    return count(model, (1, 3, frames, size, size) if channels_first else (1, frames, 3, size, size))


def timesformer(frames: int, size: int) -> nn.Module:
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    return TimesformerForVideoClassification(TimesformerConfig(num_frames=frames, image_size=size, **LABELS))


def vivit(frames: int, size: int) -> nn.Module:
    from transformers import VivitConfig, VivitForVideoClassification

    return VivitForVideoClassification(VivitConfig(num_frames=frames, image_size=size, **LABELS))


def videomae(width: int, depth: int, frames: int, size: int) -> nn.Module:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = VideoMAEConfig(
        num_frames=frames,
        image_size=size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=width // 64,
        **LABELS,
    )
    return VideoMAEForVideoClassification(config)


def x_clip(width: int, depth: int, patch: int, joint: int, frames: int, size: int) -> nn.Module:
    from peers import XCLIPVideo
    from transformers import XCLIPConfig, XCLIPModel

    vision = {
        "num_frames": frames,
        "image_size": size,
        "patch_size": patch,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 64,
        "mit_hidden_size": joint,
        "mit_intermediate_size": 4 * joint,
        "mit_num_attention_heads": joint // 64,
    }
    return XCLIPVideo(XCLIPModel(XCLIPConfig(vision_config=vision, projection_dim=joint)))


def hiera(width: int, heads: int, stages: tuple[int, ...], frames: int, size: int) -> nn.Module:
    """Hiera for videos, as its authors build it, with timm's class."""
    from timm.models.hiera import Hiera

    return Hiera(
        img_size=(frames, size, size),
        num_classes=NUM_CLASSES,
        embed_dim=width,
        num_heads=heads,
        stages=stages,
        q_pool=3,
        q_stride=(1, 2, 2),
        mask_unit_size=(1, 8, 8),
        patch_kernel=(3, 7, 7),
        patch_stride=(2, 4, 4),
        patch_padding=(1, 3, 3),
        sep_pos_embed=True,
    )


def torchvision_model(name: str, frames: int, size: int) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, num_classes=NUM_CLASSES)


# --- Closed formulas, in multiply-adds --------------------------------------------------------------------------------


def block(tokens: int, width: int, context: int | None = None) -> int:
    """A transformer block of ``tokens``, each attending to ``context`` (all of them): projections, attention, MLP."""
    return 12 * tokens * width**2 + 2 * tokens * (tokens if context is None else context) * width


def clip_vit(width: int, depth: int, patch: int, frames: int, size: int) -> int:
    """CLIP's vision tower on every frame, with a head on their mean; the counter counts the same (see the tests)."""
    patches = (size // patch) ** 2
    return frames * (patches * 3 * patch**2 * width + depth * block(patches + 1, width)) + width * NUM_CLASSES


def evl(name: str, width: int, patch: int, frames: int, size: int) -> float:
    """CLIP and the decoder of EVL: 4 layers (OpenGVLab/efficient-video-recognition at b282e8b, model.py)."""
    patches = (size // patch) ** 2
    tokens = frames * (patches + 1)
    cross = 2 * (frames - 1) * patches**2 * (width + width)  # to the frame before and after: products, and their values
    decoder = (
        2 * tokens * width**2 + 2 * tokens * width + 10 * width**2
    )  # one query on the keys and values of all tokens
    return original(name, frames, size) + 4 * (3 * tokens * width + cross + decoder) / 1e9


def bike(name: str, joint: int, frames: int, size: int) -> float:
    """CLIP and BIKE's temporal transformer, 6 layers (whwu95/BIKE at e8f6a8b); features of texts are cached."""
    return original(name, frames, size) + 6 * block(frames, joint) / 1e9


def dist(name: str, width: int, depth: int, patch: int, frames: int, size: int) -> float:
    """CLIP and DiST's temporal and integration branches (alibaba-mmai-research/DiST at 4b3a09b, dist.py).

    The temporal branch, 96 channels wide, sees twice the frames of CLIP; the integration branch has 384 channels.
    """
    temporal, joint, patches = 96, 384, (size // patch) ** 2
    tokens, places = frames * (patches + 1), 2 * frames * patches
    stem = places * temporal * 3 * 5 * patch**2
    layer = places * temporal**2 * (3 + 9)  # kernels of 3x1x1 and 1x3x3
    layer += tokens * width * joint  # from CLIP
    layer += frames * patches * joint * temporal * (1 + 2)  # to the temporal branch, and back from two frames
    layer += tokens * (2 * joint**2 + 2 * joint * temporal + 3 * temporal**2)  # integration
    pooling = 2 * tokens * joint**2 + 2 * tokens * joint + 10 * frames * joint**2  # a query of each frame
    pooling += 2 * frames * joint**2 + 2 * frames * joint + 10 * joint**2  # and one of the clip
    return original(name, frames, size) + (stem + depth * layer + 4 * pooling) / 1e9


def internvideo2(width: int, depth: int, frames: int, size: int) -> float:
    """InternVideo2: joint attention over all patches of 14 pixels (OpenGVLab/InternVideo at 3965eef)."""
    patches = frames * (size // 14) ** 2
    tokens = patches + 1
    pooling = 2 * tokens * width**2 + 2 * tokens * width + width**2 + width * 768
    return (patches * 3 * 14**2 * width + depth * block(tokens, width) + pooling + 768 * NUM_CLASSES) / 1e9


B16, L14 = "inti_vit_b16_k400", "inti_vit_l14_k400"
MODELS: dict[str, Callable[[int, int], float]] = {
    "CLIP B/16": partial(original, B16),
    "CLIP L/14": partial(original, L14),
    "InTI L/14": partial(zoo, L14),
    "InTI + ST-Adapter L/14": partial(zoo, "inti_st_adapter_l14_k400"),
    "AIM B/16": partial(original, "inti_aim_b16_k400"),
    "AIM L/14": partial(original, "inti_aim_l14_k400"),
    "ST-Adapter B/16": partial(original, "inti_st_adapter_b16_k400"),
    "ST-Adapter L/14": partial(original, "inti_st_adapter_l14_k400"),
    "UniFormerV2 B/16": partial(original, "inti_uniformerv2_b16_k400"),
    "UniFormerV2 L/14": partial(original, "inti_uniformerv2_l14_k400"),
    "EVL B/16": partial(evl, B16, 768, 16),
    "EVL L/14": partial(evl, L14, 1024, 14),
    "BIKE L/14": partial(bike, L14, 768),
    "DiST B/16": partial(dist, B16, 768, 12, 16),
    "DiST L/14": partial(dist, L14, 1024, 24, 14),
    "X-CLIP B/16": partial(with_shape, partial(x_clip, 768, 12, 16, 512), False),
    "X-CLIP L/14": partial(with_shape, partial(x_clip, 1024, 24, 14, 768), False),
    "TimeSformer B/16": partial(with_shape, timesformer, False),
    "ViViT B/16x2": partial(with_shape, vivit, False),
    "VideoMAE B/16": partial(with_shape, partial(videomae, 768, 12), False),
    "VideoMAE L/16": partial(with_shape, partial(videomae, 1024, 24), False),
    "Hiera-B": partial(with_shape, partial(hiera, 96, 1, (2, 3, 16, 3)), True),
    "Hiera-L": partial(with_shape, partial(hiera, 144, 2, (2, 6, 36, 4)), True),
    "MViTv2-S": partial(with_shape, partial(torchvision_model, "mvit_v2_s"), True),
    "Swin3D-T": partial(with_shape, partial(torchvision_model, "swin3d_t"), True),
    "Swin3D-B": partial(with_shape, partial(torchvision_model, "swin3d_b"), True),
    "InternVideo2-S": partial(internvideo2, 384, 12),
    "InternVideo2-B": partial(internvideo2, 768, 12),
    "InternVideo2-L": partial(internvideo2, 1024, 24),
}


def num_views(views: str) -> int:
    """Views of a video, ``"clips x crops"`` such as "4x3"."""
    clips, crops = views.split("x")
    return int(clips) * int(crops)


def papers() -> list[dict[str, Any]]:
    """Return the rows of papers.yaml, with the defaults at its top."""
    rows = yaml.safe_load(PAPERS.read_text())
    return [
        {"size": 224, "views": None, "stated": None, "stated_views": 1, "note": "", "chart": False, **r} for r in rows
    ]


def audited(paper: dict[str, Any]) -> dict[str, Any]:
    """Return a row of papers.yaml with its cost: per view and for all, stated and counted, in 1e9 multiply-adds."""
    gflops = MODELS[paper["model"]](paper["frames"], paper["size"])
    return {
        **{key: paper[key] for key in ("name", "frames", "size", "views", "top1", "pretraining")},
        "stated_gflops": round(paper["stated"] / paper["stated_views"], 1) if paper["stated"] else None,
        "gflops": round(gflops, 2),
        "total_gflops": round(gflops * num_views(paper["views"]), 1) if paper["views"] else None,
        "note": paper["note"],
        "source": paper["source"],
        "stated_source": paper.get("stated_source", paper["source"]) if paper["stated"] else None,
        "chart": paper["chart"],
        "peer": paper.get("peer"),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| model | frames × size | pretraining | top-1 | GFLOPs a view: stated | audited | stated / audited | views | "
        "audited, all views | left out, or not sure | source |",
        "|---|---|---|---:|---:|---:|---:|---|---:|---|---|",
    ]
    for row in rows:
        r = row | {"views": row["views"] or "not stated"}
        stated, ratio, total, cost = "–", "–", "–", ""
        if r["stated_gflops"]:
            stated, ratio = f"{r['stated_gflops']:.4g}", f"{r['stated_gflops'] / r['gflops']:.2f}"
            cost = f"; cost {r['stated_source']}" if r["stated_source"] != r["source"] else ""
        if r["total_gflops"]:
            total = f"{r['total_gflops']:.5g}"
        lines.append(
            f"| {r['name']} | {r['frames']} × {r['size']} | {r['pretraining']} | {r['top1']} | {stated} | "
            f"{r['gflops']:.4g} | {ratio} | {r['views']} | {total} | {r['note']} | {r['source']}{cost} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rows = [audited(paper) for paper in papers()]
    RESULTS.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
