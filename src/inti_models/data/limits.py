"""What a video may ask for, and the error of one that asks for more or cannot be read."""

import time
from dataclasses import dataclass
from pathlib import Path

MAX_PIXELS = 2**25  # of a frame, unless other limits are given: 8K has 0.99 of it
MAX_FRAMES = 2**20  # of a file, unless other limits are given: 9.7 hours at 30 frames a second
MAX_BYTES = 2**32  # of a result


class VideoError(ValueError):
    """A file that cannot be read as a video, or an impossible request; says which and why."""


@dataclass(frozen=True)
class Limits:
    """What a file may ask for, as a guard against decompression bombs; one that asks for more is refused.

    Attributes:
        max_pixels: Of a frame; looked at before one is decoded.
        max_duration: Of the whole video, in seconds; looked at before a frame is decoded. None for no limit.
        timeout: Seconds to read clips in; None for no limit. The clock is looked at between packets, so that one
            frame may still be decoded after it.
        max_frames: Of a file, counted as its packets are read.

    Raises:
        ValueError: One of them is not above zero.
    """

    max_pixels: int = MAX_PIXELS
    max_duration: float | None = None
    timeout: float | None = None
    max_frames: int = MAX_FRAMES

    def __post_init__(self) -> None:
        for name, unit in (
            ("max_pixels", "pixels"),
            ("max_duration", "seconds"),
            ("timeout", "seconds"),
            ("max_frames", "frames"),
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; expected {unit} above 0.")


DEFAULT_LIMITS = Limits()


class Guard:
    """Limits, and the moment at which reading began."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.start = limits, time.monotonic()

    def check_time(self, path: Path) -> None:
        """Raise a VideoError if the time is over."""
        timeout = self.limits.timeout
        if timeout is not None and time.monotonic() - self.start > timeout:
            raise VideoError(
                f"{path} is not read after {timeout:g} s: allow more time, or make a shorter or smaller copy."
            )

    def check_pixels(self, path: Path, width: int, height: int) -> None:
        """Raise a VideoError for frames that are too large."""
        if width * height > self.limits.max_pixels:
            raise VideoError(
                f"{path} has frames of {width}x{height} pixels, more than the limit of {self.limits.max_pixels}: "
                "resize it first."
            )


def reason(error: Exception) -> str:
    """Return what went wrong in the words of the library, without paths and line breaks."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")
