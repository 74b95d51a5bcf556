"""benchmarks/accuracy.py: its plan can be carried out, and its figures are what they are called."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inti_models.data.motion_digits import MOTIONS, class_index
from inti_models.models.interpolation import CONTEXTS
from support.modules import load_module

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    return load_module("benchmarks/accuracy.py")


def test_rows_have_files_of_their_own_and_start_from_rows_of_earlier_stages(benchmark):
    stages = benchmark.plan()
    ids = [row.id for stage in stages for row in stage]
    assert len(ids) == len(set(ids))
    done = set()
    for stage in stages:
        assert all(row.start is None or row.start in done for row in stage)
        done |= {row.id for row in stage}


def test_the_tables_of_the_paper_are_planned(benchmark):
    rows = [row for stage in benchmark.plan() for row in stage]
    for name in {row.name for row in benchmark.ADAPTATION}:
        assert {row.seed for row in rows if (row.table, row.name) == ("adaptation", name)} >= {0, 1, 2}
    contexts = {tuple(row.model_args["context"]) for row in rows if row.table == "context"}
    assert contexts == {tuple(n for n in CONTEXTS if n != name) for name in CONTEXTS}
    assert {len(row.model_args["compress_at"]) for row in rows if row.table == "schedule"} == {1, 2, 3}


def test_accuracies_are_those_of_the_clips_that_they_are_named_for(benchmark):
    truth = [(3, "left"), (4, "left"), (5, "swing"), (6, "still"), (7, "grow")]
    guess = [(3, "left"), (4, "right"), (0, "swing"), (6, "swing"), (7, "grow")]
    hidden = torch.tensor([True, True, True, False, False])
    labels, predictions = (torch.tensor([class_index(*label) for label in some]) for some in (truth, guess))
    expected = {
        "motion": 60.0,
        "motion_ordered": 66.67,
        "motion_order_free": 50.0,
        "digit": 80.0,
        "digit_occluded": 66.67,
        "digit_clear": 100.0,
        "both": 40.0,
    }
    assert benchmark.accuracy(predictions, labels, hidden) == expected


@pytest.fixture(scope="module")
def runs(benchmark, tmp_path_factory):
    """A folder with the image model that rows start from; nothing is compiled."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, torch.compiler.set_stance("force_eager"):
        patch.setattr(benchmark, "FEWER_VALIDATION_CLIPS", 24)
        benchmark.run(dataclasses.replace(benchmark.plan()[0][0], clips=64), folder)
        yield folder


@pytest.mark.parametrize("method", ["as it is", "fixed weights", "drop frames", "ToMe", "temporal attention"])
def test_a_row_is_trained_measured_and_written(benchmark, runs, method):
    args = {"compress_at": ()} if method in ("ToMe", "temporal attention") else {}
    row = benchmark.Row("test", method, method=method, model_args={**args, "num_frames": 4}, clips=48)
    benchmark.run(row, runs)
    result = json.loads((runs / row.id / "result.json").read_text())
    assert result["id"] == row.id
    assert set(benchmark.COLUMNS) <= set(result["accuracy"])
    trained = load_file(runs / row.id / "model.safetensors")
    assert trained["head.weight"].shape == (10 * len(MOTIONS), 96)
    biases = [tensor for name, tensor in trained.items() if name.endswith("predict.logit.bias")]
    assert len(biases) == {"as it is": 2, "fixed weights": 2}.get(method, 0)
    assert all(torch.equal(bias, torch.tensor([-1.0, 1.0])) == (method == "fixed weights") for bias in biases)


def test_tables_show_mean_and_spread_over_seeds(benchmark):
    def result(seed, motion, table="adaptation"):
        measured = dict.fromkeys(benchmark.COLUMNS, 50.0) | {"motion": motion}
        row = {"table": table, "name": "InTI", "start": "image", "seed": seed, "clips": 10, "gflops": 0.06}
        return {**row, "accuracy": measured, "clips_per_second": 100.0}

    def text(*results):
        return benchmark.to_markdown(benchmark.summarize(results), "a machine")

    seeds = (result(0, 60.0), result(1, 64.0))
    assert "| InTI | 10 | 2 | 0.0600 | 100.0 | 62.0 ± 2.8 | 50.0 ± 0.0 |" in text(*seeds)
    assert "| InTI | 10 | 2 |" in text(*seeds, result(0, 61.5, "half"))
    assert "| InTI ↑ | 10 | 2 |" in text(*seeds, result(0, 59.0, "half"))
