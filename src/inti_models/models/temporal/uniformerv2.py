"""UniFormerV2: local units that convolve over time in the blocks, and a video token that attends to all frames.

Li et al., "UniFormerV2: Spatiotemporal Learning by Arming Image ViTs with Video UniFormer", ICCV 2023,
arXiv 2211.09552, section 3; code: https://github.com/OpenGVLab/UniFormerV2,
``slowfast/models/uniformerv2_model.py``.

Shapes: ``B`` clips, ``T`` frames, ``N`` tokens per frame, ``C`` channels.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, get_act_layer
from torch import Tensor, nn

from .method import TemporalBlock, TemporalMethod, add_to_grid, on_grid


class LocalUnit(nn.Module):
    """Local temporal affinity, the paper's LT_MHRA: norm, bottleneck, depthwise convolution over time. Zero at the
    start; on grid tokens alone."""

    def __init__(self, dim: int, reduction: float, num_prefix_tokens: int, device=None, dtype=None) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_prefix_tokens = num_prefix_tokens
        width = int(dim // reduction)
        self.norm = nn.BatchNorm3d(dim, **dd)
        self.reduce = nn.Conv3d(dim, width, 1, **dd)
        self.conv = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), groups=width, **dd)
        self.expand = nn.Conv3d(width, dim, 1, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Start at zero."""
        for parameter in self.expand.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Tokens (B, T, N, C) -> what to add to the grid, (B, C, T, H, W)."""
        return self.expand(self.conv(self.reduce(self.norm(on_grid(x, self.num_prefix_tokens, grid_size)))))


class UniFormerV2Block(TemporalBlock):
    """An image block with local units before its branches, if there are any."""

    def forward(self, x: Tensor, grid_size: tuple[int, int], **attn_args: Any) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        x = self.exchange("attn", x, grid_size)
        x = x + self.drop_path1(self.attend(x, **attn_args))
        x = self.exchange("mlp", x, grid_size)
        return x + self.drop_path2(self.feed(x))

    def exchange(self, place: str, x: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Apply the local unit before a branch, (B, T, N, C) -> (B, T, N, C)."""
        if place not in self.temporal:
            return x
        unit = self.temporal[place]
        return add_to_grid(x, self.drop_path1(unit(x, grid_size)), unit.num_prefix_tokens)


class GlobalUnit(nn.Module):
    """The paper's global UniBlock: the video token attends to all tokens of all frames (DPE, C_MHRA and FFN)."""

    def __init__(
        self, dim: int, num_heads: int, num_prefix_tokens: int, drop_path: float, drop: float, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_heads, self.num_prefix_tokens = num_heads, num_prefix_tokens
        self.position = nn.Conv3d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.norm_query = nn.LayerNorm(dim, **dd)
        self.norm_tokens = nn.LayerNorm(dim, **dd)
        self.query = nn.Linear(dim, dim, **dd)
        self.key_value = nn.Linear(dim, 2 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.norm_mlp = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, 4 * dim, act_layer=get_act_layer("quick_gelu"), drop=(drop, 0.0), **dd)
        self.drop_path = DropPath(drop_path)
        self.init_weights()

    def init_weights(self) -> None:
        """Start with branches that add nothing to the video token."""
        nn.init.zeros_(cast(Tensor, self.position.bias))
        for linear in (self.query, self.key_value, self.mlp.fc1):
            nn.init.xavier_uniform_(linear.weight)
        for parameter in (*self.proj.parameters(), *self.mlp.fc2.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, video: Tensor, x: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Video token (B, 1, C) and tokens (B, T, N, C) -> video token (B, 1, C)."""
        x = add_to_grid(x, self.position(on_grid(x, self.num_prefix_tokens, grid_size)), self.num_prefix_tokens)
        video = video + self.drop_path(self.attend(self.norm_query(video), self.norm_tokens(x.flatten(1, 2))))
        return video + self.drop_path(self.mlp(self.norm_mlp(video)))

    def attend(self, video: Tensor, tokens: Tensor) -> Tensor:
        """Apply cross attention: query (B, 1, C), tokens (B, L, C) -> (B, 1, C)."""
        query = self.query(video).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # B heads 1 D
        key, value = self.key_value(tokens).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class UniFormerV2(TemporalMethod):
    """Local units in every block, global units after the last ones, one after the other (sequential fusion).

    The video token and the mean class token are mixed by learned fractions, one per channel; the final norm follows.

    Args:
        local_reduction: of the local units' bottleneck; None for no local units (Kinetics).
        num_global: global units, one after each of the last blocks.
        stride: 2: every second frame is embedded with its two neighbours (3D patch embedding; SSv2).
        fuse: mix with the mean class token; False: the video token alone (the official frozen models).
        drop_path: highest rate of the global units; drop: dropout in their MLPs. The official settings are 0 and 0.5
            for Kinetics, 0.4 and 0.5 for SSv2.
        **model: see `TemporalMethod`.

    Raises:
        ValueError: for a stride other than 1 or 2, or more global units than blocks.
    """

    norm_last = True
    also_trained = r"norm\."  # the official code's is new: its trunk ends without CLIP's

    def __init__(
        self,
        local_reduction: float | None = None,
        num_global: int = 4,
        stride: int = 1,
        fuse: bool = True,
        drop_path: float = 0.0,
        drop: float = 0.0,
        **model: Any,
    ) -> None:
        super().__init__(**model)
        if stride not in (1, 2):
            raise ValueError(f"stride={stride!r} is unknown; choose 1 (each frame alone) or 2 (with its neighbours).")
        if not 1 <= num_global <= self.depth:
            raise ValueError(f"num_global={num_global!r} is not a number of global units; choose 1 to {self.depth}.")
        if self.num_prefix_tokens < 1:
            raise ValueError("UniFormerV2 needs a class token; choose an image model that has one.")
        self.local_reduction, self.stride = local_reduction, stride
        self.out_indices = tuple(range(self.depth - num_global, self.depth))
        self.video_token = nn.Parameter(torch.zeros(1, 1, self.dim, **self.dd))
        rates = torch.linspace(0, drop_path, num_global, device="cpu").tolist()
        self.units = nn.ModuleList(
            GlobalUnit(self.dim, self.num_heads, self.num_prefix_tokens, rate, drop, **self.dd) for rate in rates
        )
        self.balance = nn.Parameter(torch.zeros(self.dim, **self.dd)) if fuse else None
        self.patch_embed: nn.ModuleList | None = None  # of the frames before and after; see `init_patch_embed`

    def init_patch_embed(self, patch_embed: nn.Module) -> None:
        """Make the patch embeddings of neighbouring frames, zero at the start (the official "center" inflation)."""
        if self.stride == 1:
            return
        like: Any = patch_embed.proj
        self.patch_embed = nn.ModuleList(
            nn.Conv2d(like.in_channels, like.out_channels, like.kernel_size, like.stride, bias=False, **self.dd)
            for _ in range(2)
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Start as if each frame stood alone."""
        for conv in self.patch_embed or ():
            nn.init.zeros_(cast(nn.Conv2d, conv).weight)

    def wrap_block(self, block: nn.Module) -> UniFormerV2Block:
        """Return the block with its local units."""
        units = {
            place: LocalUnit(self.dim, self.local_reduction, self.num_prefix_tokens, **self.dd)
            for place in ("attn", "mlp")
            if self.local_reduction is not None
        }
        return UniFormerV2Block(block, nn.ModuleDict(units))

    def embed_patches(self, patch_embed: Any, clip: Tensor) -> Tensor:
        """Embed patches; with stride 2 by a 3D convolution of kernel 3 and padding 1 in time, a 2D kernel a frame."""
        if self.patch_embed is None:
            return super().embed_patches(patch_embed, clip)
        padded = F.pad(clip, (0, 0, 0, 0, 0, 0, 1, 1))  # the convolution's zeros
        length = (clip.shape[1] + 1) // 2
        tokens = patch_embed(padded[:, 1::2][:, :length].flatten(0, 1))
        if patch_embed.dynamic_img_pad:  # as the patch embedding does itself
            height, width = patch_embed.patch_size
            padded = F.pad(padded, (0, -clip.shape[4] % width, 0, -clip.shape[3] % height))
        for offset, conv in zip((0, 2), self.patch_embed, strict=True):
            frames = padded[:, offset::2][:, :length].flatten(0, 1)
            tokens = tokens + conv(frames).permute(0, 2, 3, 1).reshape(tokens.shape)
        return tokens

    def prune(self, depth: int) -> None:
        """Drop the global units of lost blocks."""
        self.out_indices = tuple(i for i in self.out_indices if i < depth)
        self.units = self.units[: len(self.out_indices)]

    def fuse_features(self, x: Tensor, features: Sequence[Tensor], grid_size: tuple[int, int]) -> Tensor:
        """Mix the video token into the class token of every frame, whose mean is then the mix of both."""
        video = self.video_token.expand(x.shape[0], -1, -1)
        for unit, tokens in zip(self.units, features, strict=True):
            video = unit(video, tokens, grid_size)
        kept = 0 if self.balance is None else self.balance.sigmoid()
        fused = (1 - kept) * video + kept * x[:, :, 0]  # B T C
        return torch.cat((fused.unsqueeze(2), x[:, :, 1:]), dim=2)
