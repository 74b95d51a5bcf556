"""benchmarks/baselines.py: what InTI is compared with does what it is said to do."""

import copy
from fractions import Fraction

import pytest
import timm
import torch

from inti_models.models.flops import count_flops
from support.modules import load_module

baselines = load_module("benchmarks/baselines.py")

NAME = "inti_vit_t8_32_motiondigits"
CLIP = (2, 4, 3, 32, 32)


@pytest.fixture
def build(randomize_):
    """The benchmark's model, 16 + 1 tokens a frame, with random weights."""

    def build(compress_at=(), **kwargs):
        args = {"img_size": 32, "num_classes": 10, "compress_at": compress_at, "num_frames": 4}
        return randomize_(timm.create_model(NAME, **{**args, **kwargs}))

    return build


@pytest.fixture
def clip():
    return torch.randn(CLIP)


def assert_all_train(model, clip):
    """Every parameter gets a gradient that is not zero."""
    model.train()(clip).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


# Frame dropping


@pytest.mark.parametrize(("schedule", "step"), [((0,), 2), ((0, 0), 4)])
def test_dropping_before_the_first_block_is_the_naive_model_on_fewer_frames(build, clip, schedule, step):
    model = build(schedule)
    naive = build()
    naive.load_state_dict(model.state_dict(), strict=False)
    baselines.drop_frames(model)
    torch.testing.assert_close(model(clip), naive(clip[:, ::step]))
    assert not torch.allclose(model(clip), naive(clip), atol=1e-3)


def test_dropping_later_sees_no_other_frame_either(build, clip):
    model = baselines.drop_frames(build((2, 5)))
    changed = clip.clone()
    changed[:, 1:] = torch.randn_like(clip[:, 1:])
    torch.testing.assert_close(model(changed), model(clip))


def test_weights_say_which_frames_are_kept(build):
    model = baselines.drop_frames(build((3,)))
    clip = torch.randn(1, 5, 3, 32, 32)
    assert model.forward_features(clip).shape == (1, 3, 17, 96)
    assert model.interpolation_weights(clip)[0][0, :, 0].tolist() == [1, 0, 1, 0, 1, 0]  # of frames 0 1 | 2 2 | 3 4


def test_dropping_leaves_every_other_weight_alone(build, clip):
    model = build((2, 5))
    before = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("interpolations.")}
    after = baselines.drop_frames(model).state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert_all_train(model, clip)


# Token merging


def test_merging_nothing_is_the_naive_model(build, clip):
    model = build()
    expected = model(clip)
    assert torch.equal(baselines.merge_tokens(model, [0] * 6)(clip), expected)


def test_matching_takes_the_most_similar_pairs():
    keys = torch.randn(3, 9, 8)
    matching = baselines.bipartite_soft_matching(keys, 2)
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
        matching = baselines.bipartite_soft_matching(keys[:, : tokens.shape[1] - 1], r)
        tokens, sizes = baselines.merge(tokens, sizes, matching)
        assert sizes.sum(dim=1).flatten().tolist() == [17, 17]
        torch.testing.assert_close((tokens * sizes).sum(dim=1), original.sum(dim=1))
        assert torch.equal(tokens[:, 0], original[:, 0])
        assert torch.equal(sizes[:, 0], torch.ones(2, 1))
    assert tokens.shape == (2, 5, 6)
    assert sizes.max() > 2


def test_a_merged_duplicate_is_attended_to_like_both(build):
    """Proportional attention: a block on merged duplicates gives what it gives on the duplicates themselves."""
    blocks = build().blocks
    distinct = torch.randn(3, 9, 96)
    duplicates = torch.cat((distinct, distinct[:, 1:]), dim=1)  # the class token and 8 patches twice
    order = [0, *(i for pair in zip(range(1, 9), range(9, 17), strict=True) for i in pair)]
    duplicates = duplicates[:, order]
    expected = blocks[1](blocks[0](duplicates))
    first = baselines.ToMeBlock(blocks[0], r=8, sized=False, last=False)
    second = baselines.ToMeBlock(blocks[1], r=0, sized=True, last=False)
    merged = second(first(duplicates))
    assert merged[..., -1].tolist() == [[1] + [2] * 8] * 3
    torch.testing.assert_close(merged[..., :-1], expected[:, [0, *range(1, 17, 2)]], rtol=1e-4, atol=1e-4)


def test_each_block_leaves_r_tokens_fewer(build, clip):
    model = baselines.merge_tokens(build(), [0, 3, 0, 2, 4, 1])
    tokens = []
    for block in model.blocks:
        block.register_forward_hook(lambda *args: tokens.append(tuple(args[2].shape)))
    assert model(clip).shape == (2, 10)
    assert tokens == [(8, 17, 96), (8, 14, 97), (8, 14, 97), (8, 12, 97), (8, 8, 97), (8, 7, 96)]


def test_frames_are_merged_each_for_itself(build, clip):
    model = baselines.merge_tokens(build(), [2] * 6)
    features = model.forward_features(clip)
    assert features.shape == (2, 4, 5, 96)
    torch.testing.assert_close(features[1, 2], model.forward_features(clip[1:, 2])[0])


def test_merging_trains_with_checkpointing_as_without(build, clip):
    model = baselines.merge_tokens(build(), [0, 3, 0, 3, 3, 1])
    assert_all_train(model, clip)
    twin = copy.deepcopy(model)
    twin.zero_grad()
    twin.set_grad_checkpointing()
    assert_all_train(twin, clip)
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, msg=name)


def test_merging_runs_in_bfloat16(build, clip):
    model = baselines.merge_tokens(build(), [2] * 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(clip).isfinite().all()


def test_layer_decay_sees_the_blocks_of_a_merged_model(build):
    groups = timm.models.group_parameters(baselines.merge_tokens(build(), [2] * 6), build().group_matcher())
    plain = timm.models.group_parameters(build(), build().group_matcher())
    assert {k: len(v) for k, v in groups.items()} == {k: len(v) for k, v in plain.items()}


@pytest.mark.parametrize(
    ("args", "r", "message"),
    [
        ({}, [2] * 5, "5 numbers for 6 blocks"),
        ({"compress_at": (2,)}, [2] * 6, "compress_at"),
        ({"global_pool": "avg"}, [2] * 6, "global_pool"),
    ],
)
def test_merging_refuses_what_it_cannot_do(build, args, r, message):
    with pytest.raises(ValueError, match=message):
        baselines.merge_tokens(build(**args), r)


def test_no_more_than_half_of_the_tokens_merge(build, clip):
    with pytest.raises(ValueError, match="r=9 of 16 tokens"):
        baselines.merge_tokens(build(), [9, 0, 0, 0, 0, 0])(clip)


def test_cost_of_merging_is_the_closed_formula(build):
    r, tokens, dim, patch_dim, frames = (1, 2, 0, 2, 3, 2), 17, 96, 3 * 8 * 8, 4
    operations = frames * 16 * patch_dim * dim + dim * 10
    for i in r:
        attention = 4 * tokens * dim**2 + 2 * tokens**2 * dim
        a = (tokens - 1) // 2  # set A of the patches
        similarity = a * (tokens - 1 - a) * 32 if i else 0  # heads of 32 channels
        tokens -= i
        operations += frames * (attention + similarity + 8 * tokens * dim**2)
    model = baselines.merge_tokens(build(), r)
    assert count_flops(model, (1, *CLIP[1:])).gflops == pytest.approx(operations / 1e9, rel=1e-6)


def test_schedule_is_the_closest_to_what_inti_costs(build):
    depth, shape = 3, (1, 2, *CLIP[2:])
    naive = build(depth=depth)
    keys = set(naive.state_dict())

    def cost(schedule):
        return count_flops(baselines.merge_tokens(copy.deepcopy(naive), schedule), shape).gflops

    most = cost((0,) * depth)
    costs = {s: cost(s) for s in {baselines.even_schedule(Fraction(i, 6), depth, 16) for i in range(6 * 8 + 1)}}
    for compress_at in ((0,), (1, 2), ()):
        target = min(count_flops(build(compress_at, depth=depth), shape).gflops, most)
        r = baselines.tome_schedule(naive, 2, target)
        assert set(naive.state_dict()) == keys  # untouched
        assert abs(costs[r] - target) == min(abs(c - target) for c in costs.values())
        assert abs(costs[r] - target) < 0.02 * most


def test_even_schedules_are_as_equal_as_half_of_the_tokens_allows():
    assert baselines.even_schedule(Fraction(0), 6, 16) == (0,) * 6
    assert baselines.even_schedule(Fraction(2), 6, 16) == (2,) * 6
    assert baselines.even_schedule(Fraction(8), 6, 16) == (8, 4, 2, 1, 0, 0)
    for i in range(12):
        r = baselines.even_schedule(Fraction(i, 6), 6, 16)
        assert sum(r) == i
        assert max(r) - min(r) <= 1


def test_schedule_refuses_a_target_out_of_reach(build):
    for target in (1e-3, 10.0):
        with pytest.raises(ValueError, match="target_gflops"):
            baselines.tome_schedule(build(), 4, target)


# Attention over the frames


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_temporal_attention_starts_as_the_naive_model(build, clip, global_pool):
    naive = build(global_pool=global_pool)
    model = baselines.add_temporal_attention(naive)
    torch.testing.assert_close(model(clip), naive(clip))
    assert count_flops(model, CLIP).gflops > count_flops(naive, CLIP).gflops


def test_temporal_attention_sees_the_order_through_its_positions_alone(build, clip, randomize_):
    model = randomize_(baselines.add_temporal_attention(build()))
    assert not torch.allclose(model(clip.flip(1)), model(clip), atol=1e-2)
    torch.nn.init.zeros_(model.frame_attention.pos_embed)
    torch.testing.assert_close(model(clip[:, [2, 0, 3, 1]]), model(clip), rtol=1e-4, atol=1e-4)


def test_temporal_attention_mixes_frames_not_clips(build, clip, randomize_):
    model = randomize_(baselines.add_temporal_attention(build()))
    torch.testing.assert_close(model(clip)[1:], model(clip[1:]), rtol=1e-4, atol=1e-4)


def test_temporal_attention_trains_and_keeps_the_image_weights_keys(build, clip, randomize_):
    naive = build()
    keys = set(naive.state_dict())
    model = baselines.add_temporal_attention(naive)
    assert {key for key in model.state_dict() if not key.startswith("frame_attention.")} == keys
    assert_all_train(randomize_(model), clip)
    assert {"frame_attention.pos_embed", "pos_embed"} <= set(model.no_weight_decay())


def test_the_zero_start_can_be_left(build, clip):
    model = baselines.add_temporal_attention(build()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(clip).square().sum().backward()
        optimizer.step()
    assert all(p.grad.any() for name, p in model.frame_attention.named_parameters() if name != "block.attn.qkv.bias")
    assert not torch.allclose(model(clip.flip(1)), model(clip), atol=1e-6)


def test_the_head_learns_a_direction_in_time_in_few_steps():
    head, classifier = baselines.TemporalAttentionHead(32, 8, 2), torch.nn.Linear(32, 2)
    optimizer = torch.optim.AdamW([*head.parameters(), *classifier.parameters()], lr=1e-3)
    drift = torch.linspace(-1, 1, 8).view(1, 8, 1) * torch.randn(32)
    for _ in range(200):
        labels = torch.randint(0, 2, (32,))
        clips = torch.randn(32, 1, 32) + drift * (2.0 * labels - 1).view(-1, 1, 1)  # the other label's, reversed
        logits = classifier(head(clips))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    assert (logits.argmax(dim=1) == labels).float().mean() > 0.9


def test_a_new_head_works_with_temporal_attention(build, clip):
    naive = build()
    model = baselines.add_temporal_attention(naive)
    model.head = torch.nn.Linear(96, 3)
    assert model(clip).shape == (2, 3)
    model.reset_classifier(7)
    assert model(clip).shape == (2, 7)
    assert naive(clip).shape == (2, 10)


def test_temporal_attention_names_the_number_of_frames_it_expects(build, clip):
    with pytest.raises(ValueError, match="4 frames.*positions for 8"):
        baselines.add_temporal_attention(build(), num_frames=8)(clip)


@pytest.mark.parametrize("args", [{"compress_at": (2,)}, {"global_pool": ""}])
def test_temporal_attention_refuses_a_model_without_features_of_all_frames(build, args):
    with pytest.raises(ValueError, match=next(iter(args))):
        baselines.add_temporal_attention(build(**args))


# Fewer frames, fewer tokens, merged frames


def test_kept_frames_are_spread_evenly_or_drawn_for_each_clip(build):
    model, clip = build(), torch.randn(64, 4, 3, 32, 32)
    torch.testing.assert_close(baselines.keep_frames(model, 2)(clip[:2]), model(clip[:2, [1, 3]]))
    torch.testing.assert_close(baselines.keep_frames(model, 4, random=True)(clip[:2]), model(clip[:2]))
    numbered = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(64, 4, 3, 1, 1)
    seen = baselines.keep_frames(torch.nn.Identity(), 2, random=True)(numbered)[:, :, 0, 0, 0]
    assert (seen[:, 0] < seen[:, 1]).all()  # in their order, none twice
    assert {tuple(pair) for pair in seen.tolist()} == {(a, b) for a in range(4) for b in range(a + 1, 4)}


@pytest.mark.parametrize("drop", [baselines.drop_tokens, baselines.drop_static_tokens])
def test_keeping_every_token_is_the_naive_model(build, clip, drop):
    model = build()
    expected = model(clip)
    torch.testing.assert_close(drop(model, 16)(clip), expected)
    with pytest.raises(ValueError, match="keep=17"):
        drop(build(), 17)
    with pytest.raises(ValueError, match="every place"):
        drop(build((2,)), 4)


def test_random_tokens_are_drawn_for_each_frame_and_keep_their_order():
    numbered = torch.arange(17.0).view(1, 1, 17, 1).expand(8, 8, 17, 1)
    seen = baselines.KeepTokens(torch.nn.Identity(), 5, 1, changed=False)(numbered).flatten(0, 1)[..., 0]
    assert (seen[:, 0] == 0).all()  # the class token
    assert (seen.diff(dim=1) > 0).all()
    counts = torch.bincount(seen[:, 1:].flatten().long(), minlength=17)
    assert (counts[1:] > 0).all() and len({tuple(frame) for frame in seen.tolist()}) > 50


def test_static_tokens_go_and_changed_ones_stay(build):
    clip = torch.randn(1, 1, 3, 32, 32).repeat(1, 4, 1, 1, 1)
    clip[:, 2, :, 8:16, 16:24] += 1  # patch 6 differs in frame 2: it changes there and, back again, in frame 3
    clip[:, :, :, 0:8, 0:8] = torch.randn(1, 4, 3, 8, 8) * 9  # patch 0 changes always, and most
    model = build()
    tokens, _ = model.embed(clip)
    kept, _ = baselines.drop_static_tokens(model, 2).embed(clip)
    for frame in (2, 3):
        torch.testing.assert_close(kept[0, frame], tokens[0, frame, [0, 1, 7]])
    assert kept.shape == (1, 4, 3, 96)
    with pytest.raises(ValueError, match="1 frame"):
        model(clip[:, :1])


def test_merged_frames_are_means_of_the_most_similar_tokens(randomize_):
    x = torch.randn(2, 5, 17, 8)
    merged, weights = baselines.MergeFrames()(x, (4, 4), return_weights=True)
    assert merged.shape == (2, 3, 17, 8) and torch.equal(merged[:, 2], x[:, 4])
    for b in range(2):
        for p in range(2):
            earlier, later = x[b, 2 * p], x[b, 2 * p + 1]
            groups = [[earlier[i]] for i in range(17)]
            for i in range(17):
                similarity = torch.cosine_similarity(later[i], earlier[1:], dim=-1)
                groups[0 if i == 0 else 1 + int(similarity.argmax())].append(later[i])
            torch.testing.assert_close(merged[b, p], torch.stack([torch.stack(g).mean(dim=0) for g in groups]))
    torch.testing.assert_close(weights[:, :4].sum(dim=(1, 2)), torch.full((2,), 34.0))  # each mean has weights of 1
    still = x[:, :1].repeat(1, 4, 1, 1)
    torch.testing.assert_close(baselines.MergeFrames()(still, (4, 4)), still[:, :2])  # nothing moves: nothing changes


def test_merging_frames_costs_what_dropping_them_does_and_the_similarities(build):
    merging = count_flops(baselines.merge_frames(build((2, 5))), (1, *CLIP[1:]))
    dropping = count_flops(baselines.drop_frames(build((2, 5))), (1, *CLIP[1:]))
    assert merging.gflops - dropping.gflops == pytest.approx((2 + 1) * 16 * 16 * 96 / 1e9, rel=1e-4)


def test_frames_and_tokens_at_a_cost_are_the_closest(build):
    naive = build(depth=2)
    target = count_flops(build((1,), depth=2), (1, 4, *CLIP[2:])).gflops
    costs = {n: count_flops(naive, (1, n, *CLIP[2:])).gflops for n in range(1, 5)}
    assert baselines.frames_at_cost(naive, target, most=4) == min(costs, key=lambda n: abs(costs[n] - target))
    costs = {
        keep: count_flops(baselines.drop_tokens(copy.deepcopy(naive), keep), (1, 4, *CLIP[2:])).gflops
        for keep in range(1, 17)
    }
    for wanted in (target, 0.0, 1.0):
        assert baselines.tokens_at_cost(naive, 4, wanted) == min(costs, key=lambda n: abs(costs[n] - wanted))
    assert naive.norm_pre is not None and "norm_pre.norm_pre" not in dict(naive.named_modules())  # untouched
