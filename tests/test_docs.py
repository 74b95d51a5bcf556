"""The guides of docs, run as they stand."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import inti_models
from inti_models.data import write_video
from inti_models.data.motion_digits import MotionDigits
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


ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if path not in (GUIDE, MODULE_GUIDE))  # these run above


def run_page(page, folder):
    """Run all blocks of a page in their order, in one folder; returns the lines that they print."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = [
        text if language == "sh" else f"python - <<'END'\n{text}END\n"
        for skip, language, text in BLOCK.findall(page.read_text(encoding="utf-8"))
        if not skip
    ]
    command = ["bash", "-euc", "\n".join(script)]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_page_runs_as_it_stands(page, tmp_path):
    for module in ("onnxruntime", "ray", "matplotlib"):
        pytest.importorskip(module)
    lines = run_page(page, tmp_path)
    if page.stem == "deploy":
        windows = [line.split()[0] for line in lines if re.match(r"\d+\.\d\d-", line)]
        assert windows == [f"{start / 2:.2f}-{start / 2 + 0.875:.2f}" for start in range(7)]
        assert "(4, 10) (0, 0, 1, 4, 6) (0, 0, 3, 7, 11, 15)" in lines and "(3, 120)" in lines
        assert lines[-2:] == [
            "labels: 1 labelled, 0 could not be read (column error), 0 done before",
            "labels: 0 labelled, 0 could not be read (column error), 1 done before",
        ]
    if page.stem == "pictures":
        assert {path.name for path in tmp_path.iterdir()} >= {"out.png", "out.gif", "out.html", "weights-1.png"}
        assert "torch.Size([1, 8]) torch.Size([1, 8, 4, 4])" in lines
    if page.stem == "how_it_works":
        assert "5.0 of 8 frames a block" in lines


@pytest.mark.parametrize(
    "page",
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md", ROOT / "hub/README.md"],
    ids=lambda page: f"{page.parent.name}-{page.stem}",
)
def test_links_of_a_page_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_documentation_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "forward_intermediates" in api and "InTIVisionTransformer" in api
    models = (tmp_path / "site" / "models" / "index.html").read_text()
    assert "inti_uniformerv2_l14_ssv2" in models and "{{" not in models


EXAMPLES = {
    "demo.py": ([], r"3, left"),
    "features.py": ([], r"block 4: \(1, 4, 96, 4, 4\)"),
    "finetune_head.py": (
        ["--clips", "120", "--epochs", "30"],
        r"mean accuracy of left, right, neither: [89]\d\.\d%|100",
    ),
    "weight_pictures.py": (["--clips", "1", "--output", "pictures"], r"clip 0: [3-9]\d% of the weights"),
    "stream.py": (["clip.mp4", "--stride", "2"], r"^  0\.00-0\.88 s  3, left"),
    "zero_shot_labels.py": (["--help"], r"Zero-shot: label a video"),
}


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("examples/*.py")))
def test_example_runs(name, tmp_path):
    args, expected = EXAMPLES[name]
    write_video(tmp_path / "clip.mp4", MotionDigits("validation")[1][0], fps=8)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, ROOT / "examples" / name, *args]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert re.search(expected, ran.stdout, re.MULTILINE), ran.stdout


def test_links_of_the_guide_to_temporal_modules_exist_and_it_names_every_hook():
    text = MODULE_GUIDE.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (GUIDE.parent / target).exists(), target
    hooks = {name for name in vars(TemporalMethod) if not name.startswith("_")}
    assert hooks <= set(re.findall(r"`(\w+)[`(]", text)), hooks
    assert all(f"`{name}`" in text for name in set(METHODS))
