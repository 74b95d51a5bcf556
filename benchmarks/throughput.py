"""Times, memory and efficiency of InTI models and of their alternatives; see benchmarks/README.md.

    python benchmarks/throughput.py [--quick | --equal-cost | --only NAME ...] [--train] [--device cuda --compile ...]

Every row is measured in turns with a reference: an InTI model with its naive twin (``compress_at=()``), a peer with
naive ViT-B/16 on 8 frames. Random weights: cost does not depend on them. Writes
results/throughput_<device>[_train].json after each row; a stopped run resumes there, and rows with other settings are
measured anew. With ``--only`` or ``--quick`` nothing is written without ``--output``. ``--equal-cost`` measures what
else is possible for the GFLOPs of InTI, and writes results/throughput_<device>_equal_cost.json.
"""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peers import EQUAL_COST, PEERS, build
from tqdm import tqdm

from inti_models.cli.benchmark import add_settings, options_of, settings_of
from inti_models.evaluation.benchmark import (
    Settings,
    Subject,
    describe,
    matmul_tflops,
    measure,
    result,
    table,
    zoo_subject,
)
from inti_models.files import write_text

INTI = (
    "inti_vit_b16_k400",
    "inti_vit_l14_k400",
    "inti_st_adapter_b16_k400",
    "inti_aim_b16_k400",
    "inti_uniformerv2_b16_k400",
    "inti_vit_t8_32_motiondigits",
)
QUICK = ("inti_vit_t8_32_motiondigits", "inti_vit_b16_k400", "S3D")
REFERENCE = "inti_vit_b16_k400"
RESULTS = Path(__file__).parent / "results"


def pair(name: str) -> tuple[Subject, Subject, dict[str, str]]:
    """Return a model, its reference, and what else its row says."""
    if name in PEERS:
        peer = PEERS[name]
        described = {"family": "peer", "source": peer.source, "published_setting": peer.note}
        return Subject(name, lambda: build(name), peer.input), zoo_subject(REFERENCE, compress_at=()), described
    described = {"family": "inti", "source": "inti_models", "published_setting": ""}
    return zoo_subject(name), zoo_subject(name, compress_at=()), described


def command(name: str, settings: Settings) -> str:
    """Return the command that measures one row again."""
    return f"python benchmarks/throughput.py --only {shlex.quote(name)} {options_of(settings)}"


def write(measured: dict[str, Any], path: Path) -> None:
    """Write the file whole or not at all."""
    write_text(path, json.dumps(measured, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--only", nargs="+", metavar="NAME", choices=(*INTI, *PEERS), help="these rows")
    rows.add_argument("--quick", action="store_true", help="a few rows, two seconds each: within two minutes")
    rows.add_argument("--equal-cost", action="store_true", help=f"{REFERENCE}, and others at its GFLOPs")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    add_settings(parser)
    args = parser.parse_args()
    if args.quick:
        args.seconds = min(args.seconds, 2.0)
    settings = replace(settings_of(args), rounds=2) if args.quick else settings_of(args)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.device == "cpu":
        print(
            f"No CUDA device is used: measuring on the CPU, {torch.get_num_threads()} threads, batch size "
            f"{settings.batch_size or 'best'}.",
            file=sys.stderr,
        )
    others = [name for name in PEERS if name not in EQUAL_COST]
    names = args.only or (QUICK if args.quick else (REFERENCE, *EQUAL_COST) if args.equal_cost else (*INTI, *others))
    output = args.output
    if output is None and not (args.only or args.quick):
        kind = ("_equal_cost" if args.equal_cost else "") + ("_train" if settings.train else "")
        output = RESULTS / f"throughput_{settings.device}{kind}.json"
    peak = matmul_tflops(settings.device, settings.amp)
    measured = result([], settings, peak)
    if output is not None and output.exists():
        before = json.loads(output.read_text())
        if all(before[key] == measured[key] for key in ("machine", "settings")):
            measured["rows"] = before["rows"]
    done = {row["key"] for row in measured["rows"]}
    for name in tqdm([name for name in names if name not in done]):
        subject, reference, described = pair(name)
        row = measure(subject, reference, settings, peak)
        measured["rows"].append({"key": name, **described, **row, "command": command(name, settings)})
        if output is not None:
            write(measured, output)
    print(table(measured["rows"]), describe(measured), sep="\n\n")


if __name__ == "__main__":
    main()
