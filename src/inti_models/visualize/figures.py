"""Pictures of what was kept: the paper's figures 4 and 5 for any video, as figure, animation or page."""

import base64
import html
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data import ClipTransform, FrameSampling, write_video
from ..files import replacing
from ..inference.predict import Label, top_labels
from ..models.interpolation import cascade
from ..models.stages import InTIModel
from ..text import printable
from .explain import ClipWeights, aggregate, explain_clip, frame_fractions, to_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 8  # frames side by side
_COLORS, _SIGNED = "magma", "coolwarm"


@dataclass(frozen=True)
class Explanation:
    """A clip and everything that the pictures show of it.

    Attributes:
        frames: what the model saw, uint8 (T, 3, H, W), in the order of the weights (`frame_order`).
        times: times of the frames, in seconds, (T,), or None where they are not known.
        moments: name of each frame in the pictures, such as "0.62 s", or "frame 5" (counted from 0) without times.
        weights: weights of its tokens, for one clip (leading dimensions of 1).
        fractions: how much each frame counted, (T,).
        aggregated: the picture that each group of frames became, uint8 (groups, 3, H, W).
        relevance: relevance of each frame and position for ``label``, (T, h, w).
        label: the class that relevance is for, with its probability.
        labels: the most probable classes.
    """

    frames: Tensor
    times: Tensor | None
    moments: list[str]
    weights: ClipWeights
    fractions: Tensor
    aggregated: Tensor
    relevance: Tensor
    label: Label
    labels: list[Label]


def explain_clips(
    model: InTIModel, clips: Tensor, times: Tensor | None = None, class_index: int | None = None
) -> list[Explanation]:
    """Return weights, fractions, aggregated frames and relevance of a batch of clips.

    Args:
        model: a model with a classifier; put into evaluation mode.
        clips: frames as they were read, uint8 (B, T, 3, H, W).
        times: times of the frames in seconds, (B, T); None where they are not known: pictures then number the frames.
        class_index: class whose relevance to show; None for the most probable of each clip.

    Raises:
        ValueError: see `relevance`.
    """
    device = next(model.eval().parameters()).device
    see, normalize = ClipTransform.of(model, normalize=False), ClipTransform.of(model)
    explained = []
    for i, clip in enumerate(clips):
        x = normalize(clip).unsqueeze(0).to(device)
        found = explain_clip(model, x, class_index)
        weights = replace(
            found.weights,
            frame_weights=found.weights.frame_weights.float().cpu(),
            interpolation_weights=[stage.float().cpu() for stage in found.weights.interpolation_weights],
            class_token=[stage.float().cpu() for stage in found.weights.class_token],
        )
        labels = top_labels(model, found.logits.float(), 5)
        every = top_labels(model, found.logits.float(), model.num_classes)
        label = next(label for label in every if class_index in (None, label.index))
        frames = see(clip)
        frames = frames.expand(-1, 3, -1, -1)
        stride = model.temporal.stride  # of a temporal method that embeds frames together
        shown = torch.arange(len(clip))[::stride][list(weights.order)]
        frames, seconds = frames[shown], None if times is None else times[i][shown]
        explained.append(
            Explanation(
                frames=frames,
                times=seconds,
                moments=[f"frame {t}" for t in shown] if seconds is None else [f"{time:.2f} s" for time in seconds],
                weights=weights,
                fractions=frame_fractions(weights.frame_weights)[0],
                aggregated=aggregate(frames.unsqueeze(0).float(), weights.frame_weights, weights.group_size)[0]
                .round()
                .clamp(0, 255)
                .byte(),
                relevance=found.relevance[0].float().cpu(),
                label=label,
                labels=labels,
            )
        )
    return explained


def explain_file(model: InTIModel, path: str | os.PathLike[str], class_index: int | None = None) -> Explanation:
    """Run `explain_clips` on a clip of a video file, sampled as the model's config says."""
    clips = FrameSampling.of(model).read(path)
    return explain_clips(model, clips.frames, clips.times, class_index)[0]


def draw_weights(explanation: Explanation) -> "Figure":
    """Draw the frames of each group under their weights, the group's result, and the fractions of frames."""
    e, span = explanation, explanation.weights.group_size
    rows = _rows(len(e.frames), span)
    columns = max(len(row) for _, row in rows) + (span > 1)
    figure, cells = _grid(len(rows), columns, extra=1.6)
    image = None
    for (group, frames), row in zip(rows, cells, strict=True):
        for axis, t in zip(row, frames, strict=False):
            image = _show(axis, e.frames[t], e.weights.frame_weights[0, t], e.moments[t])
        if span > 1 and frames[-1] == min((group + 1) * span, len(e.frames)) - 1:
            _show(row[-1], e.aggregated[group], None, "became")
    assert image is not None
    figure.colorbar(image, ax=cells.ravel().tolist(), fraction=0.03, label="weight")
    _draw_fractions(figure.add_subplot(figure.inti_grid[-1, :]), e)  # type: ignore[attr-defined]
    figure.suptitle(f"{printable(e.labels[0].name)} ({e.labels[0].probability:.1%})", parse_math=False)
    return figure


def draw_stages(explanation: Explanation) -> "Figure":
    """Draw the weights that each compression gave to the frames before it, and to their class tokens."""
    e = explanation
    stages = e.weights.interpolation_weights or [torch.ones_like(e.weights.frame_weights)]
    figure, cells = _grid(len(stages), min(_ACROSS, stages[0].shape[1]), extra=0)
    image = None
    for k, (stage, row) in enumerate(zip(stages, cells, strict=True)):
        before = aggregate(e.frames.unsqueeze(0).float(), _weights_before(e.weights, k), 2**k)[0].clamp(0, 255).byte()
        for t, axis in enumerate(row[: stage.shape[1]]):
            title = f"stage {k + 1}, {t + 1}"
            if e.weights.class_token:
                title += f"\nclass token {e.weights.class_token[k][0, t]:.2f}"
            image = _show(axis, before[t], stage[0, t], title)
    assert image is not None
    figure.colorbar(image, ax=cells.ravel().tolist(), fraction=0.03, label="weight")
    return figure


def draw_relevance(explanation: Explanation) -> "Figure":
    """Draw frames and positions that support (red) or oppose (blue) the class."""
    e = explanation
    rows = _rows(len(e.frames), 1)
    figure, cells = _grid(len(rows), len(rows[0][1]), extra=0)
    most = float(e.relevance.abs().max()) or 1.0
    image = None
    for (_, frames), row in zip(rows, cells, strict=True):
        for axis, t in zip(row, frames, strict=False):
            image = _show(axis, e.frames[t], e.relevance[t] / most, e.moments[t], signed=True)
    assert image is not None
    figure.colorbar(image, ax=cells.ravel().tolist(), fraction=0.03, label="relevance, of the largest")
    figure.suptitle(f"for and against “{printable(e.label.name)}” ({e.label.probability:.1%})", parse_math=False)
    return figure


def write_png(explanation: Explanation, path: Path) -> None:
    """Write the figure of `draw_weights`."""
    path.write_bytes(_png(draw_weights(explanation)))


def draw_animation(explanation: Explanation) -> Tensor:
    """Draw a picture for each frame: frame, weights, its group's result, its fraction; uint8 (T, 3, H, W)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    e, pictures = explanation, []
    for t in range(len(e.frames)):
        figure = Figure(figsize=(7.2, 4.0), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        cells = figure.add_gridspec(2, 3, height_ratios=(3, 1))
        axes = [figure.add_subplot(cells[0, i]) for i in range(3)]
        _show(axes[0], e.frames[t], None, e.moments[t])
        image = _show(axes[1], e.frames[t], e.weights.frame_weights[0, t], "weights")
        _show(axes[2], e.aggregated[t // e.weights.group_size], None, "became")
        figure.colorbar(image, ax=axes, fraction=0.03)
        _draw_fractions(figure.add_subplot(cells[1, :]), e, at=t)
        canvas.draw()
        pictures.append(torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1))
    return torch.stack(pictures)


def write_gif(explanation: Explanation, path: Path) -> None:
    """Write the animation, two frames per second, looping."""
    first, *others = (Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in draw_animation(explanation))
    first.save(path, save_all=True, append_images=others, duration=500, loop=0)


def write_mp4(explanation: Explanation, path: Path) -> None:
    """Write the animation, two frames per second."""
    write_video(path, draw_animation(explanation), fps=2)


def write_html(explanation: Explanation, path: Path) -> None:
    """Write a self-contained page: labels, weights, stages and relevance."""
    e = explanation
    best = int(e.fractions.argmax())
    rows = "".join(f"<tr><td>{_escaped(label.name)}</td><td>{label.probability:.1%}</td></tr>" for label in e.labels)
    fractions = ", ".join(f"{moment}: {part:.0%}" for moment, part in zip(e.moments, e.fractions, strict=True))
    name = _escaped(e.label.name)
    sections = (
        (
            "What was kept",
            f"Counted most: {e.moments[best]}, {e.fractions[best]:.0%} of all. Fractions of the frames: {fractions}.",
            draw_weights(e),
            "Frames of the clip with the weights of their positions as heat maps, and the frame that each group became",
        ),
        (
            "Each compression",
            "Weights of the two frames of each pair add up to one (for softmax weights).",
            draw_stages(e),
            "Weights of each compression stage over the frames before it",
        ),
        (
            f"What supports “{name}”",
            "Gradient times weight: red positions support the class, blue ones oppose it.",
            draw_relevance(e),
            f"Frames of the clip with positions that support and oppose {name}",
        ),
    )
    body = "".join(
        f"<section><h2>{title}</h2><p>{text}</p>"
        f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(_png(figure)).decode()}"></section>'
        for title, text, figure, alt in sections
    )
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>What was kept</title><style>'
        "body{font:1rem/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#111;"
        "background:#fff}img{max-width:100%;height:auto}"
        "caption{text-align:left;white-space:nowrap}td{padding:.1rem 1rem .1rem 0}</style></head><body>"
        f"<h1>{_escaped(e.labels[0].name)}</h1><table><caption>Most probable classes</caption>{rows}</table>{body}"
        "</body></html>\n",
        encoding="utf-8",
    )


def _escaped(name: str) -> str:
    return html.escape(printable(name))


WRITERS: dict[str, Callable[[Explanation, Path], None]] = {
    ".png": write_png,
    ".gif": write_gif,
    ".mp4": write_mp4,
    ".html": write_html,
}


def check_ending(path: Path) -> None:
    """Raise a ValueError for a file that no writer makes, a FileNotFoundError for one in a missing folder."""
    if path.suffix not in WRITERS:
        raise ValueError(f"{path} ends in none of {', '.join(WRITERS)}; rename it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent}; make it first.")


def write(explanation: Explanation, path: str | os.PathLike[str]) -> None:
    """Write the format of the file's suffix, whole or not at all.

    Raises:
        ValueError: for a suffix other than .png, .gif, .mp4 or .html.
        FileNotFoundError: if there is no such folder.
    """
    path = Path(path)
    check_ending(path)
    with replacing(path) as unfinished:
        WRITERS[path.suffix](explanation, unfinished)


def _rows(num_frames: int, span: int) -> list[tuple[int, list[int]]]:
    """Return rows of frames side by side: (group, frames). Single frames share rows."""
    size = span if span > 1 else num_frames
    groups = [list(range(start, min(start + size, num_frames))) for start in range(0, num_frames, size)]
    return [(g, group[i : i + _ACROSS]) for g, group in enumerate(groups) for i in range(0, len(group), _ACROSS)]


def _grid(rows: int, columns: int, extra: float) -> "tuple[Figure, np.ndarray]":
    """Make a figure of empty cells, with room below for the fractions."""
    from matplotlib.figure import Figure

    columns = max(columns, 2)
    figure = Figure(figsize=(1.5 * columns + 1, 1.7 * rows + extra + 0.4), layout="constrained")
    ratios = [1.7] * rows + ([extra] if extra else [])
    grid = figure.add_gridspec(len(ratios), columns, height_ratios=ratios)
    figure.inti_grid = grid  # type: ignore[attr-defined]
    cells = np.array([[figure.add_subplot(grid[i, j]) for j in range(columns)] for i in range(rows)])
    for axis in cells.ravel():
        axis.set_axis_off()
    return figure, cells


def _show(axis: "Axes", frame: Tensor, weights: Tensor | None, title: str, signed: bool = False):
    """Show a frame with weights (h, w) over it; the colour scale is fixed."""
    axis.set_axis_off()
    axis.set_title(title, fontsize=8)
    image = axis.imshow(frame.permute(1, 2, 0).numpy())
    if weights is None:
        return image
    pixels = to_pixels(weights[None, None], (frame.shape[-2], frame.shape[-1]))[0, 0]
    low, colors = (-1, _SIGNED) if signed else (0, _COLORS)
    return axis.imshow(pixels.numpy(), cmap=colors, vmin=low, vmax=1, alpha=0.6)


def _draw_fractions(axis: "Axes", explanation: Explanation, at: int | None = None) -> None:
    e = explanation
    colors = ["tab:orange" if t == at else "tab:blue" for t in range(len(e.fractions))]
    axis.bar(range(len(e.fractions)), e.fractions.tolist(), color=colors)
    step = -(-len(e.fractions) // 16)
    ticks = [moment.removeprefix("frame ").removesuffix(" s") for moment in e.moments]
    axis.set_xticks(range(0, len(e.fractions), step), ticks[::step], fontsize=7)
    axis.tick_params(axis="y", labelsize=7)
    axis.set_xlabel("frame" if e.times is None else "time of the frame, s", fontsize=8)
    axis.set_ylabel("fraction", fontsize=8)
    axis.axhline(1 / len(e.fractions), color="gray", linewidth=0.8, linestyle="--")


def _weights_before(weights: ClipWeights, compressions: int) -> Tensor:
    """Return the weights of the input frames in those after ``compressions``, (B, T_0, h, w)."""
    stages = weights.interpolation_weights[:compressions]
    return cascade(stages) if stages else torch.ones_like(weights.frame_weights)


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()
