"""The wheel, built through the sdist, works outside the checkout."""

import os
import subprocess
import sys
from pathlib import Path

from inti_models.data import write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits

ROOT = Path(__file__).parent.parent


def run(*command, **kwargs):
    result = subprocess.run(command, capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_wheel_from_sdist_predicts_outside_the_checkout(tmp_path):
    dist, site = tmp_path / "dist", tmp_path / "site"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT)
    (wheel,) = dist.glob("*.whl")
    assert list(dist.glob("*.tar.gz"))
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel)

    clip, label = MotionDigits("validation", size=32, length=8)[1]
    write_video(tmp_path / "clip.mp4", clip, fps=8)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    find = "from importlib.util import find_spec; print(find_spec('inti_models').origin)"
    assert Path(run(sys.executable, "-c", find, cwd=tmp_path, env=environment).strip()).is_relative_to(site)
    command = [site / "bin" / "inti-models", "predict", "clip.mp4", "--model", "inti_vit_t8_32_motiondigits"]
    assert CLASS_NAMES[label] in run(*command, "--topk", "1", cwd=tmp_path, env=environment)
