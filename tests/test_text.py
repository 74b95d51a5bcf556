"""Names are shown whole, and nothing in them is obeyed."""

import csv
import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inti_models.evaluation.evaluate import Evaluation, confusion_picture, write_report
from inti_models.text import csv_cell, from_csv_cell, printable

NAMES = [
    *(r"a$\frac{1}$", "$x$ and $y$", "=1+1", "+1", "-1", "@x", "\t=x", "'=x", "'s Gravenhage", "riding, fast"),
    *('say "hi"', "<b>bold</b>", "\x1b[2J", "line\nbreak", "r\u202eevil", "\u4f53\u64cd", "a\\b", "100%", "_x^y"),
]


@given(st.text())
def test_cells_are_no_formulas_and_give_the_name_back(name):
    cell = csv_cell(name)
    assert from_csv_cell(cell) == name
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell in (name, f"'{name}")


@given(st.text())
def test_printed_names_have_no_control_characters(name):
    shown = printable(name)
    assert all(ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0 for c in shown) and "\u202e" not in shown
    shown.encode()  # no lone surrogates
    assert printable(shown) == shown


@pytest.mark.parametrize("name", ["riding a bike", "\u4f53\u64cd", "\U0001f468\u200d\U0001f469", "a\\b", "x$y"])
def test_names_without_control_characters_are_printed_as_they_are(name):
    assert printable(name) == name


@pytest.mark.filterwarnings("ignore:Glyph")
def test_reports_have_every_name_whole(tmp_path):
    labels = torch.arange(len(NAMES))
    evaluation = Evaluation(labels, torch.eye(len(NAMES)), tuple(NAMES), {})
    write_report(evaluation, tmp_path)
    assert [row["name"] for row in json.loads((tmp_path / "evaluation.json").read_text())["per_class"]] == NAMES
    rows = list(csv.DictReader(io.StringIO((tmp_path / "per_class.csv").read_bytes().decode(), newline="")))
    assert [from_csv_cell(row["name"]) for row in rows] == NAMES
    confusion_picture(evaluation, tmp_path / "picture.svg")
