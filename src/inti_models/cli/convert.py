"""``inti-models convert``"""

import argparse
import json
from pathlib import Path
from typing import Any


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "convert",
        help="turn another library's CLIP, an official video model, or a .pth of our own, into a model of this zoo",
        description="Every tensor of the file is used, or dropped for a reason that is printed. Activation and number\n"
        "of heads come from --set, or the configuration beside the file, or --model, in this order.",
        epilog="example: inti-models convert vit_b16.pyth --model inti_vit_b16_k400 --output models/mine",
    )
    command.add_argument("source", type=Path, metavar="FILE", help=".safetensors, .pt, .pth, .pyth or .bin")
    command.add_argument("--model", required=True, help="name of a model of the zoo, with a tag or without")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    command.add_argument(
        "--set",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="options",
        help="argument of the model, such as compress_at=[4,10]; may be repeated",
    )
    command.add_argument(
        "--trunk", type=Path, metavar="FILE", help="the CLIP that a video model without frozen weights was trained on"
    )
    command.add_argument(
        "--labels", type=Path, metavar="FILE", help="names of the classes, one per line, in the checkpoint's order"
    )
    command.add_argument("--license", help="the source's license, by its identifier on the Hub")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import torch

    from ..weights.convert import convert_checkpoint
    from ..weights.hub import save_pretrained
    from ..weights.layouts import OURS

    if args.output.exists():
        raise FileExistsError(f"{args.output} exists; choose another folder, or remove it first.")
    labels = args.labels and args.labels.read_text(encoding="utf-8").splitlines()
    torch.manual_seed(0)  # of the head
    model, source, dropped = convert_checkpoint(args.source, args.model, dict(args.options), args.license, args.trunk)
    description = model.pretrained_cfg["description"]
    save_pretrained(model, args.output, label_names=labels, description=description)
    for why in dict.fromkeys(dropped.values()):
        names = [name for name in dropped if dropped[name] == why]
        print(f"dropped  {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {why}")
    block: Any = model.blocks[0]
    print(f"layout   {source.layout.title}; {type(block.mlp.act).__name__}, {block.attn.num_heads} heads")
    ours = source.layout is OURS
    print(f"{'kept' if ours or source.layout.method else 'new '}     {model.num_classes} classes")
    print(f"{'kept' if ours else 'new '}     compress_at={model.compress_at}")
    if not model.antialias:
        how = f"{model.sampling}, {model.pretrained_cfg['interpolation']} without antialiasing"
        print(f"clips    {how}, {model.views[0]}x{model.views[1]} views, as its official code does")
    print(f"wrote    {args.output}")
    return 0


def _option(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE, the value as JSON if it is JSON, otherwise as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as embed_dim=64 or compress_at=[4,10]")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
