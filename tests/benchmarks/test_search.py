"""What benchmarks/search.py plants, and how it counts."""

import pytest
import torch

from inti_models.data.motion_digits import CLASS_NAMES
from inti_models.data.video import iterate_frames
from support.modules import load_module


@pytest.fixture(scope="module")
def bench():
    return load_module("benchmarks/search.py")


def test_events_are_where_they_are_said_to_be(bench, tmp_path):
    events = bench.render(tmp_path, seed=0, videos=1, seconds=130)
    assert len({event["label"] for event in events}) == len(events) == 5
    assert all(CLASS_NAMES[event["label"]].split(", ")[1] != "still" for event in events)
    frames = torch.stack([frame for _, frame in iterate_frames(tmp_path / "00.mp4")])
    assert len(frames) == 130 * bench.FPS
    for event in events:
        assert event["file"] == "00.mp4"
        first, after = round(event["start"] * bench.FPS), round(event["end"] * bench.FPS)
        clip = bench.clip_of(event["label"], after - first, 0)  # of seed 0 and video 0
        assert (frames[first:after].float() - clip.float()).abs().mean() < 12  # of 255, by compression
        assert bench.SHORTEST <= after - first <= bench.LONGEST


def test_overlap_and_average_precision_by_hand(bench):
    event = {"start": 2.0, "end": 4.0}
    assert bench.overlap(3.0, 5.0, event) == pytest.approx(1 / 3)
    assert bench.overlap(5.0, 6.0, event) == 0
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0]]), dim=1)
    labels = torch.tensor([0, 1, 0, 1])
    # 0: 1, 2, 3 -> wrong, right; 1: 0, 2, 3 -> right at the third; 2: 1, 0, 3; 3: 2, 1, 0
    assert bench.average_precisions(vectors, labels) == pytest.approx([1 / 2, 1 / 3, 1 / 2, 1 / 2])
    assert bench.average_precisions(vectors, torch.arange(4)) == []


def test_an_index_costs_less_than_windows_one_by_one(bench, monkeypatch):
    monkeypatch.setattr(bench, "COSTED", "inti_vit_t8_32_motiondigits")
    rows = bench.cost()["rows"]
    assert all(row["times"] > 4.5 for row in rows)
