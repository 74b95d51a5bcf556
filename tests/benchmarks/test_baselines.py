"""benchmarks/baselines.py: what InTI is compared with does what it is said to do."""

import copy

import pytest
import torch

from inti_models.models.flops import count_flops
from inti_models.models.reductions import drop_frames
from support.models import assert_all_train, digits_model
from support.modules import load_module

baselines = load_module("benchmarks/baselines.py")

CLIP = (2, 4, 3, 32, 32)


@pytest.fixture
def clip():
    return torch.randn(CLIP)


# Attention over the frames


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_temporal_attention_starts_as_the_naive_model(clip, global_pool):
    naive = digits_model(global_pool=global_pool)
    model = baselines.add_temporal_attention(naive)
    torch.testing.assert_close(model(clip), naive(clip))
    assert count_flops(model, CLIP).gflops > count_flops(naive, CLIP).gflops


def test_temporal_attention_sees_the_order_through_its_positions_alone(clip, randomize_):
    model = randomize_(baselines.add_temporal_attention(digits_model()))
    assert not torch.allclose(model(clip.flip(1)), model(clip), atol=1e-2)
    torch.nn.init.zeros_(model.frame_attention.pos_embed)
    torch.testing.assert_close(model(clip[:, [2, 0, 3, 1]]), model(clip), rtol=1e-4, atol=1e-4)


def test_temporal_attention_mixes_frames_not_clips(clip, randomize_):
    model = randomize_(baselines.add_temporal_attention(digits_model()))
    torch.testing.assert_close(model(clip)[1:], model(clip[1:]), rtol=1e-4, atol=1e-4)


def test_temporal_attention_trains_and_keeps_the_image_weights_keys(clip, randomize_):
    naive = digits_model()
    keys = set(naive.state_dict())
    model = baselines.add_temporal_attention(naive)
    assert {key for key in model.state_dict() if not key.startswith("frame_attention.")} == keys
    assert_all_train(randomize_(model), clip)
    assert {"frame_attention.pos_embed", "pos_embed"} <= set(model.no_weight_decay())


def test_the_zero_start_can_be_left(clip):
    model = baselines.add_temporal_attention(digits_model()).train()
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


def test_a_new_head_works_with_temporal_attention(clip):
    naive = digits_model()
    model = baselines.add_temporal_attention(naive)
    model.head = torch.nn.Linear(96, 3)
    assert model(clip).shape == (2, 3)
    model.reset_classifier(7)
    assert model(clip).shape == (2, 7)
    assert naive(clip).shape == (2, 10)


def test_temporal_attention_names_the_number_of_frames_it_expects(clip):
    with pytest.raises(ValueError, match="4 frames.*positions for 8"):
        baselines.add_temporal_attention(digits_model(), num_frames=8)(clip)


@pytest.mark.parametrize("args", [{"compress_at": (2,)}, {"global_pool": ""}])
def test_temporal_attention_refuses_a_model_without_features_of_all_frames(args):
    with pytest.raises(ValueError, match=next(iter(args))):
        baselines.add_temporal_attention(digits_model(**args))


# Fewer tokens, merged frames


@pytest.mark.parametrize("drop", [baselines.drop_tokens, baselines.drop_static_tokens])
def test_keeping_every_token_is_the_naive_model(clip, drop):
    model = digits_model()
    expected = model(clip)
    torch.testing.assert_close(drop(model, 16)(clip), expected)
    with pytest.raises(ValueError, match="keep=17"):
        drop(digits_model(), 17)
    with pytest.raises(ValueError, match="every position"):
        drop(digits_model((2,)), 4)


def test_random_tokens_are_drawn_for_each_frame_and_keep_their_order():
    numbered = torch.arange(17.0).view(1, 1, 17, 1).expand(8, 8, 17, 1)
    seen = baselines.KeepTokens(torch.nn.Identity(), 5, 1, changed=False)(numbered).flatten(0, 1)[..., 0]
    assert (seen[:, 0] == 0).all()  # the class token
    assert (seen.diff(dim=1) > 0).all()
    counts = torch.bincount(seen[:, 1:].flatten().long(), minlength=17)
    assert (counts[1:] > 0).all() and len({tuple(frame) for frame in seen.tolist()}) > 50


def test_static_tokens_go_and_changed_ones_stay():
    clip = torch.randn(1, 1, 3, 32, 32).repeat(1, 4, 1, 1, 1)
    clip[:, 2, :, 8:16, 16:24] += 1  # patch 6 differs in frame 2: it changes there and, back again, in frame 3
    clip[:, :, :, 0:8, 0:8] = torch.randn(1, 4, 3, 8, 8) * 9  # patch 0 changes always, and most
    model = digits_model()
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


def test_merging_frames_costs_what_dropping_them_does_and_the_similarities():
    merging = count_flops(baselines.merge_frames(digits_model((2, 5))), (1, *CLIP[1:]))
    dropping = count_flops(drop_frames(digits_model((2, 5))), (1, *CLIP[1:]))
    assert merging.gflops - dropping.gflops == pytest.approx((2 + 1) * 16 * 16 * 96 / 1e9, rel=1e-4)


def test_tokens_at_a_cost_are_the_closest():
    naive = digits_model(depth=2)
    target = count_flops(digits_model((1,), depth=2), (1, 4, *CLIP[2:])).gflops
    costs = {
        keep: count_flops(baselines.drop_tokens(copy.deepcopy(naive), keep), (1, 4, *CLIP[2:])).gflops
        for keep in range(1, 17)
    }
    for wanted in (target, 0.0, 1.0):
        assert baselines.tokens_at_cost(naive, 4, wanted) == min(costs, key=lambda n: abs(costs[n] - wanted))
    assert naive.norm_pre is not None and "norm_pre.norm_pre" not in dict(naive.named_modules())  # untouched
