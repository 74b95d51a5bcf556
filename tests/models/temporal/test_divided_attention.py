"""Divided attention against nn.MultiheadAttention, and against the image model at the start."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.testing import assert_close


@torch.no_grad()
def test_block_attends_over_time_and_then_is_the_image_block(small):
    """Equations 10 and 11 of arXiv 2102.05095, with the class token among the positions."""
    block = small("divided_attention", compress_at=()).blocks[2]
    attention = nn.MultiheadAttention(32, 2, batch_first=True)
    own = block.temporal.attn
    attention.in_proj_weight.data, attention.in_proj_bias.data = own.qkv.weight, own.qkv.bias
    attention.out_proj.weight.data, attention.out_proj.bias.data = own.proj.weight, own.proj.bias
    x = torch.randn(2, 3, 25, 32)
    expected = x.clone()
    for n in range(25):
        along = block.temporal.norm(x[:, :, n])
        expected[:, :, n] += attention(along, along, along, need_weights=False)[0]
    for t in range(3):
        frame = expected[:, t] + block.attn(block.norm1(expected[:, t]))
        expected[:, t] = frame + block.mlp(block.norm2(frame))
    assert_close(block(x, (4, 6)), expected)


@torch.no_grad()
def test_at_the_start_every_frame_is_that_of_the_image_model(fresh, tiny_args, clip):
    model = fresh("divided_attention")
    twin = VisionTransformer(**tiny_args).eval()
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if "temporal." not in k})
    for t, frame in enumerate(clip.unbind(1)):
        assert_close(model.forward_features(clip)[:, t], twin.forward_features(frame))
    assert_close(model(clip), sum(twin(frame) for frame in clip.unbind(1)) / 5)
