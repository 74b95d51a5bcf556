"""Folders of videos."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from .list_files import is_image, is_video_name, say

# Folders that systems leave.
_LITTER = frozenset({"__macosx", "lost+found", "$recycle.bin", "system volume information", "@eadir", "__pycache__"})


def entries(folder: Path, left_out: Counter[str]) -> tuple[list[Path], list[Path]]:
    """Return the folders and files in a folder, by name, except hidden ones and litter."""
    folders: list[Path] = []
    files: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        elif entry.name.lower() in _LITTER:
            left_out[entry.name] += 1
        else:
            (folders if entry.is_dir() else files).append(entry)
    return folders, files


def videos_in(folder: Path, left_out: Counter[str], above: frozenset[str], depth: int = 0) -> Iterable[Path]:
    """Return the videos of a class, at any depth."""
    above |= {os.path.realpath(folder)}
    folders, files = entries(folder, left_out)
    videos = [file for file in files if is_video_name(file.name)]
    if depth and not videos and any(is_image(file.name) for file in files):  # a folder of frames
        left_out.update("folders inside a folder of frames" for _ in folders)
        yield folder
        return
    left_out.update(f"*{file.suffix.lower()}" for file in files if not is_video_name(file.name))
    inner = (
        video
        for below in folders
        if os.path.realpath(below) not in above  # a link upwards
        for video in videos_in(below, left_out, above, depth + 1)
    )
    yield from sorted([*videos, *inner])


def what_was_left_out(left_out: Counter[str]) -> str:
    """Return a sentence to follow another; empty if there is nothing to say."""
    return "" if not left_out else f" Left out: {', '.join(f'{n} {what}' for what, n in sorted(left_out.items()))}."


def expand_folders(paths: Iterable[str]) -> list[str]:
    """Return paths with each folder of videos replaced by the videos in it, at any depth, and log it in one line.

    A folder with images in it is itself a video, a folder of frames, and stays; so does one with neither.

    Raises:
        ValueError: if a folder has videos and images beside each other.
    """
    expanded: list[str] = []
    for path in paths:
        videos = _videos_of(Path(path))
        if videos:
            say(f"{path} is a folder of {len(videos)} video{'s' if len(videos) > 1 else ''}.")
        expanded += [str(video) for video in videos] or [path]
    return expanded


def _videos_of(folder: Path) -> list[Path]:
    """Return the videos of a folder, if it is a folder of videos."""
    if not folder.is_dir():
        return []
    names = [file.name for file in entries(folder, Counter())[1]]
    if not any(map(is_image, names)):
        return list(videos_in(folder, Counter(), frozenset()))
    if any(map(is_video_name, names)):
        raise ValueError(
            f"{folder} has videos and images beside each other, and may be a folder of videos or of frames; name "
            f"what you mean, as {folder / '*.mp4'} or {folder / 'img_*'}."
        )
    return []
