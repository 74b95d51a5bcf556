"""ST-Adapter: a bottleneck with a depthwise convolution over time, before the attention and/or MLP of each block.

Pan et al., "ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning", NeurIPS 2022, arXiv 2206.13559,
section 3.3; code: https://github.com/linziyi96/st-adapter, ``models_adapter.py``.

Shapes: ``B`` clips, ``T`` frames, ``N`` tokens per frame, ``C`` channels, ``W`` channels of the bottleneck.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .method import TemporalBlock, TemporalMethod, add_to_grid, on_grid

PLACES = ("attn", "mlp")


class Adapter(nn.Module):
    """``x + fc2(conv(fc1(x)))`` on the grid tokens; prefix tokens stay as they are. The identity at the start."""

    def __init__(
        self,
        dim: int,
        width: int,
        kernel_size: tuple[int, int, int],
        num_prefix_tokens: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_prefix_tokens = num_prefix_tokens
        padding = (kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2)
        self.fc1 = nn.Linear(dim, width, **dd)
        self.conv = nn.Conv3d(width, width, kernel_size, padding=padding, groups=width, **dd)
        self.fc2 = nn.Linear(width, dim, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Start as the identity: convolution and biases at zero."""
        for parameter in (*self.conv.parameters(), self.fc1.bias, self.fc2.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        volume = self.conv(on_grid(self.fc1(x), self.num_prefix_tokens, grid_size))  # B W T H W
        return add_to_grid(x, self.fc2(volume.movedim(1, -1)).movedim(-1, 1), self.num_prefix_tokens)


class STAdapterBlock(TemporalBlock):
    """An image block with adapters before its branches."""

    def forward(self, x: Tensor, grid_size: tuple[int, int], **attn_args: Any) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C)."""
        if "attn" in self.temporal:
            x = self.temporal["attn"](x, grid_size)
        x = x + self.drop_path1(self.attend(x, **attn_args))
        if "mlp" in self.temporal:
            x = self.temporal["mlp"](x, grid_size)
        return x + self.drop_path2(self.feed(x))


class STAdapter(TemporalMethod):
    """Adapters in every block. The trunk is frozen, the final norm too; it follows the mean over frames.

    Args:
        width: channels ``W`` of the bottleneck.
        kernel_size: of the convolution over (time, height, width), odd numbers.
        before: branches with an adapter before them, of "attn" and "mlp".
        **model: see `TemporalMethod`.

    Raises:
        ValueError: for unknown places or an even kernel size.
    """

    norm_last = True

    def __init__(
        self,
        width: int = 384,
        kernel_size: Sequence[int] = (3, 1, 1),
        before: Sequence[str] = ("mlp",),
        **model: Any,
    ) -> None:
        super().__init__(**model)
        if isinstance(before, str) or not before or not set(before) <= set(PLACES):
            raise ValueError(f"before={before!r} is not a non-empty subset of {PLACES}; pass a tuple of these names.")
        if isinstance(kernel_size, int) or len(kernel_size) != 3 or any(size % 2 == 0 for size in kernel_size):
            raise ValueError(f"kernel_size={kernel_size!r} is not three odd numbers; pass three, such as (3, 1, 1).")
        self.width, self.before = width, tuple(before)
        self.kernel_size = (kernel_size[0], kernel_size[1], kernel_size[2])

    def wrap_block(self, block: nn.Module) -> STAdapterBlock:
        """Return the block with its adapters."""
        adapters = {
            place: Adapter(self.dim, self.width, self.kernel_size, self.num_prefix_tokens, **self.dd)
            for place in PLACES
            if place in self.before
        }
        return STAdapterBlock(block, nn.ModuleDict(adapters))
