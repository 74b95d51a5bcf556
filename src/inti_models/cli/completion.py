"""``inti-models completion``"""

import argparse

SHELLS = ("bash", "zsh", "fish")


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "completion",
        help="print a script that lets a shell complete commands, options, models and recipes",
        epilog="example: inti-models completion bash > ~/.local/share/bash-completion/completions/inti-models",
    )
    command.add_argument("shell", choices=SHELLS, help="shell to print it for")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import shtab
    import timm

    from .. import zoo  # noqa: F401  # which registers the models
    from ..training.recipe import recipe_names
    from . import create_parser

    models = timm.list_models("inti_*")
    names = {"info": models, "benchmark": models, "recipes": recipe_names()}
    paths = {"FILE": shtab.FILE, "VIDEO": shtab.FILE, "DATA": shtab.FILE, "RECIPE": shtab.FILE, "DIR": shtab.DIRECTORY}
    parser = create_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        for action in command._actions:
            if action.metavar in paths:
                action.complete = paths[action.metavar]  # type: ignore[attr-defined]  # shtab's
            elif "--model" in action.option_strings:
                action.choices = models
            elif name in names and not action.option_strings:
                action.choices = names[name]
    print(shtab.complete(parser, args.shell))
    return 0
