"""What the accuracy benchmarks share: one model adapted in every way, its training, and many rows that resume.

A row of a table is a model that is trained and measured; `run_rows` runs what is not finished, several at once.
"""

import json
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import timm
import torch
from baselines import add_temporal_attention, drop_static_tokens, drop_tokens, merge_frames, tokens_at_cost
from torch import nn
from tqdm import tqdm

from inti_models.evaluation.evaluate import Evaluation, Videos, evaluate
from inti_models.files import write_text
from inti_models.models.reductions import drop_frames, frames_at_cost, keep_frames
from inti_models.models.stages import InTIModel
from inti_models.models.token_merging import merge_tokens, tome_schedule
from inti_models.training.objectives import Objective
from inti_models.training.recipe import Data, Optimization, Recipe
from inti_models.training.run import init_interpolation_logits
from inti_models.training.trainer import Clips, Progress, Trainer, create_accelerator

# Logits at the start: weights 0.12 and 0.88 in each weighting.
LOGIT_INIT = {"softmax": 1.0, "sigmoid": 2.0, "linear": 0.381, "uniform": 0.0}
SAVE_EVERY = 200  # updates

METHODS = (
    "as it is", "drop frames", "merge frames", "random frames", "random tokens", "changed tokens", "ToMe",
    "temporal attention", "fixed weights",
)  # fmt: skip


def adapt(model: InTIModel, method: str, gflops: float, logit_init: float | None = None) -> nn.Module:
    """The model that a row trains. Changes the one that is given.

    Args:
        model: with its weights and its head; naive (``compress_at=()``) for all but "as it is", "drop frames",
            "merge frames" and "fixed weights".
        method: one of `METHODS`: InTI or the naive model as it is, or a baseline of `baselines`.
        gflops: what a clip costs InTI, which fewer frames, fewer tokens and "ToMe" are to cost too.
        logit_init: see `init_interpolation_logits`; None for that of the weighting.
    """
    for interpolations in model.interpolations.values():
        weighting = interpolations[0].weighting  # type: ignore[index]
        init_interpolation_logits(model, LOGIT_INIT[weighting] if logit_init is None else logit_init)
    match method:
        case "drop frames":
            return drop_frames(model)
        case "merge frames":
            return merge_frames(model)
        case "random frames":
            return keep_frames(model, frames_at_cost(model, gflops), random=True)
        case "random tokens":
            return drop_tokens(model, tokens_at_cost(model, model.num_frames, gflops))
        case "changed tokens":
            return drop_static_tokens(model, tokens_at_cost(model, model.num_frames, gflops))
        case "ToMe":
            return merge_tokens(model, tome_schedule(model, model.num_frames, gflops))
        case "temporal attention":
            return add_temporal_attention(model)
        case "fixed weights":
            model.interpolations.requires_grad_(False)
        case "as it is":
            pass
        case _:
            raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(METHODS)}.")
    return model


def use_plain_attention(model: nn.Module) -> None:
    """Compute attention as plain matrix products, where there is no GPU.

    Compiled under bfloat16 on a CPU, that takes 0.4 of the time of the fused kernel for the few tokens of small frames
    (a training step of the naive model at 48 pixels: 130 ms, fused 346 ms).
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "fused_attn"):  # timm's
            module.fused_attn = torch.cuda.is_available()


def fit(
    model: nn.Module,
    clips: Clips,
    folder: Path,
    *,
    seed: int,
    smoothing: float = 0.0,
    objective: Objective | None = None,
    **optimization: Any,
) -> Progress:
    """Train all parameters under bfloat16 autocast, compiled; a stopped run resumes from the state in ``folder``.

    Args:
        model: see `Trainer`.
        clips: to train on.
        folder: of the run.
        seed: of the order and all that is random.
        smoothing: of the labels.
        objective: what is minimised; None for classification.
        **optimization: fields of `Optimization` that differ from AdamW with a cosine schedule.
    """
    use_plain_attention(model)
    values = {"warmup_epochs": 0.05, "weight_decay": 0.05, "opt_args": {"fused": True}, **optimization}
    recipe = Recipe(
        model="",
        data=Data(train="", num_workers=0),
        seed=seed,
        save_every=SAVE_EVERY,
        precision="bf16",
        compile=True,
        optimization=Optimization(**values),
    )
    recipe.augmentation.smoothing = smoothing
    return Trainer(model, recipe, clips, None, folder, create_accelerator(recipe), objective=objective).run()


def measure(model: nn.Module, videos: Videos, seed: int = 0) -> Evaluation:
    """Evaluate in float32, not compiled; what is random (frames, tokens) is drawn from ``seed``."""
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    with torch.compiler.set_stance("force_eager"):
        return evaluate(model, videos, batch_size=64, device=device, progress=False)


def paired_difference(correct: np.ndarray, reference: np.ndarray, samples: int = 10_000) -> tuple[float, float, float]:
    """Difference of two accuracies on the same clips, and its 95% bootstrap interval over clips, in points.

    Args:
        correct: of the model, (seeds, clips): 1 where it is right.
        reference: of the model that it is compared with, (seeds, clips), for as many seeds or others.
        samples: bootstrap samples, drawn from a fixed seed.

    Returns:
        Mean, lower and upper end, in percentage points.
    """
    difference = (correct.mean(axis=0) - reference.mean(axis=0)) * 100
    random = np.random.default_rng(0)
    clips = len(difference)
    means = difference[random.integers(clips, size=(samples, clips))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(difference.mean()), float(low), float(high)


@torch.inference_mode()
def throughput(models: dict[str, nn.Module], clip: Callable[[str], torch.Tensor], rounds: int = 7) -> dict[str, float]:
    """Clips a second of each model, on one thread: medians of rounds in which all take turns.

    Args:
        models: by name; in evaluation mode.
        clip: name -> a batch of clips.
        rounds: after one that warms up.
    """
    torch.set_num_threads(1)
    for model in models.values():
        use_plain_attention(model)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in tqdm(range(rounds + 1), desc="throughput"):
        for name, model in models.items():
            clips = clip(name)
            start = time.perf_counter()
            model(clips)
            times[name].append((time.perf_counter() - start) / len(clips))
    return {name: round(1 / float(np.median(seconds[1:])), 1) for name, seconds in times.items()}


class Row(Protocol):
    """A model to train and to measure; ``id`` names its folder and tells it from all others."""

    @property
    def id(self) -> str: ...


RowT = TypeVar("RowT", bound=Row)


def file_name(text: str) -> str:
    """The text as a name of a folder."""
    return "".join(c if c.isalnum() else "-" for c in text)


def finish(row: Row, folder: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``, which says that a row is finished; its training state is no longer needed."""
    device = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "timm": timm.__version__}
    result = {"id": row.id, **result, "device": device, "versions": versions}
    write_text(folder / "result.json", json.dumps(result, indent=2) + "\n")
    (folder / "state.pt").unlink(missing_ok=True)


def collect(file: Path, rows: Sequence[Row], work_dir: Path) -> list[dict[str, Any]]:
    """The finished rows, those in ``file`` and those in the work folder, in the order of ``rows``; written to ``file``.

    Rows that are not among ``rows`` stay, at the end: a file that was made by several runs loses nothing.
    """
    results = {result["id"]: result for result in read_results(file)}
    for row in rows:
        here = work_dir / row.id / "result.json"
        if here.exists():
            speed = results.get(row.id, {}).get("clips_per_second")
            results[row.id] = {**json.loads(here.read_text(encoding="utf-8")), "clips_per_second": speed}
    order = {row.id: i for i, row in enumerate(rows)}
    ordered = sorted(results.values(), key=lambda result: order.get(result["id"], len(order)))
    if ordered:
        write_results(file, ordered)
    return ordered


def read_results(file: Path) -> list[dict[str, Any]]:
    """What `write_results` wrote; nothing if there is no file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def write_results(file: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write results as JSON, one row a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "[\n" + ",\n".join(json.dumps(result) for result in results) + "\n]\n")


def run_rows(
    stages: Sequence[Sequence[RowT]],
    run: Callable[[RowT, Path], None],
    finished: Callable[[], Sequence[dict[str, Any]]],
    work_dir: Path,
    jobs: int,
    start_of: Callable[[RowT], str | None] = lambda row: None,
) -> None:
    """Run what is not finished, ``jobs`` rows at once, each with OMP_NUM_THREADS threads or its part of the cores.

    Args:
        stages: a row starts from rows of earlier stages only.
        run: trains and measures a row, in a process of its own, and calls `finish`.
        finished: collects the finished rows; called after each.
        work_dir: given to ``run``.
        jobs: rows at once.
        start_of: id of the row whose weights a row starts from. They are trained again where they were lost with the
            work folder.
    """
    done = {result["id"] for result in finished()}
    left, needed = set[str](), set[str | None]()
    for row in (row for stage in reversed(stages) for row in stage):
        lost = row.id in needed and not (work_dir / row.id / "model.safetensors").exists()
        if row.id not in done or lost:
            left.add(row.id)
            needed.add(start_of(row))
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // jobs))
    context = multiprocessing.get_context("spawn")
    with tqdm(total=sum(map(len, stages)), desc="rows", unit="row") as bar:
        for stage in stages:
            todo = [row for row in stage if row.id in left]
            bar.update(len(stage) - len(todo))
            with ProcessPoolExecutor(jobs, context, _start_worker, (threads,)) as pool:
                futures = [pool.submit(run, row, work_dir) for row in todo]
                try:
                    for future in as_completed(futures):
                        future.result()
                        bar.update()
                        finished()
                except BaseException:
                    for future in futures:
                        future.cancel()
                    raise


def _start_worker(threads: int) -> None:
    """A worker ends with the process that started it, however that ended."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def mean_and_spread(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and standard deviation over seeds; None for the latter where there is one seed."""
    values = list(values)
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def with_spread(mean: float, spread: float | None, digits: int = 1, sign: str = "") -> str:
    """What `mean_and_spread` gave, as text."""
    text = f"{mean:{sign}.{digits}f}"
    return text if spread is None else f"{text} ± {spread:.{digits}f}"


def with_interval(difference: tuple[float, float, float]) -> str:
    """What `paired_difference` gave, as text."""
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*difference)
