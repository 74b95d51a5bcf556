"""Temporal methods that plug into `InTIModel`, one a file; see docs/add_a_temporal_module.md."""

from .aim import AIM
from .divided_attention import DividedAttention
from .method import PerFrame, TemporalBlock, TemporalMethod
from .st_adapter import STAdapter
from .uniformerv2 import UniFormerV2

METHODS: dict[str, type[TemporalMethod]] = {
    "st_adapter": STAdapter,
    "aim": AIM,
    "uniformerv2": UniFormerV2,
    "divided_attention": DividedAttention,
}

__all__ = ["METHODS", "PerFrame", "TemporalBlock", "TemporalMethod"]
