import pytest
import torch
from timm.data import resolve_input_data_config
from torch.testing import assert_close

from inti_models import from_image_model, load
from inti_models.data import create_clip_transform
from inti_models.data.motion_digits import MotionDigits
from inti_models.models.interpolation import frame_order
from inti_models.visualize.explain import aggregate, clip_weights, explain_clip, frame_fractions, relevance, to_pixels
from support.models import SOME_FAMILIES, miniature, randomize_model_

VARIANTS = [
    {},
    {"compress_at": ()},
    {"weighting": "linear", "compress_at": (0, 2, 4)},
    {"class_token": False, "global_pool": "avg"},
    {"reg_tokens": 2},
    {"temporal": "aim"},
]


def first_interpolation(model):
    return model.interpolations[str(model.compress_at[0])][0]


@pytest.mark.parametrize("frames", [1, 5, 8])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_product_of_the_stages_is_the_cascade(tiny, variant, frames):
    model, clip = tiny(**variant), torch.randn(2, frames, 3, 32, 48)
    weights = clip_weights(model, clip)
    places = len(frame_order(frames, model.group_size))
    product = torch.ones(2, places, 4, 6)
    for k, stage in enumerate(weights.interpolation_weights):
        assert stage.shape == (2, -(-places // 2**k), 4, 6)
        product *= stage[:, torch.arange(places) // 2**k]
    assert_close(weights.frame_weights, product)
    assert weights.group_size == 2 ** len(model.compress_at)
    assert len(weights.class_token) == (len(weights.interpolation_weights) if model.has_class_token else 0)
    if weights.class_token:
        raw = model.interpolation_weights(clip)
        assert all(torch.equal(a, b[:, :, 0]) for a, b in zip(weights.class_token, raw, strict=True))


def test_shares_are_of_all_frames():
    weights = torch.rand(3, 5, 2, 4)
    shares = frame_fractions(weights)
    assert_close(shares.sum(1), torch.ones(3))
    assert_close(shares[1, 3], weights[1, 3].sum() / weights[1].sum())


def test_pixels_have_the_weight_of_their_patch():
    weights = torch.rand(1, 2, 2, 3)
    pixels = to_pixels(weights, (8, 12))
    assert_close(pixels, weights.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3))


def test_aggregated_frame_is_the_weighted_sum_of_its_group(tiny):
    model, clip = tiny(), torch.rand(2, 7, 3, 32, 48)
    weights = clip_weights(model, clip)
    assert weights.order == (0, 1, 2, 3, 3, 4, 5, 6)
    pictures = aggregate(clip[:, weights.order], weights.frame_weights, weights.group_size)
    assert pictures.shape == (2, 2, 3, 32, 48)
    x, y = 9, 41  # pixel of patch (1, 5)
    expected = sum(weights.frame_weights[1, i, 1, 5] * clip[1, t, :, x, y] for i, t in enumerate((3, 4, 5, 6), start=4))
    assert_close(pictures[1, 1, :, x, y], expected)
    same = clip[:, :1].expand(-1, 8, -1, -1, -1)
    assert_close(aggregate(same, clip_weights(model, same).frame_weights, 4), same[:, :2])


def test_relevance_of_a_frame_that_stands_twice_is_the_sum_of_both(tiny, clip):
    model, places = tiny(), [0, 0, 1, 2, 2, 3, 4, 4]
    parts = relevance(model, clip[:, places], class_index=1)
    expected = torch.stack([parts[:, [i for i, t in enumerate(places) if t == frame]].sum(1) for frame in range(5)], 1)
    assert_close(relevance(model, clip, class_index=1), expected)


def test_an_explanation_is_one_forward_and_one_backward_pass(tiny, clip):
    model, calls = tiny(), []
    model.patch_embed.register_forward_pre_hook(lambda *_: calls.append("forward"))
    explain_clip(model, clip)
    assert calls == ["forward"]
    clip_weights(model, clip)
    assert calls == ["forward", "forward"]


@pytest.mark.parametrize("frames", [3, 8])
def test_relevance_is_the_derivative_by_the_weight_times_the_weight(tiny, frames):
    model, clip = tiny().double(), torch.randn(2, frames, 3, 32, 48, dtype=torch.float64)
    parts = relevance(model, clip, class_index=3)
    layer, seen = first_interpolation(model), {}
    layer.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    weights = model.interpolation_weights(clip)[0]
    for b, t, h, w in ((0, 0, 0, 0), (1, 1, 2, 5), (1, frames - 1, 3, 1)):
        token, logits = 1 + h * 6 + w, []
        for step in (1e-4, -1e-4):

            def nudge(_, args, output, step=step, b=b, t=t, token=token):
                output = output.clone()
                output[b, t // 2, token] += step * args[0][b, t, token]  # the weight of frame t is larger by step
                return output

            hook = layer.register_forward_hook(nudge)
            with torch.no_grad():
                logits.append(model(clip)[b, 3])
            hook.remove()
        derivative = (logits[0] - logits[1]) / 2e-4
        assert_close(parts[b, t, h, w], derivative * weights[b, t, token], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_parts_add_up_to_gradient_times_input(tiny, variant):
    model, clip = tiny(**variant), torch.randn(2, 5, 3, 32, 48)
    assert relevance(model, clip).shape == (2, 5, 4, 6)
    found = explain_clip(model, clip)
    assert_close(found.logits, model(clip))
    assert_close(found.weights.frame_weights, clip_weights(model, clip).frame_weights)
    parts = found.relevance
    layer = first_interpolation(model) if model.compress_at else model.blocks[-2]
    seen = {}

    def keep(_, args, output):
        seen["y"] = output.detach().requires_grad_()
        return seen["y"]

    hook = layer.register_forward_hook(keep)
    logits = model(clip)
    hook.remove()
    logits.max(dim=1).values.sum().backward()
    total = (seen["y"].grad * seen["y"]).sum(-1).view(2, -1, seen["y"].shape[-2])[..., model.num_prefix_tokens :]
    if model.compress_at:
        parts = torch.stack([pair.sum(1) for pair in parts.split(2, dim=1)], dim=1)
    assert_close(parts.flatten(2), total, rtol=1e-4, atol=1e-5)


def test_relevance_is_of_each_clip_by_itself_and_leaves_the_model_alone(tiny):
    model, clip = tiny().train(), torch.randn(3, 8, 3, 32, 48)
    together = relevance(model, clip)
    alone = torch.cat([relevance(model, one.unsqueeze(0)) for one in clip])
    assert_close(together, alone, rtol=1e-4, atol=1e-6)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not first_interpolation(model)._forward_hooks
    assert not torch.allclose(relevance(model, clip, 0), relevance(model, clip, 1))
    assert relevance(model, clip[:, 0]).shape == (3, 1, 4, 6)


def test_what_cannot_be_explained_is_told_in_a_sentence(tiny, clip):
    with pytest.raises(ValueError, match="class_index=5 is not a class; pass one from 0 to 4"):
        relevance(tiny(), clip, 5)
    with pytest.raises(ValueError, match="has no classifier to explain"):
        relevance(tiny(num_classes=0), clip)


@pytest.mark.parametrize("family", [*SOME_FAMILIES, "pe_core_gigantic"])
def test_models_on_other_trunks_are_explained(family, clip):
    model = randomize_model_(from_image_model(miniature(family), (1, 3), reduction=4))
    explanation = explain_clip(model, clip[:, :4], class_index=2)
    assert_close(explanation.logits, model(clip[:, :4]).detach())
    assert_close(explanation.weights.frame_weights.sum(1), torch.ones(2, 4, 6))
    assert len(explanation.weights.class_token) == (0 if family in ("siglip", "pe_core_gigantic") else 2)
    assert explanation.relevance.shape == (2, 4, 4, 6) and explanation.relevance.std() > 0


@pytest.fixture(scope="module")
def occluded():
    """Clips in which only some frames show the digit, and the shipped model's weights on them."""
    model = load("inti_vit_t8_32_motiondigits")
    batch = MotionDigits("validation", size=32, occlusion=1.0, length=300).render(range(300))
    transform = create_clip_transform(**resolve_input_data_config(model))
    weights = clip_weights(model, torch.stack([transform(clip) for clip in batch.clips]))
    return batch, weights


def test_trained_model_keeps_the_frames_that_show_the_digit(occluded):
    batch, weights = occluded
    clear = batch.clear.float()
    share = (frame_fractions(weights.frame_weights) * clear).sum(dim=1).mean()
    assert share > 1.5 * clear.mean()  # 0.42 where 0.25 is even
    pairs = clear.unflatten(1, (4, 2))
    mixed = pairs.sum(dim=2) == 1  # one frame of the pair shows the digit
    kept = (weights.interpolation_weights[0].mean(dim=(2, 3)).unflatten(1, (4, 2)) * pairs).sum(dim=2)[mixed]
    assert mixed.sum() > 100 and kept.mean() > 0.75  # 0.83 where 0.5 is even
    token = (weights.class_token[0].unflatten(1, (4, 2)) * pairs).sum(dim=2)[mixed]
    assert token.mean() > 0.8


def test_trained_model_keeps_the_places_where_something_is(occluded):
    batch, weights = occluded
    clips = batch.clips.float()
    empty = torch.rand(len(clips), 4, generator=torch.Generator().manual_seed(0)) < 0.5
    shown = torch.stack((empty, ~empty), dim=2).flatten(1)  # one frame of each pair is wiped
    background = clips.median(dim=1, keepdim=True).values
    moving = (clips - background).abs().mean(dim=2)
    place = torch.nn.functional.avg_pool2d(moving, 8).flatten(2).argmax(dim=2)
    wiped = torch.where(shown[:, :, None, None, None], clips, background.expand_as(clips)).byte()
    model = load("inti_vit_t8_32_motiondigits")
    transform = create_clip_transform(**resolve_input_data_config(model))
    kept = clip_weights(model, torch.stack([transform(clip) for clip in wiped])).frame_weights
    at_place = kept.flatten(2).gather(2, place.unsqueeze(2)).squeeze(2)
    assert at_place[shown].mean() > 1.3 * at_place[~shown].mean()
