"""The steps of a model, and its arguments; trunks: test_trunks.py."""

import dataclasses
import json

import pytest
from torch.testing import assert_close

from inti_models.models.config import InTIConfig


def test_steps_make_the_forward_pass(tiny, clip):
    model, clip = tiny(), clip[:, :4]
    x, inputs = model.embed(model.to_clip(clip))
    assert [list(blocks) for blocks in model.stages] == [[0], [1, 2], [3]]
    for stage in range(3):
        x = model.forward_stage(stage, x, inputs)
    assert_close(model.classify_frames(model.pool_frames(model.norm_tokens(x))), model(clip))


def test_config_is_flat_in_what_is_saved_and_read_back(tiny):
    args = {"weighting": "linear", "num_frames": 5, "temporal": "aim", "temporal_args": {"scale": 1.0}, "text_dim": 7}
    saved = json.loads(json.dumps(tiny(**args)._model_args))
    config, rest = InTIConfig.split({**saved, "embed_dim": 32})
    assert rest == {"embed_dim": 32}
    assert (config.compress_at, config.num_frames, config.temporal_args) == ([1, 3], 5, {"scale": 1.0})
    names = {field.name for field in dataclasses.fields(InTIConfig)}
    defaults = {"antialias", "resize_rounding", "views", "multi_label", "temperature", "thresholds", "background"}
    assert set(config.model_args()) == names - defaults
    assert InTIConfig(views=(4, 3)).model_args()["views"] == (4, 3)
    assert "temporal" not in tiny()._model_args
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_frames = 4
