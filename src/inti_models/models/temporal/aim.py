"""AIM: the image model's own attention used over time too, with adapters after attention and beside the MLP.

Yang et al., "AIM: Adapting Image Models for Efficient Video Action Recognition", ICLR 2023, arXiv 2302.03024,
section 3.2 to 3.4; code: https://github.com/taoyang1122/adapt-image-models, ``mmaction/models/backbones/vit_clip.py``.

Shapes: ``B`` clips, ``T`` frames, ``N`` tokens per frame, ``C`` channels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .method import TemporalBlock, TemporalMethod, interpolate_time


class Adapter(nn.Module):
    """``fc2(gelu(fc1(x)))`` with a bottleneck of a quarter of the channels; zero at the start."""

    def __init__(self, dim: int, ratio: float = 0.25, device=None, dtype=None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, int(dim * ratio), device=device, dtype=dtype)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(int(dim * ratio), dim, device=device, dtype=dtype)
        self.init_weights()

    def init_weights(self) -> None:
        """Start at zero."""
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(self.act(self.fc1(x)))


class AIMBlock(TemporalBlock):
    """Temporal, spatial and joint adaptation (the paper's figure 2d)."""

    def __init__(self, block: nn.Module, temporal: nn.Module, scale: float) -> None:
        super().__init__(block, temporal)
        self.scale = scale

    def forward(self, x: Tensor, grid_size: tuple[int, int], **attn_args: Any) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        adapters = self.temporal
        x = x + self.drop_path1(adapters["time"](self.attend_over_time(x)))
        attended = self.attend(x, **attn_args)
        x = x + attended + adapters["space"](attended)
        normed = self.norm2(x)
        return x + self.scale_mlp(self.mlp(normed)) + self.drop_path2(self.scale * adapters["joint"](normed))

    def attend_over_time(self, x: Tensor) -> Tensor:
        """Apply the image block's attention among the tokens at one position, (B, T, N, C) -> (B, T, N, C).

        It needs no rotation, which is the same for all of them.
        """
        x = self.norm1(x).transpose(1, 2)  # B N T C
        if "time_in" in self.temporal:
            x = x + self.temporal["time_in"](x)
        return self.scale_attn(self.attn(x.flatten(0, 1))).unflatten(0, x.shape[:2]).transpose(1, 2)


class AIM(TemporalMethod):
    """Three adapters in every block, and an embedding of time. The trunk is frozen except for the final norm.

    Args:
        scale: of the joint adaptation: 0.5 for Kinetics, 1 for Something-Something V2.
        adapt_input: one more adapter before the attention over time (SSv2, ViT-B/16).
        **model: see `TemporalMethod`. For a clip of another length the time embedding is linearly interpolated (the
            official code takes clips of ``num_frames`` only).
    """

    also_trained = r"(?:fc_)?norm\."

    def __init__(self, scale: float = 0.5, adapt_input: bool = False, **model: Any) -> None:
        super().__init__(**model)
        self.scale, self.adapt_input = scale, adapt_input
        self.time_embed = nn.Parameter(torch.zeros(1, self.num_frames, self.dim, **self.dd))

    def wrap_block(self, block: nn.Module) -> AIMBlock:
        """Return the block with its adapters."""
        names = (*(("time_in",) if self.adapt_input else ()), "time", "space", "joint")
        return AIMBlock(block, nn.ModuleDict({name: Adapter(self.dim, **self.dd) for name in names}), self.scale)

    def embed_time(self, x: Tensor) -> Tensor:
        """Add the embedding of time, the same for every token of a frame."""
        return x + interpolate_time(self.time_embed, x.shape[1]).unsqueeze(2)
