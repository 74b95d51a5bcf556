"""Temporal methods that plug into `InTIModel`, one per file; see docs/add_a_temporal_module.md."""

import inspect
from collections.abc import Mapping
from typing import Any

from .aim import AIM
from .divided_attention import DividedAttention
from .method import PerFrame, TemporalBlock, TemporalMethod, check_block
from .st_adapter import STAdapter
from .uniformerv2 import UniFormerV2

METHODS: dict[str, type[TemporalMethod]] = {
    "st_adapter": STAdapter,
    "aim": AIM,
    "uniformerv2": UniFormerV2,
    "divided_attention": DividedAttention,
}

__all__ = ["METHODS", "PerFrame", "TemporalBlock", "TemporalMethod", "build_method"]


def build_method(
    model: Any, name: str | None, args: Mapping[str, Any], num_frames: int, device: Any = None, dtype: Any = None
) -> TemporalMethod:
    """Return the method of this name for an image model of timm's and clips of ``num_frames``; None for no method.

    Raises:
        ValueError: for an unknown name, an argument that the method does not have, or a pooling that it cannot use.
        TypeError: for a model with blocks that a method does not extend.
    """
    if name is None:
        if args:
            raise ValueError(f"temporal_args={dict(args)!r} need a temporal method; name one with temporal=...")
        return PerFrame()
    if name not in METHODS:
        raise ValueError(f"temporal={name!r} is unknown; choose one of {', '.join(METHODS)}.")
    method = METHODS[name]
    of_model = inspect.signature(TemporalMethod).parameters
    options = [option for option in inspect.signature(method).parameters if option not in (*of_model, "model")]
    for option in args.keys() - set(options):
        raise ValueError(f"temporal={name!r} has no argument {option!r}; it has {', '.join(options) or 'none'}.")
    if method.norm_last and model.global_pool not in ("token", ""):
        raise ValueError(
            f"temporal={name!r} classifies by class tokens, not by global_pool={model.global_pool!r}; use 'token'."
        )
    attn: Any = check_block(model.blocks[0]).attn
    return method(
        dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=attn.num_heads,
        num_prefix_tokens=model.num_prefix_tokens,
        num_frames=num_frames,
        device=device,
        dtype=dtype,
        **args,
    )
