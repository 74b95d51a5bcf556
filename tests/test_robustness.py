"""Short forms of the long-running programs in tools/: one sample of each kind of damage."""

import importlib
import json
import subprocess
import sys
from collections import Counter

import pytest

from support.modules import ROOT, load_module

TOOLS = ROOT / "tools"


@pytest.mark.parametrize("name", ["fuzz_videos", "fuzz_checkpoints"])
def test_damaged_input_ends_in_a_result_or_a_sentence(name, tmp_path):
    """In this process: what would kill or stop it is found as well, if less gently than by `make fuzz`."""
    fuzz, runner = load_module(TOOLS / f"{name}.py"), load_module(TOOLS / "runner.py")
    count = 40
    outcomes = Counter(runner.outcome_of(fuzz.examine, path) for path in fuzz.mutants(tmp_path, count, seed=1))
    assert not [outcome for outcome in outcomes if outcome.startswith("FAILURE")]
    errors = sum(times for outcome, times in outcomes.items() if outcome.startswith("error: "))
    assert 0.2 * count < errors < outcomes.total()  # some damage is harmless, most is not


FAULTS = """
import os, time
def examine(path):
    what = path.read_text()
    if what == "crash":
        os.kill(os.getpid(), 11)
    if what == "hang":
        time.sleep(60)
    if what == "memory":
        bytearray(2**28)
    if what == "key":
        raise KeyError("x")
    if what == "lines":
        raise ValueError("a\\nb")
    return "fine"
"""


def test_runner_tells_crash_hang_memory_and_traceback_apart(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)  # spawned processes import the runner by its name
    runner = importlib.import_module("runner")
    (tmp_path / "examined.py").write_text(FAULTS)
    kinds, paths = ["fine", "crash", "hang", "memory", "key", "lines", "fine"], []
    for i, what in enumerate(kinds):
        paths.append(tmp_path / f"{i}.txt")
        paths[-1].write_text(what)
    result = runner.run(tmp_path / "examined.py", paths, len(paths), limit=3, memory=250, keep=tmp_path / "kept")
    assert result["outcomes"]["fine"] == 2
    said = [failure["outcome"] for failure in result["failures"]]
    starts = ("crash: exit code -11", "hang", "memory", "KeyError", "not a sentence")
    for outcome, start in zip(said, starts, strict=True):
        assert outcome.startswith(f"FAILURE: {start}"), outcome
    assert len(list((tmp_path / "kept").iterdir())) == 5


def test_long_work_keeps_memory_and_files_flat():
    load = load_module(TOOLS / "load.py")
    for part in (load.label(100), load.stream(500)):
        assert part["flat"], part
        before, after = part["open_files"]
        assert after <= before + 2


@pytest.mark.slow  # twelve processes
def test_processes_load_the_same_model_at_once():
    load = load_module(TOOLS / "load.py")
    for part in (load.loading(3), load.downloading(3)):
        assert part["flat"], part


def faults(script, *args):
    """Run tools/faults.py, or a script that calls it, in a process of its own: it forks before there are threads."""
    return subprocess.run([sys.executable, str(script), *map(str, args)], capture_output=True, text=True)


@pytest.mark.slow  # some thirty processes; trainer and saving are killed in test_trainer.py and test_hub.py
def test_killed_and_hindered_processes_lose_nothing(tmp_path):
    jobs = ("train", "save", "push", "download")
    done = faults(TOOLS / "faults.py", "--times", 4, "--output", tmp_path / "result.json", *jobs)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert not result["failures"]
    for job in jobs:
        assert result[job]["killed"] == 4
        assert result[job]["finished after all"] == result[job]["read-only"] == 1


DAMAGES = f"""
import sys
sys.path.insert(0, {str(TOOLS)!r})
import faults

def torn(folder, say):
    faults.save(folder, say)
    (folder / "model" / "model.safetensors").write_bytes(b"torn")

def early(folder, say):
    say(99)
    faults.save(folder, say)

for work in (torn, early):
    faults.JOBS[work.__name__] = faults.Job(work, faults.saved)
if __name__ == "__main__":
    sys.exit(faults.main())
"""


@pytest.mark.slow  # some twenty processes
def test_what_is_damaged_or_lost_is_found(tmp_path):
    (tmp_path / "damages.py").write_text(DAMAGES)
    done = faults(tmp_path / "damages.py", "--times", 1, "--output", tmp_path / "result.json", "torn", "early")
    assert done.returncode == 1
    failures = json.loads((tmp_path / "result.json").read_text())["failures"]
    for job, wrong in (("torn", "damaged: ValueError"), ("early", "lost: version")):
        assert any(failure["job"] == job and failure["wrong"].startswith(wrong) for failure in failures), failures
