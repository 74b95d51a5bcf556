"""Frames in, a video file out."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import torch
from torch import Tensor

from ..files import replacing


def write_video(path: str | os.PathLike[str], frames: Tensor, fps: float | Fraction) -> None:
    """Write frames as H.264 (as MPEG-4 part 2 if the encoder is missing) in 4:2:0 colour.

    The file appears under its name only when it is complete. H.264 in 4:2:0 needs even sides;
    odd ones are written in 4:4:4, which keeps the size but which some players do not show.

    Args:
        path: Ends in .mp4, .mov or .mkv; an existing file is replaced.
        frames: uint8, (T, 3, H, W), RGB.
        fps: Frames per second.

    Raises:
        ValueError: For wrong frames, rate or suffix.
        OSError: If the file cannot be written.
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
        raise ValueError(f"fps is {fps}; expected frames per second above 0 and up to 1000.")
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
