"""InTI video transformers: image ViTs that halve the frames between their blocks (arXiv 2408.06840).

Importing this imports neither PyTorch nor timm; names are looked up when they are used. timm knows the models as soon
as both packages are imported, in either order.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register

if TYPE_CHECKING:
    from . import zoo
    from .evaluation.evaluate import validate
    from .inference.embedding import embed
    from .models.eva import InTIEva
    from .models.interpolation import InterFrameInterpolation
    from .models.schedules import schedule_for_budget
    from .models.stages import InTIModel
    from .models.streaming import StreamingClassifier, forward_chunked
    from .models.trunks import from_image_model
    from .models.vision_transformer import InTIVisionTransformer
    from .training.distill import distill
    from .training.run import train
    from .weights.hub import load, push_to_hub, save_pretrained
    from .weights.zero_shot import set_zero_shot_head

__version__ = "0.1.0"
__all__ = [
    "InTIEva",
    "InTIModel",
    "InTIVisionTransformer",
    "InterFrameInterpolation",
    "StreamingClassifier",
    "distill",
    "embed",
    "forward_chunked",
    "from_image_model",
    "load",
    "push_to_hub",
    "save_pretrained",
    "schedule_for_budget",
    "set_zero_shot_head",
    "train",
    "validate",
    "zoo",
]
_MODULES = {
    "InTIEva": "models.eva",
    "InTIModel": "models.stages",
    "InTIVisionTransformer": "models.vision_transformer",
    "InterFrameInterpolation": "models.interpolation",
    "StreamingClassifier": "models.streaming",
    "distill": "training.distill",
    "embed": "inference.embedding",
    "forward_chunked": "models.streaming",
    "from_image_model": "models.trunks",
    "load": "weights.hub",
    "push_to_hub": "weights.hub",
    "save_pretrained": "weights.hub",
    "schedule_for_budget": "models.schedules",
    "set_zero_shot_head": "weights.zero_shot",
    "train": "training.run",
    "validate": "evaluation.evaluate",
}


def __getattr__(name: str) -> Any:
    """Import a public name, or a module of the package, when it is first used."""
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
