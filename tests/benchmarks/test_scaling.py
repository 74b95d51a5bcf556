"""Fits of benchmarks/scaling.py, and one small measured row of it, of streaming.py and of long_video.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import long_video  # noqa: E402
import scaling  # noqa: E402
import streaming  # noqa: E402

NAME = "inti_vit_t8_32_motiondigits"


def test_exponents_of_exact_powers_are_found():
    rows = [
        {
            "axis": axis,
            "variant": "naive",
            "frames": n if axis == "frames" else 8,
            "size": 224 if axis == "frames" else n,
            "gflops": 3.0 * n,
            "ms": 2.0 * n**2,
            "peak_memory_mib": 5.0 * n,
        }
        for axis, values in (("frames", (4, 8, 16)), ("resolution", (224, 336, 448)))
        for n in values
    ]
    frames, resolution = scaling.fits(rows)
    assert [frames[f"{c}_exponent"] for c in ("gflops", "ms", "peak_memory_mib")] == pytest.approx([1, 2, 1], abs=1e-3)
    assert frames["mib_per_frame"] == pytest.approx(5)
    assert resolution["gflops_exponent"] == pytest.approx(0.5, abs=1e-3)  # over pixels


def test_naive_cost_grows_with_frames_and_a_schedule_for_a_budget_holds_it():
    rows = {(r["variant"], r["frames"]): r for n in (8, 32) for r in scaling.measure(NAME, "frames", n, 32, 0.0)}
    naive = rows["naive", 32]["gflops"] / rows["naive", 8]["gflops"]
    held = rows["one more for each doubling", 32]["gflops"] / rows["one more for each doubling", 8]["gflops"]
    assert naive == pytest.approx(4, rel=1e-3)
    assert held < 1.3
    assert rows["one more for each doubling", 8]["compress_at"] == [2, 5, 6]


def test_streamed_rows_count_what_the_tree_says():
    rows = {r["way"]: r for r in streaming.rows_of(NAME, 2, 0.0)}
    blocks = 2 * 2 + 3 * 1 + 1 * 1  # at stride 2: two frames, one pair, one quadruple
    assert rows["InTI, streamed"]["gflops"] / rows["naive, streamed"]["gflops"] == pytest.approx(blocks / 12, rel=0.05)
    assert rows["InTI, recomputed"]["gflops_ratio"] == 1


def test_long_clip_in_chunks_has_the_logits_of_the_whole_and_needs_less_memory():
    row = long_video.row(NAME, 64)
    assert row["largest_difference"] < 1e-5
    assert row["chunked_mib"] < 0.5 * row["whole_mib"]
    assert row["mean_frames"] <= long_video.BUDGET
