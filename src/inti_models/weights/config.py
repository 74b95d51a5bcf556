"""config.json of a saved model: read, and compared with the header of its weights before anything large is made.

Whoever wrote the file is not trusted. Its values are checked one by one, the model is built on the meta device (names
and shapes, no memory), which stops as soon as it is larger than its file of weights, and both are compared. Only
then is the model built and are the weights read.
"""

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg
from torch import Tensor
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from ..models.registry import create_model
from ._private import parse_model_cfg
from .tensor_files import DIGEST, Shapes, refuse, refuse_shapes

TEXT_SOURCE = "text_tower"  # in our config.json: where the text tower is, for a text head
CONFIG_DIGEST = "config_sha256"  # in our config.json, of the rest of it
MAX_BYTES = 2**22  # of a config.json; one with 20,000 class names has a tenth of it
_AGAIN = "copy, save or download it again"

# Arguments above these are damage, and would take all memory; "" for those that are not listed.
_LARGEST = {"num_classes": 2**20, "num_frames": 2**10, "": 2**14}
_MAX_COMPRESSIONS = 32  # each halves the frames
# A model that is built without the header of its weights: timm's largest has 600 tensors and 6 billion values.
_LARGEST_MODEL = (2**13, 2**33)

_CROP_MODES = ("center", "squash", "border")  # timm's
_FILTERS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random")


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_list(value: Any, check: Callable[[Any], bool], lengths: range | None = None) -> bool:
    return isinstance(value, list) and all(map(check, value)) and (lengths is None or len(value) in lengths)


def _is_size(value: Any) -> bool:
    return _is_list(value, lambda side: type(side) is int and 1 <= side <= 2**12, range(3, 4))


def _is_crop(value: Any) -> bool:
    return _is_number(value, 0.1, 1)


# Fields of the pretrained config that are used -> whether a value can be, and what is expected.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "input_size": (_is_size, "[channels, height, width] of 1 to 4096"),
    "test_input_size": (_is_size, "[channels, height, width] of 1 to 4096"),
    "min_input_size": (_is_size, "[channels, height, width] of 1 to 4096"),
    "crop_pct": (_is_crop, "a number from 0.1 to 1"),
    "test_crop_pct": (_is_crop, "a number from 0.1 to 1"),
    "crop_mode": (_CROP_MODES.__contains__, f"one of {', '.join(_CROP_MODES)}"),
    "interpolation": (_FILTERS.__contains__, f"one of {', '.join(_FILTERS)}"),
    "mean": (lambda value: _is_list(value, lambda x: _is_number(x, -256, 256), range(1, 257)), "numbers up to 256"),
    "std": (
        lambda value: _is_list(value, lambda x: _is_number(x, 1e-3, 1e3), range(1, 257)),
        "numbers from 0.001 to 1000",
    ),
    "num_classes": (lambda value: type(value) is int and 0 <= value <= 2**20, "an integer from 0 to 2**20"),
    "label_names": (lambda value: _is_list(value, lambda name: isinstance(name, str)), "a list of names"),
    "label_offset": (lambda value: type(value) is int and value == 0, "0"),
    "fixed_input_size": (lambda value: isinstance(value, bool), "true or false"),
    "first_conv": (lambda value: value in (None, "patch_embed.proj"), "'patch_embed.proj'"),
    "classifier": (lambda value: value in (None, "head"), "'head'"),
    "tag": (lambda value: isinstance(value, str), "a text"),
    "license": (lambda value: isinstance(value, str), "a text"),
    "description": (lambda value: isinstance(value, str), "a text"),
}


@dataclass(frozen=True)
class SavedConfig:
    """The contents of a config.json.

    Attributes:
        cfg: the pretrained config, without a source.
        architecture: name for `create_model`.
        args: the model's arguments.
        digest: digest of its weights; None where it does not say.
        text_source: where its text tower is (`text_tower.text_source`); None where it does not say.
    """

    cfg: dict[str, Any]
    architecture: str
    args: dict[str, Any]
    digest: str | None
    text_source: dict[str, Any] | None


def read_config(path: Path) -> SavedConfig:
    """Read a config.json.

    Each value is checked. The file is read once: another may have taken its place a moment later.

    Raises:
        ValueError: if it is not such a config, not as it was saved, or has a value that no model has.
    """
    try:
        config = read_json(path)
        stated, text_source = config.get(DIGEST), config.get(TEXT_SOURCE)
        unchanged = config.get(CONFIG_DIGEST) in (None, digest_of(config))
        cfg, architecture, args = parse_model_cfg(config, {})
        _check_fields(cfg)
        _check_text_source(text_source)
        cfg = PretrainedCfg(**{**cfg, "custom_load": False}).to_dict(remove_source=True)
        args = dict(args)
        _check_arguments(args)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"{path} is not a model's config ({error}); {_AGAIN}.") from error
    if not unchanged:
        raise ValueError(
            f"{path} is not as it was saved; {_AGAIN}, or, if you changed it yourself, take {CONFIG_DIGEST} out of it."
        )
    if architecture not in timm.list_models("inti*"):
        raise ValueError(
            f"{path} is of {_short(architecture)}, which is not an InTI model; name a folder or repository of one."
        )
    return SavedConfig(cfg, architecture, args, stated, text_source)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of at most `MAX_BYTES` whose numbers are all finite.

    Raises:
        ValueError: if it is not one.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
    return json.loads(content.decode("utf-8"), parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{_short(text)} is not a finite number")
    return number


def digest_of(config: dict[str, Any]) -> str:
    """Return the SHA-256, in hex, of a config.json without its digest; white space and key order do not matter."""
    rest = {key: value for key, value in config.items() if key != CONFIG_DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_fields(cfg: Mapping[str, Any]) -> None:
    for name, (fits, expected) in _FIELDS.items():
        value = cfg.get(name)
        value = list(value) if isinstance(value, tuple) else value  # timm's, of the arguments
        if value is not None and not fits(value):
            raise ValueError(f"{name} is {_short(value)}, expected {expected}")


def _check_text_source(source: Any) -> None:
    if source is None:
        return
    known = {"repository", "revision", "file", DIGEST}
    if not isinstance(source, dict) or not source.keys() <= known or not isinstance(source.get("file"), str):
        raise ValueError(f"{TEXT_SOURCE} is {_short(source)}, expected the file of a text tower and its repository")
    for key, value in source.items():
        if not isinstance(value, str | None):
            raise ValueError(f"{key} of {TEXT_SOURCE} is {_short(value)}, expected a string")


def _check_arguments(args: Mapping[str, Any]) -> None:
    for key, value in _items(args):
        fits = True
        if isinstance(value, int | float):
            largest = _LARGEST.get(key, _LARGEST[""])
            fits = 0 <= value <= (1 if key.endswith("_rate") or key.startswith("drop") else largest)
        elif key == "compress_at" and isinstance(value, list):
            fits = len(value) <= _MAX_COMPRESSIONS
        if not fits:
            raise ValueError(f"it says {key}={_short(value)}, which no model has")


def _items(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values within a JSON value, itself included, each with its key."""
    yield key, value
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _items(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _items(each, key)


def _short(value: Any) -> str:
    """Return a value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_model(
    path: Path,
    cfg: dict[str, Any],
    architecture: str,
    args: dict[str, Any],
    weights: Path | None = None,
    header: Shapes | None = None,
) -> None:
    """Build the model of a config.json on the meta device, and compare it with the header of its weights.

    Args:
        path: the config.json, for messages.
        cfg, architecture, args: what `read_config` gave.
        weights: the file of its weights, for messages.
        header: names and shapes in that file; None where it is not at hand: the model may then be as large as any.

    Raises:
        ValueError: if they make no model, one that is larger than its weights, or another one.
    """
    if header is None:
        tensors, values = _LARGEST_MODEL
    else:  # twice, for a part may be made anew for another number of classes, say, and some to tell small ones apart
        blocks = len({name.split(".")[1] for name in header if name.startswith("blocks.")})
        if blocks and (depth := args.get("depth", blocks)) != blocks:
            raise ValueError(f"{path} says depth={_short(depth)}, but its weights have {blocks} blocks; {_AGAIN}.")
        tensors, values = 2 * len(header) + 64, 2 * sum(map(math.prod, header.values())) + 2**24
    try:
        with _at_most(tensors, values, "its weights" if header else "any model of timm's"):
            model = create_model(
                architecture, pretrained_cfg=cfg, pretrained_model_args=args, **{**args, "device": "meta"}
            )
    except Exception as error:  # arguments that are none fail in as many ways as there are places for them
        raise ValueError(f"{path} does not make a model ({' '.join(str(error).split())[:500]}); {_AGAIN}.") from error
    if model.num_classes != cfg.get("num_classes"):
        raise ValueError(
            f"{path} says num_classes={cfg.get('num_classes')!r}, but its model has {model.num_classes}; {_AGAIN}."
        )
    if len(names := cfg.get("label_names") or ()) not in (0, model.num_classes):
        raise ValueError(f"{path} has {len(names)} label_names for {model.num_classes} classes; {_AGAIN}.")
    if header is not None:
        own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        refuse(str(weights), "lacks", own.keys() - header.keys())
        refuse(str(weights), "has, unlike the model,", header.keys() - own.keys())
        refuse_shapes(str(weights), header, own)


@contextmanager
def _at_most(tensors: int, values: int, limit: str) -> Iterator[None]:
    """Raise a ValueError once this thread makes more tensors, or values in them; ``limit`` says what has as many."""
    thread, made = threading.get_ident(), [0, 0]

    def count(module: Any, name: str, tensor: Tensor | None) -> None:
        if tensor is None or threading.get_ident() != thread:
            return
        made[0] += 1
        made[1] += tensor.numel()
        if made[0] > tensors or made[1] > values:
            raise ValueError(f"it is larger than {limit}")

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
