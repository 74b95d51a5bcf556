"""Checkpoints: from the keys of a file to the keys of the model. All quirks live here."""

import logging

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
    head is a projection or another task's classifier: the model keeps its own.

    Args:
        state_dict: tensors by name, as the file has them.
        model: the model to be loaded.

    Returns:
        Tensors by the model's names.
    """
    mapped = image_checkpoint_filter_fn(state_dict, model)
    own = model.state_dict()
    if not any(key.startswith(INTERPOLATIONS) for key in mapped):
        trunk = {key: value for key, value in mapped.items() if not key.startswith(HEAD)}
        return trunk | {key: value for key, value in own.items() if key.startswith((INTERPOLATIONS, HEAD))}
    new = {key: own[key] for key in own.keys() - mapped.keys() if key.startswith(INTERPOLATIONS)}
    unused = {key for key in mapped.keys() - own.keys() if key.startswith(INTERPOLATIONS)}
    for keys, what in ((new, "start anew"), (unused, "are not used")):
        if keys:
            at = sorted({key.split(".predict")[0] for key in keys})
            _logger.warning(f"The checkpoint has another schedule: {', '.join(at)} {what}.")
    return {key: value for key, value in mapped.items() if key not in unused} | new
