"""Configs and headers of checkpoints of any structure: a model or one sentence, and nothing that was planted runs.

`fuzz_checkpoints.py` damages what was saved. Here somebody meant it: nothing states a digest.
"""

import json
import shutil
import struct

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from inti_models import InTIVisionTransformer, load, save_pretrained
from inti_models.models.registry import create_model
from inti_models.weights.hub import CONFIG_DIGEST
from inti_models.weights.tensor_files import DIGEST, read_checkpoint

NAME = "inti_vit_t8_32_motiondigits"
SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 1, "compress_at": (1,)}
NUMBERS = st.one_of(st.integers(-3, 40), st.integers(), st.floats(), st.sampled_from([2**14, 2**31, 2**63, 10**12]))
TEXTS = st.one_of(
    st.text(max_size=5), st.sampled_from([NAME, "inti_vit", "avg", "token", "../x", "softmax", "uniform"])
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
DTYPES = st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "", "F33"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder to write to, and the config of the model in it."""
    folder = tmp_path_factory.mktemp("structure") / "model"
    torch.manual_seed(0)
    save_pretrained(create_model(NAME, **SMALL), folder)
    config = json.loads((folder / "config.json").read_text())
    del config[CONFIG_DIGEST]
    return folder, config


def places(value, path=()):
    """Every place in a nested value, as a path of keys and numbers."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def in_one_sentence(action, *args):
    """Its result; None if it was refused as it should be."""
    try:
        return action(*args)
    except (ValueError, OSError, TypeError) as error:
        assert str(error) and "\n" not in str(error), error
        return None


MODEL_ARGS = (
    "compress_at",
    "num_frames",
    "weighting",
    "context",
    "img_size",
    "patch_size",
    "temporal",
    "temporal_args",
)
MODEL_ARGS += ("global_pool", "embed_dim", "depth", "num_heads", "drop_rate", "reduction", "base", "in_chans")
ARGUMENTS = st.sampled_from(MODEL_ARGS)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_config_of_any_structure_makes_a_model_or_a_sentence(saved, data):
    folder, config = saved
    config = json.loads(json.dumps(config))
    for _ in range(data.draw(st.integers(1, 3))):
        value = data.draw(JSON)
        if data.draw(st.booleans()):
            config.setdefault("model_args", {})
            if isinstance(config["model_args"], dict):
                config["model_args"][data.draw(ARGUMENTS)] = value
            continue
        *path, last = data.draw(st.sampled_from(list(places(config)) or [("architecture",)]))
        here = config
        for key in path:
            here = here[key]
        here[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    model = in_one_sentence(load, folder)
    if model is not None:  # and then with the weights of the file; a warning tells of another schedule
        assert isinstance(model, InTIVisionTransformer)
        state, tensors = model.state_dict(), read_checkpoint(folder / "model.safetensors")
        assert all(key.startswith("interpolations.") for key in state.keys() ^ tensors.keys())
        for key in state.keys() & tensors.keys():  # embeddings may have been resampled
            assert state[key].shape != tensors[key].shape or torch.equal(state[key], tensors[key]), key


TENSORS = st.dictionaries(
    st.one_of(st.text(max_size=8), st.sampled_from(["head.weight", "head.bias", "cls_token", "state_dict", "model"])),
    st.one_of(
        JSON,
        st.fixed_dictionaries(
            {
                "dtype": DTYPES,
                "shape": st.lists(st.one_of(st.integers(0, 4), NUMBERS), max_size=4),
                "data_offsets": st.lists(st.one_of(st.integers(0, 64), NUMBERS), min_size=1, max_size=3),
            }
        ),
    ),
    max_size=3,
)


@given(header=TENSORS, body=st.binary(max_size=64), wrong=st.sampled_from([0, 0, 0, 1, -1, 2**40]))
@example({"head.bias": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(16), 0)
def test_header_of_any_structure_makes_tensors_or_a_sentence(tmp_path_factory, saved, header, body, wrong):
    folder = tmp_path_factory.getbasetemp() / "header"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved[0], folder)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in saved[1].items() if k != DIGEST}))
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", max(0, len(text) + wrong)) + text + body)
    tensors = in_one_sentence(read_checkpoint, folder / "model.safetensors")
    assert tensors is None or sum(t.nbytes for t in tensors.values()) == len(body)
    assert in_one_sentence(load, folder) is None  # it is never this model
