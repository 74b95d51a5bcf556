"""Tests of lists of videos, and of data sets of clips."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from inti_models.data import (
    MotionDigitsClips,
    TrainSampler,
    VideoDataset,
    VideoError,
    VideoList,
    create_clip_transform,
    create_train_transform,
    find_videos,
    read_clips,
    write_video,
)
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits

CONFIG = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "crop_pct": 1.0,
    "crop_mode": "center",
}


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
    touch(tmp_path, "train/run/a.mp4")
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
    with pytest.raises(FileNotFoundError, match=r"None of the first 4 videos of .*train.txt is there, such as .*a.mp4"):
        find_videos(file)
    videos = find_videos(file, root=tmp_path / "videos")
    assert found(videos, tmp_path / "videos") == list(zip(VIDEOS, NAMES, strict=True))
    absolute = a_list(tmp_path / "lists/absolute.txt", lines(videos.paths, NAMES))
    assert find_videos(absolute, root="elsewhere") == videos


def test_one_video_of_many_that_is_missing_is_no_matter_here(tmp_path: Path) -> None:
    touch(tmp_path, *VIDEOS[1:])
    assert len(find_videos(a_list(tmp_path / "list.txt", lines(VIDEOS, NAMES)))) == 4


def test_ucf101s_own_lists(tmp_path: Path) -> None:
    """Train lists count from 1, test lists have no label; beside ``classInd.txt`` the folder is the class."""
    touch(tmp_path / "videos", "ApplyEyeMakeup/v_1.avi", "YoYo/v_2.avi")
    a_list(tmp_path / "classInd.txt", "1 ApplyEyeMakeup\r\n10 YoYo\r\n2 Archery\r\n")
    expected = [("ApplyEyeMakeup/v_1.avi", "ApplyEyeMakeup"), ("YoYo/v_2.avi", "YoYo")]
    train = a_list(tmp_path / "trainlist01.txt", "ApplyEyeMakeup/v_1.avi 1\r\nYoYo/v_2.avi 10\r\n")
    test = a_list(tmp_path / "testlist01.txt", "ApplyEyeMakeup/v_1.avi\r\nYoYo/v_2.avi\r\n")
    names = ("ApplyEyeMakeup", "Archery", "YoYo")
    for file in (train, test):
        for given in (None, names):
            videos = find_videos(file, tmp_path / "videos", class_names=given)
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
        ("list.csv", "video,class\na.mp4,0\n", "has video, class for each video; expected path and label"),
        ("list.csv", "label,youtube_id,time_start,time_end\nx,y,a,b\n", "has an entry that is not like its first"),
        ("list.json", "{}", "not a list of objects"),
        ("list.json", "[1]", "not a list of objects"),
        ("list.json", '[{"id": "1"}]', "has id for each video; expected path and label"),
        ("list.json", '[{"path": "a.mp4", "label": 0}, {"path": "a.mp4"}]', "has an entry that is not like its first"),
        ("list.json", "[", "cannot be read as a json list"),
        ("list.yaml", "a.mp4 0", "is not a list; expected a folder, or a file that ends in .txt, .csv, .json"),
    ],
)
def test_lists_that_cannot_be_understood(tmp_path: Path, name: str, content: str, message: str) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(ValueError, match=message):
        find_videos(a_list(tmp_path / name, content))


def test_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as a txt list"):
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


# Clips of files. Each pixel of frame t of video k is 20 k + t, so that a clip shows what it is made of.


def make_videos(root: Path, count: int = 6, num_frames: int = 10) -> VideoList:
    for k in range(count):
        frames = torch.arange(20 * k, 20 * k + num_frames, dtype=torch.uint8)
        write_video(root / f"{k}.mp4", frames.view(-1, 1, 1, 1).expand(-1, 3, 32, 32), 25)
    paths = tuple(str(root / f"{k}.mp4") for k in range(count))
    return VideoList(paths, tuple(range(count)), tuple("abcdef"[:count]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> VideoList:
    return make_videos(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def textured(tmp_path_factory: pytest.TempPathFactory) -> VideoList:
    """Videos on which every augmentation shows."""
    root = tmp_path_factory.mktemp("textured")
    generator = torch.Generator().manual_seed(0)
    for k in range(6):
        coarse = torch.rand(8, 3, 9, 12, generator=generator)
        frames = torch.nn.functional.interpolate(coarse, (36, 48), mode="bicubic").clamp(0, 1) * 255
        write_video(root / f"{k}.mp4", frames.to(torch.uint8), 25)
    return VideoList(tuple(str(root / f"{k}.mp4") for k in range(6)), tuple(range(6)), tuple("abcdef"))


@pytest.fixture
def broken(tmp_path: Path) -> VideoList:
    """Of six videos, number 0 is missing, 2 is empty and 3 is no video."""
    videos = make_videos(tmp_path)
    Path(videos.paths[0]).unlink()
    Path(videos.paths[2]).write_bytes(b"")
    Path(videos.paths[3]).write_bytes(b"no video" * 100)
    return videos


def values(clip: Tensor) -> Tensor:
    """Undoes the normalisation of CONFIG; the mean pixel of each frame."""
    return ((clip * 0.25 + 0.5) * 255).mean(dim=(-3, -2, -1))


def train_set(videos: VideoList, augment: bool = True, **arguments: object) -> VideoDataset:
    config = {"auto_augment": "rand-m9-mstd0.5-inc1", "reprob": 0.5} if augment else {"scale": (1, 1), "hflip": 0}
    return VideoDataset(
        videos, create_train_transform(**CONFIG, **config), **{"num_frames": 4, "train": True, **arguments}
    )


@pytest.mark.parametrize("sampling", [{"sampling": "uniform"}, {"sampling": "dense", "stride": 2}])
@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 1), (2, 1), (2, 3)])
def test_evaluation_clips_are_all_views(textured: VideoList, sampling: dict, num_clips: int, num_crops: int) -> None:
    transform = create_clip_transform(**CONFIG, num_crops=num_crops)
    dataset = VideoDataset(textured, transform, num_frames=3, num_clips=num_clips, **sampling)
    assert len(dataset) == 6
    assert dataset.class_names == tuple("abcdef")
    clip, label, fault = dataset[4]
    assert (label, fault) == (4, "")
    assert clip.shape == (num_clips * num_crops, 3, 3, 32, 32)
    clips = read_clips(textured.paths[4], 3, num_clips=num_clips, **sampling).frames
    assert torch.equal(clip, torch.stack([transform(frames) for frames in clips]).flatten(0, -5))
    assert torch.equal(dataset[4][0], clip)


def test_unreadable_video_gives_zeros_and_a_fault_in_evaluation(broken: VideoList) -> None:
    dataset = VideoDataset(broken, create_clip_transform(**CONFIG, num_crops=3), num_frames=4, num_clips=2)
    for index in (0, 2, 3):
        clip, label, fault = dataset[index]
        assert clip.shape == dataset[1][0].shape == (6, 4, 3, 32, 32)
        assert clip.dtype == torch.float32
        assert not clip.any()
        assert label == index
        assert broken.paths[index] in fault
        assert "\n" not in fault
    assert dataset[1][2] == ""
    clips, labels, faults = next(iter(DataLoader(dataset, batch_size=6)))
    assert clips.shape == (6, 6, 4, 3, 32, 32)
    assert labels.tolist() == list(range(6))
    assert labels.dtype == torch.int64
    assert [bool(fault) for fault in faults] == [True, False, True, True, False, False]


def test_training_takes_random_frames_in_their_order(plain: VideoList) -> None:
    dataset = train_set(plain, augment=False, num_frames=3)
    frames = torch.stack([values(dataset[2, draw][0]).round() - 40 for draw in range(30)])  # draws x T
    assert (frames.diff(dim=1) >= 0).all()
    for t, (low, high) in enumerate([(0, 3), (3, 6), (6, 9)]):
        assert low - 1 <= frames[:, t].min() <= low + 1
        assert high - 1 <= frames[:, t].max() <= high + 1
    dense = train_set(plain, augment=False, num_frames=3, sampling="dense", stride=2)
    frames = torch.stack([values(dense[2, draw][0]).round() - 40 for draw in range(30)])
    assert (frames.diff(dim=1) - 2).abs().max() <= 1
    assert frames[:, 0].max() - frames[:, 0].min() >= 4


def test_samples_depend_on_seed_index_and_draw_alone(textured: VideoList) -> None:
    keys = [(index, draw) for index in range(3) for draw in range(3)]
    samples = {key: train_set(textured, seed=1)[key] for key in keys}
    dataset = train_set(textured, seed=1)
    for key in reversed(keys):
        random.seed(len(key)), np.random.seed(key[0]), torch.manual_seed(key[1])
        clip, label, fault = dataset[key]
        assert torch.equal(clip, samples[key][0])
        assert clip.shape == (4, 3, 32, 32)
        assert (label, fault) == (key[0], "")
    for key in keys:
        others = [samples[other][0] for other in keys if other != key] + [train_set(textured, seed=2)[key][0]]
        assert not any(torch.equal(samples[key][0], other) for other in others)


def test_samples_leave_the_global_generators_as_they_were(textured: VideoList, broken: VideoList) -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    for dataset in (train_set(textured), train_set(broken)):
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        _ = dataset[0, 0], dataset[3, 1]
        assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


@pytest.mark.parametrize("kind", ["textured", "broken"])
def test_workers_give_the_same_samples(kind: str, request: pytest.FixtureRequest) -> None:
    dataset = train_set(request.getfixturevalue(kind), seed=3)
    sampler = TrainSampler(6, 2, seed=0, repeats=2)
    batches = []
    for workers in (0, 1, 2):
        torch.manual_seed(workers)
        batches.append(list(DataLoader(dataset, batch_sampler=sampler, num_workers=workers)))
    for first, *others in zip(*batches, strict=True):
        for other in others:
            assert torch.equal(first[0], other[0])
            assert torch.equal(first[1], other[1])
            assert first[2] == other[2]


def test_resumed_epoch_has_the_same_batches(textured: VideoList) -> None:
    dataset, sampler = train_set(textured), TrainSampler(6, 2, seed=0)
    loader = DataLoader(dataset, batch_sampler=sampler)
    sampler.set_epoch(1)
    whole = list(loader)
    sampler.set_epoch(1, start_batch=2)
    (rest,) = list(loader)
    assert torch.equal(rest[0], whole[2][0])
    assert torch.equal(rest[1], whole[2][1])


def test_unreadable_video_is_replaced_in_training(broken: VideoList) -> None:
    dataset = train_set(broken, augment=False)
    readable, replacements = {1, 4, 5}, set()
    for index in (0, 2, 3):
        for draw in range(8):
            clip, label, fault = dataset[index, draw]
            assert label in readable
            assert values(clip).mean() == pytest.approx(20 * label + 4.5, abs=2)  # label and pixels of one video
            assert broken.paths[index] in fault
            assert torch.equal(train_set(broken, augment=False)[index, draw][0], clip)
            replacements.add(label)
    assert replacements == readable
    assert dataset[1, 0][2] == ""


def test_videos_that_cannot_be_read_in_a_row_stop_training(broken: VideoList) -> None:
    nothing = VideoList(broken.paths[2:4], (0, 1), ("a", "b"))
    with pytest.raises(VideoError, match=r"4 videos in a row cannot be read; the first: .*2\.mp4 is empty"):
        train_set(nothing, attempts=4)[0, 0]
    with pytest.raises(VideoError, match="3 videos in a row"):
        list(
            DataLoader(
                train_set(nothing, attempts=3),
                batch_sampler=TrainSampler(2, 1, 0),
                num_workers=1,
            )
        )


def test_keys_of_the_wrong_kind_are_refused(plain: VideoList) -> None:
    digits = MotionDigits("train", size=16, num_frames=2, length=4)
    transform = create_clip_transform(**CONFIG)
    for train in (train_set(plain), MotionDigitsClips(digits, transform, train=True)):
        with pytest.raises(TypeError, match=r"0 is no key of a training set; expected \(index, draw\)"):
            train[0]
    for evaluation in (VideoDataset(plain, transform, 4), MotionDigitsClips(digits, transform)):
        with pytest.raises(TypeError, match=r"\(0, 1\) is no key of a set to evaluate on"):
            evaluation[0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"sampling": "sparse"}, "sampling is 'sparse'"),
        ({"sampling": "dense"}, "stride is None"),
        ({"num_clips": 2}, "num_clips is 2; expected 1"),
        ({"attempts": 0}, "attempts is 0"),
    ],
)
def test_impossible_arguments_are_refused(plain: VideoList, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_set(plain, **arguments)


def test_folder_of_frames_is_a_video(tmp_path: Path) -> None:
    for name, grey in (("run", 50), ("walk", 90)):
        folder = tmp_path / name / "clip"
        folder.mkdir(parents=True)
        for t in range(6):
            Image.new("RGB", (32, 32), (grey + t,) * 3).save(folder / f"img_{t}.png")
    videos = find_videos(tmp_path)
    clip, label, _ = VideoDataset(videos, create_clip_transform(**CONFIG), num_frames=3)[1]
    assert label == 1
    torch.testing.assert_close(values(clip[0]), torch.tensor([91.0, 93.0, 95.0]))


# MotionDigits

DIGITS = {"size": 32, "num_frames": 3, "length": 20}


@pytest.mark.parametrize("num_crops", [1, 3])
def test_motion_digits_have_the_samples_of_the_transform(num_crops: int) -> None:
    digits = MotionDigits("validation", **DIGITS)
    transform = create_clip_transform(**{**CONFIG, "input_size": (3, 24, 24)}, num_crops=num_crops)
    dataset = MotionDigitsClips(digits, transform)
    assert len(dataset) == 20
    assert dataset.class_names == CLASS_NAMES
    samples = dataset.__getitems__([7, 3])
    for index, (clip, label, fault) in zip([7, 3], samples, strict=True):
        frames, expected = digits[index]
        views = transform(frames)
        assert torch.equal(clip, views[None] if num_crops == 1 else views)
        assert (label, fault) == (expected, "")
        assert torch.equal(dataset[index][0], clip)
    # A transform that is not known takes the long way.
    other = MotionDigitsClips(digits, lambda clip: transform(clip)).__getitems__([7, 3])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(samples, other, strict=True))


@pytest.mark.parametrize("augment", [False, True])
def test_motion_digits_for_training(augment: bool) -> None:
    digits = MotionDigits("train", **DIGITS)
    transform = create_train_transform(**CONFIG) if augment else create_train_transform(**CONFIG, scale=(1, 1), hflip=0)
    dataset = MotionDigitsClips(digits, transform, train=True, seed=4)
    keys = [(3, 0), (3, 1), (8, 0)]
    samples = dataset.__getitems__(keys)
    for key, (clip, label, fault) in zip(keys, samples, strict=True):
        assert clip.shape == (3, 3, 32, 32)
        assert (label, fault) == (digits[key[0]][1], "")
        assert torch.equal(dataset[key][0], clip)
    assert torch.equal(samples[0][0], samples[1][0]) is not augment
    if not augment:
        assert torch.equal(samples[0][0], create_clip_transform(**CONFIG)(digits[3][0]))
    sampler = TrainSampler(20, 4, seed=0)
    for clips, labels, _ in DataLoader(dataset, batch_sampler=sampler, num_workers=2):
        assert clips.shape == (4, 3, 3, 32, 32)
        assert labels.shape == (4,)
