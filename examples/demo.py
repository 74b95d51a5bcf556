"""A real video goes in, a label comes out: render a clip, write an MP4, read it back, classify it.

    python examples/demo.py [--index I]

Runs offline: MotionDigits renders the clip, the weights are in the package. Exits with status 1 if the label is wrong.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from inti_models.data import write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from inti_models.inference.predict import VideoClassifier
from inti_models.models.flops import count_flops
from inti_models.models.registry import create_model

NAME = "inti_vit_t8_32_motiondigits"
BATCHES = (1, 32)  # clips at once


@torch.inference_mode()
def milliseconds(models: list[torch.nn.Module], clips: torch.Tensor) -> list[float]:
    """Return the median time of each model's forward pass, measured in turns for a second and at least five times."""
    times: list[list[float]] = [[] for _ in models]
    for model in models:  # warm up
        model(clips)
    end = time.perf_counter() + 1
    while len(times[0]) < 5 or time.perf_counter() < end:
        for model, record in zip(models, times, strict=True):
            start = time.perf_counter()
            model(clips)
            record.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(record) for record in times]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=int, default=1, help="index of a clip of MotionDigits' held-out scans")
    args = parser.parse_args()

    model = create_model(NAME, pretrained=True)
    clip, label = MotionDigits("validation", size=32, num_frames=model.num_frames)[args.index]
    classify = VideoClassifier(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, clip, fps=8)
        print(
            f"wrote       {path.name}: {len(clip)} frames of 32x32, {path.stat().st_size} bytes, {CLASS_NAMES[label]!r}"
        )
        labels = classify(path)
        views = classify.views(path)
    for rank, guess in enumerate(labels):
        print(f"{'prediction' if rank == 0 else '':10s}  {guess.probability:6.1%}  {guess.name}")

    naive = create_model(NAME, compress_at=()).eval()
    models = {f"InTI {model.compress_at}": model, "naive ()": naive}
    torch.set_num_threads(1)  # tiny operators: more threads would wait for each other
    print("\nmilliseconds of a batch, float32, eager, on one CPU thread, in turns:")
    rows = [milliseconds(list(models.values()), views.repeat(size, 1, 1, 1, 1)) for size in BATCHES]
    costs = [count_flops(network, views.shape).gflops for network in models.values()]
    for what, gflops, *spent in zip(models, costs, *rows, strict=True):
        columns = "  ".join(f"batch {size}: {ms:6.2f}" for size, ms in zip(BATCHES, spent, strict=True))
        print(f"{what:17s} {gflops:.3f} GFLOPs a clip  {columns}")
    times = ", ".join(f"{ours / twin:.0%} at batch {size}" for size, (ours, twin) in zip(BATCHES, rows, strict=True))
    print(f"InTI: {costs[0] / costs[1]:.0%} of the naive model's operations; of its time {times}.")
    return 0 if labels[0].index == label else 1


if __name__ == "__main__":
    sys.exit(main())
