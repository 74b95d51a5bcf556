"""What InTI adds to an image transformer: interpolations between its blocks, and the steps of its forward pass.

Shapes: ``B`` clips, ``T`` frames (``T'`` of them remaining), ``N`` tokens per frame, ``C`` channels.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from timm.data import resolve_input_data_config
from timm.models import checkpoint
from torch import Tensor, nn

from ._private import feature_take_indices
from .config import OUTPUT, InTIConfig
from .heads import text_head
from .inputs import BlockInputs, as_clip, as_frames, check_mask, drop_frame_dim, fold_normalization, is_image
from .interpolation import InterFrameInterpolation, cascade, repeat_evenly, sum_repeats
from .probabilities import Probabilities
from .schedules import check_schedule, default_schedule, stage_bounds
from .temporal import TemporalBlock, TemporalMethod, build_method

Tensors = dict[str, Tensor]  # by name, as a file has them


def interpolations_at(compress_at: Sequence[int], build: Callable[[], nn.Module]) -> nn.ModuleDict:
    """Make what halves the frames, by ``build``, for each place of a schedule.

    Keys say where a checkpoint compresses: interpolations.<blocks run>.<repeat>.<parameter>
    """
    return nn.ModuleDict(
        {str(at): nn.ModuleList(build() for _ in range(compress_at.count(at))) for at in sorted(set(compress_at))}
    )


class InTIModel(nn.Module):
    """An image transformer of timm's as a video classifier that halves the frames between its blocks.

    Inherit from it before the image model's class, the *trunk*, which provides patch embedding, blocks, norm, pooling
    and head. What differs between trunks is in two methods, `embed_positions` and `block_args`, and in a third where
    published files have other names, `map_image_checkpoint`.

    A clip's way through the model, each step a method: `to_clip` checks it, `embed` makes tokens of its frames,
    `forward_stage` runs the compression before a stage and its blocks, for each of `stages`; ``norm``; `pool_frames`
    pools the tokens of each frame, `classify_frames` averages the frames and classifies, or `encode_frames` makes one
    embedding of them.

    Args:
        **kwargs: fields of `InTIConfig`, and arguments of the trunk.

    Raises:
        ValueError: for a schedule, context, weighting, temporal method or argument of it that does not fit, or a
            ``patch_drop_rate`` (it would drop different positions in each frame).
        TypeError: for a temporal method on blocks other than timm's `Block` and `EvaBlock`.
    """

    compress_at: tuple[int, ...]
    group_size: int  # frames that become one, 2**len(compress_at); the same after pruning
    num_frames: int
    sampling: str
    frame_stride: int | None
    antialias: bool
    resize_rounding: str
    views: tuple[int, int]
    probabilities: Probabilities
    temporal: TemporalMethod
    interpolations: nn.ModuleDict  # blocks run -> ModuleList of InterFrameInterpolation
    pretrained_cfg: dict[str, Any]
    default_cfg: dict[str, Any]
    text_source: dict[str, Any] | None = None  # where its text tower is, see `weights.text_tower`; saved with the model
    normalization_fused: bool = False
    precision: str = "float32"  # that blocks compute in, chosen by `precision.set_precision`
    _recomputed_stages: frozenset[int] | None = None
    _model_args: dict[str, Any]  # timm's: what config.json needs to build the model again

    # Of the trunk.
    blocks: Any
    pool: Any
    cls_token: Any
    patch_embed: Any
    norm_pre: nn.Module
    norm: nn.Module
    fc_norm: nn.Module
    head_drop: Any
    head: Any
    global_pool: Any
    num_classes: int
    num_features: int
    num_prefix_tokens: int
    embed_dim: int
    in_chans: int
    grad_checkpointing: bool

    def __init__(self, **kwargs: Any) -> None:
        config, trunk_args = InTIConfig.split(kwargs)
        if rate := trunk_args.pop("patch_drop_rate", 0):
            raise ValueError(
                f"patch_drop_rate={rate} drops different positions in each frame, which then cannot be interpolated; "
                "leave it at 0."
            )
        super().__init__(**trunk_args)
        self.add_interpolations(config, trunk_args.get("device"), trunk_args.get("dtype"))
        if isinstance(act_layer := trunk_args.get("act_layer"), str):
            self._model_args["act_layer"] = act_layer

    @classmethod
    def adopt(cls, source: nn.Module) -> Self:
        """Return a model of this class with another's modules (not copies) and attributes; ``__init__`` is not run.

        The one place that makes a model without its constructor, which would draw every parameter only to drop it, and
        needs arguments that a model which was not made by ``timm.create_model`` does not state. It can go when the
        trunk is a submodule, which would change the keys of checkpoints.
        """
        model = cls.__new__(cls)
        model.__dict__.update({name: copy.copy(value) for name, value in source.__dict__.items()})
        return model

    def add_interpolations(self, config: InTIConfig, device: Any, dtype: torch.dtype | None) -> None:
        """Turn an image model into the video model of a config."""
        depth = len(self.blocks)
        schedule = default_schedule(depth, config.num_frames) if config.compress_at is None else config.compress_at
        self.compress_at = check_schedule(schedule, depth)
        self.group_size = 2 ** len(self.compress_at)
        self.num_frames, self.sampling, self.frame_stride = config.num_frames, config.sampling, config.frame_stride
        self.antialias, self.resize_rounding = config.antialias, config.resize_rounding
        self.views = (config.views[0], config.views[1])
        self.probabilities = config.probabilities
        self.probabilities.check(self.num_classes)
        build = partial(
            InterFrameInterpolation,
            self.embed_dim,
            self.num_prefix_tokens,
            reduction=config.reduction,
            context=config.context,
            weighting=config.weighting,
            device=device,
            dtype=dtype,
        )
        self.interpolations = interpolations_at(self.compress_at, build)
        args = config.temporal_args or {}
        self.temporal = build_method(self, config.temporal, args, config.num_frames, device, dtype)
        self.temporal.init_patch_embed(self.patch_embed)
        self.blocks = self.temporal.wrap_blocks(self.blocks)
        if config.text_dim is not None:
            self.head = text_head(self.num_features, config.text_dim, self.num_classes, device, dtype)
        self.train(self.training)
        self._model_args = {
            **getattr(self, "_model_args", {}),  # those that timm made the image model with
            **config.model_args(),
            "compress_at": self.compress_at,
        }

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's layer groups; an interpolation belongs to the block that follows it.

        A temporal method's modules in a block belong to that block, its embeddings to the stem, all else to the head.
        """
        groups = super().group_matcher(coarse)  # type: ignore[misc]
        groups["stem"] += r"|temporal\.(?:time|patch)_embed"
        groups["blocks"] = [*groups["blocks"], (r"^interpolations\.(\d+)", None)]
        return groups

    def no_weight_decay(self) -> set[str]:
        """Return the parameters not to decay: timm's, and the embeddings and tokens of a temporal method."""
        own = {f"temporal.{name}" for name, _ in self.temporal.named_parameters(recurse=False)}
        return super().no_weight_decay() | own  # type: ignore[misc]

    def set_grad_checkpointing(self, enable: bool = True, stages: Sequence[int] | None = None) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations.

        Args:
            enable: whether to.
            stages: only blocks of these stages; stage k is the blocks after k compressions. None for all.
                Stage 0 has all frames, and so most of the activations.

        Raises:
            ValueError: for a stage that the model does not have.
        """
        for stage in stages or ():
            if stage not in range(len(self.stages)):
                raise ValueError(f"stage {stage!r} is not in the model; choose from 0 to {len(self.stages) - 1}.")
        super().set_grad_checkpointing(enable)  # type: ignore[misc]
        self._recomputed_stages = None if stages is None else frozenset(stages)

    def reset_classifier(self, num_classes: int, *args: Any, **kwargs: Any) -> None:
        """Make a new, untrained head, as timm does. The old one's label names, thresholds, ... go, at any size."""
        super().reset_classifier(num_classes, *args, **kwargs)  # type: ignore[misc]
        self.set_probabilities(Probabilities())
        self._model_args.pop("text_dim", None)
        if getattr(self, "pretrained_cfg", None):
            self.pretrained_cfg = {**self.pretrained_cfg, "label_names": None, "label_descriptions": None}
            self.default_cfg = self.pretrained_cfg  # timm's old name for it

    def set_probabilities(self, probabilities: Probabilities) -> None:
        """Set how the head's logits become probabilities; raise a ValueError if that does not fit its classes."""
        probabilities.check(self.num_classes)
        self.probabilities = probabilities
        args = {name: value for name, value in self._model_args.items() if name not in OUTPUT}
        self._model_args = {**args, **probabilities.model_args()}

    def fuse_normalization(self) -> Self:
        """Fold ``(pixel / 255 - mean) / std`` into the patch embedding: from then on the model takes pixels.

        Frames can then stay ``uint8`` up to the device; floating-point pixels of 0 to 255 work too. For inference: a
        fused model is not saved, nor its patch embedding trained as before. Changes and returns the model.

        Raises:
            ValueError: if it is fused already, or where the frames are padded, in place or in time: zeros would then
                no longer stand for the mean.
        """
        proj = self.patch_embed.proj
        if self.normalization_fused:
            raise ValueError("The normalization is fused already; fuse it only once.")
        if any(proj.padding) or self.patch_embed.dynamic_img_pad or self.temporal.stride > 1:
            raise ValueError(
                "This model pads frames, in time or at their borders, with zeros that stand for the mean; normalise "
                "its frames with inti_models.data.create_clip_transform instead."
            )
        config = resolve_input_data_config(self)
        fold_normalization(proj, config["mean"], config["std"])
        self.normalization_fused = True
        return self

    # What differs between trunks

    def embed_positions(self, patches: Tensor) -> tuple[Tensor, Any]:
        """Return the tokens (B*T, N, C) of patches (B*T, N, C), or (B*T, H, W, C) if sizes vary; and `positions`."""
        raise NotImplementedError

    def block_args(self, index: int, inputs: BlockInputs) -> dict[str, Any]:
        """Return the arguments that block ``index`` takes besides tokens (B*T, N, C)."""
        raise NotImplementedError

    def map_image_checkpoint(self, tensors: Tensors) -> Tensors:
        """Rename the tensors of a published image model to this model's names: here they are the same.

        Position embeddings and patches are resampled, and what the trunk has no use for is left out.
        """
        return tensors

    # The steps of a clip

    @property
    def stages(self) -> list[range]:
        """Blocks of each stage: stage k is those after k compressions."""
        return [range(*bounds) for bounds in stage_bounds(self.compress_at, len(self.blocks))]

    def to_clip(self, x: Tensor) -> Tensor:
        """Return a clip (B, T, C, H, W) or image (B, C, H, W) as a clip; raise a ValueError for anything else."""
        embed = self.patch_embed
        if self.normalization_fused and x.dtype == torch.uint8:
            x = x.to(embed.proj.weight.dtype)
        clip = as_clip(
            x,
            self.in_chans,
            embed.img_size if embed.strict_img_size else None,
            None if embed.strict_img_size or embed.dynamic_img_pad else embed.patch_size,
        )
        return clip.to(embed.proj.weight.dtype) if self.is_half else clip

    @property
    def is_half(self) -> bool:
        """Whether everything up to the last block is in bfloat16 or float16, and what follows in float32."""
        return self.precision in ("bfloat16", "float16")

    def grid_size(self, clip: Tensor) -> tuple[int, int]:
        """Return the height and width of the token grid of a clip's frames."""
        return self.patch_embed.dynamic_feat_size((clip.shape[-2], clip.shape[-1]))

    def embedded_frames(self, num_frames: int) -> int:
        """Return the number of frames of a clip after patch embedding."""
        return -(-num_frames // self.temporal.stride)

    def embed(
        self, clip: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> tuple[Tensor, BlockInputs]:
        """Return a clip's (B, T, channels, H, W) tokens before the first block (B, T, N, C), and the `BlockInputs`."""
        attn_mask = check_mask(attn_mask, is_causal, self.temporal.mixes_frames)
        tokens, positions = self.embed_positions(self.temporal.embed_patches(self.patch_embed, clip))
        tokens = tokens.unflatten(0, (clip.shape[0], self.embedded_frames(clip.shape[1])))
        tokens = self.norm_pre(self.temporal.embed_time(tokens))
        return tokens, BlockInputs(self.grid_size(clip), positions, attn_mask, is_causal)

    def forward_stage(
        self,
        stage: int,
        x: Tensor,
        inputs: BlockInputs,
        num_blocks: int | None = None,
        after_block: dict[int, Any] | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Run the compression before a stage, if it has one, and its blocks: (B, T, N, C) -> (B, T', N, C).

        Args:
            stage: 0 for the blocks before any compression; k for the k-th compression and the blocks after it.
            x: tokens.
            inputs: what the blocks take besides tokens.
            num_blocks: run no block from this one on; None for all of the stage.
            after_block: gets the tokens after each block that is among its keys.
            weights: gets the weights of the compression, (B, T, N).
        """
        if stage > 0:
            at = self.compress_at[stage - 1]
            interpolation = cast(nn.ModuleList, self.interpolations[str(at)])[self.compress_at[: stage - 1].count(at)]
            x = interpolation(x, inputs.grid_size, return_weights=weights is not None)
            if weights is not None:
                x, stage_weights = x
                weights.append(stage_weights)
        recompute = self.grad_checkpointing and (self._recomputed_stages is None or stage in self._recomputed_stages)
        for index in self.stages[stage]:
            if num_blocks is not None and index >= num_blocks:
                break
            x = self._forward_block(index, x, inputs, recompute)
            if after_block is not None and index in after_block:
                after_block[index] = x
        return x

    def _forward_block(self, index: int, x: Tensor, inputs: BlockInputs, recompute: bool) -> Tensor:
        """Run a block: an image block on each frame, or a temporal one on all, (B, T, N, C) -> (B, T, N, C)."""
        block, args = self.blocks[index], self.block_args(index, inputs)
        if isinstance(block, TemporalBlock):
            return checkpoint(block, x, inputs.grid_size, **args) if recompute else block(x, inputs.grid_size, **args)
        frames = x.flatten(0, 1)  # BT N C
        frames = checkpoint(block, frames, **args) if recompute else block(frames, **args)
        return frames.unflatten(0, (x.shape[0], x.shape[1]))

    def forward_stages(
        self,
        clip: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        num_blocks: int | None = None,
        after_block: dict[int, Any] | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """Run embedding, blocks and interpolations, up to the final norm.

        Args:
            clip: (B, T, C, H, W).
            attn_mask: attention mask (N, N), the same for every frame.
            is_causal: causal attention within each frame.
            num_blocks: stop right after this many blocks; None to run to the end.
            after_block: gets the tokens after each block that is among its keys, before any compression that follows.
            weights: gets the weights of each interpolation.

        Returns:
            Tokens (B, T', N, C).
        """
        x, inputs = self.embed(clip, attn_mask, is_causal)
        outputs: dict[int, Any] = dict.fromkeys((*(after_block or ()), *self.temporal.out_indices))
        for stage, blocks in enumerate(self.stages):
            if stage > 0 and num_blocks is not None and blocks.start >= num_blocks:
                break
            if stage == 1:
                x = repeat_evenly(x, self.group_size)
            x = self.forward_stage(stage, x, inputs, num_blocks, outputs, weights)
        if after_block is not None:
            after_block.update({index: outputs[index] for index in after_block})
        if num_blocks is None:
            x = self.temporal.fuse_features(x, [outputs[i] for i in self.temporal.out_indices], inputs.grid_size)
        return x

    def pool_frames(self, x: Tensor) -> Tensor:
        """Pool the tokens of each frame as the image model does: (B, T, N, C) -> (B, T, C)."""
        return self.fc_norm(self.pool(x.flatten(0, 1))).unflatten(0, (x.shape[0], x.shape[1]))

    def average_frames(self, pooled: Tensor) -> Tensor:
        """Return the feature of a clip: (..., T, C) -> (..., C)."""
        features = pooled.mean(dim=-2)
        return self.norm(features) if self.temporal.norm_last else features

    def classify_frames(self, pooled: Tensor, pre_logits: bool = False) -> Tensor:
        """Average over frames and classify: (..., T, C) -> (..., num_classes), or features (..., C)."""
        features = self.head_drop(self.average_frames(pooled))
        return features if pre_logits else self.head(features)

    @property
    def projects(self) -> bool:
        """Whether the head has a ``projection`` into the space that an image-text model shares with texts."""
        return getattr(self.head, "projection", None) is not None

    def project(self, features: Tensor) -> Tensor:
        """Project features (..., C) to embeddings (..., D) by the head's ``projection``, if it has one."""
        return self.head.projection(features) if self.projects else features

    def encode_frames(self, pooled: Tensor, normalize_frames: bool = False, normalize: bool = False) -> Tensor:
        """Return the embedding of a clip (..., D) from its pooled frames (..., T, C); see `encode`."""
        if normalize_frames and self.temporal.norm_last:
            raise ValueError(
                f"{type(self.temporal).__name__} has its norm after the mean over frames; leave normalize_frames out."
            )
        if normalize_frames:
            embedding = F.normalize(self.project(pooled), dim=-1).mean(dim=-2)
        else:
            embedding = self.project(self.average_frames(pooled))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode(self, x: Tensor, normalize_frames: bool = False, normalize: bool = False) -> Tensor:
        """Return the embedding (B, D) of a clip (B, T, C, H, W) or image (B, C, H, W).

        It is the mean over remaining frames of their pooled features, before the head (D = C), or, where the head has
        a ``projection`` into the space that an image-text model shares with texts, that of the projected features.

        Args:
            x: clip or image.
            normalize_frames: scale each frame's embedding to unit length before the mean, as image-text models do that
                average whole frames. A frame that remains after a compression stands for several, so that this is
                exact for ``compress_at=()`` only; elsewhere those that remain are normalised.
            normalize: scale the result to unit length.

        Raises:
            ValueError: for a model without pooling, or ``normalize_frames`` with a temporal method whose final norm
                follows the mean over frames.
        """
        if not self.global_pool:
            raise ValueError("global_pool='' gives no feature of a frame to encode; use 'token', 'avg' or 'map'.")
        tokens = self.norm_tokens(self.forward_stages(self.to_clip(x)))
        return self.encode_frames(self.pool_frames(tokens), normalize_frames, normalize)

    def norm_tokens(self, x: Tensor) -> Tensor:
        """Apply the final norm (in float32, see `is_half`), unless it has to wait for the mean over frames."""
        x = x.float() if self.is_half else x
        return x if self.temporal.norm_last else self.norm(x)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Return the tokens after the final norm: (B, T', N, C) for a clip, (B, N, C) for an image.

        Before it, for a temporal method whose final norm follows the mean over frames.

        Args:
            x: clip (B, T, C, H, W) or image (B, C, H, W).
            attn_mask: attention mask (N, N), the same for every frame.
            is_causal: causal attention within each frame.
        """
        tokens = self.forward_stages(self.to_clip(x), attn_mask, is_causal)
        return drop_frame_dim(self.norm_tokens(tokens), is_image(x, 4))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the tokens of each frame as the image model does, average over frames, classify.

        Args:
            x: output of `forward_features`, (B, T', N, C) or (B, N, C).
            pre_logits: return the (B, C) features before the classifier.

        Returns:
            Logits (B, num_classes). With ``global_pool=""`` neither tokens nor frames are pooled.
        """
        pooled = self.pool_frames(as_frames(x))
        if self.global_pool:
            return self.classify_frames(pooled, pre_logits)
        pooled = self.head_drop(drop_frame_dim(pooled, is_image(x, 3)))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Return the logits (B, num_classes) of a clip (B, T, C, H, W) or image (B, C, H, W)."""
        return self.forward_head(self.forward_features(x, attn_mask=attn_mask, is_causal=is_causal))

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
        """Return the features after chosen blocks, before any compression that follows them.

        Args:
            x: clip (B, T, C, H, W) or image (B, C, H, W).
            indices: blocks to take: the last n if int, all if None, these if a sequence.
            return_prefix_tokens: return (features, prefix tokens) pairs.
            norm: apply the final norm to intermediates too.
            stop_early: do not run blocks after the last one taken.
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
        clip, image = self.to_clip(x), is_image(x, 4)
        num_blocks = last + 1 if stop_early and last + 1 < len(self.blocks) else None
        after_block: dict[int, Any] = dict.fromkeys(sorted(take_indices))
        tokens = self.forward_stages(clip, attn_mask, is_causal, num_blocks, after_block)

        if self.is_half:
            after_block = {i: features.float() for i, features in after_block.items()}
        taken = [drop_frame_dim(self.norm(after_block[i]) if norm else after_block[i], image) for i in after_block]
        prefix = [y[..., : self.num_prefix_tokens, :] for y in taken]
        spatial = [y[..., self.num_prefix_tokens :, :] for y in taken]
        if output_fmt == "NCHW":
            spatial = [y.transpose(-1, -2).unflatten(-1, self.grid_size(clip)).contiguous() for y in spatial]
        with_prefix = return_prefix_tokens and self.num_prefix_tokens > 0

        if output_dict:
            result: dict[str, Any] = {"image_intermediates": spatial}
            if with_prefix:
                result["image_intermediates_prefix"] = prefix
            if not intermediates_only:
                result["image_features"] = drop_frame_dim(self.norm_tokens(tokens), image)
            return result
        intermediates: list[Any] = list(zip(spatial, prefix, strict=True)) if with_prefix else spatial
        if intermediates_only:
            return intermediates
        return drop_frame_dim(self.norm_tokens(tokens), image), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks, interpolations, norm and head that the chosen intermediates do not need."""
        take_indices = super().prune_intermediate_layers(  # type: ignore[misc]
            indices, prune_norm, prune_head
        )
        self.compress_at = tuple(at for at in self.compress_at if at < len(self.blocks))
        for at in [at for at in self.interpolations if int(at) not in self.compress_at]:
            del self.interpolations[at]
        self.temporal.prune(len(self.blocks))
        return take_indices

    # What was kept of each frame

    def interpolation_weights(self, x: Tensor) -> list[Tensor]:
        """Return the weights that each interpolation gives to the tokens before it, (B, T', N) each, in order.

        The first gets the frames in `frame_order`.
        """
        weights: list[Tensor] = []
        self.forward_stages(self.to_clip(x), weights=weights)
        return weights

    def frame_weights(self, x: Tensor) -> Tensor:
        """Return how much of each position of each input frame is in the frame that it became part of.

        This is the product of the weights of successive interpolations (paper, fig. 4). In a model with a
        temporal method it covers the interpolations only: frames also see each other in the method's modules. Where
        the method embeds several input frames as one (``temporal.stride``), T counts these.

        Args:
            x: clip (B, T, C, H, W) or image (B, C, H, W).

        Returns:
            (B, T, grid height, grid width). With ``softmax`` and ``uniform`` weightings it sums to one over each group
            of ``group_size`` frames in `frame_order`; a frame that is taken twice has the sum of both.
        """
        clip = self.to_clip(x)
        num_frames = self.embedded_frames(clip.shape[1])
        weights = self.interpolation_weights(clip)
        if not weights:
            return clip.new_ones(clip.shape[0], num_frames, *self.grid_size(clip))
        places = cascade(weights)[..., self.num_prefix_tokens :].unflatten(-1, self.grid_size(clip))
        return sum_repeats(places, num_frames, self.group_size)
