"""Turn a foreign checkpoint into a model of this zoo: a CLIP, a video model of a temporal method's official code, or a
pickle of one of our own models.

From a CLIP comes the trunk, and temporal modules and head start untrained; from a video model come all of these. The
interpolations start neutral, except that a model of ours is taken whole. Every tensor of the file is
either used or dropped for a stated reason, and every tensor that is to come from the file has to be in it.

A file does not say everything: the activation and the number of heads are read from the configuration beside it,
if there is one, and otherwise are those of the named model (``inti_vit_b16_k400.laion2b`` has GELU, the default tag
QuickGELU); options take precedence over both.

Files of PyTorch (.pt, .pth, .pyth, .bin) are read with ``weights_only=True``: code in them is never run.
"""

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.registry import create_model
from ..models.stages import InTIModel
from ..models.temporal import METHODS
from .checkpoint_filter import ADDED, HEAD, INTERPOLATIONS, WRAPPERS, unwrap
from .layouts import LAYOUTS, OURS, Layout, Tensors, is_trunk, timm_names
from .tensor_files import PICKLES, how_to_open, is_finite, is_torchscript, read_checkpoint

NESTED = 4  # dictionaries in dictionaries, at most; one of a pickle may hold itself

# Start of the model's key -> the option that states its size in this dimension.
SIZES = {HEAD: ("num_classes", 0), "temporal.time_embed": ("num_frames", 1)}


@dataclass(frozen=True)
class Source:
    """A foreign checkpoint, read but not interpreted.

    Attributes:
        path: its file.
        tensors: by the file's names.
        layout, prefix: how it names them.
        dropped: the file's name -> why it is not used.
    """

    path: Path
    tensors: Tensors
    layout: Layout
    prefix: str
    dropped: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> Source:
    """Read a checkpoint and recognise its layout.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a checkpoint that can be read without running code, or has no known layout.
    """
    if not path.is_file():
        what = "is a folder; name the weights file in it" if path.is_dir() else "does not exist; check the path"
        raise FileNotFoundError(f"{path} {what}.")
    loaded: Any = read_checkpoint(path) if path.suffix == ".safetensors" else _load_pickle(path)
    dropped: dict[str, str] = {}
    for _ in range(NESTED):
        nested = _nested(loaded)  # in a training run's checkpoint
        if not nested:
            break
        dropped |= {str(name): "state of a training run" for name in loaded if name not in nested}
        loaded = {f"{name}.{key}": tensor for name in nested for key, tensor in loaded[name].items()}
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"{path} is not a state dict, tensors by name; save only the model's state_dict().")
    tensors = unwrap({str(name): tensor for name, tensor in loaded.items()}, str(path))

    if "patch_embed.proj.weight" in tensors and any(ADDED.match(name) for name in tensors):
        return Source(path, tensors, OURS, "", dropped)
    for layout in LAYOUTS:
        for prefix in layout.prefixes:
            if any(prefix + layout.names(mark)[0] in tensors for mark in layout.marks):
                return Source(path, layout.parts(tensors), layout, prefix, dropped)
    titles = ", ".join(layout.title for layout in LAYOUTS)
    raise ValueError(f"{path} has no known layout ({titles}): it lacks a vision transformer's patch embedding.")


def _nested(loaded: Any) -> list[str]:
    """Return the names in a mapping under which a training script keeps tensors of a model."""
    if not isinstance(loaded, Mapping):
        return []
    return [
        name
        for name, value in loaded.items()
        if str(name).rpartition(".")[2] in WRAPPERS
        and isinstance(value, Mapping)
        and any(isinstance(inner, Tensor | Mapping) for inner in value.values())
    ]


def _load_pickle(path: Path) -> Any:
    if path.suffix not in PICKLES:
        raise ValueError(f"{path} is neither .safetensors nor one of {', '.join(PICKLES)}; name one that is.")
    if is_torchscript(path):
        raise ValueError(f"{path} cannot be converted; {how_to_open(path)}.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, which could run code when read; save only the model's "
            "state_dict(), preferably as safetensors."
        ) from None
    except Exception:  # a damaged file may fail anywhere in torch's reader
        raise ValueError(f"{path} is not a complete PyTorch checkpoint; download it again.") from None


def stated_options(source: Source) -> dict[str, Any]:
    """Return the model options that the layout, or else the configuration beside the file, states; {} if none does.

    The names in a file of ours state the schedule.

    Raises:
        ValueError: if it is not a configuration of the library that named the tensors.
    """
    if source.layout is OURS:
        places = {re.match(r"interpolations\.(\d+)\.\d+\.", name) for name in source.tensors}
        schedule = sorted(int(at) for at, _ in {(place[1], place[0]) for place in places if place})
        return {"compress_at": schedule} if schedule else {}
    if source.layout.config is None:
        return source.layout.options({})
    path = source.path.parent / source.layout.config
    if not path.is_file():
        return {}
    try:
        return source.layout.options(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} is not a configuration of {source.layout.title}, whose names the tensors of {source.path.name} "
            "have; move the weights to a separate folder, or put the right configuration beside them."
        ) from None


def map_tensors(source: Source, own: Mapping[str, Tensor]) -> tuple[Tensors, dict[str, str]]:
    """Map the file's tensors to the model's names.

    Args:
        source: the checkpoint.
        own: those tensors of the model that are to come from it.

    Returns:
        The tensors in the model's shapes and types; the file's names of those that are not used, each with the reason.

    Raises:
        ValueError: if a tensor is missing, unknown, of another shape or type, or not finite.
    """
    names = {key: tuple(source.prefix + name for name in source.layout.names(key)) for key in own}
    used = {name for parts in names.values() for name in parts}
    dropped = dict(source.dropped)
    unknown = []
    for name in source.tensors.keys() - used:
        reasons = [why for pattern, why in source.layout.dropped.items() if re.fullmatch(pattern, name)]
        if reasons:
            dropped[name] = reasons[0]
        else:
            unknown.append(name)
    _refuse(source, used - source.tensors.keys(), "lacks", "that the model needs")
    _refuse(source, unknown, "has", "that the model has no place for")

    mapped = {}
    for key, parts in names.items():
        target = own[key]
        shape = tuple(target.shape) if len(parts) == 1 else (target.shape[0] // len(parts), *target.shape[1:])
        for name in parts:
            tensor = source.tensors[name]
            leading = (1,) * (len(shape) - tensor.ndim)  # class token: (C,) -> (1, 1, C)
            if (*leading, *tensor.shape) != shape:
                sizes = [
                    f" {option}={tensor.shape[dim]}"
                    for start, (option, dim) in SIZES.items()
                    if key.startswith(start) and tensor.ndim == len(shape)
                ]
                raise ValueError(
                    f"{source.path} has {name} of shape {tuple(tensor.shape)} where the model has {shape}; name the "
                    f"model of that size, or give its size with --set{''.join(sizes)}."
                )
            if tensor.is_floating_point() != target.is_floating_point() or not is_finite(tensor):
                raise ValueError(
                    f"{source.path} has {name} of another type, or with values that are not finite; download it again."
                )
        joined = torch.cat([source.tensors[name] for name in parts]) if len(parts) > 1 else source.tensors[parts[0]]
        mapped[key] = joined.reshape(target.shape).to(target.dtype)
    return mapped, dict(sorted(dropped.items()))


def _refuse(source: Source, names: Sequence[str] | set[str], verb: str, why: str) -> None:
    if names:
        first, *others = sorted(names)
        rest = f" and {len(others)} more" if others else ""
        raise ValueError(
            f"{source.path} (named as in {source.layout.title}) {verb} {first}{rest} {why}; name the model of the same "
            "architecture and options."
        )


def _read_all(path: Path, trunk: Path | None) -> tuple[Source, Source]:
    """Read the checkpoint, and the one with its image model: the same, unless ``trunk`` names another.

    Raises:
        ValueError: if another is needed and missing, or given and not needed.
    """
    source = read(path)
    method = source.layout.method
    if trunk is not None:
        image = read(trunk)
        if method is None or image.layout.method is not None:
            raise ValueError(
                f"{path} ({source.layout.title}) and {trunk} ({image.layout.title}) do not complete each other; "
                "use --trunk with a CLIP, for a checkpoint of a temporal method without its frozen weights."
            )
        return source, image
    # Any of these says that the image model is in the file, whole or not.
    trunk_keys = ("cls_token", "pos_embed", "patch_embed.proj.weight", "norm_pre.weight", "blocks.0.mlp.fc1.weight")
    if method and not any(name in source.tensors for key in trunk_keys for name in source.layout.names(key)):
        raise ValueError(
            f"{path} has only what {source.layout.title} trained, not the frozen image model; name the CLIP that it "
            "was trained on with --trunk FILE."
        )
    return source, source


def convert_checkpoint(
    path: Path,
    model_name: str,
    options: Mapping[str, Any] | None = None,
    license: str | None = None,
    trunk: Path | None = None,
) -> tuple[InTIModel, Source, dict[str, str]]:
    """Build a model of the zoo from a foreign checkpoint: its trunk, and a video model's temporal modules and head.

    A checkpoint of one of our own models is taken whole.

    Args:
        path: the checkpoint.
        model_name: a model of the zoo, with a tag (whose activation, mean and std it gets) or without.
        options: options of the model; they take precedence over the configuration beside the file.
        license: the checkpoint's, by its identifier on the Hub. None: not known, so none is claimed.
        trunk: a CLIP, for a video model's checkpoint without its frozen weights.

    Returns:
        The model, what was read, and the names of the tensors that were not used, with the reasons.
    """
    source, image = _read_all(path, trunk)
    layout = source.layout
    stated = {**stated_options(image), **stated_options(source)}
    eps = stated.pop("norm_eps", None)
    arguments = {**layout.protocol(model_name), **stated, **(options or {})}
    try:
        model = create_model(model_name, **arguments)
    except (TypeError, AssertionError, KeyError, RuntimeError) as error:  # timm's, of arguments it does not check
        raise ValueError(f"{model_name} cannot be built with {arguments} ({error}); change --set.") from error
    if eps is not None and eps != model.norm.eps:
        raise ValueError(f"{path} has layer norms of eps {eps}, {model_name} of {model.norm.eps}; name another model.")
    if layout.method is not None and type(model.temporal) is not METHODS[layout.method]:
        has = type(model.temporal).__name__ if model.temporal.mixes_frames else "no temporal method"
        raise ValueError(f"{path} is of {layout.title}, {model_name} has {has}; name an inti_{layout.method}_* model.")
    own = dict(model.state_dict())
    shapes = {key: tensor.shape for key, tensor in own.items()}
    if layout.names is timm_names and shapes == {key: tensor.shape for key, tensor in source.tensors.items()}:
        source = image = replace(source, layout=OURS)  # a model without tensors of its own, head included
    if source.layout is not OURS:
        own = {key: tensor for key, tensor in own.items() if not key.startswith(INTERPOLATIONS)}
    of_image = {key: tensor for key, tensor in own.items() if is_trunk(key)}
    if image is source:
        mapped, dropped = map_tensors(source, own if source.layout is OURS or layout.method else of_image)
    else:
        mapped, dropped = map_tensors(image, of_image)
        added, _ = map_tensors(source, {key: tensor for key, tensor in own.items() if key not in of_image})
        mapped, dropped = mapped | added, dropped | source.dropped
    model.load_state_dict({**model.state_dict(), **mapped})
    if len(model.pretrained_cfg.get("label_names") or ()) != model.num_classes:
        model.pretrained_cfg["label_names"] = None
    model.pretrained_cfg.update(
        tag=None,
        license=license,
        origin_url=None,
        description=_description(model, source, image),
        **layout.pretrained_cfg,
    )
    return model.eval(), source, dropped


def _description(model: InTIModel, source: Source, image: Source) -> str:
    if source.layout is OURS:
        return f"Converted from {source.path.name}."
    if source.layout.method is None:
        new = "interpolations, temporal modules" if model.temporal.mixes_frames else "interpolations"
        return (
            f"Trunk converted from {source.path.name}, a checkpoint of {source.layout.title}; "
            f"{new} and head start untrained."
        )
    frozen = "" if image is source else f", and its image model from {image.path.name}"
    text = f"Converted with its classifier from {source.path.name}, a checkpoint of {source.layout.title}{frozen}."
    if not model.compress_at:
        return f"{text} Without compression, it is the original model."
    return (
        f"{text} The interpolations are untrained: compressed, this is a training-free start whose accuracy is not "
        "measured; with compress_at=() it is the original model."
    )
