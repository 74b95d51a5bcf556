"""The command ``inti-models``: a thin layer over the package."""

import argparse
import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from tqdm import tqdm

from . import benchmark, visualize
from .checkpoints import load_checkpoint
from .collection import label_collection, read_paths
from .data import (
    Limits,
    MotionDigitsClips,
    VideoDataset,
    VideoList,
    create_clip_transform,
    find_videos,
    iterate_frames,
    read_class_names,
    resolve_clip_config,
)
from .data.motion_digits import CLASS_NAMES, MotionDigits
from .evaluation import DTYPES, Evaluation, evaluate, write_report
from .export import FORMATS, export
from .hub import load, published
from .predict import VideoClassifier, classify_stream
from .quantize import quantize_int8
from .schedules import schedule_for
from .vision_transformer import InTIVisionTransformer
from .zero_shot import zero_shot_head
from .zoo import create_model

MOTIONDIGITS = "motiondigits"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, 1 for failed work, 2 for wrong usage, 130 for Ctrl-C."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if "overrides" in args and not any(word.startswith("-") for word in rest):
        args.overrides += rest  # argparse takes no more of them behind an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # Ctrl-C in the middle of a bar's write leaves tqdm's lock held; its monitor, a thread, would wait for it at exit.
    tqdm.monitor_interval = 0
    try:
        return args.run(args)
    except (OSError, ValueError, RuntimeError, TypeError, ImportError) as error:
        status, sentence = 1, _sentence(error)
    except KeyboardInterrupt:
        status, sentence = 130, getattr(args, "stopped", "stopped.") if _is_main_process() else ""
    if sentence:  # printed when the error is gone, and with it the progress bar that it left
        print(f"inti-models: {sentence}", file=sys.stderr)
    return status


def _sentence(error: Exception) -> str:
    """What an error says, without the traceback that PyTorch adds to those of data loading processes."""
    text = str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in (
        "accelerate",
        "matplotlib",
        "omegaconf",
        "tensorboard",
    ):
        return f"{error.name} is not installed, which training and validation need: pip install 'inti_models[train]'."
    if isinstance(error, ModuleNotFoundError) and error.name in ("pyarrow", "ray"):
        return f"{error.name} is not installed, which labelling collections needs: pip install 'inti_models[ray]'."
    if isinstance(error, ModuleNotFoundError) and error.name == "matplotlib" and "visualize" in sys.argv:
        return "matplotlib is not installed, which pictures need: pip install 'inti_models[pictures]'."
    if isinstance(error, ModuleNotFoundError) and error.name == "torchao":
        return "torchao is not installed, which int8 needs: pip install 'inti_models[int8]'."
    if isinstance(error, ModuleNotFoundError) and error.name in ("onnx", "onnxruntime", "onnxscript"):
        return f"{error.name} is not installed, which ONNX files need: pip install 'inti_models[export]'."
    if text.startswith("DataLoader worker"):
        return (
            "A process that reads videos was killed, by the system for want of memory perhaps; use fewer of them "
            "(data.num_workers, --workers), and run the same command again: it goes on from what was saved."
        )
    if "Original Traceback" in text:
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return text or type(error).__name__


def _is_main_process() -> bool:
    """Whether this is the only process, or the first that torchrun or accelerate launched."""
    return os.environ.get("RANK", "0") == "0"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="inti-models", description="InTI video transformers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="list the models")
    command.add_argument("filter", nargs="?", default="inti*", help="pattern of names, such as '*l14*'")
    command.add_argument("--tags", action="store_true", help="list every set of weights")
    command.add_argument(
        "--pretrained", action="store_true", help="list every set of weights with source, licence, size and accuracy"
    )
    command.set_defaults(run=_list)

    command = commands.add_parser("info", help="describe a model: parameters, frames, schedule, GFLOPs")
    command.add_argument("name", help="name of a model, see 'inti-models list'")
    command.add_argument("--frames", type=_positive, help="frames of a clip (default: the model's own number)")
    command.set_defaults(run=_info)

    command = commands.add_parser("benchmark", help="time models beside their naive twins")
    command.add_argument("pattern", help="a model's name, or a pattern of names such as 'inti_vit_*_k400'")
    command.add_argument("--frames", type=_positive, help="frames of a clip (default: each model's own number)")
    command.add_argument("--compress-at", type=_schedule, metavar="I,J", help="another schedule, such as 4,10")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    benchmark.add_options(command)
    command.set_defaults(run=_benchmark)

    command = commands.add_parser("predict", help="label video files, images or folders of frames")
    command.add_argument("files", nargs="+", metavar="FILE")
    _add_model_options(command)
    command.add_argument("--classes", type=_classes, help="your own words, such as 'riding a bike,feeding goats'")
    command.add_argument("--frames", type=_positive, help="frames of a clip (default: the model's own number)")
    command.add_argument(
        "--budget", type=float, help="frames that a block sees on average; chooses where to compress --frames"
    )
    command.add_argument(
        "--chunk", type=_positive, help="frames that run through the first blocks together: bounds the memory"
    )
    command.add_argument(
        "--max-pixels", type=int, default=Limits.max_pixels, metavar="N", help="pixels; larger frames are refused"
    )
    command.add_argument("--max-duration", type=float, metavar="S", help="seconds of a file; longer ones are refused")
    command.add_argument("--timeout", type=float, metavar="S", help="seconds after which reading a file is given up")
    command.add_argument("--int8", action="store_true", help="blocks in int8: faster on CPUs (needs torchao)")
    command.add_argument(
        "--stream",
        action="store_true",
        help="label each window of the last frames of one file, camera (/dev/video0) or pipe (-)",
    )
    command.add_argument("--stride", type=_positive, default=1, help="of windows, in frames (with --stream)")
    command.add_argument("--fps", type=float, help="frames a second to look at (with --stream; default: all)")
    command.add_argument("--topk", type=_positive, default=5, help="labels for each file")
    command.add_argument("--json", action="store_true", help="print one JSON object a line")
    command.set_defaults(run=_predict)

    command = commands.add_parser("visualize", help="show what a model kept of a video, and what it went by")
    command.add_argument("file", metavar="VIDEO")
    command.add_argument("--model", required=True, help="as for predict")
    command.add_argument("--checkpoint", type=Path, help="safetensors file to load instead of the published weights")
    command.add_argument("--class", dest="label", metavar="NAME|INDEX", help="class whose relevance a page shows")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="ends in .png, .gif, .mp4 or .html"
    )
    command.set_defaults(run=_visualize)

    command = commands.add_parser("label", help="label a collection of videos with Ray, on many processes or machines")
    command.add_argument("files", nargs="+", metavar="FILE", help="videos, or lists of them (.txt, .parquet)")
    command.add_argument("--model", required=True, help="as for predict")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the Parquet files")
    command.add_argument("--workers", type=_positive, default=1, help="processes with a model each")
    command.add_argument("--views", type=_views, default=(1, 1), metavar="TxS", help="clips x crops, such as 4x3")
    command.add_argument("--topk", type=_positive, default=5, help="labels for each file")
    command.add_argument("--features", action="store_true", help="write pooled features too")
    command.add_argument("--batch-size", type=_positive, default=16, help="files of a part")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.set_defaults(run=_label, stopped="stopped; the same command goes on with the files that are left.")

    command = commands.add_parser("export", help="write a model for other runtimes")
    command.add_argument("--model", required=True, help="as for predict")
    command.add_argument("--checkpoint", type=Path, help="safetensors file to load instead of the published weights")
    command.add_argument("--format", choices=FORMATS, required=True)
    command.add_argument("--frames", type=_positive, help="frames of a clip (default: the model's own number)")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="ends in .onnx or .pt2")
    command.set_defaults(run=_export)

    command = commands.add_parser("train", help="train a model; the same command again goes on where it stopped")
    command.add_argument("recipe", metavar="RECIPE", help="YAML file, or the name of a published recipe")
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as optimization.lr=1e-4")
    command.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for all that is written")
    command.set_defaults(run=_train, stopped="stopped; the same command goes on from the last saved state.")

    command = commands.add_parser("validate", help="measure a model on videos with labels")
    command.add_argument(
        "data", metavar="DATA", help=f"a folder with a folder for each class, a list file, or {MOTIONDIGITS}"
    )
    _add_model_options(command)
    command.add_argument("--root", type=Path, help="folder that the paths of a list start at (default: the list's)")
    command.add_argument("--class-names", type=Path, metavar="FILE", help="names of the data's classes, one a line")
    command.add_argument("--zero-shot", action="store_true", help="take the names of the data's classes as the head")
    command.add_argument("--batch-size", type=_positive, default=8, help="clips that go through the model together")
    command.add_argument("--workers", type=_count, default=4, help="processes that read videos")
    command.add_argument("--precision", choices=DTYPES, default="no", help="of autocast (default: %(default)s)")
    command.add_argument("--max-broken", type=_share, default=0.01, help="share of videos that may be unreadable")
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for the report, and for what a stopped run has measured"
    )
    command.set_defaults(run=_validate)
    return parser


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", required=True, help="a model's name, with a tag or without, hf-hub:ORG/NAME[@REVISION], or a folder"
    )
    command.add_argument("--checkpoint", type=Path, help="safetensors file to load instead of the published weights")
    command.add_argument("--views", type=_views, default=(1, 1), metavar="TxS", help="clips x crops, such as 4x3")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _schedule(text: str) -> tuple[int, ...]:
    places = [place.strip() for place in text.split(",") if place.strip()]
    if not all(place.isdecimal() for place in places):
        raise argparse.ArgumentTypeError(f"{text!r} is not a schedule, such as 4,10")
    return tuple(int(place) for place in places)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return share


def _views(text: str) -> tuple[int, int]:
    clips, _, crops = text.partition("x")
    if not clips.isdecimal() or int(clips) < 1 or crops not in ("1", "3"):
        raise argparse.ArgumentTypeError(f"{text!r} is not CLIPSxCROPS with 1 or 3 crops, such as 4x3")
    return int(clips), int(crops)


def _classes(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _list(args: argparse.Namespace) -> int:
    if args.pretrained:
        return _list_pretrained(args.filter)
    names = [n for n in timm.list_models(args.filter, include_tags=args.tags) if n.startswith("inti")]
    if not names:
        raise ValueError(f"No model's name matches {args.filter!r}; 'inti-models list' shows all.")
    print("\n".join(names))
    return 0


def _list_pretrained(pattern: str) -> int:
    rows = [("weights", "source", "licence", "size", "accuracy")] + [
        (w.name, w.source, w.license, "not downloaded" if w.size is None else f"{w.size / 1e6:.1f} MB", w.accuracy)
        for w in published(pattern)
    ]
    if len(rows) == 1:
        raise ValueError(f"No weights' name matches {pattern!r}; 'inti-models list --pretrained' shows all.")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _info(args: argparse.Namespace) -> int:
    from .flops import zoo_cost  # fvcore is slow to import and only needed here

    model = create_model(args.name, device="meta")
    frames = args.frames or model.num_frames
    cost, naive = zoo_cost(args.name, frames), zoo_cost(args.name, frames, compress_at=())
    channels, height, width = model.pretrained_cfg["input_size"]
    remaining = -(-model.embedded_frames(frames) // 2 ** len(model.compress_at))
    print(f"model       {args.name}")
    print(f"parameters  {cost.parameters / 1e6:.2f} M")
    print(f"input       {frames} frames of {channels}x{height}x{width}, {model.sampling} sampling")
    print(f"classes     {model.num_classes}")
    print(f"blocks      {len(model.blocks)} of width {model.embed_dim}")
    print(f"schedule    compress_at={model.compress_at}: {frames} frames become {remaining}")
    if model.temporal is not None:
        print(f"temporal    {type(model.temporal).__name__}: frames see each other in the blocks")
    print(f"GFLOPs      {cost.gflops:.4g} (multiply-adds of matrix products and convolutions)")
    print(
        f"naive       {naive.gflops:.4g} (every frame through every block); {1 - cost.gflops / naive.gflops:.1%} less"
    )
    return 0


def _benchmark(args: argparse.Namespace) -> int:
    names = [n for n in timm.list_models(args.pattern) if n.startswith("inti_")]
    if not names:
        raise ValueError(f"No model's name matches {args.pattern!r}; 'inti-models list' shows all.")
    settings = benchmark.settings_of(args)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model_args = {} if args.compress_at is None else {"compress_at": args.compress_at}
    pairs = [
        (benchmark.zoo_subject(n, args.frames, **model_args), benchmark.zoo_subject(n, args.frames, compress_at=()))
        for n in names
    ]
    peak = benchmark.matmul_tflops(settings.device, settings.amp)
    rows = [benchmark.measure(subject, naive, settings, peak) for subject, naive in tqdm(pairs, unit="model")]
    measured = benchmark.result(rows, settings, peak)
    if args.json:
        print(json.dumps(measured, indent=2))
    else:
        print(benchmark.describe(measured), benchmark.table(rows), sep="\n\n")
    return 0


def _load(
    name: str, checkpoint: Path | None, classes: Sequence[str] | None, **model_args: Any
) -> InTIVisionTransformer:
    """The model of a name with its weights or a checkpoint's, or with a zero-shot head for classes."""
    if classes:
        if checkpoint is not None:
            raise ValueError("A zero-shot head takes the text tower of the model's CLIP, so leave --checkpoint out.")
        model = load(name, num_classes=len(classes), **model_args)
        model.head = zero_shot_head(model, classes)
        model.pretrained_cfg = {**model.pretrained_cfg, "label_names": list(classes)}
        return model
    if checkpoint is None:
        return load(name, **model_args)
    model = create_model(name, **model_args)
    load_checkpoint(model, checkpoint)
    return model


def _visualize(args: argparse.Namespace) -> int:
    visualize.check_ending(args.output)
    model = _load(args.model, args.checkpoint, None).to(args.device)
    names = list(model.pretrained_cfg.get("label_names") or ())
    index = None
    if args.label is not None:
        if args.label not in names and not args.label.isdecimal():
            raise ValueError(f"{args.label!r} is no class of {args.model}; pass one of its names, or an index.")
        index = names.index(args.label) if args.label in names else int(args.label)
    explanation = visualize.explain_file(model, args.file, index)
    visualize.write(explanation, args.output)
    best = int(explanation.shares.argmax())
    print(
        f"{args.output}: {explanation.labels[0].name} {explanation.labels[0].probability:.1%}; the frame at "
        f"{explanation.times[best]:.2f} s counted most ({explanation.shares[best]:.0%})"
    )
    return 0


def _label(args: argparse.Namespace) -> int:
    summary = label_collection(
        read_paths(args.files),
        args.model,
        args.output,
        workers=args.workers,
        views=args.views,
        topk=args.topk,
        features=args.features,
        device=args.device,
        batch_size=args.batch_size,
    )
    print(
        f"{args.output}: {summary.labelled} labelled, {summary.failed} could not be read (column error), "
        f"{summary.skipped} done before"
    )
    return 1 if summary.failed else 0


def _export(args: argparse.Namespace) -> int:
    model = _load(args.model, args.checkpoint, None, **({} if args.frames is None else {"num_frames": args.frames}))
    difference = export(model, args.output, args.format)
    print(f"{args.output}: differs from the model by at most {difference:.1e} on random clips")
    return 0


def _predict_stream(model: InTIVisionTransformer, args: argparse.Namespace) -> int:
    if len(args.files) > 1 or args.views != (1, 1) or args.chunk is not None:
        raise ValueError("--stream takes one file, camera or pipe, and neither --views nor --chunk.")
    source = sys.stdin.buffer if args.files == ["-"] else args.files[0]
    every = model.frame_stride or 1 if args.fps is None else 1
    frames = iterate_frames(source, fps=args.fps, every=every, max_pixels=args.max_pixels)
    for window in classify_stream(model, frames, args.stride, args.topk, args.device):
        if args.json:
            print(json.dumps(dataclasses.asdict(window)), flush=True)
        else:
            names = ", ".join(f"{label.name} {label.probability:.1%}" for label in window.labels)
            print(f"{window.start:.2f}-{window.end:.2f} s  {names}", flush=True)
    return 0


def _predict(args: argparse.Namespace) -> int:
    model_args: dict[str, Any] = {} if args.frames is None else {"num_frames": args.frames}
    model = _load(args.model, args.checkpoint, args.classes, **model_args)
    if args.budget is not None:
        model_args["compress_at"] = schedule_for(len(model.blocks), model.num_frames, args.budget)
        model = _load(args.model, args.checkpoint, args.classes, **model_args)
    if args.int8:
        model = quantize_int8(model)
    if args.stream:
        return _predict_stream(model, args)
    limits = Limits(args.max_pixels, args.max_duration, args.timeout)
    classify = VideoClassifier(model, args.views, args.device, args.chunk, limits)
    failed = 0
    warnings.simplefilter("ignore")  # a damaged file is reported below, once
    labelled = classify.label_files(args.files, args.topk)
    for path, labels in tqdm(labelled, total=len(args.files), unit="file", disable=len(args.files) == 1):
        if isinstance(labels, Exception):
            failed += 1
            if args.json:
                tqdm.write(json.dumps({"file": path, "error": str(labels)}), file=sys.stdout)
            else:
                tqdm.write(f"inti-models: {labels}", file=sys.stderr)
            continue
        if args.json:
            result = {"file": path, "labels": [dataclasses.asdict(label) for label in labels]}
            tqdm.write(json.dumps(result), file=sys.stdout)
        else:
            tqdm.write(path, file=sys.stdout)
            for label in labels:
                tqdm.write(f"  {label.probability:6.1%}  {label.name}", file=sys.stdout)
    if failed:
        print(f"inti-models: {failed} of {len(args.files)} files could not be read.", file=sys.stderr)
    return 1 if failed else 0


def _train(args: argparse.Namespace) -> int:
    from .recipe import load_recipe
    from .training import train  # imports accelerate and TensorBoard

    evaluation = train(load_recipe(args.recipe, args.overrides), args.output)
    if _is_main_process():
        if evaluation is not None:
            _print_accuracy(evaluation)
        print(f"model       {args.output / 'last'}; of the best epoch: {args.output / 'best'}")
    return 0


def _validate(args: argparse.Namespace) -> int:
    from accelerate import PartialState  # slow to import

    processes = PartialState(cpu=args.device == "cpu")
    videos = None if args.data == MOTIONDIGITS else _videos(args)
    names = CLASS_NAMES if videos is None else videos.class_names
    if args.zero_shot and videos is not None and not videos.has_names:
        raise ValueError(f"{args.data} has numbers for classes, of which no head can be made; pass --class-names.")
    model = _load(args.model, args.checkpoint, names if args.zero_shot else None)
    evaluation = evaluate(
        model,
        _views_of(videos, model, args),
        batch_size=args.batch_size,
        num_workers=args.workers,
        device=processes.device if processes.num_processes > 1 else args.device,
        precision=args.precision,
        work_dir=args.output,
        max_broken=args.max_broken,
    )
    if processes.is_main_process:
        if args.output is not None:
            write_report(evaluation, args.output)
        _print_accuracy(evaluation)
        print(f"mean class  {evaluation.mean_class:.2f}%")
        print(f"videos      {len(evaluation.labels)} measured, {len(evaluation.unreadable)} unreadable")
        print("worst classes")
        rows = [(row.accuracy, row) for row in evaluation.per_class() if row.accuracy is not None]
        for accuracy, row in sorted(rows)[:5]:
            print(f"  {accuracy:5.1f}%  {row.name} ({row.videos} video{'s' if row.videos > 1 else ''})")
        if args.output is not None:
            print(f"report      {args.output}")
    processes.destroy_process_group()
    return 0


def _videos(args: argparse.Namespace) -> VideoList:
    names = None if args.class_names is None else read_class_names(args.class_names)
    return find_videos(args.data, args.root, names)


def _views_of(
    videos: VideoList | None, model: InTIVisionTransformer, args: argparse.Namespace
) -> VideoDataset | MotionDigitsClips:
    """Videos, or the clips of MotionDigits if None, as a data set for the model."""
    if model.num_classes < 1:
        raise ValueError("The model has no classifier (num_classes=0); name one that has, or pass --zero-shot.")
    config = resolve_clip_config(model)
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
    return VideoDataset(videos, transform, model.num_frames, model.sampling, model.frame_stride, num_clips=num_clips)


def _print_accuracy(evaluation: Evaluation) -> None:
    print(f"top-1       {evaluation.top1:.2f}%")
    if evaluation.top5 is not None:
        print(f"top-5       {evaluation.top5:.2f}%")


if __name__ == "__main__":
    sys.exit(main())
