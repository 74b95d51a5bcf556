"""Which image models become video models, what they keep, and what the others are told."""

import pytest
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from inti_models import InTIEva, InTIVisionTransformer, from_image_model

INTI_ARGS = ("compress_at", "reduction", "context", "weighting", "num_frames", "sampling", "frame_stride")


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
        (VisionTransformer, "Cannot wrap a type: it is no model; pass one of timm's"),
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
