"""`InTIVisionTransformer` against timm, open_clip and a plain loop over frames."""

import copy
import gc
import itertools
import pickle

import open_clip
import pytest
import timm
import torch
from timm.models import group_parameters
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch.testing import assert_close

from inti_models import InTIVisionTransformer, from_image_model
from inti_models.models.interpolation import InterFrameInterpolation, frame_order, repeat_evenly
from inti_models.models.schedules import check_schedule, default_schedule, mean_frames
from inti_models.weights.checkpoint_filter import checkpoint_filter_fn


def frames_of(clip):
    """(B, T, C, H, W) -> (B T, C, H, W)."""
    return clip.flatten(0, 1)


def image_twin(model, **args):
    """timm's image model with the weights that ``model`` shares with it."""
    twin = VisionTransformer(**args)
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("interpolations.")})
    return twin.eval()


def tokens_after_blocks(model, clip):
    """A plain loop over blocks and frames: tokens (B, T', N, C) after each block, and after the last compression."""
    grid_size = (clip.shape[-2] // model.patch_embed.patch_size[0], clip.shape[-1] // model.patch_embed.patch_size[1])

    def per_frame(layer, x):
        return torch.stack([layer(x[:, t]) for t in range(x.shape[1])], dim=1)

    x = per_frame(lambda frame: model.norm_pre(model._pos_embed(model.patch_embed(frame))), clip)
    after_block, compressed = [], False
    for i in range(len(model.blocks) + 1):
        for interpolation in model.interpolations[str(i)] if i in model.compress_at else ():
            x = interpolation(x if compressed else x[:, frame_order(clip.shape[1], model.group_size)], grid_size)
            compressed = True
        if i < len(model.blocks):
            x = per_frame(model.blocks[i], x)
            after_block.append(x)
    return after_block, x


# Equivalence with timm and open_clip at full size


@pytest.fixture(
    scope="module",
    params=[
        ("inti_vit_b16_k400", "vit_base_patch16_clip_quickgelu_224", "ViT-B-16-quickgelu"),
        pytest.param(
            ("inti_vit_l14_k400", "vit_large_patch14_clip_quickgelu_224", "ViT-L-14-quickgelu"), marks=pytest.mark.slow
        ),
    ],
    ids=["b16", "l14"],
)
def full_size_clip(request, randomize_):
    """An uncompressed CLIP model of the zoo, its features of a clip, and the names of its twins."""
    name, image_name, open_clip_name = request.param
    torch.manual_seed(0)
    model = randomize_(timm.create_model(name, compress_at=(), device="meta").to_empty(device="cpu"))
    clip = torch.randn(1, 2, 3, 224, 224)
    with torch.inference_mode():
        features = model.forward_features(clip)
    yield model, clip, features, image_name, open_clip_name
    del model, clip, features
    gc.collect()


@torch.inference_mode()
def test_uncompressed_clip_model_equals_image_vit_per_frame(full_size_clip):
    model, clip, features, image_name, _ = full_size_clip
    image_model = timm.create_model(image_name, num_classes=400, device="meta").eval()
    image_model.load_state_dict(model.state_dict(), assign=True)
    image_features = image_model.forward_features(frames_of(clip))
    pooled = image_model.forward_head(image_features, pre_logits=True).unflatten(0, clip.shape[:2]).mean(1)
    assert_close(features, image_features.unflatten(0, clip.shape[:2]), rtol=0, atol=1e-5)
    assert_close(model.forward_head(features), image_model.head(pooled), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_visual_tower_equals_open_clip(full_size_clip):
    model, clip, features, _, name = full_size_clip
    config = open_clip.get_model_config(name)
    short_text = {**config["text_cfg"], "layers": 1}  # the text tower is not compared
    with torch.device("meta"):
        visual = open_clip.create_model(name, text_cfg=short_text, device="meta").visual
    visual.to_empty(device="cpu").eval()
    for parameter in visual.parameters():
        parameter.normal_(std=0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
    own = model.state_dict()
    mapped = checkpoint_filter_fn({f"visual.{key}": value for key, value in visual.state_dict().items()}, model)
    assert torch.equal(mapped["head.weight"], own["head.weight"])  # not the projection to text space

    image = clip[:, 0]
    model.load_state_dict(mapped, assign=True)
    pooled = model.forward_head(model.forward_features(image), pre_logits=True)
    model.load_state_dict(own, assign=True)
    expected = visual(image)
    assert_close(pooled @ visual.proj, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


@torch.inference_mode()
def test_compression_changes_the_output_of_the_b16(randomize_):
    model = randomize_(timm.create_model("inti_vit_b16_k400", device="meta").to_empty(device="cpu"))
    naive = timm.create_model("inti_vit_b16_k400", compress_at=(), device="meta").eval()
    naive.load_state_dict(
        {key: value for key, value in model.state_dict().items() if key in naive.state_dict()}, assign=True
    )
    clip = torch.randn(1, 4, 3, 224, 224)
    logits = model(clip)
    assert logits.shape == (1, 400)
    assert (naive(clip) - logits).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "args"),
    [
        pytest.param("vit_base_patch16_siglip_224", {}, marks=pytest.mark.slow),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
        ("vit_tiny_r_s16_p8_224", {}),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "num_classes": 7, "img_size": 64}),
    ],
)
@torch.inference_mode()
def test_uncompressed_wrapped_model_equals_its_image_model_per_frame(randomize_, name, args):
    image_model = randomize_(timm.create_model(name, **args))
    model = from_image_model(copy.deepcopy(image_model), compress_at=())
    clip = torch.randn(1, 3, *image_model.pretrained_cfg["input_size"][:1], *image_model.patch_embed.img_size)
    pooled = image_model.forward_head(image_model.forward_features(frames_of(clip)), pre_logits=True)
    expected = image_model.head(pooled.unflatten(0, (1, 3)).mean(1))
    assert_close(model(clip), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1

    compressed = randomize_(from_image_model(copy.deepcopy(image_model), compress_at=(2, 4)))
    compressed.load_state_dict(model.state_dict(), strict=False)
    assert (compressed(clip) - expected).abs().max() > 1e-3


# Equivalence at small size


def test_equals_a_loop_over_blocks_and_frames(tiny, clip):
    model = tiny(compress_at=(0, 2, 2, 4))
    for frames in range(1, 6):
        _, last = tokens_after_blocks(model, clip[:, :frames])
        assert_close(model.forward_features(clip[:, :frames]), model.norm(last))


@pytest.mark.parametrize("pool", ["token", "avg", "avgmax", "map"])
def test_logits_are_those_of_the_mean_of_frame_features(tiny, clip, pool):
    model = tiny(global_pool=pool, reg_tokens=2, pre_norm=True)
    _, last = tokens_after_blocks(model, clip)
    frames = model.norm(last)
    assert frames.shape[1] == 2
    pooled = [VisionTransformer.forward_head(model, frames[:, t], pre_logits=True) for t in range(2)]
    assert_close(model(clip), model.head((pooled[0] + pooled[1]) / 2))


@pytest.mark.parametrize("frames", range(1, 10))
@pytest.mark.parametrize("schedule", [(), (1, 3), (0, 2, 4)], ids=str)
def test_clip_that_is_no_multiple_is_that_with_frames_repeated_evenly(tiny, frames, schedule):
    model, clip = tiny(compress_at=schedule), torch.randn(2, frames, 3, 32, 48)
    assert_close(model(clip), model(repeat_evenly(clip, 2 ** len(schedule))))
    assert model.forward_features(clip).shape[1] == -(-frames // 2 ** len(schedule))


@pytest.mark.parametrize("schedule", [(0,), (2,), (1, 3), (2, 2), (4,), (0, 0, 4, 4)])
def test_every_compression_changes_the_output(tiny, clip, schedule):
    model, naive = tiny(compress_at=schedule), tiny(compress_at=())
    naive.load_state_dict(model.state_dict(), strict=False)
    assert (model(clip) - naive(clip)).abs().max() > 1e-3


@pytest.mark.parametrize("frames", [1, 2, 4, 8])
@pytest.mark.parametrize("weighting", ["softmax", "sigmoid", "linear", "uniform"])
def test_model_without_blocks_averages_the_frames_before_training(tiny, frames, weighting):
    model = tiny(depth=1, compress_at=(1, 1), weighting=weighting, global_pool="token", final_norm=False)
    for interpolation in model.interpolations["1"]:
        if interpolation.predict is not None:
            interpolation.predict.init_weights()
    naive = tiny(depth=1, compress_at=(), final_norm=False)
    naive.load_state_dict(model.state_dict(), strict=False)
    clip = torch.randn(2, frames, 3, 32, 48)
    assert_close(model(clip), naive(clip), rtol=1e-4, atol=1e-4)


def test_one_frame_clip_is_an_image_for_every_call(tiny, tiny_args):
    model = tiny(reg_tokens=2)
    twin = image_twin(model, reg_tokens=2, **tiny_args)
    image = torch.randn(2, 3, 32, 48)
    clip = image.unsqueeze(1)
    assert_close(model(image), twin(image))
    assert_close(model(clip), twin(image))
    features = twin.forward_features(image)
    assert_close(model.forward_features(image), features)
    assert_close(model.forward_features(clip), features.unsqueeze(1))
    for pre_logits in (False, True):
        expected = twin.forward_head(features, pre_logits=pre_logits)
        assert_close(model.forward_head(features, pre_logits=pre_logits), expected)
        assert_close(model.forward_head(features.unsqueeze(1), pre_logits=pre_logits), expected)
    assert_close(model.get_intermediate_layers(image, 2), twin.get_intermediate_layers(image, 2))
    mask = torch.ones(27, 27, dtype=torch.bool).tril()
    assert_close(model(image, attn_mask=mask), twin(image, attn_mask=mask))
    assert_close(model(image, is_causal=True), twin(image, is_causal=True))
    assert torch.equal(model.frame_weights(image), torch.ones(2, 1, 4, 6))


def test_attention_masks_apply_to_every_frame(tiny, tiny_args, clip):
    model = tiny(compress_at=())
    twin = image_twin(model, **tiny_args)
    mask = torch.ones(25, 25, dtype=torch.bool).tril()
    for kwargs in ({"attn_mask": mask}, {"is_causal": True}):
        expected = twin.forward_features(frames_of(clip), **kwargs).unflatten(0, (2, 5))
        assert_close(model.forward_features(clip, **kwargs), expected)
        assert not torch.allclose(model(clip, **kwargs), model(clip))


def test_clips_of_a_batch_do_not_see_each_other(tiny, clip):
    model = tiny()
    assert_close(model(clip.flip(0)), model(clip).flip(0))
    assert_close(model(clip[:1]), model(clip)[:1])


def test_order_of_frames_matters_unless_the_prediction_is_symmetric(tiny, clip):
    model, clip = tiny(), clip[:, :4]
    assert (model(clip) - model(clip.flip(1))).abs().max() > 1e-3
    for module in model.modules():
        if isinstance(module, InterFrameInterpolation):
            with torch.no_grad():
                module.predict.logit.weight[1] = module.predict.logit.weight[0]
                module.predict.logit.bias[1] = module.predict.logit.bias[0]
    assert_close(model(clip), model(clip.flip(1)))
    assert (model(clip) - model(clip[:, [0, 2, 1, 3]])).abs().max() > 1e-3


# Frame weights


def test_frame_weights_are_products_along_the_way(tiny, clip):
    model, clip = tiny(reg_tokens=2), clip[:, [0, 1, 2, 3, 4, 0, 2, 1]]
    first, second = model.interpolation_weights(clip)
    assert (first.shape, second.shape) == ((2, 8, 27), (2, 4, 27))
    weights = model.frame_weights(clip)
    assert weights.shape == (2, 8, 4, 6)
    for b, t, row, column in itertools.product(range(2), range(8), range(4), range(6)):
        n = 3 + row * 6 + column
        assert_close(weights[b, t, row, column], first[b, t, n] * second[b, t // 2, n])
    assert (weights - 0.25).abs().max() > 0.05


@pytest.mark.parametrize("weighting", ["softmax", "uniform"])
def test_frame_weights_sum_to_one_over_frames_that_became_one(tiny, clip, weighting):
    model = tiny(weighting=weighting)
    weights = model.frame_weights(clip[:, :4])
    assert_close(weights.sum(1), torch.ones(2, 4, 6))
    places = model.frame_weights(repeat_evenly(clip, 4))  # of frames 0, 0, 1, 2 and 2, 3, 4, 4
    assert_close(places.unflatten(1, (2, 4)).sum(2), torch.ones(2, 2, 4, 6))
    twice = (places[:, [0, 2, 3, 5, 6]], places[:, [1, 4, 7]])
    assert_close(model.frame_weights(clip), twice[0].index_add(1, torch.tensor([0, 2, 4]), twice[1]))


def test_frame_weights_of_uncompressed_model_are_one(tiny, clip):
    assert torch.equal(tiny(compress_at=()).frame_weights(clip), torch.ones(2, 5, 4, 6))


def test_frame_weights_explain_a_model_that_only_interpolates(tiny, clip):
    """Compression before the first block: its input is the weighted sum of the frames' embeddings."""
    model = tiny(compress_at=(0, 0), class_token=False, global_pool="avg")
    embeddings = model._pos_embed(model.patch_embed(frames_of(clip[:, :4]))).unflatten(0, (2, 4))
    weights = model.frame_weights(clip[:, :4]).flatten(2).unsqueeze(-1)
    expected = model.norm(model.blocks((embeddings * weights).sum(1)))
    assert_close(model.forward_features(clip[:, :4]).squeeze(1), expected)


# timm's promises


@pytest.mark.parametrize("frames", range(1, 10))
@pytest.mark.parametrize("pool", ["token", "map", ""])
def test_head_of_features_is_the_model_for_every_number_of_frames(tiny, frames, pool):
    model, clip = tiny(global_pool=pool), torch.randn(2, frames, 3, 32, 48)
    features = model.forward_features(clip)
    assert features.shape == (2, -(-frames // 4), 25, 32)
    assert torch.equal(model.forward_head(features), model(clip))
    assert torch.equal(model.head(model.forward_head(features, pre_logits=True)), model(clip))


INTERMEDIATE_OPTIONS = [
    dict(
        zip(
            ("return_prefix_tokens", "norm", "stop_early", "output_fmt", "intermediates_only", "output_dict"),
            values,
            strict=True,
        )
    )
    for values in itertools.product(
        (False, True), (False, True), (False, True), ("NCHW", "NLC"), (False, True), (False, True)
    )
]


@pytest.mark.parametrize("tokens", [{"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}], ids=str)
@pytest.mark.parametrize("indices", [None, 2, [0, 2], [-2], (3, 1), [1, 1]], ids=str)
def test_intermediates_of_an_image_are_those_of_timm_in_all_options(tiny, tiny_args, tokens, indices):
    model = tiny(**tokens)
    twin = image_twin(model, **tokens, **tiny_args)
    image = torch.randn(2, 3, 32, 48)
    for options in INTERMEDIATE_OPTIONS:
        actual = model.forward_intermediates(image, indices, **options)
        expected = twin.forward_intermediates(image, indices, **options)
        assert_close(actual, expected, msg=lambda text, options=options: f"{options}: {text}")


@pytest.mark.parametrize("indices", [None, 2, [0, 3], [-4, 1]], ids=str)
def test_intermediates_of_a_clip_are_its_tokens_after_each_block(tiny, clip, indices):
    model = tiny(reg_tokens=2)
    after_block, last = tokens_after_blocks(model, clip)
    take = {None: [0, 1, 2, 3], 2: [2, 3]}.get(indices) if not isinstance(indices, list) else None
    take = take or sorted(i % 4 for i in indices)
    for options in INTERMEDIATE_OPTIONS:
        expected_prefix, expected = [], []
        for i in take:
            y = model.norm(after_block[i]) if options["norm"] else after_block[i]
            expected_prefix.append(y[:, :, :3])
            spatial = y[:, :, 3:]
            if options["output_fmt"] == "NCHW":
                spatial = spatial.reshape(2, -1, 4, 6, 32).permute(0, 1, 4, 2, 3)
            expected.append(spatial)
        assert [y.shape[1] for y in expected] == [{0: 5, 1: 4, 2: 4, 3: 2}[i] for i in take]
        actual = model.forward_intermediates(clip, indices, **options)
        if options["output_dict"]:
            assert_close(actual["image_intermediates"], expected)
            assert ("image_features" in actual) != options["intermediates_only"]
            assert ("image_intermediates_prefix" in actual) == options["return_prefix_tokens"]
            if options["return_prefix_tokens"]:
                assert_close(actual["image_intermediates_prefix"], expected_prefix)
            continue
        if not options["intermediates_only"]:
            final, actual = actual
            stopped = options["stop_early"] and take[-1] < 3
            assert_close(final, model.norm(after_block[take[-1]] if stopped else last))
        if options["return_prefix_tokens"]:
            expected = list(zip(expected, expected_prefix, strict=True))
        assert_close(actual, expected)


def test_stop_early_does_not_run_the_blocks_behind(tiny, clip):
    model = tiny(compress_at=(1, 4))
    calls = []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, i=i: calls.append(i))
    expected = model.forward_intermediates(clip, [1], intermediates_only=True)
    assert calls == [0, 1, 2, 3]
    calls.clear()
    assert_close(model.forward_intermediates(clip, [1], stop_early=True, intermediates_only=True), expected)
    assert calls == [0, 1]


@pytest.mark.parametrize("feature_cls", ["getter", "fx", "hook"])
def test_features_only_gives_features_after_chosen_blocks(feature_cls):
    args = {"depth": 4, "compress_at": (1, 3), "embed_dim": 32, "num_heads": 2, "img_size": (32, 48)}
    name = "inti_vit_t8_32_motiondigits"
    torch.manual_seed(3)
    model = timm.create_model(name, **args).eval()
    backbone = timm.create_model(name, features_only=True, feature_cls=feature_cls, out_indices=(0, -1), **args).eval()
    assert backbone.feature_info.channels() == [32, 32]
    assert backbone.feature_info.reduction() == [8, 8]
    state_dict = {"getter": "model.", "hook": "body.", "fx": "graph_module."}[feature_cls]
    missing, unexpected = backbone.load_state_dict(
        {state_dict + key: value for key, value in model.state_dict().items()}, strict=False
    )
    assert not missing
    assert not [key for key in unexpected if key.split(".")[1] not in ("norm", "head", "fc_norm", "interpolations")]
    clip = torch.randn(2, 4, 3, 32, 48)
    expected = model.forward_intermediates(clip, [0, 3], intermediates_only=True)
    if feature_cls != "getter":  # raw outputs of the blocks: (B T', N, C)
        expected = [y.flatten(0, 1) for y in (tokens_after_blocks(model, clip)[0][i] for i in (0, 3))]
    assert_close(backbone(clip), expected)


@pytest.mark.parametrize("indices", [[1], [0, 2], 1])
def test_pruning_keeps_the_features_and_drops_what_they_do_not_need(tiny, clip, indices):
    model = tiny(compress_at=(1, 2, 3, 4))
    expected = model.forward_intermediates(clip, indices, norm=True, intermediates_only=True)
    pruned = copy.deepcopy(model)
    kept = pruned.prune_intermediate_layers(indices, prune_norm=False, prune_head=True)
    assert_close(pruned.forward_intermediates(clip, kept, norm=True, intermediates_only=True), expected)
    assert len(pruned.blocks) == max(kept) + 1
    assert set(pruned.interpolations) == {str(at) for at in range(1, max(kept) + 1)}
    assert pruned.compress_at == tuple(range(1, max(kept) + 1))
    assert pruned(clip).ndim == 4  # neither pooled nor classified
    assert model.compress_at == (1, 2, 3, 4)
    assert isinstance(copy.deepcopy(model).prune_intermediate_layers(1, prune_norm=True), list)


def test_classifier_can_be_replaced(tiny, clip):
    model = tiny()
    before = model(clip)
    assert model.get_classifier() is model.head
    assert model.get_classifier().out_features == 5
    model.reset_classifier(9)
    assert (model(clip).shape, model.num_classes) == ((2, 9), 9)
    model.reset_classifier(0)
    features = model(clip)
    assert_close(features, model.forward_head(model.forward_features(clip), pre_logits=True))
    assert features.shape == (2, 32)
    assert before.shape == (2, 5)


@pytest.mark.parametrize("classes", [120, 3, 0])
def test_a_new_classifier_has_no_label_names(classes):
    name = "inti_vit_t8_32_motiondigits"
    model, other = timm.create_model(name), timm.create_model(name)
    assert len(model.pretrained_cfg["label_names"]) == 120
    model.reset_classifier(classes)
    assert not model.pretrained_cfg["label_names"] and model.default_cfg is model.pretrained_cfg
    assert len(other.pretrained_cfg["label_names"]) == 120


@pytest.mark.parametrize("pool", ["avg", "avgmax", "max", "token", ""])
def test_classifier_can_be_replaced_with_another_pooling(tiny, clip, pool):
    model = tiny()
    frames = model.forward_features(clip[:, :4])[:, 0]
    model.reset_classifier(0, pool)
    actual = model(clip[:, :4])
    if pool == "":
        assert_close(actual[:, 0], frames)
    else:
        spatial = frames[:, 1:]
        expected = {
            "avg": spatial.mean(1),
            "max": spatial.amax(1),
            "avgmax": (spatial.mean(1) + spatial.amax(1)) / 2,
            "token": frames[:, 0],
        }[pool]
        assert_close(actual, expected)


def test_no_pooling_leaves_tokens_and_frames(tiny, clip):
    model = tiny(global_pool="")
    assert model(clip).shape == (2, 2, 25, 5)
    assert model(clip[:, 0]).shape == (2, 25, 5)
    assert_close(model(clip)[1, 0, 3], model.head(model.forward_features(clip)[1, 0, 3]))


def test_model_without_class_token_works(tiny, clip):
    model = tiny(class_token=False, global_pool="avg", pos_embed="none")
    assert model(clip).shape == (2, 5)
    assert model.forward_features(clip).shape == (2, 2, 24, 32)


def test_no_weight_decay_names_embeddings_only(tiny):
    model = tiny(reg_tokens=1)
    names = dict(model.named_parameters())
    assert {name for name in model.no_weight_decay() if name in names} == {"pos_embed", "cls_token", "reg_token"}


@pytest.mark.parametrize("coarse", [False, True])
def test_interpolations_are_grouped_with_the_block_that_follows(tiny, coarse):
    model = tiny(compress_at=(0, 2, 2, 4))
    group = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert set(group) == {name for name, _ in model.named_parameters()}
    for name, layer in group.items():
        if name.startswith("interpolations."):
            at = int(name.split(".")[1])
            follower = f"blocks.{at}.norm1.weight" if at < 4 else "norm.weight"
            assert layer == group[follower], name
    assert group["cls_token"] < group["blocks.0.norm1.weight"] < group["blocks.3.norm1.weight"] < group["head.weight"]


def test_layer_decay_covers_every_parameter_once(tiny):
    model = tiny()
    groups = param_groups_layer_decay(model, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5)
    seen = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(seen) == sorted(map(id, model.parameters()))
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scale[id(model.interpolations["1"][0].predict.logit.weight)] == scale[id(model.blocks[1].mlp.fc1.weight)]
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay[id(model.pos_embed)] == 0
    assert decay[id(model.interpolations["1"][0].predict.norm.weight)] == 0
    assert decay[id(model.interpolations["1"][0].predict.logit.weight)] > 0
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_gradients_reach_every_parameter(tiny, clip):
    model = tiny(compress_at=(0, 2, 4), reg_tokens=1, global_pool="avg").train()
    model(clip).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_gradient_checkpointing_gives_the_same_gradients(tiny, clip):
    model = tiny().train()
    calls = []
    model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        calls.clear()
        model.zero_grad()
        model(clip).square().sum().backward()
        assert len(calls) == 1 + enable  # run again in the backward pass
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert_close(*gradients)


@pytest.mark.parametrize(("stages", "again"), [([0], [0]), ([1], [1, 2]), ([0, 2], [0, 3]), (None, [0, 1, 2, 3])])
def test_stages_chosen_for_gradient_checkpointing_run_again(tiny, clip, stages, again):
    model = tiny(compress_at=(1, 3)).train()
    calls = []
    for i, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
    model(clip).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    calls.clear()
    model.zero_grad()
    model.set_grad_checkpointing(stages=stages)
    model(clip).square().sum().backward()
    assert sorted(calls) == sorted([0, 1, 2, 3, *again])
    assert_close([parameter.grad for parameter in model.parameters()], expected)


def test_stage_that_the_model_has_not_is_refused(tiny):
    with pytest.raises(ValueError, match="stage 3 is not in the model; choose from 0 to 2"):
        tiny(compress_at=(1, 3)).set_grad_checkpointing(stages=[0, 3])


def test_set_input_size_resamples_the_position_embedding(tiny, tiny_args, clip):
    model = tiny()
    twin = image_twin(model, **tiny_args)
    for resized in (model, twin):
        resized.set_input_size(img_size=(48, 48))
    image = torch.randn(2, 3, 48, 48)
    assert_close(model(image), twin(image))
    assert model(torch.randn(1, 5, 3, 48, 48)).shape == (1, 5)
    with pytest.raises(ValueError, match="Frames are 32x48, the model expects 48x48"):
        model(clip)


@pytest.mark.parametrize("size", [(32, 48), (64, 24)])
def test_dynamic_size_resamples_the_position_embedding(tiny, tiny_args, size):
    model = tiny(dynamic_img_size=True)
    twin = image_twin(model, dynamic_img_size=True, **tiny_args)
    image = torch.randn(2, 3, *size)
    assert_close(model(image), twin(image))
    clip = torch.randn(2, 3, 3, *size)
    assert_close(model.forward_features(clip), model.norm(tokens_after_blocks(model, clip)[1]))
    grid_size = (size[0] // 8, size[1] // 8)
    assert model.forward_intermediates(clip, 1, intermediates_only=True)[0].shape == (2, 1, 32, *grid_size)
    assert model.frame_weights(clip).shape == (2, 3, *grid_size)


def test_dynamic_padding_takes_any_size(tiny, tiny_args):
    model = tiny(dynamic_img_size=True, dynamic_img_pad=True)
    twin = image_twin(model, dynamic_img_size=True, dynamic_img_pad=True, **tiny_args)
    image = torch.randn(2, 3, 30, 41)
    assert_close(model(image), twin(image))
    clip = torch.randn(2, 3, 3, 30, 41)
    padded = torch.nn.functional.pad(clip, (0, 7, 0, 2))
    assert_close(model(clip), model(padded))
    assert model.frame_weights(clip).shape == (2, 3, 4, 6)
    assert model.forward_intermediates(clip, 1, intermediates_only=True)[0].shape == (2, 1, 32, 4, 6)


def test_one_channel_works(tiny):
    model = tiny(in_chans=1)
    assert model(torch.randn(2, 3, 1, 32, 48)).shape == (2, 5)
    with pytest.raises(ValueError, match="has 3 channels where 1 are expected"):
        model(torch.randn(2, 3, 3, 32, 48))


def test_dropout_applies_in_training_only(tiny, clip):
    for kwargs in ({"drop_rate": 0.5}, {"drop_path_rate": 0.5}, {"pos_drop_rate": 0.5}, {"attn_drop_rate": 0.5}):
        model = tiny(**kwargs)
        assert torch.equal(model(clip), model(clip))
        model.train()
        assert not torch.equal(model(clip), model(clip))


def test_initialisers_of_timm_keep_the_neutral_start(tiny):
    model = tiny()
    for mode in ("", "jax", "moco"):
        model.init_weights(mode)
        for interpolation in (model.interpolations["1"][0], model.interpolations["3"][0]):
            assert not interpolation.predict.logit.weight.any()
            assert not interpolation.predict.logit.bias.any()
            assert interpolation.predict.reduce.weight.any()


# Compilers, precisions, copies


@torch.no_grad()
@pytest.mark.parametrize(
    ("frames", "backend"),
    [
        pytest.param(1, "aot_eager", marks=pytest.mark.slow),
        (4, "aot_eager"),
        pytest.param(5, "inductor", marks=pytest.mark.slow),
    ],
)
def test_compiles_as_one_graph(tiny, clip, frames, backend):
    model = tiny(depth=2, compress_at=(1, 1))
    expected = model(clip[:, :frames])
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    assert_close(compiled(clip[:, :frames]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # compiles
def test_compiled_training_step_has_the_same_gradients(tiny, clip):
    model = tiny().train()
    torch.compiler.reset()
    gradients = []
    for forward in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        forward(clip).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_fx_extracts_features_of_clips_and_images(tiny, clip):
    model = tiny()
    extractor = timm.models.create_feature_extractor(model, ["blocks.1", "interpolations.3.0", "head"])
    for x in (clip, clip[:, 0]):
        features = extractor(x)
        after_block, _ = tokens_after_blocks(model, x if x.ndim == 5 else x.unsqueeze(1))
        assert_close(features["blocks.1"], after_block[1].flatten(0, 1))
        assert_close(features["head"], model(x))
    assert extractor(clip)["interpolations.3.0"].shape == (2, 2, 25, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_runs_in_half_precision(tiny, clip, dtype):
    model = tiny()
    expected = model(clip)
    weights = model.frame_weights(clip)
    half = copy.deepcopy(model).to(dtype)
    assert half(clip.to(dtype)).dtype == dtype
    assert_close(half(clip.to(dtype)).float(), expected, rtol=0.1, atol=0.3)
    assert half.frame_weights(clip.to(dtype)).dtype == torch.float32
    assert_close(half.frame_weights(clip.to(dtype)), weights, rtol=0.1, atol=0.1)


def test_runs_under_autocast(tiny, clip):
    model = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        logits, weights = model(clip), model.frame_weights(clip)
    assert logits.dtype == torch.bfloat16
    assert weights.dtype == torch.float32
    assert_close(logits.float(), model(clip), rtol=0.1, atol=0.3)
    assert_close(weights.sum(1), torch.full((2, 4, 6), 2.0))


def test_survives_copying_and_pickling(tiny, clip):
    model = tiny()
    expected = model(clip)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(clip), expected)
        next(other.parameters()).data.zero_()
        assert torch.equal(model(clip), expected)


# Schedules


@pytest.mark.parametrize(("depth", "schedule"), [(12, (4, 10, 12)), (24, (8, 20, 24)), (6, (2, 5, 6))])
def test_default_schedule_takes_three_eighths_off_the_blocks(depth, schedule):
    assert default_schedule(depth) == schedule
    assert mean_frames(schedule, depth, frames=8) / 8 == 0.625


@pytest.mark.parametrize(("num_frames", "schedule"), [(8, (2, 5, 6)), (16, (2, 5, 6)), (4, (2, 5)), (12, (2, 5))])
def test_default_schedule_is_used_where_none_is_given(tiny, num_frames, schedule):
    model = tiny(depth=6, compress_at=None, num_frames=num_frames)
    assert model.compress_at == schedule
    assert set(model.interpolations) == set(map(str, schedule))


def test_only_a_third_compression_tells_which_half_of_eight_frames_came_first(tiny):
    clip = torch.randn(2, 8, 3, 32, 48)
    swapped = torch.cat([clip[:, 4:], clip[:, :4]], dim=1)
    twice, thrice = (tiny(depth=6, compress_at=at).eval() for at in ((2, 5), (2, 5, 6)))
    torch.testing.assert_close(twice(swapped), twice(clip))
    assert not torch.allclose(thrice(swapped), thrice(clip), atol=1e-3)


def test_state_dict_keys_say_where_it_compresses(tiny):
    keys = {key.rsplit(".predict.")[0] for key in tiny(compress_at=[0, 2, 2]).state_dict() if "interpol" in key}
    assert keys == {"interpolations.0.0", "interpolations.2.0", "interpolations.2.1"}


@pytest.mark.parametrize("schedule", [(3, 1), (5,), (-1,), (1.0,), ("1",), "1", 1, (True,), (1, None)])
def test_bad_schedule_is_told_in_a_sentence(tiny_args, schedule):
    with pytest.raises(ValueError, match=r"compress_at=.* is not a schedule for 4 blocks; pass .* 0 to 4, such as"):
        InTIVisionTransformer(**tiny_args, compress_at=schedule)


@pytest.mark.parametrize("schedule", [(), [], [0, 0, 4], range(3)])
def test_any_sequence_of_integers_is_a_schedule(schedule):
    assert check_schedule(schedule, 4) == tuple(schedule)


# Bad input


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 5, 32, 48), r"has 5 channels where 3 are expected .* looks like \(B, C, T, H, W\): pass x.transpose"),
        ((3, 5, 32, 48), r"has 5 channels .* looks like \(C, T, H, W\): pass x.transpose\(0, 1\).unsqueeze\(0\)"),
        ((2, 5, 32, 48, 3), r"has 32 channels where 3 are expected .* check the layout"),
        ((2, 5, 4, 32, 48), r"has 4 channels where 3 are expected"),
        ((3, 32, 48), r"of shape \(3, 32, 48\) is neither a clip \(B, T, C, H, W\) nor an image"),
        ((1, 2, 5, 3, 32, 48), r"is neither a clip"),
        ((2, 0, 3, 32, 48), r"has no frames; pass at least one"),
        ((2, 5, 3, 48, 32), r"Frames are 48x32, the model expects 32x48; resize them, .* dynamic_img_size=True"),
        ((2, 3, 32, 40), r"Frames are 32x40, the model expects 32x48"),
    ],
)
@pytest.mark.parametrize("method", ["forward", "forward_features", "forward_intermediates", "frame_weights"])
def test_bad_shape_is_told_in_a_sentence(tiny, shape, message, method):
    with pytest.raises(ValueError, match=message):
        getattr(tiny(), method)(torch.zeros(shape))


def test_size_that_is_no_multiple_of_the_patch_is_told_in_a_sentence(tiny):
    with pytest.raises(ValueError, match=r"Frames are 30x48, not a multiple of the patch size 8x8; .*dynamic_img_pad"):
        tiny(dynamic_img_size=True)(torch.zeros(1, 2, 3, 30, 48))


def test_integers_are_told_in_a_sentence(tiny):
    with pytest.raises(ValueError, match=r"Input is torch.uint8, not floating point; .*create_clip_transform"):
        tiny()(torch.zeros(1, 2, 3, 32, 48, dtype=torch.uint8))


def test_advised_transpose_helps(tiny, clip):
    model = tiny()
    assert_close(model(clip.transpose(1, 2).transpose(1, 2)), model(clip))
    cthw = clip[0].transpose(0, 1)
    assert_close(model(cthw.transpose(0, 1).unsqueeze(0)), model(clip[:1]))


def test_attention_mask_for_each_frame_is_told_in_a_sentence(tiny, clip):
    with pytest.raises(ValueError, match=r"attn_mask has shape \(2, 1, 25, 25\); pass one mask \(N, N\)"):
        tiny()(clip, attn_mask=torch.zeros(2, 1, 25, 25))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"patch_drop_rate": 0.25}, r"patch_drop_rate=0.25 drops different positions in each frame.*leave it at 0"),
        ({"sampling": "random"}, r"sampling='random' is unknown; choose one of"),
        ({"num_frames": 0}, r"num_frames=0 is not a number of frames"),
        ({"num_frames": 2.5}, r"num_frames=2.5 is not a number of frames"),
        ({"context": ("near",)}, r"context=\('near',\) is not a non-empty subset"),
        ({"weighting": "max"}, r"weighting='max' is unknown"),
        ({"reduction": 64}, r"reduction=64 leaves no channel of 32"),
    ],
)
def test_bad_argument_is_told_in_a_sentence(tiny_args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        InTIVisionTransformer(**tiny_args, **kwargs)


def test_unknown_output_format_is_told_in_a_sentence(tiny, clip):
    with pytest.raises(ValueError, match="output_fmt='NHWC' is unknown; choose 'NCHW' or 'NLC'"):
        tiny().forward_intermediates(clip, output_fmt="NHWC")


# Pixels


@torch.no_grad()
@pytest.mark.parametrize(
    "model_args", [{}, {"pre_norm": True}, {"temporal": "aim"}, {"dynamic_img_size": True, "in_chans": 1}], ids=str
)
def test_fused_normalization_takes_pixels_and_gives_the_same_logits(tiny, model_args):
    model = tiny(**model_args)
    channels = model.in_chans
    mean, std = torch.rand(channels), torch.rand(channels) + 0.1
    model.pretrained_cfg = {"mean": mean.tolist(), "std": std.tolist()}
    pixels = torch.randint(256, (2, 5, channels, 32, 48), dtype=torch.uint8)
    expected = model((pixels / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
    fused = copy.deepcopy(model).fuse_normalization()
    assert_close(fused(pixels), expected, atol=1e-3, rtol=0)
    assert_close(fused(pixels.float()), fused(pixels), atol=0, rtol=0)
    assert_close(fused(pixels[:, 0]), fused(pixels[:, :1]), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="not floating point"):
        model(pixels)
    with pytest.raises(ValueError, match="fused already"):
        fused.fuse_normalization()


@pytest.mark.parametrize(
    "model_args", [{"dynamic_img_size": True, "dynamic_img_pad": True}, {"temporal": "uniformerv2"}], ids=str
)
def test_normalization_is_not_fused_where_frames_are_padded(tiny, model_args):
    if "temporal" in model_args:
        model_args["temporal_args"] = {"stride": 2}
    model = tiny(**model_args)
    model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(ValueError, match="pads frames"):
        model.fuse_normalization()
