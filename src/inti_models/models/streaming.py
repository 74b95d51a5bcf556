"""Exact streaming: a model's outputs for windows of frames at any stride, without computing anything twice.

The context of an interpolation stays within its pair, so a model with k compressions is a binary tree over the frames:
the blocks before the first compression see one frame, those up to the second a pair, then four, ... A *node* of level
``k`` stands for ``2**k`` neighbouring frames: one frame's tokens after the blocks that follow k compressions. Windows
that overlap share nodes, so at stride 1 a new frame costs one new node of each level, whatever the window's length.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .stages import InTIModel


class StreamingWindows:
    """A stream that takes frames as they come and returns the pooled frames of windows, of several lengths in one pass.

    They are the model's own for that window, before the mean over frames. Windows of every length start at frames 0,
    ``stride``, ``2 * stride``, ... Memory is bounded: only nodes that a later window needs are kept. No gradients are
    computed.

    Args:
        model: the model; it is put into evaluation mode.
        lengths: frames of a window, each a multiple of ``2**len(compress_at)``.
        stride: frames from the start of a window to the start of the next.

    Raises:
        ValueError: for an invalid length or stride, a model whose frames see each other in temporal modules,
            or one without pooling.
    """

    def __init__(self, model: InTIModel, lengths: Sequence[int], stride: int = 1) -> None:
        span = 2 ** len(model.compress_at)
        if model.temporal.mixes_frames:
            raise ValueError(
                f"{type(model.temporal).__name__} lets all frames of a window see each other, so windows share "
                "nothing; stream a model without temporal modules, or run it on each window."
            )
        for num_frames in lengths:
            if num_frames < 1 or num_frames % span:
                raise ValueError(
                    f"num_frames={num_frames} is not a multiple of the {span} frames that "
                    f"compress_at={model.compress_at} merges; choose one that is."
                )
        if stride < 1:
            raise ValueError(f"stride={stride} is not a number of frames; pass an integer of at least 1.")
        if not model.global_pool:
            raise ValueError("global_pool='' gives no feature of a frame to classify; use 'token' or 'avg'.")
        self.model, self.lengths, self.stride = model.eval(), tuple(lengths), stride
        self.reset()

    def reset(self) -> None:
        """Forget all frames: the next one is the first."""
        self._seen = 0
        self._shape: tuple[int, ...] | None = None
        # Of each level: start frame -> (B, N, C); of the last: start frame -> pooled feature (B, C).
        self._nodes: list[dict[int, Tensor]] = [{} for _ in self.model.stages]

    @torch.no_grad()
    def pool(self, frames: Tensor) -> list[Tensor]:
        """Take the next frame or frames of each stream.

        Args:
            frames: (B, C, H, W), or (B, n, C, H, W) for n frames at once: B streams that advance together.

        Returns:
            For each length the pooled frames (B, W, T', C) of the W windows that end with these frames, in order; W may
            be 0.

        Raises:
            ValueError: for frames of another shape, or another number of streams, than before.
        """
        clip = frames.unsqueeze(1) if frames.ndim == 4 else frames
        clip = self.model.to_clip(clip)
        shape = (clip.shape[0], *clip.shape[2:])
        if self._shape not in (None, shape):
            raise ValueError(f"Frames are {shape}, expected {self._shape} as before; call reset() for other streams.")
        self._shape = shape
        first, self._seen = self._seen, self._seen + clip.shape[1]
        for level in range(len(self._nodes)):
            span = 2**level
            starts = [s for s in range(max(0, first - span + 1), self._seen - span + 1) if self._needed(level, s)]
            if starts:
                self._add(level, starts, clip[:, [s - first for s in starts]] if level == 0 else None)
        pooled = [self._pooled(length, self._window_starts(length, first)) for length in self.lengths]
        self._forget()
        return pooled

    def _needed(self, level: int, start: int) -> bool:
        """Whether the node is part of a window."""
        offsets = range(0, min(max(self.lengths), start + 1), 2**level)  # from the window's start to the node's
        return any(start - offset >= 0 and (start - offset) % self.stride == 0 for offset in offsets)

    def _add(self, level: int, starts: Sequence[int], clip: Tensor | None) -> None:
        """Compute the nodes of a level with these starts, of frames (B, n, C, H, W) or of the level below."""
        model, nodes = self.model, self._nodes[level]
        if clip is not None:
            x, self._inputs = model.embed(clip)  # B n N C
        else:
            below, half = self._nodes[level - 1], 2 ** (level - 1)
            pairs = [below[start + shift] for start in starts for shift in (0, half)]
            x = torch.stack(pairs, dim=1)  # B 2n N C
        x = model.forward_stage(level, x, self._inputs)  # B n N C
        if level + 1 == len(self._nodes):
            x = model.pool_frames(model.norm_tokens(x))  # B n C
        nodes.update(zip(starts, x.unbind(1), strict=True))

    def _window_starts(self, length: int, first: int) -> range:
        """Starts of the windows that end with frame ``first`` or a later one."""
        earliest = max(0, first - length + 1)
        return range(-(-earliest // self.stride) * self.stride, self._seen - length + 1, self.stride)

    def _pooled(self, length: int, windows: Sequence[int]) -> Tensor:
        """Pooled frames of the windows of a length, (B, W, T', C)."""
        model, nodes, span = self.model, self._nodes[-1], 2 ** len(self.model.compress_at)
        if not windows:
            assert self._shape is not None
            empty = next(model.parameters()).new_empty(self._shape[0], 0, length // span, model.num_features)
            return empty.float() if model.is_half else empty
        pooled = [torch.stack([nodes[s] for s in range(w, w + length, span)], dim=1) for w in windows]
        return torch.stack(pooled, dim=1)

    def _forget(self) -> None:
        """Drop the nodes that no later window needs."""
        for level, nodes in enumerate(self._nodes):
            last = level + 1 == len(self._nodes)
            oldest = self._seen - (max(self.lengths) if last else 2 ** (level + 1)) + 1
            for start in [start for start in nodes if start < oldest]:
                del nodes[start]


class SeparateWindows:
    """`StreamingWindows` with one pass per window, for models whose frames see each other.

    Args: see `StreamingWindows`; any length works.

    Raises:
        ValueError: for a length or stride below 1, or a model without pooling.
    """

    def __init__(self, model: InTIModel, lengths: Sequence[int], stride: int = 1) -> None:
        if min(*lengths, stride) < 1:
            raise ValueError(f"lengths={tuple(lengths)}, stride={stride} must be numbers of frames; pass at least 1.")
        if not model.global_pool:
            raise ValueError("global_pool='' gives no feature of a frame; use 'token' or 'avg'.")
        self.model, self.lengths, self.stride = model.eval(), tuple(lengths), stride
        self.reset()

    def reset(self) -> None:
        """Forget all frames: the next one is the first."""
        self._seen = 0
        self._frames: list[Tensor] = []  # the last ones, (B, C, H, W) each

    @torch.no_grad()
    def pool(self, frames: Tensor) -> list[Tensor]:
        """See `StreamingWindows.pool`."""
        clip = self.model.to_clip(frames.unsqueeze(1) if frames.ndim == 4 else frames)
        pooled: list[list[Tensor]] = [[] for _ in self.lengths]
        for frame in clip.unbind(1):
            self._seen += 1
            self._frames = [*self._frames, frame][-max(self.lengths) :]
            for length, of_length in zip(self.lengths, pooled, strict=True):
                if self._seen >= length and (self._seen - length) % self.stride == 0:
                    window = torch.stack(self._frames[-length:], dim=1)
                    tokens = self.model.norm_tokens(self.model.forward_stages(window))
                    of_length.append(self.model.pool_frames(tokens))
        empty = clip.new_empty(len(clip), 0, 1, self.model.num_features).float()
        return [torch.stack(of_length, dim=1) if of_length else empty for of_length in pooled]


class StreamingClassifier(StreamingWindows):
    """A stream that takes frames as they come and returns the logits of each window of ``num_frames`` frames.

    The logits are the model's own for that window; see `StreamingWindows`.

    Args:
        model: the model; it is put into evaluation mode.
        num_frames: T, frames of a window, a multiple of ``2**len(compress_at)``; None for the model's own number.
        stride: frames from the start of a window to the start of the next.

    Raises:
        ValueError: see `StreamingWindows`.
    """

    def __init__(self, model: InTIModel, num_frames: int | None = None, stride: int = 1) -> None:
        self.num_frames = model.num_frames if num_frames is None else num_frames
        super().__init__(model, (self.num_frames,), stride)

    @torch.no_grad()
    def push(self, frames: Tensor) -> Tensor:
        """Take the next frame or frames of each stream.

        Args, Raises: see `pool`.

        Returns:
            Logits (B, W, num_classes) of the W windows that end with these frames, in order; W may be 0.
        """
        (pooled,) = self.pool(frames)
        return self.model.classify_frames(pooled)


def pool_chunked(model: InTIModel, clip: Tensor, chunk: int = 8) -> Tensor:
    """Pool the frames of a long clip, a few at a time: peak memory does not grow with the clip.

    Args:
        model: the model; it is put into evaluation mode.
        clip: (B, T, C, H, W), T a multiple of ``2**len(compress_at)``.
        chunk: frames that go through the first blocks together.

    Returns:
        Pooled frames (B, T', C), without gradients.

    Raises:
        ValueError: see `StreamingWindows`; or for a chunk that is not a number of frames.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} is not a number of frames; pass an integer of at least 1.")
    stream = StreamingWindows(model, (clip.shape[1],), stride=clip.shape[1])
    return [stream.pool(frames)[0] for frames in clip.split(chunk, dim=1)][-1].squeeze(1)


def forward_chunked(model: InTIModel, clip: Tensor, chunk: int = 8) -> Tensor:
    """Return the model's logits (B, num_classes) of a long clip, a few frames at a time, without gradients.

    Args, Raises: see `pool_chunked`.
    """
    with torch.no_grad():
        return model.classify_frames(pool_chunked(model, clip, chunk))
