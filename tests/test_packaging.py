"""The wheel, built through the sdist, works outside the checkout."""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

from inti_models.data import write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from inti_models.extras import EXTRAS
from support.modules import load_module

ROOT = Path(__file__).parent.parent


def run(*command, **kwargs):
    result = subprocess.run(command, capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_package_that_is_imported_is_a_dependency_or_in_the_table_of_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brought = {"open_clip_torch": "open_clip", "pillow": "PIL", "scikit-learn": "sklearn", "omegaconf": "yaml"}
    extras = project["optional-dependencies"]

    def modules(requirements):
        names = {re.match(r"[\w-]+", line)[0] for line in requirements}
        return names | {brought[name] for name in names & brought.keys()}

    dependencies = modules(project["dependencies"])
    for module, extra in EXTRAS.items():
        assert module in modules(extras[extra]) - dependencies, (module, extra)
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        imported = {
            name.partition(".")[0]
            for node in tree
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and node.level == 0
                else []
            )
        }
        assert imported <= sys.stdlib_module_names | dependencies | EXTRAS.keys() | {"inti_models"}, path


def test_release_names_what_does_not_belong_together():
    release = load_module("tools/release.py")
    text = {"changelog": "# Changelog\n\n## 1.2.0 (2026-12-01)\n", "citation": "a: b\nversion: 1.2.0\nc: d\n"}
    right = {**text, "requirements": "./inti_models-1.2.0-py3-none-any.whl", "tags": ["v1.2.0"], "changed": ""}
    assert release.faults("1.2.0", **right) == []
    wrong = {
        "changelog": "## Unreleased\n",
        "citation": "version: 1.2\n",
        "requirements": "inti_models",
        "tags": ["v1.2"],
        "changed": " M README.md\n",
    }
    for name, value in wrong.items():
        (sentence,) = release.faults("1.2.0", **{**right, name: value})
        assert sentence.endswith(".")
    assert len(release.faults("1.3.0", **right)) == 4


def test_wheel_from_sdist_predicts_outside_the_checkout(tmp_path):
    dist, site = tmp_path / "dist", tmp_path / "site"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    if (ROOT / ".git").exists():  # tests read files of all folders
        assert set(run("git", "ls-files", cwd=ROOT).splitlines()) - held == set()
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel)

    clip, label = MotionDigits("validation", size=32, length=8)[1]
    write_video(tmp_path / "clip.mp4", clip, fps=8)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    find = "from importlib.util import find_spec; print(find_spec('inti_models').origin)"
    assert Path(run(sys.executable, "-c", find, cwd=tmp_path, env=environment).strip()).is_relative_to(site)
    command = [site / "bin" / "inti-models", "predict", "clip.mp4", "--model", "inti_vit_t8_32_motiondigits"]
    assert CLASS_NAMES[label] in run(*command, "--topk", "1", cwd=tmp_path, env=environment)
