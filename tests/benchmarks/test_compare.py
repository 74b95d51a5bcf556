"""Tables, CSV and plots of benchmarks/ agree with the results that they are made of."""

import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import compare  # noqa: E402


def test_each_table_is_in_one_readme_and_says_what_its_json_says():
    texts = [path.read_text() for path in compare.READMES]
    assert sorted(name for text in texts for _, name, _ in compare.MARKED.findall(text)) == sorted(compare.TABLES)
    assert [compare.with_tables(text) for text in texts] == texts, "run python benchmarks/compare.py"


def test_csv_says_what_the_json_says():
    assert (compare.RESULTS / "compare.csv").read_text() == compare.as_csv(), "run python benchmarks/compare.py"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Both figures, drawn twice."""
    pytest.importorskip("matplotlib")
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for folder in folders:
        compare.draw_kinetics(folder)
        compare.draw_accuracy(folder)
    return folders


@pytest.mark.parametrize("name", ["kinetics", "accuracy"])
def test_figures_are_those_of_the_json_and_the_same_bytes_each_time(drawn, name):
    for suffix in (".png", ".svg"):
        first, second = ((folder / f"{name}{suffix}").read_bytes() for folder in drawn)
        assert first == second and len(first) > 10_000
    new, committed = (
        re.findall(r"<!-- ([^$\n]*[A-Za-z]{2}[^$\n]*) -->", (folder / f"{name}.svg").read_text())
        for folder in (drawn[0], compare.RESULTS)
    )
    assert new == committed, "run python benchmarks/compare.py"  # the words: coordinates depend on fonts and versions
    assert len(new) > 12


def test_labels_cover_neither_each_other_nor_points():
    pytest.importorskip("matplotlib")
    figure = compare.new_figure((8, 5.6))
    axis = figure.add_subplot()
    rows = [(f"a long name {i}", 1 + 0.001 * i, 1.0) for i in range(12)]  # at one place, almost
    axis.scatter([x for _, x, _ in rows], [y for *_, y in rows], label="x")
    axis.set(xlim=(0, 2), ylim=(0, 2))
    axis.legend()
    compare.place_labels(axis, rows)
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axis.texts]
    assert len(boxes) == 12
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    inside = axis.get_window_extent(renderer)
    points = axis.transData.transform([(x, y) for _, x, y in rows])
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all(inside.contains(*corner) for box in boxes for corner in box.corners())
    with pytest.raises(ValueError, match="no free place"):
        compare.place_labels(axis, [("m" * 200, 1.0, 1.0)])


def test_help_writes_nothing(monkeypatch, capsys):
    monkeypatch.setattr(compare, "READMES", None)
    monkeypatch.setattr(compare, "RESULTS", None)
    with pytest.raises(SystemExit) as stopped:
        compare.main(["--help"])
    assert stopped.value.code == 0 and "kinetics.png" in capsys.readouterr().out


def test_every_peer_of_a_paper_is_a_row_of_throughput():
    from peers import PEERS
    from throughput import INTI

    assert {row["peer"] for row in compare.read("audit") if row["peer"]} <= {*PEERS, *INTI}
