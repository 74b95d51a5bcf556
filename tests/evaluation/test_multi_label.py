"""Tests of what is measured of several labels a video, against scikit-learn."""

import csv
import json

import pytest
import torch

from inti_models.evaluation.evaluate import OtherResultsError, evaluate, evaluate_multi_label
from inti_models.evaluation.multi_label import MultiLabelEvaluation, average_precision
from inti_models.models.probabilities import Probabilities


@pytest.fixture(scope="module")
def measured() -> MultiLabelEvaluation:
    """60 videos of 7 classes, with ties, a class that no video has, and one that is never said."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(60, 7, generator=generator) < 0.3
    probabilities = ((torch.rand(60, 7, generator=generator) + labels) / 2 * 20).round() / 20
    labels[:, 3] = False
    thresholds = (0.5, 0.4, 0.6, 0.5, 1.0, 0.25, 0.5)
    probabilities[:, 4] *= 0.9
    return MultiLabelEvaluation(labels, probabilities, thresholds, tuple("abcdefg"), {})


def test_average_precision_is_that_of_scikit_learn(measured) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, scores = measured.labels.numpy(), measured.probabilities.numpy()
    for k, row in enumerate(measured.per_class()):
        if row.videos:
            assert row.average_precision == pytest.approx(
                100 * metrics.average_precision_score(truth[:, k], scores[:, k])
            )
    present = truth.any(axis=0)
    macro = metrics.average_precision_score(truth[:, present], scores[:, present], average="macro")
    assert measured.macro_ap == pytest.approx(100 * macro)
    assert measured.micro_ap == pytest.approx(100 * metrics.average_precision_score(truth, scores, average="micro"))
    assert average_precision(torch.tensor([0.5, 0.1]), torch.tensor([False, False])) == 0


def test_f1_precision_and_recall_are_those_of_scikit_learn(measured) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, said = measured.labels.numpy(), measured.predicted.numpy()
    present = truth.any(axis=0)
    assert measured.micro_f1 == pytest.approx(100 * metrics.f1_score(truth, said, average="micro"))
    macro = metrics.f1_score(truth[:, present], said[:, present], average="macro", zero_division=0)
    assert measured.macro_f1 == pytest.approx(100 * macro)
    assert measured.exact_match == pytest.approx(100 * metrics.accuracy_score(truth, said))
    precision, recall, _, support = metrics.precision_recall_fscore_support(truth, said, zero_division=0)
    for k, row in enumerate(measured.per_class()):
        assert (row.precision or 0, row.recall or 0, row.videos) == pytest.approx(
            (100 * precision[k], 100 * recall[k], support[k])
        )
    assert measured.per_class()[3].average_precision is None and measured.per_class()[4].precision is None


def test_report_has_the_table_of_classes_and_the_reliability_diagram(measured, tmp_path) -> None:
    measured.write_report(tmp_path)
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["macro_ap"] == round(measured.macro_ap, 2)
    with (tmp_path / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list("abcdefg")
    assert [float(row["threshold"]) for row in rows] == list(measured.thresholds)
    assert rows[3]["average_precision"] == ""
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


class Videos:
    """Clips whose pixels are the logits of a model that gives them back; two views each, which differ."""

    class_names = ("a", "b", "c")

    def __init__(self, several: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.logits = 3 * torch.randn(12, 2, 3, generator=generator)
        self.labels = (torch.rand(12, 3, generator=generator) < 0.5).float() if several else torch.arange(12) % 3

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int):
        label = self.labels[index]
        views = self.logits[index, :, None, :, None, None].float()  # V T C H W
        fault = "broken" if index == 5 else ""
        return views, label if label.ndim else int(label), fault


class Reads(torch.nn.Module):
    def __init__(self, probabilities: Probabilities | None = None) -> None:
        super().__init__()
        self.calls = 0
        if probabilities is not None:
            self.probabilities = probabilities

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return clips[:, 0, :, 0, 0]


def test_several_labels_are_the_mean_sigmoid_of_the_views_and_are_measured_once(tmp_path) -> None:
    videos, model = Videos(several=True), Reads()
    first = evaluate_multi_label(
        model, videos, batch_size=4, work_dir=tmp_path / "w", progress=False, max_unreadable=0.1
    )
    keep = torch.tensor([i for i in range(12) if i != 5])
    assert torch.equal(first.labels, videos.labels[keep].bool())
    torch.testing.assert_close(first.probabilities, videos.logits[keep].sigmoid().mean(dim=1))
    assert list(first.unreadable) == [5]
    calls = model.calls
    again = evaluate_multi_label(
        model, videos, batch_size=4, work_dir=tmp_path / "w", progress=False, max_unreadable=0.1
    )
    assert torch.equal(again.probabilities, first.probabilities)
    assert model.calls == calls + 1  # the unreadable one is tried again


def test_temperature_and_thresholds_of_a_model_count_and_rows_are_kept_without_them(tmp_path) -> None:
    videos = Videos(several=True)
    plain = evaluate_multi_label(Reads(), videos, batch_size=4, work_dir=tmp_path, progress=False, max_unreadable=0.1)
    said = Probabilities(multi_label=True, temperature=2.0, thresholds=(0.1, 0.2, 0.3))
    model = Reads(said)
    tempered = evaluate_multi_label(model, videos, batch_size=4, work_dir=tmp_path, progress=False, max_unreadable=0.1)
    assert tempered.thresholds == (0.1, 0.2, 0.3)
    torch.testing.assert_close(tempered.probabilities.logit() * 2, plain.probabilities.logit())
    single = Videos(several=False)
    hard = evaluate(Reads(), single, batch_size=4, progress=False, max_unreadable=0.1)
    soft = evaluate(Reads(Probabilities(temperature=4.0)), single, batch_size=4, progress=False, max_unreadable=0.1)
    assert torch.equal(soft.ranking(), hard.ranking())
    torch.testing.assert_close(soft.probabilities.log().diff(dim=1) * 4, hard.probabilities.log().diff(dim=1))


def test_rows_of_the_sigmoid_are_not_taken_for_those_of_the_softmax(tmp_path) -> None:
    videos, settings = Videos(several=True), {"batch_size": 4, "progress": False, "max_unreadable": 0.1}
    evaluate_multi_label(Reads(), videos, work_dir=tmp_path, **settings)
    with pytest.raises(OtherResultsError, match="results of other read"):
        evaluate_multi_label(Reads(Probabilities()), videos, work_dir=tmp_path, **settings)
