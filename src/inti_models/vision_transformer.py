"""InTI video transformer: timm's `VisionTransformer` with inter-frame interpolation between its blocks.

Shapes: ``B`` clips, ``T`` frames (``T'`` of them remaining), ``N`` tokens a frame, ``C`` channels.
"""

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from timm.layers import register_notrace_function
from timm.models import checkpoint
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn

from ._private import feature_take_indices
from .interpolation import CONTEXTS, InterFrameInterpolation, Weighting, frame_counts
from .temporal import METHODS, TemporalMethod
from .temporal.method import check_block


def default_schedule(depth: int) -> tuple[int, ...]:
    """Compress after a third and after five sixths of the blocks: 37.5% off the blocks' cost.

    ``1/3 * 1 + 1/2 * 1/2 + 1/6 * 1/4 = 0.625``: (4, 10) of 12 blocks, (8, 20) of 24.
    """
    return (round(depth / 3), round(depth * 5 / 6))


def check_schedule(compress_at: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return ``compress_at`` as a tuple of ints.

    Raises:
        ValueError: if it is not a non-decreasing sequence of integers from 0 to ``depth``.
    """
    schedule = tuple(compress_at) if isinstance(compress_at, Sequence) else None
    if (
        schedule is None
        or not all(type(i) is int and 0 <= i <= depth for i in schedule)
        or list(schedule) != sorted(schedule)
    ):
        raise ValueError(
            f"compress_at={compress_at!r} is not a schedule for {depth} blocks; pass a non-decreasing tuple of "
            f"integers from 0 to {depth}, such as {default_schedule(depth)}, or () for no compression."
        )
    return schedule


@register_notrace_function
def as_clip(x: Tensor, in_chans: int, img_size: tuple[int, int] | None, patch_size: tuple[int, int] | None) -> Tensor:
    """A clip (B, T, C, H, W) as it is; an image (B, C, H, W) as a clip of one frame.

    What cannot be told apart is taken as stated: (T, C, H, W) is a batch of T images, and (B, C, T, H, W)
    with T equal to the number of channels is a clip of C frames.

    Args:
        x: clip or image.
        in_chans: channels expected.
        img_size: exact size expected, if any.
        patch_size: what the size has to be divisible by, if anything.

    Raises:
        ValueError: for another number of dimensions, channels or frames, another size, or integers.
    """
    shape = tuple(x.shape)
    if x.ndim not in (4, 5):
        raise ValueError(f"Input of shape {shape} is neither a clip (B, T, C, H, W) nor an image (B, C, H, W).")
    if not x.is_floating_point():
        raise ValueError(
            f"Input is {x.dtype}, not floating point; normalise it first, with "
            "inti_models.data.create_clip_transform for example."
        )
    if shape[-3] != in_chans:
        advice = "check the layout"
        if x.ndim == 5 and shape[1] == in_chans:
            advice = "this looks like (B, C, T, H, W): pass x.transpose(1, 2)"
        elif x.ndim == 4 and shape[0] == in_chans:
            advice = "this looks like (C, T, H, W): pass x.transpose(0, 1).unsqueeze(0)"
        raise ValueError(
            f"Input of shape {shape} has {shape[-3]} channels where {in_chans} are expected in a clip "
            f"(B, T, C, H, W) or image (B, C, H, W); {advice}."
        )
    clip = x if x.ndim == 5 else x.unsqueeze(1)
    if clip.shape[1] == 0:
        raise ValueError(f"Input of shape {shape} has no frames; a clip needs at least one.")
    if img_size is not None and shape[-2:] != tuple(img_size):
        raise ValueError(
            f"Frames are {shape[-2]}x{shape[-1]}, the model expects {img_size[0]}x{img_size[1]}; resize them, call "
            "model.set_input_size(...), or create the model with img_size=... or dynamic_img_size=True."
        )
    if patch_size is not None and (shape[-2] % patch_size[0] or shape[-1] % patch_size[1]):
        raise ValueError(
            f"Frames are {shape[-2]}x{shape[-1]}, not a multiple of the patch size {patch_size[0]}x{patch_size[1]}; "
            "resize them or create the model with dynamic_img_pad=True."
        )
    return clip


@register_notrace_function
def as_frames(x: Tensor) -> Tensor:
    """Features of an image, (B, N, C), as those of one frame, (B, 1, N, C)."""
    return x if x.ndim == 4 else x.unsqueeze(1)


@register_notrace_function
def drop_frame_dim(x: Tensor, drop: bool) -> Tensor:
    """For images: (B, 1, ...) -> (B, ...)."""
    return x.squeeze(1) if drop else x


@register_notrace_function
def is_image(x: Tensor, ndim: int) -> bool:
    """Whether ``x`` has the ``ndim`` dimensions of an image (or its features)."""
    return x.ndim == ndim


@register_notrace_function
def check_mask(attn_mask: Tensor | None, is_causal: bool, temporal: bool) -> Tensor | None:
    """Return the mask; a ValueError if it is not one (N, N) mask for all frames, or a temporal method would see it."""
    if temporal and (attn_mask is not None or is_causal):
        raise ValueError("attn_mask and is_causal are for models without a temporal method; leave them out.")
    if attn_mask is not None and attn_mask.ndim != 2:
        raise ValueError(f"attn_mask has shape {tuple(attn_mask.shape)}; pass one of (N, N) for all frames.")
    return attn_mask


@register_notrace_function
def mean_over_frames(x: Tensor, counts: Sequence[int] | None) -> Tensor:
    """(B, T', C) -> (B, C), each frame counted as the number of input frames it stands for."""
    if counts is None:
        return x.mean(dim=1)
    count = torch.tensor(counts, dtype=x.dtype, device=x.device)
    return (x * (count / count.sum()).view(1, -1, 1)).sum(dim=1)


class InTIVisionTransformer(VisionTransformer):
    """A video classifier that halves the frames between the blocks of an image ViT.

    Each frame runs through the same image blocks; after ``compress_at[k]`` blocks an
    `InterFrameInterpolation` turns every two frames into one. After the last block: final norm, the
    image model's pooling on each remaining frame, mean over frames, head.

    The input is a clip (B, T, C, H, W) with any T >= 1, or an image (B, C, H, W), which is a clip of one
    frame; for an image every method returns what timm's `VisionTransformer` returns. A clip without a
    batch dimension, (T, C, H, W), cannot be told from a batch of images: add the dimension yourself.

    Args:
        compress_at: numbers of blocks already run at which to compress; non-decreasing, repeats allowed.
            ``()`` is the naive per-frame adaptation, None the `default_schedule`.
        reduction: see `InterFrameInterpolation`.
        context: see `InterFrameInterpolation`.
        weighting: see `InterFrameInterpolation`.
        num_frames: frames a clip is sampled to. Metadata for the data pipeline; any T runs.
        sampling: ``"uniform"`` (segments) or ``"dense"`` (every ``frame_stride``-th frame). Metadata likewise.
        frame_stride: stride of dense sampling.
        temporal: name of a method in `inti_models.temporal.METHODS` whose modules let frames see each other; None for
            none. Its modules see the frames that remain at their depth.
        temporal_args: arguments of the method.
        **kwargs: timm's `VisionTransformer` arguments.

    Raises:
        ValueError: for a schedule, context, weighting, temporal method or argument of it that does not fit, or a
            ``patch_drop_rate`` (it would drop other positions in each frame).
        TypeError: for a temporal method on other blocks than timm's `Block`.
    """

    compress_at: tuple[int, ...]
    temporal: TemporalMethod | None
    interpolations: nn.ModuleDict  # blocks run -> ModuleList of InterFrameInterpolation
    pretrained_cfg: dict[str, Any]
    default_cfg: dict[str, Any]
    normalization_fused: bool = False
    _recomputed_stages: frozenset[int] | None = None
    _model_args: dict[str, Any]  # timm's: what config.json needs to build the model again

    def __init__(
        self,
        *,
        compress_at: Sequence[int] | None = None,
        reduction: int = 16,
        context: Sequence[str] = CONTEXTS,
        weighting: Weighting = "softmax",
        num_frames: int = 8,
        sampling: str = "uniform",
        frame_stride: int | None = None,
        temporal: str | None = None,
        temporal_args: Mapping[str, Any] | None = None,
        patch_drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if patch_drop_rate:
            raise ValueError(
                f"patch_drop_rate={patch_drop_rate} drops other positions in each frame, which then cannot be "
                "interpolated; leave it at 0."
            )
        super().__init__(**kwargs)
        act_layer = kwargs.get("act_layer")
        if isinstance(act_layer, str):
            self._model_args = {"act_layer": act_layer}
        self._add_interpolations(
            compress_at=compress_at,
            reduction=reduction,
            context=context,
            weighting=weighting,
            num_frames=num_frames,
            sampling=sampling,
            frame_stride=frame_stride,
            temporal=temporal,
            temporal_args=temporal_args,
            device=kwargs.get("device"),
            dtype=kwargs.get("dtype"),
        )

    def _add_interpolations(
        self,
        compress_at: Sequence[int] | None = None,
        reduction: int = 16,
        context: Sequence[str] = CONTEXTS,
        weighting: Weighting = "softmax",
        num_frames: int = 8,
        sampling: str = "uniform",
        frame_stride: int | None = None,
        temporal: str | None = None,
        temporal_args: Mapping[str, Any] | None = None,
        device=None,
        dtype=None,
    ) -> None:
        """Turn an image ViT into a video one: everything that `InTIVisionTransformer` adds to its parent."""
        if not isinstance(num_frames, int) or num_frames < 1:
            raise ValueError(f"num_frames={num_frames!r} is not a number of frames; pass an integer of at least 1.")
        if sampling not in ("uniform", "dense"):
            raise ValueError(f"sampling={sampling!r} is unknown; choose 'uniform' or 'dense'.")
        depth = len(self.blocks)
        self.compress_at = check_schedule(default_schedule(depth) if compress_at is None else compress_at, depth)
        self.num_frames, self.sampling, self.frame_stride = num_frames, sampling, frame_stride
        # Keys say where a checkpoint compresses: interpolations.<blocks run>.<repeat>.<parameter>
        self.interpolations = nn.ModuleDict(
            {
                str(at): nn.ModuleList(
                    InterFrameInterpolation(
                        self.embed_dim,
                        self.num_prefix_tokens,
                        reduction=reduction,
                        context=context,
                        weighting=weighting,
                        device=device,
                        dtype=dtype,
                    )
                    for _ in range(self.compress_at.count(at))
                )
                for at in sorted(set(self.compress_at))
            }
        ).train(self.training)
        self._add_temporal(temporal, temporal_args or {}, device, dtype)
        self._model_args = {
            **getattr(self, "_model_args", {}),
            "compress_at": self.compress_at,
            "reduction": reduction,
            "context": tuple(context),
            "weighting": weighting,
            "num_frames": num_frames,
            "sampling": sampling,
            "frame_stride": frame_stride,
            **({} if temporal is None else {"temporal": temporal, "temporal_args": dict(temporal_args or {})}),
        }

    def _add_temporal(self, name: str | None, args: Mapping[str, Any], device, dtype) -> None:
        """Add the modules of a temporal method to the blocks and to the model."""
        if name is None:
            if args:
                raise ValueError(f"temporal_args={dict(args)!r} are of no method; name one with temporal=...")
            self.temporal = None
            return
        if name not in METHODS:
            raise ValueError(f"temporal={name!r} is unknown; choose one of {', '.join(METHODS)}.")
        method = METHODS[name]
        of_model = inspect.signature(TemporalMethod).parameters
        options = [option for option in inspect.signature(method).parameters if option not in (*of_model, "model")]
        for option in args.keys() - set(options):
            raise ValueError(f"temporal={name!r} has no argument {option!r}; it has {', '.join(options) or 'none'}.")
        if method.norm_last and self.global_pool not in ("token", ""):
            raise ValueError(
                f"temporal={name!r} classifies by class tokens, not by global_pool={self.global_pool!r}; use 'token'."
            )
        self.temporal = method(
            dim=self.embed_dim,
            depth=len(self.blocks),
            num_heads=cast(Attention, check_block(self.blocks[0]).attn).num_heads,
            num_prefix_tokens=self.num_prefix_tokens,
            num_frames=self.num_frames,
            device=device,
            dtype=dtype,
            **args,
        )
        self.temporal.extend(self.patch_embed)
        self.blocks = nn.Sequential(*(self.temporal.adapt(block) for block in self.blocks))
        self.train(self.training)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layer groups; an interpolation belongs to the block that follows it.

        A temporal method's modules in a block belong to that block, its embeddings to the stem, all else to the head.
        """
        groups = super().group_matcher(coarse)
        groups["stem"] += r"|temporal\.(?:time|patch)_embed"
        groups["blocks"] = [*groups["blocks"], (r"^interpolations\.(\d+)", None)]
        return groups

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters not to decay: timm's, and the embeddings and tokens of a temporal method."""
        names = () if self.temporal is None else [name for name, _ in self.temporal.named_parameters(recurse=False)]
        return {*super().no_weight_decay(), *(f"temporal.{name}" for name in names)}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True, stages: Sequence[int] | None = None) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations.

        Args:
            enable: whether to.
            stages: only blocks of these stages; stage k are the blocks behind k compressions. None for all.
                Stage 0 has all frames, and so most of the activations.

        Raises:
            ValueError: for a stage that the model has not.
        """
        for stage in stages or ():
            if stage not in range(len(self.compress_at) + 1):
                raise ValueError(f"stage {stage!r} is none of the model's, 0 to {len(self.compress_at)}.")
        super().set_grad_checkpointing(enable)
        self._recomputed_stages = None if stages is None else frozenset(stages)

    @torch.jit.ignore
    @torch.no_grad()
    def fuse_normalization(self) -> "InTIVisionTransformer":
        """Fold ``(pixel / 255 - mean) / std`` into the patch embedding: from then on the model takes pixels.

        Frames can then stay ``uint8`` up to the device; floating-point pixels of 0 to 255 work too. For inference: a
        fused model is not saved, and its patch embedding not retrained as it was. Changes and returns the model.

        Raises:
            ValueError: if it is fused already, or where the frames are padded, in place or in time: zeros would then
                no longer stand for the mean.
        """
        proj = self.patch_embed.proj
        if self.normalization_fused:
            raise ValueError("The normalization is fused already; do it once.")
        padded_in_time = self.temporal is not None and self.temporal.stride > 1
        if any(proj.padding) or self.patch_embed.dynamic_img_pad or padded_in_time:
            raise ValueError(
                "This model pads frames, in time or at their borders, with zeros that stand for the mean; normalise "
                "its frames with inti_models.data.create_clip_transform instead."
            )
        mean, std = (
            torch.as_tensor(self.pretrained_cfg[key], dtype=torch.float64, device=proj.weight.device).expand(
                self.in_chans
            )
            for key in ("mean", "std")
        )
        weight = proj.weight.double() / std.view(1, -1, 1, 1)
        bias = -(weight.sum(dim=(2, 3)) @ mean) + (0 if proj.bias is None else proj.bias.double())
        proj.weight.copy_(weight / 255)
        proj.bias = nn.Parameter(bias.to(proj.weight.dtype), requires_grad=proj.weight.requires_grad)
        self.normalization_fused = True
        return self

    def _as_clip(self, x: Tensor) -> Tensor:
        embed = self.patch_embed
        if self.normalization_fused and x.dtype == torch.uint8:
            x = x.to(embed.proj.weight.dtype)
        return as_clip(
            x,
            self.in_chans,
            embed.img_size if embed.strict_img_size else None,
            None if embed.strict_img_size or embed.dynamic_img_pad else embed.patch_size,
        )

    def _forward_blocks(
        self,
        clip: Tensor,
        num_blocks: int | None = None,
        take_indices: Sequence[int] = (),
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        return_weights: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The one pass through embedding, blocks and interpolations.

        Args:
            clip: (B, T, C, H, W).
            num_blocks: stop right after so many blocks; None to run to the end.
            take_indices: blocks whose output to collect.
            attn_mask, is_causal: passed to the blocks; the mask is one for all frames, (N, N).
            return_weights: collect the weights of the interpolations.

        Returns:
            The last tokens (B, T', N, C); the tokens after each block taken, in the order of the blocks,
            before any compression that follows; the weights of each interpolation, (B, T', N) each.
        """
        attn_mask = check_mask(attn_mask, is_causal, self.temporal is not None)
        num_frames = self.embedded_frames(clip.shape[1])
        grid_size = self.patch_embed.dynamic_feat_size((clip.shape[3], clip.shape[4]))
        x = self._embed(clip)  # B T N C
        taken: list[Tensor] = []
        read: list[Tensor] = []  # by the temporal method
        weights: list[Tensor] = []
        compressions = 0
        for i in range(len(self.blocks) + 1 if num_blocks is None else num_blocks):
            for interpolation in self._interpolations_at(i):
                counts = frame_counts(num_frames, compressions)
                x = interpolation(x, grid_size, counts, return_weights)
                if return_weights:
                    x, stage_weights = x
                    weights.append(stage_weights)
                compressions += 1
            if i < len(self.blocks):
                stages = self._recomputed_stages
                recompute = self.grad_checkpointing and (stages is None or compressions in stages)
                x = self._forward_block(self.blocks[i], x, grid_size, attn_mask, is_causal, recompute)
            if i in take_indices:
                taken.append(x)
            if self.temporal is not None and i in self.temporal.reads:
                read.append(x)
        if self.temporal is not None and num_blocks is None:
            x = self.temporal.finish(x, read, grid_size)
        return x, taken, weights

    def embedded_frames(self, num_frames: int) -> int:
        """Frames of a clip after patch embedding."""
        return num_frames if self.temporal is None else -(-num_frames // self.temporal.stride)

    def _embed(self, clip: Tensor) -> Tensor:
        """Clip (B, T, channels, H, W) -> tokens before the first block, (B, T, N, C)."""
        batch, num_frames = clip.shape[0], clip.shape[1]
        if self.temporal is None:
            x = self.patch_embed(clip.flatten(0, 1))  # BT N C, or BT H W C for dynamic sizes
            return self.norm_pre(self._pos_embed(x)).unflatten(0, (batch, num_frames))
        x = self._pos_embed(self.temporal.embed_patches(self.patch_embed, clip))
        return self.norm_pre(self.temporal.embed_time(x.unflatten(0, (batch, self.embedded_frames(num_frames)))))

    def _final_norm(self, x: Tensor) -> Tensor:
        """The final norm of tokens, unless it has to wait for the mean over frames."""
        return x if self.temporal is not None and self.temporal.norm_last else self.norm(x)

    def _interpolations_at(self, num_blocks: int) -> Iterable[nn.Module]:
        """The interpolations behind so many blocks, in order."""
        return cast(nn.ModuleList, self.interpolations[str(num_blocks)]) if num_blocks in self.compress_at else ()

    def _forward_block(
        self,
        block: nn.Module,
        x: Tensor,
        grid_size: tuple[int, int],
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        recompute: bool = False,
    ) -> Tensor:
        """A block: an image block on each frame, or a temporal one on all, (B, T, N, C) -> (B, T, N, C)."""
        if self.temporal is not None:
            if recompute and not torch.jit.is_scripting():
                return checkpoint(block, x, grid_size)
            return block(x, grid_size)
        kwargs = {} if attn_mask is None and not is_causal else {"attn_mask": attn_mask, "is_causal": is_causal}
        frames = x.flatten(0, 1)  # BT N C
        if recompute and not kwargs and not torch.jit.is_scripting():
            frames = checkpoint(block, frames)
        else:
            frames = block(frames, **kwargs)
        return frames.unflatten(0, (x.shape[0], x.shape[1]))

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens after the final norm: (B, T', N, C) for a clip, (B, N, C) for an image.

        Before it, for a temporal method whose final norm follows the mean over frames.

        Args:
            x: clip (B, T, C, H, W) or image (B, C, H, W).
            attn_mask: attention mask (N, N), the same for every frame.
            is_causal: causal attention within each frame.
        """
        tokens, _, _ = self._forward_blocks(self._as_clip(x), attn_mask=attn_mask, is_causal=is_causal)
        return drop_frame_dim(self._final_norm(tokens), is_image(x, 4))

    def forward_head(self, x: Tensor, pre_logits: bool = False, num_frames: int | None = None) -> Tensor:
        """Pool the tokens of each frame as the image model does, average over frames, classify.

        Args:
            x: output of `forward_features`, (B, T', N, C) or (B, N, C).
            pre_logits: return the (B, C) features before the classifier.
            num_frames: frames of the input clip. Needed only where it is not a multiple of
                ``2**len(compress_at)``: the last frame then stands for fewer input frames than the others.

        Returns:
            Logits (B, num_classes). With ``global_pool=""`` neither tokens nor frames are pooled.
        """
        frames = as_frames(x)
        pooled = self.fc_norm(self.pool(frames.flatten(0, 1)))  # BT' C
        pooled = pooled.unflatten(0, (frames.shape[0], frames.shape[1]))
        if self.global_pool:
            counts = (
                None if num_frames is None else frame_counts(self.embedded_frames(num_frames), len(self.compress_at))
            )
            pooled = mean_over_frames(pooled, counts)
            if self.temporal is not None and self.temporal.norm_last:
                pooled = self.norm(pooled)
        else:
            pooled = drop_frame_dim(pooled, is_image(x, 3))
        pooled = self.head_drop(pooled)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Clip (B, T, C, H, W) or image (B, C, H, W) -> logits (B, num_classes)."""
        features = self.forward_features(x, attn_mask=attn_mask, is_causal=is_causal)
        return self.forward_head(features, num_frames=clip_length(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> list[Any] | tuple[Tensor, list[Any]] | dict[str, Any]:
        """Features after chosen blocks, before any compression that follows them.

        Args:
            x: clip (B, T, C, H, W) or image (B, C, H, W).
            indices: blocks to take: the last n if int, all if None, these if a sequence.
            return_prefix_tokens: return (features, prefix tokens) pairs.
            norm: apply the final norm to intermediates too.
            stop_early: do not run blocks behind the last one taken.
            output_fmt: "NCHW" gives (B, T', C, H, W) for a clip, "NLC" (B, T', N, C) without prefix tokens;
                for an image both as timm does.
            intermediates_only: do not return the final features.
            output_dict: return timm's dictionary (``image_features``, ``image_intermediates``, ...).
            attn_mask: see `forward_features`.
            is_causal: see `forward_features`.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt={output_fmt!r} is unknown; choose 'NCHW' or 'NLC'.")
        take_indices, last = feature_take_indices(len(self.blocks), indices)
        clip, image = self._as_clip(x), is_image(x, 4)
        num_blocks = last + 1 if stop_early and last + 1 < len(self.blocks) else None
        tokens, taken, _ = self._forward_blocks(clip, num_blocks, take_indices, attn_mask, is_causal)

        taken = [drop_frame_dim(self.norm(y) if norm else y, image) for y in taken]
        prefix = [y[..., : self.num_prefix_tokens, :] for y in taken]
        spatial = [y[..., self.num_prefix_tokens :, :] for y in taken]
        if output_fmt == "NCHW":
            grid_size = self.patch_embed.dynamic_feat_size((clip.shape[-2], clip.shape[-1]))
            spatial = [y.transpose(-1, -2).unflatten(-1, grid_size).contiguous() for y in spatial]
        with_prefix = return_prefix_tokens and self.num_prefix_tokens > 0

        if output_dict:
            result: dict[str, Any] = {"image_intermediates": spatial}
            if with_prefix:
                result["image_intermediates_prefix"] = prefix
            if not intermediates_only:
                result["image_features"] = drop_frame_dim(self._final_norm(tokens), image)
            return result
        intermediates: list[Any] = list(zip(spatial, prefix, strict=True)) if with_prefix else spatial
        if intermediates_only:
            return intermediates
        return drop_frame_dim(self._final_norm(tokens), image), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks, interpolations, norm and head that the chosen intermediates do not need."""
        take_indices = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        self.compress_at = tuple(at for at in self.compress_at if at < len(self.blocks))
        for at in [at for at in self.interpolations if int(at) not in self.compress_at]:
            del self.interpolations[at]
        if self.temporal is not None:
            self.temporal.prune(len(self.blocks))
        return take_indices

    def interpolation_weights(self, x: Tensor) -> list[Tensor]:
        """The weights that each interpolation gives to the tokens before it, (B, T', N) each, in order."""
        return self._forward_blocks(self._as_clip(x), return_weights=True)[2]

    def frame_weights(self, x: Tensor) -> Tensor:
        """How much of each position of each input frame is in the frame that it became part of.

        The product of the weights along the way through all interpolations (paper, fig. 4). In a model with a
        temporal method it is the interpolations' share only: frames also see each other in the method's modules. Where
        the method embeds several input frames as one (``temporal.stride``), T counts these.

        Args:
            x: clip (B, T, C, H, W) or image (B, C, H, W).

        Returns:
            (B, T, grid height, grid width). With ``softmax`` and ``uniform`` weightings it sums to one over
            each group of frames that became one: ``2**len(compress_at)`` neighbouring frames, fewer at the end.
        """
        clip = self._as_clip(x)
        grid_size = self.patch_embed.dynamic_feat_size((clip.shape[-2], clip.shape[-1]))
        num_frames = self.embedded_frames(clip.shape[1])
        cascaded = clip.new_ones(())
        for compressions, weights in enumerate(self.interpolation_weights(clip)):
            frame_of_input = torch.arange(num_frames, device=clip.device) // 2**compressions
            cascaded = cascaded * weights[:, frame_of_input, self.num_prefix_tokens :]  # B T HW
        return cascaded.expand(len(clip), num_frames, grid_size[0] * grid_size[1]).unflatten(2, grid_size)


@register_notrace_function
def clip_length(x: Tensor) -> int:
    """Frames of a clip (B, T, C, H, W); 1 for an image (B, C, H, W)."""
    return x.shape[1] if x.ndim == 5 else 1


def from_image_model(
    vit: VisionTransformer,
    compress_at: Sequence[int] | None = None,
    num_classes: int | None = None,
    **inti_args: Any,
) -> InTIVisionTransformer:
    """Make a video model of any instantiated timm `VisionTransformer` (CLIP, SigLIP, DINOv2, AugReg, ...).

    The image model's modules become part of the video model, not copies of them: pass
    ``copy.deepcopy(vit)`` to go on using ``vit`` by itself.

    Args:
        vit: the image model, with its weights.
        compress_at: see `InTIVisionTransformer`; None for the default schedule.
        num_classes: classes of a new head; None to keep the image model's head.
        **inti_args: ``reduction``, ``context``, ``weighting``, ``num_frames``, ``sampling``, ``frame_stride``,
            ``temporal``, ``temporal_args``.

    Raises:
        TypeError: for a model that is not exactly timm's `VisionTransformer`.
        ValueError: for a model with patch dropout, or a schedule that does not fit.
    """
    if type(vit) is not VisionTransformer:
        raise TypeError(
            f"Cannot wrap a {type(vit).__name__}; from_image_model takes timm's VisionTransformer itself, such as "
            "timm.create_model('vit_base_patch16_clip_224') (classes with a forward pass of their own, such as "
            "NaFlexVit, Eva or VisionTransformerDistilled, would lose it)."
        )
    if not isinstance(vit.patch_drop, nn.Identity):
        raise ValueError("Cannot wrap a model with patch dropout: create it with patch_drop_rate=0.")
    model = InTIVisionTransformer.__new__(InTIVisionTransformer)
    model.__dict__.update({name: copy.copy(value) for name, value in vit.__dict__.items()})
    parameter = next(vit.parameters())
    model._add_interpolations(compress_at, **inti_args, device=parameter.device, dtype=parameter.dtype)
    if num_classes is not None:
        model.reset_classifier(num_classes)

    cfg = getattr(vit, "pretrained_cfg", None)
    if cfg and cfg.get("architecture"):  # from timm's registry: can be created again as `inti_vit`
        model._model_args["base"] = cfg["architecture"]
        weight_source = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "tag", "state_dict")
        model.pretrained_cfg = {k: v for k, v in cfg.items() if k not in weight_source}
        model.pretrained_cfg["architecture"] = "inti_vit"
        model.default_cfg = model.pretrained_cfg  # timm's old name for it
    return model
