"""benchmarks/real_videos.py: folds share no source, stored frames are the file's, rows are what they are called."""

import csv
import json
from pathlib import Path

import pytest
import torch

from inti_models.data import FrameSampling
from inti_models.data.write import write_video
from support.modules import load_module


@pytest.fixture(scope="module")
def benchmark():
    return load_module("benchmarks/real_videos.py")


def make_videos(folder: Path, names: list[str], frames: int = 10) -> None:
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        clip = torch.full((frames, 3, 32, 48), 8 * k, dtype=torch.uint8)
        clip += torch.arange(frames, dtype=torch.uint8).mul(5).view(-1, 1, 1, 1)
        write_video(folder / name, clip, fps=10)


NAMES = [
    f"{cls}/Film_{film}_{n}_{cls}_u_cm_np1_fr_goo_{n}.mp4"
    for cls in ("left", "wave")
    for film in "abcdef"
    for n in (0, 1)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny"
    make_videos(path, NAMES)
    return path


def test_clips_of_one_source_are_in_one_fold_and_classes_are_spread(benchmark, folder):
    folds = benchmark.read_folds(folder)
    sources = [benchmark.source_of(path) for path in folds.videos.paths]
    assert len(set(sources)) == 6
    for train, test in zip(folds.train, folds.test, strict=True):
        assert not {sources[i] for i in train} & {sources[i] for i in test}
        assert sorted((*train, *test)) == list(range(len(sources)))
        assert [[folds.videos.labels[i] for i in test].count(label) for label in (0, 1)] == [4, 4]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("wave/Return_of_the_King_4_wave_u_cm_np1_fr_goo_32.avi", "return_of_the_king"),
        ("wave/return_of_the_King_7_wave_f_nm_np1_ri_med_3.avi", "return_of_the_king"),
        ("Biking/v_Biking_g07_c01.avi", "Biking g07"),
    ],
)
def test_the_source_of_a_video_is_in_its_name(benchmark, path, source):
    assert benchmark.source_of(path) == source


def test_official_splits_and_folds_of_a_table_are_taken_where_they_are(benchmark, tmp_path):
    names = [f"{cls}/{cls}_{n}.mp4" for cls in ("left", "wave") for n in range(3)]
    make_videos(tmp_path / "videos", names, frames=2)
    (tmp_path / "splits").mkdir()
    for cls in ("left", "wave"):
        lines = [f"{cls}_{n}.avi {use}" for n, use in enumerate((1, 2, 0))]  # train, test, neither
        (tmp_path / "splits" / f"{cls}_test_split1.txt").write_text("\n".join(lines) + "\n")
    folds = benchmark.read_folds(tmp_path / "videos")
    part = folds.part(folds.train[0]), folds.part(folds.test[0])
    assert [[Path(path).stem for path in videos.paths] for videos in part] == [
        ["left_0", "wave_0"],
        ["left_1", "wave_1"],
    ]

    with (tmp_path / "videos" / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("file", "class", "fold"), *((n, n.split("/")[0], 1 + i % 2) for i, n in enumerate(names))]
        )
    benchmark.read_folds.cache_clear()
    folds = benchmark.read_folds(tmp_path / "videos")
    assert folds.test == ((0, 2, 4), (1, 3, 5))
    assert folds.train == ((1, 3, 5), (0, 2, 4))


def test_stored_frames_are_those_that_are_read_from_the_file(benchmark, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "STORED_FRAMES", 10)
    monkeypatch.setattr(benchmark, "STORED_SIDE", 32)
    videos = benchmark.read_folds(folder).videos
    benchmark.store(videos, tmp_path)
    frames = benchmark.StoredFrames(4, folder=tmp_path)
    for path in videos.paths[:2]:
        stored, read = frames.read(path, num_clips=2).frames, FrameSampling(4).read(path, num_clips=2).frames
        assert torch.equal(stored, read)


@pytest.mark.parametrize(
    "name",
    [
        "InTI (2, 5)",
        "naive, 5 frames",
        "random frames, same GFLOPs",
        "random tokens, same GFLOPs",
        "unchanged tokens dropped, same GFLOPs",
        "ToMe across frames",
    ],
)
def test_a_row_is_trained_without_its_fold_and_measured_on_it(benchmark, folder, tmp_path, monkeypatch, name):
    monkeypatch.setattr(benchmark, "load", lambda model, **args: benchmark.create_model(model, **args))
    method, args = {**benchmark.MAIN, **benchmark.SIDE}[name]
    setup = benchmark.Setup(tmp_path, {"tiny": folder}, None, None, size=32, clips=16)
    benchmark.store(benchmark.read_folds(folder).videos, tmp_path / "frames" / "tiny")
    row = benchmark.Row("tiny", name, 1, 0, method, args, "model")
    with torch.compiler.set_stance("force_eager"):
        benchmark.run(row, tmp_path, setup)
    result = json.loads((tmp_path / row.id / "result.json").read_text())
    correct = result["correct"]
    assert len(correct) == len(benchmark.read_folds(folder).test[1])
    assert result["top1"] == pytest.approx(100 * correct.count("1") / len(correct), abs=0.01)
    inti = 0.06125  # at 32 pixels
    assert result["gflops"] == pytest.approx(inti, rel=0.05)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("InTI (2, 5, 6)", "adaptation InTI (2, 5, 6)"),
        ("InTI (2, 4, 5)", "schedule InTI (2, 4, 5)"),
        ("every other frame dropped", "adaptation every other frame dropped"),
        ("ToMe, same GFLOPs", "adaptation ToMe, same GFLOPs"),
    ],
)
def test_a_row_starts_from_all_that_was_trained_on_motion_digits(benchmark, tmp_path, name, start):
    method, args = {**benchmark.MAIN, **benchmark.SCHEDULES}[name]
    trained = benchmark.adapt(benchmark.create_model(benchmark.ARCHITECTURE, img_size=32, **args), method, 0.06)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    file = tmp_path / benchmark.file_name(f"{start} seed2") / "model.safetensors"
    file.parent.mkdir()
    benchmark.save_checkpoint(trained, file)
    setup = benchmark.Setup(tmp_path, {}, None, digits=tmp_path, size=32)
    model = benchmark.build(benchmark.Row("tiny", name, 0, 2, method, args, "digits"), setup, 10)
    assert model.num_classes == 10
    started, expected = model.state_dict(), trained.state_dict()
    assert started.keys() == expected.keys()
    assert all(torch.equal(started[key], expected[key]) for key in started if not key.startswith("head."))


def test_tables_pair_rows_with_the_naive_model_on_the_same_seeds_and_folds(benchmark):
    def result(name, fold, seed, correct):
        shared = {"data": "tiny", "start": "images", "gflops": 0.1, "clips_per_second": 10.0}
        return {**shared, "name": name, "fold": fold, "seed": seed, "correct": correct}

    naive, inti = "naive, every frame", "InTI"
    results = [result(naive, fold, seed, "1010") for fold in (0, 1) for seed in (0, 1)]
    results += [result(inti, fold, 0, "1110") for fold in (0, 1)] + [result(inti, 0, 1, "0000")]  # seed 1 is not whole
    rows = benchmark.summarize(results)["tiny", "images"]
    assert [(row["name"], row["seeds"], row["clips"], row["top1"]) for row in rows] == [
        (naive, 2, 8, 50),
        (inti, 1, 8, 75),
    ]
    assert rows[1]["difference"][0] == 25
