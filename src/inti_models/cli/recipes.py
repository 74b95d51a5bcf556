"""``inti-models recipes``"""

import argparse


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "recipes",
        help="list the training recipes, print one, or explain their keys",
        epilog="example: inti-models recipes ucf101_b16 > mine.yaml",
    )
    command.add_argument("name", nargs="?", metavar="NAME", help="recipe to print, with its comments")
    command.add_argument("--keys", action="store_true", help="explain every key, with its default")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..training.recipe import explain_keys, recipe_file, recipe_names

    if args.keys and args.name is not None:
        raise ValueError(f"--keys is the same for every recipe; leave {args.name} or --keys out.")
    if args.keys:
        for key, default, meaning in explain_keys():
            print(f"{key}={default}\n    {meaning}")
    elif args.name is not None:
        print(recipe_file(args.name).read_text(encoding="utf-8"), end="")
    else:
        for name in recipe_names():
            title = recipe_file(name).read_text(encoding="utf-8").partition("\n")[0]
            print(f"{name:22}{title.removeprefix('# ')}")
    return 0
