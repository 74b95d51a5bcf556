"""A real video goes in, a label comes out: render a clip, write an MP4, read it back, classify it.

    python examples/demo.py [--index I]

Offline: the clip is made by MotionDigits, the weights are in the package. Exits with 1 if the label is wrong.
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
REPEATS = 30


@torch.inference_mode()
def milliseconds_per_clip(models: list[torch.nn.Module], clip: torch.Tensor) -> list[float]:
    """Median time of a forward pass of each model, measured in turns."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(REPEATS):
        for model, record in zip(models, times, strict=True):
            start = time.perf_counter()
            model(clip)
            record.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(record[REPEATS // 5 :]) for record in times]  # without the warm-up


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=int, default=1, help="clip of MotionDigits' held-out scans")
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
    for what, network, ms in zip(
        (f"InTI {model.compress_at}", "naive ()"),
        (model, naive),
        milliseconds_per_clip([model, naive], views),
        strict=True,
    ):
        gflops = count_flops(network, views.shape).gflops
        print(f"{what:17s} {gflops:.3f} GFLOPs, {ms:.2f} ms a clip on {torch.get_num_threads()} CPU threads")
    return 0 if labels[0].index == label else 1


if __name__ == "__main__":
    sys.exit(main())
