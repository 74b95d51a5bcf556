"""Videos without labels: which there are, and which of them are held out."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .folders import videos_in, what_was_left_out
from .list_files import Disk, read_list, say
from .lists import VideoList, find_videos, of_split

__all__ = ["check_apart", "find_unlabelled", "hold_out"]


def find_unlabelled(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    split: str | None = None,
    class_names: Sequence[str] = (),
) -> VideoList:
    """Find videos in a folder, at any depth, or in a list file with labels or without.

    They have labels if each of them has a class, as in `find_videos`, and all of these are among
    ``class_names``; otherwise they have none: no class names, and zeros for labels.

    Args:
        source: folder or list file, of any form that `find_videos` reads.
        root: folder that the paths of a list are relative to; by default the list's own.
        split: the value of the list's column of splits, or the sub-folder.
        class_names: names of the labels that are of use, in order.

    Raises:
        FileNotFoundError: if there is no such source, or none of its videos exists.
        ValueError: if there are no videos, or the list cannot be understood.
    """
    path = Path(source)
    if path.is_dir():
        folder = path if split is None else path / split
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder} of the split {split!r}; check the split.")
        left_out: Counter[str] = Counter()
        paths = [str(video) for video in videos_in(folder, left_out, frozenset())]
        found = what_was_left_out(left_out)
        if not paths:
            raise ValueError(f"{folder} has no videos; expected some in it, or in folders in it.{found}")
        if found:
            say(f"{folder} has {len(paths)} videos.{found}")
    else:
        rows = of_split(path, read_list(path, root), split)
        disk = Disk()
        listed = list(dict.fromkeys(row.path for row in rows))
        paths = [video for video in listed if disk.kind(video) is not None]
        if not paths:
            raise FileNotFoundError(
                f"None of the {len(listed)} videos of {path} exists, such as {listed[0]}; pass the folder that its "
                "paths are relative to (data.root)."
            )
        if len(paths) < len(listed):
            say(f"{path}: {len(listed) - len(paths)} of {len(listed)} videos are missing.")
    if path.is_dir():  # a folder for each class, in which not all videos need be
        index = {name: i for i, name in enumerate(class_names)}
        parts = {video: Path(video).relative_to(folder).parts for video in paths}
        labels = {video: index[first] for video, (first, *rest) in parts.items() if rest and first in index}
    else:
        labels = _labels(path, root, split, class_names) if class_names else {}
    if labels.keys() >= set(paths):
        return VideoList(tuple(paths), tuple(labels[video] for video in paths), tuple(class_names))
    return VideoList(tuple(paths), (0,) * len(paths), ())


def _labels(
    file: Path,
    root: str | os.PathLike[str] | None,
    split: str | None,
    class_names: Sequence[str],
) -> dict[str, int]:
    """Return path -> index of its class, for a list; empty if not all videos have one of these classes."""
    try:
        labelled = find_videos(file, root, split=split).relabelled(class_names)
    except ValueError:
        return {}
    return dict(zip(labelled.paths, labelled.labels, strict=True))


def hold_out(videos: VideoList, fraction: float) -> tuple[VideoList, VideoList]:
    """Split videos by file: those that stay, and those held out.

    Those whose paths, from their common folder, have the smallest digests are held out: the same videos
    give the same parts wherever they are, and in whatever order. At least one is in each.

    Args:
        videos: no file twice.
        fraction: fraction held out.

    Raises:
        ValueError: if there is only one video.
    """
    if len(videos) < 2:
        raise ValueError(
            f"{videos.paths[0]} is the only video, and none is left to evaluate on; pass at least two, or "
            "data.validation."
        )
    paths = [os.path.abspath(path) for path in videos.paths]
    top = os.path.commonpath(paths)
    digests = [hashlib.sha256(os.fsencode(os.path.relpath(path, top))).digest() for path in paths]
    order = sorted(range(len(videos)), key=digests.__getitem__)
    count = min(max(1, round(fraction * len(videos))), len(videos) - 1)
    held_out = set(order[:count])

    def part(held: bool) -> VideoList:
        indices = [i for i in range(len(videos)) if (i in held_out) == held]
        return VideoList(
            tuple(videos.paths[i] for i in indices), tuple(videos.labels[i] for i in indices), videos.class_names
        )

    return part(False), part(True)


def check_apart(train: VideoList, validation: VideoList) -> None:
    """Raise a ValueError if files to evaluate on are also trained on."""
    learned = set(map(os.path.realpath, train.paths))
    both = [path for path in validation.paths if os.path.realpath(path) in learned]
    if both:
        raise ValueError(
            f"{len(both)} of the {len(validation)} videos of data.validation are in data.train too, such as {both[0]}; "
            "leave them out of one, or leave data.validation out."
        )
