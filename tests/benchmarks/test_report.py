"""Results are told as tables or as JSON, in ratios that cannot be read the wrong way."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import compare  # noqa: E402
import streaming  # noqa: E402
from report import report  # noqa: E402


def test_a_table_is_printed_and_the_json_written(tmp_path, capsys):
    path = tmp_path / "result.json"
    report({"rows": [1]}, path, "| a table |")
    assert capsys.readouterr().out == "| a table |\n" and json.loads(path.read_text()) == {"rows": [1]}
    report({"rows": [1]}, None)
    assert json.loads(capsys.readouterr().out) == {"rows": [1]}


def test_ratios_of_streams_are_of_what_they_stand_beside():
    rows = {row["way"]: row for row in streaming.rows_of("inti_vit_t8_32_motiondigits", 4, 0.0)}
    base = rows["InTI, recomputed"]
    assert (base["gflops_ratio"], base["time_ratio"]) == (1, 1)
    for row in rows.values():
        assert row["gflops_ratio"] == pytest.approx(row["gflops"] / base["gflops"], abs=1e-2)
    assert rows["InTI, streamed"]["gflops_ratio"] < 1 < rows["naive, recomputed"]["gflops_ratio"]
    measured = {
        "machine": {"device": "x", "threads": 1, "torch": "1"},
        "model": "m",
        "frames": 8,
        "rows": [*rows.values()],
    }
    assert compare.streaming(measured).count("\n") == 2 + 1 + len(rows)


@pytest.mark.parametrize("name", ["streaming_cpu", "long_video_cpu", "latency_cpu", "scaling_cpu"])
def test_what_was_measured_before_can_still_be_read(name):
    measured = compare.read(name)
    assert compare.TABLES[name.removesuffix("_cpu")]() == getattr(compare, name.removesuffix("_cpu"))(measured)
