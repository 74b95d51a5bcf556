"""From file to label: how long it takes, where the time goes, and what reading ahead and fused normalization gain.

    python benchmarks/latency.py [--quick] [--threads N] [--json] [--output FILE]

`inti_vit_t8_32_motiondigits` on MotionDigits clips, and `inti_vit_b16_k400` on videos of 10 seconds, 340x256 pixels,
H.264 (smooth noise, made for the run). Parts of each file in turns: read (decode), transform, forward; with the
normalization in the transform, and folded into the patch embedding with frames kept uint8 (`fuse_normalization`). Lists
of files are then labelled one by one, and reading ahead in threads (`VideoClassifier.label_files`). Writes
results/latency_cpu.json.
"""

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import compare
import torch
from report import add_json, report
from torch.nn.functional import interpolate
from tqdm import tqdm

from inti_models.data import FrameSampling, write_video
from inti_models.data.motion_digits import MotionDigits
from inti_models.evaluation.benchmark import machine
from inti_models.inference.predict import VideoClassifier
from inti_models.models.registry import create_model

RESULTS = Path(__file__).parent / "results" / "latency_cpu.json"
MODELS = {"inti_vit_t8_32_motiondigits": 32, "inti_vit_b16_k400": 6}  # and files of a list


def make_files(folder: Path, name: str, count: int) -> list[Path]:
    """Make videos for a model."""
    digits = MotionDigits("validation", length=count)
    paths = []
    for i in range(count):
        paths.append(folder / f"{name}-{i}.mp4")
        if "motiondigits" in name:
            write_video(paths[-1], digits[i][0], fps=8)
        else:
            coarse = torch.rand(1, 3, 40, 8, 10, generator=torch.Generator().manual_seed(i))
            frames = interpolate(coarse, (300, 256, 340), mode="trilinear").mul(255).byte()
            write_video(paths[-1], frames[0].transpose(0, 1), fps=30)
    return paths


@torch.inference_mode()
def parts(classify: VideoClassifier, path: Path) -> dict[str, float]:
    """Return the milliseconds of each step of one file."""
    marks = [time.perf_counter()]
    clips = FrameSampling.of(classify.model).read(path)
    marks.append(time.perf_counter())
    views = torch.stack([classify.transform(clip) for clip in clips.frames])
    marks.append(time.perf_counter())
    classify.classify(views)
    marks.append(time.perf_counter())
    spent = (b - a for a, b in pairwise(marks))
    return {part: seconds * 1e3 for part, seconds in zip(("read", "transform", "forward"), spent, strict=True)}


def spread(values: list[float]) -> dict[str, float]:
    """Return median, 10th and 90th percentile."""
    low, *_, high = statistics.quantiles(values, n=10, method="inclusive")
    return {key: float(f"{v:.4g}") for key, v in (("median", statistics.median(values)), ("p10", low), ("p90", high))}


def measure(name: str, paths: list[Path], rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Return all figures of one model."""
    torch.manual_seed(0)
    plain = create_model(name).eval()
    torch.manual_seed(0)
    fused = create_model(name).eval().fuse_normalization()
    variants = {key: VideoClassifier(model, device=device) for key, model in (("plain", plain), ("fused", fused))}
    logits = {key: classify.probabilities(paths[0]).log() for key, classify in variants.items()}
    steps: dict[str, list[dict[str, float]]] = {key: [] for key in variants}
    for i in range(rounds + 1):
        for key, classify in variants.items():
            steps[key].append(parts(classify, paths[i % len(paths)]))
    result: dict[str, Any] = {"model": name, "files": len(paths), "rounds": rounds, "variants": {}}
    for key, measured in steps.items():
        kept = measured[1:]
        result["variants"][key] = {
            "latency_ms": spread([sum(step.values()) for step in kept]),
            **{f"{part}_ms": spread([step[part] for step in kept]) for part in kept[0]},
        }
    result["fused_largest_difference"] = float((logits["plain"] - logits["fused"]).abs().max())
    seconds: dict[str, list[float]] = {"one by one": [], "read ahead": []}
    for _ in range(3):
        start = time.perf_counter()
        for path in paths:
            variants["plain"](path)
        seconds["one by one"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for _ in variants["plain"].label_files(paths):
            pass
        seconds["read ahead"].append(time.perf_counter() - start)
    result["files_per_second"] = {
        way: float(f"{len(paths) / statistics.median(times):.4g}") for way, times in seconds.items()
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small model, few rounds; prints only")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--output", type=Path)
    add_json(parser)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    names = list(MODELS)[:1] if args.quick else list(MODELS)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in tqdm(names):
            paths = make_files(Path(folder), name, 8 if args.quick else MODELS[name])
            rows.append(measure(name, paths, 8 if args.quick or "b16" in name else 100))
    measured = {"machine": machine("cpu"), "rows": rows}
    report(measured, args.output or (None if args.quick else RESULTS), None if args.json else compare.latency(measured))


if __name__ == "__main__":
    main()
