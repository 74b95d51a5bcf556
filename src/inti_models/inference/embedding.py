"""Videos as vectors: one embedding per file, or one per window of its frames."""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import ClipTransform, Limits, iterate_frames
from ..data.limits import DEFAULT_LIMITS
from ..files import check_output, replacing
from ..models.precision import set_precision
from ..models.stages import InTIModel
from ..models.streaming import SeparateWindows, StreamingWindows
from ..weights.hub import load
from .batches import CPU_TOKENS
from .predict import VideoEncoder

DTYPES = ("float16", "float32")
ENDINGS = (".parquet", ".npy")
_GPU_FRAMES = 64  # that go through the first blocks together


@dataclass(frozen=True)
class Windows:
    """The windows of a video that get an embedding.

    Attributes:
        fps: frames per second to sample windows at; several rates make windows at each.
        scales: frames of a window; None for one, two and four times the model's own number.
        stride: frames from the start of a window to the start of the next.

    Raises:
        ValueError: if there are no rates or scales, one is not above 0, or a rate occurs twice.
    """

    fps: tuple[float, ...] = (4.0,)
    scales: tuple[int, ...] | None = None
    stride: int = 4

    def __post_init__(self) -> None:
        if not self.fps or not all(0 < fps <= 1000 for fps in self.fps):
            raise ValueError(f"fps={self.fps} are not frame rates; pass frames per second above 0 and up to 1000.")
        if len(set(self.fps)) < len(self.fps):
            raise ValueError(f"fps={self.fps} names a rate twice; leave one out.")
        if self.scales is not None and not (self.scales and all(scale >= 1 for scale in self.scales)):
            raise ValueError(f"scales={self.scales} are not numbers of frames; pass integers of at least 1.")
        if self.stride < 1:
            raise ValueError(f"stride={self.stride} is not a number of frames; pass an integer of at least 1.")

    def scales_of(self, model: InTIModel) -> tuple[int, ...]:
        """Return the frames of the windows of a model, from the shortest to the longest."""
        return tuple(sorted(set(self.scales or (model.num_frames * factor for factor in (1, 2, 4)))))


@dataclass(frozen=True)
class VideoWindows:
    """The windows of a video, by rate, scale and start.

    Attributes:
        start: when the first frame of each is shown, in seconds after the video's first, float64 (W,).
        end: when the frame after its last one is shown.
        scale: frames of each, int32 (W,).
        fps: frames per second of each, float32 (W,).
        vectors: embeddings, float32 (W, D).
    """

    start: np.ndarray
    end: np.ndarray
    scale: np.ndarray
    fps: np.ndarray
    vectors: np.ndarray


class WindowEncoder:
    """An encoder of each window of a video, equal to ``model.encode`` on that window alone.

    Windows of all scales at one rate come from one pass of the streaming tree (`StreamingWindows`), with a separate
    pass for each rate; a model whose frames see each other runs on each window. Windows start at frames 0, ``stride``,
    ...; frames left at the end, fewer than a stride, are in no window of that scale. A video shorter than the shortest
    scale has one window, in which its last frame is repeated.

    Args:
        model: an InTI model; moved to ``device`` and put into evaluation mode.
        windows: which windows.
        device: where to run.
        precision: see `VideoEncoder`.
        limits: what a file may ask for.

    Raises:
        ValueError: for scales that the model does not take; see `StreamingWindows`.
    """

    def __init__(
        self,
        model: InTIModel,
        windows: Windows | None = None,
        device: str | torch.device = "cpu",
        precision: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if precision is not None:
            set_precision(model, precision, device)
        self.model, self.device, self.limits = model.to(device).eval(), torch.device(device), limits
        self.windows = windows or Windows()
        self.scales = self.windows.scales_of(model)
        kind = SeparateWindows if model.temporal.mixes_frames else StreamingWindows
        self.stream = kind(model, self.scales, self.windows.stride)
        self._transform = ClipTransform.of(model)
        tokens = model.patch_embed.num_patches + model.num_prefix_tokens
        self._together = _GPU_FRAMES if self.device.type != "cpu" else max(1, CPU_TOKENS // tokens)

    def __call__(self, path: str | os.PathLike[str]) -> VideoWindows:
        """Encode the windows of a video file, an image or a folder of frames.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it cannot be read as a video.
        """
        rates = [self._encode_at(path, fps) for fps in self.windows.fps]
        return VideoWindows(*(np.concatenate(columns) for columns in zip(*rates, strict=True)))

    def _encode_at(self, path: str | os.PathLike[str], fps: float) -> tuple[np.ndarray, ...]:
        """Return the columns of `VideoWindows` for one rate."""
        self.stream.reset()
        frames = iterate_frames(path, fps=fps, limits=self.limits)
        times: list[float] = []
        vectors: list[list[Tensor]] = [[] for _ in self.scales]
        piece: list[tuple[float, Tensor]] = []
        while piece := list(islice(frames, self._together)):
            clip = self._transform(torch.stack([frame for _, frame in piece]))
            times += [time for time, _ in piece]
            last = clip[-1:]
            self._push(clip, vectors)
        if len(times) < self.scales[0]:
            self._push(last.repeat_interleave(self.scales[0] - len(times), dim=0), vectors)
        period = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / fps
        shown = np.array([*times, times[-1] + period])
        columns = []
        for scale, of_scale in zip(self.scales, vectors, strict=True):
            vector = torch.cat(of_scale).cpu().numpy()  # W D
            first = np.arange(len(vector)) * self.windows.stride
            start, end = shown[first], shown[np.minimum(first + scale, len(times))]
            scales, rates = np.full(len(vector), scale, np.int32), np.full(len(vector), fps, np.float32)
            columns.append((start, end, scales, rates, vector))
        return tuple(np.concatenate(column) for column in zip(*columns, strict=True))

    def _push(self, clip: Tensor, vectors: list[list[Tensor]]) -> None:
        """Add the embeddings (W, D) of the windows that end with these frames (T, C, H, W), of each scale."""
        with torch.no_grad():
            for pooled, of_scale in zip(self.stream.pool(clip.unsqueeze(0).to(self.device)), vectors, strict=True):
                of_scale.append(self.model.encode_frames(pooled)[0].float())


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of files, or of their windows.

    Attributes:
        files: the file of each row.
        vectors: (N, D), float16 or float32.
        windows: columns of the windows, if any: ``start``, ``end``, ``scale``, ``fps`` (see `VideoWindows`).
    """

    files: list[str]
    vectors: np.ndarray
    windows: dict[str, np.ndarray]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file (``file``, the columns of windows, ``embedding``), or only the vectors as .npy.

        Raises:
            ValueError: for another suffix.
            OSError: if the file cannot be written.
        """
        check_output(path, ENDINGS)
        with replacing(path) as partial:
            if Path(path).suffix == ".npy":
                with partial.open("wb") as file:
                    np.save(file, self.vectors)
                return
            import pyarrow as pa
            import pyarrow.parquet as pq

            values = pa.array(self.vectors.reshape(-1))
            columns = {"file": self.files, **self.windows}
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, self.vectors.shape[1])
            pq.write_table(pa.table(columns), partial)


def check_name(file: str) -> None:
    """Raise a ValueError for a file whose name a Parquet file cannot hold."""
    try:
        file.encode()
    except UnicodeEncodeError:
        raise ValueError(f"The name of {file} is not UTF-8; rename the file.") from None


def embed(
    model: InTIModel | str | os.PathLike[str],
    files: Iterable[str | os.PathLike[str]],
    *,
    windows: Windows | bool = False,
    normalize: bool = False,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    **encoder_args: Any,
) -> Embeddings:
    """Return embeddings of videos: one per file, the mean over its views of ``model.encode``, or one per window.

    Args:
        model: a model, or a name for `inti_models.load`.
        files: video files, images or folders of frames.
        windows: embed windows instead of files: which, or True for the defaults of `Windows`.
        normalize: scale each to unit length, after the mean.
        dtype: "float32" or "float16".
        device: where to run.
        **encoder_args: ``views``, ``precision``, ``batch_size``, ``limits`` and others of `VideoEncoder`, or
            ``precision`` and ``limits`` of `WindowEncoder`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file cannot be read as a video, an argument makes no sense, or a value does not fit float16.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}.")
    model = model if isinstance(model, InTIModel) else load(model)
    found = embed_files(model, files, windows, device, **encoder_args)
    return collect(found, normalize, dtype)


def embed_files(
    model: InTIModel,
    files: Iterable[str | os.PathLike[str]],
    windows: Windows | bool = False,
    device: str | torch.device = "cpu",
    **encoder_args: Any,
) -> Iterator[tuple[str, VideoWindows | np.ndarray | Exception]]:
    """Yield each file with its embedding (D,) or its windows, or with the error from reading it, in order."""
    if windows:
        encode_windows = WindowEncoder(model, None if windows is True else windows, device, **encoder_args)
        for path in files:
            try:
                yield os.fspath(path), encode_windows(path)
            except (OSError, ValueError) as error:
                yield os.fspath(path), error
        return
    encoder = VideoEncoder(model, device=device, **encoder_args)
    with closing(encoder.pool_files(files)) as pooled_files:
        for path, pooled in pooled_files:
            if isinstance(pooled, Exception):
                yield os.fspath(path), pooled
                continue
            with torch.no_grad():  # not around a yield: the caller's gradients would be off too
                vector = encoder.model.project(pooled).mean(dim=0).float().cpu().numpy()
            yield os.fspath(path), vector


def collect(
    found: Iterable[tuple[str, VideoWindows | np.ndarray | Exception]], normalize: bool = False, dtype: str = "float32"
) -> Embeddings:
    """Join the rows of `embed_files`; raise the first error among them."""
    files: list[str] = []
    vectors: list[np.ndarray] = []
    columns: dict[str, list[np.ndarray]] = {}
    for path, one in found:
        if isinstance(one, Exception):
            raise one
        if isinstance(one, VideoWindows):
            for name in ("start", "end", "scale", "fps"):
                columns.setdefault(name, []).append(getattr(one, name))
        vectors.append(one.vectors if isinstance(one, VideoWindows) else one[None])
        files += [path] * len(vectors[-1])
    together = np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32)
    if normalize:
        together = F.normalize(torch.from_numpy(together), dim=-1).numpy()
    return Embeddings(files, cast(together, dtype), {name: np.concatenate(parts) for name, parts in columns.items()})


def cast(vectors: np.ndarray, dtype: str) -> np.ndarray:
    """Return embeddings in another dtype; raise a ValueError for values that are not finite in it."""
    with np.errstate(over="ignore"):
        converted = vectors.astype(dtype)
    if not np.isfinite(converted).all():
        raise ValueError(f"An embedding has values that are not finite in {dtype}; use float32, or normalise it.")
    return converted
