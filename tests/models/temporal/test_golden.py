"""Temporal models without compression against logits of the official code, through our converter; see golden/."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inti_models.weights.convert import convert_checkpoint
from support.modules import load_module

HERE = Path(__file__).parent


golden = load_module("tests/models/temporal/golden/make.py")

# Case -> what is not the zoo's in `temporal_args`.
ARGUMENTS = {
    "st_adapter_mlp": {"width": 24},
    "st_adapter_both": {"width": 20, "before": ("attn", "mlp")},
    "st_adapter_3x3x3": {"width": 16, "before": ("attn", "mlp"), "kernel_size": (3, 3, 3)},
    "aim": {},
    "aim_two": {"scale": 1.0, "adapt_input": True},
    "uniformerv2_global": {"num_global": 2},
    "uniformerv2_local": {"num_global": 3, "local_reduction": 1.5, "stride": 2},
    "uniformerv2_local_stride1": {"num_global": 1, "local_reduction": 2.0},
    "uniformerv2_frozen": {"num_global": 4, "fuse": False},
}
AT = [(case, num_frames) for case in ARGUMENTS for num_frames in golden.CASES[case]["frames"]]


def save(case, num_frames, folder):
    """Files as the official code writes them: the checkpoint, and CLIP's where the checkpoint is without it."""
    state, path, trunk = golden.official_state(case, num_frames), folder / "official.pyth", None
    if case.startswith("st_adapter"):
        frozen = {name for name in state if "adapter" not in name and not name.startswith("fc.")}
        trunk = folder / "open_clip_model.safetensors"
        save_file({f"visual.{name}": state.pop(name) for name in frozen}, trunk)
        torch.save({"model": state, "lr_sched": {"last_epoch": 3}, "next_epoch": 4}, path)
    elif case.startswith("aim"):
        torch.save({"meta": {"epoch": 30, "CLASSES": None}, "state_dict": state}, path)
    elif case == "uniformerv2_local":
        torch.save({"epoch": 49, "model_state": state, "cfg": "MODEL: {}"}, path)
    else:
        torch.save(state, path)
    return path, trunk


def load(case, num_frames, folder, **options):
    """Our model, converted from the official checkpoint."""
    resolution, patch, width, layers, heads = golden.CASES[case]["sizes"]
    sizes = {"img_size": resolution, "patch_size": patch, "embed_dim": width, "depth": layers, "num_heads": heads}
    path, trunk = save(case, num_frames, folder)
    arguments = {**sizes, "num_classes": golden.CLASSES, "num_frames": num_frames, "compress_at": (), **options}
    arguments["temporal_args"] = ARGUMENTS[case]
    model = f"inti_{golden.CASES[case]['method']}_b16_k400"
    return convert_checkpoint(path, model, arguments, trunk=trunk)[0]


@pytest.mark.parametrize(("case", "num_frames"), AT)
@torch.inference_mode()
def test_the_converted_model_computes_the_official_logits(case, num_frames, tmp_path):
    expected = load_file(HERE / "golden" / f"{case}.safetensors")[str(num_frames)]
    model = load(case, num_frames, tmp_path)
    logits = model(golden.draw_clip(num_frames, golden.CASES[case]["sizes"][0]))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ARGUMENTS)
def test_no_weight_is_at_its_neutral_value(case):
    state = golden.official_state(case, 8)
    assert all((state.pop(name) > 0) for name in list(state) if name.endswith("num_batches_tracked"))
    assert all((tensor != 0).any() and (tensor != 1).any() for tensor in state.values())
    assert all(tensor.std() > 0.01 for tensor in state.values() if tensor.numel() > 1)


@pytest.mark.parametrize("case", ARGUMENTS)
@torch.inference_mode()
def test_every_tensor_of_the_method_takes_part(case, tmp_path):
    """The comparison would see any of them mapped wrongly, or left at its start."""
    model = load(case, 8, tmp_path)
    clip = golden.draw_clip(8, golden.CASES[case]["sizes"][0])
    expected = model(clip)
    added = {key: tensor for key, tensor in model.state_dict().items() if "temporal." in key}
    # The count is for training; and ST-Adapter's very last adapter changes grid tokens, which nothing reads any more.
    last = f"blocks.{len(model.blocks) - 1}.temporal.mlp." if case.startswith("st_adapter") else "none"
    for key, tensor in added.items():
        kept = tensor.clone()
        tensor.fill_(1 if key.endswith(("norm.weight", "running_var")) else 0)
        changed = (model(clip) - expected).abs().max() > 1e-3
        assert changed != (key.startswith(last) or key.endswith("num_batches_tracked")), key
        tensor.copy_(kept)
    torch.testing.assert_close(model(clip), expected, atol=0, rtol=0)

    for tensor in added.values():
        tensor.zero_()
    assert (model(clip) - expected).abs().max() > 0.1


@pytest.mark.parametrize("case", ["st_adapter_both", "aim_two", "uniformerv2_global", "uniformerv2_local"])
@torch.inference_mode()
def test_a_converted_checkpoint_runs_compressed(case, tmp_path):
    clip = golden.draw_clip(8, golden.CASES[case]["sizes"][0])
    compressed = load(case, 8, tmp_path, compress_at=None, reduction=4)
    original = load(case, 8, tmp_path)
    assert compressed.compress_at == (1, 3, 4)
    logits = compressed(clip)
    assert logits.shape == (2, golden.CLASSES) and logits.isfinite().all()
    assert not torch.allclose(logits, original(clip), atol=1e-3)
    own = original.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in compressed.state_dict().items() if key in own)
    assert "training-free start whose accuracy is not measured" in compressed.pretrained_cfg["description"]
    assert "it is the original model" in original.pretrained_cfg["description"]
