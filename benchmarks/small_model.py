"""The shipped model beside its uncompressed self: the ratio of their times by batch size.

    python benchmarks/small_model.py [--quick] [--threads 1] [--seconds 20] [--output FILE]

At batch size 1 its operators take microseconds, and starting one costs as much as computing it: what an interpolation
adds in operators then counts against what it saves in arithmetic. Inference and training steps, eager, float32, in
turns; random weights. Writes results/small_model_cpu.json (``--quick``: one second each, nothing without --output).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from report import machine, report
from tqdm import tqdm

from inti_models.evaluation.benchmark import Settings, matmul_tflops, measure, zoo_subject

NAME = "inti_vit_t8_32_motiondigits"
RESULTS = Path(__file__).parent / "results" / "small_model_cpu.json"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one second each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each row")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    seconds = min(args.seconds, 1.0) if args.quick else args.seconds
    steps = [(False, size) for size in (1, 2, 4, 8, 32)] + [(True, size) for size in (1, 32)]
    rows, peak = [], matmul_tflops("cpu")
    for train, size in tqdm(steps):
        settings = Settings(train=train, batch_size=size, threads=args.threads, seconds=seconds)
        row = measure(zoo_subject(NAME), zoo_subject(NAME, compress_at=()), settings, peak)
        rows.append({"step": "training" if train else "inference", **row})
    result = {"machine": machine(torch.device("cpu")), "model": NAME, "rows": rows}
    report(result, args.output or (None if args.quick else RESULTS))


if __name__ == "__main__":
    main()
