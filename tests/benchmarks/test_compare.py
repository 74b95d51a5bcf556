"""Tables, CSV and plots of benchmarks/ agree with the results that they are made of."""

import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import compare  # noqa: E402


def test_readme_has_every_table_and_each_says_what_its_json_says():
    text = compare.README.read_text()
    assert {name for _, name, _ in compare.MARKED.findall(text)} == set(compare.TABLES)
    assert compare.with_tables(text) == text, "run python benchmarks/compare.py"


def test_csv_says_what_the_json_says():
    assert (compare.RESULTS / "compare.csv").read_text() == compare.as_csv(), "run python benchmarks/compare.py"


def test_plots_are_those_of_the_json(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(compare, "RESULTS", tmp_path)
    for name in ("accuracy", "throughput_cpu"):
        (tmp_path / f"{name}.json").write_text((BENCHMARKS / "results" / f"{name}.json").read_text())
    compare.draw()
    drawn, committed = (
        re.findall(r"<!-- ([^$\n]*[A-Za-z]{2}[^$\n]*) -->", (folder / "frontier.svg").read_text())
        for folder in (tmp_path, BENCHMARKS / "results")
    )
    assert drawn == committed  # the words in the plot: names and axes; coordinates depend on fonts, ticks on versions
    assert len(drawn) > 20
    assert (tmp_path / "frontier.png").stat().st_size > 10_000


def test_frontier_keeps_what_no_other_beats():
    points = [(1, 50), (2, 60), (2, 55), (3, 59), (4, 70)]
    assert compare.frontier(points, cheaper=1) == [(1, 50), (2, 60), (4, 70)]
    assert compare.frontier(points, cheaper=-1) == [(4, 70)]


def test_every_paper_is_of_a_row_and_names_its_source():
    import yaml
    from peers import PEERS
    from throughput import INTI

    papers = yaml.safe_load(compare.PAPERS.read_text())
    assert papers.keys() <= {*PEERS, *INTI}
    for paper in papers.values():
        assert 50 < paper["top1"] < 95 and paper["source"] and paper["views"]
