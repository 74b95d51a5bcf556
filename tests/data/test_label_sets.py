"""Tests of lists in which a video has several labels: each form, and what may be meant two ways."""

import json
from pathlib import Path

import pytest

from inti_models.data import FrameSampling, VideoDataset, find_videos
from inti_models.data.datasets import VideoDataset as Dataset

NAMES = ("run", "jump", "open, then close", "wave")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def labels_of(root: Path, name: str, content: str, **args) -> dict[str, tuple[str, ...]]:
    """Path -> names of its classes, of a list with this content."""
    (root / name).write_text(content, encoding="utf-8")
    videos = find_videos(root / name, multi_label=True, **args)
    assert videos.multi_label
    return {
        Path(path).relative_to(root).as_posix(): tuple(videos.class_names[k] for k in labels)
        for path, labels in zip(videos.paths, videos.labels, strict=True)
    }


EXPECTED = {"a.mp4": ("3", "17"), "b.mp4": ("3",), "c.mp4": ("0", "4", "17")}
LISTS = {
    "commas.txt": "a.mp4 3,17\nb.mp4 3\nc.mp4 17, 4, 0\n",
    "bars.txt": "a.mp4 3|17\nb.mp4 3\nc.mp4 17|4|0\n",
    "quoted.csv": 'path,labels\na.mp4,"17,3"\nb.mp4,3\nc.mp4,"0,4,17"\n',
    "semicolons.csv": "path,label\na.mp4,3;17\nb.mp4,3\nc.mp4,0;4;17\n",
    "rows.csv": "video,class\na.mp4,3\nc.mp4,0\na.mp4,17\nb.mp4,3\nc.mp4,17\nc.mp4,4\n",
    "rows.txt": "a.mp4 3\na.mp4 17\nb.mp4 3\nc.mp4 0\nc.mp4 4\n./c.mp4 17\n",
    "arrays.json": json.dumps(
        [{"path": p, "labels": s} for p, s in (("a.mp4", [3, 17]), ("b.mp4", [3]), ("c.mp4", [17, 4, 0]))]
    ),
    "mixed.json": json.dumps(
        [{"path": p, "label": s} for p, s in (("a.mp4", [17, 3]), ("b.mp4", 3), ("c.mp4", ["0", "4", "17"]))]
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_every_form_gives_the_same_labels(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    assert labels_of(tmp_path, name, LISTS[name]) == EXPECTED


@pytest.mark.parametrize("name", LISTS)
def test_without_multi_label_the_same_lists_are_refused(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / name).write_text(LISTS[name])
    with pytest.raises(ValueError, match=r"multi_label=true \(--multi-label\)|several numbers|the number of its class"):
        find_videos(tmp_path / name)


def test_parquet_lists_of_labels(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    touch(tmp_path, "a.mp4", "b.mp4")
    pq.write_table(pa.table({"path": ["a.mp4", "b.mp4"], "labels": [["run", "wave"], []]}), tmp_path / "list.parquet")
    videos = find_videos(tmp_path / "list.parquet", multi_label=True)
    assert (videos.class_names, videos.labels) == (("run", "wave"), ((0, 1), ()))


def test_frame_folders_have_a_number_of_frames_before_the_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    assert labels_of(tmp_path, "list.txt", "a 30 3,17\nb 28 3\n") == {"a": ("3", "17"), "b": ("3",)}


def test_numbers_with_blanks_between_are_refused_beside_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match=r"Line 1 .* may be several labels, or frames and labels; .* a.mp4 3,17"):
        labels_of(tmp_path, "list.txt", "a.mp4 3 17\n")


def test_an_empty_place_is_a_video_of_none_of_the_classes_and_said(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    assert labels_of(tmp_path, "list.csv", "path,labels\na.mp4,run\nb.mp4,\n") == {"a.mp4": ("run",), "b.mp4": ()}
    assert "1 of 2 videos have no label" in caplog.text
    with pytest.raises(ValueError, match="line 2, has no label"):
        labels_of(tmp_path, "list.txt", "a.mp4 run\nb.mp4\n")


def test_names_with_a_separator_are_whole_where_the_names_are_known(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "class_names.txt").write_text("\n".join(NAMES))
    assert labels_of(tmp_path, "rows.csv", 'path,label\na.mp4,"open, then close"\na.mp4,wave\nb.mp4,run\n') == {
        "a.mp4": ("open, then close", "wave"),
        "b.mp4": ("run",),
    }
    assert labels_of(tmp_path, "bars.csv", 'path,label\na.mp4,"open, then close|wave"\nb.mp4,run\n') == {
        "a.mp4": ("open, then close", "wave"),
        "b.mp4": ("run",),
    }


def test_what_can_be_meant_two_ways_is_refused_or_said(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(ValueError, match=r"which is a class itself and several classes with ','"):
        labels_of(tmp_path, "a.csv", 'path,label\na.mp4,"x,y"\nb.mp4,x\n', class_names=["x", "y", "x,y"])
    with pytest.raises(ValueError, match=r"labels with ',' and with '\|' in them, such as 'open, shut\|run'"):
        labels_of(tmp_path, "b.csv", 'path,label\na.mp4,"open, shut|run"\nb.mp4,run\n')
    assert labels_of(tmp_path, "c.csv", 'path,label\na.mp4,"x, y"\nb.mp4,x\n')["a.mp4"] == ("x", "y")
    assert "labels are split at ','" in caplog.text
    with pytest.raises(ValueError, match="line 2, has an empty label among others"):
        labels_of(tmp_path, "d.csv", 'path,label\na.mp4,"1,,2"\nb.mp4,1\n')
    with pytest.raises(ValueError, match="no label at all"):
        labels_of(tmp_path, "e.csv", "path,label\na.mp4,\nb.mp4,\n")


@pytest.mark.parametrize(
    "label", ["['run', 'wave']", '["run", "wave"]', "[3, 17]", "[3]", "(3;17)", "{3,17}", '"3,17"']
)
def test_lists_as_programs_print_them_are_refused(label: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    quoted = '"' + label.replace('"', '""') + '"'
    for name, content in (("l.csv", f"path,labels\na.mp4,{quoted}\n"), ("l.txt", f"a.mp4 {label}\n")):
        with pytest.raises(ValueError, match="looks like a list that a program printed"):
            labels_of(tmp_path, name, content)
    assert labels_of(tmp_path, "k.csv", f"path,labels\na.mp4,{quoted}\n", class_names=[label]) == {"a.mp4": (label,)}


def test_a_class_twice_in_one_place_is_refused_as_are_rows_of_0_and_1_for_all_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    for name, content in (
        ("l.txt", "a.mp4 3,3\nb.mp4 0\n"),
        ("l.csv", "path,labels\na.mp4,run; wave;run\nb.mp4,run\n"),
        ("l.json", json.dumps([{"path": "a.mp4", "labels": [0, 1, 1]}, {"path": "b.mp4", "labels": [0, 0, 1]}])),
    ):
        with pytest.raises(ValueError, match="twice; name each class of the video once"):
            labels_of(tmp_path, name, content)


def test_charades_own_files(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "46GP8.mp4", "N11GT.mp4", "0IH69.mp4")
    (tmp_path / "Charades_v1_classes.txt").write_text(
        "c000 Holding some clothes\nc001 Putting clothes\nc002 Sleeping\n"
    )
    header = "id,subject,scene,script,descriptions,actions,length\n"
    content = (
        f'{header}46GP8,HR43,Kitchen,"A person cooks, sings.",x,c002 11.90 21.20;c000 0.00 12.60;c002 25.0 26.0,24.8\n'
        "N11GT,0KZ7,Stairs,A person.,x,c001 0.00 5.00,18.3\n0IH69,DXDI,Bed,B,x,,30.1\n"
    )
    expected = {
        "46GP8.mp4": ("Holding some clothes", "Sleeping"),
        "N11GT.mp4": ("Putting clothes",),
        "0IH69.mp4": (),
    }
    assert labels_of(tmp_path, "Charades_v1_train.csv", content) == expected
    assert "without their times" in caplog.text
    with pytest.raises(ValueError, match="Charades, whose videos have several labels each"):
        find_videos(tmp_path / "Charades_v1_train.csv")


def test_a_folder_gives_each_video_the_label_of_its_folder(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.mp4", "walk/b.mp4")
    videos = find_videos(tmp_path, multi_label=True)
    assert (videos.class_names, videos.labels) == (("run", "walk"), ((0,), (1,)))


def test_relabelled_for_the_classes_of_another_list(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    labels_of(tmp_path, "list.csv", 'path,labels\na.mp4,"jump,run"\nb.mp4,wave\n')
    videos = find_videos(tmp_path / "list.csv", multi_label=True).relabelled(["wave", "x", "run", "jump"])
    assert videos.labels == ((3, 2), (0,))
    assert videos.multi_label


def test_a_dataset_gives_ones_for_the_labels_that_a_video_has(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    labels_of(tmp_path, "list.txt", "a.mp4 0,3\nb.mp4 1\n")
    videos = find_videos(tmp_path / "list.txt", multi_label=True)
    dataset: Dataset = VideoDataset(videos, lambda clip: clip.float(), FrameSampling(2))
    assert dataset[0][1].tolist() == [1, 0, 0, 1]
    assert dataset[1][1].tolist() == [0, 1, 0, 0]
