"""Long clips at a constant budget: operations, time and memory of the whole forward pass, and of one in chunks.

    python benchmarks/long_video.py [--quick] [--json] [--output FILE]

8 to 256 frames with `inti_models.schedule_for_budget` at 5 frames a block, the default schedule's budget for 8. Memory
is the peak of the tensors that operators make, without weights and the clip itself. Random weights; one run each after
a warm-up. Writes results/long_video_cpu.json.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compare
import torch
from flops import torch_gflops
from report import add_json, report
from torch import Tensor, nn
from tqdm import tqdm

from inti_models import forward_chunked, schedule_for_budget
from inti_models.evaluation.benchmark import PeakMemory, machine
from inti_models.models.registry import create_model
from inti_models.models.schedules import mean_frames

BUDGET, CHUNK = 5.0, 8
RESULTS = Path(__file__).parent / "results" / "long_video_cpu.json"


def run(model: nn.Module, forward: Callable[[Tensor], Tensor], clip: Tensor) -> tuple[Tensor, float, float]:
    """Return logits, milliseconds, and peak memory in MiB without weights and the clip."""
    with PeakMemory(*model.parameters(), *model.buffers(), clip) as memory:
        given = memory.now
        forward(clip)
    start = time.perf_counter()
    logits = forward(clip)
    return logits, (time.perf_counter() - start) * 1e3, (memory.peak - given) / 2**20


@torch.inference_mode()
def row(name: str, frames: int) -> dict[str, Any]:
    """Measure one number of frames."""
    depth = len(create_model(name, device="meta").blocks)
    compress_at = schedule_for_budget(depth, frames, BUDGET)
    model = create_model(name, num_frames=frames, compress_at=compress_at).eval()
    clip = torch.randn(1, frames, model.in_chans, *model.patch_embed.img_size)
    whole, whole_ms, whole_mib = run(model, model, clip)
    chunked, chunked_ms, chunked_mib = run(model, lambda c: forward_chunked(model, c, CHUNK), clip)
    return {
        "frames": frames,
        "compress_at": list(compress_at),
        "mean_frames": round(mean_frames(compress_at, depth, frames), 3),
        "gflops": round(torch_gflops(name, frames, compress_at=compress_at), 4),
        "whole_ms": round(whole_ms, 1),
        "chunked_ms": round(chunked_ms, 1),
        "whole_mib": round(whole_mib, 2),
        "chunked_mib": round(chunked_mib, 2),
        "largest_difference": float((whole - chunked).abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small model; prints only")
    parser.add_argument("--output", type=Path)
    add_json(parser)
    args = parser.parse_args()
    name = "inti_vit_t8_32_motiondigits" if args.quick else "inti_vit_b16_k400"
    rows = [row(name, frames) for frames in tqdm((8, 16, 32, 64, 128, 256))]
    measured = {"machine": machine("cpu"), "model": name, "budget": BUDGET, "chunk": CHUNK, "rows": rows}
    table = None if args.json else compare.long_video(measured)
    report(measured, args.output or (None if args.quick else RESULTS), table)


if __name__ == "__main__":
    main()
