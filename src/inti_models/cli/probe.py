"""``inti-models probe``"""

import argparse
from pathlib import Path

from .options import add_device, add_limits, add_views, count, device_of, fraction, limits_of, positive


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "probe",
        help="fit a head to a few videos of each class, on features that are computed once",
        epilog="example: inti-models probe videos/few --model inti_vit_t8_32_motiondigits --output runs/probe",
    )
    command.add_argument("data", metavar="DATA", help="a folder with a folder for each class, or a list file")
    command.add_argument("--model", required=True, help="as for predict; its weights do not change")
    command.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for the models, and for the features"
    )
    command.add_argument("--validation", metavar="DATA", help="videos to evaluate on, as DATA")
    command.add_argument("--root", type=Path, help="folder that paths in lists are relative to (default: the list's)")
    command.add_argument("--split", help="value of DATA's column of splits, or sub-folder")
    command.add_argument("--class-names", type=Path, metavar="FILE", help="names of the data's classes, one per line")
    command.add_argument("--multi-label", action="store_true", help="a video may have several labels")
    add_views(command)
    add_device(command)
    command.add_argument(
        "--batch-size", type=positive, default=8, help="clips that go through the model together (default: %(default)s)"
    )
    command.add_argument("--workers", type=count, default=4, help="processes that read videos (default: %(default)s)")
    command.add_argument(
        "--max-unreadable", type=fraction, default=0.01, help="fraction that may be unreadable (default: %(default)s)"
    )
    add_limits(command)
    command.set_defaults(run=run, stopped="stopped; the same command resumes with the remaining videos.")


def run(args: argparse.Namespace) -> int:
    from functools import partial

    from ..data import open_source, read_class_names
    from ..training.probe import probe

    names = None if args.class_names is None else read_class_names(args.class_names)
    open_part = partial(open_source, root=args.root, limits=limits_of(args), multi_label=args.multi_label)
    source = open_part(args.data, "train", class_names=names, split=args.split)
    validation = None
    if args.validation is not None:
        validation = open_part(args.validation, class_names=names)
        if not validation.has_names:
            validation = open_part(args.validation, class_names=source.classes)
    probes = probe(
        args.model,
        source,
        args.output,
        validation,
        views=args.views,
        batch_size=args.batch_size,
        num_workers=args.workers,
        device=device_of(args),
        max_unreadable=args.max_unreadable,
    )
    what = "mAP" if source.multi_label else "right"
    few = "there are too few videos" if source.multi_label else "a class has only one video"
    for method, each in probes.items():
        parts = []
        if each.cross_validated is not None:
            parts.append(f"{each.cross_validated:.2f}% {what} by cross-validation")
        if each.validation is not None:
            parts.append(f"{each.validation:.2f}% {what} on {args.validation}")
        print(f"{method:<11} {', '.join(parts) or f'not measured: {few}'}")
    print(f"models      {', '.join(str(args.output / method) for method in probes)}")
    return 0
