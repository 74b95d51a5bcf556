"""``inti-models train``"""

import argparse
import os
from pathlib import Path

from .validate import print_accuracy


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "train",
        help="train a model; the same command again resumes where it stopped",
        epilog="example: inti-models train motiondigits data.train_args.length=2400 --output runs/first",
    )
    command.add_argument("recipe", metavar="RECIPE", help="YAML file, or a name from 'inti-models recipes'")
    command.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="such as optimization.lr=1e-4; see 'recipes --keys'"
    )
    command.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for all output")
    command.add_argument(
        "--extend",
        action="store_true",
        help="resume a run with more epochs than it had: repeat its command, with optimization.epochs=N, the new total",
    )
    command.set_defaults(run=run, stopped="stopped; the same command resumes from the last saved state.")


def run(args: argparse.Namespace) -> int:
    from ..training.recipe import load_recipe
    from ..training.run import train

    evaluation = train(load_recipe(args.recipe, args.overrides), args.output, args.extend)
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes, the first
        if evaluation is not None:
            print_accuracy(evaluation)
        print(f"model       {args.output / 'last'}; of the best epoch: {args.output / 'best'}")
    return 0
