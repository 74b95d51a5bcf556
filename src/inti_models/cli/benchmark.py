"""``inti-models benchmark``"""

import argparse
import json
from typing import TYPE_CHECKING

from tqdm import tqdm

from .options import AUTOCASTS, add_device, add_frames, device_of, whole_numbers

if TYPE_CHECKING:
    from ..evaluation.benchmark import Settings


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "benchmark",
        help="time models beside their naive twins",
        epilog="example: inti-models benchmark inti_vit_t8_32_motiondigits --seconds 2",
    )
    command.add_argument("pattern", help="a model's name, or a pattern of names such as 'inti_vit_*_k400'")
    add_frames(command)
    command.add_argument(
        "--compress-at",
        type=whole_numbers,
        metavar="I,J",
        help="another schedule, such as 4,10 (default: the model's own)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_settings(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import timm
    import torch

    from ..evaluation import benchmark

    names = [n for n in timm.list_models(args.pattern) if n.startswith("inti_")]
    if not names:
        raise ValueError(f"No model matches {args.pattern!r}; 'inti-models list' shows all.")
    settings = settings_of(args)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model_args = {} if args.compress_at is None else {"compress_at": args.compress_at}
    pairs = [
        (benchmark.zoo_subject(n, args.frames, **model_args), benchmark.zoo_subject(n, args.frames, compress_at=()))
        for n in names
    ]
    peak = benchmark.matmul_tflops(settings.device, settings.amp)
    rows = [benchmark.measure(subject, naive, settings, peak) for subject, naive in tqdm(pairs, unit="model")]
    measured = benchmark.result(rows, settings, peak)
    if args.json:
        print(json.dumps(measured, indent=2))
    else:
        print(benchmark.describe(measured), benchmark.table(rows), sep="\n\n")
    return 0


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options of `inti_models.evaluation.benchmark.Settings`."""
    add_device(parser)
    parser.add_argument("--train", action="store_true", help="measure training steps instead of inference")
    parser.add_argument("--batch-size", metavar="N|best", help="default: best on a GPU, 1 on a CPU")
    parser.add_argument("--amp", choices=AUTOCASTS, default="no", help="autocast (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--cuda-graphs", action="store_true", help="compile with CUDA graphs")
    parser.add_argument("--channels-last", action="store_true", help="keep frames and kernels in channels-last order")
    parser.add_argument(
        "--checkpoint-stages",
        type=whole_numbers,
        default=(),
        metavar="K,L",
        help="recompute blocks of these stages (default: none)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each row (default: %(default)s)")


def settings_of(args: argparse.Namespace) -> "Settings":
    """Return the settings of the options of `add_settings`."""
    from ..evaluation.benchmark import Settings

    device = device_of(args)
    size = args.batch_size or ("1" if device == "cpu" else "best")
    if size != "best" and not size.isdecimal():
        raise ValueError(f"--batch-size {size} is neither a number of clips nor 'best'; pass one of them.")
    return Settings(
        device=device,
        train=args.train,
        batch_size=None if size == "best" else int(size),
        amp=args.amp,
        compile=args.compile,
        cuda_graphs=args.cuda_graphs,
        channels_last=args.channels_last,
        checkpoint_stages=args.checkpoint_stages,
        threads=args.threads,
        seconds=args.seconds,
    )


def options_of(settings: "Settings") -> str:
    """Return the options for these settings, as text for a command line."""
    words = [f"--device {settings.device}", f"--batch-size {settings.batch_size or 'best'}"]
    for name in ("train", "compile", "cuda_graphs", "channels_last"):
        words += [f"--{name.replace('_', '-')}"] if getattr(settings, name) else []
    words += [f"--amp {settings.amp}"] if settings.amp != "no" else []
    words += [f"--checkpoint-stages {','.join(map(str, settings.checkpoint_stages))}"] * bool(
        settings.checkpoint_stages
    )
    words += [f"--threads {settings.threads}"] if settings.threads is not None else []
    return " ".join([*words, f"--seconds {settings.seconds:g}"])
