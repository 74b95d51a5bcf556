"""How cost grows with frames (4 to 256) and with resolution (224 to 448): counted, and measured on the CPU.

    python benchmarks/scaling.py [--quick] [--json] [--output FILE]

Three models: naive, InTI with its default schedule, and InTI with one more compression each time the frames double, so
that a block sees at most 5 frames on average (`inti_models.schedule_for_budget`). GFLOPs are counted by
`torch.utils.flop_counter`; time is the median of forward passes, batch 1, all models in turns at each size; memory is
the peak of PyTorch's tensors without the weights. Exponents are slopes of log cost over log frames, or over log pixels.
Writes results/scaling_cpu.json.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import compare
import numpy as np
from flops import torch_gflops
from report import add_json, report
from tqdm import tqdm

from inti_models import schedule_for_budget
from inti_models.evaluation.benchmark import Runner, Settings, in_turns, machine
from inti_models.models.registry import create_model

BUDGET = 5.0
FRAMES, SIZES = (4, 8, 16, 32, 64, 128, 256), (224, 288, 336, 384, 448)
QUICK_FRAMES, QUICK_SIZES = (4, 8, 16, 32), (32, 48, 64)
RESULTS = Path(__file__).parent / "results" / "scaling_cpu.json"


def variants(name: str, frames: int) -> dict[str, tuple[int, ...]]:
    """Return the schedules to compare at a number of frames."""
    model = create_model(name, device="meta")
    return {
        "naive": (),
        "default schedule": model.compress_at,
        "one more for each doubling": schedule_for_budget(len(model.blocks), frames, BUDGET),
    }


def measure(name: str, axis: str, frames: int, size: int, seconds: float) -> list[dict[str, Any]]:
    """Measure one row for each variant at one size."""
    settings = Settings(seconds=seconds, rounds=1)
    chosen = {v: c for v, c in variants(name, frames).items() if axis == "frames" or v != "one more for each doubling"}
    runners = {
        variant: Runner(create_model(name, compress_at=compress_at, img_size=size), (frames, 3, size, size), settings)
        for variant, compress_at in chosen.items()
    }
    times = in_turns(runners, seconds, settings.rounds, warm_up=1)
    rows = []
    for variant, runner in runners.items():
        weights = sum(p.numel() * p.element_size() for p in runner.model.parameters()) / 2**20
        rows.append(
            {
                "axis": axis,
                "variant": variant,
                "frames": frames,
                "size": size,
                "compress_at": list(chosen[variant]),
                "gflops": round(torch_gflops(name, frames, compress_at=chosen[variant], img_size=size), 4),
                "ms": float(f"{statistics.median(times[variant]) * 1e3:.4g}"),
                "peak_memory_mib": round(runner.peak_memory_mib() - weights, 2),
            }
        )
    return rows


def fits(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit the exponents of each variant on each axis, and the memory of one more frame."""
    fitted = []
    for axis, of in (("frames", lambda r: r["frames"]), ("resolution", lambda r: r["size"] ** 2)):
        for variant in dict.fromkeys(r["variant"] for r in rows if r["axis"] == axis):
            chosen = [r for r in rows if (r["axis"], r["variant"]) == (axis, variant)]
            x = np.array([of(r) for r in chosen], dtype=float)
            fit: dict[str, Any] = {"axis": axis, "variant": variant}
            for cost in ("gflops", "ms", "peak_memory_mib"):
                slope = np.polyfit(np.log(x), np.log([r[cost] for r in chosen]), 1)[0]
                fit[f"{cost}_exponent"] = round(float(slope), 3)
            if axis == "frames":
                slope = np.polyfit(x, [r["peak_memory_mib"] for r in chosen], 1)[0]
                fit["mib_per_frame"] = round(float(slope), 3)
            fitted.append(fit)
    return fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small model, few sizes; prints only")
    parser.add_argument("--output", type=Path)
    add_json(parser)
    args = parser.parse_args()
    name = "inti_vit_t8_32_motiondigits" if args.quick else "inti_vit_b16_k400"
    frames, sizes = (QUICK_FRAMES, QUICK_SIZES) if args.quick else (FRAMES, SIZES)
    seconds = 0.5 if args.quick else 5.0
    points = [("frames", n, sizes[0]) for n in frames] + [("resolution", 8, size) for size in sizes]
    rows = [row for axis, n, size in tqdm(points) for row in measure(name, axis, n, size, seconds)]
    measured = {"machine": machine("cpu"), "model": name, "budget": BUDGET, "rows": rows, "fits": fits(rows)}
    table = None if args.json else compare.scaling(measured)
    report(measured, args.output or (None if args.quick else RESULTS), table)


if __name__ == "__main__":
    main()
