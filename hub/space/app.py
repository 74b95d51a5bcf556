"""Demo page: from a video to labels, cost beside the naive model, and pictures of what was kept; and search in videos.

    make space        # or: python hub/space/app.py [--port 7860]

Runs offline with the weights that ship with the package. Pushed to the Hub, it is a Gradio Space (README.md here).
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import gradio as gr
import torch

from inti_models import InTIModel, load
from inti_models.data import FrameSampling, Limits, write_video
from inti_models.data.motion_digits import MotionDigits
from inti_models.inference.embedding import Windows
from inti_models.inference.predict import NONE, VideoClassifier, top_labels
from inti_models.inference.search import by_words, search_files
from inti_models.models.flops import count_flops
from inti_models.models.precision import PRECISIONS, set_precision
from inti_models.visualize.figures import draw_relevance, draw_stages, draw_weights, explain_clips
from inti_models.visualize.moments import draw_time_lines

SHIPPED = "inti_vit_t8_32_motiondigits"
MODELS = (SHIPPED, "inti_vit_b16_k400", "inti_vit_l14_k400")  # the others are downloaded when they are first chosen
OWN, NAIVE = "the model's own", "none (naive: every frame)"
MAX_SECONDS, MAX_MEGABYTES, MAX_PLACES = 60, 50, 12
MAX_LABELS = 20  # shown, of a model that gives a video several
EXAMPLES = Path(__file__).parent / "examples"
LIMITS = Limits(max_duration=MAX_SECONDS, timeout=MAX_SECONDS)
PASSES = 5
MOMENTS = 8
DEFAULTS = (SHIPPED, OWN, "auto")  # model, schedule, precision
# On a telephone figures keep a size at which their text can be read, and are scrolled. What went wrong stands in the
# message alone, not in the results too.
CSS = """
/* Gradio leaves the list of a dropdown open when Tab leaves it. */
.block:not(:focus-within) ul[role="listbox"] { display: none; }
#video video { max-height: 16rem; }
.figure div:has(> img) { display: block; overflow-x: auto; width: 100%; }
.figure img { min-width: 52rem; max-width: 100%; }
#labels .wrap:has(.error) { display: none; }
#cost th, #cost td { font-size: .75rem; padding: .2rem; overflow-wrap: normal; word-break: normal; }
"""


def make_examples(folder: Path = EXAMPLES) -> list[str]:
    """Write MotionDigits clips whose digit shows in only a few frames, as video files."""
    folder.mkdir(exist_ok=True)
    digits = MotionDigits("validation", size=64, occlusion=1.0)
    paths = []
    for i in (1, 40, 77):
        paths.append(folder / f"digit-{i}.mp4")
        if not paths[-1].exists():
            write_video(paths[-1], digits[i][0], fps=8)
    return [str(path) for path in paths]


def check_size(video: str) -> None:
    """Raise a ValueError for a file that is too large."""
    size = os.path.getsize(video) / 1e6
    if size > MAX_MEGABYTES:
        raise ValueError(f"The file has {size:.0f} MB; use one of at most {MAX_MEGABYTES} MB.")


def schedule(text: str) -> tuple[int, ...] | None:
    """Return the blocks to compress after: None for the model's own, () for the naive model.

    Raises:
        ValueError: if it is neither a choice nor numbers separated by commas, at most `MAX_PLACES`.
    """
    if text in (OWN, NAIVE):
        return None if text == OWN else ()
    if len(text) > 8 * MAX_PLACES or text.count(",") >= MAX_PLACES:
        raise ValueError(f"This schedule is too long; write at most {MAX_PLACES} numbers, such as 2, 5.")
    places = [place.strip() for place in text.split(",")]
    if not all(place.isdecimal() for place in places):
        raise ValueError(f"{text!r} is not a schedule; write the numbers of blocks to compress after, such as 2, 5.")
    return tuple(int(place) for place in places)


@lru_cache(maxsize=6)
def model_of(name: str, compress_at: tuple[int, ...] | None, precision: str = "float32") -> tuple[InTIModel, float]:
    """Return a model with its weights, loaded once, and its GFLOPs."""
    model = load(name, **({} if compress_at is None else {"compress_at": compress_at})).eval()
    gflops = count_flops(model, (1, model.num_frames, model.in_chans, *model.patch_embed.img_size)).gflops
    set_precision(model, precision)
    return model, gflops


@torch.inference_mode()
def milliseconds(models: Sequence[InTIModel], clip: torch.Tensor) -> list[float]:
    """Measure the median time of a forward pass of each model, in turns."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(PASSES + 1):
        for model, spent in zip(models, times, strict=True):
            start = time.perf_counter()
            model(clip)
            spent.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(spent[1:]) for spent in times]


def classify(
    video: str | None,
    name: str,
    compress_at: str,
    precision: str,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
):
    """Return what the page shows for a video: labels, a table of costs, and three figures (drawn in float32)."""
    if name != SHIPPED:
        progress(0.1, desc=f"Loading {name}; the first time its CLIP comes from the Hugging Face Hub, in minutes")
    try:
        if not video:
            raise ValueError("There is no video yet; upload or record one, or choose an example.")
        check_size(video)
        models, gflops = zip(*(model_of(name, at, precision) for at in (schedule(compress_at), ())), strict=True)
        clips = FrameSampling.of(models[0]).read(video, limits=LIMITS)
        (explanation,) = explain_clips(model_of(name, schedule(compress_at))[0], clips.frames, clips.times)
    except (
        OSError,
        ValueError,
        ImportError,
    ) as error:  # a sentence each; the folder of uploads tells the reader nothing
        raise gr.Error(str(error).replace(str(video), "The file"), duration=None, print_exception=False) from error
    reader = VideoClassifier(models[0])
    clip = reader.transform(clips.frames[0]).unsqueeze(0)
    labels = top_labels(models[0], reader.logits(clip))
    spent = milliseconds(models, clip)
    rows = [
        [label, str(list(each.compress_at)), float(f"{cost:.4g}"), round(ms, 1)]
        for label, each, cost, ms in zip(
            (f"this model, {models[0].precision}", "naive"), models, gflops, spent, strict=True
        )
    ]
    return (
        {label.name: label.probability for label in labels} or NONE,
        rows,
        draw_weights(explanation),
        draw_stages(explanation),
        draw_relevance(explanation),
    )


def find(words: str, name: str, video: str | None):
    """Return what the page shows for words: a table of moments in the examples and in a video, and their time lines."""
    try:
        if not words.strip():
            raise ValueError("There are no words yet; type what to look for.")
        model, _ = model_of(name, None)
        if video:
            check_size(video)
            FrameSampling.of(model).read(video, limits=LIMITS)  # which says what is too long, or no video
        files = [*make_examples(), *([video] if video else [])]
        windows = Windows((8.0,), (model.num_frames, 2 * model.num_frames), stride=2)
        moments = search_files(model, files, by_words(model, words.strip()), windows, MOMENTS)
    except (OSError, ValueError, ImportError) as error:
        raise gr.Error(str(error).replace(str(video), "The file"), duration=None, print_exception=False) from error
    rows = [[Path(m.file).name, round(m.start, 2), round(m.end, 2), round(m.score, 3)] for m in moments]
    return rows, draw_time_lines(moments, files)


def label_tab() -> None:
    """Build the tab from a video to labels, costs and pictures."""
    with gr.Row():
        with gr.Column():
            video = gr.Video(label=f"Video, at most {MAX_SECONDS} s and {MAX_MEGABYTES} MB", elem_id="video")
            gr.Examples(make_examples(), video, label="Examples: MotionDigits, where the digit shows in few frames")
            name = gr.Dropdown(
                list(MODELS),
                value=SHIPPED,
                label="Model",
                info="The first runs offline and knows MotionDigits: a digit and how it moves, such as “3, left”. The "
                "others know the 400 actions of Kinetics, and load their CLIP from the Hugging Face Hub.",
            )
            places = gr.Dropdown(
                [OWN, NAIVE],
                value=OWN,
                label="Compress after blocks",
                info="Or write your own, such as 2, 5, 6.",
                allow_custom_value=True,
            )
            precision = gr.Dropdown(
                list(PRECISIONS), value="auto", label="Precision", info="auto: bfloat16 where native"
            )
            button = gr.Button("Label it", variant="primary", elem_id="run")
        with gr.Column():
            labels = gr.Label(label="Labels", num_top_classes=MAX_LABELS, elem_id="labels")
            cost = gr.Dataframe(
                headers=["model", "after blocks", "GFLOPs", "ms"],
                column_widths=["32%", "24%", "26%", "18%"],
                elem_id="cost",
                label="Cost of a clip, and time on this machine",
                interactive=False,
                wrap=True,
            )
    plots = []
    for title in (
        "What was kept: the frames under their weights, and what each group became",
        "Each compression: the weights of the two frames of each pair",
        "What supports (red) and opposes (blue) the first label",
    ):
        gr.Markdown(f"### {title}")
        plots.append(gr.Plot(show_label=False, elem_classes="figure"))
    button.click(
        classify,
        [video, name, places, precision],
        [labels, cost, *plots],
        api_name="classify",
        show_progress_on=labels,
    )


def search_tab() -> None:
    """Build the tab from words or a class to moments of the examples and of a video."""
    with gr.Row():
        with gr.Column():
            words = gr.Textbox(
                label="What to look for",
                value="3, left",
                info="With the first model a digit and how it moves, such as “3, left”; with the others any words.",
                elem_id="words",
            )
            name = gr.Dropdown(list(MODELS), value=SHIPPED, label="Model")
            video = gr.Video(label=f"A video besides the examples, at most {MAX_SECONDS} s and {MAX_MEGABYTES} MB")
            button = gr.Button("Find it", variant="primary", elem_id="find")
        with gr.Column():
            found = gr.Dataframe(
                headers=["video", "from, s", "to, s", "score"], label="Moments", elem_id="moments", interactive=False
            )
            line = gr.Plot(show_label=False, elem_classes="figure")
    button.click(find, [words, name, video], [found, line], api_name="find", show_progress_on=found)


def page() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="InTI: what was kept of a video", analytics_enabled=False) as demo:
        gr.Markdown(
            "# InTI: what was kept of a video\n"
            "The network halves the frames between its blocks: two neighbouring frames become one, token by token, "
            "with weights that it predicts. Give it a video; see how it labels it, at what cost, and what it kept."
        )
        with gr.Tab("Label a video"):
            label_tab()
        with gr.Tab("Find moments", elem_id="find-tab"):
            search_tab()
    return demo


def launch(port: int | None = None, block: bool = True) -> tuple[gr.Blocks, str]:
    """Serve the page; return it and its address."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none from the network
    demo = page().queue(max_size=64)
    _, address, _ = demo.launch(
        server_port=port,
        prevent_thread_lock=not block,
        max_file_size=f"{MAX_MEGABYTES}mb",
        theme=theme,
        css=CSS,
        quiet=not block,
    )
    return demo, address


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int)
    launch(parser.parse_args().port)
