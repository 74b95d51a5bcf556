"""Pictures of moments found by a search: a page with frames of each and a time line, or an animation."""

import base64
import html
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw
from torch import Tensor

from ..data import Limits
from ..data.limits import DEFAULT_LIMITS
from ..data.video import read_duration, read_frames
from ..files import check_output, replacing
from ..inference.search import Moment
from ..text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAMES, HEIGHT = 6, 120  # of a moment on a page, and their height in pixels
GIF_SIZE, GIF_FRAMES, GIF_STEP = (240, 180), 8, 200  # pixels; frames of a moment; milliseconds of each


def write(moments: Sequence[Moment], query: str, path: str | os.PathLike[str], limits: Limits = DEFAULT_LIMITS) -> None:
    """Write the format of the file's suffix, .html or .gif, whole or not at all.

    A moment whose video can no longer be read says so in place of its frames.

    Raises:
        ValueError: for another suffix, or a GIF of no moments.
        OSError: if its folder is missing, or it cannot be written.
    """
    path = Path(path)
    check_output(path, WRITERS)
    with replacing(path) as unfinished:
        WRITERS[path.suffix](moments, query, unfinished, limits)


def draw_time_lines(moments: Sequence[Moment], files: Sequence[str]) -> "Figure":
    """Draw a line for each file, with its moments, the darker the higher they score.

    Args:
        moments: what to show.
        files: in the order of the lines.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.5 * len(files)), layout="constrained")
    axis = figure.add_subplot()
    highest = max((moment.score for moment in moments), default=1.0)
    for moment in moments:
        opacity = min(1.0, max(0.05, moment.score / highest if highest > 0 else 1.0))
        stretch = (moment.start, moment.end - moment.start)
        axis.broken_barh([stretch], (files.index(moment.file) - 0.35, 0.7), color="tab:blue", alpha=opacity)
    axis.set_yticks(range(len(files)))
    axis.set_yticklabels([printable(Path(file).name) for file in files], parse_math=False)
    axis.set_ylim(len(files) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.set_xlabel("s")
    return figure


def frames_of(moment: Moment, count: int, limits: Limits = DEFAULT_LIMITS) -> Tensor:
    """Read the frames at the middles of ``count`` equal parts of a moment, uint8 (count, 3, H, W).

    Raises:
        OSError, ValueError: if the video cannot be read.
    """
    step = (moment.end - moment.start) / count
    return read_frames(moment.file, [moment.start + (i + 0.5) * step for i in range(count)], limits=limits)


def _write_html(moments: Sequence[Moment], query: str, path: Path, limits: Limits) -> None:
    ends: dict[str, float] = {}
    for moment in moments:
        ends[moment.file] = max(ends.get(moment.file, 0.0), moment.end)
    for file, end in ends.items():
        with suppress(OSError, ValueError):
            ends[file] = max(end, read_duration(file, limits))
    sections = []
    for moment in moments:
        try:
            pictures = "".join(_picture(frame) for frame in frames_of(moment, FRAMES, limits))
        except (OSError, ValueError) as error:
            pictures = f"<p>{_escaped(str(error))}</p>"
        left, width = (100 * seconds / ends[moment.file] for seconds in (moment.start, moment.end - moment.start))
        sections.append(
            f"<section><h2>{_escaped(moment.file)}</h2><p>{moment.start:.2f}-{moment.end:.2f} s, score "
            f'{moment.score:.3f}</p><div class="line"><div style="margin-left:{left:.2f}%;width:{width:.2f}%"></div>'
            f"</div>{pictures}</section>"
        )
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Moments</title><style>'
        "body{font:1rem/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#111;"
        "background:#fff}h2{font-size:1rem;margin-bottom:0;overflow-wrap:anywhere}p{margin:0}"
        ".line{background:#ddd;margin:.3rem 0}.line div{background:#06c;height:.4rem;min-width:2px}"
        f"</style></head><body><h1>{_escaped(query)}</h1>{''.join(sections) or '<p>No moments.</p>'}</body></html>\n",
        encoding="utf-8",
    )


def _picture(frame: Tensor) -> str:
    image = Image.fromarray(frame.permute(1, 2, 0).numpy())
    image = image.resize((max(1, round(image.width * HEIGHT / image.height)), HEIGHT))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"> '


def _write_gif(moments: Sequence[Moment], query: str, path: Path, limits: Limits) -> None:
    first, *others = _animation(moments, limits)
    first.save(path, save_all=True, append_images=others, duration=GIF_STEP, loop=0)


def _animation(moments: Sequence[Moment], limits: Limits) -> Iterator[Image.Image]:
    """Yield the frames of one moment after another, with their file and times."""
    if not moments:
        raise ValueError("There are no moments to show; a .gif needs one.")
    for moment in moments:
        try:
            frames = [Image.fromarray(f.permute(1, 2, 0).numpy()) for f in frames_of(moment, GIF_FRAMES, limits)]
        except (OSError, ValueError):
            frames = [Image.new("RGB", GIF_SIZE)] * GIF_FRAMES
        for frame in frames:
            frame.thumbnail(GIF_SIZE)
            canvas = Image.new("RGB", (GIF_SIZE[0], GIF_SIZE[1] + 20))
            canvas.paste(frame, ((GIF_SIZE[0] - frame.width) // 2, (GIF_SIZE[1] - frame.height) // 2))
            name = printable(Path(moment.file).name).encode("ascii", "replace").decode()
            caption = f"{name[-22:]} {moment.start:.1f}-{moment.end:.1f} s"
            ImageDraw.Draw(canvas).text((4, GIF_SIZE[1] + 4), caption, fill="white")
            yield canvas


def _escaped(text: str) -> str:
    return html.escape(printable(text))


WRITERS: dict[str, Callable[[Sequence[Moment], str, Path, Limits], None]] = {".html": _write_html, ".gif": _write_gif}
