"""Search in an index: exact, with constant memory, and overlapping hits merged into one moment.

**Score.** An example clip or words become a vector, and the score of a window is the cosine of its embedding with it;
for a class of the model's own classifier it is its probability.

**Moments.** The score of an instant is the mean score of the windows that show it, first over each scale and rate, then
over these. A moment has its seed at the instant that scores highest, and extends to both sides as far as what scores
above a level outweighs what scores below (the sum of differences over time is largest); the level is a quarter of the
way from the median of all windows to the seed. Windows that overlap it are then removed from the file, and the rest has
the next. The score of a moment is that of its seed.
"""

import difflib
import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.limits import DEFAULT_LIMITS, Limits
from ..models.stages import InTIModel
from ..weights.text_tower import read_towers
from ..weights.zero_shot import build_head, class_words
from .embedding import WindowEncoder, Windows, embed
from .index import Index

PIECE = 8192  # windows whose embeddings are in memory together
LEVEL = 0.25  # of a moment, from the median of all windows to its seed
Score = Callable[[Tensor], Tensor]  # embeddings (n, D), float32 -> scores (n,)


@dataclass(frozen=True)
class Moment:
    """A stretch of a video that fits a query.

    Attributes:
        file: the video.
        start: in seconds after its first frame.
        end: in seconds after its first frame.
        score: of its best instant.
    """

    file: str
    start: float
    end: float
    score: float


def search(index: Index, score: Score, top: int = 10) -> list[Moment]:
    """Return the moments of an index that fit a query best, best first.

    No instant scores higher than the best window of its file, so files are opened in the order of these, and no
    more of them than can hold one of the best moments.

    Args:
        index: the index.
        score: see `by_vector`, `by_class`, `by_words` and `by_clip`.
        top: maximum number of moments.

    Raises:
        ValueError: for a number below 1, or an index that is damaged.
    """
    if top < 1:
        raise ValueError(f"top={top} is not a number of moments; pass at least 1.")
    if not len(index):
        return []
    scores = score_windows(index, score)
    median = float(np.median(scores))
    all_rows = [index.rows(part) for part in index.parts]
    offsets = np.cumsum([0, *(part.rows for part in index.parts)])
    firsts = np.concatenate([rows.first[:-1] + offset for rows, offset in zip(all_rows, offsets, strict=False)])
    of_part = np.repeat(np.arange(len(all_rows)), [len(rows.files) for rows in all_rows])
    best = np.maximum.reduceat(scores, firsts)
    closed = iter(np.argsort(-best, kind="stable").tolist())
    following = next(closed, None)
    opened: list[tuple[float, int, Moment, Iterator[Moment]]] = []
    found: list[Moment] = []
    while len(found) < top:
        while following is not None and (not opened or best[following] > -opened[0][0]):
            part = int(of_part[following])
            rows, offset = all_rows[part], int(offsets[part])
            first = int(firsts[following])
            number = rows.place(first - offset)
            last = offset + int(rows.first[number + 1])
            of_file = slice(first - offset, last - offset)
            groups = _groups(rows.scale[of_file], rows.fps[of_file])
            moments = find_moments(
                rows.files[number], rows.start[of_file], rows.end[of_file], groups, scores[first:last], median
            )
            moment = next(moments)
            heapq.heappush(opened, (-moment.score, following, moment, moments))
            following = next(closed, None)
        if not opened:
            break
        _, place, moment, moments = heapq.heappop(opened)
        found.append(moment)
        if (after := next(moments, None)) is not None:
            heapq.heappush(opened, (-after.score, place, after, moments))
    return sorted(found, key=lambda moment: -moment.score)


def search_files(
    model: InTIModel,
    files: Iterable[str | os.PathLike[str]],
    score: Score,
    windows: Windows | None = None,
    top: int = 10,
) -> list[Moment]:
    """Run `search` in a few videos without an index: their windows are embedded now.

    Args:
        model: the model, on the CPU.
        files: video files, images or folders of frames.
        score: see `search`.
        windows: which windows.
        top: see `search`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file cannot be read as a video.
    """
    encode = WindowEncoder(model, windows)
    videos = [(os.fspath(file), encode(file)) for file in files]
    if not videos:
        return []
    with torch.no_grad():
        scores = [score(torch.from_numpy(video.vectors)).numpy() for _, video in videos]
    median = float(np.median(np.concatenate(scores)))
    found = [
        moment
        for (file, video), of_file in zip(videos, scores, strict=True)
        for moment in find_moments(file, video.start, video.end, _groups(video.scale, video.fps), of_file, median)
    ]
    return sorted(found, key=lambda moment: -moment.score)[:top]


def _groups(scale: np.ndarray, fps: np.ndarray) -> np.ndarray:
    """Return the number, from 0, of the scale and rate of each window."""
    return np.unique(scale + 1j * fps, return_inverse=True)[1]


def find_moments(
    file: str, start: np.ndarray, end: np.ndarray, groups: np.ndarray, scores: np.ndarray, median: float
) -> Iterator[Moment]:
    """Return the moments of a file, at least one; the rule is at the top of this module.

    Args:
        file: its name.
        start: starts of its windows, (W,).
        end: ends of its windows.
        groups: the number, from 0, of the scale and rate of each.
        scores: score of each.
        median: median score of all windows.
    """
    edges = np.unique(np.concatenate([start, end]))  # windows begin and end at these: between two, all is alike
    while len(start):
        curve = _instants(edges, start, end, groups, scores)
        seed = int(curve.argmax())
        above = (curve - (median + LEVEL * (curve[seed] - median))) * np.diff(edges)
        last = seed + int(np.cumsum(above[seed:]).argmax())
        first = seed - int(np.cumsum(above[seed::-1]).argmax())
        moment = Moment(file, float(edges[first]), float(edges[last + 1]), float(curve[seed]))
        yield moment
        left = (start >= moment.end) | (end <= moment.start)
        start, end, groups, scores = start[left], end[left], groups[left], scores[left]


def _instants(
    edges: np.ndarray, start: np.ndarray, end: np.ndarray, groups: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """Return the score between each two neighbours of ``edges``; -inf where there is no window."""
    first, after = np.searchsorted(edges, start), np.searchsorted(edges, end)
    total, present = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1, np.int64)
    for group in range(int(groups.max()) + 1):
        of_group = groups == group
        ends = {"minlength": len(edges)}
        count = np.bincount(first[of_group], **ends) - np.bincount(after[of_group], **ends)
        weights = scores[of_group].astype(np.float64)
        summed = np.bincount(first[of_group], weights, **ends) - np.bincount(after[of_group], weights, **ends)
        count, summed = np.cumsum(count)[:-1], np.cumsum(summed)[:-1]
        total += np.divide(summed, count, out=np.zeros_like(total), where=count > 0)
        present += count > 0
    return np.divide(total, present, out=np.full_like(total, -np.inf), where=present > 0)


def score_windows(index: Index, score: Score) -> np.ndarray:
    """Return the score of every window, float32, a piece at a time.

    Raises:
        ValueError: if a part is damaged.
    """
    found = []  # as long as the files, not as they are said to be
    buffers = None
    for part in index.parts:
        vectors = index.vectors(part)
        if buffers is None:  # for all pieces: the heap would grow with pieces between the scores that stay
            buffers = np.empty((PIECE, vectors.shape[1]), np.float16), torch.empty(PIECE, vectors.shape[1])
        half, piece = buffers
        for first in range(0, part.rows, PIECE):
            count = min(PIECE, part.rows - first)
            np.copyto(half[:count], vectors[first : first + count])
            piece[:count] = torch.from_numpy(half[:count])  # to float32, faster than by NumPy
            with torch.no_grad():
                found.append(score(piece[:count]).numpy())
    scores = np.concatenate(found)
    if not np.isfinite(scores).all():
        raise ValueError(f"{index.folder} has embeddings that are not finite; remove it and make it again.")
    return scores


# Queries


def by_vector(vector: Tensor) -> Score:
    """Score by the cosine with a vector (D,); raise a ValueError for one without a direction."""
    if not 0 < vector.float().norm() < float("inf"):
        raise ValueError("The query's embedding is zero or not finite, so it matches nothing; use another query.")
    query = F.normalize(vector.float(), dim=-1)
    return lambda vectors: (vectors @ query) / vectors.norm(dim=-1).clamp_min(1e-12)


def by_class(model: InTIModel, index: int) -> Score:
    """Score by the probability of a class of the model's own classifier."""
    head = model.head.float().cpu()
    return lambda vectors: model.probabilities(head(vectors)[None])[:, index]  # of one view each


def by_words(model: InTIModel, text: str) -> Score:
    """Score by a text: as a vector if the head has a projection into the space of texts, otherwise as a class.

    Args:
        model: the one that made the index, on the CPU.
        text: words for the text tower of the model's image-text model (with the templates ``any``), or the name of
            one of its classes (its number, where classes have no names).

    Raises:
        ValueError: if there are no words, or the model has no such class; see also `read_towers`.
        OSError: if the text tower cannot be loaded.
    """
    if not text.strip():
        raise ValueError("There are no words in the query; write what to look for.")
    if model.projects:
        head = build_head(read_towers(model), model.num_features, [class_words(text, "any")])
        return by_vector(head.classes.weight[0].detach())
    names = list(model.pretrained_cfg.get("label_names") or ())
    if len(names) != model.num_classes:
        names = [str(number) for number in range(model.num_classes)]
    if not names:
        raise ValueError("This model has neither a text tower nor classes; search with an example clip.")
    if text in names:
        return by_class(model, names.index(text))
    near = difflib.get_close_matches(text, names, 3) or names[:3]
    raise ValueError(
        f"{text!r} is none of the {len(names)} classes of this model, which knows no other words; search for one, such "
        f"as {', '.join(map(repr, near))}, or with an example clip, or index with an image-text model."
    )


def by_clip(
    model: InTIModel, path: str | os.PathLike[str], device: str = "cpu", limits: Limits = DEFAULT_LIMITS
) -> Score:
    """Score by the cosine with the embedding of an example clip, sampled as the model samples files.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as a video.
    """
    return by_vector(torch.from_numpy(embed(model, [path], device=device, limits=limits).vectors[0]))
