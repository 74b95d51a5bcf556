"""The guides of docs, run as they stand."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import inti_models
from inti_models.recipe import RECIPES
from inti_models.temporal import METHODS, TemporalMethod

GUIDE = Path(__file__).parent.parent / "docs" / "finetune.md"
BLOCK = re.compile(r"^(<!-- not run: [^\n]+ -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """Language and text of the blocks of code that are to be run."""
    return [(language, text) for skip, language, text in BLOCK.findall(GUIDE.read_text(encoding="utf-8")) if not skip]


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """The folder in which all was run, and what each block printed."""
    folder = tmp_path_factory.mktemp("walk")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    printed = []
    for language, text in blocks():
        command = {"sh": ["bash", "-euc", text], "python": [sys.executable, "-c", text]}[language]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{text}\n{result.stderr}"
        printed.append(result.stdout)
    return folder, printed


def test_walk_trains_a_model_that_names_the_readers_classes(walk):
    folder, (_, trained, used, _) = walk
    with (folder / "runs" / "mine" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["updates"] for row in rows] == ["5", "10", "15", "20", "25", "30"], (
        "the override of the batch size was not taken"
    )
    assert float(rows[-1]["top1"]) > 70
    assert "runs/mine/best" in trained
    config = inti_models.load(folder / "runs" / "mine" / "best").pretrained_cfg
    assert config["label_names"] == ["grow", "left", "right", "shrink"]
    right = re.findall(r"^videos/validation/left/\S+\n +\S+%  (\w+)", used, re.MULTILINE)
    assert len(right) == 10
    assert right.count("left") > 6


def test_walk_leaves_the_files_that_the_guide_lists(walk):
    folder, _ = walk
    table = GUIDE.read_text(encoding="utf-8").split("are then\n\n")[1].split("\n\n")[0]
    names = {name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert {path.name for path in (folder / "runs" / "mine").iterdir()} - {"validation"} == {
        name.rstrip("/") for name in names - {"unreadable.json"}
    }
    assert (folder / "runs" / "mine" / "validation" / "confusion.png").stat().st_size > 0


def test_plain_loop_has_at_most_40_lines_and_learns_the_same(walk):
    folder, (*_, printed) = walk
    *_, (language, text) = blocks()
    assert language == "python"
    assert len(text.splitlines()) <= 40
    right, of = map(int, re.findall(r"(\d+) of (\d+)", printed)[-1])
    assert of == 40
    assert right > 0.8 * of
    assert (folder / "runs" / "plain" / "model.safetensors").exists()


def test_links_and_recipes_of_the_guide_exist():
    text = GUIDE.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (GUIDE.parent / target).exists(), target
    for name in re.findall(r"inti-models train (\w+) |inti_models.cli train (\w+) ", text):
        assert (RECIPES / f"{''.join(name)}.yaml").exists(), name


MODULE_GUIDE = GUIDE.with_name("add_a_temporal_module.md")


def test_guide_to_temporal_modules_runs_as_it_stands(tmp_path):
    found = BLOCK.findall(MODULE_GUIDE.read_text(encoding="utf-8"))
    assert {language for _, language, _ in found} == {"python"}
    script = "\n".join(text for _, _, text in found)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "logits (1, 120)",
        "schedule (4,) temporal Shift",
        "frame 1 sees frame 0: True - and frame 7, after 6 blocks: False",
        "shifted: [[0.0, 2.0, 1.0, 1.0], [1.0, 3.0, 2.0, 2.0], [2.0, 0.0, 3.0, 3.0]]",
    ]


DEPLOY_GUIDE = GUIDE.with_name("deploy.md")


def test_guide_to_deployment_runs_as_it_stands(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ray")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = []  # one process for all that is Python between commands
    for _, language, text in BLOCK.findall(DEPLOY_GUIDE.read_text(encoding="utf-8")):
        script.append(text if language == "sh" else f"python - <<'END'\n{text}END\n")
    command = ["bash", "-euc", "\n".join(script)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    windows = [line.split()[0] for line in lines if re.match(r"\d+\.\d\d-", line)]
    assert windows == ["0.00-0.88", "0.50-1.38", "1.00-1.88", "1.50-2.38", "2.00-2.88", "2.50-3.38", "3.00-3.88"]
    assert "(4, 10) (0, 0, 1, 4, 6) (0, 0, 3, 7, 11, 15)" in lines
    assert "(3, 120)" in lines
    assert lines[-2:] == [
        "labels: 1 labelled, 0 could not be read (column error), 0 done before",
        "labels: 0 labelled, 0 could not be read (column error), 1 done before",
    ]


def test_links_of_the_guide_to_deployment_exist():
    for target in re.findall(r"\]\(([^)#]+)", DEPLOY_GUIDE.read_text(encoding="utf-8")):
        assert (GUIDE.parent / target).exists(), target


def test_links_of_the_guide_to_temporal_modules_exist_and_it_names_every_hook():
    text = MODULE_GUIDE.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (GUIDE.parent / target).exists(), target
    hooks = {name for name in vars(TemporalMethod) if not name.startswith("_")}
    assert hooks <= set(re.findall(r"`(\w+)[`(]", text)), hooks
    assert all(f"`{name}`" in text for name in set(METHODS))
