"""benchmarks/audit.py: published figures are complete, and every audited cost is computed again."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import audit  # noqa: E402

from inti_models.models.flops import zoo_cost  # noqa: E402

PAPERS = audit.papers()


@pytest.mark.parametrize("model", dict.fromkeys(paper["model"] for paper in PAPERS))
def test_audited_costs_are_those_counted_now(model):
    pytest.importorskip("transformers")
    pytest.importorskip("torchvision")
    committed = json.loads(audit.RESULTS.read_text())
    assert len(committed) == len(PAPERS)
    rows = [(paper, row) for paper, row in zip(PAPERS, committed, strict=True) if paper["model"] == model]
    assert all(audit.audited(paper) == row for paper, row in rows), "run python benchmarks/audit.py"


def test_every_figure_has_a_source_and_makes_sense():
    for paper in PAPERS:
        assert 70 < paper["top1"] < 95 and paper["source"] and paper["pretraining"]
        assert paper["stated_views"] == 1 or paper["stated_views"] == audit.num_views(paper["views"])
    assert len({(p["name"], p["frames"], p["size"], p["pretraining"]) for p in PAPERS}) == len(PAPERS)
    assert len([p for p in PAPERS if p["chart"] and not p["name"].startswith("InTI")]) >= 12


def test_where_stated_and_audited_cost_differ_the_row_says_why():
    for row in json.loads(audit.RESULTS.read_text()):
        if row["stated_gflops"] and abs(row["stated_gflops"] / row["gflops"] - 1) > 0.015:
            assert row["note"], row["name"]


@pytest.mark.parametrize(("width", "depth", "patch"), [(768, 12, 16), (1024, 24, 14)])
def test_the_closed_formula_of_a_vit_is_what_the_counter_counts(width, depth, patch):
    name = {16: audit.B16, 14: audit.L14}[patch]
    formula = audit.clip_vit(width, depth, patch, 8, 224) / 1e9
    assert audit.original(name, 8, 224) == pytest.approx(formula, rel=1e-6)
    joint = audit.internvideo2(width, depth, 1, 224) if patch == 14 else None
    if joint is not None:  # of one frame: the same blocks, another head
        assert joint == pytest.approx(audit.clip_vit(width, depth, patch, 1, 224) / 1e9, rel=0.01)


def test_both_counters_agree():
    assert audit.zoo("inti_vit_t8_32_motiondigits", 8, 32) == pytest.approx(
        zoo_cost("inti_vit_t8_32_motiondigits").gflops, rel=1e-6
    )


def test_the_mlps_alone_cost_what_some_papers_state():
    mlps, embedding = 24 * 8 * 1024**2 * 257 * 8, 8 * 256 * 3 * 14**2 * 1024
    assert (mlps + embedding) / 1e9 == pytest.approx(415, abs=0.2)
