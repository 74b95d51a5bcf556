"""The code of the guides and of the README runs as it stands, and so do the examples."""

import csv
import dataclasses
import os
import re
import runpy
import subprocess
import sys
import unittest.mock

import huggingface_hub
import pytest
import torch

import inti_models
from inti_models import zoo
from inti_models.data import write_video
from inti_models.data.motion_digits import MotionDigits
from inti_models.models.temporal import METHODS, TemporalMethod
from inti_models.training.recipe import RECIPES
from support import environments
from support.modules import ROOT
from support.pages import blocks, run_block

FINETUNE, TEMPORAL = ROOT / "docs" / "finetune.md", ROOT / "docs" / "add_a_temporal_module.md"
DISTILL = ROOT / "docs" / "distill.md"  # run by tests/weights/test_distill_page.py, with a Hub
TRUNK = ROOT / "docs" / "add_a_trunk.md"  # run by tests/models/test_trunks.py, which goes on with its trunk
SEARCH = ROOT / "docs" / "search.md"  # run by tests/weights/test_search_guide.py, with a CLIP from a Hub
PAGES = sorted(
    path for path in (ROOT / "docs").glob("*.md") if path not in (FINETUNE, DISTILL, TEMPORAL, TRUNK, SEARCH)
)


@pytest.fixture(scope="module", autouse=True)
def offline():
    """No Hub and no GPU: the pages promise to need neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


# The walk of docs/finetune.md


@pytest.fixture(scope="module")
def walk(tmp_path_factory, offline):
    """The folder in which all was run, and what each block printed."""
    folder = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, [run_block(*block) for block in blocks(FINETUNE)]


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
    table = FINETUNE.read_text(encoding="utf-8").split("| file | what it is |\n")[1].split("\n\n")[0]
    names = {name for row in table.splitlines()[1:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert {path.name for path in (folder / "runs" / "mine").iterdir()} - {"validation"} == {
        name.rstrip("/") for name in names - {"unreadable.json"}
    }
    assert (folder / "runs" / "mine" / "validation" / "confusion.png").stat().st_size > 0


def test_plain_loop_has_at_most_40_lines_and_learns_the_same(walk):
    folder, (*_, printed) = walk
    *_, (language, text) = blocks(FINETUNE)
    assert language == "python"
    assert len(text.splitlines()) <= 40
    right, of = map(int, re.findall(r"(\d+) of (\d+)", printed)[-1])
    assert of == 40
    assert right > 0.8 * of
    assert (folder / "runs" / "plain" / "model.safetensors").exists()


def test_recipes_of_the_walk_exist():
    text = FINETUNE.read_text(encoding="utf-8")
    names = re.findall(r"(?:inti-models|inti_models) train (\w+) ", text)
    assert names
    for name in names:
        assert (RECIPES / f"{name}.yaml").exists(), name


# The other pages


def test_temporal_method_of_the_guide_is_the_shift_that_it_describes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = list(blocks(TEMPORAL))
    assert {language for language, _ in page} == {"python"}
    with unittest.mock.patch.dict(METHODS):  # the guide adds its own
        printed = run_block("python", "\n".join(text for _, text in page))
    assert printed.splitlines() == [
        "logits (1, 120)",
        "schedule (4,) temporal Shift",
        "frame 1 sees frame 0: True - and frame 7, after 6 blocks: False",
        "shifted: [[0.0, 2.0, 1.0, 1.0], [1.0, 3.0, 2.0, 2.0], [2.0, 0.0, 3.0, 3.0]]",
    ]


def test_guide_to_temporal_methods_names_every_hook_and_method():
    text = TEMPORAL.read_text(encoding="utf-8")
    hooks = {name for name in vars(TemporalMethod) if not name.startswith("_")}
    assert hooks <= set(re.findall(r"`(\w+)[`(]", text)), hooks
    assert all(f"`{name}`" in text for name in METHODS)


def run_page(page, folder, patch, slow=False):
    """Run the blocks of a page in their order, in one folder; returns the lines that they print."""
    patch.chdir(folder)
    return "".join(run_block(*block) for block in blocks(page, slow)).splitlines()


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_page_runs_as_it_stands(page, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    lines = run_page(page, tmp_path, monkeypatch)
    if page.stem == "deploy":
        windows = [line.split()[0] for line in lines if re.match(r"\d+\.\d\d-", line)]
        assert windows == [f"{start / 2:.2f}-{start / 2 + 0.875:.2f}" for start in range(7)]
        assert "(4, 10, 12) (0, 0, 1, 4, 6, 12) (0, 0, 3, 7, 11, 15, 24)" in lines
    if page.stem == "pictures":
        assert {path.name for path in tmp_path.iterdir()} >= {"out.png", "out.gif", "out.html", "weights-1.png"}
        assert "torch.Size([1, 8]) torch.Size([1, 8, 4, 4])" in lines
    if page.stem == "how_it_works":
        assert "5.0 of 8 frames a block" in lines


@pytest.mark.slow  # each page in an environment of its own
@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted({*ROOT.glob("docs/*.md")} - {DISTILL, SEARCH})], ids=lambda page: page.stem
)
def test_page_runs_with_nothing_but_the_extras_that_it_names(page, tmp_path):
    if not list(blocks(page, slow=True)):
        pytest.skip("the page has no code to run")
    python = environments.create(tmp_path / "venv", environments.extras_named(page))
    (tmp_path / "work").mkdir()
    where = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))}
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, "-m", "support.pages", page, *(["--together"] if page in (TEMPORAL, TRUNK) else [])]
    subprocess.run(command, check=True, cwd=tmp_path / "work", env={**os.environ, **where, **offline})


@pytest.mark.slow  # exports and a cluster of Ray, which tests/inference tries in short
def test_slow_blocks_of_the_guide_to_deployment_run_too(tmp_path, monkeypatch):
    for module in ("onnxruntime", "ray"):
        pytest.importorskip(module)
    lines = run_page(ROOT / "docs" / "deploy.md", tmp_path, monkeypatch, slow=True)
    assert "(3, 120)" in lines
    assert lines[-2:] == [
        "labels: 1 labelled, 0 could not be read (column error), 0 done before",
        "labels: 0 labelled, 0 could not be read (column error), 1 done before",
    ]


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
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site")))
    api = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "forward_intermediates" in api and "InTIVisionTransformer" in api
    for page in (tmp_path / "site").rglob("index.html"):
        for target in re.findall(r'(?:href|src)="(?![\w-]+:)([^"#?]+)', page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)
    models = (tmp_path / "site" / "models" / "index.html").read_text()
    assert "inti_uniformerv2_l14_ssv2" in models and "{{" not in models


# Examples


def run_example(name, *arguments):
    """Run a script of examples/ as its command line does."""
    with unittest.mock.patch.object(sys, "argv", [name, *arguments]):
        try:
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        except SystemExit as end:
            assert not end.code, end.code


EXAMPLES = {
    "demo.py": ([], r"3, left"),
    "features.py": ([], r"block 4: \(1, 4, 96, 4, 4\)"),
    "finetune_head.py": (
        ["--clips", "120", "--epochs", "30"],
        r"mean accuracy of left, right, neither: [89]\d\.\d%|100",
    ),
    "weight_pictures.py": (["--clips", "1", "--output", "pictures"], r"clip 0: [3-9]\d% of the weights"),
    "stream.py": (["clip.mp4", "--stride", "2"], r"^  0\.00-0\.88 s  3, left"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a clip of a 3 that goes left."""
    write_video(tmp_path / "clip.mp4", MotionDigits("validation")[1][0], fps=8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_prints_what_it_promises(name, folder, capsys):
    arguments, expected = EXAMPLES[name]
    run_example(name, *arguments)
    printed = capsys.readouterr().out
    assert re.search(expected, printed, re.MULTILINE), printed


def test_zero_shot_example_labels_a_video_with_the_readers_words(folder, capsys, monkeypatch):
    pytest.importorskip("open_clip")
    from support import miniature_clips

    repo = "timm/vit_base_patch16_clip_224.openai"
    # The Hub's cache, with a miniature of the CLIP in it
    cached = folder / "cache" / f"models--{repo.replace('/', '--')}"
    clip = miniature_clips.build(repo, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(folder))  # of the heads that were built
    b16 = zoo.ARCHITECTURES["b16"]
    size = {key: value for key, value in clip.overrides.items() if key != "img_size"}
    monkeypatch.setitem(zoo.ARCHITECTURES, "b16", dataclasses.replace(b16, model_args={**b16.model_args, **size}))

    words = ["riding a bike", "feeding goats", "tying a knot"]
    run_example("zero_shot_labels.py", "clip.mp4", *words)
    printed = dict(line.strip().split("%  ")[::-1] for line in capsys.readouterr().out.splitlines())
    probabilities = [float(value) for value in printed.values()]
    assert set(printed) == set(words)
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(100, abs=0.2)
    run_example("zero_shot_labels.py", "clip.mp4", *words[::-1])
    again = dict(line.strip().split("%  ")[::-1] for line in capsys.readouterr().out.splitlines())
    assert again == printed  # a word has its probability wherever it stands


def test_every_example_is_run_by_a_test():
    assert {path.name for path in ROOT.glob("examples/*.py")} == {*EXAMPLES, "zero_shot_labels.py"}
