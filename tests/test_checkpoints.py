"""Checkpoints of image models, of other schedules and of other shapes, mapped to a model."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch.testing import assert_close

from inti_models.checkpoints import checkpoint_filter_fn, load_checkpoint


def image_state_dict(randomize_, args, **kwargs):
    return randomize_(VisionTransformer(**{**args, **kwargs})).state_dict()


def part(state_dict, prefix):
    return {key: value for key, value in state_dict.items() if key.startswith(prefix)}


def trunk(state_dict):
    return {key: value for key, value in state_dict.items() if not key.startswith(("interpolations.", "head."))}


def test_image_checkpoint_leaves_interpolations_and_head_of_another_size_as_they_are(tiny, tiny_args, randomize_):
    model = tiny()
    image = image_state_dict(randomize_, tiny_args, num_classes=512)
    mapped = checkpoint_filter_fn(image, model)
    assert_close(trunk(mapped), trunk(image))
    for prefix in ("interpolations.", "head."):
        assert_close(part(mapped, prefix), part(model.state_dict(), prefix))
    model.load_state_dict(mapped)


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
    assert "interpolations.1.1, interpolations.2.0 start anew" in caplog.text
    assert "interpolations.3.0 are not used" in caplog.text


def test_position_embedding_is_resampled_as_timm_does(tiny, tiny_args, randomize_):
    image = image_state_dict(randomize_, tiny_args)
    twin = VisionTransformer(**tiny_args)
    twin.load_state_dict(image)
    twin.set_input_size(img_size=(48, 48))
    model = tiny(img_size=(48, 48))
    model.pretrained_cfg = {"input_size": (3, 32, 48)}
    model.load_state_dict(checkpoint_filter_fn(image, model))
    assert_close(model.pos_embed, twin.pos_embed)


def test_layout_of_clip_checkpoints_is_understood(tiny):
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
    clip = {"visual.class_embedding": model.cls_token[0, 0], "visual.proj": torch.randn(32, 16), "logit_scale": 1}
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


def test_file_is_loaded_whole(tiny, clip, tmp_path):
    trained, model = tiny(), tiny()
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    load_checkpoint(model, tmp_path / "model.safetensors")
    assert torch.equal(model(clip), trained(clip))


def test_missing_file_is_told_in_a_sentence(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint .*none.safetensors; check the path"):
        load_checkpoint(tiny(), tmp_path / "none.safetensors")


def test_broken_file_is_told_in_a_sentence(tiny, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(tiny().state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a whole safetensors file .* download it again"):
        load_checkpoint(tiny(), path)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 9}, r"has in another shape head.bias and 1 more"),
        ({"num_classes": 9, "compress_at": ()}, r"has in another shape head.bias and 1 more"),
        ({"num_classes": 0, "compress_at": ()}, r"lacks head.bias and 1 more"),
        ({"reg_tokens": 2}, r"has, unlike the model, reg_token;"),
        ({"depth": 3, "compress_at": (1,)}, r"lacks blocks.3.attn.proj.bias and \d+ more"),
        ({"embed_dim": 64}, r"has in another shape blocks.0.attn.proj.bias"),
        ({"context": ("point", "local", "global")}, r"has in another shape interpolations.1.0.predict.logit.weight"),
    ],
    ids=str,
)
def test_checkpoint_of_another_model_is_told_in_a_sentence(tiny, tmp_path, kwargs, message):
    path = tmp_path / "model.safetensors"
    save_file(tiny(**kwargs).state_dict(), path)
    model = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"{message}.*; it was made for another model|{message}"):
        load_checkpoint(model, path)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_timm_loads_a_file_that_was_named_for_the_model(tiny_args, tmp_path, randomize_):
    args = {**tiny_args, "reduction": 4, "compress_at": (1, 3), "num_classes": 120}
    name = "inti_vit_t8_64_motiondigits"
    trained = randomize_(timm.create_model(name, **args))
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors")}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **args)
    assert_close(model.state_dict(), trained.state_dict(), rtol=0, atol=0)
