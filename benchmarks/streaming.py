"""Exact streaming beside recomputing every window: operations and time of each label.

    python benchmarks/streaming.py [--quick] [--json] [--output FILE]

Four ways to label the last 8 frames of a stream, at strides of 1, 2, 4 and 8 frames: InTI and the naive model, each
recomputing every window, and each reusing what windows share (`StreamingClassifier`; for the naive model that is
caching the features of frames). One window of each way in turns. GFLOPs are counted by `torch.utils.flop_counter` in
the steady state. Frames of a stride arrive together. Random weights. Writes results/streaming_cpu.json.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import compare
import torch
from report import add_json, report
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from inti_models import InTIModel, StreamingClassifier
from inti_models.evaluation.benchmark import machine
from inti_models.models.registry import create_model

FRAMES, STRIDES = 8, (1, 2, 4, 8)
RESULTS = Path(__file__).parent / "results" / "streaming_cpu.json"


def ways(
    name: str, stride: int, device: str, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Callable[[], Tensor]], InTIModel]:
    """Return a function for each way that gives the next window's logits, in its steady state."""
    models = {
        "InTI": create_model(name, num_frames=FRAMES, device=device).eval().to(dtype),
        "naive": create_model(name, num_frames=FRAMES, compress_at=(), device=device).eval().to(dtype),
    }
    size = (models["InTI"].in_chans, *models["InTI"].patch_embed.img_size)
    window = torch.randn(1, FRAMES, *size, device=device, dtype=dtype)
    step: dict[str, Callable[[], Tensor]] = {}
    for label, model in models.items():
        step[f"{label}, recomputed"] = partial(model, window)
        stream = StreamingClassifier(model, FRAMES, stride)
        for _ in range(2 * FRAMES // stride):
            stream.push(window[:, :stride])
        step[f"{label}, streamed"] = partial(stream.push, window[:, :stride])
    return step, models["InTI"]


def rows_of(
    name: str, stride: int, seconds: float, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> list[dict[str, Any]]:
    """Measure the cost of a window in each way, at one stride."""
    gflops = {}
    for label, step in ways(name, stride, "meta")[0].items():
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            logits = step()
        assert logits.numel() == logits.shape[-1], "not one window for each step"
        gflops[label] = counter.get_total_flops() / 2e9  # torch counts a multiply-add as two
    steps, _ = ways(name, stride, device, dtype)
    times: dict[str, list[float]] = {label: [] for label in steps}
    with torch.inference_mode():
        for step in steps.values():
            step()
        end, rounds = time.perf_counter() + seconds, 0
        while time.perf_counter() < end or rounds < 5:
            for label, step in steps.items():
                start = time.perf_counter()
                step().sum().item()  # which waits for CUDA
                times[label].append(time.perf_counter() - start)
            rounds += 1
    base, rows = "InTI, recomputed", []
    for label in steps:
        ratio = statistics.median(a / b for a, b in zip(times[label], times[base], strict=True))
        rows.append(
            {
                "stride": stride,
                "way": label,
                "gflops": round(gflops[label], 4),
                "ms": float(f"{statistics.median(times[label]) * 1e3:.4g}"),
                "gflops_ratio": round(gflops[label] / gflops[base], 4),
                "time_ratio": round(ratio, 4),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small model; prints only")
    parser.add_argument("--output", type=Path)
    add_json(parser)
    args = parser.parse_args()
    name = "inti_vit_t8_32_motiondigits" if args.quick else "inti_vit_b16_k400"
    rows = [row for stride in tqdm(STRIDES) for row in rows_of(name, stride, 1.0 if args.quick else 60.0)]
    measured = {"machine": machine("cpu"), "model": name, "frames": FRAMES, "rows": rows}
    table = None if args.json else compare.streaming(measured)
    report(measured, args.output or (None if args.quick else RESULTS), table)


if __name__ == "__main__":
    main()
