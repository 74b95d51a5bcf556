"""Several labels per video, as lists write them: split, and gathered."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .list_files import ANY_NUMBER, Row, say

SEPARATORS = ",;|"  # of the labels of one video
_IN_BRACKETS = re.compile(r"\s*(\[.*\]|\(.*\)|\{.*\}|\".*\")\s*")  # as a program prints a list of its own


def one_label_a_row(source: Path, rows: Sequence[Row], classes: Mapping[int, str] | None) -> list[Row]:
    """Return a row for each label of each video; none for videos without a label.

    Args:
        source: the list, for messages.
        rows: as they are written.
        classes: number in lists -> name, where the names are known.

    Raises:
        ValueError: if there are no labels, or it is unclear what separates them (see `find_videos`).
    """
    known = {*(classes or {}).values()}
    printed = next((row for row in rows if row.label not in known and _IN_BRACKETS.fullmatch(row.label or "")), None)
    if printed is not None:
        raise ValueError(
            f"{source}, {printed.place}, has the label {printed.label!r}, which looks like a list that a program "
            "printed; write labels with one separator between them and nothing around them, such as run;walk."
        )
    separator = _separator(source, rows, classes)

    def labels_of(row: Row) -> Sequence[str]:
        if row.labels is not None:
            return row.labels
        return [label.strip() for label in row.label.split(separator)] if row.label else []

    apart = []
    for row in rows:
        labels = labels_of(row)
        twice = next((label for i, label in enumerate(labels) if label and label in labels[:i]), None)
        if twice is not None:
            raise ValueError(
                f"{source}, {row.place}, has the label {twice!r} twice; name each class of the video once. (A "
                "row of 0 and 1 for all classes is not a list of labels.)"
            )
        apart += [row._replace(label=label, labels=None) for label in labels]
    if not apart:
        raise ValueError(f"{source} has no label at all; expected some videos with labels.")
    empty = next((row for row in apart if not row.label), None)
    if empty is not None:
        raise ValueError(f"{source}, {empty.place}, has an empty label among others; write one between two separators.")
    return apart


def _separator(source: Path, rows: Sequence[Row], classes: Mapping[int, str] | None) -> str:
    """Return what separates the labels of a list; a line break, which no label has, where each video has one."""
    written = [row.label for row in rows if row.label and row.labels is None]
    found = [sign for sign in SEPARATORS if any(sign in label for label in written)]
    if not found:
        return "\n"
    if classes is not None:
        known = {*classes.values()}
        fitting = [sign for sign in found if all({*map(str.strip, t.split(sign))} <= known for t in written)]
        if {*written} <= known:
            if fitting:
                label = next(label for label in written if fitting[0] in label)
                raise ValueError(
                    f"{source} has {label!r}, which is a class itself and several classes with {fitting[0]!r} between "
                    "them; use another separator, or write each label in a separate row."
                )
            return "\n"
        found = fitting or found
    if len(found) > 1:
        raise ValueError(
            f"{source} has labels with {' and with '.join(map(repr, found))} in them, such as "
            f"{next(label for label in written if found[1] in label)!r}; separate labels by only one of these, or "
            "pass the names of the classes."
        )
    if classes is None and not all(ANY_NUMBER.fullmatch(label) for label in written):
        say(f"{source}: labels are split at {found[0]!r}.")
    return found[0]


def gather(
    source: Path, videos: Sequence[Row], rows: Sequence[Row], labels: Sequence[int]
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Return each video once, and the labels of all its rows in the order of the classes.

    Args:
        source: the list, for messages.
        videos: all rows of the list.
        rows: a row for each label (`one_label_a_row`).
        labels: the class index of each of these.
    """
    paths: dict[str, str] = {}  # normalised -> as it was first written
    for row in videos:
        paths.setdefault(os.path.normpath(row.path), row.path)
    of_video: dict[str, set[int]] = {path: set() for path in paths}
    for row, label in zip(rows, labels, strict=True):
        of_video[os.path.normpath(row.path)].add(label)
    if without := sum(not have for have in of_video.values()):
        say(f"{source}: {without} of {len(paths)} videos have no label, which is read as none of the classes.")
    return tuple(paths.values()), tuple(tuple(sorted(have)) for have in of_video.values())
