"""``inti-models search``"""

import argparse
import dataclasses
import json
from pathlib import Path

from ..text import printable
from .options import add_device, add_limits, device_of, limits_of, positive


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "search",
        help="find moments in an index, by words, a class or an example clip",
        epilog="example: inti-models search index 'a dog jumps' --top 3 --preview found.html",
    )
    command.add_argument("index", type=Path, metavar="INDEX", help="folder that inti-models index made")
    query = command.add_mutually_exclusive_group(required=True)
    query.add_argument("words", nargs="?", metavar="WORDS", help="what to look for, or a class of the model")
    query.add_argument("--clip", metavar="FILE", help="a video; find moments like it")
    command.add_argument(
        "--model", help="the model that made the index, if it has moved (default: the one named in the index)"
    )
    command.add_argument("--top", type=positive, default=10, metavar="N", help="moments to list (default: %(default)s)")
    command.add_argument("--json", action="store_true", help="print one JSON object per line")
    command.add_argument("--preview", type=Path, metavar="OUT", help="also draw them; ends in .html or .gif")
    add_device(command)
    add_limits(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..files import check_input, check_output
    from ..inference.index import Index, check_model
    from ..inference.search import by_clip, by_words, search
    from ..visualize import moments as pictures
    from ..weights.hub import load

    if args.preview is not None:
        check_output(args.preview, pictures.WRITERS)
    if args.clip is not None:
        check_input(args.clip)
    device = device_of(args)
    index = Index.open(args.index)
    if not len(index):
        raise ValueError(f"{args.index} has no windows; add videos to it with inti-models index.")
    model = load(args.model or index.model).eval()
    check_model(index, model)
    score = by_words(model, args.words) if args.clip is None else by_clip(model, args.clip, device, limits_of(args))
    moments = search(index, score, args.top)
    for moment in moments:
        if args.json:
            times = {"start": round(moment.start, 3), "end": round(moment.end, 3)}
            print(json.dumps({**dataclasses.asdict(moment), **times}))
        else:
            print(f"{moment.score:7.3f}  {moment.start:.2f}-{moment.end:.2f} s  {printable(moment.file)}")
    if args.preview is not None:
        pictures.write(moments, args.words or args.clip, args.preview, limits_of(args))
    return 0
