"""What a temporal method is: the seam between `InTIModel` and modules that look across frames.

Shapes: ``B`` clips, ``T`` frames that remain at a depth, ``N`` tokens per frame, ``C`` channels.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def check_block(block: nn.Module) -> Block | EvaBlock:
    """Return the block; raise a TypeError if it is not timm's `Block` or `EvaBlock`."""
    if type(block) not in (Block, EvaBlock):
        kind = f"{type(block).__module__.rpartition('.')[2]}.{type(block).__name__}"
        raise TypeError(
            f"A temporal method extends timm's vision_transformer.Block and eva.EvaBlock, not {kind}; leave temporal "
            "out, or use a model with such blocks."
        )
    return cast(Block | EvaBlock, block)


class TemporalBlock(nn.Module):
    """An image block on all frames of a clip at once, with a method's own modules in ``temporal``.

    It takes over the modules of timm's block under their names, so that an image checkpoint fits it; what the method
    adds is named ``blocks.<i>.temporal.*``. A subclass says in `forward` where the two meet.

    Args:
        block: timm's block, whose modules become part of this one.
        temporal: the method's modules in this block.

    Raises:
        TypeError: for a block other than timm's `Block` and `EvaBlock`.
    """

    norm1: nn.Module
    attn: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    drop_path2: nn.Module
    temporal: Any

    def __init__(self, block: nn.Module, temporal: nn.Module) -> None:
        super().__init__()
        for name, module in check_block(block).named_children():
            self.add_module(name, module)
        for name in ("gamma_1", "gamma_2"):  # EvaBlock's scales of its branches, parameters or None
            if hasattr(block, name):
                self.register_parameter(name, getattr(block, name))
        self.temporal = temporal

    def attend(self, x: Tensor, **attn_args: Any) -> Tensor:
        """Apply the attention branch of the image block over the tokens of each frame, (B, T, N, C) -> (B, T, N, C)."""
        return self.scale_attn(self.attn(self.norm1(x).flatten(0, 1), **attn_args)).unflatten(0, x.shape[:2])

    def feed(self, x: Tensor) -> Tensor:
        """Apply the MLP branch of the image block, (B, T, N, C) -> (B, T, N, C)."""
        return self.scale_mlp(self.mlp(self.norm2(x)))

    def scale_attn(self, x: Tensor) -> Tensor:
        """Apply the layer scale of the attention branch, if there is one."""
        return self._scale(x, "1")

    def scale_mlp(self, x: Tensor) -> Tensor:
        """Apply the layer scale of the MLP branch, if there is one."""
        return self._scale(x, "2")

    def _scale(self, x: Tensor, branch: str) -> Tensor:
        if hasattr(self, f"ls{branch}"):
            return getattr(self, f"ls{branch}")(x)
        gamma = getattr(self, f"gamma_{branch}")
        return x if gamma is None else gamma * x

    def forward(self, x: Tensor, grid_size: tuple[int, int], **attn_args: Any) -> Tensor:
        """Run the block, (B, T, N, C) -> (B, T, N, C): here as the image block does, with no exchange between frames.

        ``attn_args`` is what attention within a frame takes too, such as the rotation of each position.
        """
        x = x + self.drop_path1(self.attend(x, **attn_args))
        return x + self.drop_path2(self.feed(x))


class TemporalMethod(nn.Module):
    """A way of letting frames see each other. Each hook does nothing here; a method overrides those it needs.

    The model holds it as ``model.temporal``; its own parameters are those that belong to no block.

    Args:
        dim: channels ``C``.
        depth: number of blocks.
        num_heads: attention heads of a block.
        num_prefix_tokens: tokens before the grid (class, registers).
        num_frames: frames of a clip that the method is made for.
        device, dtype: of the parameters; the method's modules get them as ``**self.dd``.

    Parameters named ``time_embed`` and ``patch_embed`` belong to the stem for layer decay, others to the head; those
    of the method itself (not of its submodules) are not decayed.

    Attributes:
        norm_last: the final norm follows the mean over frames, instead of coming before it.
        out_indices: blocks whose output `fuse_features` gets.
        mixes_frames: whether frames see each other.
        stride: input frames that become one when patches are embedded.
        also_trained: pattern of the image model's parameters that the paper trains besides the method's own.
    """

    norm_last: bool = False
    out_indices: tuple[int, ...] = ()
    mixes_frames: bool = True
    stride: int = 1
    also_trained: str | None = None

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        num_prefix_tokens: int,
        num_frames: int,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim, self.depth, self.num_heads = dim, depth, num_heads
        self.num_prefix_tokens, self.num_frames = num_prefix_tokens, num_frames

    def wrap_block(self, block: nn.Module) -> nn.Module:
        """Return the image block, or the `TemporalBlock` that takes its place."""
        return TemporalBlock(block, nn.Module())

    def wrap_blocks(self, blocks: Any) -> Any:
        """Wrap all blocks of the image model, in a container of the same kind."""
        wrapped = blocks[:]
        for i, block in enumerate(blocks):
            wrapped[i] = self.wrap_block(block)
        return wrapped

    def init_patch_embed(self, patch_embed: nn.Module) -> None:
        """Make what the method needs besides the image model's patch embedding."""

    def prune(self, depth: int) -> None:
        """Do without the blocks from ``depth`` on, which the model is about to lose."""

    def embed_patches(self, patch_embed: nn.Module, clip: Tensor) -> Tensor:
        """Embed frames (B, T, channels, H, W) as patch tokens (B*T, N, C), or (B*T, H, W, C) for dynamic sizes."""
        return patch_embed(clip.flatten(0, 1))

    def embed_time(self, x: Tensor) -> Tensor:
        """Change tokens (B, T, N, C) after position embedding, before the first norm; the shape stays."""
        return x

    def fuse_features(self, x: Tensor, features: Sequence[Tensor], grid_size: tuple[int, int]) -> Tensor:
        """Return what pooling, mean over frames and head get, (B, T', N, C).

        ``x`` are the tokens after the last block and interpolation, (B, T', N, C), ``features`` those after the blocks
        in ``out_indices``, with the frames that remained there.
        """
        return x


class PerFrame(TemporalMethod):
    """No temporal method: each frame by itself, through the image blocks as they are."""

    mixes_frames = False

    def __init__(self) -> None:
        nn.Module.__init__(self)  # nothing of a model's to know

    def wrap_blocks(self, blocks: Any) -> Any:
        """Return the blocks as they are."""
        return blocks


def interpolate_time(embedding: Tensor, num_frames: int) -> Tensor:
    """Linearly interpolate a temporal position embedding (1, T, C) to another number of frames.

    For the same number it is exactly unchanged; without a branch, which FX could not trace.
    """
    resized = F.interpolate(embedding.transpose(1, 2).float(), num_frames, mode="linear")
    return resized.transpose(1, 2).to(embedding.dtype)


def on_grid(x: Tensor, num_prefix_tokens: int, grid_size: tuple[int, int]) -> Tensor:
    """Return the grid tokens of (B, T, N, C) as a volume for 3D convolutions, (B, C, T, H, W)."""
    return x[:, :, num_prefix_tokens:].unflatten(2, grid_size).permute(0, 4, 1, 2, 3)


def add_to_grid(x: Tensor, volume: Tensor, num_prefix_tokens: int) -> Tensor:
    """Add a volume (B, C, T, H, W) to the grid tokens of ``x`` (B, T, N, C); prefix tokens stay."""
    return x + F.pad(volume.permute(0, 2, 3, 4, 1).flatten(2, 3), (0, 0, num_prefix_tokens, 0))
