"""Checkpoints: from the keys of a file to the keys of a model. All quirks live here."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import load_pretrained
from torch import Tensor

from ..models.stages import InTIModel
from . import zero_shot
from .tensor_files import is_finite, read_checkpoint, refuse, refuse_shapes

_logger = logging.getLogger(__name__)
INTERPOLATIONS, HEAD, PATCHES = "interpolations.", "head.", "patch_embed.proj.weight"
_PROJECTION = f"{HEAD}projection."  # of a head that projects into the space of texts
# What a video model has beside its image model: interpolations, and the modules of a temporal method.
ADDED = re.compile(r"interpolations\.|(.+\.)?temporal\.")

# What open_clip's and OpenAI's files hold beside the visual tower; timm's projection head is `HEAD`.
_BESIDE_VISUAL = re.compile(
    r"(text|transformer|token_embedding|ln_final|visual\.head)\..+"
    r"|positional_embedding|text_projection|logit_scale|logit_bias|input_resolution|context_length|vocab_size"
)
# How timm's mapping fails on tensors of an architecture that it does not expect.
_MAPPING_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError)


# What training scripts put a model's tensors in; names in a safetensors file are flat.
AVERAGES = ("ema", "model_ema", "state_dict_ema")
WRAPPERS = ("state_dict", "model_state", "model", "module", "_orig_mod", *AVERAGES)


def unwrap(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Strip the prefix that a training script put before the names of all tensors, such as ``module._orig_mod.``.

    A prefix is stripped if every name has it. Of a model and its moving average (``model.`` and ``model_ema.``) the
    average is taken, as timm does. A warning says what was done.

    Args:
        tensors: by the names of a file.
        source: the file, for messages.

    Raises:
        ValueError: if the tensors have several prefixes, so that it is not clear which are meant.
    """
    found, unwrapped = [], dict(tensors)
    while unwrapped:
        if "n_averaged" in unwrapped and all(name.startswith("module.") or name == "n_averaged" for name in unwrapped):
            del unwrapped["n_averaged"]  # the count of PyTorch's AveragedModel
        wrappers = {name.partition(".")[0] if "." in name else "" for name in unwrapped}
        if not wrappers <= set(WRAPPERS):
            break
        averages = wrappers & set(AVERAGES)
        if len(wrappers) > 2 or (len(wrappers) == 2 and len(averages) != 1):
            raise ValueError(
                f"{source} has tensors under {' and '.join(sorted(wrappers))}; save only those that you mean."
            )
        taken = (averages or wrappers).pop()
        beside = f" (not {(wrappers - {taken}).pop()}.)" if len(wrappers) == 2 else ""
        found.append(f"{taken}.{beside}")
        unwrapped = {
            name.removeprefix(f"{taken}."): tensor for name, tensor in unwrapped.items() if name.startswith(f"{taken}.")
        }
    if found:
        _logger.warning(
            f"{source} has names that start with {', then '.join(found)}; without it, they are the model's."
        )
    return unwrapped


def load_checkpoint(model: InTIModel, path: str | os.PathLike[str]) -> None:
    """Load a safetensors file into ``model``, every tensor of it (see `checkpoint_filter_fn`).

    The classes have to be the model's, unless the file is an image checkpoint's.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a complete safetensors file, or its tensors are not the model's.
    """
    tensors = unwrap(read_checkpoint(path), os.fspath(path))
    model.load_state_dict(checkpoint_filter_fn(tensors, model, {"file": os.fspath(path)}))
    zero_shot.fill_head(model, tensors, Path(path))


def load_tensors(model: InTIModel, tensors: Mapping[str, Tensor]) -> None:
    """Load the tensors of the file that the model's pretrained config names, as ``pretrained=True`` does.

    Raises:
        ValueError: see `checkpoint_filter_fn`.
    """
    tensors = unwrap(tensors, _source_of(model.pretrained_cfg))
    fitted = checkpoint_filter_fn(tensors, model)
    cfg = {**model.pretrained_cfg, "source": None, "state_dict": fitted}
    load_pretrained(model, cfg, num_classes=model.num_classes, in_chans=model.in_chans)
    zero_shot.fill_head(model, tensors)


def assign_tensors(model: InTIModel, tensors: Mapping[str, Tensor], device: torch.device) -> bool:
    """Make tensors the parameters of a model on the meta device, if they match exactly; nothing is copied.

    Args:
        model: the model, without memory of its own.
        tensors: of the file that its pretrained config names.
        device: where its parameters go.

    Returns:
        Whether it was done. Anything that takes more is left to `load_tensors`, in a model with memory: names, shapes
        or classes other than the file's, a head made from class names, buffers that no file has.

    Raises:
        ValueError: see `checkpoint_filter_fn`.
    """
    own = model.state_dict()
    shapes = {name: tensor.shape for name, tensor in own.items()}
    if shapes != {name: tensor.shape for name, tensor in tensors.items()} or dict(model.named_buffers()).keys() - own:
        return False
    if model.num_classes != model.pretrained_cfg.get("num_classes"):
        return False
    fitted = checkpoint_filter_fn(tensors, model)
    if any(tensor.is_meta for tensor in fitted.values()):
        return False
    model.load_state_dict({name: fitted[name].to(device, own[name].dtype) for name in own}, assign=True)
    return True


def checkpoint_filter_fn(
    state_dict: Mapping[str, Tensor], model: InTIModel, cfg: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Map an image ViT's or an InTI checkpoint to ``model``, strictly: each tensor is used or known to be unneeded.

    timm maps the trunk, after `unwrap`: it knows OpenAI's, open_clip's and other layouts, and resamples position
    embeddings and patches. (What timm's own converters leave out of DINOv2, BEiT-3, AIMv2 and RADIO files is up to
    them.)

    A checkpoint with ``interpolations.*`` or ``temporal.*`` keys is an InTI model's, any other an image model's:

    - An InTI checkpoint fills the model. With another schedule whole interpolations may be new, which then keep their
      neutral start, or unused: a warning names them.
    - An image checkpoint leaves interpolations and the modules of a temporal method as they start. Its head is taken
      if it fits; otherwise it is a projection or another task's classifier, and the model keeps its own: a warning
      says so. An InTI checkpoint without parameters of its own (``compress_at=()`` or ``weighting="uniform"``, and no
      temporal method) has an image model's keys, and is loaded as one. Beside a config of its own (``hf-hub:``,
      ``local-dir:``), which states its classes, a head has to fit.

    Where the model's head projects into the space of texts, the projection is taken from either: an image checkpoint's
    head, if it has that shape.

    With a number of classes other than the config's (timm's criterion for dropping the head) the model keeps its own
    head, and so it does where `zero_shot.fill_head` will fill it. The patch embedding may have the config's number of
    input channels: timm adapts it after this filter.

    Args:
        state_dict: tensors by name, as the file has them.
        model: the model to be loaded.
        cfg: the pretrained config that states the checkpoint's file, source, input size and classes, as far as they
            are known; None for the model's ``pretrained_cfg``.

    Returns:
        Tensors by the model's names, all of them.

    Raises:
        ValueError: if a tensor is missing, is of no known use, has another shape, is not floating point, or is not
            finite in the model's precision.
    """
    if cfg is None:
        cfg = getattr(model, "pretrained_cfg", None) or {}
    source = _source_of(cfg)
    state_dict = unwrap(state_dict, source)
    if any(key.startswith("visual.") for key in state_dict):  # timm leaves out all the rest, unseen
        unknown = [k for k in state_dict if not k.startswith("visual.") and not _BESIDE_VISUAL.fullmatch(k)]
        refuse(source, "has, beside a visual tower,", unknown)
    try:
        mapped = model.map_image_checkpoint(dict(state_dict))
    except _MAPPING_ERRORS as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} is of another architecture ({reason}); name the model it was made for.") from error
    own = model.state_dict()
    if _is_projection(mapped.get(f"{HEAD}weight"), own):
        mapped = {_PROJECTION + key.removeprefix(HEAD) if key.startswith(HEAD) else key: mapped[key] for key in mapped}
    ours = any(ADDED.match(key) for key in mapped)
    added = {key: value for key, value in own.items() if ADDED.match(key)}
    mapped = _at_schedule(mapped, own, source) if ours else mapped | added
    other_classes = model.num_classes != cfg.get("num_classes", model.num_classes)
    keeps_head = other_classes or model.num_classes == 0 or zero_shot.wanted(state_dict, model)
    if not keeps_head and not ours and cfg.get("source") not in ("hf-hub", "local-dir"):
        keeps_head = not _head_fits(state_dict, mapped, own, source)
    if keeps_head:
        projection = {key: value for key, value in _starting_with(mapped, _PROJECTION).items() if key in own}
        trunk = {key: value for key, value in mapped.items() if not key.startswith(HEAD)}
        mapped = trunk | _starting_with(own, HEAD) | projection
    _check(mapped, own, source, in_chans={model.in_chans, (cfg.get("input_size") or (model.in_chans,))[0]})
    return mapped


def _source_of(cfg: Mapping[str, Any]) -> str:
    return str(cfg.get("file") or cfg.get("hf_hub_id") or "The checkpoint")


def _starting_with(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key.startswith(prefix)}


def _is_projection(head: Tensor | None, own: Mapping[str, Tensor]) -> bool:
    """Whether an image checkpoint's head is the projection of the model's head."""
    projection = own.get(f"{_PROJECTION}weight")
    return head is not None and projection is not None and head.shape == projection.shape


def _head_fits(
    state_dict: Mapping[str, Tensor], mapped: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str
) -> bool:
    """Whether an image checkpoint's head is the model's, at least in part: what it then lacks is missing."""
    head = {key: value for key, value in _starting_with(own, HEAD).items() if not key.startswith(_PROJECTION)}
    fits = "visual.proj" not in state_dict and any(  # which timm takes for a head: CLIP's projection
        key in mapped and mapped[key].shape == value.shape for key, value in head.items()
    )
    if not fits:
        _logger.warning(f"{source} is an image model's, without these classes: the head starts untrained.")
    return fits


def _at_schedule(mapped: dict[str, Tensor], own: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return an InTI checkpoint without interpolations that the model lacks, and with those that the file lacks."""

    def interpolation(key: str) -> str:
        return ".".join(key.split(".")[:3])  # interpolations.<blocks run>.<repeat>

    in_file = {interpolation(key) for key in _starting_with(mapped, INTERPOLATIONS)}
    in_model = {interpolation(key) for key in _starting_with(own, INTERPOLATIONS)}
    new, unused = in_model - in_file, in_file - in_model
    if new or unused:
        changes = [f"{', '.join(sorted(names))} {what}" for names, what in ((new, "new"), (unused, "unused")) if names]
        _logger.warning(f"{source} was made with another schedule: {'; '.join(changes)}.")
    used = {key: value for key, value in mapped.items() if interpolation(key) not in unused}
    return used | {key: value for key, value in own.items() if interpolation(key) in new}


def _check(mapped: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str, in_chans: set[int]) -> None:
    """Raise a ValueError unless the tensors are the model's: by name, shape, floating point, and finite."""
    refuse(source, "lacks", own.keys() - mapped.keys())
    refuse(source, "has, unlike the model,", mapped.keys() - own.keys())
    foreign = {key: value for key, value in mapped.items() if value is not own[key]}
    shapes = {key: tuple(value.shape) for key, value in foreign.items()}
    expected = {key: tuple(own[key].shape) for key in foreign}
    if len(shape := shapes.get(PATCHES, ())) == 4 and shape[1] in in_chans:
        expected[PATCHES] = (expected[PATCHES][0], shape[1], *expected[PATCHES][2:])
    refuse_shapes(source, shapes, expected)
    for key, value in foreign.items():
        target = own[key]
        if not target.is_floating_point():  # a count
            continue
        if not value.is_floating_point():
            raise ValueError(f"{source} has {key} in {value.dtype}, not floating point; save it again as float32.")
        if not is_finite(value.to(target.dtype)):
            raise ValueError(f"{source} has values in {key} that are not finite; use an earlier checkpoint.")
