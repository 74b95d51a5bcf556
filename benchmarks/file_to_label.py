"""From file to label in each precision, one file and many, and whether the labels stay those of float32.

    python benchmarks/file_to_label.py [PART ...] [--quick] [--threads N] [--output FILE]

Everything in one warm process and in turns, decoding included; ratios are medians over the rounds. Parts:

- *files*: one file through `inti_vit_b16_k400` (random weights; 10 seconds of 340x256, H.264) and through
  `inti_vit_t8_32_motiondigits` in each precision.
- *lists*: 200 short files through `inti_vit_t8_32_motiondigits`: as `predict` did before (float32, one file per pass,
  two read ahead, each opened twice: the same code with batches of 1 and no file taken for a short one); float32 in
  batches; the automatic choice (precision "auto").
- *batches*: milliseconds per clip by clips per pass, from which `inti_models.inference.batches.CPU_TOKENS` is chosen.
- *agreement*: labels of both shipped models on all clips of MotionDigits' validation set, beside float32's (not in
  float16, which takes many times as long on a CPU).

A part that is measured again replaces its former result in results/file_to_label_cpu.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from latency import make_files
from report import report
from tqdm import tqdm

from inti_models.data import ClipTransform, decoding
from inti_models.data.motion_digits import MotionDigits
from inti_models.evaluation.benchmark import machine
from inti_models.inference.predict import VideoClassifier
from inti_models.models.precision import choose_precision, set_precision
from inti_models.models.registry import create_model
from inti_models.weights.hub import load

SMALL, LARGE = "inti_vit_t8_32_motiondigits", "inti_vit_b16_k400"
CAST = ("float32", "bfloat16", "float16", "int8")
RESULTS = Path(__file__).parent / "results" / "file_to_label_cpu.json"


def classifier(name: str, precision: str, **options: Any) -> VideoClassifier:
    """Return a model of the zoo, the small one with its weights."""
    torch.manual_seed(0)
    model = create_model(name, pretrained=name == SMALL)
    return VideoClassifier(model, precision=precision, **options)


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, base: str) -> dict[str, dict[str, float]]:
    """Measure milliseconds of each way, and of the CPU, and both as ratios to a base: medians after a first round."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    result = {}
    for name, times in spent.items():
        pairs = list(zip(times[1:], spent[base][1:], strict=True))
        result[name] = {
            "ms": _round(statistics.median(own[0] for own, _ in pairs) * 1e3),
            "ratio": _round(statistics.median(own[0] / other[0] for own, other in pairs)),
            "cpu_ratio": _round(statistics.median(own[1] / other[1] for own, other in pairs)),
        }
    return result


def files(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Measure one file in each precision."""
    rows = []
    for name, rounds in ((SMALL, 5 if quick else 60),) + (() if quick else ((LARGE, 4),)):
        (path,) = make_files(folder, name, 1)
        ways = {precision: classifier(name, precision) for precision in CAST}
        measured = in_turns({key: partial(way, path) for key, way in ways.items()}, rounds, "float32")
        rows += [{"model": name, "precision": key, **row} for key, row in measured.items()]
    return rows


def lists(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Measure many short files."""
    paths = make_files(folder, SMALL, 20 if quick else 200)
    chosen = choose_precision("auto")
    before = "before: float32, a file a pass"
    ways = {
        before: classifier(SMALL, "float32", batch_size=1),
        "float32, a file a pass": classifier(SMALL, "float32", batch_size=1),
        "float32, in batches": classifier(SMALL, "float32"),
        f"auto ({chosen}), in batches": classifier(SMALL, "auto"),
    }
    calls: dict[str, Callable[[], object]] = {key: partial(_label, way, paths) for key, way in ways.items()}
    calls[before] = partial(_opening_twice, calls[before])
    calls["reading alone"] = partial(_read, ways[before], paths)
    measured = in_turns(calls, 1 if quick else 7, before)
    sizes = {key: way.batch_size for key, way in ways.items()}
    return [
        {"way": key, "files": len(paths), "batch_size": sizes.get(key), **row, "ms": _round(row["ms"] / len(paths))}
        for key, row in measured.items()
    ]


def _label(classify: VideoClassifier, paths: list[Path]) -> None:
    for _ in classify.label_files(paths):
        pass


def _read(classify: VideoClassifier, paths: list[Path]) -> None:
    for _ in classify.read_ahead(paths):
        pass


def _opening_twice(call: Callable[[], object]) -> None:
    """Make a call that takes no file for a short one."""
    short, decoding.SHORT_FRAMES = decoding.SHORT_FRAMES, 0
    try:
        call()
    finally:
        decoding.SHORT_FRAMES = short


@torch.inference_mode()
def batches(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Measure milliseconds per clip of forward passes, by clips per pass."""
    rows = []
    for name, sizes, rounds in ((SMALL, (1, 4, 16, 64), 5 if quick else 30),) + (
        () if quick else ((LARGE, (1, 2, 4), 3),)
    ):
        for precision in ("float32", "bfloat16"):
            model = classifier(name, precision).model
            clips = torch.randn(max(sizes), model.num_frames, 3, *model.patch_embed.img_size)
            calls = {str(size): partial(model, clips[:size]) for size in sizes}
            measured = in_turns(calls, rounds, "1")
            rows += [
                {"model": name, "precision": precision, "clips": int(size), "ms_a_clip": _round(row["ms"] / int(size))}
                | {"ratio": _round(row["ratio"] / int(size))}
                for size, row in measured.items()
            ]
    return rows


@torch.inference_mode()
def agreement(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Measure the shipped models in each precision: accuracy, labels shared with float32, largest logit difference."""
    rows = []
    for name in (SMALL, f"{SMALL}.naive"):
        digits = MotionDigits("validation", size=32)
        count = 256 if quick else len(digits)
        transform = ClipTransform.of(create_model(name))
        models = {precision: load(name).eval() for precision in CAST if precision != "float16"}
        for precision, model in models.items():
            set_precision(model, precision)
        logits: dict[str, list[torch.Tensor]] = {precision: [] for precision in models}
        labels = []
        for start in tqdm(range(0, count, 64), desc=name):
            batch = digits.render(range(start, min(start + 64, count)))
            clips = torch.stack([transform(clip) for clip in batch.clips])
            labels.append(batch.labels)
            for precision, model in models.items():
                logits[precision].append(model(clips))
        truth, base = torch.cat(labels), torch.cat(logits["float32"])
        for precision, parts in logits.items():
            out = torch.cat(parts)
            rows.append(
                {
                    "model": name,
                    "precision": precision,
                    "clips": count,
                    "top1_percent": round(100 * (out.argmax(1) == truth).double().mean().item(), 2),
                    "same_label_percent": round(100 * (out.argmax(1) == base.argmax(1)).double().mean().item(), 2),
                    "largest_difference": _round((out - base).abs().max().item()),
                    "range_of_logits": _round((base.max() - base.min()).item()),
                }
            )
    return rows


PARTS = {"files": files, "lists": lists, "batches": batches, "agreement": agreement}


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="the small model, few rounds; prints only")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    unknown = set(args.parts) - PARTS.keys()
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: no such part; choose of {', '.join(PARTS)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    output = args.output or (None if args.quick else RESULTS)
    measured = json.loads(output.read_text()) if output is not None and output.exists() else {}
    where = machine("cpu") | {"bfloat16": choose_precision("auto") == "bfloat16"}
    with tempfile.TemporaryDirectory() as folder:
        for part in args.parts or PARTS:
            measured[part] = {"machine": where, "rows": PARTS[part](Path(folder), args.quick)}
    report(measured, output)


if __name__ == "__main__":
    main()
