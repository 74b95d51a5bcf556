"""InTI video transformers: image ViTs that halve the frames between their blocks (arXiv 2408.06840).

Importing this imports neither PyTorch nor timm; names are looked up when they are used. timm knows the models as soon
as both packages are imported, in either order.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register

if TYPE_CHECKING:
    from . import zoo
    from .evaluation import validate
    from .hub import load, push_to_hub, save_pretrained
    from .interpolation import InterFrameInterpolation
    from .schedules import schedule_for_budget
    from .streaming import StreamingClassifier, forward_chunked
    from .vision_transformer import InTIVisionTransformer, from_image_model
    from .zero_shot import set_zero_shot_head

__version__ = "0.1.0"
__all__ = [
    "InTIVisionTransformer",
    "InterFrameInterpolation",
    "StreamingClassifier",
    "forward_chunked",
    "from_image_model",
    "load",
    "push_to_hub",
    "save_pretrained",
    "schedule_for_budget",
    "set_zero_shot_head",
    "validate",
    "zoo",
]
_MODULES = {
    "InTIVisionTransformer": "vision_transformer",
    "InterFrameInterpolation": "interpolation",
    "StreamingClassifier": "streaming",
    "forward_chunked": "streaming",
    "from_image_model": "vision_transformer",
    "load": "hub",
    "push_to_hub": "hub",
    "save_pretrained": "hub",
    "schedule_for_budget": "schedules",
    "set_zero_shot_head": "zero_shot",
    "validate": "evaluation",
}


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package, imported now."""
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
