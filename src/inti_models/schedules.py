"""Schedules: where to compress, for a number of frames and a budget."""

import math
from collections.abc import Sequence
from fractions import Fraction


def mean_frames(compress_at: Sequence[int], depth: int, frames: int) -> float:
    """Frames that a block sees on average: what the blocks cost, in passes of one frame through all of them."""
    total, bounds = 0, (0, *compress_at, depth)
    for compressions in range(len(compress_at) + 1):
        remaining = -(-frames // 2**compressions)
        total += remaining * (bounds[compressions + 1] - bounds[compressions])
    return total / depth


def schedule_for(depth: int, frames: int, budget: float) -> tuple[int, ...]:
    """A schedule whose blocks see at most ``budget`` frames on average.

    Compressions are as many as leave two frames, k = ceil(log2(frames)) - 1. They are spaced evenly, the i-th after
    ``depth * i / k`` blocks, and all moved along the depth together, to the latest places that meet the budget.
    With 5 of 8 frames this gives the default schedules, (4, 10) of 12 blocks and (8, 20) of 24. The rule is ours; the
    paper gives no other numbers of frames.

    Args:
        depth: number of blocks.
        frames: T, frames of a clip.
        budget: mean number of frames that a block sees; ``frames`` is the naive model's. GFLOPs follow it but for the
            patch embedding, which sees every frame.

    Raises:
        ValueError: for numbers that are not positive, or a budget that no schedule meets.
    """
    for name, value in (("depth", depth), ("frames", frames)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value!r} is not a positive whole number; pass one.")
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
            return schedule
    raise ValueError(
        f"budget={budget} is below what {frames} frames can be brought to, {mean_frames(schedule, depth, frames):g} a "
        "block; pass at least that, or fewer frames."
    )
