"""Damaged checkpoints through loading: each is refused with a sentence, or loads exactly the weights that were saved.

    python tools/fuzz_checkpoints.py [--mutants 1000] [--seed 0] [--keep DIR] [--output FILE]

A saved model's folder, with damage to `model.safetensors` (bytes, header, names, shapes, types) or to `config.json`
(bytes, keys, values of any type), or with a pickle in place of the weights that would write a file when it is opened. A
model that loads with other weights or another config, or a pickle that ran, is a failure.
"""

import functools
import json
import pickle
import random
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner import fuzz

LIMIT, MEMORY = 30.0, 4 * 1024.0
VALUES: tuple[Any, ...] = (None, True, False, 0, -1, 3, 10**9, 0.5, float("nan"), "", "x", "../x", [], [1, 2], {}, [[]])
PLANTED = "planted"


class Planted:
    """A trap that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "ran")


def _what_it_is(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all that a model's files determine: its weights; its config, and its output for a clip."""
    import torch

    config = {key: value for key, value in model.pretrained_cfg.items() if key not in ("file", "source")}
    args = {name: getattr(model, name) for name in ("compress_at", "num_frames", "sampling", "frame_stride")}
    clip = torch.linspace(-1, 1, 8 * 3 * 32 * 32).view(1, 8, 3, 32, 32)
    with torch.no_grad():
        return model.state_dict(), {**config, **args, "logits": model.eval()(clip).tolist()}


@functools.cache
def _saved() -> tuple[Path, tuple[dict[str, Any], dict[str, Any]]]:
    """Return a saved model, and what it is when it is loaded."""
    import torch

    from inti_models import load, save_pretrained

    torch.manual_seed(0)
    model = load("inti_vit_t8_32_motiondigits")
    folder = Path(tempfile.mkdtemp()) / "model"
    save_pretrained(model, folder, label_names=list(model.pretrained_cfg["label_names"]))
    return folder, _what_it_is(load(folder))


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, or insert."""
    at = rng.randrange(len(data))
    match rng.randrange(4):
        case 0:
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 3, 30))):
                damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(damaged)
        case 1:
            return data[:at]
        case 2:
            return data[:at] + rng.randbytes(rng.choice((1, 8, 999))) + data[at:]
        case _:
            return data[at:]


def damage_header(data: bytes, rng: random.Random) -> bytes:
    """Damage the safetensors header: names, types, shapes, places, length."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    a, b = rng.sample(names, 2)
    match rng.randrange(7):
        case 0:
            header[a], header[b] = header[b], header[a]
        case 1:
            header[a]["dtype"] = rng.choice(("F16", "I32", "U8", "F64", "XX"))
        case 2:
            header[a]["shape"] = rng.choice(([], [1], [-1], [10**12], header[b]["shape"], [0, 5]))
        case 3:
            header[a]["data_offsets"] = rng.choice(([0, 0], [5, 3], [0, 10**15], header[b]["data_offsets"], [-4, 0]))
        case 4:
            del header[a]
        case 5:
            header[f"{a}.more"] = header[a]
        case _:
            return struct.pack("<Q", rng.choice((0, 1, 2**63, length + 8, length - 1))) + data[8:]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """Remove or add keys, or change types of values, at any depth."""
    config = json.loads(data)
    here: Any = config
    while True:
        if not here:
            break
        key = rng.choice(list(here) if isinstance(here, dict) else range(len(here)))
        if isinstance(here[key], dict | list) and here[key] and rng.random() < 0.6:
            here = here[key]
            continue
        if rng.random() < 0.3:
            del here[key]
        else:
            here[key] = rng.choice(VALUES)
        break
    if rng.random() < 0.1:
        config[rng.choice(("more", "file", "state_dict", "__class__"))] = rng.choice(VALUES)
    return json.dumps(config).encode()


def mutants(folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Yield folders to load, one after another."""
    rng = random.Random(seed)
    original, _ = _saved()
    for i in range(count):
        path = folder / f"{i:05d}"
        shutil.copytree(original, path)
        weights, config = path / "model.safetensors", path / "config.json"
        match rng.randrange(5):
            case 0:
                weights.write_bytes(damage_bytes(weights.read_bytes(), rng))
            case 1:
                weights.write_bytes(damage_header(weights.read_bytes(), rng))
            case 2:
                config.write_bytes(damage_bytes(config.read_bytes(), rng))
            case 3:
                config.write_bytes(damage_json(config.read_bytes(), rng))
            case _:
                name = rng.choice(("model.safetensors", "pytorch_model.bin", "model.pth"))
                if rng.random() < 0.5:
                    weights.unlink()
                (path / name).write_bytes(pickle.dumps(Planted(path / PLANTED)))
        yield path


def prepare() -> None:
    """Save the model."""
    _saved()


def examine(path: Path) -> str:
    """Load a folder, and compare the model with the saved one."""
    import torch

    from inti_models import load

    _, (weights, config) = _saved()
    try:
        state, other = _what_it_is(load(path))
    finally:
        if (path / PLANTED).exists():
            return "FAILURE: the pickle ran"  # noqa: B012
    if state.keys() != weights.keys() or any(not torch.equal(state[key], weights[key]) for key in weights):
        return "FAILURE: loaded other weights"
    if other != config:
        return f"FAILURE: loaded with another {', '.join(key for key in config if other.get(key) != config[key])}"
    return "loaded: the model that was saved"


if __name__ == "__main__":
    sys.exit(fuzz(Path(__file__), __doc__, mutants, 1000, LIMIT, MEMORY))
