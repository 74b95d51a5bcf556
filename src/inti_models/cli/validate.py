"""``inti-models validate``"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..text import printable
from .options import (
    add_device,
    add_limits,
    add_model,
    add_precision,
    add_templates,
    add_views,
    count,
    device_of,
    fraction,
    limits_of,
    load_model,
    positive,
)

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "validate",
        help="measure a model on videos with labels",
        epilog="example: inti-models validate videos/test --model runs/mine/best --views 4x3",
    )
    command.add_argument(
        "data", metavar="DATA", help="a folder with a folder for each class, a list file, or motiondigits"
    )
    add_model(command)
    add_views(command)
    add_device(command)
    command.add_argument("--root", type=Path, help="folder that the paths of a list start at (default: the list's)")
    command.add_argument("--split", help="value of the list's column of splits, or sub-folder")
    command.add_argument("--class-names", type=Path, metavar="FILE", help="names of the data's classes, one a line")
    command.add_argument("--zero-shot", action="store_true", help="take the names of the data's classes as the head")
    add_templates(command)
    command.add_argument(
        "--batch-size", type=positive, default=8, help="clips that go through the model together (default: %(default)s)"
    )
    command.add_argument("--workers", type=count, default=4, help="processes that read videos (default: %(default)s)")
    add_precision(command, default="float32")  # so that an accuracy does not depend on the machine
    command.add_argument(
        "--max-unreadable", type=fraction, default=0.01, help="fraction that may be unreadable (default: %(default)s)"
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the report, and for what a stopped run has measured"
    )
    add_limits(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from accelerate import PartialState

    from ..data import open_source, read_class_names
    from ..evaluation.evaluate import validate

    processes = PartialState(cpu=device_of(args) == "cpu")
    given = None if args.class_names is None else read_class_names(args.class_names)
    source = open_source(args.data, root=args.root, class_names=given, split=args.split, limits=limits_of(args))
    if args.zero_shot and not source.has_names:
        raise ValueError(f"{args.data} has numbers for classes, of which no head can be made; pass --class-names.")
    evaluation = validate(
        load_model(args.model, args.checkpoint, source.class_names if args.zero_shot else None, args.templates),
        source,
        views=args.views,
        batch_size=args.batch_size,
        num_workers=args.workers,
        device=processes.device if processes.num_processes > 1 else device_of(args),
        precision=args.precision,
        max_unreadable=args.max_unreadable,
        output=args.output,
    )
    if processes.is_main_process:
        print_accuracy(evaluation)
        print(f"mean class  {evaluation.mean_class:.2f}%")
        print(f"videos      {len(evaluation.labels)} measured, {len(evaluation.unreadable)} unreadable")
        print("worst classes")
        rows = [(row.accuracy, row) for row in evaluation.per_class() if row.accuracy is not None]
        for accuracy, row in sorted(rows)[:5]:
            print(f"  {accuracy:5.1f}%  {printable(row.name)} ({row.videos} video{'s' if row.videos > 1 else ''})")
        if args.output is not None:
            print(f"report      {args.output}")
    processes.destroy_process_group()
    return 0


def print_accuracy(evaluation: "Evaluation") -> None:
    print(f"top-1       {evaluation.top1:.2f}%")
    if evaluation.top5 is not None:
        print(f"top-5       {evaluation.top5:.2f}%")
