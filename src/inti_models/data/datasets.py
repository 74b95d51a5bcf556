"""Videos with labels: lists of them in the forms that people have, and data sets of clips.

Data sets give `Sample`s. In training, a sample is decided by (seed, index, draw) alone, whichever process computes
it, so that a run can be resumed at any batch.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .augmentation import TrainTransform, seeded
from .motion_digits import CLASS_NAMES, MotionDigits
from .transforms import ClipTransform
from .video import IMAGE_SUFFIXES, VideoError, _check_request, read_clips

__all__ = ["MotionDigitsClips", "Sample", "VideoDataset", "VideoList", "find_videos"]

# What counts as a video in folders, and where a path with blanks ends in a list.
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".ogv", ".rm", ".ts", ".vob", ".webm", ".wmv"}
)
# A table whose first row has one of these has a header.
_HEADER = frozenset({"class", "class_name", "file", "filename", "label", "path", "video", "video_path", "youtube_id"})

# Clip, label, and what was wrong with the video ("" if nothing was).
Sample = tuple[Tensor, int, str]
# Index (evaluation), or index and draw (training).
Key = int | tuple[int, int]

# How many videos of a list are looked for.
_LOOKED_FOR = 8


@dataclass(frozen=True)
class VideoList:
    """Videos and their classes.

    Attributes:
        paths: files, or folders of frames.
        labels: class index of each.
        class_names: name of each class.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def has_names(self) -> bool:
        """Whether the classes have names, and not just numbers."""
        return self.class_names != tuple(map(str, range(len(self.class_names))))

    def relabelled(self, names: Sequence[str]) -> "VideoList":
        """The same videos, labelled for other classes, among which theirs are.

        Raises:
            ValueError: a class is not among them.
        """
        unknown = next((name for name in self.class_names if name not in names), None)
        if unknown is not None:
            raise ValueError(
                f"{self.paths[0]} and others come with the class {unknown!r}, which is none of {_shortened(names)}; "
                "pass a file of class names that has these, in the order of the labels of the videos."
            )
        index = [names.index(name) for name in self.class_names]
        return VideoList(self.paths, tuple(index[label] for label in self.labels), tuple(names))


def read_class_names(path: str | os.PathLike[str]) -> list[str]:
    """Class names of a text file, one a line, in the order of class indices.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not text.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file} of class names; check the path.")
    try:
        return _names_of_lines(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text ({error}); expected one class name a line.") from error


def find_videos(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> VideoList:
    """Finds videos and their classes in a folder or in a list file.

    * **Folder**: a sub-folder for each class, with video files or folders of frames in it.
    * **.txt**: a line ``path label`` for each video, or ``path frames label`` (lists of frame folders of mmaction
      and VideoMAE). Paths may have blanks. Without a label (UCF101's ``testlist01.txt``) the folder of the video
      is its class. Beside UCF101's ``classInd.txt`` that is so for all lists whose folders are its classes.
    * **.csv**: with a header that has ``path`` and ``label``, or Kinetics' own (``label,youtube_id,time_start,
      time_end,...``); without one, ``path,label`` or VideoMAE's ``path label``.
    * **.json**: a list of objects with ``path`` and ``label``, or Something-Something's own (``id`` and
      ``template``).

    Labels are class indices or names of classes. Indices count from 0 and are taken as they are: of lists that
    count from 1 (all but UCF101's own), 1 has to be subtracted first.

    Class names are those given; else those of ``class_names.txt`` (a name a line), ``classInd.txt`` (number and
    name) or ``labels.json`` (name to number) beside the list; else the folders', or the list's in alphabetic order;
    else the indices.

    Args:
        source: folder or list file.
        root: where the paths of a list start; by default in the list's own folder.
        class_names: the classes, in the order of their indices.

    Raises:
        FileNotFoundError: there is no such source, or none of its first videos is there. (Whether all of them are,
            shows when they are read.)
        ValueError: the list cannot be understood, or a label is no class.
    """
    path = Path(source)
    if path.is_dir():
        if class_names is None:
            class_names = [folder.name for folder in _visible(path) if folder.is_dir()]
        return _video_list(path, _from_folder(path), class_names, are_indices=False)
    if not path.is_file():
        raise FileNotFoundError(f"There is no folder or list file {path}; check the path.")
    readers: dict[str, Callable[[Path, Path], list[tuple[Path, str]]]] = {
        ".txt": _from_txt,
        ".csv": _from_csv,
        ".json": _from_json,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is not a list; expected a folder, or a file that ends in {', '.join(readers)}.")
    base = path.parent if root is None else Path(root)
    try:
        videos = reader(path, base)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a {path.suffix[1:]} list: {error}.") from error
    if not videos:
        raise ValueError(f"{path} lists no videos; expected one a line, with its class.")
    first = videos[:_LOOKED_FOR]
    if not any(video.exists() for video, _ in first):
        raise FileNotFoundError(
            f"None of the first {len(first)} videos of {path} is there, such as {first[0][0]}; "
            "pass the folder that its paths start at (data.root)."
        )
    if class_names is None:
        class_names = _names_beside(path)
    if class_names is not None and path.with_name("classInd.txt").is_file():
        folders = [(video, video.parent.name) for video, _ in videos]
        if {name for _, name in folders} <= set(class_names):
            videos = folders
    are_indices = all(_is_integer(label) for _, label in videos)
    return _video_list(path, videos, class_names, are_indices)


def _video_list(
    source: Path, videos: list[tuple[Path, str]], class_names: Sequence[str] | None, are_indices: bool
) -> VideoList:
    """Turn labels as they were written into class indices."""
    written = dict.fromkeys(label for _, label in videos)
    if class_names is None:
        class_names = [str(i) for i in range(max(0, *map(int, written)) + 1)] if are_indices else sorted(written)
    names = tuple(class_names)
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(f"There are two classes named {twice!r}; give each class its own name.")
    index = {str(i) if are_indices else name: i for i, name in enumerate(names)}
    index_of = {label: index.get(str(int(label)) if are_indices else label) for label in written}
    wrong = next((label for label, i in index_of.items() if i is None), None)
    if wrong is not None:
        expected = f"a number from 0 to {len(names) - 1}" if are_indices else f"one of {_shortened(names)}"
        raise ValueError(f"{source} has the label {wrong!r}; expected {expected}: there are {len(names)} classes.")
    labels = (index_of[label] for _, label in videos)
    return VideoList(tuple(str(video) for video, _ in videos), tuple(labels), names)  # type: ignore[arg-type]


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _names_beside(path: Path) -> list[str] | None:
    """Class names from a file beside a list."""
    for name, reader in _NAME_FILES.items():
        file = path.with_name(name)
        if file.is_file() and file != path:
            try:
                return reader(file.read_text(encoding="utf-8-sig"))
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{file} cannot be read as class names ({error}); correct or remove it.") from error
    return None


def _names_of_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _names_of_numbered_lines(text: str) -> list[str]:
    lines = [line.split(maxsplit=1) for line in _names_of_lines(text)]
    return [name for _, name in sorted((int(number), name) for number, name in lines)]


def _names_of_json(text: str) -> list[str]:
    numbers = {name: int(number) for name, number in json.loads(text).items()}
    return sorted(numbers, key=numbers.__getitem__)


_NAME_FILES: dict[str, Callable[[str], list[str]]] = {
    "class_names.txt": _names_of_lines,
    "classInd.txt": _names_of_numbered_lines,
    "labels.json": _names_of_json,
    "something-something-v2-labels.json": _names_of_json,
}


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _from_folder(folder: Path) -> list[tuple[Path, str]]:
    videos = [
        (entry, kind.name)
        for kind in _visible(folder)
        if kind.is_dir()
        for entry in _visible(kind)
        if entry.suffix.lower() in VIDEO_SUFFIXES or _holds_frames(entry)
    ]
    if not videos:
        raise ValueError(f"{folder} has no videos; expected a folder for each class, with videos in it.")
    return videos


def _holds_frames(entry: Path) -> bool:
    return entry.is_dir() and any(Path(file).suffix.lower() in IMAGE_SUFFIXES for file in os.listdir(entry))


def _lines(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding="utf-8-sig")
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


_VIDEO_AND_NAME = re.compile(
    rf"(.+?(?:{'|'.join(re.escape(suffix) for suffix in sorted(VIDEO_SUFFIXES))}))(?:\s+(.+))?", re.IGNORECASE
)


def _from_txt(path: Path, root: Path) -> list[tuple[Path, str]]:
    lines = _lines(path)
    fields = [line.rsplit("\t", 1) if "\t" in line else line.rsplit(maxsplit=1) for _, line in lines]
    if all(len(parts) == 2 and _is_integer(parts[1]) for parts in fields):
        counted = [parts[0].rsplit(maxsplit=1) for parts in fields]
        if all(len(parts) == 2 and _is_integer(parts[1]) for parts in counted):
            return [(root / video, label) for (video, _), (_, label) in zip(counted, fields, strict=True)]
        return [(root / video.strip(), label) for video, label in fields]
    # Names of classes may have blanks as well; the suffix tells where the path ends.
    videos = []
    for number, line in lines:
        match = _VIDEO_AND_NAME.fullmatch(line)
        if match is None:
            raise ValueError(
                f"Line {number} of {path} is {line!r}; expected a video and the index or name of its class."
            )
        video = root / match[1]
        videos.append((video, match[2] or video.parent.name))
    return videos


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None


def _from_csv(path: Path, root: Path) -> list[tuple[Path, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file, skipinitialspace=True) if any(row)]
    if all(len(row) == 1 for row in rows):
        return _from_txt(path, root)
    header = [name.lower() for name in rows[0]]
    has_header = not _HEADER.isdisjoint(header)
    short = next((row for row in rows if len(row) < (len(header) if has_header else 2)), None)
    if short:
        expected = f"{len(header)} values, as in its header" if has_header else "a path and a label"
        raise ValueError(f"{path} has the row {','.join(short)!r}; expected {expected}.")
    if has_header:
        return _from_records(path, root, [dict(zip(header, row, strict=False)) for row in rows[1:]])
    return [(root / row[0], row[-1]) for row in rows]


def _from_json(path: Path, root: Path) -> list[tuple[Path, str]]:
    records = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} is not a list of objects; expected {{'path': ..., 'label': ...}} for each video.")
    return _from_records(path, root, records)


def _from_records(path: Path, root: Path, records: list[dict]) -> list[tuple[Path, str]]:
    """From named values: ours (path, label), Kinetics' or Something-Something's."""
    if not records:
        return []
    first = records[0]
    try:
        if {"path", "label"} <= first.keys():
            return [(root / record["path"], str(record["label"]).strip()) for record in records]
        if {"youtube_id", "label"} <= first.keys():
            names = [
                f"{record['youtube_id']}_{int(record['time_start']):06d}_{int(record['time_end']):06d}"
                for record in records
            ]
            labels = [record["label"] for record in records]
            return list(zip(_located(root, names, labels), labels, strict=True))
        if {"id", "template"} <= first.keys():
            labels = [re.sub(r"[\[\]]", "", record["template"]) for record in records]
            return list(zip(_located(root, [str(record["id"]) for record in records], labels), labels, strict=True))
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} has an entry that is not like its first {first}: {error!r}.") from error
    raise ValueError(
        f"{path} has {', '.join(map(str, first))} for each video; expected path and label, "
        "Kinetics' label, youtube_id, time_start and time_end, or Something-Something's id and template."
    )


def _located(root: Path, names: list[str], labels: list[str]) -> list[Path]:
    """Where videos of these names lie: side by side or in folders of classes, and with which suffix."""
    ways = [(folder, suffix) for folder in (False, True) for suffix in (".mp4", ".webm", ".mkv", ".avi", "")]

    def place(name: str, label: str, way: tuple[bool, str]) -> Path:
        folder, suffix = way
        return (root / label if folder else root) / f"{name}{suffix}"

    some = list(zip(names, labels, strict=True))[:_LOOKED_FOR]
    way = next((way for way in ways if any(place(*video, way).exists() for video in some)), ways[0])
    return [place(*video, way) for video in zip(names, labels, strict=True)]


Transform = TrainTransform | ClipTransform | Callable[[Tensor], Tensor]


class VideoDataset(Dataset[Sample]):
    """Clips of video files as a model's input.

    With ``train=False`` a key is an index, and the clip has all views of the video, (V, T, C, H, W): ``num_clips``
    times the crops of the transform. A video that cannot be read gives zeros, its label, and as fault a sentence
    that says why.

    With ``train=True`` a key is (index, draw), as `TrainSampler` gives, and the clip is (T, C, H, W), of random
    frames. The sample is decided by (seed, index, draw) alone, and the global generators are left as they are. A
    video that cannot be read is replaced by another at random; the fault is about the first.

    Args:
        videos: of `find_videos`.
        transform: uint8 T,3,H,W -> float T,C,H,W, or with crops 3,T,C,H,W.
        num_frames: T.
        sampling: "uniform" or "dense"; see `read_clips`.
        stride: frames from one sampled frame to the next ("dense").
        num_clips: temporal clips of a video (evaluation).
        train: whether frames are random.
        seed: of all that is random.
        attempts: unreadable videos in a row at which reading stops with a `VideoError` (training).

    Raises:
        ValueError: arguments that make no sense.
    """

    def __init__(
        self,
        videos: VideoList,
        transform: Transform,
        num_frames: int,
        sampling: str = "uniform",
        stride: int | None = None,
        num_clips: int = 1,
        train: bool = False,
        seed: int = 0,
        attempts: int = 10,
    ) -> None:
        _check_request(num_frames, sampling, stride, num_clips)
        if train and num_clips != 1:
            raise ValueError(f"num_clips is {num_clips}; expected 1, as training takes one clip of a video.")
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}; expected a number of at least 1.")
        self.videos, self.transform = videos, transform
        self.num_frames, self.sampling, self.stride, self.num_clips = num_frames, sampling, stride, num_clips
        self.train, self.seed, self.attempts = train, seed, attempts

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.videos.class_names

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: Key) -> Sample:
        index, draw = _index_and_draw(key, self.train)
        if not self.train:
            return self._views(index)
        with seeded(self.seed, index, draw):
            return self._random_clip(index)

    def _views(self, index: int) -> Sample:
        label = self.videos.labels[index]
        try:
            clips = self._read(index)
        except (VideoError, OSError) as error:
            black = torch.zeros(self.num_clips, self.num_frames, 3, 32, 32, dtype=torch.uint8)
            return torch.zeros_like(_as_views(black, self.transform)), label, str(error)
        return _as_views(clips, self.transform), label, ""

    def _random_clip(self, index: int) -> Sample:
        fault = ""
        for _ in range(self.attempts):
            try:
                clip = self._read(index, torch.default_generator)[0]
            except (VideoError, OSError) as error:
                fault = fault or str(error)
                index = int(torch.randint(len(self), ()))
            else:
                return self.transform(clip), self.videos.labels[index], fault
        raise VideoError(f"{self.attempts} videos in a row cannot be read; the first: {fault}")

    def _read(self, index: int, generator: torch.Generator | None = None) -> Tensor:
        """uint8 V,T,3,H,W."""
        return read_clips(
            self.videos.paths[index],
            self.num_frames,
            sampling=self.sampling,
            stride=self.stride,
            num_clips=self.num_clips,
            generator=generator,
        ).frames


class MotionDigitsClips(Dataset[Sample]):
    """Clips of `MotionDigits` as a model's input; the same `Sample`s as of `VideoDataset`, without faults.

    Clip ``index`` is the same in each draw; only what the transform draws differs.

    Args:
        digits: the clips.
        transform: uint8 T,3,H,W -> float T,C,H,W, or with crops 3,T,C,H,W.
        train: whether keys are (index, draw), and clips (T, C, H, W) rather than (V, T, C, H, W).
        seed: of what the transform draws.
    """

    def __init__(self, digits: MotionDigits, transform: Transform, train: bool = False, seed: int = 0) -> None:
        self.digits, self.transform, self.train, self.seed = digits, transform, train, seed
        # Then clips can go through it end to end, as if they were one.
        self.is_framewise = isinstance(transform, ClipTransform) or (
            isinstance(transform, TrainTransform) and not transform.is_random
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASS_NAMES

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, key: Key) -> Sample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """Several samples rendered together; PyTorch's DataLoader calls this for a batch."""
        pairs = [_index_and_draw(key, self.train) for key in keys]
        batch = self.digits.render([index for index, _ in pairs])
        return [
            (clip, label, "")
            for clip, label in zip(self._transformed(batch.clips, pairs), batch.labels.tolist(), strict=True)
        ]

    def _transformed(self, clips: Tensor, pairs: list[tuple[int, int]]) -> Iterable[Tensor]:
        """uint8 B,T,3,H,W -> B samples' clips."""
        if not self.is_framewise:
            return [self._transformed_alone(*item) for item in zip(clips, pairs, strict=True)]
        frames = self.transform(clips.flatten(0, 1)).unflatten(-4, clips.shape[:2])  # B T C H W, or 3 B T C H W
        if self.train:
            return frames
        return frames[:, None] if frames.ndim == 5 else frames.transpose(0, 1)

    def _transformed_alone(self, clip: Tensor, pair: tuple[int, int]) -> Tensor:
        if not self.train:
            return _as_views(clip[None], self.transform)
        with seeded(self.seed, *pair):
            return self.transform(clip)


def _index_and_draw(key: Key, train: bool) -> tuple[int, int]:
    if isinstance(key, tuple) != train:
        raise TypeError(
            f"{key!r} is no key of a training set; expected (index, draw), as TrainSampler gives to a DataLoader."
            if train
            else f"{key!r} is no key of a set to evaluate on; expected an index."
        )
    return key if isinstance(key, tuple) else (key, 0)


def _as_views(clips: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """uint8 V,T,3,H,W -> float (V * crops), T, C, H', W'."""
    views = torch.stack([transform(clip) for clip in clips])
    return views if views.ndim == 5 else views.flatten(0, 1)
