"""``inti-models visualize``"""

import argparse
from pathlib import Path

from ..text import printable
from .options import add_device, add_model, device_of, load_model


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "visualize",
        help="show what a model kept of a video, and what its label is based on",
        epilog="example: inti-models visualize clip.mp4 --model inti_vit_t8_32_motiondigits -o clip.html",
    )
    command.add_argument("file", metavar="VIDEO", help="a video, an image or a folder of frames")
    add_model(command)
    command.add_argument(
        "--class",
        dest="label",
        metavar="NAME|INDEX",
        help="class whose relevance a page shows (default: the first label)",
    )
    add_device(command)
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="ends in .png, .gif, .mp4 or .html"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..files import check_input
    from ..visualize import figures as visualize

    visualize.check_ending(args.output)
    device = device_of(args)
    check_input(args.file)
    model = load_model(args.model, args.checkpoint).to(device)
    names = [*(model.pretrained_cfg.get("label_names") or ())]
    index = None
    if args.label is not None:
        if args.label not in names and not args.label.isdecimal():
            raise ValueError(f"{args.label!r} is not a class of {args.model}; pass one of its names, or an index.")
        index = names.index(args.label) if args.label in names else int(args.label)
    explanation = visualize.explain_file(model, args.file, index)
    visualize.write(explanation, args.output)
    best = int(explanation.fractions.argmax())
    print(
        f"{args.output}: {printable(explanation.labels[0].name)} {explanation.labels[0].probability:.1%}; the frame at "
        f"{explanation.moments[best]} counted most ({explanation.fractions[best]:.0%})"
    )
    return 0
