"""Checkpoints of image models, of other schedules and of other shapes, mapped to a model."""

import copy
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch.testing import assert_close

from inti_models import from_image_model
from inti_models.weights.checkpoint_filter import checkpoint_filter_fn, load_checkpoint
from inti_models.weights.tensor_files import read_checkpoint, save_checkpoint
from support.models import miniature, randomize_model_


def image_state_dict(randomize_, args, **kwargs):
    return randomize_(VisionTransformer(**{**args, **kwargs})).state_dict()


def part(state_dict, prefix):
    return {key: value for key, value in state_dict.items() if key.startswith(prefix)}


def trunk(state_dict):
    return {key: value for key, value in state_dict.items() if not key.startswith(("interpolations.", "head."))}


def test_image_checkpoint_leaves_interpolations_and_head_of_another_size_as_they_are(
    tiny, tiny_args, randomize_, caplog
):
    model = tiny()
    image = image_state_dict(randomize_, tiny_args, num_classes=512)
    mapped = checkpoint_filter_fn(image, model)
    assert_close(trunk(mapped), trunk(image))
    for prefix in ("interpolations.", "head."):
        assert_close(part(mapped, prefix), part(model.state_dict(), prefix))
    model.load_state_dict(mapped)
    assert "the head starts untrained" in caplog.text


def test_image_checkpoint_without_head_keeps_the_models(tiny, tiny_args, randomize_):
    model = tiny()
    mapped = checkpoint_filter_fn(image_state_dict(randomize_, tiny_args, num_classes=0), model)
    assert_close(part(mapped, "head."), part(model.state_dict(), "head."))
    assert set(mapped) == set(model.state_dict())


@pytest.mark.parametrize("kwargs", [{"compress_at": ()}, {"weighting": "uniform"}], ids=str)
def test_checkpoint_without_interpolations_keeps_its_trained_head(tiny, kwargs):
    trained, model = tiny(**kwargs), tiny(**kwargs)
    assert not torch.equal(model.head.weight, trained.head.weight)
    assert_close(checkpoint_filter_fn(trained.state_dict(), model), trained.state_dict())


def test_model_without_head_takes_none(tiny, tiny_args, randomize_):
    model = tiny(num_classes=0)
    assert set(checkpoint_filter_fn(image_state_dict(randomize_, tiny_args), model)) == set(model.state_dict())


def test_checkpoint_of_the_same_schedule_is_taken_whole(tiny, caplog):
    trained = tiny()
    assert_close(checkpoint_filter_fn(trained.state_dict(), tiny()), trained.state_dict())
    assert not caplog.text


def test_checkpoint_of_another_schedule_starts_anew_where_it_has_nothing(tiny, caplog):
    trained, model = tiny(compress_at=(1, 3)), tiny(compress_at=(1, 1, 2))
    mapped = checkpoint_filter_fn(trained.state_dict(), model)
    own = model.state_dict()
    assert set(mapped) == set(own)
    for prefix in ("interpolations.1.1.", "interpolations.2.0."):
        assert_close(part(mapped, prefix), part(own, prefix))
    assert_close(part(mapped, "interpolations.1.0."), part(trained.state_dict(), "interpolations.1.0."))
    assert_close(part(mapped, "head."), part(trained.state_dict(), "head."))
    assert "another schedule: interpolations.1.1, interpolations.2.0 new; interpolations.3.0 unused" in caplog.text


def test_position_embedding_is_resampled_as_timm_does(tiny, tiny_args, randomize_):
    image = image_state_dict(randomize_, tiny_args)
    twin = VisionTransformer(**tiny_args)
    twin.load_state_dict(image)
    twin.set_input_size(img_size=(48, 48))
    model = tiny(img_size=(48, 48))
    model.pretrained_cfg = {"input_size": (3, 32, 48)}
    model.load_state_dict(checkpoint_filter_fn(image, model))
    assert_close(model.pos_embed, twin.pos_embed)


@pytest.mark.parametrize("projection", [16, 5])  # 5: as wide as the head, and still no classifier
def test_layout_of_clip_checkpoints_is_understood(tiny, projection):
    """OpenAI's names; the values are held against open_clip's own model in test_vision_transformer.py."""
    model = tiny(pre_norm=True)
    names = {
        "patch_embed.proj": "conv1",
        "pos_embed": "positional_embedding",
        "norm_pre": "ln_pre",
        "blocks": "transformer.resblocks",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    clip = {"visual.class_embedding": model.cls_token[0, 0], "visual.proj": torch.randn(32, projection)}
    clip["logit_scale"] = torch.tensor(1.0)
    for key, value in trunk(model.state_dict()).items():
        if key == "cls_token":
            continue
        if key.startswith("norm."):
            key = key.replace("norm.", "ln_post.")
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        clip[f"visual.{key}"] = value[0] if key == "positional_embedding" else value
    other = tiny(pre_norm=True)
    mapped = checkpoint_filter_fn(clip, other)
    assert_close(trunk(mapped), trunk(model.state_dict()))
    assert_close(part(mapped, "head."), part(other.state_dict(), "head."))


@pytest.mark.parametrize("save", [save_checkpoint, lambda model, path: save_file(model.state_dict(), path)])
def test_file_is_loaded_whole(tiny, clip, tmp_path, save):
    trained, model = tiny(), tiny()
    save(trained, tmp_path / "model.safetensors")
    load_checkpoint(model, tmp_path / "model.safetensors")
    assert torch.equal(model(clip), trained(clip))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_damaged_tensors_are_told_in_a_sentence(tiny, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(tiny(), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its tensors are not those that were saved"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "has values in head.bias that are not finite"),
        (float("inf"), "has values in head.bias that are not finite"),
        (None, "has head.bias in torch.int64, not floating point"),
    ],
)
def test_values_that_are_no_weights_are_told_in_a_sentence(tiny, value, message):
    model = tiny()
    state_dict = model.state_dict()
    bias = torch.zeros(5, dtype=torch.int64) if value is None else torch.tensor([0, 0, value, 0, 0])
    with pytest.raises(ValueError, match=message):
        checkpoint_filter_fn({**state_dict, "head.bias": bias}, tiny())


def test_missing_file_is_told_in_a_sentence(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint .*none.safetensors; check the path"):
        load_checkpoint(tiny(), tmp_path / "none.safetensors")


def test_broken_file_is_told_in_a_sentence(tiny, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(tiny().state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a complete safetensors file .* download it again"):
        load_checkpoint(tiny(), path)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 9}, r"has head.bias as 9 where the model has 5; name the model it was made for"),
        ({"num_classes": 0}, r"lacks head.bias and 1 more; name the model it was made for, with the same options"),
        ({"reg_tokens": 2}, r"is of another architecture"),
        ({"depth": 5}, r"has, unlike the model, blocks.4.attn.proj.bias and"),
        ({"depth": 3, "compress_at": (1,)}, r"lacks blocks.3.attn.proj.bias and \d+ more"),
        ({"embed_dim": 64}, r"has blocks.0.attn.proj.bias as 64 where the model has 32"),
        ({"context": ("point", "local")}, r"lacks interpolations.1.0.predict.global_context.bias and \d+ more"),
    ],
    ids=str,
)
def test_checkpoint_of_another_model_is_told_in_a_sentence(tiny, tmp_path, kwargs, message):
    path = tmp_path / "model.safetensors"
    save_file(tiny(**kwargs).state_dict(), path)
    model = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_checkpoint(model, path)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_timm_loads_a_file_that_was_named_for_the_model(tiny_args, tmp_path, randomize_):
    args = {**tiny_args, "reduction": 4, "compress_at": (1, 3), "num_classes": 120}
    name = "inti_vit_t8_32_motiondigits"
    trained = randomize_(timm.create_model(name, **args))
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors")}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **args)
    assert_close(model.state_dict(), trained.state_dict(), rtol=0, atol=0)


# Strictness: nothing missing, nothing left over, nothing of another kind


def refusal(state_dict, model):
    """The one sentence by which a state dict is refused."""
    with pytest.raises(ValueError) as refused:
        checkpoint_filter_fn(state_dict, model)
    message = str(refused.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.fixture(params=["inti", "image"])
def whole(request, tiny, tiny_args, randomize_):
    """A state dict that fits `tiny`."""
    return tiny().state_dict() if request.param == "inti" else image_state_dict(randomize_, tiny_args)


def test_no_key_may_be_missing(tiny, whole):
    model = tiny()
    for key in whole:
        rest = {name: value for name, value in whole.items() if name != key}
        assert f"lacks {key};" in refusal(rest, model)


@pytest.mark.parametrize(
    "key", ["junk", "blocks.0.extra.weight", "blocks.4.norm1.weight", "head.extra", "head.weight2"]
)
def test_no_key_may_be_left_over(tiny, whole, key):
    assert f"has, unlike the model, {key};" in refusal({**whole, key: torch.zeros(2)}, tiny())


def test_no_parameter_of_an_interpolation_may_be_left_over(tiny):
    extra = {"interpolations.1.0.predict.extra": torch.zeros(2)}
    message = refusal(tiny().state_dict() | extra, tiny())
    assert "has, unlike the model, interpolations.1.0.predict.extra;" in message


def test_each_key_has_to_have_its_shape(tiny, whole):
    model = tiny()
    for key, value in whole.items():
        if key != "pos_embed":  # of another length it is resampled
            message = refusal({**whole, key: torch.cat([value, value])}, model)
            assert f"has {key} as {len(value) * 2}" in message
    assert "has pos_embed as 1x25x64 where" in refusal({**whole, "pos_embed": torch.zeros(1, 25, 64)}, model)
    assert "another architecture" in refusal({**whole, "pos_embed": torch.zeros(25)}, model)


def test_each_key_has_to_be_finite_floating_point(tiny, whole):
    model = tiny()
    for key, value in whole.items():
        assert f"has {key} in torch.int32" in refusal({**whole, key: value.int()}, model)
        damaged = value.clone()
        damaged.view(-1)[-1] = torch.nan
        assert f"has values in {key} that are not finite" in refusal({**whole, key: damaged}, model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_point_is_taken(tiny, dtype):
    model, trained = tiny(), tiny()
    mapped = checkpoint_filter_fn({key: value.to(dtype) for key, value in trained.state_dict().items()}, model)
    model.load_state_dict(mapped)
    assert_close(model.state_dict(), trained.state_dict(), rtol=0.01, atol=0.01)


def test_values_too_large_for_the_models_precision_are_refused(tiny):
    state_dict = {key: value.double() for key, value in tiny().state_dict().items()}
    state_dict["norm.bias"][0] = 1e300
    assert "norm.bias that are not finite" in refusal(state_dict, tiny())


def test_text_tower_is_known_and_anything_else_beside_a_visual_tower_is_not(tiny):
    model = tiny(pre_norm=True, num_classes=0, compress_at=())
    trunk_only = {f"visual.trunk.{key}": value for key, value in model.state_dict().items()}
    text = {"logit_scale": torch.ones(()), "text.transformer.resblocks.0.ln_1.weight": torch.ones(3)}
    head = {"visual.head.proj.weight": torch.ones(3, 32)}
    assert set(checkpoint_filter_fn({**trunk_only, **text, **head}, model)) == set(model.state_dict())
    message = refusal({**trunk_only, **text, "audio.weight": torch.ones(3)}, model)
    assert "has, beside a visual tower, audio.weight;" in message


@pytest.mark.parametrize("source", ["hf-hub", "local-dir"])
def test_head_beside_its_own_config_has_to_fit(tiny, tiny_args, randomize_, source):
    model = tiny()
    model.pretrained_cfg = {"num_classes": 5, "source": source}
    assert "has head.weight as 7x32" in refusal(image_state_dict(randomize_, tiny_args, num_classes=7), model)


def test_with_other_classes_asked_for_the_head_is_the_models_own(tiny):
    model = tiny(num_classes=3)
    model.pretrained_cfg = {"num_classes": 5}
    mapped = checkpoint_filter_fn(tiny().state_dict(), model)
    assert_close(part(mapped, "head."), part(model.state_dict(), "head."))


def test_input_channels_are_the_models_or_the_configs(tiny):
    model = tiny(in_chans=1)
    model.pretrained_cfg = {"input_size": (3, 32, 48)}
    assert checkpoint_filter_fn(tiny().state_dict(), model)["patch_embed.proj.weight"].shape[1] == 3
    assert "has patch_embed.proj.weight as 32x4x8x8" in refusal(tiny(in_chans=4).state_dict(), model)


def meta_pe_layout(image_model):
    """A Perception Encoder's tensors as its authors name them, with a text tower's beside them."""
    names = [("patch_embed.proj", "conv1"), ("blocks.", "transformer.resblocks."), ("norm_pre", "ln_pre")]
    names += [("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("attn.qkv.", "attn.in_proj_")]
    names += [("attn.proj", "attn.out_proj"), ("attn_pool.proj", "attn_pool.attn.out_proj")]
    names += [("attn_pool.latent", "attn_pool.probe"), ("attn_pool.norm", "attn_pool.layernorm")]
    tensors = dict(image_model.state_dict())
    for kind in ("weight", "bias"):
        both = [tensors.pop(f"attn_pool.{part}.{kind}") for part in ("q", "kv")]
        tensors[f"attn_pool.attn.in_proj_{kind}"] = torch.cat(both)
    del tensors["head.bias"]
    tensors["proj"] = tensors.pop("head.weight").T
    tensors["class_embedding"], tensors["positional_embedding"] = (
        tensors.pop(name).flatten(0, -2).squeeze(0) for name in ("cls_token", "pos_embed")
    )
    found = {"text_projection": torch.ones(2), "transformer.resblocks.0.ln_1.weight": torch.ones(2)}
    for name, tensor in tensors.items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        name = re.sub(r"^norm\.", "ln_post.", re.sub(r"(resblocks\.\d+\.)norm", r"\1ln_", name))
        found[f"visual.{name}"] = tensor
    return found


def meta_dinov3_layout(image_model):
    """A DINOv3's tensors as its authors name them, with what only training needs."""
    tensors = dict(image_model.state_dict())
    found = {"mask_token": torch.ones(2), "rope_embed.periods": torch.ones(2)}
    for name, tensor in tensors.items():
        if name.endswith("q_bias"):
            bias = [tensor, torch.zeros_like(tensor), tensors[name.replace("q_bias", "v_bias")]]
            found[name.replace("q_bias", "qkv.bias")] = torch.cat(bias)
            found[name.replace("q_bias", "qkv.bias_mask")] = torch.ones(2)
        elif not name.endswith("v_bias"):
            name = re.sub(r"gamma_(\d)", r"ls\1.gamma", name.replace("reg_token", "storage_tokens"))
            found[name] = tensor
    return found


@torch.no_grad()
@pytest.mark.parametrize(("family", "layout"), [("pe_core", meta_pe_layout), ("eupe", meta_dinov3_layout)])
def test_layouts_of_the_authors_of_other_trunks_load(family, layout, clip):
    image_model = miniature(family)
    torch.nn.init.zeros_(image_model.head.bias)
    model = from_image_model(randomize_model_(copy.deepcopy(image_model)), (1, 3), reduction=4)
    tensors = layout(image_model)
    model.load_state_dict(checkpoint_filter_fn(tensors, model, {"num_classes": 0}))
    features = image_model.forward_head(image_model.forward_features(clip[:, 0]), pre_logits=True)
    assert_close(model.encode(clip[:, 0]), features)
    del tensors[next(name for name in tensors if name.endswith(("mlp.c_fc.weight", "mlp.fc1.weight")))]
    with pytest.raises(ValueError, match="lacks"):
        checkpoint_filter_fn(tensors, model, {"num_classes": 0})
