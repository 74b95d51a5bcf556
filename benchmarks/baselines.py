"""Baselines to compare InTI with besides those in the package (`models.reductions`, `models.token_merging`).

Each function changes an `InTIVisionTransformer` that has its weights already, through its public modules: load a
checkpoint first, then call one of

- `merge_frames`: where InTI interpolates two frames, each token of the later one is averaged into the most similar
  token of the earlier one (ToMe across frames),
- `drop_tokens`, `drop_static_tokens`: random patches of each frame are dropped before the first block, or those that
  changed least (as run-length tokenization drops unchanged ones),
- `add_temporal_attention`: the frames attend to each other at the end.

`tokens_at_cost` finds the setting that costs what another model costs. Random choices are drawn anew for each clip,
from PyTorch's generator: `torch.manual_seed` repeats them.

Shapes: ``B`` clips, ``T`` frames, ``N`` tokens per frame, ``C`` channels.
"""

import copy
from bisect import bisect_left
from typing import cast

import torch
from timm.models.vision_transformer import Attention, Block, init_weights_vit_timm
from torch import Tensor, nn

from inti_models.models.inputs import as_frames
from inti_models.models.reductions import clip_shape, meta_gflops, replace_interpolations
from inti_models.models.stages import InTIModel
from inti_models.models.vision_transformer import InTIVisionTransformer


class MergeFrames(nn.Module):
    """A merge of the tokens of the later frame of each pair into the most similar ones of the earlier frame.

    Token merging (Bolya et al., 2023) with the two frames as its two sets and every token of the later frame merging,
    so that the shapes are those of InTI. Similarity is the cosine of the tokens themselves; prefix tokens merge with
    prefix tokens of the same position. Called as `InterFrameInterpolation` is.

    Args:
        num_prefix_tokens: tokens at the beginning that are averaged position by position.
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


def merge_frames(model: InTIModel) -> InTIModel:
    """Merge the tokens of two frames by similarity wherever ``model`` interpolates them. Changes and returns it."""
    return replace_interpolations(model, lambda: MergeFrames(model.num_prefix_tokens))


# --- Fewer tokens before the first block ------------------------------------------------------------------------------


class KeepTokens(nn.Module):
    """A stand-in for a model's ``norm_pre``, the last step before its blocks, that keeps some patches of each frame.

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
            raise ValueError("The clip has 1 frame, so nothing to differ from; pass clips of at least 2 frames.")
        # Both frames have the same position embedding: the difference is that of the embedded pixels.
        change = (patches[:, 1:] - patches[:, :-1]).norm(dim=-1)
        return torch.cat((change[:, :1], change), dim=1)


def drop_tokens(model: InTIModel, keep: int) -> InTIModel:
    """Keep ``keep`` random patches of each frame, before the first block. Changes and returns the model.

    Args:
        model: a naive model (``compress_at=()``) that classifies from its class token.
        keep: patches of a frame that stay.

    Raises:
        ValueError: for more patches than a frame has, none, or a model that needs tokens at every position.
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
        raise ValueError(f"keep={keep} is not a number of patches; pass 1 to {model.patch_embed.num_patches}.")
    if model.compress_at or model.temporal.mixes_frames or getattr(model, "rope", None) is not None:
        raise ValueError(
            "The model needs tokens at every position; create one with compress_at=(), temporal=None and without a "
            "rotary position embedding."
        )
    model.norm_pre = KeepTokens(model.norm_pre, keep, model.num_prefix_tokens, changed)
    return model


def tokens_at_cost(model: InTIModel, num_frames: int, target_gflops: float) -> int:
    """Return the ``keep`` of `drop_tokens` whose clip costs closest to a target, in 1e9 multiply-adds."""
    model, shape = copy.deepcopy(model).to("meta"), clip_shape(model, num_frames)
    numbers = range(1, model.patch_embed.num_patches + 1)

    def gflops(keep: int) -> float:
        return meta_gflops(drop_tokens(copy.deepcopy(model), keep), shape)

    i = bisect_left(numbers[:-1], target_gflops, key=gflops)  # the first that costs as much
    return min(numbers[max(i - 1, 0) : i + 1], key=lambda keep: abs(gflops(keep) - target_gflops))


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
        """Return the features of clips (B, C) from those of frames (B, T, C).

        Raises:
            ValueError: for a number of frames other than that of positions.
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
        """Return logits (B, num_classes), or features (B, C), from a clip's tokens (B, T, N, C)."""
        frames = as_frames(x)
        pooled = super().forward_head(frames.flatten(0, 1), pre_logits=True)  # each frame for itself: BT C
        pooled = self.frame_attention(pooled.unflatten(0, frames.shape[:2]))
        return pooled if pre_logits else self.head(pooled)

    def no_weight_decay(self) -> set[str]:
        """Return timm's parameters not to decay, with the temporal positions."""
        return {*super().no_weight_decay(), "frame_attention.pos_embed"}


def add_temporal_attention(model: InTIModel, num_frames: int | None = None) -> TemporalAttentionTransformer:
    """Return a model of ``model``'s modules (not copies) and a `TemporalAttentionHead`, its heads as many as a block's.

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
