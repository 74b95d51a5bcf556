"""Video files, still images and folders of frames in; uint8 RGB clips (T, C, H, W) out.

`clock` has the rules of time, `decoding` reads video files, `images` reads stills.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .decoding import VideoFile, open_stream, play_stream
from .images import Stills, find_stills, read_image
from .limits import DEFAULT_LIMITS, MAX_BYTES, Guard, Limits, VideoError
from .protocols import RULES, frame_indices
from .sample_times import check_request, sample_times


@dataclass(frozen=True)
class Clips:
    """Clips of one video.

    Attributes:
        frames: uint8, (V, T, 3, H, W), RGB: V clips of T frames.
        times: float64, (V, T): when each frame is first shown, in seconds after the video's first.
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
    stop: threading.Event | None = None,
) -> Clips:
    """Read clips from a video file, a still image or a folder of frames.

    Frames are chosen by time, so a variable frame rate is honoured: the frame at time t is the
    last one that starts at or before t. At a constant rate this equals choosing by index.

    A still image is a video of one frame. A folder holds one image per frame, in natural order of
    name (`img_2` before `img_10`, `0.10` before `0.5`). One with several series (`flow_x_*` beside
    `img_*`) is refused; `folder/img_*` takes the one that is named. Frames are turned as the file's
    rotation or EXIF orientation says; transparent pixels become white; non-square pixels stay as they
    are stored. A truncated video gives the part that is there; an undecodable frame gives
    the one before it. The rules of the clock are at the top of `inti_models.data.clock`.

    Args:
        path: The file or folder.
        num_frames: Frames in a clip, T.
        sampling: "uniform" cuts the video into T equal segments and takes a frame from each: the
            middle, or for several clips positions spread evenly inside the segment. "dense" takes
            frames `stride` apart: a centred clip, or for several clips starts spread evenly from
            the first possible to the last; past the end the last frame is repeated. Or a rule of
            published video models, which chooses by index, not by time: see `inti_models.data.protocols`.
        stride: Frames from one sampled frame to the next at the video's average rate ("dense").
        num_clips: Clips to take, V.
        generator: If given, positions are random: anywhere in each segment ("uniform"), or
            anywhere the clip fits ("dense"); a rule of published models becomes the one of these that
            its name begins with.
        limits: What the file may ask for.
        stop: Reading in a thread ends, with a VideoError, soon after another thread sets this.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        VideoError: (a ValueError) If the arguments make no sense, or the file is not a video that
            decodes, or is above the limits or `MAX_BYTES`.
    """
    check_request(num_frames, sampling, stride, num_clips)
    path = Path(path)
    source = _open(path, Guard(limits, stop))
    timeline = source.timeline
    _check_duration(path, source, limits)
    if sampling in RULES and generator is None:
        ranks = frame_indices(sampling, num_frames, stride, len(timeline.starts), num_clips)
    else:
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

    return _clips_at(path, source, ranks)


def read_frames(path: str | os.PathLike[str], times: Sequence[float], limits: Limits = DEFAULT_LIMITS) -> Tensor:
    """Read the frames that are shown at some times, uint8 (T, 3, H, W); a time after the end gives the last frame.

    Args:
        path: a video file, a still image or a folder of frames.
        times: seconds after the first frame; at least one.
        limits: what the file may ask for.

    Raises:
        FileNotFoundError, VideoError: see `read_clips`.
    """
    path = Path(path)
    source = _open(path, Guard(limits))
    timeline = source.timeline
    ticks = torch.tensor([times], dtype=torch.float64) / timeline.unit
    ranks = torch.searchsorted(timeline.starts, ticks + 1e-6, right=True) - 1
    return _clips_at(path, source, ranks.clamp_(0, len(timeline.starts) - 1)).frames[0]


def _clips_at(path: Path, source: "VideoFile | Stills", ranks: Tensor) -> Clips:
    """Return the clips of frames with these numbers, (V, T)."""
    timeline = source.timeline
    frames: Tensor | None = None
    starts = timeline.starts[ranks]
    for rank, start, image in source.read(ranks.unique().tolist()):
        if frames is None:
            _check_size(path, ranks.numel(), image.shape)
            frames = torch.empty(*ranks.shape, *image.shape, dtype=torch.uint8)
        elif image.shape != frames.shape[2:]:
            (_, h0, w0), (_, h, w) = frames.shape[2:], image.shape
            raise VideoError(
                f"{path} has frames of {w0}x{h0} and of {w}x{h} pixels; all frames of a clip need "
                "the same size: resize them first."
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
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[tuple[float, Tensor]]:
    """Yield frames of a video as they come, for as long as they come.

    Args:
        source: A video file, a folder of frames or an image; a named pipe or a file object that a video can be read
            from without seeking; or a camera that Linux knows as a device (/dev/video0).
        fps: Frames per second to yield, by time: the first at or after each 1 / fps seconds. None for all.
        every: Yield every n-th of these.
        limits: What the source may ask for.

    Yields:
        Time in seconds after the first frame, and the frame: uint8, (3, H, W), RGB, of the size of the first.

    Raises:
        FileNotFoundError: If there is nothing at `source`.
        VideoError: (a ValueError) If `fps` or `every` makes no sense, or this is not a video that decodes.
    """
    if fps is not None and not 0 < fps <= 1000:
        raise VideoError(f"fps is {fps}; expected frames per second above 0 and up to 1000.")
    if every < 1:
        raise VideoError(f"every is {every}; expected a whole number of at least 1.")
    due, count = 0, 0
    for shown, decode in _played(source, Guard(limits)):
        if fps is not None:
            if shown * fps < due - 1e-6:
                continue
            due = int(shown * fps + 1e-6) + 1
        if count % every == 0:
            yield shown, decode()
        count += 1


def _played(source: str | os.PathLike[str] | BinaryIO, guard: Guard) -> Iterator[tuple[float, Callable[[], Tensor]]]:
    """Yield the time of each frame, and what makes an image of it."""
    if not isinstance(source, str | os.PathLike):
        path = Path(str(getattr(source, "name", "the stream")))
        if not source.seekable():
            yield from play_stream(path, guard, file=source)
            return
        found: VideoFile | Stills = VideoFile(path, guard, source)
    else:
        path = Path(source)
        mode = path.stat().st_mode if path.exists() else 0
        if stat.S_ISFIFO(mode):
            with path.open("rb") as pipe:
                yield from play_stream(path, guard, file=pipe)
            return
        if stat.S_ISCHR(mode):
            yield from play_stream(path, guard, camera=True)
            return
        found = _open(path, guard)
    timeline = found.timeline
    _check_duration(path, found, guard.limits)
    for rank, image in found.play():
        yield float(timeline.starts[rank]) * timeline.unit, image


def read_duration(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> float:
    """Return the seconds from the first frame of a file or folder to the end of its last one.

    Raises:
        FileNotFoundError, VideoError: see `read_clips`.
    """
    timeline = _open(Path(path), Guard(limits)).timeline
    return float(timeline.end * timeline.unit)


def _check_duration(path: Path, source: "VideoFile | Stills", limits: Limits) -> None:
    duration = source.timeline.end * source.timeline.unit
    if limits.max_duration is not None and duration > limits.max_duration:
        raise VideoError(
            f"{path} lasts {duration:.1f} s, more than the limit of {limits.max_duration:g} s: cut it first."
        )


def _check_size(path: Path, num_images: int, shape: Sequence[int]) -> None:
    _, height, width = shape
    num_bytes = num_images * 3 * height * width
    if num_bytes > MAX_BYTES:
        raise VideoError(
            f"{num_images} frames of {width}x{height} pixels from {path} take {num_bytes} bytes, "
            f"more than the limit of {MAX_BYTES}: ask for fewer frames or clips, or resize the "
            "video first."
        )


def check_video(path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise the error of `read_clips` for a file that is missing or has no video header; frames are not read.

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        VideoError: if it is not a video, an image or a folder of images, or is above the limits.
    """
    guard = Guard(limits)
    stills = find_stills(Path(path), guard)
    if stills is None:
        with open_stream(Path(path), guard):
            pass
    else:
        read_image(stills.paths[0], guard)


def _open(path: Path, guard: Guard) -> "VideoFile | Stills":
    return find_stills(path, guard) or VideoFile(path, guard)
