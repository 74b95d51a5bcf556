import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from inti_models.models.heads import FactorizedHead, factorize, fold


@pytest.mark.parametrize("factors", [(10, 12), (3, 2, 4), (5,)])
def test_logit_of_a_combination_is_the_sum_of_its_terms(factors):
    head = FactorizedHead(8, factors)
    x = torch.randn(6, 8)
    terms = head.terms(x).split(factors, dim=1)
    logits = head(x).unflatten(1, factors)
    for index in torch.cartesian_prod(*map(torch.arange, factors)).view(-1, len(factors)).tolist():
        expected = sum(term[:, i] for term, i in zip(terms, index, strict=True))
        torch.testing.assert_close(logits[(slice(None), *index)], expected)


def test_cross_entropy_of_combinations_is_the_sum_of_those_of_the_labels():
    head = FactorizedHead(8, (10, 12))
    x, digits, motions = torch.randn(6, 8), torch.randint(10, (6,)), torch.randint(12, (6,))
    digit_logits, motion_logits = head.terms(x).split((10, 12), dim=1)
    torch.testing.assert_close(
        cross_entropy(head(x), digits * 12 + motions),
        cross_entropy(digit_logits, digits) + cross_entropy(motion_logits, motions),
    )


@pytest.mark.parametrize("factors", [(10, 12), (3, 2, 4), (5,)])
def test_folding_and_factorizing_again_keep_the_logits(factors):
    head, x = FactorizedHead(8, factors), torch.randn(6, 8)
    nn.init.normal_(head.terms.bias)
    linear = fold(head)
    assert isinstance(linear, nn.Linear)
    torch.testing.assert_close(linear(x), head(x))
    torch.testing.assert_close(factorize(linear, factors)(x), head(x))


def test_factorizing_any_classifier_takes_the_closest_sums():
    linear = nn.Linear(8, 12)
    closest = fold(factorize(linear, (3, 4))).weight
    design = torch.zeros(12, 7)  # rows of one-hot labels
    for i in range(12):
        design[i, i // 4] = design[i, 3 + i % 4] = 1
    expected = design @ torch.linalg.pinv(design) @ linear.weight
    torch.testing.assert_close(closest, expected, atol=1e-5, rtol=1e-5)


def test_other_heads_fold_to_themselves():
    linear = nn.Linear(3, 4)
    assert fold(linear) is linear


def test_factors_have_to_make_the_classes():
    with pytest.raises(ValueError, match=r"factors=\[10, 12\] make 120 combinations, but there are 100 classes"):
        factorize(nn.Linear(3, 100), (10, 12))
