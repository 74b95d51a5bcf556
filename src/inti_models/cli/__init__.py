"""The command ``inti-models``: a thin layer over the package, one module per command.

Nothing here imports PyTorch or timm before a command runs, so that ``--help`` and usage errors are instant.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..extras import EXTRAS, missing
from ..text import printable
from . import (
    benchmark,
    completion,
    convert,
    distill,
    embed,
    export,
    index,
    info,
    label,
    list,
    predict,
    probe,
    recipes,
    search,
    train,
    validate,
    visualize,
)

COMMANDS = (
    list,
    info,
    benchmark,
    predict,
    embed,
    index,
    search,
    visualize,
    label,
    export,
    convert,
    recipes,
    train,
    distill,
    validate,
    probe,
    completion,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 for failed work, 2 for wrong usage, 130 for Ctrl-C, 141, silently, where the reader of the
        output has closed its pipe (as ``head`` does).
    """
    parser = create_parser()
    args, rest = parser.parse_known_args(argv)
    if "overrides" in args and not any(word.startswith("-") for word in rest):
        args.overrides += rest  # argparse takes no more of them after an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # Ctrl-C in the middle of a bar's write leaves tqdm's lock held; its monitor, a thread, would wait for it at exit.
    tqdm.monitor_interval = 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _shown_as_sentence(warnings.showwarning)
            status, sentence = args.run(args), ""
    except (OSError, ValueError, RuntimeError, TypeError, ImportError) as error:
        status, sentence = 1, _sentence(error)
    except KeyboardInterrupt:
        status, sentence = 130, getattr(args, "stopped", "stopped.") if os.environ.get("RANK", "0") == "0" else ""
    if lost := _lost_output():
        if isinstance(lost, BrokenPipeError):
            return 141
        status, sentence = 1, f"The output cannot be written ({lost.strerror}); write it elsewhere."
    if sentence:  # printed when the error is gone, and with it the progress bar that it left
        print("inti-models: " + "\n".join(map(printable, sentence.split("\n"))), file=sys.stderr)
    return status


def _shown_as_sentence(show: Any) -> Any:
    """Return a function that shows warnings of this package as a sentence, and others by ``show``."""

    def show_warning(message: Warning | str, category: Any, filename: str, *args: Any, **kwargs: Any) -> None:
        if Path(filename).is_relative_to(Path(__file__).parents[1]):
            tqdm.write(f"inti-models: {printable(str(message))}", file=sys.stderr)
        else:
            show(message, category, filename, *args, **kwargs)

    return show_warning


def create_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, with every command."""
    parser = argparse.ArgumentParser(
        prog="inti-models",
        description="InTI video transformers: image ViTs that halve the frames between their blocks.",
        epilog="Each command has its own help, with an example: inti-models predict --help",
    )
    package = sys.modules[__name__.partition(".")[0]]
    parser.add_argument("--version", action="version", version=f"%(prog)s {package.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    for subparser in commands.choices.values():  # whose examples are to be copied, and stay in one line
        subparser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _lost_output() -> OSError | None:
    """Return why the standard output cannot be written, if so. The rest of it is dropped, without Python's message."""
    try:
        if sys.stdout is not None:  # closed by the shell
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def _sentence(error: Exception) -> str:
    """Return an error's message, without the traceback that PyTorch adds to those of data loading processes."""
    text = str(error)
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module in EXTRAS:
            return missing(module)
    if text.startswith("DataLoader worker"):
        return (
            "A process that reads videos was killed, perhaps by the system when memory ran out; use fewer of them "
            "(data.num_workers, --workers), and run the same command again: it resumes from what was saved."
        )
    if "Original Traceback" in text:
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return text or type(error).__name__
