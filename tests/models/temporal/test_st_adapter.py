"""ST-Adapter against a plain loop over positions, and against the image model at the start."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.testing import assert_close

from inti_models import InTIVisionTransformer
from inti_models.models.temporal.st_adapter import Adapter


def image_twin(model, args):
    twin = VisionTransformer(**args)
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if "temporal." not in k})
    return twin.eval()


def adapt_by_hand(adapter, x, grid_size):
    """X + f(DWConv3D(X W_down)) W_up, position by position (arXiv 2206.13559, equation 4); no class token."""
    batch, length, _, _ = x.shape
    height, width = grid_size
    kernel = adapter.conv.weight[:, 0]  # W kt kh kw
    reach = [size // 2 for size in kernel.shape[1:]]
    y = x.clone()
    for b in range(batch):
        reduced = x[b, :, 1:] @ adapter.fc1.weight.T + adapter.fc1.bias  # T HW W
        reduced = reduced.reshape(length, height, width, -1)
        for t in range(length):
            for h in range(height):
                for w in range(width):
                    total = adapter.conv.bias.clone()
                    for dt in range(-reach[0], reach[0] + 1):
                        for dh in range(-reach[1], reach[1] + 1):
                            for dw in range(-reach[2], reach[2] + 1):
                                if 0 <= t + dt < length and 0 <= h + dh < height and 0 <= w + dw < width:
                                    tap = kernel[:, dt + reach[0], dh + reach[1], dw + reach[2]]
                                    total += tap * reduced[t + dt, h + dh, w + dw]
                    y[b, t, 1 + h * width + w] += adapter.fc2.weight @ total + adapter.fc2.bias
    return y


@torch.no_grad()
@pytest.mark.parametrize("kernel_size", [(3, 1, 1), (3, 3, 3), (1, 1, 5)])
def test_adapter_equals_a_loop_over_positions(randomize_, kernel_size):
    adapter = randomize_(Adapter(8, 4, kernel_size))
    x = torch.randn(2, 3, 1 + 2 * 3, 8)
    y = adapter(x, (2, 3))
    assert_close(y, adapt_by_hand(adapter, x, (2, 3)))
    assert torch.equal(y[:, :, 0], x[:, :, 0])


@torch.no_grad()
@pytest.mark.parametrize("before", [("attn",), ("mlp",), ("mlp", "attn")])
def test_block_has_adapters_before_its_branches(small, before):
    model = small("st_adapter", {"width": 8, "before": before}, compress_at=())
    block = model.blocks[0]
    assert set(block.temporal) == set(before)
    x = torch.randn(1, 2, 25, 32)
    y = adapt_by_hand(block.temporal["attn"], x, (4, 6)) if "attn" in before else x
    y = torch.stack([frame + block.attn(block.norm1(frame)) for frame in y.unbind(1)], dim=1)
    y = adapt_by_hand(block.temporal["mlp"], y, (4, 6)) if "mlp" in before else y
    assert_close(block(x, (4, 6)), y + block.mlp(block.norm2(y)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_at_the_start_frames_are_those_of_the_image_model_with_the_norm_behind_their_mean(fresh, tiny_args, clip):
    model = fresh("st_adapter", {"before": ("attn", "mlp")})
    twin = image_twin(model, tiny_args)
    classes = []
    for frame in clip.unbind(1):
        x = twin.blocks(twin.norm_pre(twin._pos_embed(twin.patch_embed(frame))))
        classes.append(x[:, 0])
    expected = twin.head(twin.norm(sum(classes) / len(classes)))
    assert_close(model(clip), expected)
    per_frame = sum(twin(frame) for frame in clip.unbind(1)) / 5
    assert (per_frame - expected).abs().max() > 1e-3  # the order of norm and mean matters
    assert_close(model(clip[:, 0]), twin(clip[:, 0]))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"before": ()}, r"before=\(\) is not a non-empty subset"),
        ({"before": "attn"}, "before='attn' is not a non-empty subset"),
        ({"before": ("head",)}, r"before=\('head',\) is not a non-empty subset"),
        ({"kernel_size": (2, 1, 1)}, r"kernel_size=\(2, 1, 1\) is not three odd numbers"),
        ({"kernel_size": (3, 1)}, r"kernel_size=\(3, 1\) is not three odd numbers"),
        ({"kernel_size": 3}, "kernel_size=3 is not three odd numbers"),
    ],
    ids=str,
)
def test_bad_argument_is_told_in_a_sentence(tiny_args, args, message):
    with pytest.raises(ValueError, match=message):
        InTIVisionTransformer(**tiny_args, temporal="st_adapter", temporal_args=args)
