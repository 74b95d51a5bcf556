"""Draw docs/assets/architecture.png: the frames of a clip, halved between the blocks of the shipped model.

    python docs/architecture.py

The pictures show a MotionDigits clip and what it became: sums of its frames with the weights that the model predicts.
"""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import FancyBboxPatch

from inti_models import load
from inti_models.data.motion_digits import MotionDigits
from inti_models.models.flops import zoo_cost
from inti_models.models.interpolation import cascade
from inti_models.visualize.explain import aggregate
from inti_models.visualize.figures import explain_clips

NAME = "inti_vit_t8_32_motiondigits"
PICTURE, BLOCK = 1.1, 1.35  # widths of a column of pictures and of a block; a frame is 1 high
BLUE, GRAY = "#3b6ea8", "#666666"


def show(axes: Axes, frame: torch.Tensor, x: float, y: float) -> None:
    picture = OffsetImage(frame.permute(1, 2, 0).numpy(), zoom=0.85, interpolation="nearest")
    axes.add_artist(AnnotationBbox(picture, (x, y), frameon=False, pad=0))


def draw() -> Figure:
    model = load(NAME)
    clip = MotionDigits("validation", size=64, occlusion=1.0).render([1]).clips
    (explanation,) = explain_clips(model, clip)
    weights = explanation.weights.interpolation_weights
    pictures = [explanation.frames]
    for stage in range(1, len(weights) + 1):
        became = aggregate(explanation.frames[None].float(), cascade(weights[:stage]), 2**stage)[0]
        pictures.append(became.round().clamp(0, 255).byte())

    bounds = [0, *model.compress_at, len(model.blocks)]
    figure = Figure(figsize=(10, 4.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    x, rows = 0.0, [float(t) for t in range(len(clip[0]))]
    for stage, frames in enumerate(pictures):
        if stage:
            above = rows
            rows = [sum(pair) / 2 for pair in zip(rows[::2], rows[1::2], strict=True)]
            for i, row in enumerate(above):
                axes.plot([x, x + 0.75], [row, rows[i // 2]], color="black", linewidth=1.1)
            axes.text(x + 0.3, -0.5, "$w_0 x_0 + w_1 x_1$", ha="center", fontsize=9)
            x += 0.75
        left = x
        for frame, row in zip(frames, rows, strict=True):
            show(axes, frame, x + PICTURE / 2, row)
        x += PICTURE + 0.1
        start = x
        for block in range(bounds[stage], bounds[stage + 1]):
            for row in rows:
                box = FancyBboxPatch(
                    (x + 0.08, row - 0.32), BLOCK - 0.16, 0.64, boxstyle="round,pad=0,rounding_size=0.1"
                )
                box.set(facecolor=BLUE, edgecolor="none")
                axes.add_patch(box)
            axes.text(x + BLOCK / 2, len(clip[0]) - 0.25, f"block {block + 1}", ha="center", fontsize=9)
            x += BLOCK
        count = f"{len(rows)} frames" if len(rows) > 1 else "1 frame"
        axes.text((left + x) / 2, -1.1, count, ha="center", fontsize=11, color=BLUE, weight="bold")
        for row in rows:
            axes.plot([start, x], [row, row], color=BLUE, linewidth=1.1, zorder=0)
    for row in rows:
        axes.plot([x, x + 0.6], [row, sum(rows) / len(rows)], color="black", linewidth=1.1)
    axes.text(x + 0.7, sum(rows) / len(rows), f"head\n“{explanation.labels[0].name}”", va="center", fontsize=10)
    cost, naive = zoo_cost(NAME, model.num_frames), zoo_cost(NAME, model.num_frames, compress_at=())
    axes.text(
        (x + 1) / 2,
        len(clip[0]) + 0.7,
        f"{cost.gflops:.3f} GFLOPs; {naive.gflops:.3f} if all {model.num_frames} frames went through every block",
        ha="center",
        fontsize=10,
        color=GRAY,
    )
    axes.set(xlim=(-0.1, x + 2.4), ylim=(len(clip[0]) + 1, -1.6))
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).parent / "assets" / "architecture.png", metadata={"Software": None})
