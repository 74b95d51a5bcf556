"""Videos without labels: found at any depth, and split by file."""

import shutil

import pytest

from inti_models.data.lists import VideoList
from inti_models.data.unlabelled import check_apart, find_unlabelled, hold_out


def listed(*paths: str) -> VideoList:
    return VideoList(tuple(paths), (0,) * len(paths), ())


@pytest.fixture
def folder(tmp_path):
    """Videos, of which only the names count here, at several depths."""
    for name in ("one.mp4", "a/two.mp4", "a/b/three.webm", "c/four.mp4", "c/notes.txt", ".hidden/five.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


def names(videos: VideoList) -> set[str]:
    return {path.rpartition("/")[2] for path in videos.paths}


def test_videos_at_any_depth_and_what_was_left_out(folder, caplog):
    videos = find_unlabelled(folder)
    assert names(videos) == {"one.mp4", "two.mp4", "three.webm", "four.mp4"} and videos.class_names == ()
    assert "1 *.txt" in caplog.text
    assert names(find_unlabelled(folder, split="c")) == {"four.mp4"}


def test_folders_may_be_classes_and_are_none_where_a_video_is_in_no_class(folder, caplog):
    (folder / "c" / "notes.txt").unlink()
    shutil.rmtree(folder / ".hidden")
    assert find_unlabelled(folder, class_names=("c", "a")).class_names == ()  # for one.mp4
    (folder / "one.mp4").unlink()
    videos = find_unlabelled(folder, class_names=("c", "b", "a"))
    assert videos.class_names == ("c", "b", "a")
    assert [path.rpartition("/")[2] for path, label in zip(videos.paths, videos.labels, strict=True) if label == 0] == [
        "four.mp4"
    ]
    assert find_unlabelled(folder, class_names=("b", "c")).class_names == ()
    assert not caplog.text


def test_a_list_may_have_labels_which_count_where_they_are_the_models(folder, tmp_path):
    file = tmp_path / "list.csv"
    file.write_text("path,label\nvideos/one.mp4,b\nvideos/a/two.mp4,a\nvideos/one.mp4,b\n")
    assert names(videos := find_unlabelled(file)) == {"one.mp4", "two.mp4"} and set(videos.labels) == {0}
    known = find_unlabelled(file, class_names=("a", "b", "c"))
    assert known.class_names == ("a", "b", "c") and known.labels == (1, 0) and known.paths == videos.paths
    assert find_unlabelled(file, class_names=("b", "c")).class_names == ()


@pytest.mark.parametrize("count", [2, 3, 10, 57])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.99])
def test_parts_are_apart_complete_and_not_empty(count, fraction):
    videos = listed(*(f"videos/{i}.mp4" for i in range(count)))
    kept, held_out = hold_out(videos, fraction)
    assert kept.paths and held_out.paths and len(kept) + len(held_out) == count
    assert {*kept.paths} | {*held_out.paths} == {*videos.paths}
    assert len(held_out) == min(max(1, round(fraction * count)), count - 1)


def test_parts_depend_neither_on_the_order_nor_on_where_videos_lie(folder, tmp_path, monkeypatch):
    def held_out(source) -> set[str]:
        return names(hold_out(find_unlabelled(source), 0.5)[1])

    first = held_out(folder)
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    monkeypatch.chdir(tmp_path)
    for same in (tmp_path / "elsewhere" / "copy", "videos", "./videos/", "elsewhere/../videos"):
        assert held_out(same) == first
    paths = find_unlabelled(folder).paths
    assert names(hold_out(listed(*reversed(paths)), 0.5)[1]) == first


def test_one_video_cannot_be_split():
    with pytest.raises(ValueError, match=r"one.mp4 is the only video"):
        hold_out(listed("one.mp4"), 0.5)


def test_videos_to_learn_from_and_to_measure_on_are_files_apart(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    check_apart(listed(str(folder / "one.mp4")), listed(str(folder / "a" / "two.mp4")))
    with pytest.raises(ValueError, match="1 of the 2 videos"):
        check_apart(listed(str(folder / "one.mp4")), listed(str(tmp_path / "link" / "one.mp4"), "other.mp4"))
