"""``inti-models predict``"""

import argparse
import dataclasses
import json
import sys
import warnings
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..text import printable
from .options import (
    add_batches,
    add_classes,
    add_device,
    add_frames,
    add_labels,
    add_limits,
    add_model,
    add_precision,
    add_templates,
    add_views,
    class_list,
    device_of,
    fraction,
    limits_of,
    load_model,
    positive,
    rate,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..inference.predict import ReadAhead, Window
    from ..models.stages import InTIModel


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "predict",
        help="label video files, images or folders of frames",
        epilog="example: inti-models predict clip.mp4 --model inti_vit_t8_32_motiondigits --topk 3",
    )
    command.add_argument(
        "files", nargs="+", metavar="FILE", help="a video, an image, a folder of frames, or a folder of videos"
    )
    add_model(command)
    add_views(command)
    add_device(command)
    add_precision(command)
    add_batches(command)
    add_classes(command)
    add_templates(command)
    command.add_argument(
        "--background",
        type=class_list,
        metavar="PROMPTS",
        help="prompts that compete with --classes and mean 'none of these', or 'default' for a ready-made set",
    )
    add_frames(command)
    command.add_argument(
        "--budget",
        type=float,
        metavar="N",
        help="frames that a block sees on average; chooses where to compress --frames",
    )
    command.add_argument(
        "--chunk",
        type=positive,
        metavar="N",
        help="frames that go through the first blocks together, to bound memory",
    )
    command.add_argument(
        "--stream",
        action="store_true",
        help="label each window of the last frames of one file, camera (/dev/video0) or pipe (-)",
    )
    command.add_argument(
        "--stride",
        type=positive,
        metavar="N",
        help="frames from a window's start to the next one's (with --stream; default: 1)",
    )
    command.add_argument(
        "--fps", type=rate, metavar="N", help="frames per second to sample (with --stream; default: all)"
    )
    command.add_argument("--events", action="store_true", help="print events, from when to when (with --stream)")
    command.add_argument(
        "--begin", type=fraction, metavar="P", help="probability that begins an event (with --events; default: 0.5)"
    )
    command.add_argument(
        "--keep", type=fraction, metavar="P", help="probability that continues it (with --events; default: 0.3)"
    )
    command.add_argument(
        "--least", type=float, metavar="S", help="minimum seconds of an event (with --events; default: 0.5)"
    )
    add_labels(command)
    command.add_argument("--json", action="store_true", help="print one JSON object per line")
    add_limits(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..data.folders import expand_folders
    from ..inference.events import check_thresholds
    from ..inference.predict import VideoClassifier
    from ..models.precision import set_precision
    from ..models.schedules import schedule_for_budget
    from ..weights.hub import create

    if args.events and not args.stream:
        raise ValueError("--events needs a stream; add --stream.")
    for name in ("stride", "fps"):
        if getattr(args, name) is not None and not args.stream:
            raise ValueError(f"--{name} {getattr(args, name)} is for a stream; add --stream, or leave it out.")
    if args.events and (args.threshold is not None or args.topk is not None):
        raise ValueError("--events goes by --begin and --keep; leave --threshold and --topk out.")
    given = {name: getattr(args, name) for name in ("begin", "keep", "least") if getattr(args, name) is not None}
    if given and not args.events:
        raise ValueError(f"--{next(iter(given))} is for events; add --events.")
    args.events = {"least": 0.5, **given} if args.events else None
    if args.events:
        check_thresholds(**args.events)
    whole_files = args.views not in (None, (1, 1)), args.chunk is not None, args.batch_size is not None, args.compile
    if args.stream and (len(args.files) > 1 or any(whole_files)):
        raise ValueError(
            "--stream takes one file, camera or pipe; leave --views, --chunk, --batch-size and --compile out."
        )
    if "-" in args.files and not args.stream:
        raise ValueError("- is standard input, which is read as a stream; add --stream.")
    if not args.stream:
        args.files = expand_folders(args.files)
    args.device = device_of(args)
    model_args: dict[str, Any] = {} if args.frames is None else {"num_frames": args.frames}
    shape = create(args.model, device="meta", **model_args)  # the model without its weights
    if args.budget is not None:
        model_args["compress_at"] = schedule_for_budget(len(shape.blocks), shape.num_frames, args.budget)
    with ExitStack() as stack:
        files: ReadAhead | list[str] = args.files
        if not args.stream:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of decoders: a damaged file is reported below, once
            warnings.filterwarnings("always", module=r"inti_models\.")
            if shape.num_classes > 0:  # it has no weights, but says how files are read: now, while the weights load
                reader = VideoClassifier(shape, args.views, "meta", args.chunk, limits_of(args))
                files = stack.enter_context(closing(reader.read_ahead(args.files)))
                files.start()
        model = load_model(args.model, args.checkpoint, args.classes, args.templates, args.background, **model_args)
        chosen = set_precision(model, args.precision, args.device)
        if args.precision == "auto" and not args.json:
            print(f"inti-models: computing in {chosen}; --precision chooses another.", file=sys.stderr)
        return _label_stream(model, args) if args.stream else _label_files(model, args, files)


def _label_stream(model: "InTIModel", args: argparse.Namespace) -> int:
    from ..data import iterate_frames
    from ..inference.events import find_events
    from ..inference.predict import NONE, classify_stream

    source = sys.stdin.buffer if args.files == ["-"] else args.files[0]
    every = model.frame_stride or 1 if args.fps is None else 1
    frames = iterate_frames(source, fps=args.fps, every=every, limits=limits_of(args))
    topk, threshold = (model.num_classes, 0.0) if args.events else (args.topk, args.threshold)
    windows = classify_stream(model, frames, args.stride or 1, topk, args.device, threshold=threshold)
    windows = _at_least_one(windows, args.files[0], model)
    if args.events:
        for event in find_events(windows, **args.events):
            if args.json:
                times = {"start": round(event.start, 3), "end": round(event.end, 3)}
                print(json.dumps({**dataclasses.asdict(event), **times, "precision": model.precision}), flush=True)
            else:
                line = f"{event.start:.2f}-{event.end:.2f} s  {printable(event.name)} {event.probability:.1%}"
                print(line, flush=True)
        return 0
    for window in windows:
        if args.json:
            times = {"start": round(window.start, 3), "end": round(window.end, 3)}
            print(json.dumps({**dataclasses.asdict(window), **times, "precision": model.precision}), flush=True)
        else:
            names = ", ".join(f"{printable(label.name)} {label.probability:.1%}" for label in window.labels)
            print(f"{window.start:.2f}-{window.end:.2f} s  {names or NONE}", flush=True)
    return 0


def _at_least_one(windows: "Iterator[Window]", source: str, model: "InTIModel") -> "Iterator[Window]":
    window = None
    for window in windows:
        yield window
    if window is None:
        raise ValueError(
            f"{source} ended before the first window of {model.num_frames} frames; lower --frames or raise --fps."
        )


def _label_files(model: "InTIModel", args: argparse.Namespace, files: "ReadAhead | list[str]") -> int:
    from ..inference.predict import NONE, VideoClassifier

    classify = VideoClassifier(
        model,
        args.views,
        args.device,
        args.chunk,
        limits_of(args),
        batch_size=args.batch_size,
        compile=args.compile,
    )
    failed = 0
    with closing(classify.label_files(files, args.topk, threshold=args.threshold)) as labelled:
        for path, labels in tqdm(labelled, total=len(args.files), unit="file", disable=len(args.files) == 1):
            if isinstance(labels, Exception):
                failed += 1
                if args.json:
                    tqdm.write(json.dumps({"file": path, "error": str(labels)}), file=sys.stdout)
                else:
                    tqdm.write(f"inti-models: {printable(str(labels))}", file=sys.stderr)
            elif args.json:
                result = {"file": path, "labels": [dataclasses.asdict(label) for label in labels]}
                tqdm.write(json.dumps({**result, "precision": model.precision}), file=sys.stdout)
            else:
                tqdm.write(printable(str(path)), file=sys.stdout)
                for label in labels:
                    tqdm.write(f"  {label.probability:6.1%}  {printable(label.name)}", file=sys.stdout)
                if not labels:
                    tqdm.write(f"  {NONE}", file=sys.stdout)
    if failed:
        print(f"inti-models: {failed} of {len(args.files)} files could not be read.", file=sys.stderr)
    return 1 if failed else 0
