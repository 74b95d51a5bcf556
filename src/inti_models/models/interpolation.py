"""Inter-frame token interpolation: the contribution of InTI, as a function of tokens alone.

Two neighbouring frames become one. The tokens at one position, ``x0`` in the earlier and ``x1`` in
the later frame, become ``y = w0 * x0 + w1 * x1`` (arXiv 2408.06840, section 3). The weights come from
a small multi-scale context network (its figure 3) and are normalised by a softmax over the pair.

Shapes: ``B`` clips, ``T`` frames, ``P = T // 2`` pairs, ``N`` tokens per frame (prefix tokens first, then
the ``H x W`` grid in row-major order), ``C`` channels, ``R = C // reduction`` reduced channels.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function, register_notrace_module
from torch import Tensor, nn

Weighting = Literal["softmax", "sigmoid", "linear", "uniform"]
CONTEXTS = ("point", "local", "global", "temporal")


def frame_order(num_frames: int, group_size: int) -> tuple[int, ...]:
    """Return the indices of the frames that compression takes, in order.

    k compressions make one frame of ``group_size = 2**k`` neighbours. Where the number of frames is not a multiple of
    that, some are taken twice to reach the next one, spread evenly over the clip, so that no frame counts more than
    twice as much as another. Fewer than ``group_size`` frames are taken as they are; they become one.

    >>> frame_order(8, 4), frame_order(5, 4), frame_order(3, 4)
    ((0, 1, 2, 3, 4, 5, 6, 7), (0, 0, 1, 2, 2, 3, 4, 4), (0, 1, 2))
    """
    length = num_frames if num_frames < group_size else -(-num_frames // group_size) * group_size
    return tuple((2 * i + 1) * num_frames // (2 * length) for i in range(length))  # nearest to the middle of each place


@register_notrace_function
def repeat_evenly(x: Tensor, group_size: int) -> Tensor:
    """Return the frames in `frame_order`: (B, T, ...) -> (B, next multiple of ``group_size``, ...)."""
    num_frames = x.shape[1]
    if num_frames % group_size == 0 or num_frames < group_size:  # first, for an exported model's T is a symbol
        return x
    return x[:, list(frame_order(num_frames, group_size))]


def sum_repeats(x: Tensor, num_frames: int, group_size: int) -> Tensor:
    """Add up for each frame what was computed in `frame_order`: (B, places, ...) -> (B, T, ...)."""
    order = torch.tensor(frame_order(num_frames, group_size), device=x.device)
    return x.new_zeros(x.shape[0], num_frames, *x.shape[2:]).index_add(1, order, x)


def cascade(weights: Sequence[Tensor]) -> Tensor:
    """Multiply the weights of successive interpolations, (B, T_k, ...) each -> (B, T_0, ...)."""
    cascaded = weights[0]
    for k, of_stage in enumerate(weights[1:], start=1):
        cascaded = cascaded * of_stage[:, torch.arange(cascaded.shape[1], device=cascaded.device) // 2**k]
    return cascaded


def interpolate(frame_pairs: Tensor, weights: Tensor) -> Tensor:
    """Compute ``y_t = w_0 * x_{2t} + w_1 * x_{2t+1}``, token by token.

    Args:
        frame_pairs: the earlier and the later frame of each pair, (B, P, 2, N, C).
        weights: one weight per token, (B, P, 2, N).

    Returns:
        One frame for each pair, (B, P, N, C).
    """
    earlier, later = frame_pairs.unbind(2)
    w0, w1 = weights.to(frame_pairs.dtype).unsqueeze(-1).unbind(2)
    return w0 * earlier + w1 * later


class WeightPrediction(nn.Module):
    """The prediction network theta: multi-scale context of a pair -> one logit per token and frame.

    Four lightweight networks, each ending in GELU, look at the reduced tokens ``z``:

    - *point*: linear on the token itself,
    - *local*: 3x3 depthwise convolution over the frame's token grid (zero for prefix tokens),
    - *global*: linear on the frame's mean token,
    - *temporal*: linear on the later frame minus the earlier one, signed.

    A linear layer on their concatenation gives the logits, with separate weights for the earlier
    and the later frame. It starts at zero. (Were its weights and bias shared, swapping the two frames
    would swap their softmax weights and leave ``y`` unchanged: a clip and its reverse would then have
    the same logits.)

    Nothing outside the pair is seen, so the whole model is a binary tree over the frames.

    Args:
        dim: channels ``C`` of a token.
        num_prefix_tokens: tokens before the grid (class, registers).
        reduction: ``C / R``.
        context: names of the networks to use, any non-empty subset of ``CONTEXTS``.
    """

    def __init__(
        self,
        dim: int,
        num_prefix_tokens: int = 1,
        reduction: int = 16,
        context: Sequence[str] = CONTEXTS,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_prefix_tokens = num_prefix_tokens
        reduced = dim // reduction
        self.norm = nn.LayerNorm(dim, **dd)
        self.reduce = nn.Linear(dim, reduced, **dd)
        self.context = tuple(name for name in CONTEXTS if name in context)
        for name in self.context:
            network = (
                nn.Conv2d(reduced, reduced, 3, padding=1, groups=reduced, **dd)
                if name == "local"
                else nn.Linear(reduced, reduced, **dd)
            )
            self.add_module(f"{name}_context", network)  # not "global": a keyword breaks exported code
        self.logit = nn.Linear(len(self.context) * reduced, 2, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Start neutral: every logit is zero (timm's initialisers call this too)."""
        nn.init.zeros_(self.logit.weight)
        nn.init.zeros_(self.logit.bias)

    def forward(self, frame_pairs: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Return the logits (B, P, 2, N) of pairs (B, P, 2, N, C), in float32 (float64 for float64 tokens)."""
        z = self.reduce(self.norm(frame_pairs))  # B P 2 N R
        features = [self.context_features(name, z, grid_size).expand(z.shape) for name in self.context]
        # In float32: products and sums, which autocast leaves alone.
        dtype = torch.promote_types(z.dtype, torch.float32)
        weight, bias = self.logit.weight.to(dtype), self.logit.bias.to(dtype)  # 2 KR, 2
        activated = F.gelu(torch.cat(features, dim=-1)).to(dtype)  # B P 2 N KR
        return (activated * weight.unsqueeze(1)).sum(dim=-1) + bias.unsqueeze(-1)

    def context_features(self, name: str, z: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Return a network's output for reduced tokens (B, P, 2, N, R), before its GELU: (B, P, 2|1, N|1, R).

        Each has its natural shape. One product for the linear three would take twice the multiplications, and as many
        operators to join their parameters; measured, it saves less than 1% of the small model's forward pass.
        """
        network = getattr(self, f"{name}_context")
        if name == "local":
            grid = z.flatten(0, 2)[:, self.num_prefix_tokens :]  # BP2 HW R
            out = network(grid.unflatten(1, grid_size).permute(0, 3, 1, 2))  # BP2 R H W
            return F.pad(out.flatten(2).transpose(1, 2), (0, 0, self.num_prefix_tokens, 0)).unflatten(0, z.shape[:3])
        if name == "global":
            z = z.mean(dim=3, keepdim=True)  # B P 2 1 R
        elif name == "temporal":
            z = z[:, :, 1:] - z[:, :, :1]  # B P 1 N R
        return network(z)


@register_notrace_module
class InterFrameInterpolation(nn.Module):
    """The compression function: T frames of tokens -> ceil(T / 2) frames (paper section 3, fig. 2).

    An odd last frame passes through unchanged.

    Weightings, for the paper's ablation; ``l`` are the predicted logits:

    - ``softmax``: softmax over the pair of ``l``,
    - ``sigmoid``: sigmoid of ``l``, each frame by itself,
    - ``linear``: ``1/2 + l``,
    - ``uniform``: 1/2; no prediction network.

    Args:
        dim: channels ``C`` of a token.
        num_prefix_tokens: tokens before the grid (class, registers).
        reduction: ``C / R``, the width of the prediction network; see `WeightPrediction`.
        context: names of the context networks to use.
        weighting: how logits become weights.

    Raises:
        ValueError: for an unknown context or weighting, or a reduction that leaves no channel.
    """

    def __init__(
        self,
        dim: int,
        num_prefix_tokens: int = 1,
        reduction: int = 16,
        context: Sequence[str] = CONTEXTS,
        weighting: Weighting = "softmax",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if weighting not in get_args(Weighting):
            raise ValueError(f"weighting={weighting!r} is unknown; choose one of {get_args(Weighting)}.")
        if isinstance(context, str) or not context or not set(context) <= set(CONTEXTS):
            raise ValueError(
                f"context={context!r} is not a non-empty subset of {CONTEXTS}; pass a tuple of these names."
            )
        if not isinstance(reduction, int) or not 1 <= reduction <= dim:
            raise ValueError(
                f"reduction={reduction!r} leaves no channel of {dim}; pass an integer between 1 and {dim}."
            )
        self.weighting = weighting
        self.predict = (
            None
            if weighting == "uniform"
            else WeightPrediction(dim, num_prefix_tokens, reduction, context, device=device, dtype=dtype)
        )

    def extra_repr(self) -> str:
        return f"weighting={self.weighting!r}"

    @property
    def is_neutral(self) -> bool:
        """Whether both frames of any pair get the same weight, whatever the networks before the logits compute."""
        return self.predict is None or not (self.predict.logit.weight.any() or self.predict.logit.bias.any())

    def weights(self, frame_pairs: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """Return the weights of both frames of each pair, (B, P, 2, N, C) -> (B, P, 2, N).

        Args:
            frame_pairs: tokens, (B, P, 2, N, C).
            grid_size: height and width of the token grid.
        """
        if self.predict is None:
            dtype = torch.promote_types(frame_pairs.dtype, torch.float32)
            return torch.full_like(frame_pairs[..., 0], 0.5, dtype=dtype)
        logits = self.predict(frame_pairs, grid_size)
        if self.weighting == "softmax":
            return logits.softmax(dim=2)
        return logits.sigmoid() if self.weighting == "sigmoid" else 0.5 + logits

    def forward(
        self,
        x: Tensor,
        grid_size: tuple[int, int],
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Halve the frames.

        Args:
            x: tokens, (B, T, N, C).
            grid_size: height and width of the token grid, ``N = num_prefix_tokens + H * W``.
            return_weights: return the weight of each token of ``x`` too.

        Returns:
            Tokens (B, ceil(T/2), N, C), in the dtype of ``x``; with ``return_weights`` also the weights
            (B, T, N), 1 for an odd last frame.
        """
        num_pairs = x.shape[1] // 2
        odd = x[:, 2 * num_pairs :]  # B 0|1 N C
        if num_pairs == 0:
            y, weights = x, torch.ones_like(x[..., 0], dtype=torch.promote_types(x.dtype, torch.float32))
        else:
            frame_pairs = x[:, : 2 * num_pairs].unflatten(1, (num_pairs, 2))  # B P 2 N C
            weights = self.weights(frame_pairs, grid_size)
            y, weights = interpolate(frame_pairs, weights), weights.flatten(1, 2)
            if odd.shape[1]:
                y = torch.cat((y, odd), dim=1)
                weights = torch.cat((weights, weights.new_ones(odd.shape[:-1])), dim=1)
        return (y, weights) if return_weights else y
