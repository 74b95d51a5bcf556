"""Does int8 on the CPU pay off? torchao's weight-only and dynamic quantisation of the blocks, beside float32.

    python benchmarks/quantization.py [--quick] [--compile] [--output FILE]

All variants in turns, one clip. Agreement is with float32, of the trained `inti_vit_t8_32_motiondigits` on
MotionDigits; times are of `inti_vit_b16_k400` with random weights (of the small model with --quick). Writes
results/quantization_cpu.json, or results/quantization_cpu_compiled.json.
"""

import argparse
import copy
import statistics
from pathlib import Path
from typing import Any

import timm
import torch
from report import report
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from tqdm import tqdm

from inti_models.data import create_clip_transform
from inti_models.data.motion_digits import MotionDigits
from inti_models.evaluation.benchmark import Runner, Settings, in_turns, machine
from inti_models.models.registry import create_model

CONFIGS = {
    "float32": None,
    "int8 weights": Int8WeightOnlyConfig(),
    "int8 weights and activations (dynamic)": Int8DynamicActivationInt8WeightConfig(),
}
SMALL = "inti_vit_t8_32_motiondigits"
RESULTS = Path(__file__).parent / "results"


def variants(model: nn.Module) -> dict[str, nn.Module]:
    """Return the model in every precision."""
    made = {}
    for name, config in CONFIGS.items():
        made[name] = copy.deepcopy(model).eval()
        if config is not None:
            quantize_(made[name].get_submodule("blocks"), config)
    return made


@torch.inference_mode()
def agreement(clips: int) -> dict[str, dict[str, float]]:
    """Measure each variant: accuracy, labels shared with float32, and the largest logit difference."""
    model = timm.create_model(SMALL, pretrained=True)
    transform = create_clip_transform(**timm.data.resolve_input_data_config(model))
    digits = MotionDigits("validation", size=32, length=clips)
    batch = torch.stack([transform(digits[i][0]) for i in range(clips)])
    labels = torch.tensor([digits[i][1] for i in range(clips)])
    logits = {name: variant(batch) for name, variant in variants(model).items()}
    base = logits["float32"]
    return {
        name: {
            "top1_percent": round(100 * float((out.argmax(1) == labels).float().mean()), 2),
            "same_label_percent": round(100 * float((out.argmax(1) == base.argmax(1)).float().mean()), 2),
            "largest_difference": round(float((out - base).abs().max()), 4),
        }
        for name, out in logits.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small model; prints only")
    parser.add_argument("--compile", action="store_true", help="all variants under torch.compile")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    name, seconds = (SMALL, 2.0) if args.quick else ("inti_vit_b16_k400", 40.0)
    model = create_model(name)
    size = (model.num_frames, model.in_chans, *model.patch_embed.img_size)
    settings = Settings(compile=args.compile)
    runners = {key: Runner(variant, size, settings) for key, variant in tqdm(variants(model).items())}
    times = in_turns(runners, seconds, settings.rounds)
    rows: list[dict[str, Any]] = []
    agreed = agreement(64 if args.quick else 1000)
    for key, spent in times.items():
        ratio = statistics.median(a / b for a, b in zip(spent, times["float32"], strict=True))
        rows.append(
            {"variant": key, "ms": float(f"{statistics.median(spent) * 1e3:.4g}"), "time_ratio": round(ratio, 4)}
            | agreed[key]
        )
    measured = {"machine": machine("cpu"), "model": name, "compile": args.compile, "rows": rows}
    default = RESULTS / f"quantization_cpu{'_compiled' if args.compile else ''}.json"
    report(measured, args.output or (None if args.quick else default))


if __name__ == "__main__":
    main()
