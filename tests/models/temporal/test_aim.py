"""AIM against nn.MultiheadAttention with the block's weights, and against the image model at the start."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.testing import assert_close

from inti_models.models.temporal.method import interpolate_time


def shared_attention(block, dim=32, num_heads=2):
    """torch's own attention with the weights of timm's block."""
    attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
    attention.in_proj_weight.data, attention.in_proj_bias.data = block.attn.qkv.weight, block.attn.qkv.bias
    attention.out_proj.weight.data, attention.out_proj.bias.data = block.attn.proj.weight, block.attn.proj.bias
    return lambda x: attention(x, x, x, need_weights=False)[0]


def adapter(module, x):
    return F.linear(F.gelu(F.linear(x, module.fc1.weight, module.fc1.bias)), module.fc2.weight, module.fc2.bias)


@torch.no_grad()
@pytest.mark.parametrize("args", [{}, {"scale": 1.0, "adapt_input": True}], ids=str)
def test_block_equals_attention_over_time_then_space_then_both_mlps(small, args):
    """Figure 2d of arXiv 2302.03024."""
    block = small("aim", args, compress_at=()).double().blocks[1]
    attend, adapters = shared_attention(block), block.temporal
    assert ("time_in" in adapters) == args.get("adapt_input", False)
    x = torch.randn(2, 3, 25, 32, dtype=torch.float64)
    expected = x.clone()
    for n in range(25):  # the same position in all frames
        along = block.norm1(x[:, :, n])
        if "time_in" in adapters:
            along = along + adapter(adapters["time_in"], along)
        expected[:, :, n] += adapter(adapters["time"], attend(along))
    for t in range(3):
        attended = attend(block.norm1(expected[:, t]))
        expected[:, t] += attended + adapter(adapters["space"], attended)
    normed = block.norm2(expected)
    expected = expected + block.mlp(normed) + args.get("scale", 0.5) * adapter(adapters["joint"], normed)
    assert_close(block(x, (4, 6)), expected)


@torch.no_grad()
def test_at_the_start_every_frame_is_that_of_the_image_model(fresh, tiny_args, clip):
    model = fresh("aim", {"adapt_input": True})
    twin = VisionTransformer(**tiny_args).eval()
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if "temporal." not in k})
    for t, frame in enumerate(clip.unbind(1)):
        assert_close(model.forward_features(clip)[:, t], twin.forward_features(frame))
    assert_close(model(clip), sum(twin(frame) for frame in clip.unbind(1)) / 5)


@pytest.mark.parametrize("method", ["aim", "divided_attention"])
@torch.no_grad()
def test_time_embedding_is_added_to_every_token_of_a_frame(fresh, method):
    model = fresh(method, num_frames=4)
    model.temporal.time_embed.normal_()
    clip = torch.randn(1, 4, 3, 32, 48)
    zero = fresh(method, num_frames=4)
    zero.load_state_dict({**model.state_dict(), "temporal.time_embed": torch.zeros(1, 4, 32)})
    added = model.embed(clip)[0] - zero.embed(clip)[0]
    assert_close(added, model.temporal.time_embed[:, :, None].expand(1, 4, 25, 32), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 16])
def test_time_embedding_is_interpolated_between_the_centres_of_frames(frames):
    embedding = torch.randn(1, 4, 6)
    expected = []
    for t in range(frames):
        at = min(max((t + 0.5) * 4 / frames - 0.5, 0), 3)
        low = int(at)
        high = min(low + 1, 3)
        expected.append((low + 1 - at) * embedding[:, low] + (at - low) * embedding[:, high])
    assert_close(interpolate_time(embedding, frames), torch.stack(expected, dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_time_embedding_for_its_own_number_of_frames_is_as_it_is(dtype):
    embedding = torch.randn(1, 8, 64).to(dtype)
    assert torch.equal(interpolate_time(embedding, 8), embedding)
