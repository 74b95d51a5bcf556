"""What a video may ask for, and the error of one that asks for more or cannot be read."""

import threading
import time
from dataclasses import dataclass, fields
from pathlib import Path

MAX_PIXELS = 2**25  # of a frame, unless other limits are given: 8K has 0.99 of it
MAX_FRAMES = 2**20  # of a file, unless other limits are given: 9.7 hours at 30 frames per second
# Decoded, unless other limits are given: films have 10 to 1,000 a byte, slides 10,000, bombs a million.
MAX_PIXELS_PER_BYTE = 2**14
FREE_PIXELS = 2**33  # that may be decoded of any file, however small: 4,100 frames of 1080p
MAX_BYTES = 2**32  # of a result


class VideoError(ValueError):
    """A file that cannot be read as a video, or an impossible request; says which and why."""


@dataclass(frozen=True)
class Limits:
    """Limits to what a file may ask for, as a guard against decompression bombs; one that asks for more is refused.

    Attributes:
        max_pixels: Of a frame; checked before one is decoded.
        max_duration: Of the whole video, in seconds; checked before a frame is decoded. None for no limit.
        timeout: Seconds allowed for reading clips; None for no limit. It is checked between packets, so that one
            frame may still be decoded after it.
        max_frames: Of a file or folder; counted as packets are read, or before if the container says.
        max_pixels_per_byte: Of all frames that have to be decoded to show the wanted ones, for each byte of the file;
            checked before they are decoded and again as they come out, but not below `FREE_PIXELS` of them.

    Raises:
        ValueError: If one of them is not above zero.
    """

    max_pixels: int = MAX_PIXELS
    max_duration: float | None = None
    timeout: float | None = None
    max_frames: int = MAX_FRAMES
    max_pixels_per_byte: float = MAX_PIXELS_PER_BYTE

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"{field.name} is {value}; expected a number above 0.")


DEFAULT_LIMITS = Limits()


class Guard:
    """Limits, the moment at which reading began, and an event that ends it."""

    def __init__(self, limits: Limits, stop: threading.Event | None = None) -> None:
        self.limits, self.stop, self.start = limits, stop, time.monotonic()

    def check_time(self, path: Path) -> None:
        """Raise a VideoError if time is up, or reading was stopped."""
        if self.stop is not None and self.stop.is_set():
            raise VideoError(f"{path} was not read, as reading was stopped.")
        timeout = self.limits.timeout
        if timeout is not None and time.monotonic() - self.start > timeout:
            raise VideoError(
                f"{path} was not read within {timeout:g} s: allow more time, or make a shorter or smaller copy."
            )

    def check_pixels(self, path: Path, width: int, height: int) -> None:
        """Raise a VideoError for frames that are too large."""
        if width * height > self.limits.max_pixels:
            raise VideoError(
                f"{path} has frames of {width}x{height} pixels, more than the limit of {self.limits.max_pixels}: "
                "resize it first."
            )

    def check_frames(self, path: Path, count: int) -> None:
        """Raise a VideoError for more frames than a file may have."""
        if count > self.limits.max_frames:
            raise VideoError(f"{path} has more frames than the limit of {self.limits.max_frames}: cut it first.")

    def check_work(self, path: Path, num_pixels: int, num_bytes: int) -> None:
        """Raise a VideoError for a file that says little and asks for much: a decompression bomb."""
        limit = self.limits.max_pixels_per_byte
        if num_pixels > max(FREE_PIXELS, limit * num_bytes):
            raise VideoError(
                f"{path} has {num_bytes} bytes, of which at least {num_pixels} pixels have to be decoded, more than "
                f"the limit of {limit:g} for each byte: cut it, or raise max_pixels_per_byte."
            )


def reason(error: Exception) -> str:
    """Return what went wrong in the words of the library, without paths and line breaks."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")
