"""Still images and folders of frames: files in, uint8 RGB frames (3, H, W) out."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..files import check_input
from .clock import Timeline
from .limits import Guard, VideoError, reason

# A folder of frames does not say its rate. This one only scales `Clips.times`.
FOLDER_FPS = 25

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Named, so that Pillow never hands a file to a format that starts other programs (EPS).
_IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def find_stills(path: Path, guard: Guard) -> "Stills | None":
    """Return the images of a folder, or the file as an image; None for a file that should be a video."""
    if path.is_dir():
        return Stills(_list_frames(path), guard)
    if "*" in path.name and path.parent.is_dir() and not path.exists():
        return Stills(_list_frames(path.parent, path.name), guard)
    check_input(path)
    if not path.is_file():
        raise VideoError(f"{path} is not a regular file; expected a video, an image or a folder.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes): copy or download it again.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Stills([path], guard)
    return None


def _list_frames(folder: Path, pattern: str | None = None) -> list[Path]:
    """Return the images of a folder in natural order of name, if they are one series.

    Args:
        folder: Where they are.
        pattern: Name of a series, such as img_* (numbers are *), or of the files to take, such as *.png; None for all.

    Raises:
        VideoError: There are none, or those of several series, or one is a pipe, a device or the like.
    """
    with os.scandir(folder) as entries:
        files = {
            entry.name: entry.is_file()
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
        }
    names = list(files)
    if pattern is not None and pattern.lower() in map(_series, names):
        names = [name for name in names if _series(name) == pattern.lower()]
    elif pattern is not None:
        names = [name for name in names if fnmatchcase(name, pattern)]
    if not names:
        raise VideoError(f"folder {folder} holds no images; expected one per frame, named like img_00001.jpg.")
    for name in names:
        if not files[name]:
            raise VideoError(f"{folder / name} is not a regular file; expected an image.")
    series = Counter(map(_series, names)).most_common()
    if len(series) > 1:
        found = ", ".join(f"{key or 'names without numbers'} ({count})" for key, count in series[:5])
        raise VideoError(
            f"folder {folder} holds images of several series, {found}{', ...' * (len(series) > 5)}; move away all but "
            f"one, or name one, as {folder / (series[-1][0] or series[0][0])}."
        )
    places: dict[str, str] = {}
    for name in names:
        other = places.setdefault(repr(_natural_key(name)[0]), name)
        if other != name:
            raise VideoError(
                f"folder {folder} holds {other} and {name}, two images with one number; move one away, or if they are "
                f"of two kinds, name one kind, as {folder / '*'}{os.path.splitext(name)[1]}."
            )
    return [folder / name for name in sorted(names, key=_natural_key)]


def _series(name: str) -> str:
    """Return what the names of a series have in common: img_* for img_00001.jpg; "" for names without numbers."""
    key, numbers = _NUMBER.subn("*", os.path.splitext(name.lower())[0])
    return key if numbers else ""


# A number with one point is a decimal fraction; with several it is parts.
_NUMBER = re.compile(r"\d+(?:\.\d+)*")


def _natural_key(name: str) -> tuple[list[tuple], str]:
    """Order img_2 before img_10, 0.10 before 0.5; the first part is equal for img_02 and img_2."""
    parts: list[tuple] = []
    stem, last = os.path.splitext(name)[0], 0
    for match in _NUMBER.finditer(stem):
        numbers = match[0].split(".")
        value = [Fraction(match[0])] if len(numbers) < 3 else [Fraction(number) for number in numbers]
        parts += [(1, stem[last : match.start()].lower()), (0, value)]
        last = match.end()
    return [*parts, (1, stem[last:].lower())], name


class Stills:
    """Image files, one per frame."""

    def __init__(self, paths: list[Path], guard: Guard) -> None:
        guard.check_frames(paths[0].parent, len(paths))
        self.paths, self.guard = paths, guard
        self.timeline = Timeline.even(len(paths), 1 / FOLDER_FPS)

    def read(self, wanted: list[int]) -> Iterator[tuple[int, float, Tensor]]:
        """Yield the wanted frames, each with its rank in display order and its start."""
        for rank in wanted:
            self.guard.check_time(self.paths[rank])
            yield rank, rank, read_image(self.paths[rank], self.guard)

    def play(self) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Yield all frames: their rank, and what makes an image of them."""
        for rank, path in enumerate(self.paths):
            self.guard.check_time(path)
            yield rank, partial(read_image, path, self.guard)


def read_image(path: Path, guard: Guard) -> Tensor:
    if path.exists() and not path.is_file():
        raise VideoError(f"{path} is not a regular file; expected an image.")
    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as image:
            guard.check_pixels(path, *image.size)
            count = getattr(image, "n_frames", 1)
            # An MPO is a JPEG photograph with previews after it.
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
                    "with 8 bits per channel."
                )
            mode = "RGBA" if image.has_transparency_data else "RGB"
            pixels = np.array(ImageOps.exif_transpose(image).convert(mode))
            return over_white(pixels) if mode == "RGBA" else channels_first(pixels)
    except VideoError:
        raise
    except Exception as error:
        # Pillow's parsers raise nearly anything on damaged files (OSError, SyntaxError, ...).
        raise VideoError(
            f"{path} cannot be read as an image ({reason(error)}); expected a complete BMP, JPEG, "
            "PNG, PPM, TIFF or WebP file."
        ) from error


def over_white(rgba: np.ndarray) -> Tensor:
    """Put RGBA pixels on a white background, (H, W, 4) -> (3, H, W)."""
    color, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() < 255:
        a = alpha.astype(np.uint16)
        color = ((color * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)
    return channels_first(color)


def channels_first(image: np.ndarray) -> Tensor:
    """Move channels first, (H, W, C) -> (C, H, W)."""
    return torch.from_numpy(image).permute(2, 0, 1)
