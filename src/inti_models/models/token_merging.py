"""Token merging within frames (ToMe; Bolya et al., 2023, https://arxiv.org/abs/2210.09461), without any training.

`merge_tokens` changes a naive model that has its weights already; `tome_schedule` finds the numbers of tokens that cost
what another model costs.

Shapes: ``B`` clips, ``T`` frames, ``F = B * T`` frames of all clips, ``N`` tokens per frame, ``C`` channels.
"""

import copy
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from .reductions import clip_shape, meta_gflops
from .stages import InTIModel


class Matching(NamedTuple):
    """Which tokens merge. Set A are the odd tokens of a sequence, set B the even ones.

    Attributes:
        kept: indices within A of the tokens left alone, ascending, (F, |A| - r).
        merged: indices within A of the tokens that merge, (F, r).
        into: indices within B of the tokens that these merge into, (F, r).
    """

    kept: Tensor
    merged: Tensor
    into: Tensor


@torch.no_grad()
def bipartite_soft_matching(keys: Tensor, r: int) -> Matching:
    """Return the paper's matching: each token of A draws an edge to the most similar one in B; the r best edges stay.

    Args:
        keys: what cosine similarity is measured on, (F, N, D).
        r: tokens to remove, at most ``N // 2``.

    Raises:
        ValueError: if r is not from 0 to ``N // 2``.
    """
    num_tokens = keys.shape[1]
    if not 0 <= r <= num_tokens // 2:
        raise ValueError(
            f"r={r} of {num_tokens} tokens cannot be merged in one block; pass a number from 0 to {num_tokens // 2}."
        )
    keys = nn.functional.normalize(keys, dim=-1)
    similarity, nearest = (keys[:, 1::2] @ keys[:, 0::2].transpose(1, 2)).max(dim=-1)  # F |A|
    order = similarity.argsort(dim=-1, descending=True)
    kept, merged = order[:, r:].sort(dim=-1).values, order[:, :r]
    return Matching(kept, merged, nearest.gather(1, merged))


def merge(tokens: Tensor, sizes: Tensor, matching: Matching, num_prefix_tokens: int = 1) -> tuple[Tensor, Tensor]:
    """Average matched tokens, each weighted by the number of patches that it stands for.

    Args:
        tokens: (F, N, C).
        sizes: patches that each token stands for, (F, N, 1).
        matching: of the tokens after the prefix tokens, which never merge.

    Returns:
        Tokens (F, N - r, C), in the order prefix, A, B, and their sizes (F, N - r, 1).
    """
    sums = torch.cat((tokens * sizes, sizes), dim=-1)  # F N C+1
    prefix, patches = sums[:, :num_prefix_tokens], sums[:, num_prefix_tokens:]
    a, b = patches[:, 1::2], patches[:, 0::2]
    merged = torch.take_along_dim(a, matching.merged.unsqueeze(-1), dim=1)
    b = b.scatter_add(1, matching.into.unsqueeze(-1).expand_as(merged), merged)
    kept = torch.take_along_dim(a, matching.kept.unsqueeze(-1), dim=1)
    sums = torch.cat((prefix, kept, b), dim=1)
    tokens, sizes = sums.tensor_split((tokens.shape[-1],), dim=-1)
    return tokens / sizes, sizes


class KeyRecorder(nn.Module):
    """A stand-in for an attention's ``k_norm`` that hands the keys to the block around it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self._keys: list[Tensor] = []

    def forward(self, keys: Tensor) -> Tensor:
        keys = self.norm(keys)
        self._keys.append(keys.detach())
        return keys

    def take(self) -> Tensor:
        """Return the keys of the last forward pass, (F, heads, N, D); they can be taken once."""
        return self._keys.pop()


class ToMeBlock(nn.Module):
    """A timm block that merges ``r`` tokens between its attention and its MLP.

    Once tokens have merged, their sizes travel with them to the following blocks as one more channel, so that
    nothing is remembered between two forward passes, and checkpointing recomputes the same.

    Args:
        block: timm's block, which becomes part of this one.
        r: tokens to merge.
        sized: whether the input comes with sizes: some block before this one merges.
        last: whether to return tokens without sizes.
        num_prefix_tokens: tokens at the beginning that never merge.
    """

    def __init__(self, block: Block, r: int, sized: bool, last: bool, num_prefix_tokens: int = 1) -> None:
        super().__init__()
        self.block = block
        self.r, self.sized, self.last, self.num_prefix_tokens = r, sized, last, num_prefix_tokens
        if r:
            block.attn.k_norm = KeyRecorder(cast(nn.Module, block.attn.k_norm))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (F, N, C) or, with sizes, (F, N, C + 1) -> (F, N - r, C or C + 1)."""
        if not self.sized and not self.r:
            return self.block(x)
        block = self.block
        x, sizes = (x[..., :-1], x[..., -1:]) if self.sized else (x, torch.ones_like(x[..., :1]))
        # Proportional attention: a token counts as often as the patches it stands for.
        bias = sizes.log().transpose(1, 2).unsqueeze(1) if self.sized else None  # F 1 1 N
        x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), attn_mask=bias)))
        if self.r:
            keys = cast(KeyRecorder, block.attn.k_norm).take().mean(dim=1)  # over heads: F N D
            matching = bipartite_soft_matching(keys[:, self.num_prefix_tokens :], self.r)
            x, sizes = merge(x, sizes, matching, self.num_prefix_tokens)
        x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return x if self.last else torch.cat((x, sizes), dim=-1)


def merge_tokens(model: InTIModel, r: Sequence[int]) -> InTIModel:
    """Merge ``r[i]`` tokens of each frame in block i. Changes and returns the model.

    Args:
        model: a naive model (``compress_at=()``) that classifies from its class token.
        r: tokens to merge, one number per block, at most half of those left.

    Raises:
        ValueError: for a wrong number of numbers, a model that compresses frames (the tokens of two frames would
            no longer be at the same positions), or one that averages over tokens.
    """
    if len(r) != len(model.blocks):
        raise ValueError(f"r={r!r} has {len(r)} numbers for {len(model.blocks)} blocks; pass one for each.")
    if model.temporal.mixes_frames or not all(type(block) is Block for block in model.blocks):
        raise ValueError(
            f"{type(model).__name__} has blocks other than timm's Block, in which no token can be merged; choose a "
            "model with such blocks."
        )
    if model.compress_at:
        raise ValueError(f"compress_at={model.compress_at} needs every token; create the model with compress_at=().")
    if model.global_pool != "token":
        raise ValueError(f"global_pool={model.global_pool!r} would average merged tokens; use 'token'.")
    model.blocks = nn.Sequential(
        *(
            ToMeBlock(
                cast(Block, block),
                r[i],
                sized=any(r[:i]),
                last=i == len(r) - 1,
                num_prefix_tokens=model.num_prefix_tokens,
            )
            for i, block in enumerate(model.blocks)
        )
    )
    return model


def even_schedule(rate: Fraction, depth: int, num_patches: int) -> tuple[int, ...]:
    """Return the numbers for `merge_tokens`, as equal as possible: ``rate`` tokens per block, a whole number or not.

    A block merges at most half of its tokens; the next ones catch up with what it leaves, as far as they can.

    >>> even_schedule(Fraction(4, 3), 6, 16), even_schedule(Fraction(6), 6, 16)
    ((1, 1, 2, 1, 1, 2), (6, 5, 2, 1, 1, 0))
    """
    r: list[int] = []
    for i in range(depth):
        left = num_patches - sum(r)
        r.append(min(int(rate * (i + 1)) - sum(r), left // 2))
    return tuple(r)


def tome_schedule(model: InTIModel, num_frames: int, target_gflops: float) -> tuple[int, ...]:
    """Return the `even_schedule` whose cost is closest to a target.

    The cost is that of `torch.utils.flop_counter`. It counts the similarities (a matrix product); gathering and
    averaging the merged tokens is, like every elementwise operation, not counted.

    Args:
        model: a naive model; it stays as it is.
        num_frames: frames of a clip.
        target_gflops: cost of a clip, in 1e9 multiply-adds.

    Raises:
        ValueError: for a target above the cost of ``model`` or below what merging can reach.
    """
    model, shape = copy.deepcopy(model).to("meta"), clip_shape(model, num_frames)
    depth, num_patches = len(model.blocks), model.patch_embed.num_patches

    def gflops(rate: Fraction) -> float:
        r = even_schedule(rate, depth, num_patches)
        return meta_gflops(merge_tokens(copy.deepcopy(model), r), shape)

    # Every rate that makes a difference, up to half of the tokens in every block.
    most = num_patches // 2
    rates = sorted({Fraction(p, q) for q in range(1, depth + 1) for p in range(q * most + 1)})
    highest, lowest = gflops(rates[0]), gflops(rates[-1])
    if not lowest <= target_gflops <= highest * (1 + 1e-6):
        raise ValueError(
            f"target_gflops={target_gflops} cannot be reached by merging tokens; pass a number from {lowest} "
            f"to {highest}."
        )
    # The cost falls as the rate rises: bisect to the first that does not cost more than the target.
    i = bisect_left(rates[:-1], -target_gflops, key=lambda rate: -gflops(rate))
    rate = min(rates[max(i - 1, 0) : i + 1], key=lambda rate: abs(gflops(rate) - target_gflops))
    return even_schedule(rate, depth, num_patches)
