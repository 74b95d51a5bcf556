"""What timm's `Eva` has and its `VisionTransformer` has not: rotations of places, and blocks of their own."""

import copy

import pytest
import torch
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from torch.testing import assert_close

from inti_models import InTIEva, from_image_model
from inti_models.models.temporal import METHODS, TemporalBlock
from support.models import miniature, randomize_model_

ROTARY = {"use_rot_pos_emb": True, "num_reg_tokens": 2}
DRAWN = [
    {"rope_type": "cat", "rope_shift_coords": 0.5},
    {"rope_type": "dinov3", "rope_jitter_coords": 1.5, "dynamic_img_size": True},
    {"rope_type": "mixed", "rope_rescale_coords": 2.0},
]


@pytest.mark.parametrize("args", DRAWN, ids=str)
def test_frames_share_the_coordinates_that_are_drawn(tiny_args, args):
    model = randomize_model_(InTIEva(**tiny_args, **ROTARY, **args, compress_at=())).train()
    still = torch.randn(2, 1, 3, 32, 48).expand(2, 4, 3, 32, 48)
    tokens = model.forward_features(still)
    assert_close(tokens, tokens[:, :1].expand_as(tokens))
    assert (model.forward_features(still) - tokens).abs().max() > 1e-3  # drawn anew
    assert torch.equal(model.eval().forward_features(still), model.forward_features(still))


@pytest.mark.parametrize("args", DRAWN, ids=str)
def test_blocks_that_run_again_get_the_coordinates_that_were_drawn(tiny_args, clip, args):
    model = randomize_model_(InTIEva(**tiny_args, **ROTARY, **args, compress_at=(1, 3), reduction=4)).train()
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(3)
        model(clip).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert_close(*gradients)


def test_rotation_is_that_of_the_place_after_compression(tiny_args, clip):
    """Blocks after a compression tell places apart as those before it: swapping two of the grid changes the logits."""
    args = {**tiny_args, **ROTARY, "use_abs_pos_emb": False, "global_pool": "avg"}
    model = randomize_model_(InTIEva(**args, compress_at=(0,), context=("point",), reduction=4))
    swapped = torch.cat((clip[..., 8:16], clip[..., :8], clip[..., 16:]), dim=-1)
    assert (model(swapped) - model(clip)).abs().max() > 1e-3
    model.rope = None
    assert_close(model(swapped), model(clip))


def test_attention_masks_apply_to_every_frame(tiny_args, clip):
    image_model = randomize_model_(Eva(**tiny_args, **ROTARY))
    model = from_image_model(copy.deepcopy(image_model), ())
    mask = torch.ones(27, 27, dtype=torch.bool).tril()
    for kwargs in ({"attn_mask": mask}, {"is_causal": True}):
        expected = image_model.forward_features(clip.flatten(0, 1), **kwargs).unflatten(0, (2, 5))
        assert_close(model.forward_features(clip, **kwargs), expected)
        assert not torch.allclose(model(clip, **kwargs), model(clip))


def test_learned_rotations_are_not_decayed(tiny_args):
    model = InTIEva(**tiny_args, **ROTARY, rope_type="mixed")
    names = {name for name, _ in model.named_parameters()}
    assert model.no_weight_decay() & names == {"cls_token", "reg_token", "pos_embed", "rope.freqs"}


# Temporal methods

WITH_CLASS_TOKEN = ["pe_core", "eva", "eva02_clip", "dinov3", "rope_mixed", "sapiens2"]
METHOD_ARGS = {"uniformerv2": {"num_global": 2, "local_reduction": 1.5}}


@pytest.mark.parametrize("family", WITH_CLASS_TOKEN)
@pytest.mark.parametrize("name", METHODS)
def test_temporal_method_works_in_the_blocks_of_eva(family, name, clip):
    image_model = miniature(family, global_pool="token")
    keys = set(image_model.state_dict())
    args = {"temporal": name, "temporal_args": METHOD_ARGS.get(name), "reduction": 4}
    model = from_image_model(copy.deepcopy(image_model), (1, 3), **args).eval()
    assert all(isinstance(block, TemporalBlock) for block in model.blocks)
    assert keys <= set(model.state_dict())  # image checkpoints fit
    if name != "uniformerv2":  # which starts with half of its video token
        assert_close(model(clip[:, 0]), image_model(clip[:, 0]))
    randomize_model_(model)
    others = torch.cat((clip[:, :1], torch.randn_like(clip[:, 1:])), dim=1)
    naive = from_image_model(copy.deepcopy(image_model), (), **args).eval()
    naive.load_state_dict(model.state_dict(), strict=False)
    seen = [naive.forward_stages(x)[:, 0] for x in (clip, others)]
    assert (seen[0] - seen[1]).abs().max() > 1e-3  # the first frame sees the others
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(clip).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert_close(*gradients)


@pytest.mark.parametrize("family", WITH_CLASS_TOKEN)
def test_block_of_eva_is_itself_within_a_temporal_method(family, clip):
    """`TemporalBlock` splits the image block in two branches: together they are the block."""
    model = from_image_model(miniature(family), ())
    x, inputs = model.embed(clip)
    for index, block in enumerate(model.blocks):
        args = model.block_args(index, inputs)
        expected = block(x.flatten(0, 1), **args).unflatten(0, x.shape[:2])
        assert type(block) is EvaBlock
        assert_close(TemporalBlock(block, torch.nn.Module())(x, inputs.grid_size, **args), expected)


def test_block_with_norms_after_its_branches_takes_no_temporal_method():
    image_model = miniature("eva02_enormous")
    assert isinstance(image_model.blocks[0], EvaBlockPostNorm)
    with pytest.raises(TypeError, match=r"eva.EvaBlock, not eva.EvaBlockPostNorm; leave temporal out, or use"):
        from_image_model(image_model, temporal="aim")
    with pytest.raises(ValueError, match="temporal='st_adapter' classifies by class tokens, not by global_pool='map'"):
        from_image_model(miniature("pe_core"), temporal="st_adapter")
