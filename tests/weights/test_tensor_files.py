"""Tensors in safetensors files: written whole, verified when read, and refused when damaged."""

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from inti_models.weights.tensor_files import digest, is_finite, read_checkpoint, save_checkpoint, stated_digest


@pytest.fixture
def saved(tiny, tmp_path):
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    save_checkpoint(tiny(), path)
    return path


def test_tensors_come_back_with_their_digest(saved, tiny):
    torch.manual_seed(0)
    expected = tiny().state_dict()
    tensors = read_checkpoint(saved)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert_close(tensor, expected[name], rtol=0, atol=0)
    assert stated_digest(saved) == digest(tensors)
    save_file(tensors, saved)
    assert stated_digest(saved) is None
    saved.write_bytes(b"")
    assert stated_digest(saved) is None


def test_tensors_that_were_verified_stay_when_the_file_is_overwritten_in_place(saved):
    tensors, stated = read_checkpoint(saved), stated_digest(saved)
    with saved.open("r+b") as file:
        file.write(bytes(saved.stat().st_size))
    assert digest(tensors) == stated


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_finite_means_every_value(dtype, value):
    tensor = torch.ones(3, 4, dtype=dtype)
    assert is_finite(tensor) and is_finite(torch.empty(0)) and is_finite(torch.empty(2, device="meta"))
    tensor[1, 2] = value
    assert not is_finite(tensor)


def header_size(path):
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.mark.parametrize("place", ["length", "brace", "digest", "name", "first", "middle", "last"])
@pytest.mark.parametrize("bit", [0, 3, 6])
def test_a_flipped_bit_is_noticed(saved, place, bit):
    content = bytearray(saved.read_bytes())
    header = header_size(saved)
    offset = {
        "length": 0,
        "brace": 8,
        "digest": content.index(digest(read_checkpoint(saved)).encode()) + 5,
        "name": content.index(b"blocks.1.attn") + 7,
        "first": header,
        "middle": (header + len(content)) // 2,
        "last": len(content) - 1,
    }[place]
    content[offset] ^= 1 << bit
    saved.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors is (damaged|not a complete safetensors file).*again\.$"):
        read_checkpoint(saved)


@pytest.mark.parametrize("length", [0, 1, 8, 9, 1000, "header", "half", -1, "longer"])
@pytest.mark.parametrize("foreign", [False, True])
def test_a_file_of_another_length_is_noticed(saved, tiny, length, foreign):
    if foreign:
        save_file(tiny().state_dict(), saved)
    content = saved.read_bytes()
    end = {"header": header_size(saved), "half": len(content) // 2}.get(length, length)
    saved.write_bytes(content + b"\0" if length == "longer" else content[:end])
    with pytest.raises(ValueError, match="model.safetensors is not a complete safetensors file"):
        read_checkpoint(saved)


def test_digest_depends_on_names_shapes_types_and_values_but_not_on_order():
    tensors = {"a": torch.arange(4.0), "b": torch.zeros(()), "c": torch.zeros(0)}
    others = [
        {**tensors, "a": torch.arange(4.0).view(2, 2)},
        {**tensors, "a": torch.arange(4.0).view(torch.int32)},
        {**tensors, "b": torch.ones(())},
        {"x": tensors["a"], "b": tensors["b"], "c": tensors["c"]},
        {"a": tensors["a"], "b": tensors["b"]},
    ]
    assert digest(dict(reversed(tensors.items()))) == digest(tensors)
    assert len({digest(tensors), *map(digest, others)}) == 1 + len(others)
    assert digest({"a": torch.arange(6.0).view(2, 3).T}) == digest({"a": torch.arange(6.0).view(2, 3).T.contiguous()})
    assert digest({"a": torch.ones(2, dtype=torch.bfloat16)}) != digest({"a": torch.ones(2, dtype=torch.float16)})


def test_tied_tensors_are_saved_each(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_checkpoint(model, tmp_path / "tied.safetensors")
    saved = read_checkpoint(tmp_path / "tied.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ""])
def test_no_other_file_is_opened(saved, suffix):
    other = saved.rename(saved.with_suffix(suffix))
    with pytest.raises(ValueError, match="is not a .safetensors file, and nothing else is opened"):
        read_checkpoint(other)


def test_a_tensor_that_timm_takes_for_a_nested_checkpoint_is_refused(tmp_path):
    save_file({"state_dict": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has, unlike any model, state_dict;"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_a_file_that_cannot_be_written_leaves_the_old_one(saved, tiny):
    before = saved.read_bytes()
    model = tiny()
    model.register_buffer("phase", torch.zeros(3, dtype=torch.complex128))  # a type that safetensors has not
    with pytest.raises(KeyError):
        save_checkpoint(model, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]
