import warnings

import pytest
import timm
import torch
from fvcore.nn import ActivationCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from inti_models.models.flops import by_stage, count_flops, zoo_cost


def vit_gflops(dim: int, depth: int, grid: int, patch: int, num_classes: int, frames: int) -> float:
    """Multiply-adds of a CLIP ViT on every frame: patches, qkv + attention + projection + MLP, head."""
    tokens = grid**2 + 1
    block = 12 * tokens * dim**2 + 2 * tokens**2 * dim
    return (frames * (grid**2 * 3 * patch**2 * dim + depth * block) + dim * num_classes) / 1e9


def test_naive_b16_costs_what_the_closed_formula_says():
    naive = zoo_cost("inti_vit_b16_k400", num_frames=1, compress_at=())
    assert naive.gflops == pytest.approx(vit_gflops(768, 12, 14, 16, 400, 1), rel=1e-6)


def test_b16_saves_37_percent_in_total_and_agrees_with_torch():
    naive_gflops = vit_gflops(768, 12, 14, 16, 400, 8)
    assert naive_gflops == pytest.approx(140.5, abs=0.05)
    cost = zoo_cost("inti_vit_b16_k400")
    assert 1 - cost.gflops / naive_gflops >= 0.370
    interpolation = sum(cost.by_module[f"interpolations.{at}"] for at in (4, 10, 12))
    assert 0 < interpolation / cost.gflops < 0.002
    assert torch_gflops("inti_vit_b16_k400") == pytest.approx(cost.gflops, rel=1e-3)


def test_l14_saves_37_3_percent_in_total():
    naive_gflops = vit_gflops(1024, 24, 16, 14, 400, 8)
    assert naive_gflops == pytest.approx(648, abs=0.5)
    assert 1 - torch_gflops("inti_vit_l14_k400") / naive_gflops >= 0.373


def torch_gflops(name: str, num_frames: int = 8, **model_args) -> float:
    """GFLOPs by torch's own counter, on the meta device, which computes nothing."""
    model = timm.create_model(name, device="meta", **model_args).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, num_frames, *model.pretrained_cfg["input_size"], device="meta"))
    return counter.get_total_flops() / 2e9  # torch counts a multiply-add as two


@pytest.mark.parametrize(
    "name",
    [
        name if name == "inti_vit_b16_k400" else pytest.param(name, marks=pytest.mark.slow)  # the others, 1 s each
        for name in timm.list_models("inti*")
        if name.endswith(("_k400", "_motiondigits")) or name.startswith(("inti_st", "inti_aim", "inti_uni"))
    ],
)
def test_every_entry_point_has_its_shape_and_saving_on_the_meta_device(name):
    model = timm.create_model(name, device="meta").eval()
    clip = torch.zeros(2, model.num_frames, *model.pretrained_cfg["input_size"], device="meta")
    assert model(clip).shape == (2, model.pretrained_cfg["num_classes"])
    naive, compressed = (torch_gflops(name, model.num_frames, **args) for args in ({"compress_at": ()}, {}))
    assert 0.35 < 1 - compressed / naive < 0.4


@pytest.mark.parametrize("context", [("point",), ("local",), ("global",), ("temporal",)])
def test_every_context_network_is_counted_as_torch_counts_it(context):
    name, args = "inti_vit_t8_32_motiondigits", {"context": context, "reduction": 2}
    assert zoo_cost(name, 7, **args).gflops == pytest.approx(torch_gflops(name, 7, **args), rel=1e-6)


def test_attention_and_normalisation_are_listed_where_they_belong():
    cost = zoo_cost("inti_vit_t8_32_motiondigits", compress_at=())
    tokens, dim = 17, 96
    products = 2 * tokens**2 * dim / 1e9 * 8  # q @ k.T and attention @ v of one block, 8 frames
    projections = 4 * tokens * dim**2 / 1e9 * 8
    assert cost.by_module["blocks.0.attn"] == pytest.approx(products + projections, rel=1e-6)
    assert cost.other_gflops["layer_norm"] > 0


def test_counting_leaves_the_mode_of_the_model():
    model = timm.create_model("inti_vit_t8_32_motiondigits")
    count_flops(model, (1, 8, 3, 32, 32))
    assert model.training


def test_every_operation_is_in_one_stage():
    model = timm.create_model("inti_vit_t8_32_motiondigits")
    cost = zoo_cost("inti_vit_t8_32_motiondigits")
    stages = by_stage(model, cost)
    assert list(stages) == ["embedding", *(f"stage {k}" for k in range(4)), "interpolations", "rest"]
    assert sum(stages.values()) == pytest.approx(cost.gflops)
    block = zoo_cost("inti_vit_t8_32_motiondigits", 1, compress_at=()).by_module["blocks.0"]
    blocks_by_frames = [2 * 8, 3 * 4, 1 * 2, 0]
    assert [stages[f"stage {k}"] / block for k in range(4)] == pytest.approx(blocks_by_frames)
    assert stages["rest"] == pytest.approx(96 * model.num_classes / 1e9, rel=1e-6)


def test_activations_are_those_that_fvcore_counts_and_attention():
    model = timm.create_model("inti_vit_t8_32_motiondigits", compress_at=()).eval()
    clip = torch.zeros(1, 8, 3, 32, 32)
    counted = ActivationCountAnalysis(model, clip).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = counted.total() + 6 * 8 * 17 * 96  # blocks x frames x tokens x channels
    assert count_flops(model, clip.shape).activations_m == pytest.approx(expected / 1e6)


def test_elementwise_operations_are_one_for_each_element():
    class Gelu(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return (nn.functional.gelu(x) * self.weight).mean()

    cost = count_flops(Gelu(), (2, 3, 5))
    assert cost.other_gflops == pytest.approx({"gelu": 30e-9, "mul": 30e-9, "mean": 30e-9})
    assert cost.gflops == cost.activations_m == 0


def test_operator_without_a_count_stops_the_count():
    class Inverse(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(3))

        def forward(self, x):
            return torch.baddbmm(x, x, torch.linalg.inv(self.weight).expand_as(x))

    with pytest.raises(NotImplementedError, match="Operators without a count: aten::baddbmm, aten::linalg_inv;"):
        count_flops(Inverse(), (2, 3, 3))
