"""Real MP4 files in folders and lists, from ``inti-models train`` to ``predict`` and ``validate``."""

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import inti_models
from inti_models.cli import main
from inti_models.data import write_video
from support.processes import launched

# Names in alphabetic order, and the colour channel that is brighter.
COLOURS = {"Showing something blue": 2, "Showing something green": 1, "Showing something red": 0}
NAMES = tuple(COLOURS)
FIVE, FOUR, MISLABELLED = 5, 4, "Showing something red/v_red_5.mp4"
RECIPE = """
model: inti_vit_t8_32_motiondigits
pretrained: false
model_args: {embed_dim: 32, depth: 2, num_heads: 2, num_frames: 4, compress_at: [1]}
data: {num_workers: 0}
augmentation: {scale: [0.5, 1.0]}
optimization: {epochs: 5, batch_size: 5, lr: 3.0e-3}
"""


def write_clip(path: Path, channel: int, seed: int) -> None:
    """Six frames of 32x48 noise, brighter in one colour."""
    frames = torch.randint(100, (6, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    frames[:, channel] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, fps=6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders with a folder of videos for each class: five each in ``train``, four each in ``test``; one of the red
    ones in ``test`` is green.
    """
    folder = tmp_path_factory.mktemp("data")
    for label, (name, channel) in enumerate(COLOURS.items()):
        for i in range(FIVE + FOUR):
            video = f"{name}/v_{name.split()[-1]}_{i}.mp4"
            split = folder / ("train" if i < FIVE else "test")
            write_clip(split / video, 1 if video == MISLABELLED else channel, seed=10 * label + i)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def trained(data):
    """The folder of a finished run, and what the command printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert train(data, data / "run") == 0
    return data / "run", out.getvalue()


def train_arguments(data: Path, output: Path, *overrides: str) -> list[str]:
    sets = [f"data.train={data / 'train'}", f"data.validation={data / 'train'}"]
    return ["train", str(data / "recipe.yaml"), *sets, "--output", str(output), *overrides]


def train(data: Path, output: Path, *overrides: str) -> int:
    return main(train_arguments(data, output, *overrides))


def validate(trained: tuple[Path, str], source: object, *options: object) -> int:
    model = ["--model", str(trained[0] / "best"), "--device", "cpu"]
    return main(["validate", str(source), *model, "--workers", "0", *map(str, options)])  # the last --workers counts


def videos_of(folder: Path) -> list[tuple[str, str]]:
    """Path within the folder and class of each video."""
    return [(f"{path.parent.name}/{path.name}", path.parent.name) for path in sorted(folder.rglob("*.mp4"))]


def printed(out: str) -> dict[str, str]:
    """The lines of a report, by their first words; the worst classes as one text."""
    report, _, classes = out.partition("worst classes\n")
    lines = [line for line in report.splitlines() if "  " in line]
    return {**{line.split("  ")[0]: line.split("  ")[-1].strip() for line in lines}, "worst": classes}


def rows(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.glob("*.rows")} - {b""}


def sentences(capsys) -> list[str]:
    """What was said of errors and of broken videos, on either stream."""
    text = "\n".join(capsys.readouterr())
    assert "Traceback" not in text
    return [part.splitlines()[0] for part in text.split("inti-models: ")[1:]]


def test_training_learns_the_colours_and_says_where_the_model_is(trained):
    folder, out = trained
    assert printed(out)["top-1"] == "100.00%"
    assert "top-5" not in out  # of three classes
    assert str(folder / "last") in out
    with (folder / "metrics.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in history] == [1, 2, 3, 4, 5]
    assert float(history[-1]["top1"]) == 100
    assert json.loads((folder / "evaluation" / "evaluation.json").read_text())["videos"] == 15


def test_the_best_model_loads_with_the_names_of_the_folders(trained):
    model = inti_models.load(trained[0] / "best")
    assert tuple(model.pretrained_cfg["label_names"]) == NAMES
    assert (model.num_classes, model.num_frames, len(model.blocks)) == (3, 4, 2)


def test_predict_prints_the_name_of_a_users_own_class(data, trained, capsys):
    files = [str(data / "test" / name / f"v_{name.split()[-1]}_8.mp4") for name in NAMES]
    assert main(["predict", *files, "--model", str(trained[0] / "best"), "--topk", "1", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("%  ")[1] for line in lines[1::2]] == list(NAMES)


def as_folder(data: Path, folder: Path) -> list[object]:
    return [data / "test"]


def as_txt(data: Path, folder: Path) -> list[object]:
    """``path label``, with labels that count in another order than the model's."""
    order = NAMES[::-1]
    lines = [f"{path} {order.index(name)}\n" for path, name in videos_of(data / "test")]
    (folder / "list.txt").write_text("".join(lines))
    (folder / "names.txt").write_text("\n".join(order))
    return [folder / "list.txt", "--root", data / "test", "--class-names", folder / "names.txt"]


def as_txt_beside_names(data: Path, folder: Path) -> list[object]:
    source, root, test, _, names = as_txt(data, folder)
    names.rename(folder / "class_names.txt")
    return [source, root, test]


def as_csv(data: Path, folder: Path) -> list[object]:
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *videos_of(data / "test")])
    return [folder / "list.csv", "--root", data / "test"]


def as_ssv2(data: Path, folder: Path) -> list[object]:
    """Something-Something's JSON: files are named by numbers, and templates have brackets."""
    records = []
    for i, (path, name) in enumerate(videos_of(data / "test")):
        shutil.copy(data / "test" / path, folder / f"{i}.mp4")
        records.append({"id": str(i), "template": name.replace("something", "[something]"), "placeholders": ["a cup"]})
    (folder / "validation.json").write_text(json.dumps(records))
    return [folder / "validation.json"]


@pytest.mark.parametrize("views", ["1x1", "2x3"])
@pytest.mark.parametrize("form", [as_folder, as_txt, as_txt_beside_names, as_csv, as_ssv2])
def test_every_form_of_a_list_gives_the_same_report(form, views, data, trained, tmp_path, capsys):
    assert validate(trained, *form(data, tmp_path), "--views", views) == 0
    report = printed(capsys.readouterr().out)
    assert report["top-1"] == report["mean class"] == "91.67%"
    assert report["videos"] == "12 measured, 0 unreadable"
    assert report["worst"].splitlines() == [
        "   75.0%  Showing something red (4 videos)",
        "  100.0%  Showing something blue (4 videos)",
        "  100.0%  Showing something green (4 videos)",
    ]


def test_validate_leaves_its_report(data, trained, tmp_path, capsys):
    assert validate(trained, data / "test", "--output", tmp_path / "report") == 0
    assert printed(capsys.readouterr().out)["worst"].splitlines()[-1] == f"report      {tmp_path / 'report'}"
    evaluation = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert (evaluation["videos"], evaluation["top1"], evaluation["unreadable"]) == (12, 91.67, [])
    with (tmp_path / "report" / "per_class.csv").open(newline="") as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == [
            ("Showing something blue", "4", "100.0"),
            ("Showing something green", "4", "100.0"),
            ("Showing something red", "4", "75.0"),
        ]
    assert (tmp_path / "report" / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_validate_measures_nothing_twice(data, trained, tmp_path, capsys):
    shutil.copytree(data / "test", tmp_path / "test")
    paths = videos_of(tmp_path / "test")
    (tmp_path / "list.txt").write_text("".join(f"test/{path} {name}\n" for path, name in paths))
    options = [trained, tmp_path / "list.txt", "--output", tmp_path / "report"]
    assert validate(*options) == 0
    first, measured = capsys.readouterr().out, rows(tmp_path / "report")
    for path, _ in paths[1:]:  # the first says what the views look like
        (tmp_path / "test" / path).unlink()
    assert validate(*options) == 0
    assert capsys.readouterr().out == first
    assert rows(tmp_path / "report") == measured
    assert validate(*options, "--views", "2x1") == 1
    (error,) = sentences(capsys)
    assert str(tmp_path / "report") in error


@pytest.fixture
def with_broken(data, tmp_path):
    """A copy of the data with a text among the videos of each split."""
    broken = []
    for split in ("train", "test"):
        shutil.copytree(data / split, tmp_path / split)
        broken.append(tmp_path / split / NAMES[1] / "v_green_9.mp4")
        broken[-1].write_text("not a video")
    shutil.copy(data / "recipe.yaml", tmp_path)
    return tmp_path, *map(str, broken)


def test_a_broken_video_is_replaced_in_training(with_broken, capsys):
    data, broken, _ = with_broken
    overrides = ["optimization.epochs=1", "optimization.batch_size=4"]
    assert train(data, data / "run", *overrides) == 0
    checked, replaced = sentences(capsys)
    assert broken in checked and broken in replaced
    (sentence,) = json.loads((data / "run" / "unreadable.json").read_text())
    assert broken in sentence
    evaluation = json.loads((data / "run" / "evaluation" / "evaluation.json").read_text())
    assert (evaluation["videos"], len(evaluation["unreadable"])) == (15, 1)
    assert train(data, data / "run", *overrides) == 0
    assert not any(broken in sentence for sentence in sentences(capsys))  # what was checked is not checked again


@pytest.mark.parametrize("change", ["renamed", "added", "removed"])
def test_a_run_resumes_on_the_same_classes_and_videos_only(data, tmp_path, capsys, change):
    shutil.copytree(data / "train", tmp_path / "train")
    shutil.copy(data / "recipe.yaml", tmp_path)
    overrides = ["optimization.epochs=1"]
    assert train(tmp_path, tmp_path / "run", *overrides) == 0
    if change == "renamed":
        (tmp_path / "train" / NAMES[0]).rename(tmp_path / "train" / "Showing something azure")
    elif change == "added":
        shutil.copytree(tmp_path / "train" / NAMES[0], tmp_path / "train" / "Showing something yellow")
    else:
        next((tmp_path / "train" / NAMES[0]).iterdir()).unlink()
    capsys.readouterr()
    assert train(tmp_path, tmp_path / "run", *overrides) == 1
    (sentence,) = sentences(capsys)
    expected = {
        "renamed": "other classes: 'Showing something blue' is 'Showing something azure' now",
        "added": "other classes: no class is 'Showing something yellow' now",
        "removed": "other training data: videos or their labels",
    }
    assert expected[change] in sentence


def test_too_many_broken_videos_stop_training(with_broken, capsys):
    data, broken, _ = with_broken
    overrides = ["optimization.epochs=1", "optimization.batch_size=4", "data.max_unreadable=0"]
    assert train(data, data / "run", *overrides) == 1
    said = sentences(capsys)
    assert len(said) == 2 and broken in said[0]
    assert "1 of 16 and 1 of 16 videos" in said[-1]
    assert not (data / "run" / "state.pt").exists()
    assert train(data, data / "run2", *overrides, "data.check=false") == 1  # found where they are read
    assert "1 of 16 videos" in sentences(capsys)[-1]


def test_broken_videos_are_counted_in_validation_up_to_a_limit(with_broken, trained, capsys):
    data, _, broken = with_broken
    assert validate(trained, data / "test", "--output", data / "report") == 0
    report = printed(capsys.readouterr().out)
    assert (report["top-1"], report["videos"]) == ("91.67%", "12 measured, 1 unreadable")
    (sentence,) = json.loads((data / "report" / "evaluation.json").read_text())["unreadable"]
    assert broken in sentence
    assert validate(trained, data / "test", "--max-unreadable", 0) == 1
    (error,) = sentences(capsys)
    assert broken in error


def test_errors_of_data_loading_processes_are_one_sentence(data, tmp_path, capsys):
    for i in range(4):
        (tmp_path / "train" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / f"{i % 2}" / f"{i}.mp4").write_text("not a video")
    shutil.copy(data / "recipe.yaml", tmp_path)
    overrides = ["data.num_workers=1", "optimization.batch_size=2", "data.check=false"]
    assert train(tmp_path, tmp_path / "run", *overrides) == 1
    (error,) = sentences(capsys)
    assert error.startswith("10 videos in a row cannot be read")


INTERRUPTED = """
import io, signal, sys
from tqdm import tqdm
from inti_models.cli import main

class Terminal(io.TextIOWrapper):
    pressed = False

    def write(self, text):
        if "evaluate" in text and not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)
        return super().write(text)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    sys.stderr = Terminal(sys.stderr.buffer, write_through=True)
    status = main(sys.argv[1:])
    assert tqdm.monitor is None  # a thread that would wait for the lock at exit
    sys.exit(status)
"""


def test_the_same_command_resumes_after_ctrl_c(data, trained, tmp_path):
    """Ctrl-C comes when the first measurement shows: the write that it interrupts holds the lock of the bar."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    command = [sys.executable, str(tmp_path / "interrupted.py"), *train_arguments(data, tmp_path / "run")]
    stopped = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith("inti-models: stopped; ")
    assert not (tmp_path / "run" / "last").exists()
    with contextlib.redirect_stderr(again := io.StringIO()):
        assert train(data, tmp_path / "run") == 0
    assert " 3/15 " in again.getvalue().split("\r")[1]  # one epoch is done
    weights = [folder / "last" / "model.safetensors" for folder in (tmp_path / "run", trained[0])]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_two_processes_print_one_report(data, trained, tmp_path):
    def measure():
        with (tmp_path / f"{os.environ['RANK']}.txt").open("w") as out, contextlib.redirect_stdout(out):
            options = ["--workers", 1, "--batch-size", 2, "--output", tmp_path / "report"]
            assert validate(trained, data / "test", *options) == 0

    assert launched(measure, processes=2) == [0, 0]
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert printed(first)["top-1"] == "91.67%"
    assert second == ""
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["videos"] == 12
    assert len(rows(tmp_path / "report")) == 2


def test_classes_that_the_model_has_not_are_named(data, trained, tmp_path, capsys):
    shutil.copytree(data / "test", tmp_path / "test")
    (tmp_path / "test" / NAMES[0]).rename(tmp_path / "test" / "Showing nothing")
    assert validate(trained, tmp_path / "test") == 1
    (error,) = sentences(capsys)
    assert "'Showing nothing'" in error


def test_indices_without_names_are_not_guessed(data, trained, tmp_path, capsys):
    source, *root, _, _ = as_txt(data, tmp_path)
    assert validate(trained, source, *root) == 1
    (error,) = sentences(capsys)
    assert "'0'" in error
    assert validate(trained, source, *root, "--zero-shot") == 1
    (error,) = sentences(capsys)
    assert "only class numbers" in error


def test_indices_are_the_classes_of_a_model_without_names(data, trained, tmp_path, capsys):
    source, *root, _, _ = as_txt(data, tmp_path)
    model = inti_models.load(trained[0] / "best", num_classes=4)
    inti_models.save_pretrained(model, tmp_path / "best")
    assert validate((tmp_path, ""), source, *root) == 1
    (error,) = sentences(capsys)
    assert "The model has 4 classes, the data 3" in error
    weight, bias = (torch.zeros(3, 32), torch.tensor([0.0, 0.0, 1.0]))
    model.reset_classifier(3)
    model.head.load_state_dict({"weight": weight, "bias": bias})
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": None}
    inti_models.save_pretrained(model, tmp_path / "best")
    assert validate((tmp_path, ""), source, *root) == 0
    assert "  100.0%  2 (4 videos)" in capsys.readouterr().out.splitlines()


def test_a_folder_of_some_of_the_classes_is_enough(data, trained, tmp_path, capsys):
    shutil.copytree(data / "test" / NAMES[2], tmp_path / NAMES[2])
    assert validate(trained, tmp_path) == 0
    assert printed(capsys.readouterr().out)["top-1"] == "75.00%"
