"""Everything that needs a GPU, measured by one command: ``make cuda``.

    python benchmarks/gpu.py [--minutes 8] [--quick] [--output FOLDER]
    python benchmarks/gpu.py --wheels

In this order, as far as time allows; what is not reached is named at the end:

- inference in bfloat16 beside the uncompressed models, at each model's best batch size: b16, l14, l14_336 and
  UniFormerV2 l14, eager; with memory and the fraction of the measured peak of matrix products (throughput_cuda.json);
- training steps (throughput_cuda_train.json), the interpolations' fraction (interpolation_cuda.json), streams
  (streaming_cuda.json), file to label (latency_cuda.json);
- compiled, batches of 8, and with CUDA graphs, single clips (throughput_cuda_compiled.json, throughput_cuda_graphs
  .json); peers, batches of 8 (throughput_cuda_peers.json).

Every file is written after each row, with device, driver and versions; then the tables of README.md are rewritten.
``--quick`` runs the same code with the small model on the CPU, without compiling, and keeps nothing. ``--wheels``
prints the requirements that an image with nothing but PyTorch lacks, to bring along to a machine without a network
(``pip download --no-deps -r FILE``); it needs an environment that has them.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WHEELS = "inti_models[benchmark,motiondigits,test]"
SMALL = "inti_vit_t8_32_motiondigits"
MODELS = ("inti_vit_b16_k400", "inti_vit_l14_k400", "inti_vit_l14_336_k400", "inti_uniformerv2_l14_k400")
PEERS = ("TimeSformer-B", "VideoMAE-B", "ViViT-B/16x2", "X-CLIP-B/16", "MViTv2-S", "Swin3D-B", "S3D")
Step = tuple[str, str, Callable[[], list[dict[str, Any]]]]  # file, what it is of, what measures its rows


def closure(requirement: str) -> dict[str, str]:
    """Return versions of the installed distributions that a requirement needs, itself included."""
    from packaging.requirements import Requirement

    versions: dict[str, str] = {}
    todo, seen = [Requirement(requirement)], set()
    while todo:
        needed = todo.pop()
        name = re.sub(r"[-_.]+", "-", needed.name).lower()
        try:
            found = distribution(needed.name)
        except PackageNotFoundError:  # for another system
            continue
        versions[name] = found.version
        for extra in ("", *needed.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for other in map(Requirement, found.requires or ()):
                if other.marker is None or other.marker.evaluate({"extra": extra}):
                    todo.append(other)
    return versions


def wheels(requirement: str = WHEELS, image: Iterable[str] = ("torch",)) -> list[str]:
    """Return ``name==version`` of what a requirement needs and an image with these distributions lacks."""
    there = {name for brought in image for name in closure(brought)}
    own = re.sub(r"[-_.]+", "-", requirement.partition("[")[0]).lower()
    return [f"{name}=={version}" for name, version in sorted(closure(requirement).items()) if name not in {*there, own}]


def steps(quick: bool, videos: Path) -> tuple[dict[str, dict[str, Any]], list[Step]]:
    """Return the head of each file, and all measurements, the most valuable first.

    Args:
        quick: the small model on the CPU.
        videos: folder for the files to label.
    """
    import interpolation
    import latency
    import streaming
    import torch
    from throughput import pair

    from inti_models.evaluation.benchmark import Settings, machine, matmul_tflops, measure, result, zoo_subject

    device, amp, dtype = ("cpu", "no", torch.float32) if quick else ("cuda", "bf16", torch.bfloat16)
    base = Settings(device=device, amp=amp, seconds=0.5 if quick else 3.0, rounds=3, batch_size=2 if quick else None)
    described, peak = machine(device), matmul_tflops(device, amp)
    models = (SMALL,) if quick else MODELS
    tops: dict[str, dict[str, Any]] = {
        "streaming_cuda": {"machine": described, "dtype": str(dtype), "model": models[0], "frames": streaming.FRAMES},
        "interpolation_cuda": {"machine": described, "dtype": str(dtype)},
        "latency_cuda": {"machine": described},
    }
    found: list[Step] = []

    def alone(row: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
        return [row()]

    def add_speed(file: str, names: Iterable[str], **how: Any) -> None:
        settings = replace(base, **how)
        tops[file] = result([], settings, peak)

        def row(name: str) -> list[dict[str, Any]]:
            model, reference, about = pair(name)
            if quick:  # a small one for peers too
                reference = zoo_subject(SMALL, compress_at=())
            return [{"key": name, **about, **measure(model, reference, settings, peak)}]

        found.extend((file, name, partial(row, name)) for name in names)

    add_speed("throughput_cuda", models)
    add_speed("throughput_cuda_train", models[:2], train=True, batch_size=base.batch_size or 8)
    for name in models[:2]:
        of_model = partial(interpolation.row, name, torch.device(device), dtype, base.seconds, not quick)
        found.append(("interpolation_cuda", name, partial(alone, of_model)))
    for stride in streaming.STRIDES:
        of_stride = partial(streaming.rows_of, models[0], stride, base.seconds, device, dtype)
        found.append(("streaming_cuda", f"stride {stride}", of_stride))
    for name in dict.fromkeys((SMALL, models[0])):
        paths = latency.make_files(videos, name, 4)
        found.append(("latency_cuda", name, partial(alone, partial(latency.measure, name, paths, 4, device))))
    if not quick:  # compiling takes minutes on a CPU, and graphs are CUDA's
        for name in models:
            add_speed("throughput_cuda_compiled", [name], compile=True, batch_size=8)
            add_speed("throughput_cuda_graphs", [name], cuda_graphs=True, batch_size=1)
    add_speed("throughput_cuda_peers", PEERS[-1:] if quick else PEERS, batch_size=base.batch_size or 8)
    return tops, found


def run(tops: dict[str, dict[str, Any]], todo: Sequence[Step], folder: Path, deadline: float) -> list[str]:
    """Measure until the deadline, writing each file after each row; return what was not reached, or failed."""
    from report import report

    left = []
    for file, name, measure in todo:
        if time.monotonic() > deadline:
            left.append(f"{file}: {name} (no time was left)")
            continue
        try:
            rows = measure()
        except (RuntimeError, ValueError, ImportError) as error:  # of this row: out of memory, a package that lacks
            left.append(f"{file}: {name} ({' '.join(str(error).split())[:200]})")
            continue
        tops[file]["rows"] = [*tops[file].get("rows", ()), *rows]
        report(tops[file], folder / f"{file}.json", f"{file}: {name}")
    return left


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit, without the tests")
    parser.add_argument("--quick", action="store_true", help="the small model on the CPU, to check that all runs")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the JSON files")
    parser.add_argument("--wheels", action="store_true", help="print what an image with nothing but PyTorch lacks")
    args = parser.parse_args(argv)
    if args.wheels:
        print("\n".join(wheels()))
        return 0
    deadline = time.monotonic() + 60 * args.minutes

    import compare
    import torch

    if not args.quick and not torch.cuda.is_available():
        print("This PyTorch sees no CUDA device, so nothing was measured; --quick tries the code on the CPU.")
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) if args.quick else args.output
        left = run(*steps(args.quick, Path(temporary)), output, deadline)
        print(compare.cuda(output))
    if not args.quick and args.output == compare.RESULTS:
        compare.main()
    print("\n".join(["Not measured:", *left] if left else ["Everything was measured."]))
    return 1 if args.quick and left else 0


if __name__ == "__main__":
    sys.exit(main())
