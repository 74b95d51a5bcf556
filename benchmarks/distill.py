"""Compression learned without labels: how closely a model follows its teacher, beside what needs no training.

    python benchmarks/distill.py
    python benchmarks/distill.py --real jhmdb --real-work-dir runs/real_videos

The teacher on MotionDigits is the shipped model without compression (tag ``naive``), the student the same weights with
interpolations, the only part that is trained; labels are only for evaluation. On real clips the teachers are the naive
models of benchmarks/real_videos.py, one per fold, and all are evaluated on the held-out fold. A row is written to
``results/distill.json`` when it is finished; a rerun resumes, even in the middle of a row.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import real_videos
import torch
from experiments import (
    SAVE_EVERY,
    collect,
    file_name,
    finish,
    mean_and_spread,
    run_rows,
    use_plain_attention,
    with_spread,
)
from real_videos import StoredFrames, Training, read_folds
from timm.data import resolve_input_data_config
from torch import Tensor, nn

from inti_models import load
from inti_models.data import MotionDigitsClips, create_clip_transform, create_train_transform
from inti_models.data.datasets import VideoDataset
from inti_models.data.motion_digits import MotionDigits, split_labels
from inti_models.evaluation.evaluate import Videos
from inti_models.evaluation.fidelity import TEACHER, Fidelity, Readout, controls, gflops_of, outputs_of
from inti_models.files import write_text
from inti_models.models.heads import CosineHead
from inti_models.models.registry import create_model
from inti_models.models.stages import InTIModel
from inti_models.training.distill import DISTILLED, Distillation
from inti_models.training.recipe import Data, Distill, Optimization, Recipe
from inti_models.training.trainer import Clips, Trainer, create_accelerator
from inti_models.weights.checkpoint_filter import load_checkpoint

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "distill.json"
NAIVE = "inti_vit_t8_32_motiondigits.naive"
VALIDATION_CLIPS, BATCH, LR = 3_000, 16, 3e-3
SEEDS = 3
SCALED = 100.0  # CLIP's scale of cosines


@dataclass(frozen=True)
class Row:
    """A student, or what needs no training at its cost.

    Attributes:
        table: the table that it belongs to.
        compress_at: where it compresses.
        clips: clips to learn from; 0 for the controls.
        seed: seed of clips, their order and random initial values.
        targets, temperature: see `inti_models.training.recipe.Distill`.
        steps: whether the first half of the clips is learned with only the first compression.
        scaled: follow cosines with the mean feature of each digit, times `SCALED`, instead of the model's logits: a
            head like a text head.
        fold: fold of real clips; None for MotionDigits.
    """

    table: str
    compress_at: tuple[int, ...]
    clips: int
    seed: int = 0
    targets: str = "logits"
    temperature: float = 1.0
    steps: bool = False
    scaled: bool = False
    fold: int | None = None

    @property
    def name(self) -> str:
        """Its name in its table."""
        if not self.clips:
            return "controls"
        name = DISTILLED if self.targets == "logits" else f"{DISTILLED}, {self.targets}"
        if self.table.startswith("targets"):
            name = "cosine of embeddings" if self.targets == "embedding" else f"{self.targets}, T={self.temperature:g}"
        return f"{name}, in steps" if self.steps else name

    @property
    def id(self) -> str:
        fold = "" if self.fold is None else f" fold{self.fold}"
        return file_name(f"distill {self.table} {self.compress_at} {self.name} {self.clips}{fold} seed{self.seed}")


SCHEDULES = {(2, 5): 64_000, (1, 3): 16_000, (1, 2, 4): 16_000, (2, 5, 6): 16_000}
SHORT = 6_400  # clips, of comparisons of targets


def plan(real: bool) -> list[Row]:
    """Return all rows, the most telling first."""
    main, others = (2, 5), [schedule for schedule in SCHEDULES if schedule != (2, 5)]
    table = "MotionDigits"
    rows = [Row(table, main, SCHEDULES[main]), Row(table, main, 0)]
    rows += [Row(table, main, SCHEDULES[main], seed) for seed in range(1, SEEDS)]
    targets = [
        *(Row("targets", main, SHORT, temperature=t) for t in (1.0, 2.0, 4.0, 10.0)),
        Row("targets", main, SHORT, targets="embedding"),
        Row("targets", main, SHORT, targets="both"),
    ]
    rows += targets
    if real:
        for fold in range(real_videos.FOLDS):
            rows += [Row("real clips", main, 0, fold=fold), Row("real clips", main, SHORT, fold=fold)]
    rows += [Row(table, schedule, 0) for schedule in others]
    rows += [Row(table, schedule, SCHEDULES[schedule], seed) for seed in range(SEEDS) for schedule in others]
    rows += [Row("steps", main, 2 * SHORT), Row("steps", main, 2 * SHORT, steps=True)]
    rows += [dataclasses.replace(row, table="targets at a scale of 100", scaled=True) for row in targets]
    words = Row("a head of digits alone", main, SCHEDULES[(1, 3)], temperature=2.0, scaled=True)
    rows += [dataclasses.replace(words, clips=0), *(dataclasses.replace(words, seed=seed) for seed in range(SEEDS))]
    return rows


# A row's models and clips


@dataclass(frozen=True)
class Setup:
    """Locations of real clips: the data set, and the work folder of benchmarks/real_videos.py."""

    data: Path | None = None
    work_dir: Path | None = None


def build(row: Row, setup: Setup) -> tuple[InTIModel, InTIModel]:
    """Build teacher and student, with their heads."""
    torch.manual_seed(row.seed)
    if row.fold is None:
        return load(NAIVE, compress_at=()), load(NAIVE, compress_at=row.compress_at)
    assert setup.data is not None and setup.work_dir is not None
    classes = len(read_folds(setup.data).videos.class_names)
    naive = real_videos.Row(setup.data.name, "naive, every frame", row.fold, 0)
    models = []
    for compress_at in ((), row.compress_at):
        model: Any = create_model(
            real_videos.ARCHITECTURE, img_size=real_videos.SIZE, num_classes=classes, compress_at=compress_at
        )
        load_checkpoint(model, setup.work_dir / naive.id / "model.safetensors")
        models.append(model)
    return models[0], models[1]


def data_of(row: Row, setup: Setup, model: InTIModel) -> tuple[Clips, Any]:
    """Return clips to learn from, and held-out ones with labels."""
    config = resolve_input_data_config(model)
    transform = create_clip_transform(**config)
    if row.fold is None:
        digits = partial(MotionDigits, size=config["input_size"][-1], num_frames=model.num_frames)
        train = digits("train", length=max(row.clips, BATCH), seed=row.seed)
        held_out = digits("validation", length=VALIDATION_CLIPS)
        return MotionDigitsClips(train, transform, train=True, seed=row.seed), MotionDigitsClips(held_out, transform)
    assert setup.data is not None and setup.work_dir is not None
    folds = read_folds(setup.data)
    frames = StoredFrames(model.num_frames, folder=setup.work_dir / "frames" / setup.data.name)
    augment = create_train_transform(**config, scale=Training().scale)
    train_clips = VideoDataset(folds.part(folds.train[row.fold]), augment, frames, train=True, seed=row.seed)
    return train_clips, VideoDataset(folds.part(folds.test[row.fold]), transform, frames)


def scaled_readout(teacher: nn.Module, width: int) -> Readout:
    """Return a head of cosines with the mean feature of each digit, times `SCALED`, like a zero-shot head."""
    digits = MotionDigits("train", size=32, length=1200, seed=1)
    transform = create_clip_transform((3, 32, 32))
    outputs, labels = outputs_of({"": teacher}, MotionDigitsClips(digits, transform), batch_size=64, progress=False)
    digit = split_labels(labels)[1]
    means = torch.stack([nn.functional.normalize(outputs[""], dim=1)[digit == d].mean(dim=0) for d in range(10)])
    head = CosineHead(width, width, 10)
    with torch.no_grad():
        head.projection.weight.copy_(torch.eye(width))
        head.projection.bias.zero_()
        head.classes.weight.copy_(SCALED * nn.functional.normalize(means, dim=1))
        head.classes.bias.zero_()
    return Readout(head, True)


def learn(row: Row, student: InTIModel, objective: Distillation, clips: Clips, folder: Path, updates: int) -> float:
    """Train the interpolations of a student, or resume; return the minutes that it took."""
    for name, parameter in student.named_parameters():
        parameter.requires_grad = name.startswith("interpolations.")
    folder.mkdir(parents=True, exist_ok=True)
    epochs = max(1, round(updates / max(1, len(clips) // BATCH)))
    recipe = Recipe(
        model="",
        data=Data(train="", num_workers=0),
        seed=row.seed,
        save_every=SAVE_EVERY,
        precision="bf16",
        compile=True,
        optimization=Optimization(epochs=epochs, batch_size=BATCH, lr=LR, warmup_epochs=0.05 * epochs),
    )
    trainer = Trainer(student, recipe, clips, None, folder, create_accelerator(recipe), None, objective)
    return trainer.run().seconds / 60


def run(row: Row, work_dir: Path, setup: Setup) -> None:
    """Train and evaluate a row, and write ``result.json``."""
    folder = work_dir / row.id
    folder.mkdir(parents=True, exist_ok=True)
    teacher, student = build(row, setup)
    for model in (teacher, student):
        use_plain_attention(model)
    readout, _ = Readout.take(teacher), Readout.take(student)
    clips, held_out = data_of(row, setup, teacher)
    if row.scaled:
        readout = scaled_readout(teacher, teacher.num_features)
    minutes, models = 0.0, dict[str, nn.Module]()
    if row.clips:
        objective = Distillation(teacher, readout, Distill(row.targets, row.temperature))
        updates = row.clips // BATCH
        if row.steps:
            first = build(dataclasses.replace(row, compress_at=row.compress_at[:1]), setup)[1]
            use_plain_attention(first)
            Readout.take(first)
            half = dataclasses.replace(row, clips=row.clips // 2)
            first_clips = data_of(half, setup, teacher)[0]
            minutes += learn(half, first, objective, first_clips, folder / "first", updates // 2)
            student.load_state_dict(first.state_dict(), strict=False)
            clips = data_of(dataclasses.replace(half, seed=row.seed + 1), setup, teacher)[0]
            updates -= updates // 2
        teacher.compile()
        minutes += learn(row, student, objective, clips, folder, updates)
        models[DISTILLED] = student
    without: dict[str, str] = {}
    if not row.clips:
        models, without = controls(teacher, row.compress_at)
    models[TEACHER] = teacher
    with torch.compiler.set_stance("force_eager"):
        outputs, labels = outputs_of(models, held_out, batch_size=50, progress=False)
    measured = [
        {
            "name": name,
            "gflops": round(gflops_of(model, teacher), 5),
            **measure(readout, outputs, name, labels, held_out),
        }
        for name, model in models.items()
        if not (row.clips and name == TEACHER)
    ]
    result = {**dataclasses.asdict(row), "name": row.name, "measured": measured, "without": without}
    finish(row, folder, {**result, "train_minutes": round(minutes, 2)})


def measure(
    readout: Readout, outputs: dict[str, Tensor], name: str, labels: Tensor, held_out: Videos
) -> dict[str, Any]:
    """Measure fidelity; on MotionDigits also the digit's accuracy, over all clips and where most frames hide it."""
    first = cast(Tensor, readout.logits(outputs[name]))
    known = labels if first.shape[1] == len(held_out.class_names) else None  # the head may be of digits alone
    fidelity = dataclasses.asdict(Fidelity.of(readout, outputs[name], outputs[TEACHER], known))
    digits = {}
    if isinstance(held_out, MotionDigitsClips):
        first = first.argmax(dim=1)
        right = (first if known is None else split_labels(first)[1]) == split_labels(labels)[1]
        data = held_out.digits
        clear = torch.cat([data.render(range(i, min(i + 500, len(data)))).clear for i in range(0, len(data), 500)])
        digits = {"digit": _percent(right), "occluded": _percent(right[~clear.all(dim=1)])}
    return {key: None if value is None else round(value, 4) for key, value in {**fidelity, **digits}.items()}


def _percent(right: Tensor) -> float:
    return 100 * right.float().mean().item()


# Tables

COLUMNS = {"agreement": 1, "cosine": 3, "kl": 3, "accuracy": 1, "digit": 1, "occluded": 1}


def summarize(results: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return (table, schedule) -> a summary of each model over seeds, or folds."""
    values: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for result in results:
        table = values.setdefault((result["table"], str(tuple(result["compress_at"]))), {})
        for measured in result["measured"]:
            name = measured["name"] if measured["name"] != DISTILLED else result["name"]
            table.setdefault(name, []).append({**measured, "clips": result["clips"]})
    order = [TEACHER, DISTILLED]
    return {
        key: [
            {
                "name": name,
                "clips": runs[0]["clips"],
                "runs": len(runs),
                "gflops": runs[0]["gflops"],
                **{
                    column: mean_and_spread(run[column] for run in runs)
                    for column in COLUMNS
                    if all(run.get(column) is not None for run in runs)
                },
            }
            for name, runs in sorted(table.items(), key=lambda item: order.index(item[0]) if item[0] in order else 9)
        ]
        for key, table in values.items()
    }


def to_markdown(tables: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """Return the tables as Markdown."""
    lines = [
        "# Compression learned without labels",
        "",
        "Written by `python benchmarks/distill.py`. Only the interpolations were trained, to answer as the model "
        "without compression does; labels only served to measure. Agreement: percent of held-out clips of which "
        "student and teacher name the same class first; cosine of their features; KL of their probabilities, in nats; "
        f"accuracy, and on MotionDigits ({VALIDATION_CLIPS:,} clips) that of the digit, over all clips and over those "
        "in which it is hidden or blurred in three quarters of the frames, in percent. Mean ± standard deviation over "
        "runs: seeds, or on real clips folds. GFLOPs of a clip (multiply-adds), without the head. What has 0 clips "
        "needs no training.",
    ]
    for (table, schedule), rows in tables.items():
        columns = [column for column in COLUMNS if any(column in row for row in rows)]
        lines += [
            "",
            f"## {table}, compress_at={schedule}",
            "",
            "| | clips | runs | GFLOPs | " + " | ".join(columns) + " |",
        ]
        lines.append("|---|" + "---:|" * (3 + len(columns)))
        for row in rows:
            cells = [row["name"], f"{row['clips']:,}", row["runs"], f"{row['gflops']:.4f}"]
            lines.append("| " + " | ".join(map(str, [*cells, *(_cell(row, column) for column in columns)])) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], column: str) -> str:
    if column not in row:
        return "-"
    mean, spread = row[column]
    return with_spread(mean, spread, COLUMNS[column])


def draw(tables: dict[tuple[str, str], list[dict[str, Any]]], file: Path) -> None:
    """Draw agreement with the teacher against cost, a panel for each table that has controls."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = {key: rows for key, rows in tables.items() if any(row["name"] == TEACHER for row in rows)}
    if not shown:
        return
    figure, axes = plt.subplots(1, len(shown), figsize=(2 + 3.6 * len(shown), 4), layout="constrained", squeeze=False)
    for axis, ((table, schedule), rows) in zip(axes[0], shown.items(), strict=True):
        for row, colour in zip(rows, plt.get_cmap("tab10")(range(10)), strict=False):
            mean, spread = row["agreement"]
            axis.errorbar(row["gflops"], mean, spread or 0, fmt="o", capsize=3, color=colour, label=row["name"])
        axis.set(title=f"{table} {schedule}", xlabel="GFLOPs a clip", ylabel="agreement with the teacher (%)")
    handles = {
        label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


# What an update costs


def time_update(model: str, batch: int = 2) -> dict[str, Any]:
    """Measure the seconds of one core per clip of an update of ``model``, with random weights.

    CPU time of the process, not wall-clock time: other processes on the machine matter little.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher: Any = create_model(model, compress_at=())
    student: Any = create_model(model)
    readout, _ = Readout.take(teacher), Readout.take(student)
    objective = Distillation(teacher, readout, Distill())
    for name, parameter in student.named_parameters():
        parameter.requires_grad = name.startswith("interpolations.")
    clips = torch.randn(batch, student.num_frames, 3, *student.patch_embed.img_size)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        objective.loss(student, clips, torch.zeros(batch)).backward()
        seconds.append((time.process_time() - start) / batch)
    per_clip = sorted(seconds)[1]
    return {"model": model, "batch": batch, "core_seconds_a_clip": round(per_clip, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/distill"))
    parser.add_argument("--real", type=Path, help="data set of benchmarks/real_videos.py, such as jhmdb")
    parser.add_argument("--real-work-dir", type=Path, help="its work folder, with models and stored frames")
    parser.add_argument("--tables", nargs="+", metavar="TABLE", help="tables to run (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="rows at once; each gets its part of the cores")
    parser.add_argument("--report-only", action="store_true", help="write the tables of the rows that are finished")
    parser.add_argument("--time", metavar="MODEL", help="only measure what an update of a model costs")
    args = parser.parse_args()
    if args.time:
        print(time_update(args.time))
        return
    setup = Setup(None if args.real is None else args.real.absolute(), args.real_work_dir)
    rows = plan(args.real is not None or args.report_only)

    def finished() -> list[dict[str, Any]]:
        results = collect(FILE, rows, args.work_dir)
        if results:
            tables = summarize(results)
            write_text(RESULTS / "distill.md", to_markdown(tables))
            draw(tables, RESULTS / "distill.png")
        return results

    if not args.report_only:
        chosen = [row for row in rows if args.tables is None or row.table in args.tables]
        run_rows([chosen], partial(run, setup=setup), finished, args.work_dir, args.jobs)
    if not finished():
        parser.error("no row is finished; run without --report-only first")
    print((RESULTS / "distill.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
