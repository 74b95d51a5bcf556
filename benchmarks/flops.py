"""GFLOPs of the zoo beside its naive twins, by stage and by number of frames: writes results/flops.json.

    python benchmarks/flops.py [MODEL ...] [--compress-at 4,10] [--frames 4,8,16,32]
    python benchmarks/flops.py --others    # H/14, PE-Core, EVA02 and SigLIP2: writes results/flops_others.json

Counted by fvcore on one clip of the model's own number of frames; a multiply-add is one operation. The headline is
matrix products and convolutions, attention's included; normalisation and elementwise operations are listed separately.
Other numbers of frames are counted by `torch.utils.flop_counter`, which needs no computation; the run fails if both
counters differ on the model's own number. With other models or a schedule, the result is printed and not written.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from inti_models.models.flops import by_stage, zoo_cost
from inti_models.models.registry import create_model
from inti_models.zoo import CLIP_MODELS, TEMPORAL_MODELS

MODELS = [
    "inti_vit_b16_k400",
    "inti_vit_l14_k400",
    "inti_vit_l14_336_k400",
    "inti_vit_t8_32_motiondigits",
    *TEMPORAL_MODELS,
]
# Larger or more: counted by torch's counter alone, which computes nothing.
OTHERS = [name for name, (_, architecture, _) in CLIP_MODELS.items() if architecture not in ("b16", "l14", "l14_336")]
FRAMES = (4, 8, 16, 32)
RESULTS = Path(__file__).parent / "results" / "flops.json"
OTHER_RESULTS = RESULTS.with_name("flops_others.json")


def torch_gflops(name: str, num_frames: int, **model_args: Any) -> float:
    """Count the GFLOPs of a zoo model on one clip with torch's own counter, on the meta device: nothing is computed."""
    model = create_model(name, device="meta", **model_args).eval()
    clip = torch.empty(1, num_frames, model.in_chans, *model.patch_embed.img_size, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(clip)
    return counter.get_total_flops() / 2e9  # torch counts a multiply-add as two


def row(name: str, frames: tuple[int, ...] = FRAMES, compress_at: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Return the cost of a model and its naive twin.

    Raises:
        ValueError: if fvcore and torch count differently.
    """
    model_args: dict[str, Any] = {} if compress_at is None else {"compress_at": compress_at}
    model = create_model(name, device="meta", **model_args)
    cost, naive = zoo_cost(name, **model_args), zoo_cost(name, compress_at=())
    counted = torch_gflops(name, model.num_frames, **model_args)
    if abs(counted / cost.gflops - 1) > 1e-6:
        raise ValueError(f"{name}: fvcore counts {cost.gflops} GFLOPs and torch {counted}; an operator is missed.")
    stages = by_stage(model, cost)
    return {
        "model": name,
        "input": [model.num_frames, *model.pretrained_cfg["input_size"]],
        "compress_at": list(model.compress_at),
        "parameters_m": round(cost.parameters / 1e6, 2),
        "naive_gflops": round(naive.gflops, 5),
        "gflops": round(cost.gflops, 5),
        "saved_percent": round(100 * (1 - cost.gflops / naive.gflops), 2),
        "interpolation_percent": round(100 * stages["interpolations"] / cost.gflops, 3),
        "naive_activations_m": round(naive.activations_m, 3),
        "activations_m": round(cost.activations_m, 3),
        "stages": {stage: round(gflops, 5) for stage, gflops in stages.items()},
        "other_gflops": {operator: round(count, 5) for operator, count in cost.other_gflops.items()},
        "frames": {
            str(n): {
                "naive": round(torch_gflops(name, n, compress_at=()), 5),
                "inti": round(torch_gflops(name, n, **model_args), 5),
            }
            for n in frames
        },
    }


def other_row(name: str) -> dict[str, Any]:
    """Return the cost of a model and its naive twin, by torch's counter only."""
    model = create_model(name, device="meta")
    gflops, naive = torch_gflops(name, model.num_frames), torch_gflops(name, model.num_frames, compress_at=())
    return {
        "model": name,
        "input": [model.num_frames, *model.pretrained_cfg["input_size"]],
        "compress_at": list(model.compress_at),
        "parameters_m": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2),
        "naive_gflops": round(naive, 5),
        "gflops": round(gflops, 5),
        "saved_percent": round(100 * (1 - gflops / naive), 2),
    }


def table(rows: list[dict]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| model | frames × size | `compress_at` | parameters | naive GFLOPs | InTI GFLOPs | saved |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for r in rows:
        frames, _, height, width = r["input"]
        lines.append(
            f"| `{r['model']}` | {frames} × {height}×{width} | {tuple(r['compress_at'])} | {r['parameters_m']:.1f} M | "
            f"{r['naive_gflops']:.4g} | {r['gflops']:.4g} | {r['saved_percent']:.1f}% |"
        )
    return "\n".join(lines)


def stage_table(rows: list[dict]) -> str:
    """Return GFLOPs by stage, and what the headline leaves out, in Markdown."""
    lines = [
        "| model | embedding | stages 0, 1, … | interpolations | rest | other operations | activations, naive → InTI |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for r in rows:
        stages = dict(r["stages"])
        ends = [stages.pop(key) for key in ("embedding", "interpolations", "rest")]
        blocks = ", ".join(f"{gflops:.4g}" for gflops in stages.values())
        lines.append(
            f"| `{r['model']}` | {ends[0]:.3g} | {blocks} | {ends[1]:.2g} | {ends[2]:.2g} | "
            f"{sum(r['other_gflops'].values()):.2g} | {r['naive_activations_m']:.4g} M → {r['activations_m']:.4g} M |"
        )
    return "\n".join(lines)


def frames_table(rows: list[dict]) -> str:
    """Return GFLOPs by number of frames, naive → InTI, in Markdown."""
    frames = list(rows[0]["frames"])
    lines = [
        "| model | " + " | ".join(f"{n} frames" for n in frames) + " |",
        "|---|" + "---:|" * len(frames),
    ]
    for r in rows:
        cells = (f"{r['frames'][n]['naive']:.4g} → {r['frames'][n]['inti']:.4g}" for n in frames)
        lines.append(f"| `{r['model']}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def numbers(text: str) -> tuple[int, ...]:
    """Parse whole numbers separated by commas."""
    return tuple(int(number) for number in text.split(",") if number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--compress-at", type=numbers, help="a schedule instead of the models' own, such as 4,10")
    parser.add_argument("--frames", type=numbers, default=FRAMES, help="numbers of frames to count for")
    parser.add_argument("--others", action="store_true", help="H/14, PE-Core, EVA02, SigLIP2: torch's counter only")
    args = parser.parse_args()
    if args.others:
        others = [other_row(name) for name in tqdm(OTHERS)]
        OTHER_RESULTS.write_text(json.dumps(others, indent=2) + "\n")
        print(table(others))
        return
    rows = [row(name, args.frames, args.compress_at) for name in tqdm(args.models)]
    if args.models == MODELS and args.compress_at is None and args.frames == FRAMES:
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    print("\n\n".join((table(rows), stage_table(rows), frames_table(rows))))


if __name__ == "__main__":
    main()
