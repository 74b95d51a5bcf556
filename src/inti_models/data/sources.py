"""Labelled clips by name: a folder or list of videos, or one of the data sets that this package makes."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from .augmentation import TrainTransform
from .datasets import MotionDigitsClips, VideoDataset
from .limits import DEFAULT_LIMITS, Limits, VideoError
from .lists import VideoList, find_videos
from .motion_digits import CLASS_NAMES, MotionDigits
from .sampling import FrameSampling
from .transforms import ClipTransform
from .video import check_video

ClipDataset = VideoDataset | MotionDigitsClips


class Source(Protocol):
    """Labelled clips, not yet prepared for a model, such as `ListedVideos`."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def classes(self) -> dict[int, str]:
        """Number in lists -> name, in the order of indices."""
        ...

    @property
    def has_names(self) -> bool:
        """Whether the classes have names, and not just numbers."""
        ...

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several labels."""
        ...

    def relabelled(self, names: Sequence[str]) -> "Source":
        """Return the same clips, labelled for other classes; raise a ValueError if these do not include theirs."""
        ...

    def dataset(
        self,
        transform: ClipTransform | TrainTransform,
        frames: FrameSampling,
        num_clips: int = 1,
        train: bool = False,
        seed: int = 0,
    ) -> ClipDataset:
        """Return clips for a model; for the arguments see `VideoDataset`."""
        ...


class ListedVideos:
    """The videos of a `VideoList`."""

    def __init__(self, videos: VideoList, limits: Limits = DEFAULT_LIMITS) -> None:
        self.videos, self.class_names, self.limits = videos, videos.class_names, limits
        self.classes, self.has_names, self.multi_label = videos.classes, videos.has_names, videos.multi_label

    def relabelled(self, names: Sequence[str]) -> "ListedVideos":
        return ListedVideos(self.videos.relabelled(names), self.limits)

    def dataset(
        self,
        transform: ClipTransform | TrainTransform,
        frames: FrameSampling,
        num_clips: int = 1,
        train: bool = False,
        seed: int = 0,
    ) -> VideoDataset:
        return VideoDataset(self.videos, transform, frames, num_clips, train, seed, limits=self.limits)


class RenderedDigits:
    """Clips of `MotionDigits`, of the size and number of frames that the model takes unless ``args`` say otherwise."""

    class_names, classes, has_names, multi_label = CLASS_NAMES, dict(enumerate(CLASS_NAMES)), True, False

    def __init__(self, part: str, args: Mapping[str, Any]) -> None:
        self.part, self.args = part, args

    def relabelled(self, names: Sequence[str]) -> "RenderedDigits":
        if tuple(names) != CLASS_NAMES:
            raise ValueError(
                f"The model or training set with the classes {', '.join(names[:3])}, ... does not have the classes of "
                "motiondigits; evaluate on other data."
            )
        return self

    def dataset(
        self,
        transform: ClipTransform | TrainTransform,
        frames: FrameSampling,
        num_clips: int = 1,
        train: bool = False,
        seed: int = 0,
    ) -> MotionDigitsClips:
        if num_clips != 1:
            raise ValueError(f"{num_clips} clips per video were requested, but motiondigits has one; take one.")
        size = (transform.finish if isinstance(transform, TrainTransform) else transform).input_size[-1]
        digits = MotionDigits(self.part, **{"size": size, "num_frames": frames.num_frames, **self.args})
        return MotionDigitsClips(digits, transform, train, seed)


# Name -> part ("train" or "validation") and arguments -> clips.
NAMED: dict[str, Callable[[str, Mapping[str, Any]], Source]] = {"motiondigits": RenderedDigits}


def unreadable_videos(paths: Sequence[str], limits: Limits = DEFAULT_LIMITS, workers: int = 8) -> dict[str, str]:
    """Return what is wrong with each video that cannot be opened, by its path; only headers are read."""

    def fault(path: str) -> str:
        try:
            check_video(path, limits)
        except (VideoError, OSError) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(workers) as pool:
        faults = tqdm(pool.map(fault, paths), total=len(paths), desc="check", unit="video", leave=False)
        return {path: sentence for path, sentence in zip(paths, faults, strict=True) if sentence}


def open_source(
    data: str | os.PathLike[str],
    part: str = "validation",
    *,
    root: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    split: str | None = None,
    args: Mapping[str, Any] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    multi_label: bool = False,
) -> Source:
    """Return the clips of a folder, a list file (see `find_videos`), or a data set in `NAMED`.

    Args:
        data: path or name; a name hides a file of that name in the working folder (write ``./motiondigits``).
        part: "train" or "validation"; for data sets by name.
        root: folder that the paths of a list are relative to; None for the list's own.
        class_names: for folders and lists; see `find_videos`.
        split: for folders and lists; see `find_videos`.
        args: for data sets by name.
        limits: what a file of a folder or list may ask for.
        multi_label: whether a video may have several labels; see `find_videos`.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if it is not a list of videos, or an argument is for the other kind of data.
    """
    if data in NAMED:
        if split is not None:
            raise ValueError(f"split={split!r} is for lists and folders; {data} has its own, so leave it out.")
        if multi_label:
            raise ValueError(f"{data} has one label per video, a digit and its motion; leave multi_label out.")
        return NAMED[str(data)](part, args or {})
    if args:
        raise ValueError(f"{dict(args)} are arguments for {', '.join(NAMED)}, not for {Path(data)}; leave them out.")
    return ListedVideos(find_videos(data, root, class_names, split, multi_label), limits)
