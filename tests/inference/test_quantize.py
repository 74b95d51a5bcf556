import pytest
import torch
from timm.data import resolve_input_data_config

from inti_models import from_image_model, load, save_pretrained
from inti_models.cli import main
from inti_models.data import create_clip_transform, write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from inti_models.inference.quantize import quantize_int8
from support.models import miniature, randomize_model_

pytest.importorskip("torchao")
NAME = "inti_vit_t8_32_motiondigits"


@pytest.fixture(scope="module")
def quantized():
    return quantize_int8(load(NAME))


@torch.inference_mode()
def test_int8_model_says_what_the_float_model_says(quantized):
    plain = load(NAME).eval()
    batch = MotionDigits("validation", size=32).render(range(100))
    transform = create_clip_transform(**resolve_input_data_config(plain))
    clips = torch.stack([transform(clip) for clip in batch.clips])
    logits, expected = quantized(clips), plain(clips)
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() >= 0.97
    assert 0 < (logits - expected).abs().max() < 0.05 * (expected.max() - expected.min())
    weight = quantized.blocks[0].mlp.fc1.weight
    assert type(weight) is not torch.nn.Parameter or weight.dtype == torch.int8 or "Int8" in type(weight.data).__name__


@torch.inference_mode()
@pytest.mark.parametrize("family", ["pe_core", "eva02_clip", "dinov3"])
def test_int8_works_in_the_blocks_of_eva(family, clip):
    model = randomize_model_(from_image_model(miniature(family), (1, 3), reduction=4))
    expected = model(clip)
    logits = quantize_int8(model)(clip)
    assert 0 < (logits - expected).abs().max() < 0.1 * (expected.max() - expected.min())


def test_int8_model_is_not_saved(quantized, tmp_path):
    with pytest.raises(ValueError, match="int8"):
        save_pretrained(quantized, tmp_path / "model")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_command_predicts_in_int8(tmp_path, capsys):
    clip, label = MotionDigits("validation")[1]
    write_video(tmp_path / "clip.mp4", clip, fps=8)
    assert main(["predict", str(tmp_path / "clip.mp4"), "--model", NAME, "--int8", "--topk", "1"]) == 0
    assert CLASS_NAMES[label] in capsys.readouterr().out
