"""Checkpoints: from the keys of a file to the keys of the model. All quirks live here."""

import logging
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn as image_checkpoint_filter_fn
from torch import Tensor

from .vision_transformer import InTIVisionTransformer

_logger = logging.getLogger(__name__)
INTERPOLATIONS, HEAD = "interpolations.", "head."


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: InTIVisionTransformer) -> dict[str, Tensor]:
    """Map an image ViT's or an InTI checkpoint to ``model``.

    The trunk is timm's to map (it knows OpenAI's and open_clip's layouts, and resamples position embeddings
    and patches). Interpolations that the file does not have keep their neutral start: all of them for an image
    checkpoint, those at new depths for an InTI checkpoint made with another schedule. An image checkpoint's
    head is a projection or another task's classifier: the model keeps its own, unless the file's fits (it may be
    an InTI checkpoint without a trained interpolation: ``compress_at=()`` or ``weighting="uniform"``).

    Args:
        state_dict: tensors by name, as the file has them.
        model: the model to be loaded.

    Returns:
        Tensors by the model's names.
    """
    mapped = image_checkpoint_filter_fn(state_dict, model)
    own = model.state_dict()
    if not any(key.startswith(INTERPOLATIONS) for key in mapped):
        fitting = {
            key: value
            for key, value in mapped.items()
            if not key.startswith(HEAD) or (key in own and own[key].shape == value.shape)
        }
        return {key: value for key, value in own.items() if key.startswith((INTERPOLATIONS, HEAD))} | fitting
    new = {key: own[key] for key in own.keys() - mapped.keys() if key.startswith(INTERPOLATIONS)}
    unused = {key for key in mapped.keys() - own.keys() if key.startswith(INTERPOLATIONS)}
    for keys, what in ((new, "start anew"), (unused, "are not used")):
        if keys:
            at = sorted({key.split(".predict")[0] for key in keys})
            _logger.warning(f"The checkpoint has another schedule: {', '.join(at)} {what}.")
    return {key: value for key, value in mapped.items() if key not in unused} | new


def load_checkpoint(model: InTIVisionTransformer, path: str | os.PathLike[str]) -> None:
    """Load a safetensors file into ``model``, every tensor of it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file, or its tensors are not the model's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}; check the path.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); convert it or download it again."
        ) from None
    # The filter keeps the model's head where the file has none that fits; here that is an error.
    state_dict = {key: value for key, value in checkpoint_filter_fn(tensors, model).items() if not key.startswith(HEAD)}
    state_dict |= {key: value for key, value in tensors.items() if key.startswith(HEAD)}
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state_dict.keys()), sorted(state_dict.keys() - own.keys())
    reshaped = sorted(k for k in own.keys() & state_dict.keys() if own[k].shape != state_dict[k].shape)
    for names, fault in ((missing, "lacks"), (extra, "has, unlike the model,"), (reshaped, "has in another shape")):
        if names:
            rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"{path} {fault} {names[0]}{rest}; it was made for another model: name that one, with the same options."
            )
    model.load_state_dict(state_dict)
