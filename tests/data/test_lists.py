"""Tests of lists of videos and their classes: each form that people have, and what may be meant two ways."""

import csv
import io
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inti_models.data import VideoList, find_videos, read_class_names
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def a_list(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def found(videos: VideoList, root: Path) -> list[tuple[str, str]]:
    """Paths relative to a folder, and names of their classes."""
    return [
        (Path(path).relative_to(root).as_posix(), videos.class_names[label])
        for path, label in zip(videos.paths, videos.labels, strict=True)
    ]


# Folders


def test_folder_of_classes(tmp_path: Path) -> None:
    touch(tmp_path, "walk/b 2.mp4", "walk/a.AVI", "run/c.webm", "run/notes.txt", ".cache/x.mp4", "readme.mp4")
    touch(tmp_path, "run/frames/img_1.jpg", "run/.hidden.mp4", "run/nothing/notes.txt")
    (tmp_path / "empty").mkdir()
    videos = find_videos(tmp_path)
    assert videos.class_names == ("empty", "run", "walk")
    assert found(videos, tmp_path) == [
        ("run/c.webm", "run"),
        ("run/frames", "run"),
        ("walk/a.AVI", "walk"),
        ("walk/b 2.mp4", "walk"),
    ]
    assert len(videos) == 4


def test_folder_takes_indices_from_given_names(tmp_path: Path) -> None:
    touch(tmp_path, "0/a.mp4", "1/b.mp4")
    videos = find_videos(str(tmp_path), class_names=["2", "1", "0"])
    assert videos.class_names == ("2", "1", "0")
    assert videos.labels == (2, 1)
    with pytest.raises(ValueError, match=r"has the label '1'; expected one of 0, 2: there are 2 classes"):
        find_videos(tmp_path, class_names=["0", "2"])


def test_folder_without_videos_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.txt")
    with pytest.raises(ValueError, match="has no videos; expected a folder for each class"):
        find_videos(tmp_path)


# Lists. Each holds the same four videos of three classes.

VIDEOS = ["run/a.mp4", "run/b 2.mp4", "walk/c.mp4", "long jump/d.mp4"]
NAMES = ["run", "run", "walk", "long jump"]
FRAMES = ["run/a", "run/b 2", "walk/c", "long jump/d"]


def lines(*columns: list, separator: str = " ") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


INDEXED = {
    "path label": ("list.txt", lines(VIDEOS, [0, 0, 2, 1])),
    "path label, blank lines, no end": (
        "list.txt",
        "\ufeff\n" + lines(VIDEOS, [0, 0, 2, 1]).replace("\n", "\r\n\n")[:-3],
    ),
    "path, tab, label": ("list.txt", lines(VIDEOS, [0, 0, 2, 1], separator="\t")),
    "frames of a video": ("list.txt", lines(VIDEOS, [30, 4, 250, 9], [0, 0, 2, 1])),
    "csv with header": ("list.csv", "path,label\n" + lines(VIDEOS, [0, 0, 2, 1], separator=",")),
    "csv with more columns": ("list.csv", "Label, id, Path\n" + lines([0, 0, 2, 1], "wxyz", VIDEOS, separator=", ")),
    "csv of path,label": ("list.csv", lines(VIDEOS, [0, 0, 2, 1], separator=",")),
    "csv of path,frames,label": ("list.csv", lines(VIDEOS, [9, 9, 9, 9], [0, 0, 2, 1], separator=",")),
    "csv of path label": ("list.csv", lines(VIDEOS, [0, 0, 2, 1])),
    "json": ("list.json", json.dumps([{"path": v, "label": i} for v, i in zip(VIDEOS, [0, 0, 2, 1], strict=True)])),
}
NAMED = {
    "path name": ("list.txt", lines(VIDEOS, NAMES)),
    "path, tab, name": ("list.txt", lines(VIDEOS, NAMES, separator="\t")),
    "path alone": ("list.txt", lines(VIDEOS)),
    "csv with header": ("list.csv", "path,label\n" + lines(VIDEOS, NAMES, separator=",")),
    "csv of path,name": ("list.csv", lines(VIDEOS, NAMES, separator=",")),
    "csv of path name": ("list.csv", lines(VIDEOS, NAMES)),
    "json": ("list.json", json.dumps([{"path": v, "label": n} for v, n in zip(VIDEOS, NAMES, strict=True)])),
}


@pytest.mark.parametrize("form", INDEXED)
def test_lists_with_indices(tmp_path: Path, form: str) -> None:
    name, content = INDEXED[form]
    touch(tmp_path, *VIDEOS)
    file = a_list(tmp_path / name, content)
    videos = find_videos(file)
    assert found(videos, tmp_path) == list(zip(VIDEOS, ["0", "0", "2", "1"], strict=True))
    assert videos.class_names == ("0", "1", "2")

    named = find_videos(file, class_names=("run", "long jump", "walk", "swim"))
    assert found(named, tmp_path) == list(zip(VIDEOS, NAMES, strict=True))
    assert named.class_names == ("run", "long jump", "walk", "swim")
    with pytest.raises(ValueError, match="label '2'; expected a number from 0 to 1: there are 2 classes"):
        find_videos(file, class_names=("run", "walk"))


@pytest.mark.parametrize("form", NAMED)
def test_lists_with_names(tmp_path: Path, form: str) -> None:
    name, content = NAMED[form]
    touch(tmp_path, *VIDEOS)
    file = a_list(tmp_path / name, content)
    videos = find_videos(file)
    assert found(videos, tmp_path) == list(zip(VIDEOS, NAMES, strict=True))
    assert videos.class_names == ("long jump", "run", "walk")

    given = find_videos(file, class_names=("walk", "run", "swim", "long jump"))
    assert found(given, tmp_path) == list(zip(VIDEOS, NAMES, strict=True))
    assert given.labels == (1, 1, 0, 3)
    with pytest.raises(ValueError, match="label 'walk'; expected one of run, long jump: there are 2 classes"):
        find_videos(file, class_names=("run", "long jump"))


def test_list_of_frame_folders(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{folder}/img_00001.jpg" for folder in FRAMES))
    videos = find_videos(a_list(tmp_path / "list.txt", lines(FRAMES, [30, 4, 250, 9], [0, 0, 2, 1])))
    assert found(videos, tmp_path) == list(zip(FRAMES, ["0", "0", "2", "1"], strict=True))


def test_paths_start_at_the_root_or_are_absolute(tmp_path: Path) -> None:
    touch(tmp_path / "videos", *VIDEOS)
    (tmp_path / "lists").mkdir()
    file = a_list(tmp_path / "lists/train.txt", lines(VIDEOS, NAMES))
    with pytest.raises(FileNotFoundError, match=r"None of the 4 videos of .*train.txt exists, such as .*a.mp4"):
        find_videos(file)
    videos = find_videos(file, root=tmp_path / "videos")
    assert found(videos, tmp_path / "videos") == list(zip(VIDEOS, NAMES, strict=True))
    absolute = a_list(tmp_path / "lists/absolute.txt", lines(videos.paths, NAMES))
    assert find_videos(absolute, root="elsewhere") == videos


@pytest.mark.parametrize("missing", range(4))
def test_missing_videos_are_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: int) -> None:
    touch(tmp_path, *(video for i, video in enumerate(VIDEOS) if i != missing))
    for form in ("path name", "path, tab, name", "csv of path,name", "csv with header", "json"):
        name, content = NAMED[form]
        videos = find_videos(a_list(tmp_path / name, content))
        assert found(videos, tmp_path) == list(zip(VIDEOS, NAMES, strict=True))
    assert sum("1 of 4 videos are missing" in message for message in caplog.messages) == 3  # of each file, once


def test_ucf101s_own_lists(tmp_path: Path) -> None:
    """Train lists count from 1, test lists have no label; beside ``classInd.txt`` the folder is the class."""
    touch(tmp_path / "videos", "ApplyEyeMakeup/v_1.avi", "YoYo/v_2.avi")
    a_list(tmp_path / "classInd.txt", "1 ApplyEyeMakeup\r\n10 YoYo\r\n2 Archery\r\n")
    expected = [("ApplyEyeMakeup/v_1.avi", "ApplyEyeMakeup"), ("YoYo/v_2.avi", "YoYo")]
    train = a_list(tmp_path / "trainlist01.txt", "ApplyEyeMakeup/v_1.avi 1\r\nYoYo/v_2.avi 10\r\n")
    test = a_list(tmp_path / "testlist01.txt", "ApplyEyeMakeup/v_1.avi\r\nYoYo/v_2.avi\r\n")
    names = ("ApplyEyeMakeup", "Archery", "YoYo")
    for file in (train, test):
        for class_names in (None, names):
            videos = find_videos(file, tmp_path / "videos", class_names=class_names)
            assert found(videos, tmp_path / "videos") == expected
            assert videos.class_names == names


@pytest.mark.parametrize(
    "layout", ["{id}_000012_000022.mp4", "{label}/{id}_000012_000022.mp4", "{id}_000012_000022.mkv"]
)
def test_kinetics_own_csv(tmp_path: Path, layout: str) -> None:
    rows = [("playing cards", "-aB_c"), ("abseiling", "xyz")]
    paths = [layout.format(label=label, id=name) for label, name in rows]
    touch(tmp_path, *paths)
    content = "".join(f"{label},{name},12,22,train\n" for label, name in rows)
    file = a_list(tmp_path / "train.csv", "label,youtube_id,time_start,time_end,split\n" + content)
    videos = find_videos(file)
    assert found(videos, tmp_path) == list(zip(paths, ["playing cards", "abseiling"], strict=True))
    assert videos.class_names == ("abseiling", "playing cards")


@pytest.mark.parametrize("suffix", [".webm", ".mp4", ""])
def test_something_somethings_own_json(tmp_path: Path, suffix: str) -> None:
    records = [
        {"id": "78687", "label": "holding potato next to vicks", "template": "Holding [something] next to [something]"},
        {"id": "42326", "label": "covering salt", "template": "Covering [something]", "placeholders": ["salt"]},
    ]
    if suffix:
        touch(tmp_path, f"v/78687{suffix}", f"v/42326{suffix}")
    else:
        touch(tmp_path, "v/78687/000001.jpg", "v/42326/000001.jpg")
    file = a_list(tmp_path / "train.json", json.dumps(records))
    expected = [(f"78687{suffix}", "Holding something next to something"), (f"42326{suffix}", "Covering something")]
    videos = find_videos(file, root=tmp_path / "v")
    assert found(videos, tmp_path / "v") == expected
    assert videos.class_names == ("Covering something", "Holding something next to something")

    numbers = {"Holding something next to something": "0", "Covering something": "2", "Other": "1"}
    a_list(tmp_path / "labels.json", json.dumps(numbers))
    videos = find_videos(file, root=tmp_path / "v")
    assert found(videos, tmp_path / "v") == expected
    assert videos.labels == (0, 2)


def test_class_names_beside_a_list(tmp_path: Path) -> None:
    touch(tmp_path, *VIDEOS)
    a_list(tmp_path / "class_names.txt", "run\nlong jump\nwalk\nswim\n")
    for content in (lines(VIDEOS, [0, 0, 2, 1]), lines(VIDEOS, NAMES)):
        videos = find_videos(a_list(tmp_path / "list.txt", content))
        assert found(videos, tmp_path) == list(zip(VIDEOS, NAMES, strict=True))
        assert videos.class_names == ("run", "long jump", "walk", "swim")


def test_exported_motion_digits_are_found(tmp_path: Path) -> None:
    digits = MotionDigits("validation", size=16, num_frames=2, length=5)
    videos = find_videos(digits.export(tmp_path))
    assert videos.class_names == CLASS_NAMES
    assert videos.labels == tuple(digits.render(range(5)).labels.tolist())
    assert all(Path(path).is_file() for path in videos.paths)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.txt", "", "lists no videos"),
        ("list.txt", "a.mp4 0\nfolder jump high\n", "Line 2 of .*list.txt is 'folder jump high'; expected a video"),
        ("list.txt", "a.mp4 -1\n", "label '-1'; expected a number from 0"),
        ("list.csv", "", "lists no videos"),
        ("list.csv", "path,label\n", "lists no videos"),
        ("list.csv", "path,label\na.mp4\n", "row 'a.mp4'; expected 2 values, as in its header"),
        ("list.csv", "a.mp4,0\nb.mp4\n", "row 'b.mp4'; expected a path and a label"),
        ("list.csv", "label,youtube_id,time_start,time_end\nx,y,a,b\n", "line 2, has 'a' for a time"),
        ("list.json", "{}", "not a list of objects"),
        ("list.json", "[1]", "not a list of objects"),
        ("list.json", '[{"id": "1"}]', "has id for each video; expected path and label"),
        ("list.json", '[{"path": "a.mp4", "label": 0}, {"path": "a.mp4"}]', "entry 2, has no 'label'"),
        ("list.json", "[", "cannot be read as JSON"),
        ("list.yaml", "a.mp4 0", "is not a list; expected a folder, or a file that ends in .txt, .csv"),
    ],
)
def test_lists_that_cannot_be_understood(tmp_path: Path, name: str, content: str, message: str) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match=message):
        find_videos(a_list(tmp_path / name, content))


def test_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not UTF-16 text"):
        find_videos(tmp_path / "list.txt")


def test_class_names_that_cannot_be_understood(tmp_path: Path) -> None:
    touch(tmp_path, *VIDEOS)
    file = a_list(tmp_path / "list.txt", lines(VIDEOS, NAMES))
    with pytest.raises(ValueError, match="two classes named 'run'"):
        find_videos(file, class_names=("run", "walk", "run"))
    a_list(tmp_path / "classInd.txt", "run\nwalk\n")
    with pytest.raises(ValueError, match=r"classInd.txt cannot be read as class names"):
        find_videos(file)


def test_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder or list file .*nowhere"):
        find_videos(tmp_path / "nowhere")


# What may be meant two ways


def labels_of(file: Path, **arguments: object) -> dict[str, str]:
    """Name of the file -> name of its class."""
    videos = find_videos(file, **arguments)
    return {Path(path).name: videos.class_names[label] for path, label in zip(videos.paths, videos.labels, strict=True)}


THREE = ("a.mp4", "b 2.mp4", "c.mp4")
TABLE = {"a.mp4": "2", "b 2.mp4": "0", "c.mp4": "1"}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    touch(tmp_path, *THREE)
    return tmp_path


def table(header: str, separator: str = ",", more: str = "") -> str:
    return header + "".join(f"{path}{separator}{label}{more}\n" for path, label in TABLE.items())


HEADERS = (
    "video_name,tag",
    "name,target",
    "file_name,label_id",
    "clip,y",
    "clip_path,target",
    "path,class",
    "Video Path,Label",
    "FILENAME,CATEGORY",
    "video-file,class_name",
    "file,action",
    "video,label",
    "videoPath,labelName",
)
TABLES = {
    **{header: table(header + "\n") for header in HEADERS},
    "semicolons": table("path;label\n", ";"),
    "semicolons, no header": table("", ";"),
    "tabs": table("path\tlabel\n", "\t"),
    "index of pandas": ",path,label\n0,a.mp4,2\n1,b 2.mp4,0\n2,c.mp4,1\n",
    "label first": "2,a.mp4\n0,b 2.mp4\n1,c.mp4\n",
    "split, no header": table("", more=",train"),
    "one split": table("video_path,label,split\n", more=",train"),
    "Excel's own first line": "sep=;\n" + table("path;label\n", ";"),
    "floats": "path,label\na.mp4,2.0\nb 2.mp4,0.0\nc.mp4,1.0\n",
    "carriage returns": table("path,label\n").replace("\n", "\r"),
    "all in quotes": '"path","label"\n"a.mp4","2"\n"b 2.mp4","0"\n"c.mp4","1"\n',
    "two columns for the path, of which one has files": "name,video,label\nx,a.mp4,2\ny,b 2.mp4,0\nz,c.mp4,1\n",
    "exact names come first": "name,path,class,label\na.mp4,a.mp4,9,2\na.mp4,b 2.mp4,9,0\na.mp4,c.mp4,9,1\n",
}


@pytest.mark.parametrize("form", TABLES)
def test_tables_mean_the_same_in_every_form(three: Path, form: str) -> None:
    (three / "clip").mkdir()  # a folder of the name of a column is no video
    assert labels_of(a_list(three / "list.csv", TABLES[form])) == TABLE


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_text_in_every_encoding_that_says_which_it_is(tmp_path: Path, encoding: str, ends: str) -> None:
    touch(tmp_path, "ä.mp4", "b.mp4")
    for name, content in (("list.csv", "path,label\nä.mp4,été\nb.mp4,run\n"), ("list.txt", "ä.mp4 été\nb.mp4 run\n")):
        (tmp_path / name).write_bytes(content.replace("\n", ends).encode(encoding))
        if encoding in ("utf-16-le", "utf-16-be", "latin-1"):
            with pytest.raises(ValueError, match="save it as UTF-8"):
                find_videos(tmp_path / name)
        else:
            assert labels_of(tmp_path / name) == {"ä.mp4": "été", "b.mp4": "run"}


def test_split_is_used_where_it_is_asked_for(three: Path) -> None:
    for name, content in (
        ("list.csv", "video_path,label,split\na.mp4,2,train\nb 2.mp4,0,val\nc.mp4,1,train\n"),
        ("bare.csv", "a.mp4,2,train\nb 2.mp4,0,val\nc.mp4,1,train\n"),
        (
            "list.json",
            json.dumps([{"file": f, "y": y, "subset": s} for (f, y), s in zip(TABLE.items(), "tvt", strict=True)]),
        ),
    ):
        file = a_list(three / name, content)
        train, other = ("t", "v") if name == "list.json" else ("train", "val")
        assert labels_of(file, split=train) == {"a.mp4": "2", "c.mp4": "1"}
        assert labels_of(file, split=other) == {"b 2.mp4": "0"}
        with pytest.raises(ValueError, match=f"has videos of the splits {train}, {other}; name one"):
            find_videos(file)
        with pytest.raises(ValueError, match=f"has the splits {train}, {other}; there is no 'all'"):
            find_videos(file, split="all")
    for column in ("phase", "usage", "part of the data"):
        named = a_list(three / "list.csv", f"path,{column},label\na.mp4,train,2\nb 2.mp4,val,0\nc.mp4,train,1\n")
        assert labels_of(named, split="train") == {"a.mp4": "2", "c.mp4": "1"}
    train = {"a.mp4": "2", "b 2.mp4": "0"}  # in any case
    assert (
        labels_of(a_list(three / "list.csv", "a.mp4,2,train\nb 2.mp4,0,Train\nc.mp4,1,val\n"), split="TRAIN") == train
    )
    with pytest.raises(ValueError, match="has no column of splits"):
        find_videos(a_list(three / "plain.csv", table("path,label\n")), split="train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("foo,bar\na.mp4,2\nc.mp4,1\n", "has the columns foo, bar"),
        ("video,emotion\na.mp4,2\nc.mp4,1\n", "has the columns video, emotion; expected a usual name"),
        ("path,label_id,label_name\na.mp4,0,run\n", "has the columns label_id, label_name for the label"),
        ("name,file,label\na.mp4,c.mp4,0\n", "has the columns file, name for the path"),
        ("path,label,label\na.mp4,0,1\n", "has two columns 'label'"),
        ("a.mp4,3,4,5\n", "has 4 columns and no header"),
        ("a.mp4,train\nc.mp4,test\n", "so that its label is unclear"),
        ("a.mp4,riding a bike, fast\n", "so that its label is unclear"),
        ("a.mp4,run\nc.mp4,riding a bike, fast\n", "line 2, has the row .* Names with commas need quotes"),
        ('a.mp4,"run\n', "cannot be read as CSV"),
        ("path,label\n,1\n", "line 2, has no path"),
    ],
)
def test_tables_that_cannot_be_told_are_refused(three: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_videos(a_list(three / "list.csv", content))


def test_header_that_is_also_a_video_is_refused(three: Path) -> None:
    touch(three, "video/1.jpg")
    with pytest.raises(ValueError, match="'video,label', which may name columns"):
        find_videos(a_list(three / "list.csv", "video,label\na.mp4,0\n"))


MISSING = ["", "nan", "NaN", "null", "None", "N/A", "<NA>"]


@pytest.mark.parametrize("label", [*MISSING, "walk", "1.5", "-1", "1000000000", "1e3", "2x", "1,0", "0|1", "1.2.3"])
@pytest.mark.parametrize("kind", ["number", "name"])
def test_one_label_of_another_kind_names_its_row(three: Path, label: str, kind: str) -> None:
    others = ("0", "1") if kind == "number" else ("run", "jump")
    file = a_list(three / "list.csv", f'path,label\na.mp4,{others[0]}\nb 2.mp4,"{label}"\nc.mp4,{others[1]}\n')
    if kind == "name" and label in ("walk", "2x"):
        assert labels_of(file) == {"a.mp4": "run", "b 2.mp4": label, "c.mp4": "jump"}
        return
    with pytest.raises(ValueError, match="line 3"):
        find_videos(file)


@pytest.mark.parametrize("value", [None, float("nan"), True, [1], {"a": 1}, "", 10**30])
def test_one_json_label_of_another_kind_names_its_entry(three: Path, value: object) -> None:
    entries = [{"path": path, "label": label} for path, label in zip(THREE, (0, value, 1), strict=True)]
    with pytest.raises(ValueError, match="entry 2"):
        find_videos(a_list(three / "list.json", json.dumps(entries)))


def test_numbers_of_json_are_whole(three: Path) -> None:
    for labels in ((2, 0, 1), (2.0, 0.0, 1.0), ("2", "0", "1"), (2.0, "0", 1)):
        entries = [{"path": path, "label": label} for path, label in zip(THREE, labels, strict=True)]
        assert labels_of(a_list(three / "list.json", json.dumps(entries))) == TABLE


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("01", "1", "2"), r"writes one class as '01' \(line 1\) and as '1' \(line 2\)"),
        (("1", "1.0", "2"), "writes one class as '1'"),
        (("Run", "run", "walk"), "'Run' and 'run', which differ only in case"),
        (("a b", "a  b", "walk"), "which differ only in case, blanks or encoding"),
        (("caf\u00e9", "cafe\u0301", "walk"), "which differ only in case, blanks or encoding"),
        (("stra\u00dfe", "STRASSE", "walk"), "which differ only in case, blanks or encoding"),
    ],
)
def test_classes_that_differ_in_writing_alone_are_refused(three: Path, labels: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_videos(a_list(three / "list.csv", lines(THREE, labels, separator=",")))


def test_padded_numbers_are_numbers(three: Path) -> None:
    assert labels_of(a_list(three / "list.csv", lines(THREE, ["02", "00", "01"], separator=","))) == TABLE


def test_names_that_look_missing_or_like_numbers_need_a_list_of_names(three: Path) -> None:
    file = a_list(three / "list.csv", lines(THREE, ["none", "7", "run"], separator=","))
    expected = {"a.mp4": "none", "b 2.mp4": "7", "c.mp4": "run"}
    assert labels_of(file, class_names=["7", "none", "run"]) == expected
    a_list(three / "class_names.txt", "run\nnone\n7\n")
    assert labels_of(file) == expected


def test_number_that_is_also_another_classs_name_is_refused(three: Path) -> None:
    file = a_list(three / "list.csv", lines(THREE, ["0", "1", "1"], separator=","))
    assert find_videos(file, class_names=["0", "1"]).labels == (0, 1, 1)
    with pytest.raises(ValueError, match="'0', which is the number of one class and the name of another"):
        find_videos(file, class_names=["1", "0"])


def test_video_with_two_classes_is_refused(three: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"a\.mp4 as 'run' \(line 1\) and as 'walk' \(line 3\)"):
        find_videos(a_list(three / "list.csv", "a.mp4,run\nc.mp4,walk\n./a.mp4,walk\n"))
    again = find_videos(a_list(three / "list.csv", "a.mp4,run\nc.mp4,walk\na.mp4,run\n"))
    assert again.labels == (0, 1, 0) and "lists 1 videos again" in caplog.text


NUMBERED = {
    "from 1": ("labels.json", '{"archery": 1, "bowling": 2, "surfing": 3}', "123"),
    "gaps": ("labels.json", '{"surfing": 7, "archery": 0, "bowling": 2}', "027"),
    "texts": ("labels.json", '{"archery": "1", "bowling": "2", "surfing": "3"}', "123"),
    "number to name": ("labels.json", '{"10": "surfing", "1": "archery", "2": "bowling"}', ("1", "2", "10")),
    "list of names": ("labels.json", '["archery", "bowling", "surfing"]', "012"),
    "classInd.txt": ("classInd.txt", "5 archery\n6 bowling\n9 surfing\n", "569"),
    "numbered lines from 1": ("class_names.txt", "1 archery\n2 bowling\n3 surfing\n", "123"),
    "numbered lines from 0": ("class_names.txt", "0\tarchery\n1\tbowling\n2\tsurfing\n", "012"),
    "numbered lines with commas": ("class_names.txt", "0,archery\n1,bowling\n2,surfing\n", "012"),
    "names": ("class_names.txt", "archery\nbowling\nsurfing\n", "012"),
}


@pytest.mark.parametrize("form", NUMBERED)
def test_numbers_beside_names_are_those_of_the_list(three: Path, form: str) -> None:
    name, content, numbers = NUMBERED[form]
    a_list(three / name, content)
    videos = find_videos(a_list(three / "list.txt", lines(THREE, numbers)))
    assert (videos.class_names, videos.labels) == (("archery", "bowling", "surfing"), (0, 1, 2))
    some = find_videos(a_list(three / "list.txt", lines(THREE[:2], numbers[1:])))
    assert [some.class_names[label] for label in some.labels] == ["bowling", "surfing"]
    with pytest.raises(ValueError, match="line 1, has the label '4'"):
        find_videos(a_list(three / "list.txt", "a.mp4 4\n"))
    # The classes go on to a list elsewhere, numbers and all.
    touch(three / "other", *THREE)
    other = find_videos(a_list(three / "other/list.txt", lines(THREE[:2], numbers[1:])), class_names=videos.classes)
    assert (other.class_names, other.labels) == (videos.class_names, (1, 2))
    # Names that are given say the order of indices.
    given_names = find_videos(a_list(three / "list.txt", lines(THREE[:2], numbers[:2])), class_names=videos.class_names)
    assert given_names.labels == (0, 1)
    if name == "class_names.txt":
        assert read_class_names(three / name) == videos.classes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.json", '{"a": 1, "b": 1}', "two classes have the number 1"),
        ("labels.json", '{"a": 1, "a": 2}', "'a' occurs twice"),
        ("labels.json", '{"a": 1, "b": 1.5}', "'b' has 1.5"),
        ("labels.json", '{"a": 1, "b": true}', "'b' has True"),
        ("labels.json", '{"a": 1, "b": null}', "'b' has None"),
        ("labels.json", '{"a": 0, "b": -1}', "'b' has -1"),
        ("labels.json", '{"0": 1, "1": 0}', "all numbers"),
        ("labels.json", "[" * 10_000, "nested too deeply"),
        ("labels.json", "{}", "expected an object"),
        ("classInd.txt", "1 a\n1 b\n", "two classes have the number 1"),
        ("classInd.txt", "1 a\nb\n", "line 2 is 'b'"),
        ("class_names.txt", "100 m\n200 m hurdles\n", "each line begins with a number"),
        ("class_names.txt", "run\nrun\n", "two classes named 'run'"),
        ("class_names.txt", "id,name\n0,a\n1,b\n", "line 1 is 'id,name', .* may be a header"),
        ("class_names.txt", "id name\n0 a\n1 b\n2 c\n", "line 1 is 'id name', .* may be a header"),
        ("class_names.txt", "b 1\na 0\n", "each line ends with a number, such as 'b 1'"),
        ("class_names.txt", "a,1\nb,2\nc,3\n", "each line ends with a number, such as 'a,1'"),
        ("class_names.txt", "c: 2\na: 0\nb: 1\n", "each line ends with a number, such as 'c: 2'"),
    ],
)
def test_names_that_can_be_meant_two_ways_are_refused(three: Path, name: str, content: str, message: str) -> None:
    a_list(three / name, content)
    with pytest.raises(ValueError, match=f"{name} cannot be read as class names .*{message}"):
        find_videos(a_list(three / "list.txt", lines(THREE, [0, 1, 1])))


def test_names_given_in_another_order_than_beside_a_list_of_numbers_are_refused(three: Path) -> None:
    a_list(three / "class_names.txt", "run\nwalk\n")
    with pytest.raises(ValueError, match="mean others by the names beside it"):
        find_videos(a_list(three / "list.txt", lines(THREE, [0, 1, 1])), class_names=["walk", "run"])
    named = find_videos(a_list(three / "list.txt", lines(THREE, ["run", "walk", "run"])), class_names=["walk", "run"])
    assert named.labels == (1, 0, 1)


def test_names_that_end_with_the_number_of_something_are_names(tmp_path: Path) -> None:
    for names in (["camera 0", "camera 1"], ["pump 3", "pump 7"], ["top 10", "run"], ["lane 1"]):
        a_list(tmp_path / "class_names.txt", "".join(f"{name}\n" for name in names))
        assert list(read_class_names(tmp_path / "class_names.txt").values()) == names


def test_names_that_begin_with_the_number_of_something_are_names(tmp_path: Path) -> None:
    assert read_class_names(a_list(tmp_path / "a.txt", "\n".join(CLASS_NAMES))) == dict(enumerate(CLASS_NAMES))
    assert read_class_names(a_list(tmp_path / "b.txt", "0\n1\n2\n")) == {0: "0", 1: "1", 2: "2"}
    assert read_class_names(a_list(tmp_path / "c.txt", "0 up\n1 up\n")) == {0: "0 up", 1: "1 up"}


def test_json_that_is_nested_too_deep_or_a_label_too_large_is_one_sentence(three: Path) -> None:
    for content in ("[" * 10_000, '[{"path": "a.mp4", "label": 1000000000}]'):
        with pytest.raises(ValueError, match="expected") as error:
            find_videos(a_list(three / "list.json", content))
        assert "\n" not in str(error.value)


# Lines of text


@pytest.mark.parametrize(
    ("files", "line", "expected"),
    [
        (["cam.avi 0.mp4"], "cam.avi 0.mp4 walk", ("cam.avi 0.mp4", "walk")),
        (["cam.avi"], "cam.avi 0.mp4 walk", ("cam.avi", "0.mp4 walk")),
        (["my clip 3.mp4"], "my clip 3.mp4 riding a bike", ("my clip 3.mp4", "riding a bike")),
        (["a.tar"], "a.tar walk", ("a.tar", "walk")),
        (["run 1/img_1.jpg"], "run 1 walk", ("run 1", "walk")),
        (["run 1/img_1.jpg", "run/notes.txt"], "run 1 walk", ("run 1", "walk")),
        (["b.mp4"], "b.mp4\tlong jump", ("b.mp4", "long jump")),
        (["a\tb.mp4"], "a\tb.mp4 walk", ("a\tb.mp4", "walk")),
        (["run/a.mp4"], "run/a.mp4", ("a.mp4", "run")),
        (["a.mp4"], "a.mp4 class\x1fname", ("a.mp4", "class\x1fname")),
    ],
)
def test_lines_are_split_where_the_file_exists(tmp_path: Path, files: list, line: str, expected: tuple) -> None:
    touch(tmp_path, *files)
    assert labels_of(a_list(tmp_path / "list.txt", line + "\n")) == dict([expected])


@pytest.mark.parametrize(
    ("files", "content", "message"),
    [
        (["cam.avi", "cam.avi 0.mp4"], "cam.avi 0.mp4 walk\n", "may be 'cam.avi' or 'cam.avi 0.mp4'"),
        (["x.mp4"], "x.mp4 run\ncam.avi 0.mp4 walk\n", "may be 'cam.avi' or 'cam.avi 0.mp4'"),
        (["x.mp4", "run/y.mp4"], "x.mp4 run\nrun/y.mp4\n", "line 2, has no label, but line 1 has"),
        (["x.mp4"], "x.mp4\n", "line 1, has neither a label nor a folder"),
        (["x.mp4", "y.mp4"], "x.mp4 30 1\ny.mp4 1\n", "expected a video and the number of its class"),
        (["x.mp4", "y.mp4"], "x.mp4 0 3\ny.mp4 1 2\n", "line 1, has two numbers"),
        (["x.mp4"], "x.mp4 1 2 3\n", "expected a video and the number of its class"),
    ],
)
def test_lines_that_can_be_split_two_ways_are_refused(tmp_path: Path, files: list, content: str, message: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(ValueError, match=message):
        find_videos(a_list(tmp_path / "list.txt", content))


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_numbers_of_frames_of_a_video_file_are_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    content = "a.mp4 30 1\nb.mp4 25 0\n".replace(" ", "," if name.endswith("csv") else " ")
    assert labels_of(a_list(tmp_path / name, content)) == {"a.mp4": "1", "b.mp4": "0"}
    assert any("is read as path, frames, label" in sentence for sentence in caplog.messages)


@pytest.mark.parametrize("columns", ["start,end", "start_time,end_time", "t_start,t_end", "Start Frame,Stop Frame"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_parts_of_videos_are_announced_as_whole_videos(
    three: Path, caplog: pytest.LogCaptureFixture, columns: str, suffix: str
) -> None:
    (sentence,) = announced(three, caplog, table(f"path,label,{columns}\n", more=",0,10"), suffix)
    assert all(column in sentence for column in columns.split(","))


@pytest.mark.parametrize("columns", ["fold,is_train", "Fold,isTest", "test_fold,k-fold", "fold_id,cv_fold"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_that_choose_videos_are_announced_as_unused(
    three: Path, caplog: pytest.LogCaptureFixture, columns: str, suffix: str
) -> None:
    (sentence,) = announced(three, caplog, table(f"path,label,{columns}\n", more=",2,1"), suffix)
    assert all(column in sentence for column in columns.split(","))


def test_a_fold_of_kinetics_own_list_is_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "abc_000001_000011.mp4")
    file = a_list(tmp_path / "train.csv", "label,youtube_id,time_start,time_end,fold\nwave,abc,1,11,2\n")
    assert labels_of(file) == {"abc_000001_000011.mp4": "wave"}
    assert any("fold" in sentence for sentence in caplog.messages)


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_a_column_of_nothing_but_splits_is_theirs_whatever_its_name(three: Path, suffix: str) -> None:
    parts = zip(TABLE.items(), ("train", "test", "train"), strict=True)
    rows = [{"path": path, "label": label, "part": part} for (path, label), part in parts]
    file = three / f"list.{suffix}"
    if suffix == "csv":
        a_list(file, "".join(",".join(row) + "\n" for row in (rows[0], *(row.values() for row in rows))))
    elif suffix == "json":
        a_list(file, json.dumps(rows))
    else:
        pytest.importorskip("pyarrow")
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    with pytest.raises(ValueError, match="splits"):
        find_videos(file)
    assert len(find_videos(file, split="train")) == 2


def test_a_value_that_only_later_records_have_is_missed_in_the_first(three: Path) -> None:
    rows = [{"path": path, "label": label, "split": "train"} for path, label in TABLE.items()]
    del rows[0]["split"]
    with pytest.raises(ValueError, match="entry 1, has no 'split'"):
        find_videos(a_list(three / "list.json", json.dumps(rows)))


def announced(folder: Path, caplog: pytest.LogCaptureFixture, content: str, suffix: str) -> list[str]:
    """What is said when a list of `TABLE` with more columns is read."""
    file = a_list(folder / "list.csv", content)
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
        from pyarrow import csv, parquet

        parquet.write_table(csv.read_csv(file), file := file.with_suffix(".parquet"))
    assert labels_of(file) == TABLE
    return caplog.messages


@pytest.mark.parametrize("labels", ["102", "021", "220"])
def test_split_files_of_hmdb51_have_no_classes(three: Path, labels: str) -> None:
    rows = "".join(f"{path} {label}\n" for path, label in zip(THREE, labels, strict=True))
    for name in ("brush_hair_test_split1.txt", "pour_test_split3.txt"):
        with pytest.raises(ValueError, match="is a split of HMDB51"):
            find_videos(a_list(three / name, rows))


@pytest.mark.parametrize("form", ["txt", "csv"])
def test_numbers_that_contradict_all_folders_are_refused(tmp_path: Path, form: str) -> None:
    names = ["riding a bike", "bowling", "surfing"]
    touch(tmp_path, "riding_a_bike/a.mp4", "Bowling/b.mp4")
    separator = " " if form == "txt" else ","
    rows = "riding_a_bike/a.mp4 {}\nBowling/b.mp4 {}\n".replace(" ", separator)
    with pytest.raises(ValueError, match="'1', which is the class 'bowling', but is in the folder 'riding_a_bike'"):
        find_videos(a_list(tmp_path / f"list.{form}", rows.format(1, 2)), class_names=names)
    for numbers in ((0, 1), (0, 2), (2, 1)):  # the second list corrects a label
        videos = find_videos(a_list(tmp_path / f"list.{form}", rows.format(*numbers)), class_names=names)
        assert videos.labels == numbers


def test_names_and_no_video_of_the_first_are_announced(three: Path, caplog: pytest.LogCaptureFixture) -> None:
    a_list(three / "class_names.txt", "run\nwalk\njump\n")
    videos = find_videos(a_list(three / "list.csv", "path,label\na.mp4,1\nc.mp4,2\n"))
    assert videos.labels == (1, 2)
    (sentence,) = caplog.messages
    assert "no video of class 0, 'run'" in sentence


def test_kinetics_in_mixed_containers(tmp_path: Path) -> None:
    files = ["a_000001_000011.mp4", "run/b_000001_000011.mkv", "c_000001_000011.webm", "d_000001_000011/1.jpg"]
    touch(tmp_path, *files, "e_000001_000011.mkv", "e_000001_000011.mp4", "e_000001_000011.txt")
    rows = "".join(f"run,{name},1,11.0,train\n" for name in "abcdef")
    file = a_list(tmp_path / "train.csv", "label,youtube_id,time_start,time_end,split\n" + rows)
    expected = [file.removesuffix("/1.jpg") for file in files] + ["e_000001_000011.mp4", "f_000001_000011.mp4"]
    assert [path for path, _ in found(find_videos(file), tmp_path)] == expected


# Folders again


def test_folders_of_systems_are_no_classes_and_nested_videos_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "__MACOSX/run/x.mp4", "lost+found/x.mp4", ".trash/x.mp4", "$RECYCLE.BIN/x.mp4", "run/._a.mp4")
    nested = [
        f"walk/g01/deep/b{suffix}" for suffix in (".m2ts", ".mts", ".mxf", ".y4m", ".divx", ".vob", ".ogv", ".TS")
    ]
    touch(tmp_path, "run/a.mp4", *nested, "walk/g02/frames/img_1.jpg", "walk/g03/c.mp4", "walk/g03/c.jpg", "top.mp4")
    (tmp_path / "walk/up").symlink_to(tmp_path / "walk")
    videos = find_videos(tmp_path)
    assert videos.class_names == ("run", "walk")
    expected = ["run/a.mp4", *sorted(nested), "walk/g02/frames", "walk/g03/c.mp4"]
    assert [path for path, _ in found(videos, tmp_path)] == sorted(expected)
    (sentence,) = caplog.messages
    for part in ("11 videos of 2 classes", "2 hidden", "1 *.jpg", "1 *.mp4 beside", "1 __MACOSX", "1 lost+found"):
        assert part in sentence


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/run/a.mp4", "val/run/b.mp4"], "has the folders train, val, which are splits, not classes"),
        (["test/a.mp4"], "has the folders test, which are splits"),
        (["train/run/a.mp4", "Val/run/b.mp4", "extra/run/c.mp4"], "has the folders Val, train, which are splits"),
        (["run/train/a.mp4", "run/test/b.mp4", "walk/train/c.mp4"], "has the splits test, train in its folders"),
        (["Run/a.mp4", "run/b.mp4"], "'Run' and 'run', which differ only in case"),
        (["caf\u00e9/a.mp4", "cafe\u0301/b.mp4"], "which differ only in case, blanks or encoding"),
    ],
)
def test_folders_that_may_not_be_classes_are_refused(tmp_path: Path, files: list, message: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(ValueError, match=message):
        find_videos(tmp_path)


def test_split_of_a_folder_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/a.mp4", "val/run/b.mp4")
    assert labels_of(tmp_path, split="val") == {"b.mp4": "run"}
    with pytest.raises(FileNotFoundError, match="of the split 'test'"):
        find_videos(tmp_path, split="test")


# Any names

NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
CLASSES = st.lists(
    NAME.filter(
        lambda n: (
            n == n.strip()
            and n[0].isalpha()
            and n.lower() not in MISSING
            and n.lower() not in ("nan", "null", "none", "na", "n/a", "train", "val", "test", "dev", "eval")
        )
    ),
    min_size=3,
    max_size=3,
    unique_by=lambda n: " ".join(unicodedata.normalize("NFC", n).casefold().split()),
)
ODD_FILES = ("a, b.mp4", 'say "hi".mp4', "x;y\tz.mp4")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    touch(root, *ODD_FILES)
    return root


@given(
    CLASSES,
    st.sampled_from(",;\t"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([None, *HEADERS]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_names_come_back_from_a_table(
    odd: Path, names: list, delimiter: str, encoding: str, ends: str, header: str | None
) -> None:
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if "\r" in "".join(names) else csv.QUOTE_MINIMAL  # which leaves these bare
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ends, quoting=quoting)
    writer.writerows([header.split(",")] if header else [])
    writer.writerows(zip(ODD_FILES, names, strict=True))
    (odd / "list.csv").write_bytes(text.getvalue().encode(encoding))
    assert labels_of(odd / "list.csv") == dict(zip(ODD_FILES, names, strict=True))


@given(CLASSES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_names_come_back_from_lines(odd: Path, names: list) -> None:
    names = [name.replace("\r", "_").replace("\n", "_") for name in names]
    (odd / "list.txt").write_bytes(lines(ODD_FILES, names).encode())
    assert labels_of(odd / "list.txt", class_names=names if len(set(names)) == 3 else None) == dict(
        zip(ODD_FILES, names, strict=True)
    )
