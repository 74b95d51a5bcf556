"""The one command for a GPU: what it lists, in which order it works, and what it does when the time is over."""

import json
import sys
import time
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import gpu  # noqa: E402


def test_wheels_are_what_the_package_needs_and_pytorch_does_not_bring():
    needed, brought = gpu.closure("inti_models[motiondigits]"), gpu.closure("torch")
    assert {"timm", "av", "safetensors", "scikit-learn", "scipy", "torch"} <= needed.keys()
    assert "pytest" not in needed and "pytest" in gpu.closure("inti_models[test]")
    listed = dict(line.split("==") for line in gpu.wheels("inti_models[motiondigits]"))
    assert listed.keys() == needed.keys() - brought.keys() - {"inti-models"}
    assert all(listed[name] == needed[name] for name in listed)


def test_rows_are_written_one_by_one_and_what_fails_or_is_late_is_named(tmp_path):
    def fail():
        raise RuntimeError("out of\nmemory")

    done = []

    def measure(name):
        done.append(name)
        return [{"name": name}]

    todo = [("a_cuda", name, lambda name=name: measure(name)) for name in "xy"]
    left = gpu.run(
        {"a_cuda": {"machine": {}}}, [todo[0], ("a_cuda", "z", fail), todo[1]], tmp_path, time.monotonic() + 60
    )
    assert left == ["a_cuda: z (out of memory)"]
    assert json.loads((tmp_path / "a_cuda.json").read_text()) == {"machine": {}, "rows": [{"name": "x"}, {"name": "y"}]}
    assert gpu.run({"a_cuda": {}}, todo, tmp_path, time.monotonic() - 1) == [
        "a_cuda: x (no time was left)",
        "a_cuda: y (no time was left)",
    ]
    assert done == ["x", "y"]
