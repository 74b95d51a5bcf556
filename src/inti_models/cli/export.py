"""``inti-models export``"""

import argparse
from pathlib import Path

from .options import add_frames, add_model, load_model

FORMATS = ("torch-export", "onnx", "aoti")


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "export",
        help="write a model for other runtimes",
        epilog="example: inti-models export --model inti_vit_t8_32_motiondigits --format onnx -o model.onnx",
    )
    add_model(command)
    command.add_argument("--format", choices=FORMATS, required=True, help="aoti is compiled for this machine")
    add_frames(command)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="ends in .onnx or .pt2")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..inference.export import export_model

    model_args = {} if args.frames is None else {"num_frames": args.frames}
    model = load_model(args.model, args.checkpoint, **model_args)
    difference = export_model(model, args.output, args.format)
    print(f"{args.output}: differs from the model by at most {difference:.1e} on random clips")
    return 0
