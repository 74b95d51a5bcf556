"""The steps of a model, and that another trunk needs two methods: timm's `Eva`, with rotary embeddings."""

import dataclasses
import json

import pytest
import torch
from timm.models.eva import Eva
from torch.testing import assert_close

from inti_models.models.config import InTIConfig
from inti_models.models.stages import InTIModel
from inti_models.models.streaming import StreamingClassifier


class InTIEva(InTIModel, Eva):
    def embed_positions(self, patches):
        return self._pos_embed(patches)

    def block_args(self, index, inputs):
        rope = inputs.positions[index] if self.rope_mixed else inputs.positions
        return {"rope": rope, "attn_mask": inputs.attn_mask, "is_causal": inputs.is_causal}


ROTARY = [
    {"use_rot_pos_emb": True, "qkv_fused": False, "swiglu_mlp": True},
    {"use_rot_pos_emb": True, "rope_type": "mixed"},
    {"use_rot_pos_emb": True, "dynamic_img_size": True, "num_reg_tokens": 2},
]


@pytest.mark.parametrize("rotary", ROTARY, ids=str)
def test_another_trunk_is_a_class_of_two_methods(tiny_args, randomize_, rotary):
    args = {**tiny_args, **rotary, "ref_feat_shape": (4, 6)}
    image_model = randomize_(Eva(**args))
    naive = InTIEva(**args, compress_at=()).eval()
    naive.load_state_dict(image_model.state_dict())
    clip = torch.randn(2, 5, 3, 32, 48)
    pooled = image_model.forward_head(image_model.forward_features(clip.flatten(0, 1)), pre_logits=True)
    with torch.no_grad():
        assert_close(naive(clip), image_model.head(pooled.unflatten(0, (2, 5)).mean(1)))
        model = randomize_(InTIEva(**args, compress_at=(1, 3), reduction=4))
        model.load_state_dict(image_model.state_dict(), strict=False)
        assert_close(model(clip[:, 0]), image_model(clip[:, 0]))
        assert (model(clip) - naive(clip)).abs().max() > 1e-3
        assert model.frame_weights(clip).shape == (2, 5, 4, 6)
        video = torch.randn(1, 12, 3, 32, 48)
        windows = [model(video[:, start : start + 8]) for start in (0, 2, 4)]
        assert_close(StreamingClassifier(model, 8, stride=2).push(video), torch.stack(windows, 1), rtol=1e-5, atol=1e-5)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(clip).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert_close(*gradients)


def test_steps_make_the_forward_pass(tiny, clip):
    model, clip = tiny(), clip[:, :4]
    x, inputs = model.embed(model.to_clip(clip))
    assert [list(blocks) for blocks in model.stages] == [[0], [1, 2], [3]]
    for stage in range(3):
        x = model.forward_stage(stage, x, inputs)
    assert_close(model.classify_frames(model.pool_frames(model.norm_tokens(x))), model(clip))


def test_config_is_flat_in_what_is_saved_and_read_back(tiny):
    args = {"weighting": "linear", "num_frames": 5, "temporal": "aim", "temporal_args": {"scale": 1.0}}
    saved = json.loads(json.dumps(tiny(**args)._model_args))
    config, rest = InTIConfig.split({**saved, "embed_dim": 32})
    assert rest == {"embed_dim": 32}
    assert (config.compress_at, config.num_frames, config.temporal_args) == ([1, 3], 5, {"scale": 1.0})
    names = {field.name for field in dataclasses.fields(InTIConfig)}
    assert set(config.model_args()) == names - {"antialias", "resize_rounding", "views"}  # which have their defaults
    assert InTIConfig(views=(4, 3)).model_args()["views"] == (4, 3)
    assert "temporal" not in tiny()._model_args
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_frames = 4
