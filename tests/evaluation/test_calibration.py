"""Tests of calibration: what a temperature and thresholds are fitted to, and what they gain."""

import pytest
import torch

from inti_models.evaluation.calibration import (
    calibrate,
    expected_calibration_error,
    fit_temperature,
    fit_thresholds,
    reliability,
)
from inti_models.evaluation.evaluate import Evaluation
from inti_models.evaluation.multi_label import MultiLabelEvaluation
from inti_models.models.probabilities import Probabilities, tempered


def sampled(several: bool, n: int = 4000, factor: float = 3.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels that are drawn from logits, those logits, and the probabilities of one that is too sure by a factor."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    if several:
        labels = torch.rand(n, 5, generator=generator, dtype=torch.float64) < logits.sigmoid()
        return labels, logits, (factor * logits).sigmoid()
    labels = logits.softmax(dim=1).multinomial(1, generator=generator).squeeze(1)
    return labels, logits, (factor * logits).softmax(dim=1)


@pytest.mark.parametrize("several", [False, True])
def test_temperature_is_found_again_and_lowers_the_error_on_videos_that_it_was_not_fitted_to(several: bool) -> None:
    labels, logits, sure = sampled(several)
    temperature = fit_temperature(sure[:2000], labels[:2000])
    assert temperature == pytest.approx(3, rel=0.1)
    after = tempered(sure[2000:], temperature, several)
    before = expected_calibration_error(sure[2000:], labels[2000:])
    assert expected_calibration_error(after, labels[2000:]) < before / 4


@pytest.mark.parametrize("several", [False, True])
def test_temperature_divides_logits(several: bool) -> None:
    _, logits, _ = sampled(several, 50)
    said = Probabilities(multi_label=several, temperature=2.5)
    expected = (logits / 2.5).sigmoid() if several else (logits / 2.5).softmax(dim=1)
    for row, probabilities in zip(logits, expected, strict=True):
        torch.testing.assert_close(said(row[None]), probabilities)
    p = logits.sigmoid() if several else logits.softmax(dim=1)
    torch.testing.assert_close(tempered(tempered(p, 5, several), 0.5, several), expected)  # they multiply


@pytest.mark.parametrize("several", [False, True])
def test_extreme_logits_stay_finite(several: bool) -> None:
    logits = torch.tensor([[200.0, -200, 0], [0, 0, 0]])
    probabilities = Probabilities(multi_label=several, temperature=0.01)(logits)
    assert probabilities.isfinite().all() and (probabilities >= 0).all() and (probabilities <= 1).all()


def test_error_of_a_known_table() -> None:
    confidence = torch.tensor([0.95] * 4 + [0.55] * 2)
    labels = torch.tensor([0, 0, 0, 1, 0, 1])
    probabilities = torch.stack([confidence, 1 - confidence], dim=1)
    assert [each[2:] for each in reliability(confidence.double(), labels == 0)] == [
        (2, pytest.approx(0.55), 0.5),
        (4, pytest.approx(0.95), 0.75),
    ]
    assert expected_calibration_error(probabilities, labels) == pytest.approx(100 * (4 * 0.2 + 2 * 0.05) / 6)


def test_thresholds_have_the_best_f1_of_all_thresholds() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, _, p = sampled(True, 40)
    p = (p * 10).round() / 10  # with ties
    labels[:, 2] = False
    thresholds = fit_thresholds(p, labels)
    assert thresholds[2] == 0.5
    for k in (0, 1, 3, 4):
        best = max(metrics.f1_score(labels[:, k], p[:, k] >= t, zero_division=0) for t in [*p[:, k].tolist(), 0.0])
        assert metrics.f1_score(labels[:, k], p[:, k] >= thresholds[k]) == pytest.approx(best)
        assert thresholds[k] not in p[:, k]


def test_calibration_of_a_measurement() -> None:
    labels, _, sure = sampled(True)
    fitted = calibrate(MultiLabelEvaluation(labels, sure, (0.5,) * 5, tuple("abcde"), {}))
    assert fitted.temperature == pytest.approx(3, rel=0.1)
    assert fitted.thresholds is not None and len(fitted.thresholds) == 5
    assert fitted.error_after < fitted.error_before / 4
    labels, _, sure = sampled(False)
    fitted = calibrate(Evaluation(labels, sure, tuple("abcde"), {}))
    assert fitted.thresholds is None and fitted.error_after < fitted.error_before / 4
    with pytest.raises(ValueError, match="There are 1 videos"):
        calibrate(Evaluation(labels[:1], sure[:1], tuple("abcde"), {}))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("sureness", [2.0, 1000.0])  # of the latter probabilities are 0 and 1, in float32 too
@pytest.mark.parametrize(("right", "sentence"), [(True, "right about all"), (False, "knows nothing")])
def test_videos_that_no_temperature_fits_best_are_refused(several, sureness, right, sentence) -> None:
    labels = torch.tensor([0, 1, 2, 0])
    truth = torch.nn.functional.one_hot(labels, 3).bool()
    logits = sureness * (2.0 * (truth if right else ~truth) - 1)
    names = tuple("abc")
    if several:
        measured = MultiLabelEvaluation(truth, logits.sigmoid(), (0.5,) * 3, names, {})
    else:
        measured = Evaluation(labels, logits.softmax(dim=1), names, {})
    with pytest.raises(ValueError, match=f"fits 4 videos best, .* {sentence}"):
        calibrate(measured)
