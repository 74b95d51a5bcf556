"""Schedules: where to compress, for a number of frames and a budget."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

from .interpolation import frame_order


def default_schedule(depth: int, num_frames: int = 8) -> tuple[int, ...]:
    """Return the schedule that compresses after 1/3, 5/6 and, where frames can be halved once more, all of the blocks.

    The first two leave ``1/3 * 1 + 1/2 * 1/2 + 1/6 * 1/4 = 0.625`` of the blocks' cost. The third costs no more, as no
    block comes after it: it replaces the mean over the last frames, which forgets their order, by learned weights.

    >>> default_schedule(12), default_schedule(24), default_schedule(12, num_frames=12)
    ((4, 10, 12), (8, 20, 24), (4, 10))

    Args:
        depth: number of blocks.
        num_frames: frames of a clip.
    """
    twice = (round(depth / 3), round(depth * 5 / 6))
    return (*twice, depth) if num_frames % 8 == 0 else twice


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


def stage_bounds(compress_at: Sequence[int], depth: int) -> list[tuple[int, int]]:
    """Return the blocks of each stage: stage k runs ``range(first, end)``, after k compressions.

    >>> stage_bounds((4, 10), 12)
    [(0, 4), (4, 10), (10, 12)]
    """
    return list(itertools.pairwise((0, *compress_at, depth)))


def stage_frames(num_frames: int, compressions: int) -> list[int]:
    """Return how many frames the blocks of each stage see, of ``num_frames``; see `interpolation.repeat_evenly`.

    >>> stage_frames(8, 2), stage_frames(5, 2), stage_frames(3, 2)
    ([8, 4, 2], [5, 4, 2], [3, 2, 1])
    """
    frames = len(frame_order(num_frames, 2**compressions))
    return [num_frames, *(-(-frames // 2**k) for k in range(1, compressions + 1))]


def mean_frames(compress_at: Sequence[int], depth: int, frames: int) -> float:
    """Return the mean frames that a block sees: the cost of the blocks in passes of one frame through all of them."""
    stages = zip(stage_bounds(compress_at, depth), stage_frames(frames, len(compress_at)), strict=True)
    return sum(seen * (end - first) for (first, end), seen in stages) / depth


def schedule_for_budget(depth: int, frames: int, budget: float) -> tuple[int, ...]:
    """Return a schedule whose blocks see at most ``budget`` frames on average.

    As many compressions as leave two frames, k = ceil(log2(frames)) - 1, are spaced evenly, the i-th after
    ``depth * i / k`` blocks, and all moved along the depth together, to the latest places that meet the budget.
    Where ``frames`` is a power of two, the two that are left become one after the last block, at no cost.
    With 5 of 8 frames this gives the default schedules, (4, 10, 12) of 12 blocks and (8, 20, 24) of 24. The rule is
    ours; the paper gives no other numbers of frames.

    Args:
        depth: number of blocks.
        frames: T, frames of a clip.
        budget: mean number of frames that a block sees; ``frames`` is the naive model's. GFLOPs follow it, except for
            the patch embedding, which sees every frame.

    Raises:
        ValueError: for numbers that are not positive, or a budget that no schedule meets.
    """
    for name, value in (("depth", depth), ("frames", frames)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value!r} is not a positive integer; pass one.")
    if not (isinstance(budget, int | float) and budget > 0 and math.isfinite(budget)):
        raise ValueError(f"budget={budget!r} is not a number of frames; pass a positive number.")
    if budget >= frames:
        return ()
    k = max(0, math.ceil(math.log2(frames)) - 1)
    schedule: tuple[int, ...] = ()
    for step in range(-2 * k * depth, 2 * k * depth + 1):  # a rounded place can change at multiples of 1 / 2k
        places = (Fraction(depth * i, k) - Fraction(step, 2 * k) for i in range(1, k + 1))
        schedule = tuple(min(depth, max(0, math.floor(place + Fraction(1, 2)))) for place in places)
        if mean_frames(schedule, depth, frames) <= budget:
            return (*schedule, depth) if frames == 2 ** (k + 1) else schedule
    raise ValueError(
        f"budget={budget} is below the minimum for {frames} frames, {mean_frames(schedule, depth, frames):g} per "
        "block; pass at least that, or fewer frames."
    )
