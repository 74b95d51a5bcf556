"""``inti-models list``"""

import argparse


def add_to(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "list", help="list the models", epilog="example: inti-models list --pretrained '*b16*'"
    )
    command.add_argument(
        "filter", nargs="?", default="inti*", help="pattern of names, such as '*l14*' (default: %(default)s)"
    )
    command.add_argument("--tags", action="store_true", help="list every set of weights")
    command.add_argument(
        "--pretrained", action="store_true", help="list every set of weights with source, licence, size and accuracy"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import timm

    from .. import zoo  # noqa: F401  # which registers the models

    if args.pretrained:
        return _list_pretrained(args.filter)
    names = [n for n in timm.list_models(args.filter, include_tags=args.tags) if n.startswith("inti")]
    if not names:
        raise ValueError(f"No model matches {args.filter!r}; 'inti-models list' shows all.")
    print("\n".join(names))
    return 0


def _list_pretrained(pattern: str) -> int:
    from ..weights.hub import published

    rows = [("weights", "source", "licence", "size", "accuracy")] + [
        (w.name, w.source, w.license, "not downloaded" if w.size is None else f"{w.size / 1e6:.1f} MB", w.accuracy)
        for w in published(pattern)
    ]
    if len(rows) == 1:
        raise ValueError(f"No weights match {pattern!r}; 'inti-models list --pretrained' shows all.")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
