"""The number of clips that go through a model together."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..models.stages import InTIModel

CPU_TOKENS = 2048  # more in a pass gain nothing: the caches are full (benchmarks/file_to_label.py)
MOST = 64  # clips, which wait in memory until the pass begins


def choose_batch_size(model: InTIModel, device: torch.device, run: Callable[[Tensor], object]) -> int:
    """Return how many clips to run through a model together.

    On CUDA as many as fit, which `largest_batch` tries; elsewhere the power of two whose clips have closest to
    `CPU_TOKENS` tokens before the first block.

    Args:
        model: the model, on its device.
        device: where it runs.
        run: runs a pass on clips (B, T, C, H, W).
    """
    clip = (model.num_frames, model.in_chans, *model.patch_embed.img_size)
    if device.type == "cuda":
        return largest_batch(lambda size: run(torch.zeros(size, *clip, device=device)))
    tokens = model.num_frames * (model.patch_embed.num_patches + model.num_prefix_tokens)
    return min(2 ** max(0, round(math.log2(CPU_TOKENS / tokens))), MOST)


def largest_batch(run: Callable[[int], object], most: int = MOST) -> int:
    """Return the largest power of two, up to ``most``, that ``run`` does not run out of memory with.

    Raises:
        torch.OutOfMemoryError: if not even one fits.
    """
    size = 1
    run(size)
    while 2 * size <= most:
        try:
            run(2 * size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        size *= 2
    return size
