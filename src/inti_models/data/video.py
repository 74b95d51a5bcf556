"""Video files, still images and folders of frames in; uint8 clips (T,C,H,W, RGB) out.

A video is read in two passes. The first demuxes, and decodes only up to the second frame, which yields the exact
presentation time and the keyframe flag of every frame. Frames are then chosen by time, and the second pass decodes
from the keyframe before each chosen frame up to it, and nothing else.

The clock, for `read_clips` and `iterate_frames` alike:

1. A frame is shown at its presentation time, counted from the first frame that decodes, until the next frame starts.
   Of frames with equal times the last is shown; one that does not decode leaves the frame before on show.
2. A frame without a presentation time comes one frame's duration after the one before. If none has one (H.264 in
   AVI), the decoding times of the packets are taken in increasing order, and without these the rate of the header.
3. A clock that goes back (joined recordings), or jumps by more than a minute and more than 100 frames, is bridged by
   one frame's duration, with a warning. A shorter gap is time in which the frame before is shown.
4. Where presentation times are missing, or packets out of order or without a frame (fields, damage at the start), all
   of the file is decoded once, in display order, to see which frames there are. This is exact, and slower.
5. A pipe or a camera has the same rules, applied to the frames as they come, with the rate that the header names.
"""

import os
import re
import stat
import time
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import av
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import get_worker_info

from ..files import replacing

__all__ = ["Clips", "Limits", "VideoError", "iterate_frames", "read_clips", "sample_times", "write_video"]

MAX_PIXELS = 2**25  # of a frame, unless told otherwise: 8K has 0.99 of it
MAX_BYTES = 2**32  # of a result
MAX_FRAMES = 2**20  # of a file, unless told otherwise: 9.7 hours at 30 frames a second

# A folder of frames does not say its rate. This one only scales `Clips.times`.
FOLDER_FPS = 25

# A longer gap between two frames is a fault of the clock, if it is also longer than so many frames.
MAX_GAP_SECONDS = 60
MAX_GAP_FRAMES = 100
MAX_REORDERING = 32  # No codec shows a frame so many places away from its place in the file.
KEPT_BYTES = 2**26  # of frames that had to be decoded to number them

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Named, so that Pillow never hands a file to a format that starts other programs (EPS).
_IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Containers that FFmpeg may try. Playlists (HLS, DASH, concat) are left out because they open
# other files and addresses; text art (tty) because it makes a video of any .txt file. The audio
# ones are there to say that a file has no pictures.
_CONTAINERS = (
    "3gp,aac,apng,asf,av1,avi,dv,f4v,flac,flv,gif,h261,h263,h264,hevc,ivf,m4v,matroska,mjpeg,mov,"
    "mp3,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,vc1,vvc,wav,webm,wtv,yuv4mpegpipe"
)


# Before version 19, PyAV has to be told to take metadata that is not UTF-8.
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


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


@dataclass(frozen=True)
class Clips:
    """Clips of one video.

    Attributes:
        frames: uint8, V,T,3,H,W, RGB: V clips of T frames.
        times: float64, V,T: when each frame is first shown, in seconds after the video's first.
    """

    frames: Tensor
    times: Tensor


def read_clips(
    path: str | os.PathLike[str],
    num_frames: int,
    *,
    sampling: str = "uniform",
    stride: int | None = None,
    num_clips: int = 1,
    generator: torch.Generator | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Clips:
    """Reads clips from a video file, a still image or a folder of frames.

    Frames are chosen by time, so a variable frame rate is honoured: the frame at time t is the
    last one that starts at or before t. At a constant rate this equals choosing by index.

    A still image is a video of one frame. A folder holds one image a frame, in natural order of
    name (`img_2` before `img_10`, `0.10` before `0.5`). One with several series (`flow_x_*` beside
    `img_*`) is refused; `folder/img_*` takes the one that is named. Frames are turned as the file's
    rotation or EXIF orientation says; transparent pixels become white; non-square pixels stay as they are
    stored. A video cut
    off in mid-file gives the part that is there; an undecodable frame gives the one before it.
    The rules of the clock are at the top of this module.

    Args:
        path: The file or folder.
        num_frames: Frames in a clip, T.
        sampling: "uniform" cuts the video into T equal segments and takes a frame from each: the
            middle, or for several clips positions spread evenly inside the segment. "dense" takes
            frames `stride` apart: a centred clip, or for several clips starts spread evenly from
            the first possible to the last; past the end the last frame is repeated.
        stride: Frames from one sampled frame to the next at the video's average rate ("dense").
        num_clips: Clips to take, V.
        generator: If given, positions are random: anywhere in each segment ("uniform"), or
            anywhere the clip fits ("dense").
        limits: What the file may ask for.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        VideoError: (a ValueError) The arguments make no sense, or the file is not a video that
            decodes, or is above the limits or `MAX_BYTES`.
    """
    check_request(num_frames, sampling, stride, num_clips)
    path = Path(path)
    source = _open_source(path, _Guard(limits))
    timeline = source.timeline
    duration = timeline.end * timeline.unit
    if limits.max_duration is not None and duration > limits.max_duration:
        raise VideoError(
            f"{path} lasts {duration:.1f} s, more than the limit of {limits.max_duration:g} s: cut it first."
        )

    sample = sample_times(
        num_frames,
        timeline.end,
        sampling=sampling,
        step=(stride or 1) * timeline.period,
        period=timeline.period,
        num_clips=num_clips,
        generator=generator,
    )
    ranks = torch.searchsorted(timeline.starts, sample, right=True) - 1
    ranks = ranks.clamp_(0, len(timeline.starts) - 1)

    frames: Tensor | None = None
    starts = timeline.starts[ranks]
    for rank, start, image in source.read(ranks.unique().tolist()):
        if frames is None:
            _check_size(path, num_clips * num_frames, image.shape)
            frames = torch.empty(num_clips, num_frames, *image.shape, dtype=torch.uint8)
        elif image.shape != frames.shape[2:]:
            (_, h0, w0), (_, h, w) = frames.shape[2:], image.shape
            raise VideoError(
                f"{path} has frames of {w0}x{h0} and of {w}x{h} pixels; all frames of a clip need "
                "one size: resize them first."
            )
        frames[ranks == rank] = image
        starts[ranks == rank] = start
    assert frames is not None
    return Clips(frames, starts * timeline.unit)


def iterate_frames(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    fps: float | None = None,
    every: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[tuple[float, Tensor]]:
    """Frames of a video as they come, for as long as they come.

    Args:
        source: A video file, a folder of frames or an image; a named pipe or a file object that a video can be read
            from without seeking; or a camera that Linux knows as a device (/dev/video0).
        fps: Frames a second to yield, by time: the first at or after each 1 / fps seconds. None for all.
        every: Yield every n-th of these.
        max_pixels: Of a frame; a source with larger ones is refused.

    Yields:
        Time in seconds after the first frame, and the frame: uint8, 3,H,W, RGB, of the size of the first.

    Raises:
        FileNotFoundError: There is nothing at `source`.
        VideoError: (a ValueError) `fps` or `every` make no sense, or this is no video that decodes.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise VideoError(f"fps is {fps}; expected frames a second above 0 and up to 1000.")
    if every < 1:
        raise VideoError(f"every is {every}; expected a whole number of at least 1.")
    due, count = 0, 0
    for shown, decode in _played(source, _Guard(Limits(max_pixels))):
        if fps is not None:
            if shown * fps < due - 1e-6:
                continue
            due = int(shown * fps + 1e-6) + 1
        if count % every == 0:
            yield shown, decode()
        count += 1


def _played(source: str | os.PathLike[str] | BinaryIO, guard: "_Guard") -> Iterator[tuple[float, Callable[[], Tensor]]]:
    """Time of each frame, and what makes an image of it."""
    if not isinstance(source, str | os.PathLike):
        path = Path(str(getattr(source, "name", "the stream")))
        if not source.seekable():
            yield from _streamed(path, guard, file=source)
            return
        found: _Video | _Stills = _Video(path, guard, source)
    else:
        path = Path(source)
        mode = path.stat().st_mode if path.exists() else 0
        if stat.S_ISFIFO(mode):
            with path.open("rb") as pipe:
                yield from _streamed(path, guard, file=pipe)
            return
        if stat.S_ISCHR(mode):
            yield from _streamed(path, guard, camera=True)
            return
        found = _open_source(path, guard)
    timeline = found.timeline
    for rank, image in found.play():
        yield float(timeline.starts[rank]) * timeline.unit, image


def _streamed(
    path: Path, guard: "_Guard", camera: bool = False, file: BinaryIO | None = None
) -> Iterator[tuple[float, Callable[[], Tensor]]]:
    """Time of each frame of what cannot be read twice, and what makes an image of it."""
    convert = _Converter(path, guard)
    is_mp4 = file is not None and hasattr(file, "peek") and file.peek(8)[4:8] == b"ftyp"
    with _open_stream(path, guard, camera, file, _PIPED_MP4 if is_mp4 else None) as (container, stream):
        _set_up(stream.codec_context, guard)
        tick = float(stream.time_base or 0)
        clock = _Clock(path, float(1 / (stream.average_rate or stream.guessed_rate or FOLDER_FPS)), 1)
        for packet in chain(_demux(path, container, stream, guard), [None]):
            for frame in _decode(stream.codec_context, packet):
                # A frame that comes out at the end has no time base of its own.
                yield clock(None if frame.pts is None or not tick else frame.pts * tick), partial(convert, frame)
    if clock.last is None:
        raise VideoError(f"no frame of {path} can be decoded: {_PIPED_MP4 if is_mp4 else _TRY_ANOTHER}")


def sample_times(
    num_frames: int,
    duration: float,
    *,
    sampling: str = "uniform",
    step: float = 1.0,
    period: float = 1.0,
    num_clips: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Times to sample, float64 V,T, in the unit of `duration` (see `read_clips` for the meaning).

    Args:
        num_frames: T.
        duration: Length of the video.
        sampling: "uniform" or "dense".
        step: Time from one sampled frame to the next ("dense").
        period: Time one frame is shown on average; the last sample needs this much room ("dense").
        num_clips: V.
        generator: If given, positions are random.
    """
    i = torch.arange(num_frames, dtype=torch.float64)
    v = torch.arange(num_clips, dtype=torch.float64)[:, None]
    if sampling == "uniform":
        if generator is not None:
            offset = torch.rand(num_clips, num_frames, generator=generator, dtype=torch.float64)
            return (i + offset) * duration / num_frames
        # Numerator and denominator stay whole numbers, so that a sample which falls exactly on
        # the start of a frame is not rounded to the frame before.
        numerator = 2 * num_clips * i + 2 * v + 1
        return numerator * duration / (2 * num_clips * num_frames)

    room = max(duration - (num_frames - 1) * step - period, 0.0)
    if generator is not None:
        u = torch.rand(num_clips, 1, generator=generator, dtype=torch.float64)
        start = u * (room + period)
    elif num_clips == 1:
        start = torch.full((1, 1), room / 2, dtype=torch.float64)
    else:
        start = room * v / (num_clips - 1)
    return start + i * step


def write_video(path: str | os.PathLike[str], frames: Tensor, fps: float | Fraction) -> None:
    """Writes frames as H.264 (as MPEG-4 part 2 where the encoder is missing) in 4:2:0 colour.

    The file appears under its name only when it is complete. H.264 in 4:2:0 needs even sides;
    odd ones are written in 4:4:4, which keeps the size but which some players do not show.

    Args:
        path: Ends in .mp4, .mov or .mkv; an existing file is replaced.
        frames: uint8, T,3,H,W, RGB.
        fps: Frames a second.

    Raises:
        ValueError: Wrong frames, rate or suffix.
        OSError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in {".mp4", ".mov", ".mkv"}:
        raise ValueError(f"cannot write {path}: expected a name that ends in .mp4, .mov or .mkv.")
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape:
        raise ValueError(
            f"frames are {frames.dtype} of shape {tuple(frames.shape)}; expected torch.uint8 of "
            "shape (T, 3, H, W) with T, H, W >= 1."
        )
    if not 0 < fps <= 1000:
        raise ValueError(f"fps is {fps}; expected frames a second above 0 and up to 1000.")
    rate = Fraction(fps).limit_denominator(1001)
    if rate == 0:
        raise ValueError(f"fps is {fps}; the slowest rate that can be written is 1/1001.")

    height, width = frames.shape[2:]
    pix_fmt, options = "yuv420p", {"crf": "18"}
    codec: Literal["libx264", "mpeg4"] = "libx264"
    if codec not in av.codecs_available:
        codec, options = "mpeg4", {"qscale": "2"}
    elif height % 2 or width % 2:
        pix_fmt = "yuv444p"
    try:
        with replacing(path) as unfinished, av.open(f"file:{unfinished}", "w") as container:
            stream = container.add_stream(codec, rate=rate, options=options)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height = width, height
            stream.pix_fmt = pix_fmt
            stream.codec_context.time_base = 1 / rate
            # What swscale makes of RGB: without the tags players take large videos for BT.709.
            stream.codec_context.colorspace = av.video.reformatter.Colorspace.ITU601
            stream.codec_context.color_range = av.video.reformatter.ColorRange.MPEG
            for i, image in enumerate(frames.cpu()):
                frame = av.VideoFrame.from_ndarray(image.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
                frame.pts, frame.time_base = i, 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(f"cannot write {path}: {error.strerror}.") from error


def check_request(num_frames: int, sampling: str, stride: int | None, num_clips: int = 1) -> None:
    """Raise a `VideoError` for arguments of `read_clips` that make no sense."""
    for name, value in (("num_frames", num_frames), ("num_clips", num_clips)):
        if not isinstance(value, int) or value < 1:
            raise VideoError(f"{name} is {value!r}; expected a whole number of at least 1.")
    if sampling not in ("uniform", "dense"):
        raise VideoError(f"sampling is {sampling!r}; expected 'uniform' or 'dense'.")
    if sampling == "uniform" and stride is not None:
        raise VideoError(
            f"stride is {stride!r} but sampling is 'uniform', which has none: leave stride out, or "
            "pass sampling='dense'."
        )
    if sampling == "dense" and (not isinstance(stride, int) or stride < 1):
        raise VideoError(
            f"stride is {stride!r}; sampling='dense' needs a whole number of at least 1: the "
            "frames from one sampled frame to the next."
        )
    if num_clips * num_frames * 3 > MAX_BYTES:
        raise VideoError(f"{num_clips} clips of {num_frames} frames do not fit {MAX_BYTES} bytes: ask for fewer.")


def _check_size(path: Path, num_images: int, shape: Sequence[int]) -> None:
    _, height, width = shape
    num_bytes = num_images * 3 * height * width
    if num_bytes > MAX_BYTES:
        raise VideoError(
            f"{num_images} frames of {width}x{height} pixels from {path} take {num_bytes} bytes, "
            f"more than the limit of {MAX_BYTES}: ask for fewer frames or clips, or resize the "
            "video first."
        )


class _Guard:
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


@dataclass(frozen=True)
class _Timeline:
    """When frames are shown, in display order.

    Attributes:
        starts: float64, N: start of each frame, in units; the first is 0.
        end: Where the last frame ends, in units.
        unit: Seconds in a unit.
    """

    starts: Tensor
    end: float
    unit: float

    @property
    def period(self) -> float:
        return self.end / len(self.starts)

    @classmethod
    def even(cls, num_frames: int, period: float) -> "_Timeline":
        """A constant rate: the unit is one frame, so that starts are whole numbers."""
        return cls(torch.arange(num_frames, dtype=torch.float64), float(num_frames), period)

    @classmethod
    def from_ticks(cls, ticks: Sequence[float], last_duration: float, tick: float) -> "_Timeline":
        """From presentation times in ticks of `tick` seconds, none before the one before it."""
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


class _Clock:
    """Makes times that start at zero and do not go back of those that a file states, one after the other.

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


def check_video(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise the error of `read_clips` for a file that is missing or has no header of a video; frames are not read.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        VideoError: it is not a video, an image or a folder of images, or above the limits.
    """
    guard = _Guard(limits)
    stills = _find_stills(Path(path), guard)
    if stills is None:
        with _open_stream(Path(path), guard):
            pass
    else:
        _read_image(stills.paths[0], guard)


def _open_source(path: Path, guard: _Guard) -> "_Video | _Stills":
    return _find_stills(path, guard) or _Video(path, guard)


def _find_stills(path: Path, guard: _Guard) -> "_Stills | None":
    """The images of a folder, or the one that the file is; None for a file that is to be a video."""
    if path.is_dir():
        return _Stills(_list_frames(path), guard)
    if "*" in path.name and path.parent.is_dir() and not path.exists():
        return _Stills(_list_frames(path.parent, path.name), guard)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}: check the path.")
    if not path.is_file():
        raise VideoError(f"{path} is not a regular file; expected a video, an image or a folder.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes): copy or download it again.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _Stills([path], guard)
    return None


def _list_frames(folder: Path, pattern: str | None = None) -> list[Path]:
    """Images of a folder in natural order of name, if they are one series.

    Args:
        folder: Where they are.
        pattern: Name of a series, such as img_* (numbers are *), or of the files to take, such as *.png; None for all.

    Raises:
        VideoError: There are none, or those of several series.
    """
    names = [p.name for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if pattern is not None and pattern.lower() in map(_series, names):
        names = [name for name in names if _series(name) == pattern.lower()]
    elif pattern is not None:
        names = [name for name in names if fnmatchcase(name, pattern)]
    if not names:
        raise VideoError(f"folder {folder} holds no images; expected one image a frame, named like img_00001.jpg.")
    series = Counter(map(_series, names)).most_common()
    if len(series) > 1:
        found = ", ".join(f"{key or 'names without numbers'} ({count})" for key, count in series[:5])
        raise VideoError(
            f"folder {folder} holds images of several series, {found}{', ...' * (len(series) > 5)}; move all but one "
            f"away, or name one, as {folder / (series[-1][0] or series[0][0])}."
        )
    stems: dict[str, str] = {}
    for name in names:
        other = stems.setdefault(os.path.splitext(name.lower())[0], name)
        if other != name:
            raise VideoError(
                f"folder {folder} holds {other} and {name}, two images of one number; move one kind away, or name the "
                f"other, as {folder / '*'}{os.path.splitext(name)[1]}."
            )
    return [folder / name for name in sorted(names, key=_natural_key)]


def _series(name: str) -> str:
    """What the names of a series have in common: img_* for img_00001.jpg; "" for names without numbers."""
    key, numbers = _NUMBER.subn("*", os.path.splitext(name.lower())[0])
    return key if numbers else ""


# A number with one point is a decimal fraction; with several it is parts.
_NUMBER = re.compile(r"\d+(?:\.\d+)*")


def _natural_key(name: str) -> tuple[list[tuple], str]:
    """Orders img_2 before img_10, 0.10 before 0.5 (and, for good measure, img_02 before img_2)."""
    parts: list[tuple] = []
    stem, last = os.path.splitext(name)[0], 0
    for match in _NUMBER.finditer(stem):
        numbers = match[0].split(".")
        value = [Fraction(match[0])] if len(numbers) < 3 else [Fraction(number) for number in numbers]
        parts += [(1, stem[last : match.start()].lower()), (0, value)]
        last = match.end()
    return [*parts, (1, stem[last:].lower())], name


class _Stills:
    """Image files, one a frame."""

    def __init__(self, paths: list[Path], guard: _Guard) -> None:
        self.paths, self.guard = paths, guard
        self.timeline = _Timeline.even(len(paths), 1 / FOLDER_FPS)

    def read(self, wanted: list[int]) -> Iterator[tuple[int, float, Tensor]]:
        """Yields the wanted frames, each with its rank in display order and its start."""
        for rank in wanted:
            self.guard.check_time(self.paths[rank])
            yield rank, rank, _read_image(self.paths[rank], self.guard)

    def play(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields all frames: their rank, and what makes an image of them."""
        for rank, path in enumerate(self.paths):
            yield rank, partial(_read_image, path, self.guard)


def _read_image(path: Path, guard: _Guard) -> Tensor:
    if path.exists() and not path.is_file():
        raise VideoError(f"{path} is not a regular file; expected an image.")
    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as image:
            guard.check_pixels(path, *image.size)
            count = getattr(image, "n_frames", 1)
            # An MPO is a JPEG photograph with previews behind it.
            if count > 1 and image.format != "MPO":
                raise VideoError(
                    f"{path} holds {count} pictures in one {image.format} file: convert it to a "
                    "GIF or MP4, or save each picture as a file in a folder."
                )
            if image.mode.startswith("I;16"):
                gray = (np.asarray(ImageOps.exif_transpose(image)) >> 8).astype(np.uint8)
                return torch.from_numpy(gray).expand(3, -1, -1)
            if image.mode in ("I", "F"):
                raise VideoError(
                    f"{path} has pixels of mode {image.mode!r}, whose range is not known: save it "
                    "with 8 bits a channel."
                )
            mode = "RGBA" if image.has_transparency_data else "RGB"
            pixels = np.array(ImageOps.exif_transpose(image).convert(mode))
            return _over_white(pixels) if mode == "RGBA" else _channels_first(pixels)
    except VideoError:
        raise
    except Exception as error:
        # Pillow's parsers raise nearly anything on damaged files (OSError, SyntaxError, ...).
        raise VideoError(
            f"{path} cannot be read as an image ({_reason(error)}); expected a complete BMP, JPEG, "
            "PNG, PPM, TIFF or WebP file."
        ) from error


def _over_white(rgba: np.ndarray) -> Tensor:
    """H,W,4 -> 3,H,W, on a white background."""
    color, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() < 255:
        a = alpha.astype(np.uint16)
        color = ((color * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)
    return _channels_first(color)


def _channels_first(image: np.ndarray) -> Tensor:
    """H,W,C -> C,H,W."""
    return torch.from_numpy(image).permute(2, 0, 1)


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int
    is_keyframe: bool
    is_shown: bool


class _Video:
    """A video stream: the index of its packets, and frames decoded by their display rank.

    A decoder hands the time of a packet on to the frame that it makes of it. We put the number of the packet there
    instead, which tells frames apart even if times are missing, repeated or wrong.

    Attributes:
        shown: The packet of each frame in display order; None for one that the decoder does not name.
        is_sorted: The times of the packets told that order; if not, frames are counted as they come out.
    """

    def __init__(self, path: Path, guard: _Guard, file: BinaryIO | None = None) -> None:
        self.path, self.guard, self.file = path, guard, file
        self.start = file.tell() if file is not None else 0
        self.packets: list[_Packet] = []
        first: list[av.VideoFrame] = []
        with self._open() as (container, stream):
            rate = stream.average_rate or stream.guessed_rate or FOLDER_FPS
            self.tick = float(stream.time_base or 0)
            context, is_whole = stream.codec_context, True
            _set_up(context, guard, is_probe=True)
            # Where damage hides packets of an AVI, FFmpeg numbers those that are left; its index has their times.
            is_avi = container.format.name == "avi"
            places = {entry.pos + 8: entry.timestamp for entry in stream.index_entries} if is_avi else {}
            hidden = 0
            for k, packet in enumerate(_demux(path, container, stream, guard)):
                if k == guard.limits.max_frames:
                    raise VideoError(
                        f"{path} has more frames than the limit of {guard.limits.max_frames}: cut it first."
                    )
                pts, dts, duration = packet.pts, packet.dts, packet.duration or 0
                if dts is not None and packet.pos in places:
                    hidden = places[packet.pos] - dts
                pts, dts = (None if ticks is None else ticks + hidden for ticks in (pts, dts))
                self.packets.append(_Packet(pts, dts, duration, packet.is_keyframe, not packet.is_discard))
                is_whole = not packet.is_corrupt
                if len(first) < 2:
                    packet.pts = k
                    first += _decode(context, packet)
            if len(first) < 2:
                first += _decode(context, None)
        if not is_whole:
            # The end of a file that is cut off. Damage before it is left to the decoder.
            self.packets[-1] = self.packets[-1]._replace(is_shown=False)
        if not any(packet.is_shown for packet in self.packets):
            raise VideoError(f"{path} has a video stream but no frames in it: {_TRY_ANOTHER}")
        if not first:
            raise VideoError(f"no frame of {path} can be decoded: {_TRY_ANOTHER}")
        self.convert = _Converter(path, guard, (first[0].width, first[0].height))

        self.kept: list[av.VideoFrame] | None = None
        self.shown: Sequence[int | None] = self._sort([frame.pts for frame in first[:2]])
        self.is_sorted = bool(self.shown)
        if not self.is_sorted:
            self.shown = self._count()
        self.rank_of = {k: rank for rank, k in enumerate(self.shown)}
        self.timeline = self._time(float(1 / rate))

    def _sort(self, first: list[int | None]) -> list[int]:
        """Return the packets in display order, or nothing where their times do not tell it.

        Args:
            first: Packets of the first two frames that the decoder puts out.
        """
        shown = [k for k, packet in enumerate(self.packets) if packet.is_shown]
        if self.tick <= 0 or any(self.packets[k].pts is None for k in shown):
            return []
        decoded = [packet.dts for packet in self.packets if packet.dts is not None]
        if any(a > b for a, b in pairwise(decoded)):
            return []
        order = sorted(shown, key=self._pts)
        if order != shown:
            if any(abs(a - b) > MAX_REORDERING for a, b in zip(order, shown, strict=True)):
                return []
            if any(self._pts(a) == self._pts(b) for a, b in pairwise(order)):
                return []
        # A stream may begin with what does not decode, or need two packets for a frame (fields).
        begin = order.index(first[0]) if first[0] in order else 0
        return order[begin:] if order[begin : begin + len(first)] == first else []

    def _count(self) -> list[int | None]:
        """Return the packets of the frames that decode, in display order, and keep the frames if they are small."""
        kept: list[av.VideoFrame] | None = []
        shown, size = [], 0
        for frame in self._play([(0, len(self.packets) - 1)]):
            if frame.pts is not None and not self.packets[frame.pts].is_shown:
                continue
            shown.append(frame.pts)
            size += sum(plane.buffer_size for plane in frame.planes)
            if kept is not None:
                kept.append(frame)
            if size > KEPT_BYTES:
                kept = None
        if not shown:
            raise VideoError(f"no frame of {self.path} can be decoded: {_TRY_ANOTHER}")
        self.kept = kept
        return shown

    def _time(self, period: float) -> _Timeline:
        """Return when the frames are shown.

        Args:
            period: Seconds a frame is shown, if their times do not tell.
        """
        packets = [None if k is None else self.packets[k] for k in self.shown]
        stated = [None if packet is None else packet.pts for packet in packets]
        has_pts = any(pts is not None for pts in stated)
        if not has_pts:
            stated = [packet.dts for packet in self.packets]
        if self.tick <= 0 or None in packets or all(ticks is None for ticks in stated):
            return _Timeline.even(len(packets), period)
        steps = [b - a for a, b in pairwise(stated) if a is not None and b is not None and b > a]
        durations = sorted(packet.duration for packet in self.packets if packet.duration > 0)
        steps = sorted(steps + durations[len(durations) // 2 :][:1])
        clock = _Clock(self.path, steps[(len(steps) - 1) // 2] if steps else period / self.tick, self.tick)
        ticks = [clock(value) for value in stated]
        if not has_pts:
            given = sorted(k for k in self.shown if k is not None)
            ticks = [ticks[k] for k in given]
            if len(given) > 1:
                # Packets after the first that give no frame are the delay of an encoder (Xvid), not time.
                ticks[0] = min(ticks[0] + (given[1] - given[0] - 1) * clock.period, ticks[1])
        last = packets[-1].duration if packets[-1] is not None else 0
        return _Timeline.from_ticks(ticks, last if last <= clock.longest else clock.period, self.tick)

    def _pts(self, k: int) -> int:
        pts = self.packets[k].pts
        assert pts is not None
        return pts

    def read(self, wanted: list[int]) -> Iterator[tuple[int, float, Tensor]]:
        """Yields the wanted frames, each with its rank in display order and its start.

        Args:
            wanted: Ranks, increasing.
        """
        starts = self.timeline.starts
        missing = set(wanted)
        if self.is_sorted:
            for rank, frame in self._rank(self._play(self._plan(wanted))):
                if rank in missing:
                    missing.remove(rank)
                    yield rank, float(starts[rank]), self.convert(frame)
                if not missing:
                    return

        # Either frames have to be counted, or some did not come out of the shortest way (damage,
        # false keyframes): play from the start, and fill holes with the frame before.
        left = sorted(missing)
        previous: tuple[int, av.VideoFrame] | None = None
        for rank, frame in self._all():
            while left and left[0] <= rank:
                use = (rank, frame) if previous is None or left[0] == rank else previous
                yield left.pop(0), float(starts[use[0]]), self.convert(use[1])
            if not left:
                return
            previous = rank, frame
        if previous is None:
            raise VideoError(f"no frame of {self.path} can be decoded: {_TRY_ANOTHER}")
        for rank in left:
            yield rank, float(starts[previous[0]]), self.convert(previous[1])

    def play(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yields all frames that decode: their rank, and what makes an image of them."""
        for rank, frame in self._all():
            yield rank, partial(self.convert, frame)

    def _all(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """All frames that decode, each with its rank, which increases."""
        frames = self._play([(0, len(self.packets) - 1)]) if self.kept is None else iter(self.kept)
        last = -1
        for rank, frame in self._rank(frames):
            if rank > last:
                yield rank, frame
                last = rank

    def _rank(self, frames: Iterator[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their ranks, without those that are not shown."""
        if self.is_sorted:
            for frame in frames:
                if frame.pts in self.rank_of:
                    yield self.rank_of[frame.pts], frame
        else:
            shown = (f for f in frames if f.pts is None or self.packets[f.pts].is_shown)
            yield from enumerate(shown)

    def _plan(self, wanted: list[int]) -> list[tuple[int, int]]:
        """The packets to decode for the wanted frames: first and last of each run, in file order.

        Packets come in decoding order, so everything a frame refers to lies between its keyframe
        and itself. A frame shown *before* the keyframe it follows in the file (open GOP) also
        refers to the group before, and so starts at an earlier keyframe.
        """
        keyframes = [k for k, packet in enumerate(self.packets) if packet.is_keyframe and packet.pts is not None]
        runs: list[tuple[int, int]] = []
        for first, last in sorted(
            (self._entry(k, keyframes), k) for k in (self.shown[r] for r in wanted) if k is not None
        ):
            if runs and first <= runs[-1][1] + 1:
                runs[-1] = (runs[-1][0], max(last, runs[-1][1]))
            else:
                runs.append((first, last))
        return runs

    def _entry(self, k: int, keyframes: list[int]) -> int:
        """The packet at which decoding has to start for the frame of packet k to come out."""
        pts = self._pts(k)
        for entry in reversed(keyframes[: bisect_right(keyframes, k)]):
            if self._pts(entry) <= pts:
                return entry
        return 0

    def _play(self, runs: list[tuple[int, int]]) -> Iterator[av.VideoFrame]:
        """Decodes runs of packets; the `pts` of a frame is the number of its packet.

        The packets between are read but not decoded: unlike seeking this lands on the right packet
        in every container, and the index has just brought the file into the page cache.
        """
        with self._open() as (container, stream):
            context = stream.codec_context
            _set_up(context, self.guard)
            pending = iter(runs)
            first, last = next(pending)
            for k, packet in enumerate(_demux(self.path, container, stream, self.guard)):
                if k < first:
                    continue
                packet.pts = k
                yield from _decode(context, packet)
                if k == last:
                    yield from _decode(context, None)
                    context.flush_buffers()
                    run = next(pending, None)
                    if run is None:
                        return
                    first, last = run

    def _open(self) -> AbstractContextManager[tuple[av.container.InputContainer, av.VideoStream]]:
        if self.file is not None:
            self.file.seek(self.start)
        return _open_stream(self.path, self.guard, file=self.file)


_TRY_ANOTHER = "the file is damaged or cut off; copy or download it again."
_PIPED_MP4 = (
    "an MP4 whose index is at its end cannot be read from a pipe; move the index to the start with "
    "ffmpeg -i IN.mp4 -c copy -movflags +faststart OUT.mp4, or name the file."
)


@contextmanager
def _open_stream(
    path: Path, guard: _Guard, camera: bool = False, file: BinaryIO | None = None, advice: str | None = None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file, camera or file object and its main video stream; no exception of PyAV's gets out."""
    try:
        if camera:
            options = {"format_whitelist": "v4l2,video4linux2"}
            container = av.open(str(path), "r", format="v4l2", container_options=options)
        else:
            container = av.open(
                # The prefix keeps FFmpeg from reading a protocol into the name ("http:", "concat:").
                f"file:{path}" if file is None else file,
                "r",
                **_LENIENT,
                container_options={"protocol_whitelist": "file", "format_whitelist": _CONTAINERS},
            )
    except Exception as error:
        expected = advice or "expected a complete MP4, MOV, MKV, WebM, AVI, GIF or similar file."
        raise VideoError(f"{path} cannot be opened as a video ({_reason(error)}); {expected}") from error
    with container:
        # PyAV asks FFmpeg to make up presentation times where a container has none (AVI). For
        # streams with B-frames these are wrong.
        container.flags &= ~av.container.Flags.gen_pts.value  # type: ignore[operator]
        pictures = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & pictures]
        if not streams:
            kinds = {"a cover picture" if s.type == "video" else s.type for s in container.streams}
            raise VideoError(f"{path} has no video, only {' and '.join(sorted(kinds)) or 'nothing'}; expected a video.")
        best = container.streams.best("video")
        stream = best if best in streams else streams[0]
        if stream.codec_context is None:
            raise VideoError(f"{path} has a codec that this FFmpeg cannot decode: convert it to H.264 in MP4.")
        guard.check_pixels(path, stream.width, stream.height)
        for other in container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        yield container, stream


def _set_up(context: av.VideoCodecContext, guard: _Guard, is_probe: bool = False) -> None:
    """Bound frames that are larger than the container says, and choose the number of threads.

    FFmpeg pads rows before it counts pixels, which doubles them at most. Threads decode, but where workers of a data
    loader are the parallelism already; nor with PyAV's logging on: its callback waits for the lock that the one who
    waits for the threads may hold. A probe of two frames is faster without.
    """
    is_alone = is_probe or get_worker_info() is not None or av.logging.get_level() is not None
    context.thread_type = "AUTO"
    context.thread_count = 1 if is_alone else min(os.cpu_count() or 1, 8)
    context.options = {"max_pixels": str(2 * guard.limits.max_pixels)}


def _demux(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, guard: _Guard
) -> "Iterator[av.Packet[av.VideoStream]]":
    """The stream's packets in file order, up to the end or to where damage stops the reading."""
    try:
        for packet in container.demux(stream):
            guard.check_time(path)
            # Empty packets carry no frame (FFmpeg takes one for the end of the stream).
            if packet.size:
                yield packet
    except av.FFmpegError:
        return


def _decode(context: av.VideoCodecContext, packet: "av.Packet[av.VideoStream] | None") -> list[av.VideoFrame]:
    """Feeds one packet (None: the end) and returns the frames that come out: none if damaged."""
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return []


class _Converter:
    """Decoded frames -> RGB, uint8, 3,H,W, upright, all of the size of the first."""

    def __init__(self, path: Path, guard: _Guard, size: tuple[int, int] | None = None) -> None:
        self.path, self.guard, self.size = path, guard, size
        self.reformatter = av.video.reformatter.VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Tensor:
        width, height = self.size = self.size or (frame.width, frame.height)
        self.guard.check_pixels(self.path, frame.width, frame.height)
        has_alpha = frame.format.has_palette or any(c.is_alpha for c in frame.format.components)
        try:
            image = self.reformatter.reformat(
                frame,
                width,
                height,
                "rgba" if has_alpha else "rgb24",
                threads=1,
            ).to_ndarray()
        except Exception as error:
            raise VideoError(
                f"{self.path} has frames in a pixel format that cannot be made RGB "
                f"({frame.format.name}: {_reason(error)}): convert it to H.264 in MP4."
            ) from error
        rgb = _over_white(image) if has_alpha else _channels_first(image)
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return rgb if matrix is None else _turn(rgb, np.frombuffer(cast(Any, matrix), np.int32))


def _turn(image: Tensor, matrix: np.ndarray) -> Tensor:
    """Applies a display matrix (9 fixed-point numbers) to C,H,W, to the nearest right angle."""
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = (int(value) for value in matrix[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, flip_x, flip_y = image.transpose(1, 2), c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    dims = [dim for dim, flip in ((1, flip_y), (2, flip_x)) if flip]
    return image.flip(dims) if dims else image


def _reason(error: Exception) -> str:
    """What went wrong in the words of the library, without paths and line breaks."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")
