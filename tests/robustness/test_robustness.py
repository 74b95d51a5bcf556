"""Short forms of what `make fuzz` and `make load` do at length."""

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # spawned processes import the runner by its name


def module_of(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


runner = module_of("runner")


@pytest.mark.parametrize(("name", "count", "extra"), [("fuzz_videos", 200, 22 + 10), ("fuzz_checkpoints", 150, 0)])
def test_damaged_input_ends_in_a_result_or_a_sentence(name, count, extra, tmp_path):
    fuzz = module_of(name)
    inputs = fuzz.mutants(tmp_path, count, seed=1)
    result = runner.run(HERE / f"{name}.py", inputs, count, fuzz.LIMIT, fuzz.MEMORY, keep=None)
    assert not result["failures"]
    assert result["inputs"] >= count + extra
    errors = sum(n for outcome, n in result["outcomes"].items() if outcome.startswith("error: "))
    assert 0.2 * count < errors < count  # some damage is harmless, most is not


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


def test_runner_tells_crash_hang_memory_and_traceback_apart(tmp_path):
    (tmp_path / "faults.py").write_text(FAULTS)
    kinds, paths = ["fine", "crash", "hang", "memory", "key", "lines", "fine"], []
    for i, what in enumerate(kinds):
        paths.append(tmp_path / f"{i}.txt")
        paths[-1].write_text(what)
    result = runner.run(tmp_path / "faults.py", paths, len(paths), limit=10, memory=250, keep=tmp_path / "kept")
    assert result["outcomes"]["fine"] == 2
    said = [failure["outcome"] for failure in result["failures"]]
    starts = ("crash: exit code -11", "hang", "memory", "KeyError", "not a sentence")
    for outcome, start in zip(said, starts, strict=True):
        assert outcome.startswith(f"FAILURE: {start}"), outcome
    assert len(list((tmp_path / "kept").iterdir())) == 5


def test_long_work_keeps_memory_and_files_flat():
    load = module_of("load")
    for part in (load.label(300), load.stream(2000), load.loading(3), load.downloading(3)):
        assert part["flat"], part
        if "open_files" in part:
            before, after = part["open_files"]
            assert after <= before + 2
