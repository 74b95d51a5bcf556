"""Image models of all families as video models, what wrapping keeps, and what other models are told."""

import copy
import unittest.mock

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import group_parameters
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from inti_models import (
    InTIEva,
    InTIVisionTransformer,
    StreamingClassifier,
    forward_chunked,
    from_image_model,
    load,
    save_pretrained,
)
from inti_models.inference.export import export_model
from inti_models.models import trunks
from inti_models.models.flops import count_flops
from inti_models.weights.checkpoint_filter import checkpoint_filter_fn
from support.models import FAMILIES, SOME_FAMILIES, TINY, miniature, randomize_model_
from support.modules import ROOT
from support.pages import blocks, run_block

INTI_ARGS = ("compress_at", "reduction", "context", "weighting", "num_frames", "sampling", "frame_stride")


# Families


@pytest.fixture(scope="module", params=FAMILIES)
def image_model(request):
    """A miniature of each family in turn; tests that change it copy it."""
    torch.manual_seed(0)
    return miniature(request.param)


def video_model(image_model, compress_at=(1, 3), **args):
    """A video model on a copy of an image model, with random interpolations."""
    model = randomize_model_(from_image_model(copy.deepcopy(image_model), compress_at, reduction=4, **args))
    model.load_state_dict(image_model.state_dict(), strict=False)
    return model


def pooled_frames(image_model, clip):
    """timm's features before the head, frame by frame, (B, T, C)."""
    features = image_model.forward_features(clip.flatten(0, 1))
    return image_model.forward_head(features, pre_logits=True).unflatten(0, clip.shape[:2])


@torch.no_grad()
def test_every_family_is_itself_frame_by_frame_until_it_compresses(image_model, clip):
    naive, model = video_model(image_model, ()), video_model(image_model)
    expected = image_model.head(pooled_frames(image_model, clip).mean(1))
    tokens = image_model.forward_features(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])
    assert_close(naive.forward_features(clip), tokens, rtol=1e-5, atol=1e-5)
    assert_close(naive(clip), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1
    assert_close(model(clip[:, 0]), image_model(clip[:, 0]), rtol=1e-5, atol=1e-5)
    assert_close(model(clip[:, :1]), image_model(clip[:, 0]), rtol=1e-5, atol=1e-5)
    assert (model(clip) - expected).abs().max() > 1e-3
    assert model.frame_weights(clip).shape == (2, 5, 4, 6)


@torch.no_grad()
def test_every_family_streams(image_model):
    model, video = video_model(image_model), torch.randn(1, 12, 3, 32, 48)
    windows = torch.stack([model(video[:, start : start + 8]) for start in (0, 2, 4)], 1)
    assert_close(StreamingClassifier(model, 8, stride=2).push(video), windows, rtol=1e-5, atol=1e-5)
    assert_close(forward_chunked(model, video, chunk=3), model(video), rtol=1e-5, atol=1e-5)


def test_every_family_is_counted_as_torch_counts_it(image_model, clip):
    model = video_model(image_model)
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta")(clip.to("meta"))
    assert count_flops(model, clip.shape).gflops == pytest.approx(counter.get_total_flops() / 2e9, rel=1e-6)


def test_every_family_decays_by_layer(image_model):
    model = video_model(image_model, (0, 2, 4))
    group = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(group) == {name for name, _ in model.named_parameters()}
    for at, follower in ((0, "blocks.0.norm1.weight"), (2, "blocks.2.norm1.weight")):
        assert group[f"interpolations.{at}.0.predict.logit.weight"] == group[follower]
    assert group["patch_embed.proj.weight"] < group["blocks.0.norm1.weight"] < group["blocks.3.norm1.weight"]
    assert group["blocks.3.norm1.weight"] < group["interpolations.4.0.predict.logit.weight"] <= group["head.weight"]


def test_every_family_has_the_same_gradients_under_recomputation(image_model, clip):
    model = video_model(image_model).train()
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(0)  # of augmented coordinates
        model(clip).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_close(*gradients)
    assert None not in gradients[0].values()


@torch.no_grad()
def test_every_family_takes_another_input_size(image_model):
    image_model, image = copy.deepcopy(image_model), torch.randn(2, 3, 48, 48)
    model = video_model(image_model)
    for resized in (model, image_model):
        resized.set_input_size(img_size=(48, 48))
    assert_close(model(image), image_model(image))
    assert model(torch.randn(1, 5, 3, 48, 48)).shape == (1, 5)


@torch.no_grad()
def test_every_family_gives_intermediates(image_model, clip):
    model, naive = video_model(image_model), video_model(image_model, ())
    args = {"indices": [0, 2], "return_prefix_tokens": image_model.num_prefix_tokens > 0, "norm": True}
    expected = image_model.forward_intermediates(clip.flatten(0, 1), **args)
    assert_close(model.forward_intermediates(clip.flatten(0, 1), **args), expected)
    flat = tree_map(lambda y: y.flatten(0, 1), naive.forward_intermediates(clip, **args))
    assert_close(flat, expected)
    pruned = copy.deepcopy(model)
    kept = pruned.prune_intermediate_layers([0, 1])
    expected = model.forward_intermediates(clip, [0, 1], intermediates_only=True)
    assert_close(pruned.forward_intermediates(clip, kept, intermediates_only=True), expected)


@torch.no_grad()
def test_every_family_loads_the_checkpoint_of_its_image_model(image_model, clip):
    model = from_image_model(randomize_model_(copy.deepcopy(image_model)), (1, 3), reduction=4)
    model.load_state_dict(checkpoint_filter_fn(image_model.state_dict(), model, {"num_classes": 5}))
    assert_close(model(clip[:, 0]), image_model(clip[:, 0]))


@torch.no_grad()
@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_some_families_give_features_only_run_in_half_precision_and_take_pixels(family, clip):
    base, args = FAMILIES[family]
    args = {"base": base, "compress_at": (1, 3), "features_only": True, "out_indices": (0, -1), **TINY, **args}
    features = timm.create_model("inti_vit", **args).eval()(clip)
    assert [y.shape for y in features] == [(2, 5, 32, 4, 6), (2, 2, 32, 4, 6)]
    model = video_model(miniature(family))
    extracted = timm.models.create_feature_extractor(model, ["blocks.1", "head"])(clip)
    assert_close(extracted["head"], model(clip))
    assert len(extracted["blocks.1"]) == 2 * 4  # frames after the first compression
    expected = model(clip)
    half = copy.deepcopy(model).bfloat16()(clip.bfloat16())
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), expected, rtol=0.1, atol=0.1 * expected.abs().max())
    model.pretrained_cfg = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = torch.randint(256, (1, 4, 3, 32, 48), dtype=torch.uint8)
    expected = model((pixels / 255 - mean) / std)
    assert_close(model.fuse_normalization()(pixels), expected, rtol=0, atol=1e-3)


# Full size

FULL_SIZE = [
    "vit_base_patch16_clip_224",
    "vit_huge_patch14_clip_quickgelu_224",  # the smallest MetaCLIP2
    "vit_base_patch16_siglip_224",
    "vit_base_patch14_reg4_dinov2",
    "deit3_base_patch16_224",
    "vit_base_patch16_224",
    "vit_pe_core_base_patch16_224",
    "vit_pe_spatial_base_patch16_512",
    "eva02_base_patch16_clip_224",
    "eva02_base_patch14_224",
    "vit_base_patch16_dinov3",
    "vit_base_patch16_dinov3_qkvb",  # EUPE
    "vit_base_patch16_rope_mixed_ape_224",
]


@torch.inference_mode()
@pytest.mark.slow  # 0.1 to 0.6 billion parameters
@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_full_size_model_is_itself_frame_by_frame_until_it_compresses(name):
    image_model = randomize_model_(timm.create_model(name, num_classes=11, img_size=224))
    naive, model = from_image_model(image_model, ()), from_image_model(image_model, num_frames=4)  # shared modules
    randomize_model_(model.interpolations)
    clip = torch.randn(1, 2, 3, 224, 224)
    pooled = pooled_frames(image_model, clip)
    expected = image_model.head(pooled.mean(1))
    assert_close(naive(clip), expected, rtol=1e-5, atol=1e-5 * expected.abs().max())
    assert_close(model(clip[:, 0]), image_model.head(pooled[:, 0]), rtol=1e-5, atol=1e-5 * expected.abs().max())
    assert (model(clip) - expected).abs().max() > 1e-3
    assert expected.std() > 0.1
    clip = torch.randn(1, 4, 3, 224, 224)
    assert_close(
        StreamingClassifier(model, 4).push(clip)[:, 0], model(clip), rtol=1e-5, atol=1e-5 * expected.abs().max()
    )
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta")(clip.to("meta"))
    assert count_flops(model, clip.shape).gflops == pytest.approx(counter.get_total_flops() / 2e9, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FULL_SIZE if "huge" not in name])
def test_a_full_size_model_gives_its_logits_in_onnxruntime(name, tmp_path):
    pytest.importorskip("onnxruntime")
    image_model = randomize_model_(timm.create_model(name, num_classes=11, img_size=224))
    model = randomize_model_(from_image_model(image_model, num_frames=4))
    assert export_model(model, tmp_path / "m.onnx", "onnx") <= 1e-4


def names_of_trunks():
    return [name for module in ("eva", "deit") for name in timm.list_models(module=module)]


@pytest.mark.slow  # 90 models; of the 175 others of `VisionTransformer`, see FULL_SIZE
def test_every_model_of_timm_is_taken_or_refused_by_name():
    refused = []
    for name in names_of_trunks():
        image_model = timm.create_model(name, device="meta", num_classes=3).eval()
        try:
            model = from_image_model(image_model)
        except TypeError as error:
            assert "; take " in str(error)
            refused.append(name)
            continue
        size = image_model.pretrained_cfg["input_size"]
        assert model(torch.empty(1, 4, *size, device="meta")).shape == (1, 3), name
    assert {type(timm.create_model(name, device="meta")).__name__ for name in refused} == {"VisionTransformerDistilled"}


# A third kind


@pytest.fixture
def third_trunk(tmp_path, monkeypatch):
    """The page that adds BEiT, run; what it printed."""
    monkeypatch.chdir(tmp_path)
    page = [text for _, text in blocks(ROOT / "docs" / "add_a_trunk.md")]
    assert len(page[0][page[0].index("class ") : page[0].index("TRUNKS[")].splitlines()) <= 60
    with unittest.mock.patch.dict(trunks.TRUNKS):
        yield run_block("python", "\n".join(page))


@pytest.mark.filterwarnings("ignore:(Using a non-tuple|torch.searchsorted):UserWarning")  # timm's, of resized biases
@pytest.mark.parametrize("name", ["beit_base_patch16_224", "beitv2_base_patch16_224"])
@pytest.mark.parametrize("shared", [False, True])
def test_trunk_of_the_guide_does_what_the_others_do(third_trunk, clip, name, shared):
    assert third_trunk == "InTIBeit (1, 2) (1, 8, 4, 4)\n"
    args = {"use_shared_rel_pos_bias": shared, "use_rel_pos_bias": not shared}
    image_model = randomize_model_(timm.create_model(name, **TINY, **args))
    test_every_family_is_itself_frame_by_frame_until_it_compresses(image_model, clip)
    test_every_family_streams(image_model)
    test_every_family_is_counted_as_torch_counts_it(image_model, clip)
    test_every_family_decays_by_layer(image_model)
    test_every_family_has_the_same_gradients_under_recomputation(image_model, clip)
    test_every_family_takes_another_input_size(image_model)
    test_every_family_gives_intermediates(image_model, clip)
    test_every_family_loads_the_checkpoint_of_its_image_model(image_model, clip)


# Embeddings


@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "siglip", "pe_core", "dinov3"])
def test_embedding_is_the_mean_of_features_or_of_normalised_ones(family, clip):
    image_model = miniature(family)
    naive, model = video_model(image_model, ()), video_model(image_model)
    frames = pooled_frames(image_model, clip)
    normed = nn.functional.normalize(frames, dim=-1)
    for project in (nn.Identity(), nn.Linear(32, 7)):
        frames, normed = project(pooled_frames(image_model, clip)), None
        normed = nn.functional.normalize(frames, dim=-1)
        naive.head.projection = model.head.projection = project
        assert_close(naive.encode(clip), frames.mean(1))
        assert_close(naive.encode(clip, normalize_frames=True), normed.mean(1))
        assert_close(naive.encode(clip, normalize=True), nn.functional.normalize(frames.mean(1), dim=-1))
        assert_close(model.encode(clip[:, 0]), frames[:, 0])
        assert_close(model.encode(clip[:, 0], normalize_frames=True), normed[:, 0])
        both = nn.functional.normalize(normed.mean(1), dim=-1)
        assert_close(naive.encode(clip, normalize_frames=True, normalize=True), both)
        assert (naive.encode(clip, normalize=True) - both).abs().max() > 1e-4
        assert (model.encode(clip) - naive.encode(clip)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "pe_core", "eva02_clip"])
def test_projection_of_an_image_text_model_is_kept(family, clip, tmp_path):
    """The head of the image model; as a model without classes, with some, saved, and from the image model's file."""
    image_model = miniature(family, num_classes=7)
    base, args = FAMILIES[family]
    args = {**TINY, **args, "base": base, "compress_at": (), "text_dim": 7}
    del args["num_classes"]
    expected = image_model.head(pooled_frames(image_model, clip)).mean(1)

    model = from_image_model(copy.deepcopy(image_model), (), text_dim=7).eval()
    assert_close(model.encode(clip), expected)
    assert_close(model(clip), expected)
    assert model.num_classes == 0
    assert StreamingClassifier(model, 8).push(clip).shape == (2, 0, 7)
    save_pretrained(model, tmp_path)
    assert_close(load(tmp_path).eval().encode(clip), expected)
    with_classes = from_image_model(copy.deepcopy(image_model), (), num_classes=3, text_dim=7).eval()
    assert_close(with_classes.encode(clip), expected)
    assert with_classes(clip).shape == (2, 3)

    for classes in (0, 3):
        model = timm.create_model("inti_vit", num_classes=classes, **args).eval()
        for cfg in ({"num_classes": 7}, {"num_classes": classes}):
            randomize_model_(model)
            model.load_state_dict(checkpoint_filter_fn(image_model.state_dict(), model, cfg))
            assert_close(model.encode(clip), expected)
    save_file(image_model.state_dict(), tmp_path / "image.safetensors")
    overlay = {"file": str(tmp_path / "image.safetensors"), "num_classes": 7}
    model = timm.create_model("inti_vit", pretrained=True, pretrained_cfg_overlay=overlay, **args).eval()
    assert model.num_classes == 0
    assert_close(model.encode(clip), expected)


def test_projection_that_the_head_is_not_is_refused():
    with pytest.raises(ValueError, match="text_dim=8, but the image model's head is of 7; pass the width of its"):
        from_image_model(miniature("clip", num_classes=7), text_dim=8)
    with pytest.raises(ValueError, match="text_dim=8, but the image model's head is not linear; pass"):
        from_image_model(miniature("clip", num_classes=0), text_dim=8)


def test_embedding_that_there_is_not_is_refused(tiny, clip):
    with pytest.raises(ValueError, match="global_pool='' gives no feature of a frame to encode"):
        tiny(global_pool="").encode(clip)
    with pytest.raises(ValueError, match="STAdapter has its norm after the mean over frames; leave normalize_frames"):
        tiny(temporal="st_adapter").encode(clip, normalize_frames=True)


# Wrapping


@pytest.mark.parametrize(("trunk", "video"), [(VisionTransformer, InTIVisionTransformer), (Eva, InTIEva)])
def test_wrapping_keeps_modules_head_precision_and_mode(tiny_args, trunk, video):
    vit = trunk(**tiny_args).bfloat16().eval()
    model = from_image_model(vit, compress_at=(2,), weighting="sigmoid", num_frames=4)
    assert type(model) is video
    assert model.blocks is vit.blocks
    assert model.head is vit.head
    assert (model.num_frames, model.interpolations["2"][0].weighting) == (4, "sigmoid")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())


def test_wrapping_with_a_new_head_leaves_the_image_model_as_it_was(tiny_args):
    vit = VisionTransformer(**tiny_args).eval()
    image = torch.randn(1, 3, 32, 48)
    expected, keys = vit(image), set(vit.state_dict())
    model = from_image_model(vit, num_classes=9)
    assert model(image).shape == (1, 9)
    assert torch.equal(vit(image), expected)
    assert set(vit.state_dict()) == keys
    assert type(vit) is VisionTransformer


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("deit_tiny_distilled_patch16_224", {"depth": 1}, "Cannot wrap a VisionTransformerDistilled: .*deit3_base"),
        ("naflexvit_base_patch16_gap", {"depth": 1}, "Cannot wrap a NaFlexVit: .*vit_base_patch16_siglip_256"),
        ("resnet10t", {}, "Cannot wrap a ResNet: it is not exactly one of timm's VisionTransformer, Eva; take one"),
        ("inti_vit_t8_32_motiondigits", {}, "Cannot wrap an InTIVisionTransformer: it is a video model already"),
    ],
)
def test_wrapping_a_model_of_another_class_is_refused_with_what_to_take(name, args, message):
    model = timm.create_model(name, device="meta", **args)
    with pytest.raises(TypeError, match=message):
        from_image_model(model)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"The image model is None; pass one, such as timm.create_model\("),
        ("vit_tiny_patch16_224", r"'vit_tiny_patch16_224' is a name; .*create_model\('inti_vit', base='vit_tiny"),
        (VisionTransformer, "Cannot wrap a type: it is not a model; pass one of timm's"),
    ],
)
def test_wrapping_what_is_no_model_is_refused(value, message):
    with pytest.raises(TypeError, match=message):
        from_image_model(value)


@pytest.mark.parametrize("trunk", [VisionTransformer, Eva])
def test_wrapping_a_model_with_patch_dropout_is_told_in_a_sentence(tiny_args, trunk):
    vit = trunk(**tiny_args, patch_drop_rate=0.5)
    with pytest.raises(ValueError, match="Cannot wrap a model with patch dropout: create it with patch_drop_rate=0"):
        from_image_model(vit)


def test_wrapping_with_a_schedule_that_does_not_fit_is_told_in_a_sentence(tiny_args):
    with pytest.raises(ValueError, match=r"compress_at=\(4, 10\) is not a schedule for 4 blocks"):
        from_image_model(VisionTransformer(**tiny_args), compress_at=(4, 10))


def test_wrapping_passes_every_interpolation_argument(tiny_args):
    args = dict(zip(INTI_ARGS, ((1,), 8, ("point", "local"), "linear", 16, "dense", 4), strict=True))
    model = from_image_model(VisionTransformer(**tiny_args), **args)
    assert {name: model._model_args[name] for name in INTI_ARGS} == args
    assert (model.num_frames, model.sampling, model.frame_stride) == (16, "dense", 4)
