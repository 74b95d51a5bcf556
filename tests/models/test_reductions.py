"""What is cheaper without training leaves out what it says, and costs what it says."""

import pytest
import torch

from inti_models.models import reductions
from inti_models.models.flops import count_flops
from support.models import assert_all_train, digits_model

CLIP = (2, 4, 3, 32, 32)


@pytest.fixture
def clip():
    return torch.randn(CLIP)


@pytest.mark.parametrize(("schedule", "step"), [((0,), 2), ((0, 0), 4)])
def test_dropping_before_the_first_block_is_the_naive_model_on_fewer_frames(clip, schedule, step):
    model = digits_model(schedule)
    naive = digits_model()
    naive.load_state_dict(model.state_dict(), strict=False)
    reductions.drop_frames(model)
    torch.testing.assert_close(model(clip), naive(clip[:, ::step]))
    assert not torch.allclose(model(clip), naive(clip), atol=1e-3)


def test_dropping_later_sees_no_other_frame_either(clip):
    model = reductions.drop_frames(digits_model((2, 5)))
    changed = clip.clone()
    changed[:, 1:] = torch.randn_like(clip[:, 1:])
    torch.testing.assert_close(model(changed), model(clip))


def test_weights_say_which_frames_are_kept():
    model = reductions.drop_frames(digits_model((3,)))
    clip = torch.randn(1, 5, 3, 32, 32)
    assert model.forward_features(clip).shape == (1, 3, 17, 96)
    assert model.interpolation_weights(clip)[0][0, :, 0].tolist() == [1, 0, 1, 0, 1, 0]  # of frames 0 1 | 2 2 | 3 4


def test_dropping_leaves_every_other_weight_alone(clip):
    model = digits_model((2, 5))
    before = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("interpolations.")}
    after = reductions.drop_frames(model).state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert_all_train(model, clip)


def test_kept_frames_are_spread_evenly_or_drawn_for_each_clip():
    model, clip = digits_model(), torch.randn(64, 4, 3, 32, 32)
    torch.testing.assert_close(reductions.keep_frames(model, 2)(clip[:2]), model(clip[:2, [1, 3]]))
    torch.testing.assert_close(reductions.keep_frames(model, 4, random=True)(clip[:2]), model(clip[:2]))
    numbered = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(64, 4, 3, 1, 1)
    seen = reductions.keep_frames(torch.nn.Identity(), 2, random=True)(numbered)[:, :, 0, 0, 0]
    assert (seen[:, 0] < seen[:, 1]).all()  # in their order, none twice
    assert {tuple(pair) for pair in seen.tolist()} == {(a, b) for a in range(4) for b in range(a + 1, 4)}


def test_frames_at_a_cost_are_the_closest():
    naive = digits_model(depth=2)
    target = count_flops(digits_model((1,), depth=2), (1, 4, *CLIP[2:])).gflops
    costs = {n: count_flops(naive, (1, n, *CLIP[2:])).gflops for n in range(1, 5)}
    assert reductions.frames_at_cost(naive, target, most=4) == min(costs, key=lambda n: abs(costs[n] - target))


def test_tokens_that_stand_out_of_their_frame_weigh_more():
    x = torch.randn(1, 1, 1, 8).repeat(2, 5, 6, 1) + 0.01 * torch.randn(2, 5, 6, 8)
    x[:, 1, 3] = torch.randn(2, 8) * 3
    y, weights = reductions.SimilarityWeights(8)(x, (2, 3), return_weights=True)
    assert y.shape == (2, 3, 6, 8) and torch.equal(y[:, 2], x[:, 4])
    torch.testing.assert_close(weights[:, :4].unflatten(1, (2, 2)).sum(dim=2), torch.ones(2, 2, 6))
    assert (weights[:, 1, 3] > 0.6).all() and (weights[:, 2:4] - 0.5).abs().max() < 0.01
    torch.testing.assert_close(y[:, 0], (weights[:, :2].unsqueeze(-1) * x[:, :2]).sum(dim=1))
