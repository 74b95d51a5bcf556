"""What holds for every shape, schedule and type: hypothesis looks for a case where it does not.

`HYPOTHESIS_PROFILE=fuzz` tries many more cases, and other ones each time. Properties that name a weighting hold for it;
the unbounded `linear` one, for instance, overflows half precision in a deep cascade.
"""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from inti_models import InterFrameInterpolation, InTIVisionTransformer
from inti_models.models.interpolation import CONTEXTS, Weighting, frame_order, repeat_evenly
from inti_models.models.streaming import StreamingClassifier, forward_chunked

WEIGHTINGS = get_args(Weighting)
AFFINE = ("softmax", "uniform")  # weightings whose two weights sum to one


@st.composite
def layers(draw, weightings=WEIGHTINGS):
    """A layer, tokens (B, T, N, C) for it, and its grid size."""
    grid_size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    num_prefix_tokens = draw(st.integers(0, 3))
    dim = draw(st.sampled_from([4, 6, 16]))
    torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
    layer = InterFrameInterpolation(
        dim,
        num_prefix_tokens,
        reduction=draw(st.sampled_from([1, 2, 4])),
        context=draw(st.lists(st.sampled_from(CONTEXTS), min_size=1, unique=True)),
        weighting=draw(st.sampled_from(weightings)),
    )
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 9)), num_prefix_tokens + grid_size[0] * grid_size[1], dim
    return layer, torch.randn(shape), grid_size


@st.composite
def models(draw, **fixed):
    """A model, and a clip (B, T, C, H, W) for it."""
    depth = draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
    class_token = draw(st.booleans())
    args = {
        "img_size": draw(st.sampled_from([(8, 8), (8, 16), (16, 8)])),
        "patch_size": 4,
        "embed_dim": 16,
        "depth": depth,
        "num_heads": 2,
        "num_classes": draw(st.integers(1, 4)),
        "compress_at": tuple(sorted(draw(st.lists(st.integers(0, depth), max_size=4)))),
        "reduction": 4,
        "class_token": class_token,
        "reg_tokens": draw(st.integers(0, 2)),
        "global_pool": "token" if class_token else "avg",
        "weighting": draw(st.sampled_from(WEIGHTINGS)),
        **fixed,
    }
    model = InTIVisionTransformer(**args)
    return model, torch.randn(draw(st.integers(1, 3)), draw(st.integers(1, 9)), 3, *args["img_size"])


@given(layers())
def test_frames_are_halved_and_weights_cover_every_token(randomize_, case):
    layer, x, grid_size = case
    randomize_(layer)
    y, weights = layer(x, grid_size, return_weights=True)
    assert y.shape == (x.shape[0], (x.shape[1] + 1) // 2, *x.shape[2:])
    assert weights.shape == x.shape[:-1]
    assert y.isfinite().all()


@given(layers(AFFINE))
def test_weights_of_a_pair_sum_to_one_and_equal_frames_stay(randomize_, case):
    layer, x, grid_size = case
    randomize_(layer)
    x = x[:, :1].expand_as(x)
    y, weights = layer(x, grid_size, return_weights=True)
    if x.shape[1] % 2:
        assert_close(weights[:, -1], torch.ones_like(weights[:, -1]))
    even = weights[:, : x.shape[1] // 2 * 2]
    assert_close(even.unflatten(1, (-1, 2)).sum(2), torch.ones_like(even[:, ::2]))
    assert (weights >= 0).all()
    assert_close(y, x[:, : y.shape[1]])


@given(layers())
def test_single_frame_is_left_alone(randomize_, case):
    layer, x, grid_size = case
    randomize_(layer)
    assert_close(layer(x[:, :1], grid_size), x[:, :1], rtol=0, atol=0)


@given(layers(), st.randoms())
def test_clips_of_a_batch_and_pairs_of_a_clip_do_not_see_each_other(randomize_, case, random):
    layer, x, grid_size = case
    randomize_(layer)
    order = random.sample(range(len(x)), len(x))
    assert_close(layer(x[order], grid_size), layer(x, grid_size)[order])
    pairs = [layer(pair, grid_size) for pair in x.split(2, dim=1)]
    assert_close(layer(x, grid_size), torch.cat(pairs, dim=1))


@given(layers(), st.sampled_from([(torch.float16, 1e3), (torch.bfloat16, 1e4)]))
def test_large_half_precision_tokens_stay_finite_forward_and_backward(randomize_, case, kind):
    layer, x, grid_size = case
    randomize_(layer)
    dtype, limit = kind
    x = (x / x.abs().amax() * limit).to(dtype).requires_grad_()
    y = layer.to(dtype)(x, grid_size)
    assert y.dtype == dtype
    assert y.isfinite().all()
    y.float().mean().backward()
    for name, tensor in [("x", x), *layer.named_parameters()]:
        assert tensor.grad is None or tensor.grad.isfinite().all(), name


@given(models())
def test_any_schedule_takes_any_number_of_frames(randomize_, case):
    model, clip = case
    randomize_(model)
    batch, num_frames = clip.shape[:2]
    remaining = -(-num_frames // 2 ** len(model.compress_at))
    tokens = model.num_prefix_tokens + model.patch_embed.num_patches
    assert model.forward_features(clip).shape == (batch, remaining, tokens, 16)
    assert model(clip).shape == (batch, model.num_classes)
    assert model(clip).isfinite().all()


@given(models(), st.randoms())
def test_clips_of_a_batch_do_not_see_each_other(randomize_, case, random):
    model, clip = case
    randomize_(model)
    order = random.sample(range(len(clip)), len(clip))
    assert_close(model(clip[order]), model(clip)[order], rtol=1e-4, atol=1e-4)


@given(models(weighting="softmax"))
def test_clip_of_equal_frames_is_the_image(randomize_, case):
    model, clip = case
    randomize_(model)
    still = clip[:, :1].expand_as(clip)
    assert_close(model(still), model(clip[:, 0]), rtol=1e-4, atol=1e-4)


@given(models(weighting="softmax"))
def test_groups_of_frames_that_become_one_do_not_see_each_other(randomize_, case):
    model, clip = case
    randomize_(model)
    span = 2 ** len(model.compress_at)
    whole = model.forward_features(clip)
    clip = repeat_evenly(clip, model.group_size)
    groups = [model.forward_features(group) for group in clip.split(span, dim=1)]
    assert_close(whole, torch.cat(groups, dim=1), rtol=1e-4, atol=1e-4)
    weights = model.frame_weights(clip)
    for group in weights.split(span, dim=1):
        assert_close(group.sum(1), torch.ones_like(group[:, 0]))


@given(models())
def test_gradients_are_finite(randomize_, case):
    model, clip = case
    randomize_(model)
    model.train()(clip).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@given(models(weighting="softmax"), st.sampled_from([(torch.float16, 1e3), (torch.bfloat16, 1e4)]))
def test_large_half_precision_pixels_give_finite_logits(randomize_, case, kind):
    model, clip = case
    randomize_(model)
    dtype, limit = kind
    clip = (clip / clip.abs().amax() * limit).to(dtype)
    assert model.to(dtype)(clip).isfinite().all()


@given(models())
def test_head_of_features_is_the_model(randomize_, case):
    model, clip = case
    randomize_(model)
    assert torch.equal(model.forward_head(model.forward_features(clip)), model(clip))


@given(st.integers(1, 300), st.integers(0, 9))
def test_no_frame_is_left_out_or_stands_more_than_twice(num_frames, compressions):
    order = frame_order(num_frames, 2**compressions)
    assert -(-len(order) // 2**compressions) == -(-num_frames // 2**compressions)
    assert list(order) == sorted(order)
    assert {order.count(t) for t in range(num_frames)} <= {1, 2}


@torch.no_grad()
@given(models(), st.integers(1, 3), st.integers(1, 12))
def test_chunked_equals_whole(randomize_, case, groups, chunk):
    """Of clips that compress without a rest."""
    model, clip = case
    randomize_(model)
    clip = torch.randn(len(clip), groups * 2 ** len(model.compress_at), *clip.shape[2:])
    assert_close(forward_chunked(model, clip, chunk), model(clip), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@given(models(), st.integers(1, 3), st.integers(1, 5), st.data())
def test_streaming_equals_offline(randomize_, case, groups, stride, data):
    """Of windows that compress without a rest."""
    model, clip = case
    randomize_(model)
    num_frames = groups * 2 ** len(model.compress_at)
    video = torch.randn(len(clip), num_frames + data.draw(st.integers(0, 9)), *clip.shape[2:])
    stream, pieces = StreamingClassifier(model, num_frames, stride), []
    while sum(pieces) < video.shape[1]:
        pieces.append(data.draw(st.integers(1, video.shape[1] - sum(pieces))))
    logits = torch.cat([stream.push(frames) for frames in video.split(pieces, dim=1)], dim=1)
    starts = range(0, video.shape[1] - num_frames + 1, stride)
    assert logits.shape == (len(video), len(starts), model.num_classes)
    for i, start in enumerate(starts):
        assert_close(logits[:, i], model(video[:, start : start + num_frames]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.slow  # each example compiles
@settings(max_examples=6)
@given(models())
def test_compiled_equals_eager(randomize_, case):
    model, clip = case
    randomize_(model)
    expected = model(clip)
    torch.compiler.reset()
    assert_close(torch.compile(model)(clip), expected, rtol=1e-4, atol=1e-4)
