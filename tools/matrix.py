"""Run the tests with the oldest packages that `pyproject.toml` allows, and with the newest on each available Python.

    python tools/matrix.py [--output FILE] [--pytest ARGS] [ROW ...]

Each row is a separate environment under `.matrix/`, made by uv, with the extra `test`: tests of what needs other
extras are skipped. A Python that is not on this machine is reported as missing, and does not fail the run.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".matrix"
ROWS = {
    "oldest": ("3.11", "lowest-direct"),
    "newest-3.11": ("3.11", "highest"),
    "newest-3.12": ("3.12", "highest"),
    "newest-3.13": ("3.13", "highest"),
}
PARALLEL = ("--numprocesses", "logical", "--maxprocesses", "4", "--dist", "loadfile")
SHOWN = ("torch", "torchvision", "timm", "huggingface_hub", "open_clip_torch", "safetensors", "numpy", "av", "fvcore")


def uv(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uv", *args]
    return subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)


def run(name: str, pytest_args: list[str]) -> dict[str, Any]:
    """Make the environment of a row and run the tests in it."""
    version, resolution = ROWS[name]
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if uv("python", "find", "--no-python-downloads", version).returncode:
        return {"outcome": f"not run: no Python {version} on this machine"}
    made = [
        uv("venv", "--quiet", "--seed", "--allow-existing", "--no-python-downloads", "--python", version, str(folder)),
        uv(
            "pip",
            "install",
            "--python",
            str(python),
            "--resolution",
            resolution,
            "-r",
            "pyproject.toml",
            "--extra",
            "test",
        ),
        uv("pip", "install", "--quiet", "--python", str(python), "--no-deps", "--editable", "."),
    ]
    if any(step.returncode for step in made):
        return {"outcome": "failed: its packages cannot be installed"}
    packages = json.loads(uv("pip", "list", "--python", str(python), "--format", "json").stdout)
    versions = {p["name"].lower().replace("-", "_"): p["version"] for p in packages}
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", *PARALLEL, *pytest_args]
    log = folder / "pytest.log"
    with log.open("w") as file:
        tests = subprocess.run(
            command, cwd=ROOT, check=False, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PATH": path}
        )
    summary = re.sub(r"^=+ | =+$", "", (log.read_text().strip().splitlines() or ["no test ran"])[-1])
    return {
        "outcome": "passed" if tests.returncode == 0 else f"failed: see {log}",
        "tests": summary,
        "python": subprocess.check_output([str(python), "-V"], text=True).split()[1],
        "packages": {package: versions[package] for package in SHOWN if package in versions},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to run (default: all)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--pytest", default="", help="arguments for pytest")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    if find_spec("uv") is None:
        parser.exit(2, "uv is not installed: pip install uv\n")
    results = {}
    for name in args.rows or ROWS:
        print(f"{name}: Python {ROWS[name][0]}, {ROWS[name][1]}", flush=True)
        results[name] = run(name, args.pytest.split())
        print(json.dumps(results[name], indent=2), flush=True)
        if args.output:
            args.output.write_text(json.dumps(results, indent=2) + "\n")
    return int(any(result["outcome"].startswith("failed") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
