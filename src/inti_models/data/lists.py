"""Lists of videos and their classes, in the common forms.

Ambiguous input is never guessed: it is read by a rule that `find_videos` states, which is logged in one line where the
list alone does not show it; or it is refused, with an error that names the value.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .folders import entries, videos_in, what_was_left_out
from .label_sets import gather, one_label_a_row
from .list_files import (
    ANY_NUMBER,
    NUMBER,
    SEVERAL,
    SPLITS,
    Disk,
    Row,
    parse_json,
    read_list,
    read_text,
    say,
    shortened,
    split_lines,
)

__all__ = ["VideoList", "find_videos", "read_class_names"]

# How tables write a value that is missing. A class may have such a name if a list of names has it.
_MISSING = frozenset({"", "nan", "null", "none", "na", "n/a", "<na>", "-nan"})
_MOST_CLASSES = 100_000  # where a list of numbers has no names


@dataclass(frozen=True)
class VideoList:
    """Videos and their classes.

    Attributes:
        paths: files, or folders of frames.
        labels: class index of each, or, with ``multi_label``, a tuple of class indices of each, which may be empty.
        class_names: name of each class.
        numbers: numbers of the classes in lists, where they are not the indices (see `find_videos`).
        multi_label: whether a video may have several labels.
    """

    paths: tuple[str, ...]
    labels: tuple[Any, ...]
    class_names: tuple[str, ...]
    numbers: tuple[int, ...] = field(default=(), repr=False, compare=False)
    multi_label: bool = field(default=False, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def has_names(self) -> bool:
        """Whether the classes have names, and not just numbers."""
        return self.class_names != tuple(map(str, range(len(self.class_names))))

    @property
    def classes(self) -> dict[int, str]:
        """Number in lists -> name, in the order of indices; what `find_videos` takes for another such list."""
        return dict(zip(self.numbers or range(len(self.class_names)), self.class_names, strict=True))

    def relabelled(self, names: Sequence[str]) -> "VideoList":
        """Return the same videos, labelled for other classes, which include theirs.

        Raises:
            ValueError: if a class is not among them.
        """
        index = {name: i for i, name in enumerate(names)}
        unknown = next((name for name in self.class_names if name not in index), None)
        if unknown is not None:
            raise ValueError(
                f"{self.paths[0]} and others have the class {unknown!r}, which is none of {shortened(names)}; "
                "pass a file of class names with these, in the order of the videos' labels."
            )
        new = [index[name] for name in self.class_names]
        labels = tuple(tuple(new[k] for k in label) if self.multi_label else new[label] for label in self.labels)
        return VideoList(self.paths, labels, tuple(names), multi_label=self.multi_label)


def find_videos(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    split: str | None = None,
    multi_label: bool = False,
) -> VideoList:
    """Find videos and their classes in a folder or in a list file.

    * **Folder**: a sub-folder for each class, with video files or folders of frames in it, at any depth. Hidden files
      and system files (``__MACOSX``, ``lost+found``) are not classes. What is left out is counted in one line.
    * **.txt**: a line ``path label`` for each video, or ``path frames label`` (lists of frame folders of mmaction
      and VideoMAE). Paths may have blanks: a line is split where the path before exists. Without labels
      (UCF101's ``testlist01.txt``) the folder of a video is its class.
    * **.csv** (split by comma, semicolon or tab) and **.tsv**: with a header, which is a first row that names no file
      and has a usual name for the path (path, video_path, filename, clip, ...) and for the label (label, class, target,
      ...), or Kinetics' own (``label,youtube_id,time_start,time_end,...``); without one, ``path,label``,
      ``path,frames,label``, these with a split, or VideoMAE's ``path label``. A column ``split`` (or subset, ...; or
      one of nothing but names of splits) is used where ``split`` is given (in any case), which is required if it has
      several values. Columns that say which part of a video is meant are not used: each video is read whole.
    * **.json**: a list of objects with a path and a label, named as in CSV, or Something-Something's own (``id`` and
      ``template``). **.parquet**: a table with such columns.

    Text is UTF-8, or UTF-16 with a byte order mark. Labels are numbers of classes, or names: all numbers (``3.0`` is
    3), or all names. A list that leaves a label out, or has a video with two, is refused.

    With ``multi_label`` a video may have several labels, or none: ``a.mp4 3,17``; a column with a comma, a semicolon or
    ``|`` between them, the same one in the whole list; a video in several rows, each with some of its labels; a list of
    them in JSON or Parquet; Charades' own files (``id``, ``actions``; the times are not used). Blanks do not
    separate labels, as names have them, and numbers with blanks are refused beside files. A separator is part of names
    where all labels are classes that have it; where labels are classes both whole and split, the list is refused. An
    empty place is a video with none of the classes, and their number is logged; in a .txt list it is refused. In a
    folder, each video has the label of its folder. Without ``multi_label`` all of this is refused.

    Class names are those given; else those of ``class_names.txt`` (a name per line), ``classInd.txt`` (number and
    name) or ``labels.json`` (name to number) or ``Charades_v1_classes.txt`` beside the list; else the folders', or
    the list's in alphabetic order; else the numbers. Where names come with numbers, a number in a list is that one,
    and indices follow the order of numbers; names without numbers, and given ones, count from 0. Without
    names, numbers are the indices: for lists that count from 1, subtract 1 first; they are refused where
    they name classes other than all folders of the videos. Beside UCF101's ``classInd.txt`` the folder of a video
    is its class, whatever a list counts from, where all folders are classes.

    Args:
        source: folder or list file.
        root: folder that the paths of a list are relative to; by default the list's own.
        class_names: the classes, in the order of their indices; with their numbers as a mapping (`read_class_names`,
            `VideoList.classes`).
        split: the value of the list's column of splits, or the sub-folder.
        multi_label: whether a video may have several labels.

    Raises:
        FileNotFoundError: if there is no such source, or none of its videos exists. (Missing ones are counted in one
            line.)
        ValueError: if the list cannot be understood, or a label is not a class.
    """
    path = Path(source)
    given = _numbered(class_names)
    if path.is_dir():
        folder = path if split is None else path / split
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder} of the split {split!r}; check the split.")
        rows, names = _from_folder(folder)
        return _video_list(folder, rows, _numbered(names) if given is None else given, True, multi_label)
    rows = of_split(path, read_list(path, root, labelled=True, multi_label=multi_label), split)
    disk = Disk()
    missing = [row for row in rows if disk.kind(row.path) is None]
    if len(missing) == len(rows):
        raise FileNotFoundError(
            f"None of the {len(rows)} videos of {path} exists, such as {missing[0].path}; "
            "pass the folder that its paths are relative to (data.root, --root)."
        )
    if missing:
        say(f"{path}: {len(missing)} of {len(rows)} videos are missing, such as {missing[0].path}.")
    beside = _names_beside(path)
    base = path.parent if root is None else Path(root)
    if given is None or beside is None or not _counts(given) or not set(beside.values()) <= set(given.values()):
        return _classify(path, base, rows, beside if given is None else given, multi_label)
    # The same classes: numbers in the list are those beside it, and those given say the order of indices.
    videos = _classify(path, base, rows, beside, multi_label).relabelled(list(given.values()))
    if _counts(beside) and videos != _classify(path, base, rows, given, multi_label):
        raise ValueError(
            f"{path} has numbers for classes, which mean others by the names beside it than by those given; give "
            "them in the same order, or remove the file beside the list."
        )
    return videos


def read_class_names(path: str | os.PathLike[str]) -> dict[int, str]:
    """Read the classes of a text file, number -> name: a name per line, counted from 0, or a number and a name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not text, or has ambiguous numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file of class names {file}; check the path.")
    return _read_names(file, _names_of_lines)


def _from_folder(folder: Path) -> tuple[list[Row], list[str]]:
    """Return the videos of a folder with a folder for each class, and the classes."""
    left_out: Counter[str] = Counter()
    kinds, files = entries(folder, left_out)
    left_out.update(f"*{file.suffix.lower()} beside the folders of classes" for file in files)
    names = [kind.name for kind in kinds]
    splits = [name for name in names if name.lower() in SPLITS]
    if splits and (len(splits) > 1 or splits == names):
        raise ValueError(
            f"{folder} has the folders {shortened(splits)}, which are splits, not classes; pass one of them."
        )
    rows, empty = [], []
    for kind in kinds:
        videos = list(videos_in(kind, left_out, frozenset()))
        rows += [Row(str(video), str(video), kind.name) for video in videos]
        empty += [] if videos else [kind.name]
    found = what_was_left_out(left_out)
    if not rows:
        raise ValueError(f"{folder} has no videos; expected a folder for each class, with videos in it.{found}")
    inner = {
        parts[1].lower() if len(parts) > 2 else "" for parts in (Path(r.path).relative_to(folder).parts for r in rows)
    }
    if len(inner) > 1 and inner <= SPLITS:
        raise ValueError(
            f"{folder} has the splits {shortened(sorted(inner))} in its folders of classes; expected those of one "
            "split: arrange them as SPLIT/CLASS, or write a list."
        )
    _check_alike(folder, names)
    if found or empty:
        without = f" No video is in {shortened(empty)}." if empty else ""
        say(f"{folder} has {len(rows)} videos of {len(names)} classes.{found}{without}")
    return rows, names


# Names of classes: number in lists -> name, in the order of numbers


def _numbered(names: Sequence[str] | Mapping[int, str] | None) -> dict[int, str] | None:
    if names is None:
        return None
    classes = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
    twice = next((name for name, count in Counter(classes.values()).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"There are two classes named {twice!r}; give each class its own name.")
    return classes


def _counts(classes: Mapping[int, str]) -> bool:
    """Return whether numbers count from 0, as those of names without numbers."""
    return list(classes) == list(range(len(classes)))


def _names_beside(path: Path) -> dict[int, str] | None:
    """Read class names from a file beside a list."""
    for name, reader in _NAME_FILES.items():
        file = path.with_name(name)
        if file.is_file() and file != path:
            return _read_names(file, reader)
    return None


def _read_names(file: Path, reader: Callable[[Path], list[tuple[int, str]]]) -> dict[int, str]:
    try:
        pairs = reader(file)
        number = next((n for n, count in Counter(n for n, _ in pairs).items() if count > 1), None)
        if number is not None:
            raise ValueError(f"two classes have the number {number}")
        classes = _numbered(dict(sorted(pairs)))
        assert classes is not None
        if not classes or "" in classes.values():
            raise ValueError("a name is empty" if classes else "it has none")
    except ValueError as error:
        raise ValueError(
            f"{file} cannot be read as class names ({str(error).rstrip('.')}); fix or remove it."
        ) from error
    first = list(classes)[:5]
    if not _counts(classes):
        say(f"{file} numbers its classes {', '.join(map(str, first))}, ...: these become the indices 0, 1, 2, ...")
    return classes


_NUMBER_AND_NAME = re.compile(r"([0-9]{1,18})(?:\s*[,:;=]\s*|\s+)(\S.*)")


def _names_of_lines(file: Path) -> list[tuple[int, str]]:
    """Read a name per line; or a number and a name, if numbers count up from 0 or 1 and the names differ."""
    lines = [line for _, line in split_lines(read_text(file))]
    matches = [_NUMBER_AND_NAME.fullmatch(line) for line in lines]
    pairs = [(int(match[1]), match[2]) for match in matches if match]
    numbers = [number for number, _ in pairs]
    if len(lines) > 2 and len(pairs) == len(lines) - 1 and matches[0] is None and numbers == [*range(len(numbers))]:
        raise ValueError(
            f"line 1 is {lines[0]!r}, and all others begin with a number, so that it may be a header; remove it"
        )
    last = [int(match[1]) for line in lines if (match := re.fullmatch(r".*[\s,;:=]([0-9]{1,18})", line))]
    from_0, from_1 = [*range(len(lines))], [*range(1, len(lines) + 1)]
    if len(lines) > 1 and last != from_0 and sorted(last) in (from_0, from_1):
        raise ValueError(
            f"each line ends with a number, such as {lines[0]!r}, which may be the class's own or part of its name; "
            "write a name per line, or the number before it"
        )
    if not lines or len(pairs) < len(lines) or len(set(numbers)) < len(lines):
        return list(enumerate(lines))
    if len({name for _, name in pairs}) < len(lines):
        return list(enumerate(lines))
    if numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return pairs
    raise ValueError(
        f"each line begins with a number, such as {lines[0]!r}, which may be the class's own or part of its name; name "
        "the file classInd.txt beside the list if it is its own, or number the lines 0, 1, 2, ..."
    )


def _names_of_numbered_lines(file: Path) -> list[tuple[int, str]]:
    pairs = []
    for number, line in split_lines(read_text(file)):
        match = _NUMBER_AND_NAME.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} is {line!r}; expected a number and a name")
        pairs.append((int(match[1]), match[2]))
    return pairs


def _names_of_charades(file: Path) -> list[tuple[int, str]]:
    pairs = []
    for number, line in split_lines(read_text(file)):
        match = re.fullmatch(r"c([0-9]{3})\s+(\S.*)", line)
        if match is None:
            raise ValueError(f"line {number} is {line!r}; expected a code and a name, such as 'c092 Opening a window'")
        pairs.append((int(match[1]), match[2]))
    return pairs


def _names_of_json(file: Path) -> list[tuple[int, str]]:
    """Read name to number, number to name, or a list of names."""
    content = parse_json(file)
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return [(i, name.strip()) for i, name in enumerate(content)]
    if not isinstance(content, dict) or not content:
        raise ValueError("expected an object of names and numbers")
    by_name = {name: _whole(number) for name, number in content.items()}
    by_number = {_whole(number): name for number, name in content.items()}
    if None not in by_name.values():
        if None not in by_number:
            raise ValueError("names and values are all numbers, so that either may be the class")
        return [(number, name.strip()) for name, number in by_name.items() if number is not None]
    if None not in by_number and len(by_number) == len(content) and all(isinstance(n, str) for n in content.values()):
        return [(number, name.strip()) for number, name in by_number.items() if number is not None]
    wrong = next(name for name, number in by_name.items() if number is None)
    raise ValueError(f"{wrong!r} has {content[wrong]!r}; expected a whole number of at least 0")


def _whole(value: object) -> int | None:
    """Return a whole number of at least 0, also from text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return int(value) if re.fullmatch(r"[0-9]{1,18}", str(value)) else None


_NAME_FILES: dict[str, Callable[[Path], list[tuple[int, str]]]] = {
    "class_names.txt": _names_of_lines,
    "classInd.txt": _names_of_numbered_lines,
    "labels.json": _names_of_json,
    "something-something-v2-labels.json": _names_of_json,
    "Charades_v1_classes.txt": _names_of_charades,
}


# From labels as they are written to class indices


def of_split(path: Path, rows: list[Row], split: str | None) -> list[Row]:
    """Return the rows of a split; raise a ValueError if there is none, or there are several and none is named."""
    splits = list(dict.fromkeys(row.split for row in rows if row.split is not None))
    if split is None:
        if len(splits) > 1:
            raise ValueError(
                f"{path} has videos of the splits {shortened(splits)}; name one (split=, --split, data.train_split)."
            )
        return rows
    chosen = [row for row in rows if row.split is not None and row.split.casefold() == split.casefold()]
    if not chosen:
        has = f"has the splits {shortened(splits)}" if splits else "has no column of splits (split, subset, ...)"
        raise ValueError(f"{path} {has}; there is no {split!r}, check the split.")
    return chosen


def _classify(path: Path, base: Path, rows: list[Row], classes: dict[int, str] | None, multi_label: bool) -> VideoList:
    """Return the videos of a list, whose paths are relative to ``base``, with their classes."""
    without = next((row for row in rows if row.label is None), None)
    folders = [Path(row.path).parent.name for row in rows]
    if without is not None:
        labelled = next((row for row in rows if row.label is not None), None)
        if labelled is not None:
            raise ValueError(f"{path}, {without.place}, has no label, but {labelled.place} has; give each a label.")
    by_folder = path.with_name("classInd.txt").is_file() and classes is not None and set(folders) <= {*classes.values()}
    if without is not None or (by_folder and not multi_label):
        rows = [row._replace(label=folder) for row, folder in zip(rows, folders, strict=True)]
        outside = next((row for row in rows if Path(row.path).parent == base), None)
        if outside is not None:
            raise ValueError(
                f"{path}, {outside.place}, has neither a label nor a folder named after a class; expected 'path label'."
            )
        return _video_list(path, rows, classes, True, multi_label)
    videos = _video_list(path, rows, classes, False, multi_label)
    if multi_label:
        return videos
    names = [videos.class_names[label] for label in videos.labels]
    are_numbers = videos.has_names and all(row.label and NUMBER.fullmatch(row.label) for row in rows)
    plain_folders, plain_names = (list(map(_plain, texts)) for texts in (folders, names))
    are_classes = {*plain_folders} <= {*map(_plain, videos.class_names)}
    if are_numbers and are_classes and not any(map(str.__eq__, plain_folders, plain_names)):
        raise ValueError(
            f"{path}, {rows[0].place}, has the label {rows[0].label!r}, which is the class {names[0]!r}, but is in "
            f"the folder {folders[0]!r}, and so on for all others; expected numbers in the order of the names."
        )
    return videos


def _plain(name: str) -> str:
    """Return a name without what folders spell differently."""
    return re.sub(r"[\W_]+", "", name).casefold()


def _video_list(
    source: Path, videos: list[Row], classes: dict[int, str] | None, are_names: bool, multi_label: bool
) -> VideoList:
    """Turn labels as they were written into class indices."""
    rows = one_label_a_row(source, videos, classes) if multi_label and not are_names else videos
    first: dict[str, Row] = {}  # of each label
    for row in rows:
        assert row.label is not None
        first.setdefault(row.label, row)
    numbers = {} if are_names else {label: int(m[1]) for label in first if (m := NUMBER.fullmatch(label))}
    if first and len(numbers) == len(first):
        classes, index = _by_number(source, first, numbers, classes)
    elif classes is not None:
        index = {name: i for i, name in enumerate(classes.values())}
        unknown = [label for label in first if label not in index]
        if unknown:
            wrong = next((label for label in unknown if label not in numbers), unknown[0])
            raise ValueError(
                f"{source}, {first[wrong].place}, has the label {wrong!r}; expected one of "
                f"{shortened(list(index))}: there are {len(index)} classes."
            )
    else:
        if not are_names:
            _check_names(source, first, numbers)
        _check_alike(source, list(first))
        classes = dict(enumerate(sorted(first)))
        index = {name: i for i, name in classes.items()}
    names = tuple(classes.values())
    unwritable = next((name for name in names if any("\ud800" <= c <= "\udfff" for c in name)), None)
    if unwritable is not None:
        raise ValueError(f"{source} has the class {unwritable!r}, which is not UTF-8; rename it.")
    numbering = () if _counts(classes) else tuple(classes)
    labels = tuple(index[row.label] for row in rows if row.label is not None)
    if multi_label:
        paths, sets = gather(source, videos, rows, labels)
        return VideoList(paths, sets, names, numbering, multi_label=True)
    _check_twice(source, rows, labels, names)
    return VideoList(tuple(row.path for row in rows), labels, names, numbering)


def _by_number(
    source: Path, first: Mapping[str, Row], numbers: Mapping[str, int], classes: dict[int, str] | None
) -> tuple[dict[int, str], dict[str, int]]:
    """Return the classes, and the index of each label, of a list whose labels are all numbers."""
    written: dict[int, str] = {}
    for label, number in numbers.items():
        if written.setdefault(number, label) != label:
            raise ValueError(
                f"{source} writes one class as {written[number]!r} ({first[written[number]].place}) and as {label!r} "
                f"({first[label].place}); write each number one way, or give the classes names."
            )
    if classes is None:
        last = max(written)
        if min(written) < 0 or last >= _MOST_CLASSES:
            wrong = written[last] if min(written) >= 0 else written[min(written)]
            raise ValueError(
                f"{source}, {first[wrong].place}, has the label {wrong!r}; expected a number from 0 to "
                f"{_MOST_CLASSES - 1}, as without names the largest says how many classes there are."
            )
        if min(written):
            say(f"{source} has no video of class 0: its labels, from {min(written)}, are taken as they are.")
        classes = {i: str(i) for i in range(last + 1)}
    elif min(written) == 1 and 0 in classes:
        say(f"{source} has no video of class 0, {classes[0]!r}: its labels, from 1, are taken as they are.")
    position = {number: i for i, number in enumerate(classes)}
    unknown = [label for label, number in numbers.items() if number not in position]
    if unknown:
        consecutive = list(classes) == list(range(min(classes), min(classes) + len(classes)))
        listed = shortened(list(map(str, classes)))
        expected = f"a number from {min(classes)} to {max(classes)}" if consecutive else f"one of {listed}"
        raise ValueError(
            f"{source}, {first[unknown[0]].place}, has the label {unknown[0]!r}; expected {expected}: there are "
            f"{len(classes)} classes."
        )
    index = {label: position[number] for label, number in numbers.items()}
    named = {name: i for i, name in enumerate(classes.values())}
    if all(label in named for label in first) and any(named[label] != index[label] for label in first):
        label = next(label for label in first if named[label] != index[label])
        raise ValueError(
            f"{source}, {first[label].place}, has the label {label!r}, which is the number of one class and the name "
            "of another; give the classes names that are not numbers."
        )
    return classes, index


def _check_names(source: Path, first: Mapping[str, Row], numbers: Mapping[str, int]) -> None:
    """Refuse labels that are missing, or that are not names while others are."""
    for label, row in first.items():
        if label.lower() in _MISSING:
            raise ValueError(
                f"{source}, {row.place}, has no label ({label!r}); give it one, or leave the video out. A class of "
                "this name has to be in a class_names.txt."
            )
    odd = next((label for label in first if ANY_NUMBER.fullmatch(label)), None)
    if odd is not None:
        name = next((label for label in first if not ANY_NUMBER.fullmatch(label)), None)
        if name is None:
            odd = next(label for label in first if label not in numbers)
            raise ValueError(
                f"{source}, {first[odd].place}, has the label {odd!r}; expected a whole number, or a name of a class; "
                f"{SEVERAL}."
            )
        raise ValueError(
            f"{source} has the label {odd!r} ({first[odd].place}) beside {name!r} ({first[name].place}); expected "
            "all numbers or all names, or a class_names.txt that has all of them."
        )


def _check_alike(source: Path, names: Sequence[str]) -> None:
    """Refuse classes whose names look the same to a reader."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(" ".join(unicodedata.normalize("NFC", name).casefold().split()), name)
        if other != name:
            raise ValueError(
                f"{source} has the classes {other!r} and {name!r}, which differ only in case, blanks or encoding; "
                "write them the same, or list both in a class_names.txt."
            )


def _check_twice(source: Path, rows: Sequence[Row], labels: Sequence[int], names: Sequence[str]) -> None:
    """Refuse a video with two classes, and log how many occur again with the same one."""
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        j = first.setdefault(os.path.normpath(row.path), i)
        if labels[i] != labels[j]:
            raise ValueError(
                f"{source} lists {row.path} as {names[labels[j]]!r} ({rows[j].place}) and as {names[labels[i]]!r} "
                f"({row.place}); expected one class per video: {SEVERAL}."
            )
    if len(first) < len(rows):
        say(f"{source} lists {len(rows) - len(first)} videos again: they count as often as they are listed.")
