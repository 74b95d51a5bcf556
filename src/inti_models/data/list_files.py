"""List files of videos: text, CSV, JSON and Parquet in the common forms, as rows.

Ambiguous input is never guessed: it is read by a rule that `inti_models.data.find_videos` states, which is logged in
one line where the list alone does not show it; or it is refused, with an error that names the value.
"""

import csv
import functools
import io
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from ..text import printable
from .images import IMAGE_SUFFIXES

_logger = logging.getLogger(__name__)

# What counts as a video in folders, and where a path with blanks ends in a list.
VIDEO_SUFFIXES = frozenset(
    {".264", ".265", ".3g2", ".3gp", ".asf", ".av1", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265"}
    | {".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mk3d", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg"}
    | {".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv"}
    | {".wtv", ".xvid", ".y4m"}
)
# Names of columns, of which neither case nor blanks, hyphens and underscores count. Of several, the first decides.
_PATH = ("path", "videopath", "clippath", "filepath", "file", "filename", "video", "videoname", "videofile") + (
    ("clip", "clipname", "name")
)
_LABEL = ("label", "labelid", "labelname", "class", "classid", "classname", "classindex", "target", "tag", "y") + (
    ("category", "categoryid", "categoryname", "action", "actionid", "actionname", "activity")
    + ("labels", "labelids", "labelnames", "classes", "classids", "classnames", "targets", "tags", "categories")
    + ("actions", "activities")
)
_SPLIT = ("split", "subset", "partition", "set", "phase", "usage")
# Of a part of a video.
_SEGMENT = frozenset(
    f"{end}{unit}" for end in ("start", "begin", "end", "stop") for unit in ("", "time", "frame", "sec", "seconds")
) | {"timestart", "timeend", "tstart", "tend", "segment"}
# Of what says which videos to use, in ways that only its author knows.
_PART = re.compile(
    r"(k|cv|train|val|valid|validation|test)?folds?(id|index|number)?\d*|is(train|training|val|valid|validation|test)"
)
# Names of splits, which are not classes.
SPLITS = frozenset({"train", "training", "trainval", "val", "valid", "validation", "test", "testing", "dev", "eval"})

SEVERAL = "where a video may have several, pass multi_label=true (--multi-label)"  # what to do, in an error
NUMBER = re.compile(r"(-?[0-9]{1,18})(?:\.0*)?")
# As labels: numbers that are not classes, such as 0.5, and what may be several, such as "1,0".
ANY_NUMBER = re.compile(r"[-+]?[.,;| ]*[0-9][0-9.,;| ]*(e[-+]?[0-9]+)?", re.IGNORECASE)
_HMDB_SPLIT = re.compile(r".+_test_split[0-9]+\.txt")


class Row(NamedTuple):
    """A video of a list.

    Attributes:
        place: where it stands in the list, such as "line 3".
        path: the file, or folder of frames.
        label: as it is written; "" where its place is empty, None in a list without labels.
        split: value of the column of splits; None in a list without one.
        labels: several, where the list itself separates them (JSON, Parquet, Charades); ``label`` is then "".
    """

    place: str
    path: str
    label: str | None
    split: str | None = None
    labels: tuple[str, ...] | None = None


def read_list(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    labelled: bool = False,
    multi_label: bool = False,
) -> list[Row]:
    """Return the videos of a list file, as `find_videos` reads them.

    Args:
        path: list file.
        root: folder that its paths are relative to; by default its own.
        labelled: refuse a table without a column of labels.
        multi_label: a video may have several labels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be understood, or lists nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no folder or list file {path}; check the path.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is not a list; expected a folder, or a file that ends in {', '.join(READERS)}.")
    disk = Disk(path.parent if root is None else root)
    rows = reader(path, disk, labelled, multi_label)
    if not rows:
        raise ValueError(f"{path} lists no videos; expected one per line, with its class.")
    empty = next((row for row in rows if not row.path), None)
    if empty is not None:
        raise ValueError(f"{path}, {empty.place}, has no path; expected a video in each row.")
    return [row._replace(path=str(disk.root / row.path)) for row in rows]


def shortened(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:5])) + (", ..." if len(names) > 5 else "")


@functools.cache
def say(sentence: str) -> None:
    """Log a sentence, once."""
    _logger.warning(printable(sentence))


# What is there


class Disk:
    """Files below a folder, known by one listing of each folder: lists are long, and network drives slow."""

    def __init__(self, root: str | os.PathLike[str] = "") -> None:
        self.root = Path(root)
        self._listings: dict[str, dict[str, bool]] = {}
        self._stems: dict[str, dict[str, list[str]]] = {}

    def listing(self, folder: str) -> dict[str, bool]:
        """Return the names in a folder, and whether each is itself a folder."""
        if folder not in self._listings:
            try:
                with os.scandir(folder or ".") as entries:
                    self._listings[folder] = {entry.name: entry.is_dir() for entry in entries}
            except (OSError, ValueError):
                self._listings[folder] = {}
        return self._listings[folder]

    def kind(self, path: str) -> str | None:
        """Return "file", "folder", "frames" (images of a folder by a pattern, as `read_clips` takes), or None."""
        if not path:
            return None
        full = str(self.root / path)
        folder, name = os.path.split(full)
        is_folder = self.listing(folder).get(name)
        if is_folder is None and "*" in name:
            return "frames" if any(fnmatchcase(entry, name) for entry in self.listing(folder)) else None
        if is_folder is None:  # a name that means another, or is written in another case where that does not count
            if not os.path.exists(full):
                return None
            is_folder = os.path.isdir(full)
        return "folder" if is_folder else "file"

    def is_video(self, path: str) -> bool:
        """Return whether this is a file, or a folder of frames."""
        kind = self.kind(path)
        return kind in ("file", "frames") or (kind == "folder" and _has_frames(self.listing(str(self.root / path))))

    def locate(self, name: str, label: str) -> str:
        """Return where the video of a name without suffix is: beside the others or in the folder of its class."""
        for folder in ("", label):
            suffixes = self._by_stem(str(self.root / folder)).get(name)
            if suffixes:
                suffix = min(suffixes, key=lambda s: (s.lower() != ".mp4", s.lower() != ".mkv", s))
                return os.path.join(folder, name + suffix)
        return f"{name}.mp4"

    def _by_stem(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._stems:
            stems = self._stems[folder] = {}
            for name, is_folder in self.listing(folder).items():
                stem, suffix = (name, "") if is_folder else os.path.splitext(name)
                if is_folder or suffix.lower() in VIDEO_SUFFIXES:
                    stems.setdefault(stem, []).append(suffix)
        return self._stems[folder]


def _has_frames(names: Iterable[str]) -> bool:
    return any(is_image(name) for name in names)


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def is_video_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


# Text


def read_text(path: Path) -> str:
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not {encoding.removesuffix('-sig').upper()} text (byte {error.start}: {error.reason}); "
            "save it as UTF-8."
        ) from error
    if "\0" in text:
        raise ValueError(f"{path} has null characters, as files that are not text do; save it as UTF-8.")
    return text


def split_lines(text: str) -> list[tuple[int, str]]:
    # str.splitlines would also split at control characters that names may have.
    lines = enumerate(re.split(r"\r\n|\n|\r", text), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def parse_json(path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} occurs twice in one object")
        return dict(pairs)

    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read: its JSON is nested too deeply; expected a flat list.") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}.") from error


# Readers of lists


def _from_txt(path: Path, disk: Disk, labelled: bool, several: bool) -> list[Row]:
    rows = _from_lines(path, split_lines(read_text(path)), disk, several)
    if labelled and _HMDB_SPLIT.fullmatch(path.name) and {row.label for row in rows} <= {"0", "1", "2"}:
        raise ValueError(
            f"{path} is a split of HMDB51, whose numbers say training (1), test (2) or neither (0) and not the class; "
            "write a list of the videos of all classes, such as 'brush_hair/NAME.avi brush_hair'."
        )
    return rows


def _from_lines(path: Path, lines: list[tuple[int, str]], disk: Disk, several: bool) -> list[Row]:
    rows = [(number, line, *_split_line(path, number, line, disk)) for number, line in lines]
    if several:  # "3, 17" is as good as "3,17"
        rows = [(number, line, video, re.sub(r"\s*([,;|])\s*", r"\1", rest)) for number, line, video, rest in rows]
    numbers = [
        len(rest.split()) if _are_integers(re.sub("[,;|]", "", rest) if several else rest) else 0
        for _, _, _, rest in rows
    ]
    blanks = next((row for row, n in zip(rows, numbers, strict=True) if n > 1 and disk.kind(row[2]) == "file"), None)
    if several and blanks is not None:
        raise ValueError(
            f"Line {blanks[0]} of {path} is {blanks[1]!r}, whose numbers may be several labels, or frames and labels; "
            "write labels with commas between them, such as a.mp4 3,17."
        )
    # A missing folder may have a number in its name, so that only those that are there tell.
    counts = {n for n, row in zip(numbers, rows, strict=True) if n and disk.kind(row[2])} or {*numbers} - {0}
    if counts and (max(counts) > 2 or len(counts) > 1):
        wrong = rows[numbers.index(max(counts))]
        raise ValueError(
            f"Line {wrong[0]} of {path} is {wrong[1]!r}; expected a video and the number of its class, or in all lines "
            "the number of frames between them."
        )
    for (number, line, video, rest), n in zip(rows, numbers, strict=True):
        if n == 2:
            _check_frames(path, f"line {number}", rest.split()[0])
            if disk.kind(video) == "file":
                say(f"{path} is read as path, frames, label: {line!r} and the like.")
    return [
        Row(f"line {number}", video, (rest.split()[-1] if n else rest) or None)
        for (number, _, video, rest), n in zip(rows, numbers, strict=True)
    ]


def _check_frames(path: Path, place: str, text: str) -> None:
    if int(text) < 1:
        raise ValueError(
            f"{path}, {place}, has two numbers, of which the first, {text}, is not a number of frames; expected a "
            "path and the number of its one class, or path, frames, label."
        )


def _split_line(path: Path, number: int, line: str, disk: Disk) -> tuple[str, str]:
    """Return the video of a line and the rest of it; of the ways to split it, the one whose file exists."""
    ways = [(line[: m.start()], line[m.end() :]) for m in re.finditer(r"\s+|$", line)]
    there = [way for way in ways if (kind := disk.kind(way[0])) and (kind != "folder" or _are_integers(way[1]))]
    if not there:  # a folder is a video only if it has frames
        there = [way for way in ways if disk.is_video(way[0])]
    if len(there) > 1:
        there = [way for way in there if disk.is_video(way[0])]
    if not there and any(is_video_name(video) for video, _ in ways):
        # A video that is missing, whose suffix tells where its path ends.
        there = [way for way in ways if is_video_name(way[0])]
    if not there and (match := re.fullmatch(r"(.+?)(?:\s+([0-9]+))?\s+(-?[0-9]+)", line)):  # a missing folder of frames
        there = [(match[1], " ".join(filter(None, match.groups()[1:])))]
    if not there and "\t" in line:
        video, _, label = line.rpartition("\t")
        there = [(video.strip(), label.strip())]
    if not there and len(ways) == 1:
        there = ways
    if len(there) == 1:
        return there[0]
    if there:
        raise ValueError(
            f"Line {number} of {path} is {line!r}, whose video may be {there[0][0]!r} or {there[1][0]!r}; rename one, "
            "or write the list as .csv."
        )
    raise ValueError(f"Line {number} of {path} is {line!r}; expected a video and the index or name of its class.")


def _are_integers(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+(\s+-?[0-9]+)*", text) is not None


class _Cells(NamedTuple):
    place: str
    cells: list[str]


def _from_csv(path: Path, disk: Disk, labelled: bool, several: bool) -> list[Row]:
    text, delimiters = read_text(path), "\t" if path.suffix.lower() == ".tsv" else ",;\t"
    if match := re.match(r"sep=(.)\r?\n", text):  # Excel's
        text, delimiters = text[match.end() - 1 :], match[1]
    tables: dict[str, list[_Cells]] = {}
    fault = None
    for delimiter in delimiters:
        try:
            tables[delimiter] = _table(text, delimiter)
        except csv.Error as error:
            fault = fault or error
    fitting = [table for table in tables.values() if table and all(len(row.cells) > 1 for row in table)]
    if fault and not fitting:
        raise ValueError(f"{path} cannot be read as CSV: {fault}.") from fault
    if len(fitting) > 1:  # the others' delimiters are parts of names
        fitting = [table for table in fitting if _is_recognised(table, disk)]
        if len(fitting) != 1:
            raise ValueError(f"{path} can be split at several of comma, semicolon and tab; quote names that have one.")
    table = fitting[0] if fitting else max(tables.values(), key=lambda table: sum(len(row.cells) > 1 for row in table))
    if not table:
        return []
    if all(len(row.cells) == 1 for row in table):
        lines = [(int(row.place.split()[1]), row.cells[0]) for row in table]
        has_header = _key(lines[0][1]) in _PATH and not disk.is_video(lines[0][1])
        return _from_lines(path, lines[has_header:], disk, several)
    header = _header(path, table, disk)
    width = len(table[0].cells)
    wrong = next((row for row in table if len(row.cells) != width), None)
    if wrong is not None:
        expected = (
            f"{width} values, as in its header" if header else f"a path and a label, as in line 1: {width} values"
        )
        raise ValueError(
            f"{path}, {wrong.place}, has the row {','.join(wrong.cells)!r}; expected {expected}. Names with commas "
            "need quotes."
        )
    if header is None:
        return _by_position(path, table, disk)
    twice = next((name for name, count in Counter(filter(None, header)).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has two columns {twice!r}; rename one.")
    records = [(row.place, dict(zip(header, row.cells, strict=True))) for row in table[1:]]
    return _from_records(path, records, disk, labelled, several)


def _table(text: str, delimiter: str) -> list[_Cells]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
    return [_Cells(f"line {number}", cells) for number, cells in rows if any(cells)]


def _is_recognised(table: list[_Cells], disk: Disk) -> bool:
    keys = {_key(cell) for cell in table[0].cells}
    return not keys.isdisjoint((*_PATH, *_LABEL)) or any(disk.is_video(cell) for row in table[:8] for cell in row.cells)


def _key(name: object) -> str:
    """Return the name of a column, without what does not matter."""
    return re.sub(r"[\W_]+", "", str(name)).lower()


def _header(path: Path, table: list[_Cells], disk: Disk) -> list[str] | None:
    """Return the first row, if it names columns; None if it is a video.

    Raises:
        ValueError: if it may be either.
    """
    cells = table[0].cells
    values: list[set[str]] = [set() for _ in cells]
    for row in table[1:]:
        for column, cell in zip(values, row.cells, strict=False):
            column.add(cell)
    looks = not any(
        is_video_name(cell) or ANY_NUMBER.fullmatch(cell) or "/" in cell or (cell and cell in column)
        for cell, column in zip(cells, values, strict=True)
    )
    keys = {_key(cell) for cell in cells}
    has_path, has_label = not keys.isdisjoint((*_PATH, "youtubeid")), not keys.isdisjoint(_LABEL)
    if any(disk.is_video(cell) for cell in cells):
        if has_path and has_label:
            raise ValueError(
                f"{path}, line 1, is {','.join(cells)!r}, which may name columns, but a video of this name "
                "exists; rename the column."
            )
        return None
    if has_path and has_label:
        return cells
    if not looks:
        return None
    if not has_path and not has_label:
        raise ValueError(
            f"{path} has the columns {shortened(cells)}, and no such video exists; expected a name for the path "
            "(path, video, filename, clip, ...) and one for the label (label, class, target, ...)."
        )
    return cells


def _by_position(path: Path, table: list[_Cells], disk: Disk) -> list[Row]:
    """Read rows without a header: a path and a label, with or without a number of frames and a split."""
    columns = list(zip(*(row.cells for row in table), strict=True))
    found = [sum(map(disk.is_video, column[:100])) for column in columns]
    there = [j for j, count in enumerate(found) if count and count == max(found)]
    there = there or [j for j, column in enumerate(columns) if any(map(is_video_name, column))] or [0]
    others = [j for j in range(len(columns)) if j != there[0]]
    splits = [j for j in others if {value.lower() for value in columns[j]} <= SPLITS]
    labels = [j for j in others if j not in splits]
    counted = len(labels) == 2 and all(_are_integers(value) for j in labels for value in columns[j])
    if counted and there[0] == 0:
        say(f"{path} has no header and is read as path, frames, label.")
        for row in table:
            _check_frames(path, row.place, row.cells[labels[0]])
        labels = labels[1:]
    if len(there) > 1 or len(splits) > 1 or len(labels) != 1:
        raise ValueError(
            f"{path} has {len(columns)} columns and no header, such as {','.join(table[0].cells)!r}, so that its label "
            "is unclear; add a header, such as path,label."
        )
    split = splits[0] if splits else None
    return [
        Row(row.place, row.cells[there[0]], row.cells[labels[0]], None if split is None else row.cells[split])
        for row in table
    ]


def _from_json(path: Path, disk: Disk, labelled: bool, several: bool) -> list[Row]:
    records = parse_json(path)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} is not a list of objects; expected {{'path': ..., 'label': ...}} for each video.")
    return _from_records(path, [(f"entry {i}", record) for i, record in enumerate(records, 1)], disk, labelled, several)


def _from_parquet(path: Path, disk: Disk, labelled: bool, several: bool) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        wanted = (*_PATH, *_LABEL, *_SPLIT)
        schema = pq.read_schema(path)
        # Embeddings and files in a column are large, and no name; any other may be that of the splits.
        large = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
        names = [c.name for c in schema if _key(c.name) in wanted or not any(is_of(c.type) for is_of in large)]
        table = pq.read_table(path, columns=names or schema.names)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}.") from error
    records = [(f"row {i}", record) for i, record in enumerate(table.to_pylist(), 1)]
    return _from_records(path, records, disk, labelled, several)


READERS: dict[str, Callable[[Path, Disk, bool, bool], list[Row]]] = {
    ".txt": _from_txt,
    ".csv": _from_csv,
    ".tsv": _from_csv,
    ".json": _from_json,
    ".parquet": _from_parquet,
}


def _from_records(
    path: Path, records: list[tuple[str, dict[str, Any]]], disk: Disk, labelled: bool, multi_label: bool
) -> list[Row]:
    """Read named values: a path and a label, Kinetics', Something-Something's or Charades'."""
    if not records:
        return []
    keys: dict[str, str] = {}
    for name in dict.fromkeys(name for _, record in records for name in record):
        other = keys.setdefault(_key(name), name)
        if other != name and _key(name) in (*_PATH, *_LABEL, *_SPLIT):
            raise ValueError(f"{path} has the columns {other!r} and {name!r}; rename one.")

    def get(place: str, record: dict[str, Any], key: str) -> str:
        if keys[key] not in record:
            raise ValueError(f"{path}, {place}, has no {keys[key]!r}; expected it in each, as in others.")
        return _as_text(path, place, record[keys[key]])

    def names_splits(key: str) -> bool:
        return {str(record.get(keys[key])).lower() for _, record in records} <= SPLITS

    split = next((key for key in _SPLIT if key in keys), None)
    if split is None:  # as without a header
        split = next((key for key in keys if key not in (*_PATH, *_LABEL) and names_splits(key)), None)

    if part := [name for key, name in keys.items() if _PART.fullmatch(key) and key != split]:
        say(f"{path} has {shortened(part)}, which chooses nothing: all its videos are read. List those to use.")

    def row(place: str, record: dict[str, Any], video: str, label: str | None) -> Row:
        return Row(place, video, label, None if split is None else get(place, record, split))

    def labelled_row(place: str, record: dict[str, Any]) -> Row:
        assert video is not None
        name, values = get(place, record, video), None if label is None else record.get(keys[label])
        if multi_label and isinstance(values, list):
            return row(place, record, name, "")._replace(labels=tuple(_as_text(path, place, value) for value in values))
        return row(place, record, name, None if label is None else get(place, record, label))

    if {"id", "actions", "script"} <= keys.keys():
        if not multi_label:
            raise ValueError(f"{path} is a list of Charades, whose videos have several labels each; {SEVERAL}.")
        say(f"{path} is read as Charades' own: the actions of each video, without their times.")
        return [_of_charades(path, place, record, get, disk) for place, record in records]

    video, label = _choose_path(path, keys, records, disk), next((key for key in _LABEL if key in keys), None)
    several = [keys[key] for key in _LABEL if key in keys]
    if video is not None and len(several) > 1 and label != "label":
        raise ValueError(
            f"{path} has the columns {shortened(several)} for the label; name the one that counts 'label'."
        )
    if video is not None and label is None and labelled:
        raise ValueError(
            f"{path} has the columns {shortened(list(map(str, records[0][1])))}; expected a usual name for that of the "
            "label (label, class, target, ...): rename it."
        )
    if video is not None:
        segment = [] if "youtubeid" in keys else [name for key, name in keys.items() if key in _SEGMENT]
        if segment:
            say(f"{path} has {shortened(segment)}: parts are not cut out of videos; each is read whole.")
        return [labelled_row(place, record) for place, record in records]
    if {"youtubeid", "label", "timestart", "timeend"} <= keys.keys():
        rows = []
        for place, record in records:
            start, end = (_seconds(path, place, get(place, record, key)) for key in ("timestart", "timeend"))
            name, kind = f"{get(place, record, 'youtubeid')}_{start:06d}_{end:06d}", get(place, record, "label")
            rows.append(row(place, record, disk.locate(name, kind), kind))
        return rows
    if {"id", "template"} <= keys.keys():
        rows = []
        for place, record in records:
            kind = re.sub(r"[\[\]]", "", get(place, record, "template"))
            rows.append(row(place, record, disk.locate(get(place, record, "id"), kind), kind))
        return rows
    raise ValueError(
        f"{path} has {', '.join(map(printable, map(str, records[0][1])))} for each video; expected path and label, "
        "Kinetics' label, youtube_id, time_start and time_end, or Something-Something's id and template."
    )


def _of_charades(path: Path, place: str, record: dict[str, Any], get: Callable[..., str], disk: Disk) -> Row:
    """Return a video of Charades: its actions are "c092 11.90 21.20;c147 0.00 12.60", a code and seconds."""
    codes = [part.split()[0] for part in get(place, record, "actions").split(";") if part.strip()]
    odd = next((code for code in codes if not re.fullmatch(r"c[0-9]{3}", code)), None)
    if odd is not None:
        raise ValueError(f"{path}, {place}, has the action {odd!r}; expected Charades' codes, such as c092.")
    labels = tuple(dict.fromkeys(str(int(code[1:])) for code in codes))
    return Row(place, disk.locate(get(place, record, "id"), ""), "", labels=labels)


def _choose_path(path: Path, keys: dict[str, str], records: list[tuple[str, dict[str, Any]]], disk: Disk) -> str | None:
    """Return the column of paths; of several, the one whose files exist."""
    candidates = [key for key in _PATH if key in keys]
    if len(candidates) > 1 and candidates[0] != "path":
        there = [key for key in candidates if any(disk.is_video(str(r.get(keys[key]) or "")) for _, r in records)]
        if len(there) > 1:
            names = shortened([keys[key] for key in there])
            raise ValueError(f"{path} has the columns {names} for the path; name the one that counts 'path'.")
        candidates = there or candidates
    return candidates[0] if candidates else None


def _as_text(path: Path, place: str, value: object) -> str:
    """Return a value of a table as text; "" where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        more = f"; {SEVERAL}" if isinstance(value, list) else ""
        raise ValueError(f"{path}, {place}, has {value!r}; expected a string or a number{more}.")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _seconds(path: Path, place: str, text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise ValueError(f"{path}, {place}, has {text!r} for a time; expected whole seconds.")
    return int(float(text))
