"""Precisions: what is cast and what is not, that float32 is untouched, and that labels stay."""

import pytest
import timm
import torch
from timm.data import resolve_input_data_config

from inti_models import StreamingClassifier, forward_chunked, from_image_model, load, save_pretrained
from inti_models.data import create_clip_transform
from inti_models.data.motion_digits import MotionDigits
from inti_models.models.precision import PRECISIONS, choose_precision, computes_bfloat16, set_precision
from inti_models.models.temporal import METHODS
from support.models import SOME_FAMILIES, miniature, randomize_model_

NAME = "inti_vit_t8_32_motiondigits"
TINY = {"depth": 4, "embed_dim": 32, "num_heads": 2, "compress_at": (1, 2)}
HALF = ("bfloat16", "float16")


def shipped(precision: str) -> torch.nn.Module:
    if precision == "int8":
        pytest.importorskip("torchao")
    model = load(NAME).eval()
    assert set_precision(model, precision) == model.precision == precision
    return model


def randomized(**args) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(NAME, **{**TINY, **args}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def clips():
    model = load(NAME)
    transform = create_clip_transform(**resolve_input_data_config(model))
    return torch.stack([transform(clip) for clip in MotionDigits("validation", size=32).render(range(100)).clips])


@pytest.fixture(scope="module")
@torch.inference_mode()
def expected(clips):
    return load(NAME).eval()(clips)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "int8"])
@torch.inference_mode()
def test_labels_are_those_of_float32(precision, clips, expected):
    logits = shipped(precision)(clips)
    assert logits.dtype == torch.float32
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() >= 0.97
    assert 0 < (logits - expected).abs().max() < 0.05 * (expected.max() - expected.min())


@torch.inference_mode()
def test_float32_changes_nothing(clips, expected):
    assert torch.equal(shipped("float32")(clips), expected)


@pytest.mark.parametrize("precision", HALF)
@torch.inference_mode()
def test_blocks_compute_in_it_and_what_follows_them_in_float32(precision):
    model, seen = randomized(), {}
    set_precision(model, precision)

    def remember(name):
        return lambda _, args, output: seen.update({name: (args[0].dtype, output.dtype)})

    places = {"block": model.blocks[2], "interpolation": model.interpolations["2"][0], "norm": model.norm}
    hooks = [m.register_forward_hook(remember(name)) for name, m in {**places, "head": model.head}.items()]
    model(torch.randn(2, 8, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    half = getattr(torch, precision)
    assert seen["block"] == seen["interpolation"] == (half, half)
    assert seen["norm"] == seen["head"] == (torch.float32, torch.float32)
    weights = model.interpolation_weights(torch.randn(1, 8, 3, 32, 32))
    assert all(of_stage.dtype == torch.float32 for of_stage in weights)
    pairs = weights[0].unflatten(1, (-1, 2)).sum(dim=2)
    torch.testing.assert_close(pairs, torch.ones_like(pairs))


@pytest.mark.parametrize(
    "args",
    [*({"temporal": name} for name in METHODS), {"global_pool": "avg"}, {"class_token": False, "global_pool": "map"}],
    ids=str,
)
@torch.inference_mode()
def test_every_method_and_pooling_runs_in_bfloat16(args):
    model, clip = randomized(**args), torch.randn(2, 8, 3, 32, 32)
    expected = model(clip)
    set_precision(model, "bfloat16")
    logits = model(clip)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.1 * (expected.max() - expected.min())
    features, _ = model.forward_intermediates(clip, norm=True)
    assert features.dtype == torch.float32


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("family", SOME_FAMILIES)
@torch.inference_mode()
def test_other_families_run(family, precision, clip):
    if precision == "int8":
        pytest.importorskip("torchao")
    model = randomize_model_(from_image_model(miniature(family), (1, 3), reduction=4))
    expected = model(clip)
    set_precision(model, precision)
    logits = model(clip)
    assert 0 < (logits - expected).abs().max() < 0.1 * (expected.max() - expected.min())


@torch.inference_mode()
def test_streams_and_chunks_are_the_model_itself_in_bfloat16():
    model, clip = randomized(), torch.randn(1, 16, 3, 32, 32)
    set_precision(model, "bfloat16")
    stream = StreamingClassifier(model, num_frames=8, stride=8)
    logits = torch.cat([stream.push(frame) for frame in clip.unbind(1)], dim=1)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits[:, 1], model(clip[:, 8:]), atol=0.02, rtol=0.02)
    torch.testing.assert_close(forward_chunked(model, clip, 4), model(clip), atol=0.02, rtol=0.02)


@torch.inference_mode()
def test_pixels_of_a_fused_model_stay_exact_in_bfloat16(clips):
    model = load(NAME).eval().fuse_normalization()
    pixels = MotionDigits("validation", size=32).render(range(20)).clips
    expected = model(pixels)
    set_precision(model, "bfloat16")
    logits = model(pixels)
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() >= 0.9


def test_auto_is_bfloat16_where_the_device_computes_it(monkeypatch):
    for capabilities, native in (({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert computes_bfloat16("cpu") is native
        assert choose_precision("auto", "cpu") == ("bfloat16" if native else "float32")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert choose_precision("auto", "cuda") == "float32"  # emulated only
    assert choose_precision("auto", "mps") == "float32"
    assert [choose_precision(name, "mps") for name in PRECISIONS[1:]] == list(PRECISIONS[1:])


def test_a_precision_is_chosen_once():
    model = randomized()
    set_precision(model, "bfloat16")
    assert set_precision(model, "bfloat16") == set_precision(model, "auto") == "bfloat16"
    for precision in ("float32", "int8"):
        with pytest.raises(ValueError, match="The model is in bfloat16, not in float32"):
            set_precision(model, precision)
    with pytest.raises(ValueError, match=r"torch\.float64, not in float32"):
        set_precision(randomized().double(), "bfloat16")
    with pytest.raises(ValueError, match="precision='half' is unknown"):
        set_precision(randomized(), "half")


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_model_of_another_precision_is_not_saved(precision, tmp_path):
    with pytest.raises(ValueError, match=precision):
        save_pretrained(shipped(precision), tmp_path / "model")
    assert not list(tmp_path.rglob("*.safetensors"))
