"""`InterFrameInterpolation` against loops over clips, pairs and tokens that spell out the paper's equation."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from inti_models.models.interpolation import (
    CONTEXTS,
    InterFrameInterpolation,
    WeightPrediction,
    cascade,
    frame_order,
    interpolate,
    repeat_evenly,
    sum_repeats,
)

WEIGHTINGS = ("softmax", "sigmoid", "linear", "uniform")
SUBSETS = [subset for size in range(1, 5) for subset in itertools.combinations(CONTEXTS, size)]
DIM, GRID = 8, (2, 3)


def context_features(net, name, n, z, z_pair, grid_size):
    """Output of one context network for token ``n`` of one frame: (N, R) tokens of it and of the pair -> (R,)."""
    if name == "point":
        return F.gelu(net.point_context(z[n]))
    if name == "global":
        return F.gelu(net.global_context(z.mean(0)))
    if name == "temporal":
        return F.gelu(net.temporal_context(z_pair[1][n] - z_pair[0][n]))
    if n < net.num_prefix_tokens:
        return torch.zeros_like(z[n])
    height, width = grid_size
    row, column = divmod(n - net.num_prefix_tokens, width)
    out = net.local_context.bias.clone()
    for i, j in itertools.product((-1, 0, 1), repeat=2):
        if 0 <= row + i < height and 0 <= column + j < width:
            neighbour = z[net.num_prefix_tokens + (row + i) * width + column + j]
            out = out + net.local_context.weight[:, 0, i + 1, j + 1] * neighbour
    return F.gelu(out)


def reference(layer, x, grid_size):
    """The layer's output and weights, computed one clip, pair and token at a time."""
    clips, frames, tokens, _ = x.shape
    y, weights = [], torch.ones(clips, frames, tokens, dtype=x.dtype)
    net = layer.predict
    for b, t in itertools.product(range(clips), range(0, frames - 1, 2)):
        pair = x[b, t : t + 2]
        z_pair = None if net is None else [net.reduce(net.norm(frame)) for frame in pair]
        for n in range(tokens):
            if net is None:
                w = (0.5, 0.5)
            else:
                logits = []
                for i, z in enumerate(z_pair):
                    features = [context_features(net, name, n, z, z_pair, grid_size) for name in net.context]
                    logits.append(net.logit.weight[i] @ torch.cat(features) + net.logit.bias[i])
                logits = torch.stack(logits)
                w = {"softmax": logits.softmax(0), "sigmoid": logits.sigmoid(), "linear": 0.5 + logits}[layer.weighting]
            y.append(w[0] * pair[0, n] + w[1] * pair[1, n])
            weights[b, t, n], weights[b, t + 1, n] = w[0], w[1]
    out = torch.stack(y).reshape(clips, frames // 2, tokens, -1)
    return torch.cat((out, x[:, frames // 2 * 2 :]), dim=1), weights


@pytest.fixture
def layer_of(randomize_):
    """Build a layer with random parameters, in double precision."""

    def build(**kwargs):
        return randomize_(InterFrameInterpolation(DIM, **{"reduction": 2, **kwargs})).double()

    return build


def tokens(frames=2, prefix=1, clips=2, dtype=torch.float64):
    return torch.randn(clips, frames, prefix + math.prod(GRID), DIM, dtype=dtype)


@pytest.mark.parametrize("context", SUBSETS, ids="-".join)
def test_equals_loops_for_every_set_of_contexts(layer_of, context):
    layer, x = layer_of(context=context), tokens()
    assert layer.predict.context == context
    y, weights = layer(x, GRID, return_weights=True)
    expected_y, expected_weights = reference(layer, x, GRID)
    torch.testing.assert_close(weights, expected_weights)
    torch.testing.assert_close(y, expected_y)
    assert (weights - 0.5).abs().max() > 0.05


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(("frames", "prefix"), [(2, 0), (3, 5), (4, 1), (5, 0)])
def test_equals_loops_for_every_weighting(layer_of, weighting, frames, prefix):
    layer, x = layer_of(weighting=weighting, num_prefix_tokens=prefix), tokens(frames, prefix)
    y, weights = layer(x, GRID, return_weights=True)
    expected_y, expected_weights = reference(layer, x, GRID)
    torch.testing.assert_close(weights, expected_weights)
    torch.testing.assert_close(y, expected_y)
    torch.testing.assert_close(layer(x, GRID), y, rtol=0, atol=0)
    assert y.shape == (2, math.ceil(frames / 2), *x.shape[2:])


def test_order_in_which_contexts_are_named_does_not_matter(layer_of):
    layer, x = layer_of(context=("temporal", "point")), tokens()
    other = InterFrameInterpolation(DIM, reduction=2, context=["point", "temporal"]).double()
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x, GRID), layer(x, GRID))


def test_grid_is_height_by_width(layer_of):
    layer, x = layer_of(context=("local",)), tokens()
    torch.testing.assert_close(layer(x, (3, 2)), reference(layer, x, (3, 2))[0])
    assert not torch.allclose(layer(x, (3, 2)), layer(x, (2, 3)))


@pytest.mark.parametrize("weighting", ["softmax", "uniform"])
def test_weights_of_a_pair_sum_to_one(layer_of, weighting):
    weights = layer_of(weighting=weighting)(tokens(6), GRID, return_weights=True)[1]
    torch.testing.assert_close(weights[:, ::2] + weights[:, 1::2], torch.ones(2, 3, 7, dtype=weights.dtype))


@pytest.mark.parametrize("weighting", ["sigmoid", "linear"])
def test_other_weightings_need_not_sum_to_one(layer_of, weighting):
    weights = layer_of(weighting=weighting)(tokens(), GRID, return_weights=True)[1]
    assert (weights.sum(1) - 1).abs().max() > 0.05


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_untrained_layer_is_the_plain_mean(weighting):
    x = tokens(4, dtype=torch.float32)
    y = InterFrameInterpolation(DIM, reduction=2, weighting=weighting)(x, GRID)
    torch.testing.assert_close(y, (x[:, ::2] + x[:, 1::2]) / 2)


@pytest.mark.parametrize("frames", range(1, 20))
@pytest.mark.parametrize("compressions", range(5))
def test_frame_order_is_the_next_multiple_with_repeats_spread_evenly(frames, compressions):
    span = 2**compressions
    order = frame_order(frames, span)
    if frames < span:
        assert order == tuple(range(frames))
        return
    assert len(order) % span == 0 and len(order) - frames < span
    assert list(order) == sorted(order) and set(order) == set(range(frames))
    assert max(order.count(t) for t in range(frames)) <= 2
    repeated = [t for t in range(frames) if order.count(t) == 2]
    gaps = [b - a for a, b in itertools.pairwise(repeated)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert not repeated or abs(repeated[0] - (frames - 1 - repeated[-1])) <= 1  # as far from one end as from the other


def test_repeats_are_added_up_for_the_frame_they_are_of():
    x = torch.randn(2, 5, 3)
    places = repeat_evenly(x, 4)
    assert torch.equal(places, x[:, [0, 0, 1, 2, 2, 3, 4, 4]])
    torch.testing.assert_close(sum_repeats(places, 5, 4), x * torch.tensor([2, 1, 2, 1, 2])[:, None])
    for frames in (1, 2, 3, 4):
        assert torch.equal(repeat_evenly(x[:, :frames], 4), x[:, :frames])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("compressions", [1, 2, 3])
def test_untrained_cascade_averages_each_group(weighting, compressions):
    layer = InterFrameInterpolation(DIM, reduction=2, weighting=weighting)
    x = y = tokens(16, clips=1, dtype=torch.float32)
    stages = []
    for _ in range(compressions):
        y, weights = layer(y, GRID, return_weights=True)
        stages.append(weights)
    span = 2**compressions
    torch.testing.assert_close(y, x.unflatten(1, (-1, span)).mean(2))
    torch.testing.assert_close(cascade(stages), torch.full(x.shape[:3], 1 / span))


def test_interpolate_weighs_each_token_of_each_pair():
    pairs, weights = torch.randn(2, 3, 2, 7, DIM), torch.rand(2, 3, 2, 7)
    y = interpolate(pairs, weights)
    for b, p, n in itertools.product(range(2), range(3), range(7)):
        expected = weights[b, p, 0, n] * pairs[b, p, 0, n] + weights[b, p, 1, n] * pairs[b, p, 1, n]
        torch.testing.assert_close(y[b, p, n], expected)


def test_single_frame_and_odd_last_frame_pass_unchanged(layer_of):
    layer, x = layer_of(), tokens(3)
    y, weights = layer(x, GRID, return_weights=True)
    assert torch.equal(y[:, -1], x[:, -1])
    assert torch.equal(weights[:, -1], torch.ones(2, 7, dtype=x.dtype))
    image, weights = layer(x[:, :1], GRID, return_weights=True)
    assert torch.equal(image, x[:, :1])
    assert torch.equal(weights, torch.ones(2, 1, 7, dtype=x.dtype))


def test_context_stays_within_the_pair(layer_of):
    layer, x = layer_of(), tokens(4)
    other = x.clone()
    other[:, 2:] = tokens(2)
    assert torch.equal(layer(other, GRID)[:, 0], layer(x, GRID)[:, 0])
    assert not torch.allclose(layer(other, GRID)[:, 1], layer(x, GRID)[:, 1])


@pytest.mark.parametrize("context", [*((name,) for name in CONTEXTS), CONTEXTS], ids="-".join)
def test_every_context_tells_a_pair_from_its_reverse(layer_of, context):
    layer, x = layer_of(context=context), tokens()
    assert (layer(x, GRID) - layer(x.flip(1), GRID)).abs().max() > 0.01


class AbsoluteDifference(WeightPrediction):
    """The trap: a temporal context that does not know which frame came first."""

    def context_features(self, name, z, grid_size):
        if name != "temporal":
            return super().context_features(name, z, grid_size)
        return self.temporal_context((z[:, :, 1:] - z[:, :, :1]).abs())


def share_logit_weights_(predict):
    with torch.no_grad():
        predict.logit.weight[1] = predict.logit.weight[0]
        predict.logit.bias[1] = predict.logit.bias[0]


@pytest.mark.parametrize("weighting", ["softmax", "sigmoid", "linear"])
def test_symmetric_prediction_cannot_tell_a_pair_from_its_reverse(layer_of, randomize_, weighting):
    layer, x = layer_of(weighting=weighting), tokens()
    layer.predict = randomize_(AbsoluteDifference(DIM, reduction=2)).double()
    assert not torch.allclose(layer(x, GRID), layer(x.flip(1), GRID))
    share_logit_weights_(layer.predict)
    assert (layer(x, GRID, return_weights=True)[1] - 0.5).abs().max() > 0.05
    torch.testing.assert_close(layer(x, GRID), layer(x.flip(1), GRID))


def test_softmax_with_shared_logit_weights_is_blind_to_signed_differences_too(layer_of):
    layer, x = layer_of(), tokens()
    share_logit_weights_(layer.predict)
    torch.testing.assert_close(layer(x, GRID), layer(x.flip(1), GRID))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("frames", [1, 3])
def test_half_precision_tokens_keep_their_type_and_weights_are_float32(layer_of, dtype, weighting, frames):
    layer, x = layer_of(weighting=weighting).to(dtype), tokens(frames, dtype=dtype)
    y, weights = layer(x, GRID, return_weights=True)
    assert (y.dtype, weights.dtype) == (dtype, torch.float32)
    expected = layer.double()(x.double(), GRID)
    torch.testing.assert_close(y.double(), expected, rtol=0.05, atol=0.1)


def test_softmax_survives_logits_beyond_half_precision(layer_of):
    layer = layer_of().half()
    with torch.no_grad():
        layer.predict.logit.bias.copy_(torch.tensor([60000.0, -60000.0]))
    y, weights = layer(tokens(dtype=torch.float16), GRID, return_weights=True)
    assert y.isfinite().all()
    assert torch.equal(weights[:, 0], torch.ones(2, 7))


def test_autocast_keeps_logits_in_float32(layer_of):
    layer, x = layer_of().float(), tokens(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer.predict(x.unflatten(1, (1, 2)), GRID)
        y = layer(x, GRID)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())  # not merely cast after the fact
    torch.testing.assert_close(y, layer(x, GRID), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("weighting", ["softmax", "sigmoid", "linear"])
def test_gradients_reach_every_parameter(layer_of, weighting):
    layer = layer_of(weighting=weighting)
    layer(tokens(4), GRID).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_untrained_layer_can_start_to_learn():
    layer = InterFrameInterpolation(DIM, reduction=2)
    layer(tokens(dtype=torch.float32), GRID).square().sum().backward()
    assert layer.predict.logit.weight.grad.abs().max() > 0


def test_uniform_weighting_has_no_parameters():
    assert not list(InterFrameInterpolation(DIM, weighting="uniform", reduction=2).parameters())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"weighting": "max"}, r"weighting='max' is unknown; choose one of .*softmax"),
        ({"context": ()}, r"context=\(\) is not a non-empty subset of"),
        ({"context": ("point", "far")}, r"context=\('point', 'far'\) is not a non-empty subset of"),
        ({"context": "point"}, r"context='point' is not .*pass a tuple"),
        ({"reduction": 9}, r"reduction=9 leaves no channel of 8; pass an integer between 1 and 8"),
        ({"reduction": 0}, r"reduction=0 leaves no channel"),
        ({"reduction": 2.0}, r"reduction=2.0 leaves no channel .* pass an integer"),
    ],
)
def test_bad_argument_is_told_in_a_sentence(kwargs, message):
    with pytest.raises(ValueError, match=message):
        InterFrameInterpolation(DIM, **{"reduction": 2, **kwargs})
