"""Token merging within frames (ToMe), by its paper."""

import copy
from fractions import Fraction

import pytest
import timm
import torch

from inti_models.models import token_merging
from inti_models.models.flops import count_flops
from support.models import assert_all_train, digits_model

CLIP = (2, 4, 3, 32, 32)


@pytest.fixture
def clip():
    return torch.randn(CLIP)


def test_merging_nothing_is_the_naive_model(clip):
    model = digits_model()
    expected = model(clip)
    assert torch.equal(token_merging.merge_tokens(model, [0] * 6)(clip), expected)


def test_matching_takes_the_most_similar_pairs():
    keys = torch.randn(3, 9, 8)
    matching = token_merging.bipartite_soft_matching(keys, 2)
    for i in range(3):
        similarity = torch.cosine_similarity(keys[i, 1::2, None], keys[i, None, 0::2], dim=-1)  # 4 5
        best, nearest = similarity.max(dim=1)
        assert set(matching.merged[i].tolist()) == set(best.topk(2).indices.tolist())
        assert matching.into[i].tolist() == nearest[matching.merged[i]].tolist()
        assert sorted([*matching.kept[i].tolist(), *matching.merged[i].tolist()]) == [0, 1, 2, 3]


def test_merged_tokens_are_means_of_their_patches_and_the_class_token_stays():
    tokens, keys = torch.randn(2, 17, 6), torch.randn(2, 16, 4)
    sizes = torch.ones(2, 17, 1)
    original = tokens
    for r in (5, 4, 3):
        matching = token_merging.bipartite_soft_matching(keys[:, : tokens.shape[1] - 1], r)
        tokens, sizes = token_merging.merge(tokens, sizes, matching)
        assert sizes.sum(dim=1).flatten().tolist() == [17, 17]
        torch.testing.assert_close((tokens * sizes).sum(dim=1), original.sum(dim=1))
        assert torch.equal(tokens[:, 0], original[:, 0])
        assert torch.equal(sizes[:, 0], torch.ones(2, 1))
    assert tokens.shape == (2, 5, 6)
    assert sizes.max() > 2


def test_a_merged_duplicate_is_attended_to_like_both():
    """Proportional attention: a block on merged duplicates gives what it gives on the duplicates themselves."""
    blocks = digits_model().blocks
    distinct = torch.randn(3, 9, 96)
    duplicates = torch.cat((distinct, distinct[:, 1:]), dim=1)  # the class token and 8 patches twice
    order = [0, *(i for pair in zip(range(1, 9), range(9, 17), strict=True) for i in pair)]
    duplicates = duplicates[:, order]
    expected = blocks[1](blocks[0](duplicates))
    first = token_merging.ToMeBlock(blocks[0], r=8, sized=False, last=False)
    second = token_merging.ToMeBlock(blocks[1], r=0, sized=True, last=False)
    merged = second(first(duplicates))
    assert merged[..., -1].tolist() == [[1] + [2] * 8] * 3
    torch.testing.assert_close(merged[..., :-1], expected[:, [0, *range(1, 17, 2)]], rtol=1e-4, atol=1e-4)


def test_each_block_leaves_r_tokens_fewer(clip):
    model = token_merging.merge_tokens(digits_model(), [0, 3, 0, 2, 4, 1])
    tokens = []
    for block in model.blocks:
        block.register_forward_hook(lambda *args: tokens.append(tuple(args[2].shape)))
    assert model(clip).shape == (2, 10)
    assert tokens == [(8, 17, 96), (8, 14, 97), (8, 14, 97), (8, 12, 97), (8, 8, 97), (8, 7, 96)]


def test_frames_are_merged_each_for_itself(clip):
    model = token_merging.merge_tokens(digits_model(), [2] * 6)
    features = model.forward_features(clip)
    assert features.shape == (2, 4, 5, 96)
    torch.testing.assert_close(features[1, 2], model.forward_features(clip[1:, 2])[0])


def test_merging_trains_with_checkpointing_as_without(clip):
    model = token_merging.merge_tokens(digits_model(), [0, 3, 0, 3, 3, 1])
    assert_all_train(model, clip)
    twin = copy.deepcopy(model)
    twin.zero_grad()
    twin.set_grad_checkpointing()
    assert_all_train(twin, clip)
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, msg=name)


def test_merging_runs_in_bfloat16(clip):
    model = token_merging.merge_tokens(digits_model(), [2] * 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(clip).isfinite().all()


def test_layer_decay_sees_the_blocks_of_a_merged_model():
    groups = timm.models.group_parameters(
        token_merging.merge_tokens(digits_model(), [2] * 6), digits_model().group_matcher()
    )
    plain = timm.models.group_parameters(digits_model(), digits_model().group_matcher())
    assert {k: len(v) for k, v in groups.items()} == {k: len(v) for k, v in plain.items()}


@pytest.mark.parametrize(
    ("args", "r", "message"),
    [
        ({}, [2] * 5, "5 numbers for 6 blocks"),
        ({"compress_at": (2,)}, [2] * 6, "compress_at"),
        ({"global_pool": "avg"}, [2] * 6, "global_pool"),
    ],
)
def test_merging_refuses_what_it_cannot_do(args, r, message):
    with pytest.raises(ValueError, match=message):
        token_merging.merge_tokens(digits_model(**args), r)


def test_no_more_than_half_of_the_tokens_merge(clip):
    with pytest.raises(ValueError, match="r=9 of 16 tokens"):
        token_merging.merge_tokens(digits_model(), [9, 0, 0, 0, 0, 0])(clip)


def test_cost_of_merging_is_the_closed_formula():
    r, tokens, dim, patch_dim, frames = (1, 2, 0, 2, 3, 2), 17, 96, 3 * 8 * 8, 4
    operations = frames * 16 * patch_dim * dim + dim * 10
    for i in r:
        attention = 4 * tokens * dim**2 + 2 * tokens**2 * dim
        a = (tokens - 1) // 2  # set A of the patches
        similarity = a * (tokens - 1 - a) * 32 if i else 0  # heads of 32 channels
        tokens -= i
        operations += frames * (attention + similarity + 8 * tokens * dim**2)
    model = token_merging.merge_tokens(digits_model(), r)
    assert count_flops(model, (1, *CLIP[1:])).gflops == pytest.approx(operations / 1e9, rel=1e-6)


def test_schedule_is_the_closest_to_what_inti_costs():
    depth, shape = 3, (1, 2, *CLIP[2:])
    naive = digits_model(depth=depth)
    keys = set(naive.state_dict())

    def cost(schedule):
        return count_flops(token_merging.merge_tokens(copy.deepcopy(naive), schedule), shape).gflops

    most = cost((0,) * depth)
    costs = {s: cost(s) for s in {token_merging.even_schedule(Fraction(i, 6), depth, 16) for i in range(6 * 8 + 1)}}
    for compress_at in ((0,), (1, 2), ()):
        target = min(count_flops(digits_model(compress_at, depth=depth), shape).gflops, most)
        r = token_merging.tome_schedule(naive, 2, target)
        assert set(naive.state_dict()) == keys  # untouched
        assert abs(costs[r] - target) == min(abs(c - target) for c in costs.values())
        assert abs(costs[r] - target) < 0.02 * most


def test_even_schedules_are_as_equal_as_half_of_the_tokens_allows():
    assert token_merging.even_schedule(Fraction(0), 6, 16) == (0,) * 6
    assert token_merging.even_schedule(Fraction(2), 6, 16) == (2,) * 6
    assert token_merging.even_schedule(Fraction(8), 6, 16) == (8, 4, 2, 1, 0, 0)
    for i in range(12):
        r = token_merging.even_schedule(Fraction(i, 6), 6, 16)
        assert sum(r) == i
        assert max(r) - min(r) <= 1


def test_schedule_refuses_a_target_out_of_reach():
    for target in (1e-3, 10.0):
        with pytest.raises(ValueError, match="target_gflops"):
            token_merging.tome_schedule(digits_model(), 4, target)
