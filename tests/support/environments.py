"""Environments that hold a part of the packages of this one, at once and without a network."""

import re
import venv
from importlib.metadata import distribution
from pathlib import Path

from support.modules import load_module

_NAMED = re.compile(r"(?:inti_models|\.whl|'\.)\[([\w,]+)\]")  # as pip install wants them


def extras_named(page: Path) -> list[str]:
    """Return the extras of this package that a page tells its reader to install."""
    found = _NAMED.findall(page.read_text(encoding="utf-8"))
    return sorted({extra for extras in found for extra in extras.split(",")})


def create(folder: Path, extras: list[str]) -> Path:
    """Make an environment of what this package and these extras need, by links to what is installed here.

    Returns:
        Its Python, which finds this package where PYTHONPATH says.
    """
    builder = venv.EnvBuilder(symlinks=True)
    builder.create(folder)
    context = builder.ensure_directories(folder)
    (site,) = Path(folder, "lib").glob("python*/site-packages")
    for name in load_module("benchmarks/gpu.py").closure(f"inti_models[{','.join(extras)}]"):
        if name == "inti-models":
            continue
        found = distribution(name)
        for entry in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            link = site / entry
            if not link.exists():  # a namespace, such as nvidia, has several
                link.symlink_to(Path(str(found.locate_file(entry))))
    return Path(context.env_exe)
