"""The paper's tables in miniature: one image ViT, adapted to MotionDigits in every way that the paper compares.

    python benchmarks/accuracy.py --jobs 2

An image model learns to read still digits once. Each row adapts it to clips of 8 frames, with the same data,
optimiser and number of clips, and is measured on scans that were not trained on. A row is written when it is
finished; a rerun resumes where the last one stopped, in the middle of a row if need be. At last every model's
throughput is measured, all in turns. Results: ``motion_digits.json`` and ``motion_digits.md`` in
``benchmarks/results``; compare.py draws them.
"""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from experiments import (
    adapt,
    collect,
    file_name,
    finish,
    fit,
    mean_and_spread,
    measure,
    run_rows,
    throughput,
    with_spread,
    write_results,
)
from timm.data import resolve_input_data_config
from torch import Tensor, nn

from inti_models.assets import ASSETS
from inti_models.data import MotionDigitsClips, create_clip_transform
from inti_models.data.motion_digits import MOTIONS, ORDER_FREE_MOTIONS, MotionDigits, split_labels
from inti_models.files import replacing, write_text
from inti_models.models.flops import count_flops
from inti_models.models.heads import factorize, fold
from inti_models.models.interpolation import CONTEXTS
from inti_models.models.registry import create_model
from inti_models.weights.checkpoint_filter import load_checkpoint
from inti_models.weights.tensor_files import save_checkpoint

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "motion_digits.json"
HUB = Path(__file__).parent.parent / "hub"
ARCHITECTURE = "inti_vit_t8_32_motiondigits"
FACTORS = (10, len(MOTIONS))
BATCH, STILLS_BATCH = 16, 64
STILLS, CLIPS, LONG = 192_000, 64_000, 144_000
VALIDATION_CLIPS = {"adaptation": 6_000, "long": 6_000}
FEWER_VALIDATION_CLIPS = 3_000  # of the other tables
THROUGHPUT_BATCH = 32
SEEDS = 3  # of the tables adaptation, weighting, context and schedule
FIRST_MOTIONS = ("left", "right", "grow", "shrink", "swing", "still")
OTHER_MOTIONS = tuple(name for name in MOTIONS if name not in FIRST_MOTIONS)


@dataclass(frozen=True)
class Row:
    """One model, trained and measured.

    Attributes:
        table: that it belongs to.
        name: of the row in the table.
        seed: of the data order, the clips and all that starts at random.
        method: see `experiments.METHODS`.
        model_args: of the zoo's model.
        start: id of the row whose weights it starts from.
        data_args: of MotionDigits, in training and validation.
        clips: to train on.
        lr: highest learning rate.
        logit_init: see `experiments.adapt`.
    """

    table: str
    name: str
    seed: int = 0
    method: str = "as it is"
    model_args: dict[str, Any] = field(default_factory=dict)
    start: str | None = "image"
    data_args: dict[str, Any] = field(default_factory=dict)
    clips: int = CLIPS
    logit_init: float | None = None
    lr: float = 1e-3

    @property
    def id(self) -> str:
        """Name of its files."""
        if self.start is None:
            return self.name
        return file_name(f"{self.table} {self.name} seed{self.seed}")


DEFAULT = "InTI (2, 5, 6)"  # rows that name no schedule have this one
NAIVE: dict[str, Any] = {"compress_at": []}
TWICE, THRICE = {"compress_at": [2, 5]}, {"compress_at": [2, 5, 6]}  # as dear: no block comes after the third
ADAPTATION = (
    Row("adaptation", "naive, every frame", model_args=NAIVE),
    Row("adaptation", DEFAULT, model_args=THRICE),
    Row("adaptation", "InTI (2, 5)", model_args=TWICE),
    Row("adaptation", "fixed mean (2, 5, 6)", model_args={**THRICE, "weighting": "uniform"}),
    Row("adaptation", "every other frame dropped", method="drop frames", model_args=TWICE),
    Row("adaptation", "naive, 5 frames", model_args={**NAIVE, "num_frames": 5}),
    Row("adaptation", "ToMe, same GFLOPs", method="ToMe", model_args=NAIVE),
)
REFERENCE = Row("adaptation", "naive + temporal attention", method="temporal attention", model_args=NAIVE)
# Temporal methods, alone and with InTI; all parameters are trained, as in the rows above.
TEMPORAL_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "UniFormerV2": ("uniformerv2", {"local_reduction": 1.5, "num_global": 2}),
    "ST-Adapter": ("st_adapter", {"width": 48, "before": ["attn", "mlp"]}),
    "AIM": ("aim", {"scale": 1.0}),
}
TEMPORAL = tuple(
    Row("adaptation", prefix + name, model_args={**args, "temporal": temporal, "temporal_args": options})
    for name, (temporal, options) in TEMPORAL_METHODS.items()
    for prefix, args in (("", NAIVE), ("InTI + ", {}))
)
# Trained for longer; these ship with the package.
LONG_RUNS = tuple(
    dataclasses.replace(row, table="long", clips=LONG) for row in (ADAPTATION[1], ADAPTATION[0], REFERENCE)
)
SECOND_ROUND = Row("long", "InTI, a second round", seed=1, start=LONG_RUNS[0].id, clips=LONG, lr=5e-4)
WEIGHTING = (
    Row("weighting", "sigmoid", model_args={"weighting": "sigmoid"}),
    Row("weighting", "linear", model_args={"weighting": "linear"}),
    Row("weighting", "softmax, neutral start", logit_init=0.0),
    Row("weighting", "fixed, 0.12 and 0.88", method="fixed weights"),
)
CONTEXT = tuple(
    Row("context", f"without {name}", model_args={"context": [n for n in CONTEXTS if n != name]}) for name in CONTEXTS
)
SCHEDULE = tuple(
    Row("schedule", f"InTI ({', '.join(map(str, compress_at))})", model_args={"compress_at": list(compress_at)})
    for compress_at in ((1,), (3,), (5,), (2, 4, 5), (1, 2))
)
FIRST = tuple(
    Row("transfer", f"{name}, first motions", model_args=args, data_args={"motions": FIRST_MOTIONS})
    for name, args in (("InTI", {}), ("naive", NAIVE))
)
TRANSFER = tuple(
    Row("transfer", f"{name}, {what}", model_args={**args, **model_args}, **row_args)
    for name, args, first in (("InTI", {}, FIRST[0]), ("naive", NAIVE, FIRST[1]))
    for what, model_args, row_args in (
        ("other motions, from the image model", {}, {"data_args": {"motions": OTHER_MOTIONS}, "clips": CLIPS // 4}),
        (
            "other motions, from the first ones",
            {},
            {"data_args": {"motions": OTHER_MOTIONS}, "clips": CLIPS // 4, "start": first.id},
        ),
        ("64x64 pixels, from the image model", {"img_size": 64}, {"clips": CLIPS // 6}),
        (
            "64x64 pixels, from 32x32",
            {"img_size": 64},
            {"clips": CLIPS // 6, "start": ADAPTATION[1 if name == "InTI" else 0].id},
        ),
    )
)


def plan() -> list[list[Row]]:
    """All rows, in stages: a row starts from rows of earlier stages only. What matters most comes first."""
    image = Row("image", "image", model_args={**NAIVE, "num_frames": 1}, start=None, clips=STILLS)

    def seeds(rows: Sequence[Row]) -> list[Row]:
        return [dataclasses.replace(row, seed=seed) for seed in range(SEEDS) for row in rows]

    half = [dataclasses.replace(row, table="half", clips=CLIPS // 2) for row in ADAPTATION]
    return [
        [image],
        [*seeds(ADAPTATION), LONG_RUNS[0]],
        [*seeds(SCHEDULE), *seeds(WEIGHTING), *seeds(CONTEXT), REFERENCE, *TEMPORAL, *FIRST, *half],
        [SECOND_ROUND, *LONG_RUNS[1:], *TRANSFER],
    ]


# A row's model and its training


def build(row: Row, work_dir: Path) -> nn.Module:
    """The model of a row before training."""
    torch.manual_seed(row.seed)
    model: Any = create_model(ARCHITECTURE, **row.model_args)
    if row.start is not None:
        load_checkpoint(model, work_dir / row.start / "model.safetensors")
    model.head = factorize(model.head, FACTORS)
    size = model.patch_embed.img_size
    cost = count_flops(create_model(ARCHITECTURE, img_size=size), (1, model.num_frames, 3, *size))
    return adapt(model, row.method, cost.gflops, row.logit_init)


def digits_data(row: Row, model: Any, split: str) -> MotionDigits:
    """The clips that a row is trained or measured on."""
    return MotionDigits(
        split,
        size=model.patch_embed.img_size[0],
        num_frames=model.num_frames,
        length=row.clips if split == "train" else VALIDATION_CLIPS.get(row.table, FEWER_VALIDATION_CLIPS),
        seed=row.seed if split == "train" else 0,
        **row.data_args,
    )


def run(row: Row, work_dir: Path) -> None:
    """Train and measure a row, and write ``result.json``."""
    folder = work_dir / row.id
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = build(row, work_dir)
    transform = create_clip_transform(**resolve_input_data_config(model))
    train_set = MotionDigitsClips(digits_data(row, model, "train"), transform, train=True, seed=row.seed)
    cost = count_flops(model, (1, model.num_frames, 3, *model.patch_embed.img_size))  # before it is compiled
    progress = fit(
        model,
        train_set,
        folder,
        seed=row.seed,
        epochs=1,
        batch_size=BATCH if row.start else STILLS_BATCH,
        lr=row.lr,
    )
    validation = digits_data(row, model, "validation")
    evaluation = measure(model, MotionDigitsClips(validation, transform))
    model.head = fold(model.head)
    save_checkpoint(model, folder / "model.safetensors")
    result = {
        **dataclasses.asdict(row),
        "accuracy": accuracy(evaluation.probabilities.argmax(dim=1), evaluation.labels, occluded(validation)),
        "gflops": round(cost.gflops, 5),
        "parameters": cost.parameters,
        "train_minutes": round(progress.seconds / 60, 2),
        "train_loss": round(progress.history[-1]["train_loss"], 4),
    }
    finish(row, folder, result)


def occluded(data: MotionDigits) -> Tensor:
    """Whether the digit of each clip is hidden or blurred in most frames, bool (length,)."""
    pieces = [data.render(range(i, min(i + 500, len(data)))).clear for i in range(0, len(data), 500)]
    return ~torch.cat(pieces).all(dim=1)


def accuracy(predictions: Tensor, labels: Tensor, hidden: Tensor) -> dict[str, float | None]:
    """Percent of clips with the right motion, digit and both, over all clips and over kinds of clips."""
    motion_of, digit_of = split_labels(labels)
    motion, digit = split_labels(predictions)
    free = torch.isin(motion_of, torch.tensor([MOTIONS.index(name) for name in ORDER_FREE_MOTIONS]))
    hits = {
        "motion": motion == motion_of,
        "motion_ordered": (motion == motion_of)[~free],
        "motion_order_free": (motion == motion_of)[free],
        "digit": digit == digit_of,
        "digit_occluded": (digit == digit_of)[hidden],
        "digit_clear": (digit == digit_of)[~hidden],
        "both": predictions == labels,
    }
    return {name: round(hit.float().mean().item() * 100, 2) if len(hit) else None for name, hit in hits.items()}


# All rows, and their tables


def speed_key(result: dict[str, Any]) -> str:
    """What the speed of a row's model depends on."""
    return json.dumps([result["method"], result["model_args"]])


def measure_throughput(results: Sequence[dict[str, Any]], work_dir: Path) -> dict[str, float]:
    """`speed_key` -> clips a second of the model of every finished row, in batches, on one thread."""
    rows = {row.id: row for stage in plan() for row in stage}
    of_key = {speed_key(result): rows[result["id"]] for result in reversed(results) if result["id"] in rows}
    models: dict[str, Any] = {
        key: build(dataclasses.replace(row, start=None), work_dir).eval() for key, row in of_key.items()
    }

    def clips(key: str) -> Tensor:
        model = models[key]
        return torch.zeros(THROUGHPUT_BATCH, model.num_frames, 3, *model.patch_embed.img_size)

    return throughput(models, clips)


# Model of the zoo -> the row that it is, and what to say of its training.
SHIPPED = {
    ARCHITECTURE: (SECOND_ROUND, "half of them in a second round at half the learning rate (1e-3, then 5e-4)"),
    f"{ARCHITECTURE}.naive": (LONG_RUNS[1], "at a learning rate of 1e-3"),
}


def ship(work_dir: Path) -> None:
    """Put the weights of the best rows into the package, and what was measured of them into ``hub``.

    A model whose row is not finished stays as it is.
    """
    rows = {row.id: row for stage in plan() for row in stage}
    for name, (row, how) in SHIPPED.items():
        if not (work_dir / row.id / "result.json").exists():
            print(f"{name} stays: {row.id} is not finished")
            continue
        result = json.loads((work_dir / row.id / "result.json").read_text())
        chain = [row]  # with what it started from, without the image model
        while chain[-1].start in rows and rows[chain[-1].start].start is not None:
            chain.append(rows[chain[-1].start])
        minutes = sum(json.loads((work_dir / r.id / "result.json").read_text())["train_minutes"] for r in chain)
        accuracy = {("top1" if key == "both" else key): value for key, value in result["accuracy"].items()}
        card = {
            "model": name,
            "accuracy": {"clips": VALIDATION_CLIPS["long"], **accuracy},
            "training": {
                "row": row.id,
                "stills": STILLS,
                "clips": sum(r.clips for r in chain),
                "how": how,
                "seed": row.seed,
                "minutes": round(minutes, 1),
            },
            "gflops": result["gflops"],
            "machine": result["device"],
            "versions": result["versions"],
        }
        with replacing(ASSETS / "weights" / f"{name}.safetensors") as weights:
            shutil.copyfile(work_dir / row.id / "model.safetensors", weights)
        write_text(HUB / name / "results.json", json.dumps(card, indent=2) + "\n")


COLUMNS = ("motion", "motion_ordered", "motion_order_free", "digit", "digit_occluded", "digit_clear")
RISING = 1.0  # points of motion or digit above half as many clips, from which on a row is marked


def summarize(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Tables of rows: mean and spread over seeds of what was measured."""
    tables: dict[str, list[dict[str, Any]]] = {}
    results = [result for result in results if result["start"] is not None]  # without the image model
    for table, name in dict.fromkeys((result["table"], result["name"]) for result in results):
        runs = [result for result in results if (result["table"], result["name"]) == (table, name)]
        summary = {key: runs[0][key] for key in ("name", "clips", "gflops", "clips_per_second")} | {"seeds": len(runs)}
        for column in COLUMNS:
            values = [run["accuracy"][column] for run in runs if run["accuracy"][column] is not None]
            # No clip may be of the kind.
            summary[column], summary[f"{column}_spread"] = mean_and_spread(values) if values else (None, None)
        tables.setdefault(table, []).append(summary)
    return tables


def to_markdown(tables: dict[str, list[dict[str, Any]]], device: str) -> str:
    """The tables as Markdown."""
    reference = {row["name"]: row for row in tables.get("adaptation", [])}
    half = {row["name"]: row for row in tables.get("half", [])}
    lines = [
        "# Accuracy on MotionDigits",
        "",
        "Written by `python benchmarks/accuracy.py`. Percent of clips of scans that were not trained on "
        f"({VALIDATION_CLIPS['adaptation']:,} for adaptation and long, {FEWER_VALIDATION_CLIPS:,} elsewhere); mean ± "
        "standard deviation over seeds where there are several. *Ordered*: the ten motions that are another one played "
        "backwards; *order-free*: swing and still. "
        "*Occluded*: the digit is hidden or blurred in three quarters of the frames. GFLOPs of a clip by fvcore "
        f"(multiply-adds); clips/s at batch {THROUGHPUT_BATCH} on one thread of {device}, all models in turns.",
        "",
        "A model that treats all frames alike and averages them (naive, ToMe, fixed mean) cannot pass 58.3% on motion. "
        "Dropping is not such a one: it keeps the earlier frame of each pair, so that a clip and its reverse leave "
        "other frames, and where a motion starts tells which one it is.",
        "",
        f"↑ still rises: more than {RISING:g} point of motion or digit above the same row after half as many clips.",
    ]
    for table, rows in tables.items():
        if table in ("weighting", "context", "schedule") and DEFAULT in reference:
            rows = [{**reference[DEFAULT], "name": "InTI (softmax, all four, default schedule)"}, *rows]
        lines += ["", f"## {table.capitalize()}", ""]
        lines.append(
            "| model | clips | seeds | GFLOPs | clips/s | " + " | ".join(c.replace("_", " ") for c in COLUMNS) + " |"
        )
        lines.append("|---|" + "---:|" * (4 + len(COLUMNS)))
        for row in rows:
            rises = table == "adaptation" and any(
                row[column] - half[row["name"]][column] > RISING
                for column in ("motion", "digit")
                if row["name"] in half
            )
            cells = [
                row["name"] + (" ↑" if rises else ""),
                f"{row['clips']:,}",
                row["seeds"],
                f"{row['gflops']:.4f}",
                row["clips_per_second"] or "-",
            ]
            lines.append("| " + " | ".join(map(str, [*cells, *(_cell(row, column) for column in COLUMNS)])) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], column: str) -> str:
    spread = row[f"{column}_spread"]
    if row[column] is None:
        return "-"
    return with_spread(row[column], spread)


def main() -> None:
    tables = list(dict.fromkeys(row.table for stage in plan()[1:] for row in stage))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--jobs", type=int, default=2, help="rows at once; each gets its part of the cores")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables)
    names = {row.name for stage in plan() for row in stage}
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help="of those tables, to run; all by default",
    )
    parser.add_argument("--report-only", action="store_true", help="write the tables of the rows that are finished")
    parser.add_argument("--ship", action="store_true", help="put the best weights into the package, and do no more")
    args = parser.parse_args()
    if args.ship:
        if not args.work_dir.is_dir():
            parser.error(f"there are no weights in {args.work_dir}; run without --ship first")
        ship(args.work_dir)
        return
    stages = plan()
    finished = partial(collect, FILE, [row for stage in stages for row in stage], args.work_dir)
    if not args.report_only:
        wanted_tables, wanted_rows = {"image", *args.tables}, {"image", *args.rows}
        chosen = [[row for row in stage if row.table in wanted_tables and row.name in wanted_rows] for stage in stages]
        run_rows(chosen, run, finished, args.work_dir, args.jobs, start_of=lambda row: row.start)
    results = finished()
    if not results:
        parser.error("no row is finished; run without --report-only first")
    speeds = measure_throughput(results, args.work_dir)
    for result in results:
        result["clips_per_second"] = speeds.get(speed_key(result))
    write_results(FILE, results)
    text = to_markdown(summarize(results), results[0]["device"])
    write_text(RESULTS / "motion_digits.md", text)
    print(text)


if __name__ == "__main__":
    main()
