"""Wall time of an InTI model beside timm's image ViT run on every frame, in one run, in turns.

    python benchmarks/wall_time.py [--model inti_vit_b16_k400] [--repeats 15] [--output FILE]

Both have random weights (time does not depend on them). Prints JSON: medians, their ratio, and the ratio of
GFLOPs, which is the best that could be reached.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path
from typing import cast

import timm
import torch
from report import report
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from tqdm import tqdm

from inti_models.flops import count_flops
from inti_models.zoo import create_model


class Naive(nn.Module):
    """timm's image ViT on every frame, logits of the averaged pooled features."""

    def __init__(self, image_model: VisionTransformer) -> None:
        super().__init__()
        self.image_model = image_model

    def forward(self, clip: Tensor) -> Tensor:
        vit = cast(VisionTransformer, self.image_model)
        pooled = vit.forward_head(vit.forward_features(clip.flatten(0, 1)), pre_logits=True)
        return vit.head(pooled.unflatten(0, clip.shape[:2]).mean(dim=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="inti_vit_b16_k400")
    parser.add_argument("--image-model", default="vit_base_patch16_clip_quickgelu_224")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    args = parser.parse_args()

    inti = create_model(args.model).eval()
    naive = Naive(cast(VisionTransformer, timm.create_model(args.image_model, num_classes=inti.num_classes))).eval()
    clip = torch.randn(args.batch_size, args.frames, *inti.pretrained_cfg["input_size"])
    models = {"inti": inti, "naive": naive}
    gflops = {name: count_flops(model, clip.shape).gflops for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for _ in tqdm(range(args.repeats + 2)):
            for name, model in models.items():
                start = time.perf_counter()
                model(clip)
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(record[2:]) for name, record in seconds.items()}  # two to warm up
    result = {
        "model": args.model,
        "image_model": args.image_model,
        "clip": list(clip.shape),
        "milliseconds": {name: round(value * 1e3, 1) for name, value in median.items()},
        "time_ratio": round(median["inti"] / median["naive"], 4),
        "gflops": {name: round(value, 3) for name, value in gflops.items()},
        "gflops_ratio": round(gflops["inti"] / gflops["naive"], 4),
        "repeats": args.repeats,
        "machine": f"CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}), "
        f"{torch.get_num_threads()} threads, float32",
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
