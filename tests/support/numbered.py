"""Videos whose frames carry their own number, as bars of black and white."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from inti_models.data.video import iterate_frames
from inti_models.data.write import write_video

Encode = Callable[..., Path]


B_FRAMES = {"x264-params": "bframes=2:b-adapt=0:keyint=8:scenecut=0:open-gop=0"}


OPEN_GOP = {"x264-params": "bframes=2:b-adapt=0:keyint=6:scenecut=0:open-gop=1"}


# name, codec, pixel format, encoder options
FORMATS = [
    ("h264_b_frames.mp4", "libx264", "yuv420p", B_FRAMES),
    ("h264_open_gop.mkv", "libx264", "yuv420p", OPEN_GOP),
    ("h264.ts", "libx264", "yuv420p", B_FRAMES),
    ("h264_without_times.h264", "libx264", "yuv420p", B_FRAMES),
    ("h264_b_frames.avi", "libx264", "yuv420p", B_FRAMES),
    ("mpeg4.avi", "mpeg4", "yuv420p", {"g": "5", "qscale": "2"}),
    ("mpeg4_b_frames.avi", "mpeg4", "yuv420p", {"g": "6", "bf": "2", "qscale": "2"}),
    ("vp9.webm", "libvpx-vp9", "yuv420p", {"g": "7", "deadline": "realtime", "cpu-used": "8"}),
    ("mjpeg.mov", "mjpeg", "yuvj420p", {}),
    ("gray.mkv", "ffv1", "gray", {}),
    ("gif.gif", "gif", "rgb8", {}),
]


NUM_BITS = 8


def numbered_frame(number: int, height: int = 16, width: int = 64) -> np.ndarray:
    """H,W,3: the number in binary, as eight black or white bars of eight pixels."""
    image = np.zeros((height, width, 3), np.uint8)
    for bit in range(NUM_BITS):
        image[:, 8 * bit : 8 * bit + 8] = 255 * (number >> bit & 1)
    return image


def read_numbers(frames: torch.Tensor) -> list:
    """...,3,H,W -> the number in each frame, as nested lists; fails if a bar is grey."""
    bars = frames[..., frames.shape[-2] // 2, 4 : 8 * NUM_BITS : 8].float().mean(-2)
    assert ((bars < 64) | (bars > 192)).all(), f"not a numbered frame: {bars}"
    return ((bars > 128).long() << torch.arange(NUM_BITS)).sum(-1).tolist()


def middles(num_frames: int, length: int) -> list[int]:
    """The frame in the middle of each of `num_frames` segments, by index."""
    return [(2 * i + 1) * length // (2 * num_frames) for i in range(num_frames)]


def quadrants(height: int = 32, width: int = 64) -> np.ndarray:
    """H,W,3: four grey levels, so that every turn and flip looks different."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = 40
    image[: height // 2, width // 2 :] = 100
    image[height // 2 :, : width // 2] = 160
    image[height // 2 :, width // 2 :] = 220
    return image


def all_frames(frames: Iterable[tuple[float, torch.Tensor]]) -> tuple[list[float], list[int]]:
    """Times and numbers of the frames of `iterate_frames`."""
    times, images = zip(*frames, strict=True)
    return list(times), read_numbers(torch.stack(images))


def through_a_pipe(path: Path) -> Iterator[tuple[float, torch.Tensor]]:
    """`iterate_frames` of something that cannot be read twice."""
    read, write = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), open(write, "wb") as pipe:
            pipe.write(path.read_bytes())

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        with open(read, "rb") as pipe:
            yield from iterate_frames(pipe)
    finally:
        feeder.join()


def ramp(path, num_frames=30, fps=10):
    """A video whose gray level tells the frame."""
    levels = torch.arange(num_frames, dtype=torch.uint8).mul(8).view(-1, 1, 1, 1)
    write_video(path, levels.expand(-1, 3, 32, 48).contiguous(), fps=fps)
    return path
