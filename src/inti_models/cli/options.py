"""Options that several commands have in common."""

import argparse
import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data import Limits
    from ..inference.embedding import Windows
    from ..models.stages import InTIModel

PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
AUTOCASTS = ("no", "bf16", "fp16")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def fraction(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction from 0 to 1")
    return number


def rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of frames per second above 0 and up to 1000")
    return number


def whole_numbers(text: str) -> tuple[int, ...]:
    numbers = [number.strip() for number in text.split(",") if number.strip()]
    if not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 4,10")
    return tuple(int(number) for number in numbers)


def class_list(text: str) -> list[str]:
    try:
        names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True, strict=True), [])]
    except csv.Error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of names; write them on one line, separated by commas, and close quotation marks"
        ) from None
    if not names:
        raise argparse.ArgumentTypeError("there are no names; write some, such as 'riding a bike,feeding goats'")
    return names


def views(text: str) -> tuple[int, int]:
    clips, _, crops = text.partition("x")
    if not clips.isdecimal() or int(clips) < 1 or crops not in ("1", "3"):
        raise argparse.ArgumentTypeError(f"{text!r} is not CLIPSxCROPS with 1 or 3 crops, such as 4x3")
    return int(clips), int(crops)


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the options for the model and its weights."""
    command.add_argument(
        "--model", required=True, help="a model's name, with a tag or without, hf-hub:ORG/NAME[@REVISION], or a folder"
    )
    command.add_argument("--checkpoint", type=Path, help="safetensors file to load instead of the published weights")


def add_classes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--classes", type=class_list, metavar="WORDS", help="your own words, such as 'riding a bike,feeding goats'"
    )


def add_templates(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--templates", type=Path, metavar="FILE", help="prompts for --classes, one per line, with {} for the class"
    )


def add_frames(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--frames", type=positive, metavar="N", help="frames of a clip (default: the model's own number)"
    )


def add_views(command: argparse.ArgumentParser, default: tuple[int, int] | None = None) -> None:
    command.add_argument(
        "--views",
        type=views,
        default=default,
        metavar="TxS",
        help="clips x crops, such as 4x3 (default: 1x1" + (")" if default else ", or those of a converted model)"),
    )


def add_labels(command: argparse.ArgumentParser) -> None:
    """Add the options for which labels to give."""
    command.add_argument(
        "--topk",
        type=positive,
        help="maximum labels per file (default: 5; for a model with several labels per video, all that count)",
    )
    command.add_argument(
        "--threshold",
        type=fraction,
        metavar="P",
        help="lowest probability at which a class is a label (default: the model's own, which may be none)",
    )


def add_windows(command: argparse.ArgumentParser) -> None:
    """Add the options for windows of a video."""
    group = command.add_argument_group("windows", "how a video is cut into windows")
    group.add_argument("--fps", type=_rates, metavar="N[,N]", help="frames per second to sample (default: 4)")
    group.add_argument(
        "--scales", type=whole_numbers, metavar="N,N", help="frames of a window (default: 1, 2 and 4 times the model's)"
    )
    group.add_argument(
        "--stride", type=positive, metavar="N", help="frames from a window's start to the next one's (default: 4)"
    )


def windows_of(args: argparse.Namespace) -> "Windows | None":
    """Return the windows asked for; None if no option names them."""
    from ..inference.embedding import Windows

    given = {name: getattr(args, name) for name in ("fps", "scales", "stride") if getattr(args, name) is not None}
    return Windows(**given) if given else None


def _rates(text: str) -> tuple[float, ...]:
    return tuple(rate(number) for number in text.split(","))


def add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")


def device_of(args: argparse.Namespace) -> str:
    """Return the device asked for, or the GPU if there is one.

    Raises:
        ValueError: if this machine has no such device.
    """
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).cpu()  # not of "meta", which holds nothing
    except (RuntimeError, AssertionError, NotImplementedError):  # PyTorch without CUDA raises an AssertionError
        raise ValueError(f"--device {device} is not a device of this machine; choose cpu, or leave it out.") from None
    return device


def add_precision(command: argparse.ArgumentParser, default: str = "auto") -> None:
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=default,
        help="auto: bfloat16 if the device computes it natively, otherwise float32 (default: %(default)s)",
    )


def add_batches(command: argparse.ArgumentParser) -> None:
    """Add the options for how the model runs."""
    command.add_argument(
        "--batch-size",
        type=_batch_size,
        default="auto",
        metavar="auto|N",
        help="clips that go through the model together (default: auto, as many as fit a GPU, or keep a CPU busy)",
    )
    command.add_argument("--compile", action="store_true", help="use torch.compile; pays off for many files")


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else positive(text)


def add_limits(command: argparse.ArgumentParser) -> None:
    """Add the options for what a file may ask for."""
    group = command.add_argument_group("limits", "files that ask for more are refused")
    group.add_argument("--max-pixels", type=int, metavar="N", help="pixels of a frame (default: 33554432)")
    group.add_argument("--max-frames", type=int, metavar="N", help="frames of a file (default: 1048576)")
    group.add_argument("--max-duration", type=float, metavar="S", help="seconds of a file (default: any)")
    group.add_argument(
        "--max-pixels-per-byte", type=float, metavar="N", help="pixels to decode per byte of a file (default: 16384)"
    )
    group.add_argument(
        "--timeout", type=float, metavar="S", help="seconds after which to give up reading a file (default: never)"
    )


def limits_of(args: argparse.Namespace) -> "Limits":
    from ..data import Limits

    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Limits)}
    return Limits(**{name: value for name, value in given.items() if value is not None})


def load_model(
    name: str,
    checkpoint: Path | None = None,
    classes: Sequence[str] | None = None,
    templates: Path | None = None,
    background: Sequence[str] | None = None,
    **model_args: Any,
) -> "InTIModel":
    """Load a model by name, with its weights or a checkpoint's, or with a zero-shot head for classes and templates.

    A ``background`` of the one word "default" is `zero_shot.BACKGROUND`.
    """
    from ..weights.checkpoint_filter import load_checkpoint
    from ..weights.hub import create, load
    from ..weights.zero_shot import BACKGROUND, read_templates, set_zero_shot_head

    if background is not None and not classes:
        raise ValueError("--background is for a zero-shot head; name its classes with --classes.")
    if templates is not None and not classes:
        raise ValueError("--templates are for a zero-shot head; add --classes, or validate --zero-shot.")
    if classes:
        if checkpoint is not None:
            raise ValueError("A zero-shot head needs the text tower of the model's CLIP; leave --checkpoint out.")
        prompts = None if templates is None else read_templates(templates)
        model = load(name, num_classes=0, **model_args)
        background = BACKGROUND if background == ["default"] else background or ()
        set_zero_shot_head(model, classes, prompts, background)
        return model
    if checkpoint is None:
        return load(name, **model_args)
    model = create(name, **model_args)
    load_checkpoint(model, checkpoint)
    return model
