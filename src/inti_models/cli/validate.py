"""``inti-models validate``"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..text import printable
from .options import PRECISIONS, add_device, add_model, add_views, count, device_of, fraction, load_model, positive

if TYPE_CHECKING:
    from ..data import MotionDigitsClips, VideoDataset, VideoList
    from ..evaluation import Evaluation
    from ..vision_transformer import InTIVisionTransformer

MOTIONDIGITS = "motiondigits"


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("validate", help="measure a model on videos with labels")
    command.add_argument(
        "data", metavar="DATA", help=f"a folder with a folder for each class, a list file, or {MOTIONDIGITS}"
    )
    add_model(command)
    add_views(command)
    add_device(command)
    command.add_argument("--root", type=Path, help="folder that the paths of a list start at (default: the list's)")
    command.add_argument("--split", help="value of the list's column of splits, or sub-folder")
    command.add_argument("--class-names", type=Path, metavar="FILE", help="names of the data's classes, one a line")
    command.add_argument("--zero-shot", action="store_true", help="take the names of the data's classes as the head")
    command.add_argument("--batch-size", type=positive, default=8, help="clips that go through the model together")
    command.add_argument("--workers", type=count, default=4, help="processes that read videos")
    command.add_argument("--precision", choices=PRECISIONS, default="no", help="of autocast (default: %(default)s)")
    command.add_argument("--max-broken", type=fraction, default=0.01, help="fraction of videos that may be unreadable")
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the report, and for what a stopped run has measured"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from accelerate import PartialState

    from ..data import find_videos, read_class_names
    from ..data.motion_digits import CLASS_NAMES
    from ..evaluation import evaluate, write_report

    processes = PartialState(cpu=device_of(args) == "cpu")
    given = None if args.class_names is None else read_class_names(args.class_names)
    videos = None if args.data == MOTIONDIGITS else find_videos(args.data, args.root, given, args.split)
    if videos is None and args.split is not None:
        raise ValueError(f"--split={args.split} is for lists and folders; {MOTIONDIGITS} has its own; leave it out.")
    names = CLASS_NAMES if videos is None else videos.class_names
    if args.zero_shot and videos is not None and not videos.has_names:
        raise ValueError(f"{args.data} has numbers for classes, of which no head can be made; pass --class-names.")
    model = load_model(args.model, args.checkpoint, names if args.zero_shot else None)
    evaluation = evaluate(
        model,
        _views_of(videos, model, args),
        batch_size=args.batch_size,
        num_workers=args.workers,
        device=processes.device if processes.num_processes > 1 else device_of(args),
        precision=args.precision,
        work_dir=args.output,
        max_broken=args.max_broken,
    )
    if processes.is_main_process:
        if args.output is not None:
            write_report(evaluation, args.output)
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


def _views_of(
    videos: "VideoList | None", model: "InTIVisionTransformer", args: argparse.Namespace
) -> "VideoDataset | MotionDigitsClips":
    """Videos, or the clips of MotionDigits if None, as a data set for the model."""
    from timm.data import resolve_input_data_config

    from ..data import FrameSampling, MotionDigitsClips, VideoDataset, create_clip_transform
    from ..data.motion_digits import CLASS_NAMES, MotionDigits

    if model.num_classes < 1:
        raise ValueError("The model has no classifier (num_classes=0); name one that has, or pass --zero-shot.")
    config = resolve_input_data_config(model)
    num_clips, num_crops = args.views
    transform = create_clip_transform(**config, num_crops=num_crops)
    names = tuple(model.pretrained_cfg.get("label_names") or ())
    if len(names) != model.num_classes:
        names = ()
    if videos is None:
        if num_clips > 1:
            raise ValueError(f"--views asks for {num_clips} clips, but videos of {MOTIONDIGITS} have one; take 1x1.")
        if names != CLASS_NAMES:
            raise ValueError(f"{args.model} has not the classes of {MOTIONDIGITS}; name a model that has.")
        size = config["input_size"][-1]
        return MotionDigitsClips(MotionDigits("validation", size=size, num_frames=model.num_frames), transform)
    if names:
        videos = videos.relabelled(names)
    return VideoDataset(videos, transform, FrameSampling.of(model), num_clips=num_clips)


def print_accuracy(evaluation: "Evaluation") -> None:
    print(f"top-1       {evaluation.top1:.2f}%")
    if evaluation.top5 is not None:
        print(f"top-5       {evaluation.top5:.2f}%")
