"""``inti-models distill``"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from .options import add_classes, whole_numbers


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "distill",
        help="train the compression of a model on videos without labels; the same command again resumes",
        epilog="example: inti-models distill videos --model inti_vit_b16_k400 --output runs/cheap",
    )
    command.add_argument("videos", metavar="VIDEOS", help="a folder of videos, a list file, or motiondigits")
    command.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="keys of the recipe, such as distill.targets=both"
    )
    command.add_argument("--model", required=True, help="model that learns to compress: a name, hf-hub:... or a folder")
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--compress-at", type=whole_numbers, metavar="I,J", help="blocks after which to compress (default: the model's)"
    )
    where.add_argument("--budget", type=float, help="frames that a block sees on average; chooses where to compress")
    add_classes(command)
    command.add_argument(
        "--train", choices=("interpolation", "all"), help="what to train (default: interpolation); the head stays"
    )
    command.add_argument("--recipe", default="distill", help="YAML file, or a recipe's name (default: %(default)s)")
    command.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for all output")
    command.add_argument("--extend", action="store_true", help="resume a run with more epochs than it had")
    command.set_defaults(run=run, stopped="stopped; the same command resumes from the last saved state.")


def run(args: argparse.Namespace) -> int:
    from ..models.schedules import schedule_for_budget
    from ..training.distill import FIDELITY, distill
    from ..training.recipe import load_recipe
    from ..weights.hub import create

    values: dict[str, Any] = {"model": args.model, "data.train": args.videos}
    if args.train is not None:
        values["trainable"] = args.train
    if args.classes is not None:
        values["distill.classes"] = args.classes
    given = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    recipe = load_recipe(args.recipe, [*given, *args.overrides])
    if args.budget is not None:
        shape = create(recipe.model, device="meta", **recipe.model_args)
        args.compress_at = schedule_for_budget(len(shape.blocks), shape.num_frames, args.budget)
    if args.compress_at is not None:
        recipe.model_args["compress_at"] = list(args.compress_at)
    report = distill(recipe, args.output, args.extend)
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes, the first
        print(report.to_markdown(), end="")
        print(f"model       {args.output / 'last'}")
        print(f"fidelity    {args.output / FIDELITY}")
    return 0
