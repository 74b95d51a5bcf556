"""What InTI is compared with: fewer frames, fewer tokens, merged tokens (ToMe), and attention over the frames.

Each function changes an `InTIVisionTransformer` that has its weights already, through its public modules: load a
checkpoint first, then call one of

- `keep_frames`: the model sees some frames only, evenly spread or random,
- `drop_frames`, `merge_frames`: where InTI interpolates two frames, the later one is dropped, or each of its tokens is
  averaged into the most similar token of the earlier one (ToMe across frames),
- `drop_tokens`, `drop_static_tokens`: random patches of each frame are dropped before the first block, or those that
  changed least (as run-length tokenization drops unchanged ones),
- `merge_tokens`: similar tokens of a frame merge in the blocks (ToMe within frames),
- `add_temporal_attention`: the frames attend to each other at the end.

`frames_at_cost`, `tokens_at_cost` and `tome_schedule` find the setting that costs what another model costs. Random
choices are drawn anew for each clip, from PyTorch's generator: `torch.manual_seed` repeats them.

Shapes: ``B`` clips, ``T`` frames, ``F = B T`` frames of all clips, ``N`` tokens a frame, ``C`` channels.
"""

import copy
from bisect import bisect_left
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple, cast

import torch
from timm.models.vision_transformer import Attention, Block, init_weights_vit_timm
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from inti_models.models.inputs import as_frames
from inti_models.models.stages import InTIModel
from inti_models.models.vision_transformer import InTIVisionTransformer

# --- Frame dropping ---------------------------------------------------------------------------------------------------


class DropFrames(nn.Module):
    """Keeps the earlier frame of each pair; called as `InterFrameInterpolation` is."""

    def forward(
        self,
        x: Tensor,
        grid_size: tuple[int, int],
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Tokens (B, T, N, C) -> (B, ceil(T/2), N, C); an odd last frame is kept.

        With ``return_weights`` also the weights (B, T, N): one for the frames kept, zero for the others.
        """
        if not return_weights:
            return x[:, ::2]
        weights = torch.zeros_like(x[..., 0])
        weights[:, ::2] = 1
        return x[:, ::2], weights


class MergeFrames(nn.Module):
    """Averages the tokens of the later frame of each pair into those of the earlier that they resemble most.

    Token merging (Bolya et al., 2023) with the two frames as its two sets and every token of the later frame merging,
    so that the shapes are those of InTI. Similarity is the cosine of the tokens themselves; prefix tokens merge with
    prefix tokens of the same place. Called as `InterFrameInterpolation` is.

    Args:
        num_prefix_tokens: tokens at the beginning that are averaged place by place.
    """

    def __init__(self, num_prefix_tokens: int = 1) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens

    def forward(
        self,
        x: Tensor,
        grid_size: tuple[int, int],
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Tokens (B, T, N, C) -> (B, ceil(T/2), N, C); an odd last frame stays as it is.

        With ``return_weights`` also (B, T, N): how much each token counts in the mean that it became part of.
        """
        num_pairs, num_prefix = x.shape[1] // 2, self.num_prefix_tokens
        earlier, later = x[:, 0 : 2 * num_pairs : 2], x[:, 1::2]
        with torch.no_grad():
            keys = [nn.functional.normalize(frame[:, :, num_prefix:], dim=-1) for frame in (earlier, later)]
            prefix = torch.arange(num_prefix, device=x.device).expand(*later.shape[:2], num_prefix)
            nearest = (keys[1] @ keys[0].transpose(2, 3)).argmax(dim=-1) + num_prefix
            into = torch.cat((prefix, nearest), dim=2)  # B P N
            counts = torch.ones_like(earlier[..., 0]).scatter_add(2, into, torch.ones_like(later[..., 0]))
        sums = earlier.scatter_add(2, into.unsqueeze(-1).expand_as(later), later)
        merged = torch.cat((sums / counts.unsqueeze(-1), x[:, 2 * num_pairs :]), dim=1)
        if not return_weights:
            return merged
        weights = torch.ones_like(x[..., 0])
        weights[:, 0 : 2 * num_pairs : 2], weights[:, 1::2] = 1 / counts, 1 / counts.gather(2, into)
        return merged, weights


def _replace_interpolations(model: InTIModel, build: Callable[[], nn.Module]) -> InTIModel:
    for at, places in model.interpolations.items():
        model.interpolations[at] = nn.ModuleList(build() for _ in cast(nn.ModuleList, places))
    return model


def drop_frames(model: InTIModel) -> InTIModel:
    """Drop every other frame wherever ``model`` interpolates two. Changes and returns the model."""
    return _replace_interpolations(model, DropFrames)


def merge_frames(model: InTIModel) -> InTIModel:
    """Merge the tokens of two frames by similarity wherever ``model`` interpolates them. Changes and returns it."""
    return _replace_interpolations(model, lambda: MergeFrames(model.num_prefix_tokens))


# --- Fewer frames and fewer tokens before the first block -------------------------------------------------------------


class KeepFrames(nn.Module):
    """A model that sees some frames of each clip; see `keep_frames`."""

    def __init__(self, model: nn.Module, keep: int, random: bool) -> None:
        super().__init__()
        self.model, self.keep, self.random = model, keep, random

    def forward(self, clip: Tensor) -> Tensor:
        """Clip (B, T, C, H, W) -> the model's output for ``keep`` of its frames, in their order."""
        batch, num_frames = clip.shape[:2]
        if self.random:
            order = torch.rand(batch, num_frames, device=clip.device).argsort(dim=1)
            kept = order[:, : self.keep].sort(dim=1).values  # B keep
            return self.model(clip.take_along_dim(kept.view(batch, -1, 1, 1, 1), dim=1))
        return self.model(clip[:, [(2 * i + 1) * num_frames // (2 * self.keep) for i in range(self.keep)]])


def keep_frames(model: nn.Module, keep: int, random: bool = False) -> KeepFrames:
    """A model that sees ``keep`` frames of each clip: evenly spread, or random ones.

    Args:
        model: takes clips (B, T, C, H, W); it becomes part of the one returned.
        keep: frames that it sees, at most those of a clip.
        random: draw the frames of each clip instead of spreading them evenly.
    """
    return KeepFrames(model, keep, random)


class KeepTokens(nn.Module):
    """Keeps some patches of each frame; stands in for a model's ``norm_pre``, the last step before its blocks.

    Args:
        norm_pre: the model's, which becomes part of this one.
        keep: patches of a frame that stay.
        num_prefix_tokens: tokens at the beginning that always stay.
        changed: keep the patches that changed most since the frame before, not random ones.
    """

    def __init__(self, norm_pre: nn.Module, keep: int, num_prefix_tokens: int, changed: bool) -> None:
        super().__init__()
        self.norm_pre, self.keep, self.num_prefix_tokens, self.changed = norm_pre, keep, num_prefix_tokens, changed

    def forward(self, x: Tensor) -> Tensor:
        """Embedded tokens (B, T, N, C) -> (B, T, prefix + keep, C), in their order."""
        prefix, patches = x[:, :, : self.num_prefix_tokens], x[:, :, self.num_prefix_tokens :]
        rank = self._change(patches) if self.changed else torch.rand(patches.shape[:3], device=x.device)  # B T N
        kept = rank.argsort(dim=2, descending=True)[..., : self.keep].sort(dim=2).values
        return self.norm_pre(torch.cat((prefix, patches.take_along_dim(kept.unsqueeze(-1), dim=2)), dim=2))

    @torch.no_grad()
    def _change(self, patches: Tensor) -> Tensor:
        if patches.shape[1] < 2:
            raise ValueError("The clip has 1 frame, which has none to differ from; pass clips of at least 2 frames.")
        # Both frames have the same position embedding: the difference is that of the embedded pixels.
        change = (patches[:, 1:] - patches[:, :-1]).norm(dim=-1)
        return torch.cat((change[:, :1], change), dim=1)


def drop_tokens(model: InTIModel, keep: int) -> InTIModel:
    """Keep ``keep`` random patches of each frame, before the first block. Changes and returns the model.

    Args:
        model: a naive model (``compress_at=()``) that classifies from its class token.
        keep: patches of a frame that stay.

    Raises:
        ValueError: for a number of patches that a frame has not, or a model that needs tokens at every place.
    """
    return _keep_tokens(model, keep, changed=False)


def drop_static_tokens(model: InTIModel, keep: int) -> InTIModel:
    """Keep the ``keep`` patches of each frame that changed most since the one before. Changes and returns the model.

    Run-length tokenization (Choudhury et al., 2024, https://arxiv.org/abs/2411.05222) drops patches whose pixels did
    not change. Here their number is fixed, so that the cost does not depend on what a clip shows; change is measured
    on the embedded patches; the first frame, with none before it, keeps what changes next. There is no embedding of
    the length of a run, which would need training.

    Args and raises: as `drop_tokens`; the model itself raises a ValueError for clips of one frame.
    """
    return _keep_tokens(model, keep, changed=True)


def _keep_tokens(model: InTIModel, keep: int, changed: bool) -> InTIModel:
    if not 1 <= keep <= model.patch_embed.num_patches:
        raise ValueError(f"keep={keep} is none of 1 to {model.patch_embed.num_patches} patches; pass one of these.")
    if model.compress_at or model.temporal.mixes_frames or getattr(model, "rope", None) is not None:
        raise ValueError(
            "The model needs tokens at every place; create one with compress_at=(), temporal=None and without rotary "
            "position embedding."
        )
    model.norm_pre = KeepTokens(model.norm_pre, keep, model.num_prefix_tokens, changed)
    return model


def _gflops(model: nn.Module, shape: Sequence[int]) -> float:
    """1e9 multiply-adds of a clip, counted on the meta device by torch: nothing is computed."""
    twin = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        twin(torch.empty(*shape, device="meta"))
    return counter.get_total_flops() / 2e9  # torch counts a multiply-add as two


def _clip_shape(model: InTIModel, num_frames: int) -> tuple[int, ...]:
    return 1, num_frames, model.in_chans, *model.patch_embed.img_size


def frames_at_cost(model: InTIModel, target_gflops: float, most: int = 64) -> int:
    """The number of frames, at most ``most``, whose clip costs the closest to a target, in 1e9 multiply-adds."""
    model = copy.deepcopy(model).to("meta")
    return min(range(1, most + 1), key=lambda n: abs(_gflops(model, _clip_shape(model, n)) - target_gflops))


def tokens_at_cost(model: InTIModel, num_frames: int, target_gflops: float) -> int:
    """The ``keep`` of `drop_tokens` whose clip costs the closest to a target, in 1e9 multiply-adds."""
    model, shape = copy.deepcopy(model).to("meta"), _clip_shape(model, num_frames)
    numbers = range(1, model.patch_embed.num_patches + 1)

    def gflops(keep: int) -> float:
        return _gflops(drop_tokens(copy.deepcopy(model), keep), shape)

    i = bisect_left(numbers[:-1], target_gflops, key=gflops)  # the first that costs as much
    return min(numbers[max(i - 1, 0) : i + 1], key=lambda keep: abs(gflops(keep) - target_gflops))


# --- Token merging (Bolya et al., 2023, https://arxiv.org/abs/2210.09461) ---------------------------------------------


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
    """The paper's matching: each token of A draws an edge to its most similar one in B; the r best edges stay.

    Args:
        keys: what similarity (of cosine) is measured on, (F, N, D).
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
    """Stands in for an attention's ``k_norm`` and hands the keys on to the block around it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self._keys: list[Tensor] = []

    def forward(self, keys: Tensor) -> Tensor:
        keys = self.norm(keys)
        self._keys.append(keys.detach())
        return keys

    def take(self) -> Tensor:
        """The keys of the last forward pass, (F, heads, N, D); they can be taken once."""
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
        r: tokens to merge, one number a block, at most half of those left.

    Raises:
        ValueError: for another number of blocks, a model that compresses frames (the tokens of two frames would
            no longer be at the same positions), or one that averages over tokens.
    """
    if len(r) != len(model.blocks):
        raise ValueError(f"r={r!r} has {len(r)} numbers for {len(model.blocks)} blocks; pass one for each.")
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
    """Numbers for `merge_tokens`, as equal as can be: ``rate`` tokens a block, which need not be whole.

    A block merges half of its tokens at most; the next ones catch up with what it leaves, as far as they can.

    >>> even_schedule(Fraction(4, 3), 6, 16), even_schedule(Fraction(6), 6, 16)
    ((1, 1, 2, 1, 1, 2), (6, 5, 2, 1, 1, 0))
    """
    r: list[int] = []
    for i in range(depth):
        left = num_patches - sum(r)
        r.append(min(int(rate * (i + 1)) - sum(r), left // 2))
    return tuple(r)


def tome_schedule(model: InTIModel, num_frames: int, target_gflops: float) -> tuple[int, ...]:
    """The `even_schedule` whose cost is the closest to a target.

    The cost is that of `torch.utils.flop_counter`. It counts the similarities (a matrix product); gathering and
    averaging the merged tokens is, like every elementwise operation, not in its number.

    Args:
        model: a naive model; it stays as it is.
        num_frames: frames of a clip.
        target_gflops: cost of a clip, in 1e9 multiply-adds.

    Raises:
        ValueError: for a target above the cost of ``model`` or below what merging can reach.
    """
    model, shape = copy.deepcopy(model).to("meta"), _clip_shape(model, num_frames)
    depth, num_patches = len(model.blocks), model.patch_embed.num_patches

    def gflops(rate: Fraction) -> float:
        r = even_schedule(rate, depth, num_patches)
        return _gflops(merge_tokens(copy.deepcopy(model), r), shape)

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


# --- Attention over the frames: order-aware, at full cost -------------------------------------------------------------


class TemporalAttentionHead(nn.Module):
    """One transformer block over the pooled features of the frames, with learned positions, then their mean.

    The output layers of attention and MLP start at zero: the untrained head is the plain mean over frames. The
    position embedding is what the block sees, and is not added to the features themselves.

    Args:
        dim: channels ``C``.
        num_frames: frames ``T`` of a clip.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_frames: int, num_heads: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.pos_embed = nn.Parameter(torch.empty(1, num_frames, dim, **dd))
        nn.init.trunc_normal_(self.pos_embed, std=0.5)  # on the features' scale: at 0.02 order is long not learnt
        self.block = Block(dim, num_heads, qkv_bias=True, **dd)
        self.block.apply(init_weights_vit_timm)
        nn.init.zeros_(cast(nn.Linear, self.block.attn.proj).weight)
        nn.init.zeros_(cast(nn.Linear, self.block.mlp.fc2).weight)

    def forward(self, x: Tensor) -> Tensor:
        """Features of frames (B, T, C) -> features of clips (B, C).

        Raises:
            ValueError: for another number of frames than there are positions.
        """
        if x.shape[1] != self.pos_embed.shape[1]:
            raise ValueError(
                f"The clip has {x.shape[1]} frames, the temporal attention positions for {self.pos_embed.shape[1]}; "
                "pass clips of that length or create the model with another num_frames."
            )
        return (self.block(x + self.pos_embed) - self.pos_embed).mean(dim=1)


class TemporalAttentionTransformer(InTIVisionTransformer):
    """A naive video model that attends to its frames before it averages them; see `add_temporal_attention`."""

    frame_attention: TemporalAttentionHead

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, T, N, C) of a clip of T frames -> logits (B, num_classes), or features (B, C)."""
        frames = as_frames(x)
        pooled = super().forward_head(frames.flatten(0, 1), pre_logits=True)  # each frame for itself: BT C
        pooled = self.frame_attention(pooled.unflatten(0, frames.shape[:2]))
        return pooled if pre_logits else self.head(pooled)

    def no_weight_decay(self) -> set[str]:
        """timm's list of parameters not to decay, with the temporal positions."""
        return {*super().no_weight_decay(), "frame_attention.pos_embed"}


def add_temporal_attention(model: InTIModel, num_frames: int | None = None) -> TemporalAttentionTransformer:
    """A model of ``model``'s modules (not copies) and a `TemporalAttentionHead` with as many heads as its blocks.

    Args:
        model: a naive model (``compress_at=()``) that pools tokens.
        num_frames: frames of a clip; None for the model's own number.

    Raises:
        ValueError: for a model that compresses frames or does not pool tokens.
    """
    if model.compress_at:
        raise ValueError(f"compress_at={model.compress_at} leaves fewer frames; create the model with compress_at=().")
    if not model.global_pool:
        raise ValueError("global_pool='' leaves no feature of a frame to attend to; use 'token' or 'avg'.")
    parameter = next(model.parameters())
    temporal = TemporalAttentionTransformer.adopt(model)
    temporal.frame_attention = TemporalAttentionHead(
        model.embed_dim,
        num_frames or model.num_frames,
        cast(Attention, cast(Block, model.blocks[0]).attn).num_heads,
        device=parameter.device,
        dtype=parameter.dtype,
    ).train(model.training)
    return temporal
