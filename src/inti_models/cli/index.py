"""``inti-models index``"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from ..text import printable
from .options import add_device, add_limits, add_precision, add_windows, device_of, limits_of, positive, windows_of


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "index",
        help="make or update an index of videos to search in",
        epilog="example: inti-models index videos --model inti_vit_b16_k400 -o index",
    )
    command.add_argument(
        "videos", nargs="+", metavar="VIDEOS", help="folders, files, or lists of files (.txt, .csv, .parquet)"
    )
    command.add_argument("--model", required=True, help="as for predict")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="INDEX", help="folder of the index")
    add_windows(command)
    command.add_argument("--workers", type=positive, help="processes of a Ray cluster (default: only this process)")
    add_device(command)
    add_precision(command)
    add_limits(command)
    command.set_defaults(run=run, stopped="stopped; the same command resumes with the remaining files.")


def run(args: argparse.Namespace) -> int:
    from ..inference.indexing import build_index

    summary = build_index(
        args.videos,
        args.output,
        args.model,
        windows_of(args),
        device=device_of(args),
        precision=args.precision,
        limits=limits_of(args),
        workers=args.workers,
        progress=lambda files, total: tqdm(files, total=total, unit="file"),
        say=lambda line: print(f"inti-models: {line}", file=sys.stderr),
    )
    for error in summary.failed.values():
        print(f"inti-models: {printable(error)}", file=sys.stderr)
    print(
        f"{args.output}: {summary.windows} windows; {summary.added} files added, {summary.changed} changed, "
        f"{summary.dropped} dropped, {summary.kept} kept, {len(summary.failed)} could not be read"
    )
    return 1 if summary.failed else 0
