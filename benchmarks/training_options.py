"""Which options of a recipe pay off: a training step with each, beside one without any.

    python benchmarks/training_options.py [MODEL ...] [--quick] [--device cuda] [--threads N] [--output FILE]

Forward, cross entropy, backward and AdamW, float32, in turns in one process; ratios are medians over the rounds. The
defaults of `inti_models.training.recipe` follow the table. Writes results/training_options_cpu.json, or _cuda.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from report import report

from inti_models.evaluation.benchmark import Runner, Settings, in_turns, machine
from inti_models.models.registry import create_model

RESULTS = Path(__file__).parent / "results"
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {"fused": False},
    "fused AdamW": {},
    "fused AdamW, channels-last": {"channels_last": True},
    "fused AdamW, compile": {"compile": True},
}
MODELS = {"inti_vit_t8_32_motiondigits": (32, 40.0), "inti_vit_b16_k400": (1, 150.0)}  # clips, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="the small model, few rounds; prints only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    for name in args.models or list(MODELS)[: 1 if args.quick else None]:
        size, seconds = MODELS[name]
        settings = Settings(device=args.device, train=True, batch_size=size)
        runners = {}
        for what, options in OPTIONS.items():
            torch.manual_seed(0)
            model = create_model(name, num_classes=120)
            clip = (model.num_frames, model.in_chans, *model.patch_embed.img_size)
            runners[what] = Runner(model, clip, replace(settings, **options))
        times = in_turns(runners, 5.0 if args.quick else seconds, 5)
        for what, spent in times.items():
            ratio = statistics.median(a / b for a, b in zip(spent, times["none"], strict=True))
            row = {"model": name, "clips": size, "options": what, "rounds": len(spent)}
            rows.append(row | {"ms": float(f"{statistics.median(spent) * 1e3:.4g}"), "ratio": round(ratio, 3)})
    output = None if args.quick else RESULTS / f"training_options_{torch.device(args.device).type}.json"
    report({"machine": machine(args.device), "rows": rows}, args.output or output)


if __name__ == "__main__":
    main()
