"""benchmarks/experiments.py: rows run once, nothing that was measured is lost, differences are those of pairs."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from support.modules import load_module


@pytest.fixture(scope="module")
def experiments():
    return load_module("benchmarks/experiments.py")


@dataclass(frozen=True)
class Row:
    id: str
    start: str | None = None


def finish(row: Row, work_dir: Path, with_weights: bool = True) -> None:
    (work_dir / row.id).mkdir(parents=True)
    (work_dir / row.id / "result.json").write_text(json.dumps({"id": row.id, "top1": 50.0}))
    if with_weights:
        (work_dir / row.id / "model.safetensors").touch()


def test_results_of_several_runs_are_kept_in_the_order_of_the_plan(experiments, tmp_path):
    rows, file = [Row("a"), Row("b"), Row("c")], tmp_path / "results.json"
    experiments.write_results(file, [{"id": "of another plan"}, {"id": "c", "top1": 1.0, "clips_per_second": 9.0}])
    finish(rows[0], tmp_path / "work")
    finish(rows[2], tmp_path / "work")  # measured again
    assert experiments.collect(file, rows, tmp_path / "work") == experiments.read_results(file)
    assert experiments.read_results(file) == [
        {"id": "a", "top1": 50.0, "clips_per_second": None},
        {"id": "c", "top1": 50.0, "clips_per_second": 9.0},
        {"id": "of another plan"},
    ]


def run_in_process(row: Row, work_dir: Path) -> None:
    finish(row, work_dir)


def test_rows_without_result_are_run_and_lost_weights_that_others_start_from(experiments, tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(experiments, "ProcessPoolExecutor", lambda jobs, *_: ThreadPoolExecutor(jobs))
    image, unused, first, second = Row("image"), Row("unused"), Row("first", "image"), Row("second", "first")
    stages, file, work = [[image, unused], [first], [second]], tmp_path / "results.json", tmp_path / "work"
    experiments.write_results(file, [{"id": "image"}, {"id": "unused"}, {"id": "first"}])
    finished = partial(experiments.collect, file, [image, unused, first, second], work)
    experiments.run_rows(stages, run_in_process, finished, work, 1, start_of=lambda row: row.start)
    # What "second" starts from was lost with the work folder, and what that starts from too.
    assert {folder.name for folder in work.iterdir()} == {"image", "first", "second"}


def test_a_paired_difference_is_that_of_the_same_clips(experiments):
    reference = np.array([[1, 0] * 50])
    better = np.array([[1, 0] * 45 + [1, 1] * 5])
    mean, low, high = experiments.paired_difference(better, reference)
    assert mean == pytest.approx(5.0)
    assert 0 < low < 5 < high < 11  # unpaired, it would not exclude 0
    assert experiments.paired_difference(reference, reference) == (0.0, 0.0, 0.0)
    assert experiments.paired_difference(reference, better)[0] == pytest.approx(-5.0)
