"""The models of the zoo by their names in timm's registry."""

from typing import Any, cast

import timm

from .stages import InTIModel


def create_model(name: str, **kwargs: Any) -> InTIModel:
    """Call `timm.create_model` for a model of this zoo.

    Raises:
        ValueError: if there is no InTI model, or no weights for it, of this name.
    """
    check_name(name)
    return cast(InTIModel, timm.create_model(name, **kwargs))


def check_name(name: str) -> None:
    """Raise a ValueError if there is no InTI model, or no weights for it, of this name."""
    architecture = name.split(".")[0]
    if architecture not in timm.list_models("inti*"):
        raise ValueError(f"{name!r} is not a model of this zoo; 'inti-models list' shows the names.")
    if "." in name and name not in timm.list_models("inti*", include_tags=True):
        raise ValueError(f"{architecture} has no weights {name!r}; 'inti-models list --tags' shows the names.")
