"""Put small faults into the package, one at a time, and see whether the tests find them (`make mutants`).

The faults are in mutants.yaml. First every test file runs by itself under coverage.py, which records the lines that it
executes, in its own process and in those it starts. Then, for each fault, the test files that execute the changed
lines run on a copy of the source with that fault, fastest first, up to the first test that fails.
"""

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import coverage
import yaml
from tqdm import tqdm

HERE = Path(__file__).parent
SETTINGS = """[run]
branch = True
source_pkgs = inti_models
parallel = True
patch = subprocess, fork, _exit
sigterm = True
data_file = {folder}/.coverage
{context}

[report]
show_missing = False
"""
PATIENCE = 10  # a fault that makes the tests take so many times as long as they do under coverage is found


def read_mutants(root: Path) -> list[dict[str, str]]:
    """Read the faults, numbered; raise a ValueError unless the text of each occurs exactly once in its file."""
    mutants = yaml.safe_load((HERE / "mutants.yaml").read_text(encoding="utf-8"))
    for mutant in mutants:
        times = source_of(root, mutant).read_text(encoding="utf-8").count(mutant["before"])
        if times != 1 or mutant["before"] == mutant["after"]:
            raise ValueError(
                f"{mutant['file']} has {mutant['before']!r} {times} times; expected once: follow the source in "
                "tools/mutants.yaml."
            )
    return mutants


def source_of(root: Path, mutant: dict[str, str]) -> Path:
    """Return the file of a fault."""
    return root / "src" / "inti_models" / mutant["file"]


def lines_of(root: Path, mutant: dict[str, str]) -> set[int]:
    """Return the statement that a fault changes, as lines of its file."""
    text = source_of(root, mutant).read_text(encoding="utf-8")
    start = text[: text.index(mutant["before"])].count("\n") + 1
    changed = set(range(start, start + mutant["before"].count("\n") + 1))
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    around = [s for s in statements if s.lineno <= start <= (s.end_lineno or s.lineno)]
    innermost = min(around, key=lambda s: (s.end_lineno or s.lineno) - s.lineno)
    if not hasattr(innermost, "body"):
        changed |= set(range(innermost.lineno, (innermost.end_lineno or innermost.lineno) + 1))
    return changed


def environment(root: Path, **more: str) -> dict[str, str]:
    """Return the environment of processes that import the package from ``root`` and use one thread each."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1", **more}


def pytest(suite: str, *more: str) -> list[str]:
    """Return the arguments that all runs of tests share."""
    return ["-m", "pytest", "-q", "-p", "no:cacheprovider", *(["-m", suite] if suite else []), *more]


def cover(root: Path, folder: Path, suite: str, jobs: int) -> dict[str, Any]:
    """Run each test file under coverage; return its exit status and seconds, and the branch coverage of all.

    The data are in ``folder``, with the name of the test file as the context of each line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(str(path.relative_to(root)) for path in (root / "tests").rglob("test_*.py"))

    def run(file: str) -> tuple[int, float]:
        settings = folder / f"{file.replace('/', '_')}.ini"
        settings.write_text(SETTINGS.format(folder=folder, context=f"context = {file}"))
        command = ["-m", "coverage", "run", f"--rcfile={settings}", *pytest(suite, file)]
        start = time.monotonic()
        with settings.with_suffix(".log").open("w") as log:
            done = subprocess.run(
                [sys.executable, *command],
                cwd=root,
                env=environment(root, COVERAGE_RCFILE=str(settings)),
                stdout=log,
                stderr=log,
            )
        return done.returncode, time.monotonic() - start

    with ThreadPoolExecutor(jobs) as pool:
        outcomes = list(tqdm(pool.map(run, files), total=len(files), desc="coverage", unit="file"))
    everything = folder / "all.ini"
    everything.write_text(SETTINGS.format(folder=folder, context=""))
    whole = coverage.Coverage(config_file=str(everything))
    whole.combine([str(folder)], keep=True)
    whole.save()
    with open(os.devnull, "w") as nowhere:
        percent = whole.report(file=nowhere, include=[f"{root}/src/*"])  # not copies that tests installed
    result = {
        "branch coverage": round(percent, 2),
        "files": {
            file: {"exit": code, "seconds": round(seconds, 1)}
            for file, (code, seconds) in zip(files, outcomes, strict=True)
        },
    }
    (folder / "coverage.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def covering(root: Path, folder: Path, mutants: list[dict[str, str]]) -> list[list[str]]:
    """Return for each fault the test files that execute its lines, the fastest first."""
    seconds = {
        file: run["seconds"] for file, run in json.loads((folder / "coverage.json").read_text())["files"].items()
    }
    data = coverage.CoverageData(str(folder / ".coverage"))
    data.read()
    names = [name for name in data.measured_files() if Path(name).is_relative_to(root)]
    measured = {Path(name).relative_to(root).as_posix(): data.contexts_by_lineno(name) for name in names}
    files = []
    for mutant in mutants:
        contexts = measured.get(source_of(root, mutant).relative_to(root).as_posix(), {})
        found = {name for line in lines_of(root, mutant) for name in contexts.get(line, ())} & seconds.keys()
        files.append(sorted(found, key=lambda name: seconds[name]))
    return files


def examine(root: Path, mutant: dict[str, str], files: list[str], suite: str, timeout: float) -> dict[str, Any]:
    """Run the tests on a source with a fault; return the first test that failed, None if none did."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        shutil.copytree(root / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
        path = source_of(copy, mutant)
        path.write_text(path.read_text(encoding="utf-8").replace(mutant["before"], mutant["after"]), encoding="utf-8")
        found = None
        if files:
            command = [sys.executable, *pytest(suite, "-x", "--tb=no", "-p", "no:randomly", "-rfE", *files)]
            try:
                done = subprocess.run(
                    command, cwd=root, env=environment(copy), capture_output=True, text=True, timeout=timeout
                )
                failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
                if done.returncode not in (0, 5):
                    found = failed[0].split(" - ")[0] if failed else f"exit status {done.returncode}"
            except subprocess.TimeoutExpired:
                found = f"over {timeout:.0f} s"
    tqdm.write(f"{found or 'NOT FOUND':60}  {mutant['subject']}: {mutant['why']}")
    return {
        **{key: mutant[key] for key in ("subject", "file", "why")},
        "test files": len(files),
        "found by": found,
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=HERE.parent, help="checkout whose source and tests are used")
    parser.add_argument("--suite", default="not slow", help="pytest's -m (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=HERE.parent / ".mutants", help="folder for coverage data")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--check", action="store_true", help="only check that each fault's text is in the source")
    parser.add_argument("--again", action="store_true", help="run the tests under coverage again")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    args = parser.parse_args()
    root, folder = args.root.resolve(), args.folder.resolve()
    mutants = read_mutants(root)
    if args.check:
        print(f"{len(mutants)} faults fit the source")
        return 0
    if args.again or not (folder / "coverage.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        cover(root, folder, args.suite, args.jobs)
    measured = json.loads((folder / "coverage.json").read_text())
    red = [file for file, run in measured["files"].items() if run["exit"] not in (0, 5)]
    if red:  # coverage slows down what a test may wait for
        command = [sys.executable, *pytest(args.suite, "-p", "no:randomly", *red)]
        if subprocess.run(command, cwd=root, env=environment(root), stdout=sys.stderr).returncode:
            print(f"The tests fail without any fault: {', '.join(red)}; fix them first.", file=sys.stderr)
            return 1
    files = covering(root, folder, mutants)
    timeout = PATIENCE * sum(run["seconds"] for run in measured["files"].values())
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(examine, root, *pair, args.suite, timeout) for pair in zip(mutants, files, strict=True)]
        rows = [job.result() for job in tqdm(jobs, desc="mutants", unit="fault")]
    lost = [row for row in rows if row["found by"] is None]
    result = {"found": len(rows) - len(lost), "of": len(rows), "branch coverage": measured["branch coverage"]}
    text = json.dumps({**result, "mutants": rows}, indent=2)
    if args.output is not None:
        args.output.write_text(text + "\n")
    print(json.dumps(result))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
