"""``inti-models label``"""

import argparse
from pathlib import Path

from .options import (
    add_batches,
    add_device,
    add_labels,
    add_limits,
    add_precision,
    add_views,
    device_of,
    limits_of,
    positive,
)


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "label",
        help="label a collection of videos with Ray, on many processes or machines",
        epilog="example: inti-models label list.txt --model inti_vit_t8_32_motiondigits --output labels",
    )
    command.add_argument("files", nargs="+", metavar="FILE", help="videos, or lists of them (.txt, .csv, .parquet)")
    command.add_argument("--model", required=True, help="as for predict")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the Parquet files")
    command.add_argument(
        "--workers", type=positive, default=1, help="processes with a model each (default: %(default)s)"
    )
    add_views(command, default=(1, 1))
    add_labels(command)
    command.add_argument("--embedding", action="store_true", help="also write the embedding of each file")
    command.add_argument("--part-size", type=positive, default=16, help="files per part (default: %(default)s)")
    add_batches(command)
    add_device(command)
    add_precision(command)
    add_limits(command)
    command.set_defaults(run=run, stopped="stopped; the same command resumes with the remaining files.")


def run(args: argparse.Namespace) -> int:
    from ..inference.collection import label_collection, read_paths

    summary = label_collection(
        read_paths(args.files),
        args.model,
        args.output,
        workers=args.workers,
        views=args.views,
        topk=args.topk,
        embedding=args.embedding,
        device=device_of(args),
        part_size=args.part_size,
        limits=limits_of(args),
        precision=args.precision,
        batch_size=args.batch_size,
        compile=args.compile,
        threshold=args.threshold,
    )
    print(
        f"{args.output}: {summary.labelled} labelled, {summary.failed} could not be read (column error), "
        f"{summary.skipped} done before"
    )
    return 1 if summary.failed else 0
