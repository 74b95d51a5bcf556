"""From a video file, or a stream of frames, to labels."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..data import ClipTransform, FrameSampling, Limits
from ..data.limits import DEFAULT_LIMITS
from ..models.precision import set_precision
from ..models.stages import InTIModel
from ..models.streaming import StreamingClassifier, StreamingWindows, pool_chunked
from .batches import choose_batch_size

NONE = "none of these"
TOPK = 5  # labels of a video, where a model gives it one and the caller does not say


@dataclass(frozen=True)
class Label:
    """A class and its probability for a video.

    Attributes:
        index: class index.
        name: class name, or the index as text where the model has no names.
        probability: 0 to 1: among all classes of the model, or, for a model that gives a video several labels, of this
            class whatever the others are (`models.probabilities.Probabilities`).
    """

    index: int
    name: str
    probability: float


class VideoEncoder:
    """An encoder of video files, images or folders of frames into a model's pooled features of clips, before its head.

    Frames, sampling, size and normalisation follow the model's own config. Views are clips spread over time
    and crops along the longer side.

    Args:
        model: an InTI model; it is moved to ``device`` and put into evaluation mode.
        views: temporal clips and spatial crops, such as (4, 3); crops are 1 or 3. None for the model's own, which are
            (1, 1) unless a converted checkpoint was measured with others.
        device: where to run.
        chunk: frames of a long clip that go through the first blocks together, so that memory does not grow with the
            clip (`pool_chunked`); None for all frames.
        limits: what a file may ask for.
        precision: see `inti_models.models.precision.set_precision`; None leaves the model as it is.
        batch_size: clips that go through the model together, of several files where there are more; None for what
            `batches.choose_batch_size` finds.
        compile: compile the model with torch.compile, at its first clips.

    Raises:
        ValueError: for invalid views, a model without pooling, one that does not run in chunks or is already in another
            precision, a batch without clips, or chunks of a compiled model.
    """

    def __init__(
        self,
        model: InTIModel,
        views: tuple[int, int] | None = None,
        device: str | torch.device = "cpu",
        chunk: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        precision: str | None = None,
        batch_size: int | None = None,
        compile: bool = False,
    ) -> None:
        if not model.global_pool:
            raise ValueError("global_pool='' gives no feature of a clip; use 'token', 'avg' or 'map'.")
        if chunk is not None:
            StreamingWindows(model, (model.num_frames,))  # which says why it does not run in chunks
            if compile:
                raise ValueError(f"chunk={chunk} runs a model in parts, which are not compiled; leave one out.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is not a number of clips; pass at least 1, or None.")
        self.chunk, self.limits = chunk, limits
        self.num_clips, num_crops = model.views if views is None else views
        if self.num_clips < 1:
            raise ValueError(f"views={views} is {self.num_clips} clips; pass at least one.")
        if precision is not None:
            set_precision(model, precision, device)
        self.model, self.device = model.to(device).eval(), torch.device(device)
        self.transform = ClipTransform.of(model, num_crops)
        self._pool = torch.compile(self._pooled) if compile else self._pooled
        self._batch_size = batch_size

    @property
    def batch_size(self) -> int:
        """Clips that go through the model together."""
        if self._batch_size is None:
            self._batch_size = 1 if self.chunk is not None else choose_batch_size(self.model, self.device, self._run)
        return self._batch_size

    def views(self, path: str | os.PathLike[str], stop: threading.Event | None = None) -> Tensor:
        """Return the model's input for a file, views (V, T, C, H, W); ``stop`` is that of `read_clips`."""
        clips = FrameSampling.of(self.model).read(path, self.num_clips, limits=self.limits, stop=stop)
        frames = torch.stack([self.transform(clip) for clip in clips.frames])  # V T C H W, or V 3 T C H W
        return frames if frames.ndim == 5 else frames.flatten(0, 1)

    def pool_batch(self, files: Sequence[Tensor]) -> list[Tensor]:
        """Return the model's pooled features of views (V, T, C, H, W) of several files, ``batch_size`` clips at a time.

        Returns:
            Features before the head (V, C) of each file; V may differ.
        """
        if not files:
            return []
        passes = [self._run(clips) for clips in torch.cat(list(files)).split(self.batch_size)]
        return list(torch.cat(passes).split([len(views) for views in files]))

    @torch.inference_mode()
    def _run(self, clips: Tensor) -> Tensor:
        """Return the pooled features (B, C) of clips (B, T, C, H, W)."""
        return self._pool(clips.to(self.device))

    def _pooled(self, clips: Tensor) -> Tensor:
        if self.chunk is not None:
            return self.model.classify_frames(pool_chunked(self.model, clips, self.chunk), pre_logits=True)
        return self.model.forward_head(self.model.forward_features(clips), pre_logits=True)

    def read_ahead(self, paths: Iterable[str | os.PathLike[str]], ahead: int = 2) -> "ReadAhead":
        """Yield each file with its views, or with the error from reading it, in order.

        Raises:
            ValueError: for ``ahead`` below 1.
        """
        return ReadAhead(self.views, paths, ahead)

    def pool_files(
        self, paths: "Iterable[str | os.PathLike[str]] | ReadAhead", ahead: int | None = None
    ) -> Generator[tuple[str | os.PathLike[str], Tensor | Exception]]:
        """Yield each file with its result of `pool_batch`, or with the error from reading it, in order.

        Batches of ``batch_size`` clips are filled from several files, while those of the next are read (`read_ahead`;
        as many files for None, at least two), so that no more than two batches are in memory. A `ReadAhead` continues
        with the files that it has.
        """
        ahead = max(2, self.batch_size) if ahead is None else ahead
        reading = paths if isinstance(paths, ReadAhead) else self.read_ahead(paths, ahead)
        reading.ahead = ahead
        with closing(reading) as files:
            for batch in self._batches(files):
                pooled = iter(self.pool_batch([views for _, views in batch if isinstance(views, Tensor)]))
                for path, views in batch:
                    yield path, next(pooled) if isinstance(views, Tensor) else views

    def _batches(
        self, files: Iterable[tuple[str | os.PathLike[str], Tensor | Exception]]
    ) -> Iterator[list[tuple[str | os.PathLike[str], Tensor | Exception]]]:
        """Yield files whose views make a batch: no more clips, unless a single file has more, and no more files."""
        batch: list[tuple[str | os.PathLike[str], Tensor | Exception]] = []
        clips = 0
        for path, views in files:
            more = len(views) if isinstance(views, Tensor) else 0
            if batch and clips + more > self.batch_size:
                yield batch
                batch, clips = [], 0
            batch.append((path, views))
            clips += more
            if clips >= self.batch_size or len(batch) >= self.batch_size:
                yield batch
                batch, clips = [], 0
        if batch:
            yield batch


class VideoClassifier(VideoEncoder):
    """A classifier of video files, images or folders of frames.

    The probabilities of a file's views are averaged.

    Args: see `VideoEncoder`.

    Raises:
        ValueError: for a model without a classifier; see `VideoEncoder`.
    """

    def __init__(self, model: InTIModel, *args: Any, **kwargs: Any) -> None:
        _check_classifier(model)
        super().__init__(model, *args, **kwargs)

    def probabilities(self, path: str | os.PathLike[str]) -> Tensor:
        """Return the probability of each class, (num_classes,), averaged over the views."""
        return self.classify(self.views(path))

    @torch.no_grad()
    def logits(self, views: Tensor) -> Tensor:
        """Return the logits (V, num_classes) of views (V, T, C, H, W), in float32."""
        (pooled,) = self.pool_batch([views])
        return self.model.head(pooled).float()

    def classify(self, views: Tensor) -> Tensor:
        """Return the probability of each class, (num_classes,), averaged over views (V, T, C, H, W)."""
        return self.model.probabilities(self.logits(views)).cpu()

    def classify_files(
        self, paths: "Iterable[str | os.PathLike[str]] | ReadAhead", ahead: int | None = None
    ) -> Generator[tuple[str | os.PathLike[str], tuple[Tensor, Tensor] | Exception]]:
        """Yield each file with the model's output for it, or with the error from reading it, in order.

        The output is the logits of its views (V, num_classes), and the mean over them of the features before the
        classifier (C,), in float32. For the arguments see `pool_files`.
        """
        with closing(self.pool_files(paths, ahead)) as files:
            for path, pooled in files:
                if isinstance(pooled, Exception):
                    yield path, pooled
                else:
                    with torch.no_grad():
                        said = self.model.head(pooled).float(), pooled.float().mean(dim=0)
                    yield path, said

    def __call__(
        self, path: str | os.PathLike[str], topk: int | None = None, threshold: float | None = None
    ) -> list[Label]:
        """Return the labels of a file, most probable first; see `top_labels`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it cannot be read as a video.
        """
        return top_labels(self.model, self.logits(self.views(path)), topk, threshold)

    def label_files(
        self,
        paths: "Iterable[str | os.PathLike[str]] | ReadAhead",
        topk: int | None = None,
        ahead: int | None = None,
        threshold: float | None = None,
    ) -> Generator[tuple[str | os.PathLike[str], list[Label] | Exception]]:
        """Yield each file with its labels, or with the error from reading it, in order; see `classify_files`."""
        with closing(self.classify_files(paths, ahead)) as files:
            for path, said in files:
                yield path, said if isinstance(said, Exception) else top_labels(self.model, said[0], topk, threshold)


class ReadAhead(Iterator[tuple[str | os.PathLike[str], Tensor | Exception]]):
    """An iterator over files with their views, or with the error from reading them, in order.

    Up to ``ahead`` files after the caller's current one are read in threads, up to one per CPU core but at least
    two. The first are read when the first is requested, or from `start` on. The threads end soon after the iterator is
    closed, or an exception such as KeyboardInterrupt leaves it.

    Args:
        read: returns the views of a file; ends soon after the event that it gets is set.
        paths: the files.
        ahead: files to read ahead; may be changed.

    Raises:
        ValueError: for ``ahead`` below 1.
    """

    def __init__(
        self,
        read: Callable[[str | os.PathLike[str], threading.Event], Tensor],
        paths: Iterable[str | os.PathLike[str]],
        ahead: int,
    ) -> None:
        if ahead < 1:
            raise ValueError(f"ahead={ahead} is not a number of files; pass at least 1.")
        self.ahead = ahead
        self._read, self._paths, self._stop = read, iter(paths), threading.Event()
        self._reading: deque[tuple[str | os.PathLike[str], Future[Tensor]]] = deque()
        self._pool = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="read")

    def start(self, more: int = 0) -> None:
        """Start reading ``ahead + more`` files before any is requested."""
        for path in islice(self._paths, max(0, self.ahead + more - len(self._reading))):
            self._reading.append((path, self._pool.submit(self._read, path, self._stop)))

    def __next__(self) -> tuple[str | os.PathLike[str], Tensor | Exception]:
        try:
            self.start(more=1)
            if not self._reading:
                raise StopIteration
            path, views = self._reading.popleft()
            while not wait([views], timeout=0.5).done:  # Ctrl-C just before Python waits for a lock is seen after that
                pass
            try:
                return path, views.result()
            except (OSError, ValueError) as error:
                return path, error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._reading.clear()
        self._paths = iter(())


@dataclass(frozen=True)
class Window:
    """Labels of the last frames of a stream.

    Attributes:
        start: time of the window's first frame, in seconds after the stream's first.
        end: time of its last frame.
        labels: most probable first; see `top_labels`.
    """

    start: float
    end: float
    labels: list[Label]


@torch.inference_mode()
def classify_stream(
    model: InTIModel,
    frames: Iterable[tuple[float, Tensor]],
    stride: int = 1,
    topk: int | None = None,
    device: str | torch.device = "cpu",
    precision: str | None = None,
    threshold: float | None = None,
) -> Iterator[Window]:
    """Yield the labels of each window of the model's number of frames, as soon as its last frame is there.

    Args:
        model: a model that `StreamingClassifier` takes; moved to ``device`` and put into evaluation mode.
        frames: times in seconds and frames, uint8 (3, H, W), as `inti_models.data.iterate_frames` yields them.
        stride: frames from the start of a window to the start of the next.
        topk: maximum number of labels of a window; see `top_labels`.
        device: where to run.
        precision: see `VideoClassifier`.
        threshold: see `top_labels`.

    Raises:
        ValueError: for a model without a classifier, one that cannot be streamed, or already in another precision.
    """
    _check_classifier(model)
    if precision is not None:
        set_precision(model, precision, device)
    stream = StreamingClassifier(model.to(device), stride=stride)
    transform = ClipTransform.of(model)
    times: deque[float] = deque(maxlen=stream.num_frames)
    for time, frame in frames:
        times.append(time)
        logits = stream.push(transform(frame.unsqueeze(0)).to(device)).squeeze(0)  # of no window, or one
        if len(logits):
            yield Window(times[0], times[-1], top_labels(model, logits.float(), topk, threshold))


def _check_classifier(model: InTIModel) -> None:
    if model.num_classes < 1:
        raise ValueError("The model has no classifier (num_classes=0); create it with a number of classes.")


def check_threshold(threshold: float | None) -> None:
    """Raise a ValueError if the threshold is not a probability."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} is not a probability; pass one from 0 to 1.")


def top_labels(
    model: InTIModel, logits: Tensor, topk: int | None = None, threshold: float | None = None
) -> list[Label]:
    """Return the labels of logits (V, num_classes), whose probabilities are averaged over V views, most probable first.

    They are the classes that reach their thresholds, and none if no class does. Where the last classes
    are background prompts, these are one label, `NONE`, with the sum of their probabilities; for a model that
    gives several labels, a class is a label only if it is more probable than each of them.

    Args:
        model: the model that gave the logits.
        logits: logits of the views of one video.
        topk: maximum number of labels; None for all from a model that gives several labels per video, and `TOPK` from
            one that gives one.
        threshold: threshold of all classes, and of `NONE`; None for the model's own (`Probabilities.threshold`).

    Raises:
        ValueError: for a threshold that is not a probability, or logits that are not finite.
    """
    check_threshold(threshold)
    if not logits.isfinite().all():
        raise ValueError("The model's output is not finite; try float32 (--precision float32) or other weights.")
    said, several = model.probabilities, model.probabilities.multi_label
    names = model.pretrained_cfg.get("label_names") or ()
    if len(names) != model.num_classes:
        names = [str(index) for index in range(model.num_classes)]
    probabilities = said(logits).cpu()
    classes = model.num_classes - said.background
    background = probabilities[classes:]
    labels = [
        Label(index, names[index], probability)
        for index, probability in enumerate(probabilities[:classes].tolist())
        if probability >= (said.threshold(index) if threshold is None else threshold)
        and not (several and said.background and probability <= background.max())
    ]
    none = float(background.sum())
    if said.background and not several and none >= (threshold or 0):
        labels.append(Label(classes, NONE, none))
    if topk is None:
        topk = len(labels) if several else TOPK
    return sorted(labels, key=lambda label: -label.probability)[:topk]
