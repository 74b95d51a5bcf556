"""Configs and headers of strangers: one sentence each, before anything large is made."""

import json
import signal
from pathlib import Path

import pytest
import timm
from safetensors.torch import load_file, save_file

from inti_models import load, save_pretrained
from inti_models.weights.config import CONFIG_DIGEST, MAX_BYTES, check_model
from inti_models.weights.hub import create
from inti_models.weights.tensor_files import MAX_HEADER, read_checkpoint, read_shapes, stated_digest
from support.processes import memory_of

NAME = "inti_vit_t8_32_motiondigits"
HANG, MEMORY = 20, 256  # seconds, MiB beyond those of the imported package


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model, and its config as somebody wrote it who means it."""
    folder = tmp_path_factory.mktemp("saved")
    model = timm.create_model(NAME, embed_dim=32, depth=4, num_heads=2, compress_at=(1, 3), num_classes=5)
    save_pretrained(model, folder, label_names=list("abcde"))
    config = json.loads((folder / "config.json").read_text())
    del config[CONFIG_DIGEST]
    return folder, config


@pytest.fixture
def hostile(saved, tmp_path):
    """Write a folder of the saved weights with another config; a part of it is given by the path to it."""

    def write(part, change):
        folder, config = saved
        config = json.loads(json.dumps(config))
        inner = config
        for key in filter(None, part.split(".")):
            inner = inner.setdefault(key, {})
        inner |= change
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        return tmp_path

    return write


def refused(function, *args, **kwargs):
    """Check that a ValueError of one sentence comes, and return it."""
    with pytest.raises(ValueError) as error:  # noqa: PT011  (its sentence is the matter)
        function(*args, **kwargs)
    sentence = str(error.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < 800
    return sentence


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux")
@pytest.mark.parametrize(
    ("part", "change", "named"),
    [
        ("model_args", {"depth": 2**14}, "depth=16384"),
        ("", {"architecture": "inti_vit", "model_args": {"base": "vit_gigantic_patch14_clip_224"}}, "weights"),
        ("", {"architecture": "inti_vit", "model_args": {"base": "convnext_xxlarge"}}, "config.json"),
        ("", {"architecture": "inti_vit_l14_336_k400", "model_args": {}}, "weights"),
        ("model_args", {"compress_at": [2] * 20_000}, "compress_at"),
        ("model_args", {"compress_at": [2] * 32}, "weights"),
        ("model_args", {"embed_dim": 2**14}, "weights"),
        ("model_args", {"mlp_ratio": 1e6}, "mlp_ratio"),
        ("model_args", {"mlp_ratio": 1e4}, "weights"),
        ("model_args", {"temporal": "st_adapter", "temporal_args": {"width": 10**9}}, "width"),
        ("model_args", {"temporal": "st_adapter", "temporal_args": {"width": 2**14}}, "temporal"),
        ("model_args", {"temporal": "st_adapter", "temporal_args": {"kernel_size": [9999] * 3}}, "weights"),
        ("model_args", {"temporal": "aim", "num_frames": 10**9}, "num_frames"),
        ("model_args", {"img_size": 4096}, "pos_embed"),
        ("", {"num_classes": 2**20, "label_names": None}, "num_classes"),
        ("pretrained_cfg", {"fixed_input_size": False, "input_size": [3, 10**6, 10**6]}, "input_size"),
        ("pretrained_cfg", {"crop_pct": 0.001}, "crop_pct"),
        ("", {"label_names": ["x" * 2**20] * 5}, "4 MiB"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_large_config_is_refused_before_it_takes_memory(hostile, part, change, named):
    folder = hostile(part, change)

    def load_it():
        signal.alarm(HANG)
        assert named in refused(load, folder)

    assert memory_of(load_it) < MEMORY


NOT_NUMBERS = ["one", None, [], {}, True, float("nan"), float("inf"), -1, 0, 10**30, 1e300, 1e-300]


@pytest.mark.parametrize(
    ("part", "key", "values"),
    [
        ("pretrained_cfg", "mean", [0.5, [], ["x"], [float("nan")] * 3, [1e9] * 3, {"0": 1}, [True] * 3, [[1]]]),
        ("pretrained_cfg", "std", [0.5, [], [0] * 3, [-1] * 3, [1e-38] * 3, [float("inf")] * 3, [1e9] * 3]),
        ("pretrained_cfg", "crop_pct", [value for value in NOT_NUMBERS if value is not None] + [1.01, 0.05]),
        ("pretrained_cfg", "crop_mode", ["border ", "", 3, ["center"], {}]),
        ("pretrained_cfg", "interpolation", ["cubic", "", 3, ["bicubic"], {}]),
        ("pretrained_cfg", "test_input_size", [224, [3], [3, 10**6, 10**6], [3, -1, 5], [3, 1.5, 2], "3x32x32", {}]),
        ("pretrained_cfg", "first_conv", ["head", 3, ["patch_embed.proj"]]),
        ("pretrained_cfg", "classifier", ["blocks.0", 3, ["head"]]),
        ("pretrained_cfg", "label_offset", [1, -1, "x"]),
        ("pretrained_cfg", "nonsense", [1]),
        ("", "num_classes", [*NOT_NUMBERS, 4, 6, "5", 5.5, [5]]),
        ("", "label_names", [{"a": 1}, "abcde", 5, list("abc"), [1, 2, 3, 4, 5], [["a"]] * 5]),
        ("", "pretrained_cfg", [None, 3, [], "x"]),
        ("", "architecture", [None, 3, [], {}, "vit_base_patch16_224", "inti_vit"]),
        ("", "model_args", [3, "x", [], {"more": 1}, {"out_indices": 1}]),
        ("model_args", "features_only", [True, False]),
        *[
            ("model_args", name, [value for value in NOT_NUMBERS if value not in (None, True)])
            for name in ("depth", "embed_dim", "patch_size", "img_size", "reduction", "num_heads", "mlp_ratio")
        ],
        ("model_args", "num_frames", ["8", [8], 0, -1, 10**6, 1.5, float("nan")]),
        ("model_args", "frame_stride", ["2", [2], 0, -1, 10**6, 1.5, float("nan")]),
        ("model_args", "sampling", ["sometimes", 3, ["uniform"], {}]),
        ("model_args", "compress_at", ["1,3", 3, [9], [3, 1], [1.5], [True, 3], {"1": 3}, [[1]], [-1], [1]]),
        ("model_args", "context", ["point", [], ["nothing"], 3, ["point"]]),
        ("model_args", "weighting", ["none", 3, ["softmax"], {}, "uniform"]),
        ("model_args", "temporal", ["none", 3, ["aim"], {}, "aim"]),
        ("model_args", "temporal_args", [{"width": 3}, 3, "x", [1]]),
        *[("model_args", name, [float("nan"), 2, -1, "x"]) for name in ("drop_rate", "drop_path_rate")],
        *[("model_args", name, ["nonsense", 3, [1]]) for name in ("act_layer", "global_pool")],
    ],
)
def test_a_value_that_no_model_has_is_refused(hostile, part, key, values):
    for value in values:
        folder = hostile(part, {key: value})
        assert str(folder) in refused(load, folder), value


def test_numbers_beyond_floats_and_deep_nesting_are_refused(hostile):
    for number in ("1e999", "-1e999", "NaN", "Infinity", "1" * 5000):
        folder = hostile("model_args", {"drop_rate": "HERE"})
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace('"HERE"', number))
        assert "config.json is not a model's config" in refused(load, folder)
    for depth in (500, 10_000):
        (folder / "config.json").write_text(text.replace('"HERE"', "[" * depth + "]" * depth))
        assert "config.json" in refused(load, folder)


def test_a_config_is_built_only_as_large_as_a_model_can_be(hostile):
    """Without the header of weights at hand."""
    assert "larger than" in refused(create, hostile("model_args", {"depth": 2**14}))
    assert "larger than" in refused(create, hostile("model_args", {"mlp_ratio": 1e4, "embed_dim": 2**14}))


@pytest.mark.parametrize(
    ("name", "model_args"),
    [
        ("inti_vit_l14_336_k400", {}),
        ("inti_uniformerv2_l14_ssv2", {"compress_at": [8, 20]}),
        ("inti_aim_b16_ssv2", {"num_frames": 32}),
        ("inti_vit", {"base": "vit_giant_patch14_reg4_dinov2", "num_classes": 7}),
        ("inti_vit", {"base": "vit_so400m_patch14_siglip_224", "compress_at": []}),
    ],
)
def test_large_models_are_not_larger_than_their_own_headers(name, model_args):
    model = timm.create_model(name, device="meta", **model_args)
    header = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    cfg = {**model.pretrained_cfg, "num_classes": model.num_classes, "label_names": None}
    check_model(Path("config.json"), cfg, name, model_args, Path("model.safetensors"), header)
    check_model(Path("config.json"), cfg, name, model_args)


def test_weights_of_another_schedule_are_refused_by_the_config_and_taken_by_an_argument(hostile):
    folder = hostile("model_args", {"compress_at": [2]})
    assert "lacks interpolations.2.0" in refused(load, folder)
    assert load(hostile("model_args", {}), compress_at=(2,)).compress_at == (2,)


# Headers


@pytest.fixture(scope="module")
def million(tmp_path_factory):
    """A safetensors file of a million empty tensors."""
    path = tmp_path_factory.mktemp("million") / "model.safetensors"
    entries = ",".join(f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(10**6))
    header = f"{{{entries}}}".encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux")
def test_a_header_of_a_million_tensors_is_refused_unread(million, hostile):
    folder = hostile("", {})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(million)

    def read():
        signal.alarm(HANG)
        for action, file in ((load, folder), (read_checkpoint, million), (read_shapes, million)):
            assert f"more than the limit of {MAX_HEADER}" in refused(action, file)
        assert stated_digest(million) is None

    assert memory_of(read) < MEMORY


def test_the_shapes_of_a_header_are_those_of_the_tensors(saved, tmp_path):
    path = saved[0] / "model.safetensors"
    tensors = load_file(path)
    assert read_shapes(path) == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    many = {
        f"blocks.{i}.a.name.as.long.as.those.of.large.models": tensors["norm.bias"][:1].clone() for i in range(5000)
    }
    save_file(many, tmp_path / "many.safetensors")  # more than any model has, and still read
    assert read_shapes(tmp_path / "many.safetensors").keys() == many.keys()
    assert (tmp_path / "many.safetensors").stat().st_size < MAX_HEADER < MAX_BYTES


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(hostile, number):
    folder = hostile("", {"note": "NUMBER"})
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"NUMBER"', number))
    assert number in refused(load, folder)
