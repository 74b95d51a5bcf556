"""MotionDigits: a small video benchmark that needs no download.

Real handwritten digits (scikit-learn's bundled 8x8 scans) move over textured backgrounds. A clip has
two labels, what the digit does (`MOTIONS`) and which digit it is; a model predicts their 120
combinations (`CLASS_NAMES`).

* **Order matters.** Ten of the twelve motions are another one played backwards. The second of such
  a pair is drawn as the first with time reversed (pose, occlusion and all), so both have the same
  distribution over *sets* of frames, and a network blind to order cannot exceed 7/12 = 58.3% motion
  accuracy.
* **Single frames matter.** In a fraction of the clips (`occlusion`) the digit is hidden by a card or
  blurred in all but a quarter of the frames. The card and the blob move as the digit does, so the
  motion stays legible, but the digit can only be read from the frames marked in
  `MotionDigitsBatch.clear`.
* **A clip is a continuous motion.** `size`, `num_frames`, `motions` and `occlusion` only change how
  it is viewed: all random numbers come from a hash of (seed, split, index), never from a
  stateful generator, so that clip i is the same in any batch and on any device.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..extras import missing
from ..files import write_text

MOTIONS = (
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "anticlockwise",
    "grow",
    "shrink",
    "fade in",
    "fade out",
    "swing",
    "still",
)
ORDER_FREE_MOTIONS = ("swing", "still")
# Index of each motion -> index of the same motion played backwards.
REVERSED_MOTION = (1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 10, 11)
CLASS_NAMES = tuple(f"{digit}, {motion}" for digit in range(10) for motion in MOTIONS)

SPLITS = ("train", "validation")
DEFAULT_LENGTH = {"train": 60_000, "validation": 6_000}
MIN_SIZE = 16
# Fraction of an occluded clip's frames that stay clear (at least one frame does).
CLEAR_FRACTION = 0.25
# Pixels drawn at once on a CPU.
_PIECE = 2**18


@dataclass(frozen=True)
class MotionDigitsBatch:
    """Rendered clips and everything known about them.

    Attributes:
        clips: uint8, (B, T, 3, H, W).
        labels: int64, B: class index, `digit * 12 + motion`.
        motions: int64, B: index into `MOTIONS`.
        digits: int64, B: 0 to 9.
        clear: bool, (B, T): frames in which the digit itself is drawn, neither hidden nor blurred.
    """

    clips: Tensor
    labels: Tensor
    motions: Tensor
    digits: Tensor
    clear: Tensor


def class_index(digit: int, motion: str) -> int:
    """Return the class of a digit (0 to 9) doing a motion (a name in `MOTIONS`)."""
    if digit not in range(10):
        raise ValueError(f"digit is {digit!r}, but MotionDigits has 0 to 9: pass one of these.")
    return int(digit) * len(MOTIONS) + _motion_index(motion)


def split_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return motion and digit of class indices: integers of any shape -> two of the same shape."""
    return labels % len(MOTIONS), labels // len(MOTIONS)


# How far things move. Lengths are fractions of the frame's side, angles are degrees, times are fractions
# of the clip's duration; each row is (lowest, highest) of a uniform draw. A clip shows the middle
# (T-1)/T of the motion, because frames are taken at the middles of T equal spans of time.
_RANGES = {
    "side": (0.42, 0.54),  # of the square that the scan fills
    "shift_x": (-0.10, 0.10),  # of the digit's centre from the frame's
    "shift_y": (-0.10, 0.10),
    "tilt": (-15.0, 15.0),  # of digits that do not turn
    "aspect": (0.88, 1.12),
    "slant": (-0.15, 0.15),
    "travel": (0.40, 0.52),  # left, right, up, down
    "sweep": (55.0, 68.0),  # clockwise: from -sweep to +sweep about upright, so that 6 is never 9
    "turn_offset": (-5.0, 5.0),
    "swing_sweep": (42.0, 62.0),
    "swing_periods": (1.0, 1.4),
    "swing_phase": (0.0, 1.0),
    "large_side": (0.58, 0.72),  # grow ends here
    "ratio": (1.8, 2.4),  # of the largest to the smallest side
    "dim": (0.12, 0.22),  # opacity from which "fade in" starts
    "bright": (0.9, 1.0),
    "occluded": (0.0, 1.0),  # below `occlusion`: hidden or blurred
    "hidden_or_blurred": (0.0, 1.0),
    "clear_at": (0.0, 1.0),  # where the clear frames lie
    "moment": (0.0, 1.0),  # the time at which a one-frame clip is taken
    "scan": (0.0, 1.0),
    "red": (0.68, 0.95),
    "green": (0.68, 0.95),
    "blue": (0.68, 0.95),
}
# Side of the random grids that are smoothly enlarged to the background -> their contrast.
_TEXTURE_GRIDS = {3: 1.0, 9: 0.3}
_TEXTURE_RANGE = (0.05, 0.5)  # always darker than a digit
_PIXEL_NOISE = 0.04  # uniform, +-; never leaves 0..1, whatever it is added to
_NOISE_SHIFTS = 32

_SCAN_PIXELS = 20  # an 8x8 scan is enlarged to this ...
_SPRITE_MARGIN = 3  # ... and given an empty border
_SPRITE_PIXELS = _SCAN_PIXELS + 2 * _SPRITE_MARGIN


class MotionDigits(Dataset[tuple[Tensor, int]]):
    """Clips of moving handwritten digits; item i is (uint8 (T, 3, H, W), class index).

    Every block of `10 * len(motions)` neighbouring indices holds each class exactly once, in a
    random order. With `num_frames=1` the clip is a still picture at a random moment of the motion,
    never occluded and never fainter than half: made for image pre-training on the digit (its motion
    label is kept but cannot be seen).

    Args:
        split: "train" or "validation"; no scan is in both.
        size: height and width of the frames in pixels.
        num_frames: T. Clip i shows the same motion at any T, sampled at different times.
        length: number of clips; 60,000 for train and 6,000 for validation if not given.
        seed: another seed gives other clips (the split of the scans is fixed).
        motions: the motions that occur; class indices keep their meaning of 120 classes.
        occlusion: fraction of clips whose digit is hidden or blurred in all but a quarter of the
            frames. The clear frames are neighbours, at a random time, in the brighter and larger
            part of fading and growing clips.
    """

    def __init__(
        self,
        split: str,
        size: int = 64,
        num_frames: int = 8,
        length: int | None = None,
        seed: int = 0,
        motions: Sequence[str] = MOTIONS,
        occlusion: float = 0.3,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}: pass 'train' or 'validation'.")
        if size < MIN_SIZE:
            raise ValueError(f"size is {size}, too small to read a digit: pass at least {MIN_SIZE} pixels.")
        if num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}: pass 1 (a still picture) or more.")
        if length is None:
            length = DEFAULT_LENGTH[split]
        if length < 1:
            raise ValueError(f"length is {length}: pass the number of clips, 1 or more.")
        if isinstance(motions, str) or not motions or len(set(motions)) < len(motions):
            raise ValueError(f"motions is {motions!r}: pass a sequence of different names, such as ('left', 'right').")
        if not 0 <= occlusion <= 1:
            raise ValueError(f"occlusion is {occlusion}, but it is a fraction of clips: pass a number from 0 to 1.")
        self.split = split
        self.size = int(size)
        self.num_frames = int(num_frames)
        self.length = int(length)
        self.seed = int(seed)
        self.motions = tuple(motions)
        self.occlusion = float(occlusion)
        self._motion_indices = np.array([_motion_index(name) for name in motions])
        _scans()  # says at once if scikit-learn is absent

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return several items, rendered together; PyTorch's DataLoader calls this for a batch."""
        batch = self.render(indices)
        return list(zip(batch.clips, batch.labels.tolist(), strict=True))

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"{type(self).__name__}({settings})"

    def settings(self) -> dict[str, Any]:
        """Return the arguments that make this data set again."""
        return {
            "split": self.split,
            "size": self.size,
            "num_frames": self.num_frames,
            "length": self.length,
            "seed": self.seed,
            "motions": self.motions,
            "occlusion": self.occlusion,
        }

    def render(self, indices: Iterable[int] | Tensor, device: str | torch.device = "cpu") -> MotionDigitsBatch:
        """Render the clips of B indices together, on a device; everything returned is there."""
        index = np.asarray(indices.tolist() if isinstance(indices, Tensor) else list(indices), dtype=np.int64).reshape(
            -1
        )
        outside = index[(index < 0) | (index >= self.length)]
        if outside.size:
            raise IndexError(
                f"index {outside[0]} is out of range: this MotionDigits has {self.length} clips, "
                f"pass 0 to {self.length - 1}."
            )
        device = torch.device(device)
        motions, digits = self._classes(index)
        scene = self._scene(index, motions, digits)
        shape = (len(index), self.num_frames, 3, self.size, self.size)
        clips = torch.empty(shape, dtype=torch.uint8, device=device)
        # Small pieces stay in a CPU's cache; an accelerator is better off with the whole batch.
        pixels = self.num_frames * self.size**2
        step = max(1, len(index) if device.type != "cpu" else _PIECE // pixels)
        for i in range(0, len(index), step):
            piece = {name: value[i : i + step].to(device) for name, value in scene.items()}
            clips[i : i + step] = _draw(piece, self.size)
        return MotionDigitsBatch(
            clips=clips,
            labels=torch.from_numpy(digits * len(MOTIONS) + motions).to(device),
            motions=torch.from_numpy(motions).to(device),
            digits=torch.from_numpy(digits).to(device),
            clear=scene["clear"].to(device),
        )

    def export(self, directory: str | os.PathLike[str], fps: float = 8.0) -> Path:
        """Write every clip as an MP4 file, and the list of them; return the list file's path.

        Makes, under `directory`, `<split>/000000.mp4` and so on, `<split>.txt` ("path label" lines,
        paths relative to `directory`), `class_names.txt` (line k names class k) and `<split>.json`
        (the arguments of this data set). Finished files are kept when a run is repeated.
        """
        if not fps > 0:
            raise ValueError(f"fps is {fps}: pass a positive number of frames per second.")
        from tqdm import tqdm

        from .write import write_video

        root = Path(directory)
        try:
            (root / self.split).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot make the folder {root / self.split} ({error.strerror}): pass a directory "
                "that can be written to."
            ) from error
        settings = json.dumps(self.settings() | {"fps": float(fps)}, indent=2) + "\n"
        settings_file = root / f"{self.split}.json"
        if settings_file.exists() and settings_file.read_text() != settings:
            raise ValueError(
                f"{settings_file} says that the clips in this directory were exported with other "
                "settings: pass another directory, or delete this one first."
            )
        write_text(settings_file, settings)
        write_text(root / "class_names.txt", "\n".join(CLASS_NAMES) + "\n")

        names = [f"{self.split}/{index:06d}.mp4" for index in range(self.length)]
        missing = [index for index, name in enumerate(names) if not (root / name).exists()]
        with tqdm(
            total=self.length,
            initial=self.length - len(missing),
            desc=f"MotionDigits {self.split}",
            unit="clip",
        ) as progress:
            for i in range(0, len(missing), 64):
                some = missing[i : i + 64]
                for index, clip in zip(some, self.render(some).clips, strict=True):
                    write_video(root / names[index], clip, fps)
                    progress.update()
        motions, digits = self._classes(np.arange(self.length))
        labels = digits * len(MOTIONS) + motions
        lines = [f"{name} {label}\n" for name, label in zip(names, labels, strict=True)]
        list_file = root / f"{self.split}.txt"
        write_text(list_file, "".join(lines))
        return list_file

    def _classes(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return motion and digit of each index: a random order of all classes in each block of indices."""
        num_classes = 10 * len(self.motions)
        block, place = np.divmod(index, num_classes)
        blocks, which = np.unique(block, return_inverse=True)
        order = _uniforms(self._key("classes"), blocks, num_classes).argsort(axis=1)
        digits, motions = np.divmod(order[which, place], len(self.motions))
        return self._motion_indices[motions], digits

    def _key(self, purpose: str) -> tuple[int, ...]:
        return (self.seed, SPLITS.index(self.split), ("classes", "clip").index(purpose))

    def _scene(self, index: np.ndarray, motions: np.ndarray, digits: np.ndarray) -> dict[str, Tensor]:
        """Return everything to be drawn, on the CPU: poses, opacities, sprites, colours, noise."""
        num_clips, num_frames = len(index), self.num_frames
        cells = [3 * side**2 for side in _TEXTURE_GRIDS]
        draws = _uniforms(self._key("clip"), index, len(_RANGES) + sum(cells) + 2 * num_frames)
        named, *grids, shifts = np.split(draws, np.cumsum([len(_RANGES), *cells]), axis=1)
        p = {name: (low + (high - low) * named[:, i])[:, None] for i, (name, (low, high)) in enumerate(_RANGES.items())}

        # Time runs forwards in the first motion of a pair and backwards in the second; from here
        # on there are only the first ones.
        backwards = (motions > np.array(REVERSED_MOTION)[motions])[:, None]
        motion = np.minimum(motions, np.array(REVERSED_MOTION)[motions])
        left, up, turn, grow, fade, swing = (
            (motion == _motion_index(name))[:, None] for name in ("left", "up", "clockwise", "grow", "fade in", "swing")
        )
        time = (np.arange(num_frames)[None] + 0.5) / num_frames
        if num_frames == 1:
            time = p["moment"]
        time = np.where(backwards, 1 - time, time)

        # A path stays nearer to the middle of the frame, so that both its ends lie inside.
        x = 0.5 + p["shift_x"] * np.where(left, 0.4, 1) - left * (time - 0.5) * p["travel"]
        y = 0.5 + p["shift_y"] * np.where(up, 0.4, 1) - up * (time - 0.5) * p["travel"]
        angle = np.where(turn | swing, p["turn_offset"], p["tilt"])
        angle = angle + turn * (2 * time - 1) * p["sweep"]
        wave = np.sin(2 * math.pi * (p["swing_periods"] * time + p["swing_phase"]))
        angle = np.radians(angle + swing * p["swing_sweep"] * wave)
        side = np.where(grow, p["large_side"] * p["ratio"] ** (time - 1), p["side"])
        opacity = np.where(fade, p["dim"] + (p["bright"] - p["dim"]) * time, 1.0)
        if num_frames == 1:
            opacity = np.maximum(opacity, 0.5)

        # Clear frames: neighbours, in the readable half of a clip that fades or grows.
        num_clear = max(1, round(CLEAR_FRACTION * num_frames))
        earliest = np.where(fade | grow, 0.5, 0.0)
        place = earliest + (1 - earliest) * p["clear_at"]
        first = np.floor(place * (num_frames - num_clear + 1))
        frame = np.arange(num_frames)[None]
        frame = np.where(backwards, num_frames - 1 - frame, frame)
        clear = (frame >= first) & (frame < first + num_clear)
        occluded = p["occluded"] < self.occlusion
        clear = clear | ~occluded | (num_frames == 1)

        scans = _split_scans(self.split)
        counts = np.array([len(scans[d]) for d in range(10)])[digits]
        chosen = (p["scan"][:, 0] * counts).astype(np.int64)
        scan = np.array([scans[d][k] for d, k in zip(digits, chosen, strict=True)], dtype=np.int64)

        scene = {
            "theta": _affine(x, y, angle, side, p["aspect"], p["slant"]),
            "opacity": opacity,
            "clear": clear,
            "cover": (p["hidden_or_blurred"][:, 0] < 0.5).astype(np.int64),
            "scan": scan,
            "colour": np.concatenate([p["red"], p["green"], p["blue"]], axis=1),
            "shifts": (shifts * (_NOISE_SHIFTS + 1)).astype(np.int64).reshape(num_clips, num_frames, 2),
        }
        for side_cells, grid in zip(_TEXTURE_GRIDS, grids, strict=True):
            scene[f"texture{side_cells}"] = grid.reshape(num_clips, 3, side_cells, side_cells)
        return {
            name: torch.from_numpy(value.astype(np.float32) if value.dtype == np.float64 else value)
            for name, value in scene.items()
        }


def _draw(scene: dict[str, Tensor], size: int) -> Tensor:
    """Draw a scene: float in 0..255, to be truncated to whole numbers, (B, T, 3, size, size)."""
    theta = scene["theta"]
    device = theta.device
    num_clips, num_frames = theta.shape[:2]

    # Two planes a sprite: opacity, and opacity times lightness.
    scans, covers = _sprites(device)
    digit = scans[scene["scan"]][:, None, None]
    cover = covers[scene["cover"]][:, None]
    sprite = torch.where(scene["clear"][:, :, None, None, None], digit, cover)
    sprite = sprite * scene["opacity"][:, :, None, None, None]

    # What `affine_grid` makes, several times faster.
    pixel = (torch.arange(size, device=device) * 2 + 1) / size - 1
    across = theta[..., None, None, :, 0] * pixel[:, None] + theta[..., None, None, :, 2]
    down = theta[..., None, None, :, 1] * pixel[:, None, None]
    grid = (across + down).flatten(0, 1)
    planes = F.grid_sample(sprite.flatten(0, 1), grid, align_corners=False)
    planes = planes.reshape(num_clips, num_frames, 2, size, size)
    opacity, light = planes[:, :, :1], planes[:, :, 1:]

    clips = 255 * _background(scene, size)[:, None] * (1 - opacity)
    clips.addcmul_(255 * scene["colour"][:, None, :, None, None], light)
    sheet = _noise(size, device).unfold(0, size, 1).unfold(1, size, 1)
    clips += sheet[scene["shifts"][..., 0], scene["shifts"][..., 1]][:, :, None]
    return clips


def _background(scene: dict[str, Tensor], size: int) -> Tensor:
    """Smooth coloured textures, (B, 3, size, size), by enlarging the random grids."""
    low, high = _TEXTURE_RANGE
    texture = torch.zeros((), device=scene["theta"].device)
    for side, contrast in _TEXTURE_GRIDS.items():
        enlarge = _enlarging(side, size, texture.device)
        texture = texture + contrast * (enlarge @ scene[f"texture{side}"] @ enlarge.T)
    # Bicubic enlargement overshoots a little.
    return (low + (high - low) * texture / sum(_TEXTURE_GRIDS.values())).clamp(low, high)


def _affine(
    x: np.ndarray,
    y: np.ndarray,
    angle: np.ndarray,
    side: np.ndarray,
    aspect: np.ndarray,
    slant: np.ndarray,
) -> np.ndarray:
    """Return maps from the frame to the sprite for `affine_grid`, both in -1..1: (B, T, 2, 3).

    A sprite point goes to the frame by slant and aspect (area kept), then rotation (clockwise on
    the screen for a positive angle, as y points down), size and place; this is the inverse.
    """
    half = side * _SPRITE_PIXELS / _SCAN_PIXELS
    cos, sin = np.cos(angle) / half, np.sin(angle) / half
    xx, xy = cos / aspect + slant * sin, sin / aspect - slant * cos
    yx, yy = -sin * aspect, cos * aspect
    centre_x, centre_y = 2 * x - 1, 2 * y - 1
    rows = [
        np.stack([xx, xy, -(xx * centre_x + xy * centre_y)], axis=-1),
        np.stack([yx, yy, -(yx * centre_x + yy * centre_y)], axis=-1),
    ]
    return np.stack(rows, axis=-2)


@lru_cache(maxsize=1)
def _scans() -> tuple[Tensor, np.ndarray]:
    """scikit-learn's scans, (N, 8, 8) in 0..1, and their digits, N."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ModuleNotFoundError(missing("sklearn", "MotionDigits")) from error
    bundle = load_digits()
    return torch.from_numpy(bundle.images).float() / 16, bundle.target


@lru_cache(maxsize=2)
def _split_scans(split: str) -> tuple[np.ndarray, ...]:
    """Return the numbers of the scans of a split, one array per digit; a fifth is validation."""
    _, digits = _scans()
    chosen = []
    for digit in range(10):
        scans = np.flatnonzero(digits == digit)
        scans = scans[_uniforms((0,), scans, 1)[:, 0].argsort()]
        num_validation = round(len(scans) / 5)
        chosen.append(scans[:num_validation] if split == "validation" else scans[num_validation:])
    return tuple(chosen)


@lru_cache(maxsize=8)
def _sprites(device: torch.device) -> tuple[Tensor, Tensor]:
    """Opacity of each scan, (N, S, S), and the two planes of the two covers, (2, 2, S, S)."""
    scans, _ = _scans()
    sharp = F.interpolate(scans[:, None], size=_SCAN_PIXELS, mode="bicubic", align_corners=False)
    sharp = F.pad((1.5 * sharp[:, 0] - 0.2).clamp(0, 1), [_SPRITE_MARGIN] * 4)

    # A single scan, however blurred, still tells its digit by its outline. So the blurred digit is
    # the low-pass of all of them: a blob longer than wide, whose turning can be seen. The window
    # lets it end inside the sprite.
    window = torch.hann_window(_SPRITE_PIXELS, periodic=False)
    low_pass = _low_pass(_SPRITE_PIXELS, 3.0)
    blob = low_pass @ sharp.mean(0) @ low_pass * window.sqrt()[:, None] * window
    blob = (0.95 * blob / blob.max()).expand(2, -1, -1)

    card = torch.zeros(2, _SPRITE_PIXELS, _SPRITE_PIXELS)
    top, bottom, middle = _SPRITE_MARGIN, _SPRITE_PIXELS - _SPRITE_MARGIN, _SPRITE_PIXELS // 2
    columns = slice(_SPRITE_MARGIN + 2, _SPRITE_PIXELS - _SPRITE_MARGIN - 2)
    card[0, top:bottom, columns] = 1
    card[1, top:middle, columns] = 1
    card[1, middle:bottom, columns] = 0.4
    return sharp.to(device), torch.stack([card, blob]).to(device)


def _low_pass(size: int, sigma: float) -> Tensor:
    """Symmetric matrix that blurs one axis with a Gaussian, (size, size)."""
    place = torch.arange(size, dtype=torch.float32)
    return torch.exp(-((place[:, None] - place[None]) ** 2) / (2 * sigma**2))


@lru_cache(maxsize=16)
def _enlarging(side: int, size: int, device: torch.device) -> Tensor:
    """Matrix that enlarges one axis bicubically, (size, side)."""
    # Along one axis of an identity matrix: the other axis keeps its length, so stays untouched.
    identity = torch.eye(side)[None, None]
    matrix = F.interpolate(identity, size=(size, side), mode="bicubic", align_corners=True)
    return matrix[0, 0].to(device)


@lru_cache(maxsize=8)
def _noise(size: int, device: torch.device) -> Tensor:
    """A sheet of noise in 0..255, and the half that rounds; each frame is a piece of it."""
    side = size + _NOISE_SHIFTS
    sheet = _uniforms((1,), np.arange(side), side) * 2 - 1
    return torch.from_numpy(255 * _PIXEL_NOISE * sheet + 0.5).float().to(device)


def _uniforms(key: tuple[int, ...], index: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) for each index, float64, (len(index), count).

    The SplitMix64 hash: number j of an index does not depend on `count` or on the other indices.
    """
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = _mix(state + np.uint64(part % 2**64) * _GOLDEN + _GOLDEN)
    state = _mix(state + index.astype(np.uint64) * _GOLDEN + _GOLDEN)
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return (_mix(state[:, None] + steps) >> np.uint64(11)) * 2.0**-53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _motion_index(name: str) -> int:
    if name not in MOTIONS:
        raise ValueError(f"motion is {name!r}, but it must be one of: {', '.join(MOTIONS)}.")
    return MOTIONS.index(name)
