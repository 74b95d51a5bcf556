"""Divided space-time attention: a separate attention over time before the attention over space.

Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021, arXiv 2102.05095,
section 3 (T+S). Here the class token attends over time as every other token does.

Shapes: ``B`` clips, ``T`` frames, ``N`` tokens per frame, ``C`` channels.
"""

from typing import Any

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from .method import TemporalBlock, TemporalMethod, interpolate_time


class TemporalAttention(nn.Module):
    """Attention among the tokens at one position, ``proj(attn(norm(x)))``; zero at the start."""

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.attn = Attention(dim, num_heads, qkv_bias=True, device=device, dtype=dtype)
        self.init_weights()

    def init_weights(self) -> None:
        """Start at zero."""
        nn.init.zeros_(self.attn.proj.weight)
        nn.init.zeros_(self.attn.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        x = self.norm(x).transpose(1, 2)  # B N T C
        return self.attn(x.flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(1, 2)


class DividedAttentionBlock(TemporalBlock):
    """Attention over time, then the image block."""

    def forward(self, x: Tensor, grid_size: tuple[int, int], **attn_args: Any) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        return super().forward(x + self.drop_path1(self.temporal(x)), grid_size, **attn_args)


class DividedAttention(TemporalMethod):
    """Temporal attention in every block, and an embedding of time.

    Args:
        **model: see `TemporalMethod`. For a clip of another length the time embedding is linearly interpolated.
    """

    def __init__(self, **model: Any) -> None:
        super().__init__(**model)
        self.time_embed = nn.Parameter(torch.zeros(1, self.num_frames, self.dim, **self.dd))

    def wrap_block(self, block: nn.Module) -> DividedAttentionBlock:
        """Return the block with its attention over time."""
        return DividedAttentionBlock(block, TemporalAttention(self.dim, self.num_heads, **self.dd))

    def embed_time(self, x: Tensor) -> Tensor:
        """Add the embedding of time, the same for every token of a frame."""
        return x + interpolate_time(self.time_embed, x.shape[1]).unsqueeze(2)
