"""Video files at the level of containers and codecs: the index of a file's packets, and frames decoded by their rank.

A video is read in two passes. The first demuxes, and decodes only up to the second frame, which yields the exact
presentation time and the keyframe flag of every frame. Frames are then chosen by time, and the second pass decodes
from the keyframe before each chosen frame up to it, and nothing else.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import av
import numpy as np
import torch
from torch import Tensor

from .clock import Clock, Timeline
from .images import FOLDER_FPS, channels_first, over_white
from .limits import Guard, VideoError, reason
from .mp4 import count_frames

MAX_REORDERING = 32  # No codec shows a frame so many places away from its place in the file.
KEPT_BYTES = 2**26  # of frames that had to be decoded to number them
SHORT_FRAMES, SHORT_BYTES = 32, 2**22  # of a video that is decoded while it is indexed, instead of being opened again
MAX_PROBE = 512  # packets that may be decoded before the second frame comes out

# Containers that FFmpeg may try. Playlists (HLS, DASH, concat) are left out because they open
# other files and addresses; text art (tty) because it makes a video of any .txt file. The audio
# ones are there to say that a file has no pictures.
_CONTAINERS = (
    "3gp,aac,apng,asf,av1,avi,dv,f4v,flac,flv,gif,h261,h263,h264,hevc,ivf,m4v,matroska,mjpeg,mov,"
    "mp3,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,vc1,vvc,wav,webm,wtv,yuv4mpegpipe"
)

# Before version 19, PyAV has to be told to take metadata that is not UTF-8.
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}

_TRY_ANOTHER = "the file is damaged or cut off; copy or download it again."
_PIPED_MP4 = (
    "an MP4 whose index is at its end cannot be read from a pipe; move the index to the start with "
    "ffmpeg -i IN.mp4 -c copy -movflags +faststart OUT.mp4, or name the file."
)

Run = tuple[int, int]  # numbers of the first and the last packet


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int
    is_keyframe: bool
    is_shown: bool


class VideoFile:
    """A video stream: the index of its packets, and frames decoded by their display rank.

    A decoder passes the time of a packet on to the frame made from it. We put the number of the packet there
    instead, which identifies frames even if times are missing, repeated or wrong.

    Attributes:
        shown: The packet of each frame in display order; None for one that the decoder does not name.
        is_sorted: Whether the packets' times gave that order; if not, frames are counted as they come out.
    """

    def __init__(self, path: Path, guard: Guard, file: BinaryIO | None = None) -> None:
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
            is_short = 0 < stream.frames <= SHORT_FRAMES  # as the container states
            for k, packet in enumerate(_demux(path, container, stream, guard)):
                if k == guard.limits.max_frames:
                    guard.check_frames(path, k + 1)
                pts, dts, duration = packet.pts, packet.dts, packet.duration or 0
                if dts is not None and packet.pos in places:
                    hidden = places[packet.pos] - dts
                pts, dts = (None if ticks is None else ticks + hidden for ticks in (pts, dts))
                self.packets.append(_Packet(pts, dts, duration, packet.is_keyframe, not packet.is_discard))
                is_whole = not packet.is_corrupt
                if (len(first) < 2 or is_short) and k < MAX_PROBE:
                    packet.pts = k
                    first += _decode(context, packet)
                    is_short = is_short and len(first) <= SHORT_FRAMES and _bytes_of(first) <= SHORT_BYTES
            if len(first) < 2 or is_short:
                first += _decode(context, None)
        if not is_whole:
            # The end of a file that is cut off. Damage before it is left to the decoder.
            self.packets[-1] = self.packets[-1]._replace(is_shown=False)
        if not any(packet.is_shown for packet in self.packets):
            raise VideoError(f"{path} has a video stream but no frames in it: {_TRY_ANOTHER}")
        size = (first[0].width, first[0].height) if first else None
        self.convert = Converter(path, guard, size)
        self.num_bytes = path.stat().st_size if file is None else file.seek(0, os.SEEK_END) - self.start
        self.kept: list[av.VideoFrame] | None = first if is_short and first else None
        self.shown: Sequence[int | None] = self._sort([frame.pts for frame in first[:2]]) if first else []
        self.is_sorted = bool(self.shown)
        if not self.is_sorted:
            self.shown = self._count()
        self.rank_of = {k: rank for rank, k in enumerate(self.shown)}
        self.timeline = self._time(float(1 / rate))

    def _sort(self, first: list[int | None]) -> list[int]:
        """Return the packets in display order, or nothing where their times do not say it.

        Args:
            first: Packets of the first two frames that the decoder outputs.
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
        for frame in self._decode_bounded([(0, len(self.packets) - 1)]):
            if frame.pts is not None and not self.packets[frame.pts].is_shown:
                continue
            shown.append(frame.pts)
            size += _bytes_of([frame])
            if kept is not None:
                kept.append(frame)
            if size > KEPT_BYTES:
                kept = None
        if not shown:
            raise VideoError(f"no frame of {self.path} can be decoded: {_TRY_ANOTHER}")
        self.kept = kept
        return shown

    def _time(self, period: float) -> Timeline:
        """Return when the frames are shown.

        Args:
            period: Seconds a frame is shown, if the times do not say.
        """
        packets = [None if k is None else self.packets[k] for k in self.shown]
        stated = [None if packet is None else packet.pts for packet in packets]
        has_pts = any(pts is not None for pts in stated)
        if not has_pts:
            stated = [packet.dts for packet in self.packets]
        if self.tick <= 0 or None in packets or all(ticks is None for ticks in stated):
            return Timeline.even(len(packets), period)
        steps = [b - a for a, b in pairwise(stated) if a is not None and b is not None and b > a]
        durations = sorted(packet.duration for packet in self.packets if packet.duration > 0)
        steps = sorted(steps + durations[len(durations) // 2 :][:1])
        clock = Clock(self.path, steps[(len(steps) - 1) // 2] if steps else period / self.tick, self.tick)
        ticks = [clock(value) for value in stated]
        if not has_pts:
            given = sorted(k for k in self.shown if k is not None)
            ticks = [ticks[k] for k in given]
            if len(given) > 1:
                # Packets after the first that give no frame are the delay of an encoder (Xvid), not time.
                ticks[0] = min(ticks[0] + (given[1] - given[0] - 1) * clock.period, ticks[1])
        last = packets[-1].duration if packets[-1] is not None else 0
        return Timeline.from_ticks(ticks, last if last <= clock.longest else clock.period, self.tick)

    def _pts(self, k: int) -> int:
        pts = self.packets[k].pts
        assert pts is not None
        return pts

    def read(self, wanted: list[int]) -> Iterator[tuple[int, float, Tensor]]:
        """Yield the wanted frames, each with its rank in display order and its start.

        Args:
            wanted: Ranks, increasing.
        """
        starts = self.timeline.starts
        missing = set(wanted)
        if self.is_sorted:
            frames = self._decode_bounded(self._plan(wanted)) if self.kept is None else iter(self.kept)
            for rank, frame in self._rank(frames):
                if rank in missing:
                    missing.remove(rank)
                    yield rank, float(starts[rank]), self.convert(frame)
                if not missing:
                    return

        # Either frames have to be counted, or some did not come out of the shortest way (damage,
        # false keyframes): play from the start, and fill holes with the frame before.
        left = sorted(missing)
        previous: tuple[int, av.VideoFrame] | None = None
        for rank, frame in self._all(self._decode_bounded):
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
        """Yield all frames that decode: their rank, and what makes an image of them."""
        for rank, frame in self._all(self._play):
            yield rank, partial(self.convert, frame)

    def _all(self, play: Callable[[list[Run]], Iterator[av.VideoFrame]]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield all frames that decode, each with its rank, which increases."""
        frames = play([(0, len(self.packets) - 1)]) if self.kept is None else iter(self.kept)
        last = -1
        for rank, frame in self._rank(frames):
            if rank > last:
                yield rank, frame
                last = rank

    def _rank(self, frames: Iterator[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield frames with their ranks, without those that are not shown."""
        if self.is_sorted:
            for frame in frames:
                if frame.pts in self.rank_of:
                    yield self.rank_of[frame.pts], frame
        else:
            shown = (f for f in frames if f.pts is None or self.packets[f.pts].is_shown)
            yield from enumerate(shown)

    def _plan(self, wanted: list[int]) -> list[Run]:
        """Return the packets to decode for the wanted frames: first and last of each run, in file order.

        Packets come in decoding order, so everything a frame refers to lies between its keyframe
        and itself. A frame shown *before* the keyframe it follows in the file (open GOP) also
        refers to the group before, and so starts at an earlier keyframe.
        """
        keyframes = [k for k, packet in enumerate(self.packets) if packet.is_keyframe and packet.pts is not None]
        runs: list[Run] = []
        for first, last in sorted(
            (self._entry(k, keyframes), k) for k in (self.shown[r] for r in wanted) if k is not None
        ):
            if runs and first <= runs[-1][1] + 1:
                runs[-1] = (runs[-1][0], max(last, runs[-1][1]))
            else:
                runs.append((first, last))
        return runs

    def _entry(self, k: int, keyframes: list[int]) -> int:
        """Return the packet at which decoding has to start for the frame of packet k to come out."""
        pts = self._pts(k)
        for entry in reversed(keyframes[: bisect_right(keyframes, k)]):
            if self._pts(entry) <= pts:
                return entry
        return 0

    def _decode_bounded(self, runs: list[Run]) -> Iterator[av.VideoFrame]:
        """Decode runs of packets as `_play` does, if that is no more work than the file may ask for."""
        width, height = self.convert.size or (0, 0)
        self.guard.check_work(self.path, width * height * sum(last - first + 1 for first, last in runs), self.num_bytes)
        decoded = 0
        for frame in self._play(runs):
            decoded += frame.width * frame.height
            self.guard.check_work(self.path, decoded, self.num_bytes)
            yield frame

    def _play(self, runs: list[Run]) -> Iterator[av.VideoFrame]:
        """Decode runs of packets; the `pts` of a frame is the number of its packet.

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
        return open_stream(self.path, self.guard, file=self.file)


def play_stream(
    path: Path, guard: "Guard", camera: bool = False, file: BinaryIO | None = None
) -> Iterator[tuple[float, Callable[[], Tensor]]]:
    """Yield the time of each frame of a source that cannot be read twice, and what makes an image of it."""
    convert = Converter(path, guard)
    is_mp4 = file is not None and hasattr(file, "peek") and file.peek(8)[4:8] == b"ftyp"
    with open_stream(path, guard, camera, file, _PIPED_MP4 if is_mp4 else None) as (container, stream):
        _set_up(stream.codec_context, guard)
        tick = float(stream.time_base or 0)
        clock = Clock(path, float(1 / (stream.average_rate or stream.guessed_rate or FOLDER_FPS)), 1)
        for packet in chain(_demux(path, container, stream, guard), [None]):
            for frame in _decode(stream.codec_context, packet):
                # A frame that comes out at the end has no time base of its own.
                yield clock(None if frame.pts is None or not tick else frame.pts * tick), partial(convert, frame)
    if clock.last is None:
        raise VideoError(f"no frame of {path} can be decoded: {_PIPED_MP4 if is_mp4 else _TRY_ANOTHER}")


@contextmanager
def open_stream(
    path: Path, guard: Guard, camera: bool = False, file: BinaryIO | None = None, advice: str | None = None
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file, camera or file object and its main video stream; PyAV's exceptions become `VideoError`s."""
    try:
        stated = count_frames(path) if file is None and not camera else 0
    except OSError as error:
        raise VideoError(f"{path} cannot be read ({reason(error)}).") from error
    guard.check_frames(path, stated)
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
        raise VideoError(f"{path} cannot be opened as a video ({reason(error)}); {expected}") from error
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
        if container.format.name == "gif":  # whose frames FFmpeg has counted
            guard.check_frames(path, stream.frames)
        for other in container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        yield container, stream


def _set_up(context: av.VideoCodecContext, guard: Guard, is_probe: bool = False) -> None:
    """Bound frames that are larger than the container says, and choose the number of threads.

    FFmpeg pads rows before it counts pixels, which at most doubles them. As many threads decode as PyTorch computes
    with, which is one in the workers of a data loader; but not with PyAV's logging on: its callback waits for a lock
    that may be held by whoever waits for the threads. A probe of two frames is faster without.
    """
    is_alone = is_probe or av.logging.get_level() is not None
    context.thread_type = "AUTO"
    context.thread_count = 1 if is_alone else min(torch.get_num_threads(), 8)
    context.options = {"max_pixels": str(2 * guard.limits.max_pixels)}


def _demux(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, guard: Guard
) -> "Iterator[av.Packet[av.VideoStream]]":
    """Yield the stream's packets in file order, up to the end or to where damage stops the reading."""
    try:
        for packet in container.demux(stream):
            guard.check_time(path)
            # Empty packets carry no frame (FFmpeg takes one for the end of the stream).
            if packet.size:
                yield packet
    except av.FFmpegError:
        return


def _bytes_of(frames: list[av.VideoFrame]) -> int:
    return sum(plane.buffer_size for frame in frames for plane in frame.planes)


def _decode(context: av.VideoCodecContext, packet: "av.Packet[av.VideoStream] | None") -> list[av.VideoFrame]:
    """Feed one packet (None: the end) and return the frames that come out: none if damaged."""
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return []


class Converter:
    """A converter of decoded frames to RGB, uint8 (3, H, W), upright, all of the size of the first."""

    def __init__(self, path: Path, guard: Guard, size: tuple[int, int] | None = None) -> None:
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
                f"({frame.format.name}: {reason(error)}): convert it to H.264 in MP4."
            ) from error
        rgb = over_white(image) if has_alpha else channels_first(image)
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return rgb if matrix is None else _turn(rgb, np.frombuffer(cast(Any, matrix), np.int32))


def _turn(image: Tensor, matrix: np.ndarray) -> Tensor:
    """Apply a display matrix (9 fixed-point numbers) to (C, H, W), to the nearest right angle."""
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = (int(value) for value in matrix[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, flip_x, flip_y = image.transpose(1, 2), c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    dims = [dim for dim, flip in ((1, flip_y), (2, flip_x)) if flip]
    return image.flip(dims) if dims else image
