"""Cheaper models without any training: frames are left out, or averaged by a rule instead of learned weights.

A trained compression has to beat them at the same cost (`inti_models.evaluation.fidelity` measures it). Each function
changes a model that has its weights already, through its public modules:

- `keep_frames`: the model sees some frames only, evenly spread or random; `frames_at_cost` finds how many,
- `drop_frames`: where InTI interpolates two frames, the later one is dropped; `SimilarityWeights` averages them by a
  rule, and `compress_by` puts either, or any such module, into a model that does not compress.

Merging tokens within frames is in `token_merging`. Random choices are drawn anew for each clip, from PyTorch's
generator: `torch.manual_seed` repeats them.

Shapes: ``B`` clips, ``T`` frames, ``N`` tokens per frame, ``C`` channels.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .interpolation import InterFrameInterpolation
from .schedules import check_schedule
from .stages import InTIModel, interpolations_at


class DropFrames(nn.Module):
    """A stand-in for `InterFrameInterpolation` that keeps the earlier frame of each pair."""

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


class SimilarityWeights(InterFrameInterpolation):
    """An average of the frames of each pair, weighted by how far each token is from the mean token of its frame.

    The weights are a softmax over the pair of the distances, on tokens of standardised channels, so that a token that
    stands out counts more than one that looks like the rest of its frame: nothing is learned.

    Args:
        dim: C, width of a token.
        scale: of the distances, each of which is the mean over channels of the squares.
    """

    def __init__(self, dim: int, scale: float = 1.0) -> None:
        super().__init__(dim, reduction=1, weighting="uniform")
        self.scale = scale

    def weights(self, frame_pairs: Tensor, grid_size: tuple[int, int]) -> Tensor:
        z = nn.functional.layer_norm(frame_pairs, frame_pairs.shape[-1:])
        distances = (z - z.mean(dim=3, keepdim=True)).square().mean(dim=-1)  # B P 2 N
        return (self.scale * distances).softmax(dim=2)


def compress_by(model: InTIModel, compress_at: Sequence[int], build: Callable[[], nn.Module]) -> InTIModel:
    """Return a model of ``model``'s modules (not copies) that compresses by a rule.

    Args:
        model: stays as it is.
        compress_at: see `InTIConfig`.
        build: makes what stands in for an `InterFrameInterpolation`.
    """
    twin = type(model).adopt(model)
    twin.compress_at = check_schedule(compress_at, len(model.blocks))
    twin.group_size = 2 ** len(twin.compress_at)
    twin.interpolations = interpolations_at(twin.compress_at, build)
    return twin


def replace_interpolations(model: InTIModel, build: Callable[[], nn.Module]) -> InTIModel:
    """Put another module, called as `InterFrameInterpolation` is, at each place. Changes and returns the model."""
    model.interpolations = interpolations_at(model.compress_at, build)
    return model


def drop_frames(model: InTIModel) -> InTIModel:
    """Drop every other frame wherever ``model`` interpolates two. Changes and returns the model."""
    return replace_interpolations(model, DropFrames)


class KeepFrames(nn.Module):
    """A model that sees some frames of each clip; see `keep_frames`."""

    def __init__(self, model: nn.Module, keep: int, random: bool) -> None:
        super().__init__()
        self.model, self.keep, self.random = model, keep, random

    def forward(self, clip: Tensor) -> Tensor:
        """Return the model's output for ``keep`` frames of a clip (B, T, C, H, W), in their order."""
        batch, num_frames = clip.shape[:2]
        if self.random:
            order = torch.rand(batch, num_frames, device=clip.device).argsort(dim=1)
            kept = order[:, : self.keep].sort(dim=1).values  # B keep
            return self.model(clip.take_along_dim(kept.view(batch, -1, 1, 1, 1), dim=1))
        return self.model(clip[:, [(2 * i + 1) * num_frames // (2 * self.keep) for i in range(self.keep)]])


def keep_frames(model: nn.Module, keep: int, random: bool = False) -> KeepFrames:
    """Return a model that sees ``keep`` frames of each clip: evenly spread, or random ones.

    Args:
        model: takes clips (B, T, C, H, W); it becomes part of the one returned.
        keep: frames that it sees, at most those of a clip.
        random: draw the frames of each clip instead of spreading them evenly.
    """
    return KeepFrames(model, keep, random)


def meta_gflops(model: nn.Module, shape: Sequence[int]) -> float:
    """Count the multiply-adds of a clip, in 1e9, on the meta device by torch: nothing is computed."""
    twin = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        twin(torch.empty(*shape, device="meta"))
    return counter.get_total_flops() / 2e9  # torch counts a multiply-add as two


def clip_shape(model: InTIModel, num_frames: int) -> tuple[int, ...]:
    """Return the shape (1, T, C, H, W) of a clip of the model's size."""
    return 1, num_frames, model.in_chans, *model.patch_embed.img_size


def frames_at_cost(model: InTIModel, target_gflops: float, most: int = 64) -> int:
    """Return how many frames, at most ``most``, make a clip that costs closest to a target, in 1e9 multiply-adds."""
    model = copy.deepcopy(model).to("meta")
    return min(range(1, most + 1), key=lambda n: abs(meta_gflops(model, clip_shape(model, n)) - target_gflops))
