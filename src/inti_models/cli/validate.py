"""``inti-models validate``"""

import argparse
import sys
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
    from ..evaluation.multi_label import MultiLabelEvaluation
    from ..models.stages import InTIModel


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "validate",
        help="evaluate a model on videos with labels",
        epilog="example: inti-models validate videos/test --model runs/mine/best --views 4x3",
    )
    command.add_argument(
        "data", metavar="DATA", help="a folder with a folder for each class, a list file, or motiondigits"
    )
    add_model(command)
    add_views(command)
    add_device(command)
    command.add_argument("--root", type=Path, help="folder that paths in a list are relative to (default: the list's)")
    command.add_argument("--split", help="value of the list's column of splits, or sub-folder")
    command.add_argument("--class-names", type=Path, metavar="FILE", help="names of the data's classes, one per line")
    command.add_argument("--zero-shot", action="store_true", help="make the head from the names of the data's classes")
    add_templates(command)
    command.add_argument(
        "--multi-label",
        action="store_true",
        help="a video may have several labels (default: as the model was trained)",
    )
    command.add_argument(
        "--calibrate",
        action="store_true",
        help="fit a temperature, and with several labels a threshold for each class, and write them into the model's "
        "config",
    )
    command.add_argument(
        "--batch-size", type=positive, default=8, help="clips that go through the model together (default: %(default)s)"
    )
    command.add_argument("--workers", type=count, default=4, help="processes that read videos (default: %(default)s)")
    add_precision(command, default="float32")  # so that an accuracy does not depend on the machine
    command.add_argument(
        "--max-unreadable", type=fraction, default=0.01, help="fraction that may be unreadable (default: %(default)s)"
    )
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the report, and for the results of a stopped run"
    )
    add_limits(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from accelerate import PartialState

    from ..data import open_source, read_class_names
    from ..data.sources import NAMED
    from ..evaluation.evaluate import gives_several_labels, validate
    from ..evaluation.multi_label import MultiLabelEvaluation
    from ..files import check_input

    folder = Path(args.model.removeprefix("local-dir:"))
    if args.calibrate and (args.zero_shot or args.checkpoint is not None or not folder.is_dir()):
        raise ValueError(
            "--calibrate writes into the config of a saved model; pass its folder as --model, without --checkpoint and "
            "--zero-shot."
        )
    if args.data not in NAMED:
        check_input(args.data)
    processes = PartialState(cpu=device_of(args) == "cpu")
    given = None if args.class_names is None else read_class_names(args.class_names)
    model = None if args.zero_shot else load_model(args.model, args.checkpoint, None, args.templates)
    several = args.multi_label or (model is not None and gives_several_labels(model))
    source = open_source(
        args.data, root=args.root, class_names=given, split=args.split, limits=limits_of(args), multi_label=several
    )
    if model is None:
        if not source.has_names:
            raise ValueError(f"{args.data} has only class numbers, from which no head can be made; pass --class-names.")
        model = load_model(args.model, args.checkpoint, source.class_names, args.templates)
    if args.calibrate and source.multi_label != model.probabilities.multi_label:
        kind = "several labels" if model.probabilities.multi_label else "one label"
        raise ValueError(f"{args.model} gives a video {kind}; calibrate it on data that do so too.")
    evaluation = validate(
        model,
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
        if isinstance(evaluation, MultiLabelEvaluation):
            rows = [(row.average_precision, row.name, row.videos) for row in evaluation.per_class()]
        else:
            print(f"mean class  {evaluation.mean_class:.2f}%")
            rows = [(row.accuracy, row.name, row.videos) for row in evaluation.per_class()]
        print(f"videos      {len(evaluation.labels)} measured, {len(evaluation.unreadable)} unreadable")
        print("worst classes")
        worst = sorted((value, name, videos) for value, name, videos in rows if value is not None)
        for value, name, videos in worst[:5]:
            print(f"  {value:5.1f}%  {printable(name)} ({videos} video{'s' if videos > 1 else ''})")
        if args.output is not None:
            print(f"report      {args.output}")
        if args.calibrate:
            _calibrate(model, evaluation, folder)
    processes.destroy_process_group()
    return 0


def _calibrate(model: "InTIModel", evaluation: "Evaluation | MultiLabelEvaluation", folder: Path) -> None:
    """Fit temperature and thresholds to an evaluation, write them into the model's config, and print the gain."""
    from dataclasses import replace

    from ..evaluation.calibration import calibrate
    from ..models.probabilities import THRESHOLD
    from ..weights.hub import write_probabilities

    fitted = calibrate(evaluation)
    temperature = model.probabilities.temperature * fitted.temperature
    said = replace(model.probabilities, temperature=temperature)
    if fitted.thresholds is not None:
        said = replace(said, thresholds=fitted.thresholds)
    write_probabilities(folder, said)
    print(f"calibration error {fitted.error_before:.2f}% before, {fitted.error_after:.2f}% after, on held-out halves")
    print(f"temperature {temperature:.3f}")
    if fitted.thresholds is not None:
        print(f"thresholds  {min(fitted.thresholds):.3f} to {max(fitted.thresholds):.3f}, one for each class")
        if without := int((evaluation.labels.sum(dim=0) == 0).sum()):
            print(f"            {THRESHOLD} for {without} of them, which no video has")
    if fitted.error_after > fitted.error_before:
        print("inti-models: calibration raised the error; pass more videos.", file=sys.stderr)
    print(f"written     {folder / 'config.json'}")


def print_accuracy(evaluation: "Evaluation | MultiLabelEvaluation") -> None:
    from ..evaluation.multi_label import MultiLabelEvaluation

    if isinstance(evaluation, MultiLabelEvaluation):
        print(f"mAP         {evaluation.macro_ap:.2f}% (micro {evaluation.micro_ap:.2f}%)")
        print(f"F1          {evaluation.macro_f1:.2f}% (micro {evaluation.micro_f1:.2f}%)")
        print(f"exact match {evaluation.exact_match:.2f}%")
        return
    print(f"top-1       {evaluation.top1:.2f}%")
    if evaluation.top5 is not None:
        print(f"top-5       {evaluation.top5:.2f}%")
