"""UniFormerV2 against nn.MultiheadAttention and nn.Conv3d, and against the image model at the start."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.testing import assert_close

from inti_models import InTIVisionTransformer
from inti_models.models.temporal.uniformerv2 import GlobalUnit, LocalUnit


def volume_of(x, grid_size):
    """Grid tokens of (B, T, 1 + HW, C) -> (B, C, T, H, W), by copying one by one."""
    batch, length, _, dim = x.shape
    height, width = grid_size
    volume = x.new_zeros(batch, dim, length, height, width)
    for h in range(height):
        for w in range(width):
            volume[:, :, :, h, w] = x[:, :, 1 + h * width + w].transpose(1, 2)
    return volume


def global_by_hand(unit, video, x, grid_size):
    """Equations 8 to 10 of arXiv 2211.09552: DPE, cross attention of one query, feed-forward network."""
    attention = nn.MultiheadAttention(x.shape[-1], unit.num_heads, batch_first=True)
    attention.in_proj_weight.data = torch.cat((unit.query.weight, unit.key_value.weight))
    attention.in_proj_bias.data = torch.cat((unit.query.bias, unit.key_value.bias))
    attention.out_proj.weight.data, attention.out_proj.bias.data = unit.proj.weight, unit.proj.bias
    volume = volume_of(x, grid_size)
    position = nn.functional.conv3d(volume, unit.position.weight, unit.position.bias, padding=1, groups=volume.shape[1])
    positioned = x.clone()
    for h in range(grid_size[0]):
        for w in range(grid_size[1]):
            positioned[:, :, 1 + h * grid_size[1] + w] += position[:, :, :, h, w].transpose(1, 2)
    tokens = unit.norm_tokens(torch.cat(list(positioned.unbind(1)), dim=1))
    video = video + attention(unit.norm_query(video), tokens, tokens, need_weights=False)[0]
    hidden = F.linear(unit.norm_mlp(video), unit.mlp.fc1.weight, unit.mlp.fc1.bias)
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    return video + F.linear(hidden, unit.mlp.fc2.weight, unit.mlp.fc2.bias)


@torch.no_grad()
def test_global_unit_equals_torchs_attention(randomize_):
    unit = randomize_(GlobalUnit(32, 4, 1, drop_path=0.0, drop=0.0))
    video, x = torch.randn(2, 1, 32), torch.randn(2, 3, 1 + 2 * 3, 32)
    assert_close(unit(video, x, (2, 3)), global_by_hand(unit, video, x, (2, 3)))


@torch.no_grad()
def test_local_unit_equals_convolutions_on_the_volume(randomize_all_):
    """Equation 4 of the paper; the official code's bottleneck has no activation."""
    unit = randomize_all_(LocalUnit(12, 1.5, 1))
    assert unit.conv.in_channels == 8
    x = torch.randn(2, 3, 1 + 2 * 3, 12)
    volume = volume_of(x, (2, 3))
    mean, variance = (buffer[None, :, None, None, None] for buffer in (unit.norm.running_mean, unit.norm.running_var))
    scale, shift = (p[None, :, None, None, None] for p in (unit.norm.weight, unit.norm.bias))
    normed = (volume - mean) / (variance + 1e-5).sqrt() * scale + shift
    reduced = torch.einsum("bcthw,rc->brthw", normed, unit.reduce.weight[..., 0, 0, 0])
    reduced = F.pad(reduced + unit.reduce.bias[None, :, None, None, None], (0, 0, 0, 0, 1, 1))
    mixed = unit.conv.bias[None, :, None, None, None] + sum(
        reduced[:, :, k : k + 3] * unit.conv.weight[None, :, 0, k, 0, 0, None, None, None] for k in range(3)
    )
    expected = torch.einsum("brthw,cr->bcthw", mixed, unit.expand.weight[..., 0, 0, 0])
    assert_close(unit(x, (2, 3)), expected + unit.expand.bias[None, :, None, None, None])


@torch.no_grad()
def test_block_has_local_units_before_its_branches(small):
    block = small("uniformerv2", {"local_reduction": 2}, compress_at=()).blocks[0]
    x = torch.randn(1, 3, 25, 32)

    def add(place, x):
        grid = block.temporal[place](x, (4, 6)).flatten(3).permute(0, 2, 3, 1)
        return torch.cat((x[:, :, :1], x[:, :, 1:] + grid), dim=2)

    y = add("attn", x)
    y = torch.stack([frame + block.attn(block.norm1(frame)) for frame in y.unbind(1)], dim=1)
    y = add("mlp", y)
    assert_close(block(x, (4, 6)), y + block.mlp(block.norm2(y)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("fuse", [True, False])
def test_logits_are_of_the_video_token_mixed_with_the_mean_class_token(small, clip, fuse):
    """The whole model: global units one after the other on the tokens of the last blocks, then the fusion."""
    model = small("uniformerv2", {"num_global": 3, "fuse": fuse}, compress_at=())
    x = torch.stack([model._pos_embed(model.patch_embed(frame)) for frame in clip.unbind(1)], dim=1)
    video = model.temporal.video_token.expand(2, 1, 32)
    for i, block in enumerate(model.blocks):
        y = torch.stack([frame + block.attn(block.norm1(frame)) for frame in x.unbind(1)], dim=1)
        x = y + block.mlp(block.norm2(y))
        if i >= 1:
            video = global_by_hand(model.temporal.units[i - 1], video, x, (4, 6))
    share = torch.sigmoid(model.temporal.balance) if fuse else 0
    mixed = (1 - share) * video[:, 0] + share * x[:, :, 0].mean(dim=1)
    assert_close(model(clip), model.head(model.norm(mixed)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_embedding_of_stride_two_is_a_3d_convolution(small, frames, bias):
    """Kernel (3, p, p), stride (2, p, p), padding (1, 0, 0)."""
    model = small("uniformerv2", {"stride": 2}, pre_norm=not bias)
    convolution = nn.Conv3d(3, 32, (3, 8, 8), stride=(2, 8, 8), padding=(1, 0, 0), bias=bias)
    before, after = model.temporal.patch_embed
    convolution.weight.data = torch.stack((before.weight, model.patch_embed.proj.weight, after.weight), dim=2)
    assert (model.patch_embed.proj.bias is not None) == bias
    if bias:
        convolution.bias.data = model.patch_embed.proj.bias
    clip = torch.randn(2, frames, 3, 32, 48)
    expected = convolution(clip.transpose(1, 2)).permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
    assert_close(model.temporal.embed_patches(model.patch_embed, clip), expected)
    assert model.embedded_frames(frames) == len(expected) // 2


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
def test_at_the_start_frames_are_those_of_the_image_model(fresh, tiny_args, clip, stride):
    model = fresh("uniformerv2", {"local_reduction": 1.5, "stride": stride, "num_global": 2})
    twin = VisionTransformer(**tiny_args).eval()
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if "temporal." not in k})
    frames = clip[:, ::stride].unbind(1)
    tokens = [twin.blocks(twin._pos_embed(twin.patch_embed(frame))) for frame in frames]
    features = model.forward_features(clip)
    for t, x in enumerate(tokens):
        assert_close(features[:, t, 1:], x[:, 1:])
        assert_close(features[:, t, 0], x[:, 0] / 2)  # the other half is the video token, zero at the start


@torch.no_grad()
def test_global_units_see_the_frames_that_remain(small):
    model = small("uniformerv2", {"num_global": 4}, compress_at=(1, 3))
    seen = []
    for unit in model.temporal.units:
        unit.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].shape[1]))
    model(torch.randn(1, 8, 3, 32, 48))
    assert seen == [8, 4, 4, 2]  # after each block, before a compression that follows


def test_drop_path_rises_along_the_global_units(small):
    units = small("uniformerv2", {"num_global": 3, "drop_path": 0.4, "drop": 0.5}).temporal.units
    assert [unit.drop_path.drop_prob for unit in units] == pytest.approx([0, 0.2, 0.4])
    assert {unit.mlp.drop1.p for unit in units} == {0.5}
    assert {unit.mlp.drop2.p for unit in units} == {0.0}


@pytest.mark.parametrize(
    ("args", "model_args", "message"),
    [
        ({"stride": 3}, {}, "stride=3 is unknown; choose 1"),
        ({"num_global": 5}, {}, "num_global=5 is not a number of global units; choose 1 to 4"),
        ({"num_global": 0}, {}, "num_global=0 is not a number"),
        ({}, {"class_token": False, "global_pool": ""}, "needs a class token"),
        ({}, {"global_pool": "avg"}, "classifies by class tokens, not by global_pool='avg'"),
    ],
    ids=str,
)
def test_bad_argument_is_told_in_a_sentence(tiny_args, args, model_args, message):
    with pytest.raises(ValueError, match=message):
        InTIVisionTransformer(**tiny_args, **model_args, temporal="uniformerv2", temporal_args=args)
