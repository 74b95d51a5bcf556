"""What every temporal method has to do in a model, whatever it computes."""

import copy
import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import group_parameters
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from timm.optim import param_groups_layer_decay
from torch.testing import assert_close

import inti_models
from inti_models import InTIVisionTransformer, from_image_model
from inti_models.models.temporal import METHODS
from inti_models.weights.checkpoint_filter import checkpoint_filter_fn

VARIANTS = {
    "st_adapter": ("st_adapter", {"width": 8}),
    "st_adapter_twice": ("st_adapter", {"width": 8, "kernel_size": (3, 1, 3), "before": ("attn", "mlp")}),
    "aim": ("aim", {}),
    "aim_input": ("aim", {"scale": 1.0, "adapt_input": True}),
    "uniformerv2": ("uniformerv2", {"num_global": 2}),
    "uniformerv2_local": ("uniformerv2", {"num_global": 3, "local_reduction": 1.5, "stride": 2}),
    "uniformerv2_unfused": ("uniformerv2", {"num_global": 4, "fuse": False}),
    "divided_attention": ("divided_attention", {}),
}
STRIDE = {"uniformerv2_local": 2}
SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": (32, 48), "reduction": 4, "compress_at": (1, 3)}


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def model(variant, small):
    """With random parameters; compresses after 1 and 3 of 4 blocks."""
    return small(*VARIANTS[variant])


def embedded(variant, num_frames):
    return -(-num_frames // STRIDE.get(variant, 1))


def test_every_method_is_tested():
    assert {name for name, _ in VARIANTS.values()} == set(METHODS)


# What frames see


def test_frames_see_each_other(variant, small, clip):
    model = small(*VARIANTS[variant], compress_at=())
    other = clip.clone()
    other[:, 0] = torch.randn(2, 3, 32, 48)
    difference = (model.forward_features(clip) - model.forward_features(other)).abs().amax(dim=(2, 3))  # B T
    assert difference.shape == (2, embedded(variant, 5))
    assert difference[:, 1].min() > 1e-3
    model = small(compress_at=())
    difference = (model.forward_features(clip) - model.forward_features(other)).abs().amax(dim=(2, 3))
    assert difference[:, 1:].max() == 0


def test_clips_of_a_batch_do_not_see_each_other(model):
    clips = torch.randn(3, 5, 3, 32, 48)
    logits = model(clips)
    assert_close(model(clips[[2, 0, 1]]), logits[[2, 0, 1]])
    assert_close(torch.cat([model(clip.unsqueeze(0)) for clip in clips]), logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_one_frame_clip_is_an_image(model):
    image = torch.randn(2, 3, 32, 48)
    assert_close(model(image), model(image.unsqueeze(1)), rtol=0, atol=0)
    assert_close(model.forward_features(image), model.forward_features(image.unsqueeze(1)).squeeze(1), rtol=0, atol=0)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 7, 8])
def test_any_number_of_frames_runs_and_the_head_of_features_is_the_model(model, frames):
    clip = torch.randn(2, frames, 3, 32, 48)
    logits = model(clip)
    assert logits.shape == (2, 5)
    assert torch.isfinite(logits).all()
    assert_close(model.forward_head(model.forward_features(clip)), logits)
    weights = model.frame_weights(clip)
    assert weights.shape == (2, model.embedded_frames(frames), 4, 6)


@pytest.mark.parametrize("frames", [8, 5])
def test_modules_see_the_frames_that_remain_at_their_depth(variant, small, frames):
    model = small(*VARIANTS[variant], depth=12, compress_at=None, embed_dim=16)
    assert model.compress_at == (4, 10, 12)
    seen = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    model(torch.randn(1, frames, 3, 32, 48))
    start = embedded(variant, frames)
    half = -(-start // 2)
    last = -(-half // 2)
    assert seen == [start] * 4 + [half] * 6 + [last] * 2


def test_head_takes_the_mean_over_frames(variant, small):
    model = small(*VARIANTS[variant], compress_at=(2,))
    clip = torch.randn(1, 3 * STRIDE.get(variant, 1), 3, 32, 48)
    tokens = model.forward_features(clip)[:, :, 0]
    pooled = (tokens[:, 0] + tokens[:, 1]) / 2
    expected = model.head(model.norm(pooled) if model.temporal.norm_last else pooled)
    assert_close(model(clip), expected)


# Features


def test_intermediates_are_the_tokens_after_each_block(variant, model):
    tokens = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: tokens.append(output))
    clip = torch.randn(2, 8, 3, 32, 48)
    final, features = model.forward_intermediates(clip, norm=False, return_prefix_tokens=True)
    start = embedded(variant, 8)
    for (spatial, prefix), x, frames in zip(
        features, tokens, (start, start // 2, start // 2, -(-start // 4)), strict=True
    ):
        assert spatial.shape == (2, frames, 32, 4, 6)
        assert_close(prefix, x[:, :, :1])
        assert_close(spatial, x[:, :, 1:].transpose(2, 3).unflatten(3, (4, 6)))
    assert_close(final, model.forward_features(clip))


def test_stopping_early_gives_the_same_features(model, clip):
    expected = model.forward_intermediates(clip, [1], intermediates_only=True)
    assert_close(model.forward_intermediates(clip, [1], intermediates_only=True, stop_early=True), expected)


@pytest.mark.parametrize("indices", [[1], [0, 2]])
def test_pruning_keeps_the_features(model, clip, indices):
    expected = model.forward_intermediates(clip, indices, norm=True, intermediates_only=True)
    before = sum(parameter.numel() for parameter in model.parameters())
    kept = model.prune_intermediate_layers(indices)
    assert len(model.blocks) == indices[-1] + 1
    assert_close(model.forward_intermediates(clip, kept, norm=True, intermediates_only=True), expected)
    assert torch.isfinite(model.forward_features(clip)).all()
    assert sum(parameter.numel() for parameter in model.parameters()) < before


def test_features_only_gives_features_after_chosen_blocks(variant):
    temporal, temporal_args = VARIANTS[variant]
    args = {**SMALL, "temporal": temporal, "temporal_args": temporal_args}
    backbone = timm.create_model("inti_vit_t8_32_motiondigits", features_only=True, out_indices=(0, 2), **args).eval()
    start = embedded(variant, 8)
    shapes = [tuple(y.shape) for y in backbone(torch.randn(1, 8, 3, 32, 48))]
    assert shapes == [(1, start, 32, 4, 6), (1, start // 2, 32, 4, 6)]


def test_fx_extracts_features(model, clip):
    extractor = timm.models.create_feature_extractor(model, ["blocks.1", "head"])
    for x in (clip, clip[:, :3], clip[:, 0]):
        features = extractor(x)
        expected = model.forward_intermediates(
            x if x.ndim == 5 else x.unsqueeze(1), [1], output_fmt="NLC", intermediates_only=True
        )[0]
        assert_close(features["blocks.1"][:, :, 1:], expected)
        assert_close(features["head"], model(x))


# Training


def test_gradients_reach_every_parameter(variant, model):
    model.train()
    model(torch.randn(2, 8, 3, 32, 48)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        beside_class_token = name.startswith("blocks.3.temporal.mlp.") and "st_adapter" in VARIANTS[variant]
        if "temporal" in name and not beside_class_token:
            assert parameter.grad.abs().max() > 0, name


def test_gradient_checkpointing_gives_the_same_gradients(model, clip):
    calls = []
    model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        calls.clear()
        loss = model(clip).square().sum()
        loss.backward()
        assert len(calls) == 1 + enable  # run again in the backward pass
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert_close(*results)


@pytest.mark.parametrize("coarse", [False, True])
def test_layer_groups(model, coarse):
    group = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert set(group) == {name for name, _ in model.named_parameters()}
    stem, last = group["cls_token"], group["head.weight"]
    assert stem < last
    for name, layer in group.items():
        if name.startswith("blocks."):
            assert layer == group[f"blocks.{name.split('.')[1]}.norm1.weight"], name
        elif name.startswith(("temporal.time_embed", "temporal.patch_embed")):
            assert layer == stem, name
        elif name.startswith("temporal."):
            assert layer == last, name


def test_layer_decay_covers_every_parameter_once(model):
    groups = param_groups_layer_decay(model, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5)
    seen = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(seen) == sorted(map(id, model.parameters()))
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if name in ("temporal.time_embed", "temporal.video_token", "temporal.balance"):
            assert decay[id(parameter)] == 0, name
        if name.startswith("blocks.1.temporal."):
            assert scale[id(parameter)] == scale[id(model.blocks[1].attn.qkv.weight)], name


def test_no_weight_decay_names_what_is_of_the_method_itself(variant, model):
    own = {name for name in model.no_weight_decay() if name.startswith("temporal.")}
    expected = {
        "st_adapter": set(),
        "aim": {"temporal.time_embed"},
        "divided_attention": {"temporal.time_embed"},
        "uniformerv2": {"temporal.video_token", "temporal.balance"},
    }[VARIANTS[variant][0]]
    assert own == expected - ({"temporal.balance"} if variant == "uniformerv2_unfused" else set())


def test_initialisers_of_timm_keep_the_neutral_start(variant, model, fresh):
    expected = fresh(*VARIANTS[variant], compress_at=(1, 3)).state_dict()
    for mode in ("", "jax", "moco"):
        model.init_weights(mode)
        for name, parameter in model.named_parameters():
            if name.startswith("blocks.") and ".temporal." in name and not expected[name].any():
                assert not parameter.any(), name


# Other trunks, sizes and precisions


@pytest.mark.parametrize(
    ("kwargs", "size"),
    [
        ({"reg_tokens": 2}, (32, 48)),
        ({"dynamic_img_size": True}, (64, 24)),
        ({"dynamic_img_size": True, "dynamic_img_pad": True}, (35, 41)),
        ({"init_values": 0.1, "qk_norm": True}, (32, 48)),
    ],
    ids=str,
)
def test_trunks_of_other_kinds_work(variant, small, kwargs, size):
    model = small(*VARIANTS[variant], **kwargs)
    clip = torch.randn(1, 5, 3, *size)
    other = clip.clone()
    other[:, 0] = 0
    assert model(clip).shape == (1, 5)
    assert (model(clip) - model(other)).abs().max() > 1e-4


@pytest.mark.parametrize("variant", ["aim", "divided_attention"])
def test_model_without_class_token_works(variant, small, clip):
    model = small(*VARIANTS[variant], class_token=False, global_pool="avg")
    assert model.forward_features(clip).shape == (2, 2, 24, 32)
    assert model(clip).shape == (2, 5)


def test_image_model_with_a_method_is_the_model_made_at_once(variant, tiny_args, randomize_all_, clip):
    temporal, temporal_args = VARIANTS[variant]
    vit = VisionTransformer(**tiny_args)
    wrapped = from_image_model(
        copy.deepcopy(vit), compress_at=(1,), reduction=4, temporal=temporal, temporal_args=temporal_args
    )
    assert_close(wrapped.blocks[2].mlp.fc1.weight, vit.blocks[2].mlp.fc1.weight)
    direct = InTIVisionTransformer(
        **tiny_args, compress_at=(1,), reduction=4, temporal=temporal, temporal_args=temporal_args
    ).eval()
    direct.load_state_dict(randomize_all_(wrapped).state_dict())
    assert_close(wrapped(clip), direct(clip), rtol=0, atol=0)


def test_survives_copying_and_half_precision(model, clip):
    expected = model(clip)
    twin = copy.deepcopy(model)
    assert_close(twin(clip), expected, rtol=0, atol=0)
    logits = twin.to(torch.bfloat16)(clip.bfloat16())
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().max() < 0.2 * expected.abs().max()


# Checkpoints


def test_saved_model_is_created_again_from_its_directory(tmp_path, variant, randomize_all_, clip):
    temporal, temporal_args = VARIANTS[variant]
    model = randomize_all_(
        timm.create_model(
            "inti_vit_t8_32_motiondigits", **SMALL, num_classes=5, temporal=temporal, temporal_args=temporal_args
        )
    )
    inti_models.save_pretrained(model, tmp_path)
    args = json.loads((tmp_path / "config.json").read_text())["model_args"]
    assert args["temporal"] == temporal
    assert args["temporal_args"] == json.loads(json.dumps(temporal_args))
    again = inti_models.load(tmp_path).eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():  # statistics of batch norms included
        assert torch.equal(again.state_dict()[key], value), key
    assert_close(again(clip), model(clip), rtol=0, atol=0)
    assert_close(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(clip), model(clip))


def test_image_checkpoint_leaves_temporal_modules_as_they_start(tmp_path, variant, randomize_):
    temporal, temporal_args = VARIANTS[variant]
    args = {key: value for key, value in SMALL.items() if key not in ("reduction", "compress_at")}
    image = randomize_(timm.create_model("vit_base_patch16_clip_quickgelu_224", **args, num_classes=64)).state_dict()
    save_file(image, tmp_path / "image.safetensors")
    torch.manual_seed(5)
    started = timm.create_model("inti_vit_b16_k400", **SMALL, temporal=temporal, temporal_args=temporal_args)
    torch.manual_seed(5)
    loaded = timm.create_model(
        "inti_vit_b16_k400",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "image.safetensors"), "input_size": (3, 32, 48)},
        **SMALL,
        temporal=temporal,
        temporal_args=temporal_args,
    )
    for key, value in loaded.state_dict().items():
        new = "temporal." in key or key.startswith(("interpolations.", "head."))
        assert torch.equal(value, started.state_dict()[key] if new else image[key]), key
    assert any("temporal." in key for key in loaded.state_dict())


def test_checkpoint_without_compression_fills_a_compressed_model(variant, small, caplog):
    trained, model = small(*VARIANTS[variant], compress_at=()), small(*VARIANTS[variant])
    mapped = checkpoint_filter_fn(trained.state_dict(), model)
    assert set(mapped) == set(model.state_dict())
    for key, value in mapped.items():
        source = model if key.startswith("interpolations.") else trained
        assert torch.equal(value, source.state_dict()[key]), key
    assert "another schedule: interpolations.1.0, interpolations.3.0 new" in caplog.text


def test_checkpoint_of_another_method_is_refused(small):
    with pytest.raises(ValueError, match=r"temporal\."):
        checkpoint_filter_fn(small("aim").state_dict(), small("divided_attention"))
    with pytest.raises(ValueError, match=r"temporal\."):
        checkpoint_filter_fn(small("aim").state_dict(), small())


# Errors


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"temporal": "tsm"}, ValueError, "temporal='tsm' is unknown; choose one of st_adapter, aim"),
        ({"temporal_args": {"width": 3}}, ValueError, r"temporal_args=\{'width': 3\} need a temporal method"),
        (
            {"temporal": "aim", "temporal_args": {"breadth": 3}},
            ValueError,
            "no argument 'breadth'; it has scale, adapt_input",
        ),
        ({"temporal": "st_adapter", "global_pool": "avg"}, ValueError, "global_pool='avg'"),
        (
            {"temporal": "aim", "block_fn": ParallelScalingBlock},
            TypeError,
            "EvaBlock, not vision_.*ParallelSc",
        ),
    ],
    ids=str,
)
def test_bad_argument_is_told_in_a_sentence(tiny_args, kwargs, error, message):
    with pytest.raises(error, match=message):
        InTIVisionTransformer(**tiny_args, **kwargs)


def test_masks_are_refused(model, clip):
    for kwargs in ({"attn_mask": torch.zeros(25, 25)}, {"is_causal": True}):
        for call in (model, model.forward_features, model.forward_intermediates):
            with pytest.raises(ValueError, match="attn_mask and is_causal are for models without a temporal method"):
                call(clip, **kwargs)
