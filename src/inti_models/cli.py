"""The command ``inti-models``: a thin layer over the package."""

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from tqdm import tqdm

from .checkpoints import load_checkpoint
from .hub import load, published
from .predict import VideoClassifier
from .vision_transformer import InTIVisionTransformer
from .zero_shot import zero_shot_head
from .zoo import create_model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, 1 for failed work, 2 for wrong usage."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except (OSError, ValueError, RuntimeError, TypeError, ImportError) as error:
        print(f"inti-models: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("inti-models: stopped.", file=sys.stderr)
        return 130


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

    command = commands.add_parser("predict", help="label video files, images or folders of frames")
    command.add_argument("files", nargs="+", metavar="FILE")
    command.add_argument(
        "--model", required=True, help="a model's name, with a tag or without, hf-hub:ORG/NAME[@REVISION], or a folder"
    )
    command.add_argument("--checkpoint", type=Path, help="safetensors file to load instead of the published weights")
    command.add_argument("--classes", type=_classes, help="your own words, such as 'riding a bike,feeding goats'")
    command.add_argument("--topk", type=_positive, default=5, help="labels for each file")
    command.add_argument("--views", type=_views, default=(1, 1), metavar="TxS", help="clips x crops, such as 4x3")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--json", action="store_true", help="print one JSON object a line")
    command.set_defaults(run=_predict)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


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
    remaining = -(-frames // 2 ** len(model.compress_at))
    print(f"model       {args.name}")
    print(f"parameters  {cost.parameters / 1e6:.2f} M")
    print(f"input       {frames} frames of {channels}x{height}x{width}, {model.sampling} sampling")
    print(f"classes     {model.num_classes}")
    print(f"blocks      {len(model.blocks)} of width {model.embed_dim}")
    print(f"schedule    compress_at={model.compress_at}: {frames} frames become {remaining}")
    print(f"GFLOPs      {cost.gflops:.4g} (multiply-adds of matrix products and convolutions)")
    print(
        f"naive       {naive.gflops:.4g} (every frame through every block); {1 - cost.gflops / naive.gflops:.1%} less"
    )
    return 0


def _load(args: argparse.Namespace) -> InTIVisionTransformer:
    """The model that the options name, with its weights."""
    if args.classes:
        if args.checkpoint is not None:
            raise ValueError("--classes takes the text tower of the model's CLIP, so leave --checkpoint out.")
        model = load(args.model, num_classes=len(args.classes))
        model.head = zero_shot_head(model, args.classes)
        model.pretrained_cfg = {**model.pretrained_cfg, "label_names": args.classes}
        return model
    if args.checkpoint is None:
        return load(args.model)
    model = create_model(args.model)
    load_checkpoint(model, args.checkpoint)
    return model


def _predict(args: argparse.Namespace) -> int:
    classify = VideoClassifier(_load(args), args.views, args.device)
    failed = 0
    for path in tqdm(args.files, unit="file", disable=len(args.files) == 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a damaged file is reported below, once
                labels = classify(path, args.topk)
        except (OSError, ValueError) as error:
            failed += 1
            if args.json:
                tqdm.write(json.dumps({"file": path, "error": str(error)}), file=sys.stdout)
            else:
                tqdm.write(f"inti-models: {error}", file=sys.stderr)
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


if __name__ == "__main__":
    sys.exit(main())
