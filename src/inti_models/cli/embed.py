"""``inti-models embed``"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from ..text import printable
from .options import (
    add_batches,
    add_device,
    add_limits,
    add_model,
    add_precision,
    add_views,
    add_windows,
    device_of,
    limits_of,
    load_model,
    windows_of,
)


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "embed",
        help="embed videos, or their windows, as vectors",
        epilog="example: inti-models embed clip.mp4 --model inti_vit_t8_32_motiondigits -o clip.parquet",
    )
    command.add_argument(
        "files", nargs="+", metavar="FILE", help="videos, folders of them, or lists (.txt, .csv, .parquet)"
    )
    add_model(command)
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="ends in .parquet or .npy (only the vectors)"
    )
    command.add_argument("--windows", action="store_true", help="embed each window, not each file")
    add_windows(command)
    add_views(command)
    command.add_argument("--normalize", action="store_true", help="scale each vector to unit length")
    command.add_argument(
        "--dtype", choices=("float16", "float32"), default="float32", help="type of the vectors (default: %(default)s)"
    )
    add_batches(command)
    add_device(command)
    add_precision(command)
    add_limits(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..data.folders import expand_folders
    from ..files import check_output
    from ..inference.collection import read_paths
    from ..inference.embedding import ENDINGS, check_name, collect, embed_files

    check_output(args.output, ENDINGS)
    files, windows = expand_folders(read_paths(args.files)), windows_of(args)
    if args.output.suffix == ".parquet":
        import pyarrow  # noqa: F401  # before any work

        for file in files:
            check_name(file)
    if windows is not None and not args.windows:
        raise ValueError("--fps, --scales and --stride are for windows; add --windows.")
    if args.windows and (args.views is not None or args.batch_size is not None or args.compile):
        raise ValueError("--views, --batch-size and --compile are for whole files; leave them out with --windows.")
    model = load_model(args.model, args.checkpoint)
    encoder_args = {"precision": args.precision, "limits": limits_of(args)}
    if not args.windows:
        encoder_args |= {"views": args.views, "batch_size": args.batch_size, "compile": args.compile}
    found = embed_files(model, files, windows or args.windows, device_of(args), **encoder_args)
    read, failed = [], 0
    for path, one in tqdm(found, total=len(files), unit="file", disable=len(files) == 1):
        if isinstance(one, Exception):
            failed += 1
            tqdm.write(f"inti-models: {printable(str(one))}", file=sys.stderr)
        else:
            read.append((path, one))
    if failed and args.output.suffix == ".npy":
        raise ValueError(
            f"{failed} of {len(files)} files could not be read, but a .npy file has a row for each file of the command "
            "line; leave them out, or write .parquet, which names the file of each row."
        )
    embeddings = collect(read, args.normalize, args.dtype)
    embeddings.save(args.output)
    rows, width = embeddings.vectors.shape
    print(f"{args.output}: {rows} vectors of {width} values, from {len(read)} files ({failed} could not be read)")
    return 1 if failed else 0
