"""When the frames of a video are shown.

The clock, for `read_clips` and `iterate_frames` alike:
1. A frame is shown at its presentation time, counted from the first frame that decodes, until the next frame starts.
   Of frames with equal times the last is shown; one that does not decode leaves the frame before on show.
2. A frame without a presentation time comes one frame's duration after the one before. If none has one (H.264 in
   AVI), the decoding times of the packets are taken in increasing order, or without these the header's frame rate.
3. A clock that goes back (joined recordings), or jumps by more than a minute and more than 100 frames, is bridged by
   one frame's duration, with a warning. A shorter gap is time during which the previous frame is shown.
4. Where presentation times are missing, or packets out of order or without a frame (fields, damage at the start), all
   of the file is decoded once, in display order, to see which frames there are. This is exact, and slower.
5. A pipe or a camera has the same rules, applied to the frames as they come, with the rate that the header names.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# A longer gap between two frames is a fault of the clock, if it is also longer than so many frames.
MAX_GAP_SECONDS = 60
MAX_GAP_FRAMES = 100


@dataclass(frozen=True)
class Timeline:
    """When frames are shown, in display order.

    Attributes:
        starts: float64, N: start of each frame, in units; the first is 0.
        end: When the last frame ends, in units.
        unit: Seconds per unit.
    """

    starts: Tensor
    end: float
    unit: float

    @property
    def period(self) -> float:
        return self.end / len(self.starts)

    @classmethod
    def even(cls, num_frames: int, period: float) -> "Timeline":
        """Return a constant rate: the unit is one frame, so that starts are whole numbers."""
        return cls(torch.arange(num_frames, dtype=torch.float64), float(num_frames), period)

    @classmethod
    def from_ticks(cls, ticks: Sequence[float], last_duration: float, tick: float) -> "Timeline":
        """Return starts and end from presentation times in ticks of `tick` seconds, none before the one before it."""
        starts = torch.tensor(ticks, dtype=torch.float64) - ticks[0]
        n = len(ticks)
        if n == 1:
            return cls.even(1, max(last_duration, 1) * tick)
        period = float(starts[-1]) / (n - 1)
        # Containers round to whole ticks (Matroska: milliseconds). Undo that for a constant rate,
        # or a sample on the border of two frames would fall now on one side, now on the other.
        deviation = (starts - period * torch.arange(n, dtype=torch.float64)).abs().max()
        if deviation <= min(1.0, period / 5) + 1e-6 and last_duration <= 1.5 * period + 1:
            return cls.even(n, period * tick)
        if last_duration <= 0:
            last_duration = float(starts.diff().median())
        return cls(starts, float(starts[-1]) + last_duration, tick)


class Clock:
    """A clock that turns the times stated by a file, one by one, into times that start at zero and never go back.

    Attributes:
        last: The time of the last frame; None before the first.
    """

    def __init__(self, path: Path, period: float, tick: float) -> None:
        """
        Args:
            path: For the warning.
            period: Duration of a frame, in ticks.
            tick: Seconds in a tick.
        """
        self.path, self.period, self.tick = path, period, tick
        self.longest = max(MAX_GAP_SECONDS / tick, MAX_GAP_FRAMES * period)
        self.last: float | None = None
        self.known = 0.0  # the last one that was stated
        self.offset: float | None = None  # from what is stated to the time
        self.former: float | None = None  # the offset before a break, while the break may be one wrong time
        self.has_warned = False

    def __call__(self, stated: float | None) -> float:
        """Return the time of the next frame, in ticks."""
        expected = 0 if self.last is None else self.last + self.period
        time = expected
        if stated is not None:
            former, self.former = self.former, None
            if self.offset is None:
                self.offset = expected - stated
            elif former is not None and expected - self.period < stated + former <= expected + self.period:
                self.offset = former
            time = stated + self.offset
            if time < self.known or time - expected > self.longest:
                self._warn(time)
                self.former, self.offset, time = self.offset, expected - stated, expected
            time = self.known = max(time, self.last or 0)
        self.last = time
        return time

    def _warn(self, time: float) -> None:
        if not self.has_warned and self.last is not None:
            direction = "back" if time < self.last else "forward"
            warnings.warn(
                f"{self.path}: the clock jumps {direction} by {abs(time - self.last) * self.tick:.1f} s after "
                f"{self.last * self.tick:.1f} s; this and further jumps are bridged by the duration of one frame.",
                stacklevel=2,
            )
        self.has_warned = True
