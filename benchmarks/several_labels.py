"""Several labels per video, none of them, and meaningful probabilities: how well the package's methods work.

    python benchmarks/several_labels.py --data jhmdb --images images/model.safetensors --frames frames/jhmdb

Rows are kept in ``--work-dir``, and a stopped run resumes; ``--only`` names a part.

- *digits*: MotionDigits as video files, with the digit and its motion as two labels of a video (22 classes), beside one
  head for their 120 combinations on the same files: ``inti-models train`` from the shipped weights, with a new head.
- *none*: the image model of benchmarks/real_videos.py learns J-HMDB without five of its classes, by cross-entropy and
  by binary cross-entropy, on three folds. How well do its predictions tell clips of known classes from clips
  of those that were left out? And how well do its probabilities fit, before and after calibration on other clips?
- *background*: the same question for background prompts and a miniature CLIP with random weights, whose words
  mean nothing: it only exercises the code, and is not an accuracy.
"""

import argparse
import contextlib
import csv
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiments import collect, file_name, finish, fit, measure, run_rows
from real_videos import ARCHITECTURE as MODEL
from real_videos import BATCH, LR, SIZE, StoredFrames, read_folds
from timm.data import resolve_input_data_config
from torch import Tensor

from inti_models import load
from inti_models.cli import main as inti_models
from inti_models.data import create_clip_transform, create_train_transform, write_video
from inti_models.data.datasets import VideoDataset
from inti_models.data.lists import VideoList
from inti_models.data.motion_digits import MOTIONS, MotionDigits
from inti_models.data.sources import open_source
from inti_models.evaluation.calibration import expected_calibration_error, fit_temperature
from inti_models.evaluation.evaluate import evaluate_multi_label, validate
from inti_models.evaluation.multi_label import MultiLabelEvaluation
from inti_models.files import write_text
from inti_models.models.probabilities import tempered
from inti_models.models.registry import create_model
from inti_models.training.objectives import MultiLabel
from inti_models.training.recipe import Augmentation
from inti_models.training.run import init_interpolation_logits
from inti_models.weights.checkpoint_filter import load_checkpoint
from inti_models.weights.zero_shot import BACKGROUND, set_zero_shot_head

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "several_labels.json"
LEFT_OUT = 5  # classes of J-HMDB, evenly spaced in alphabetic order
CLIPS = 6_000  # that a row is trained on, about
SCALE = (0.4, 1.0)  # of the random crop
DIGITS = {"train": 2400, "calibration": 600, "validation": 1000}  # clips of each list
DIGITS_EPOCHS, DIGITS_BATCH, DIGITS_LR = 4, 16, 5e-4


@dataclass(frozen=True)
class Row:
    """A model to train and evaluate.

    Attributes:
        part: "digits" or "none".
        kind: kind of labels ("two labels", "combinations"), or the loss ("cross-entropy", "bce").
        fold: held-out fold of J-HMDB.
    """

    part: str
    kind: str
    fold: int = 0

    @property
    def id(self) -> str:
        return file_name(f"{self.part} {self.kind} fold{self.fold}")


@dataclass(frozen=True)
class Setup:
    """Locations of data and weights.

    Attributes:
        data: folder of J-HMDB.
        images: weights of the image model.
        frames: folder of its stored frames.
    """

    data: Path
    images: Path
    frames: Path


ROWS = (
    Row("digits", "two labels"),
    Row("digits", "combinations"),
    *(Row("none", loss, fold) for loss in ("cross-entropy", "bce") for fold in range(3)),
)


BACKGROUND_ROW = Row("background", "miniature CLIP")


def run(row: Row, work_dir: Path, setup: Setup) -> None:
    """Train and evaluate a row, and write ``result.json``."""
    folder = work_dir / row.id
    folder.mkdir(parents=True, exist_ok=True)
    result = run_digits(row, folder, work_dir) if row.part == "digits" else run_without_some(row, folder, setup)
    finish(row, folder, {"part": row.part, "kind": row.kind, "fold": row.fold, **result})


# MotionDigits from files


def write_digits(folder: Path) -> None:
    """Render the clips of each list to MP4 files, and write each list twice: with two labels per video and with one."""
    names = [*(f"digit {i}" for i in range(10)), *MOTIONS]
    for part, length in DIGITS.items():
        if (folder / f"{part}.combinations.csv").exists():
            continue
        (folder / part).mkdir(parents=True, exist_ok=True)
        start = DIGITS["calibration"] if part == "validation" else 0  # both of held-out scans, and none in both
        split = "train" if part == "train" else "validation"
        digits = MotionDigits(split, size=32, length=start + length)
        rows = []
        for i in range(start, start + length):
            clip, label = digits[i]
            write_video(folder / part / f"{i:05d}.mp4", clip, fps=8)
            rows.append((f"{part}/{i:05d}.mp4", *divmod(label, len(MOTIONS))))
        for kind in ("two labels", "combinations"):  # the latter last, which says that all is there
            with (folder / f"{part}.{kind}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["path", "labels"])
                for path, digit, motion in rows:
                    separator = ";" if kind == "two labels" else ", "
                    writer.writerow([path, f"{names[digit]}{separator}{names[10 + motion]}"])


def run_digits(row: Row, folder: Path, work_dir: Path) -> dict[str, Any]:
    """Train with ``inti-models train`` and evaluate on held-out files, with and without calibration on others."""
    videos = work_dir / "videos"
    write_digits(videos)
    several = row.kind == "two labels"
    lists = {part: str(videos / f"{part}.{row.kind}.csv") for part in DIGITS}
    write_text(
        folder / "recipe.yaml",
        json.dumps(
            {
                "model": MODEL,
                "head": "new",
                "data": {"train": lists["train"], "num_workers": 0, "multi_label": several, "check": False},
                "augmentation": {"scale": [1.0, 1.0], "hflip": 0.0},
                "optimization": {
                    "epochs": DIGITS_EPOCHS,
                    "batch_size": DIGITS_BATCH,
                    "lr": DIGITS_LR,
                    "warmup_epochs": 0.2,
                },
            }
        ),
    )
    with contextlib.redirect_stdout(None):
        if inti_models(["train", str(folder / "recipe.yaml"), "--output", str(folder / "run")]):
            raise RuntimeError(f"{folder / 'recipe.yaml'} was not trained; see the message above.")
        before = _measure_digits(folder / "run" / "last", lists["validation"], several)
        options = ["--model", str(folder / "run" / "last"), "--calibrate", "--workers", "0", "--batch-size", "64"]
        if inti_models(["validate", lists["calibration"], *options]):
            raise RuntimeError("The model was not calibrated; see the message above.")
    after = _measure_digits(folder / "run" / "last", lists["validation"], several)
    return {"clips": DIGITS["train"] * DIGITS_EPOCHS, "before": before, "after": after}


def _measure_digits(model: Path, videos: str, several: bool) -> dict[str, float]:
    source = open_source(videos, multi_label=several)
    evaluation = validate(load(model), source, batch_size=64)
    error = expected_calibration_error(evaluation.probabilities, evaluation.labels)
    if not isinstance(evaluation, MultiLabelEvaluation):
        names = [name.split(", ") for name in evaluation.class_names]
        said = [names[k] for k in evaluation.ranking()[:, 0].tolist()]
        truth = [names[k] for k in evaluation.labels.tolist()]
        right = np.array([[a == b for a, b in zip(x, y, strict=True)] for x, y in zip(said, truth, strict=True)])
        digit, motion, exact = (100 * right[:, 0].mean(), 100 * right[:, 1].mean(), evaluation.top1)
        return {"exact_match": exact, "digit": digit, "motion": motion, "calibration_error": error}
    digits = torch.tensor([name.startswith("digit ") for name in evaluation.class_names])
    parts = [digits, ~digits]
    best = [
        evaluation.labels[:, part].double().argmax(1) == evaluation.probabilities[:, part].argmax(1) for part in parts
    ]
    return {
        "macro_ap": evaluation.macro_ap,
        "micro_ap": evaluation.micro_ap,
        "micro_f1": evaluation.micro_f1,
        "exact_match": evaluation.exact_match,
        "exact_match_of_best_two": 100 * (best[0] & best[1]).double().mean().item(),
        "digit": 100 * best[0].double().mean().item(),
        "motion": 100 * best[1].double().mean().item(),
        "calibration_error": error,
    }


# J-HMDB without some of its classes


def left_out(names: Sequence[str]) -> list[int]:
    """Return the classes that are not trained."""
    return [round(i * len(names) / LEFT_OUT) for i in range(LEFT_OUT)]


def run_without_some(row: Row, folder: Path, setup: Setup) -> dict[str, Any]:
    """Train on the classes that are kept; ``said.npz`` has the fold's predictions, and its classes (-1: others)."""
    folds = read_folds(setup.data)
    videos, several = folds.videos, row.kind == "bce"
    out = left_out(videos.class_names)
    known = [i for i in range(len(videos.class_names)) if i not in out]
    names = tuple(videos.class_names[i] for i in known)
    new = {old: i for i, old in enumerate(known)}

    def part(indices: Sequence[int]) -> VideoList:
        labels = [new.get(videos.labels[i], 0) for i in indices]
        sets = tuple((label,) for label in labels) if several else tuple(labels)
        return VideoList(tuple(videos.paths[i] for i in indices), sets, names, multi_label=several)

    torch.manual_seed(0)
    model: Any = create_model(MODEL, num_classes=10, img_size=SIZE, compress_at=(2, 5))
    load_checkpoint(model, setup.images)
    model.reset_classifier(len(names))
    init_interpolation_logits(model, 1.0)
    config = resolve_input_data_config(model)
    frames = StoredFrames(model.num_frames, folder=setup.frames)
    sided = any(re.search(r"\b(left|right)\b", name) for name in names)
    augment = create_train_transform(**config, scale=SCALE, hflip=0.0 if sided else 0.5)
    inside = [i for i in folds.train[row.fold] if videos.labels[i] in new]
    train = VideoDataset(part(inside), augment, frames, train=True)
    progress = fit(
        model,
        train,
        folder,
        seed=0,
        objective=MultiLabel(Augmentation(), len(names)) if several else None,
        epochs=max(1, round(CLIPS / (len(train) // BATCH * BATCH))),
        batch_size=BATCH,
        lr=LR,
        warmup_epochs=1,
    )
    held_out = list(folds.test[row.fold])
    test = VideoDataset(part(held_out), create_clip_transform(**config), frames)
    model.eval()
    if several:
        with torch.compiler.set_stance("force_eager"):
            del model.probabilities  # of one label; a model that does not say is measured by the sigmoid
            probabilities = evaluate_multi_label(model, test, batch_size=64, progress=False).probabilities
    else:
        probabilities = measure(model, test).probabilities
    classes = np.array([new.get(videos.labels[i], -1) for i in held_out])
    np.savez(folder / "said.npz", probabilities=probabilities.numpy(), classes=classes)
    return {"train_minutes": round(progress.seconds / 60, 2), **score(probabilities, torch.from_numpy(classes))}


def score(probabilities: Tensor, classes: Tensor) -> dict[str, Any]:
    """Measure how good the probabilities (n, K) are on clips of known classes and of others (-1)."""
    known = classes >= 0
    confidence = probabilities.max(dim=1).values
    p, labels = probabilities[known], classes[known]
    several = bool((p.sum(dim=1) - 1).abs().max() > 1e-3)
    halves = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tensor_split(2)
    truth = torch.nn.functional.one_hot(labels, p.shape[1]).bool() if several else labels
    after = p.clone()
    for mine, other in (halves, halves[::-1]):
        after[mine] = tempered(p[mine], fit_temperature(p[other], truth[other]), several)
    return {
        "known": int(known.sum()),
        "others": int((~known).sum()),
        "top1": 100 * (p.argmax(dim=1) == labels).double().mean().item(),
        "auc_probability": area_under_curve(confidence[known], confidence[~known]),
        "error_before": expected_calibration_error(p, truth),
        "error_after": expected_calibration_error(after, truth),
    }


def area_under_curve(known: Tensor, others: Tensor) -> float:
    """Return the probability that a clip of a known class scores higher than another; ties count half."""
    difference = known.double()[:, None] - others.double()[None]
    return float((difference > 0).double().mean() + (difference == 0).double().mean() / 2)


def background(setup: Setup, folder: Path) -> dict[str, Any]:
    """Measure the area under the curve of the background's probability, by a miniature CLIP with random weights.

    The miniature is that of the tests, in the layout of the CLIPs on the Hub.
    """
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from support import miniature_clips

    clip = miniature_clips.build("timm/vit_base_patch16_clip_224.openai", folder)
    overlay = {"file": str(folder / "open_clip_model.safetensors")}
    model: Any = create_model(
        "inti_vit_b16_hmdb51", pretrained=True, pretrained_cfg_overlay=overlay, compress_at=(), **clip.overrides
    )
    videos = read_folds(setup.data).videos
    out = left_out(videos.class_names)
    names = [name for i, name in enumerate(videos.class_names) if i not in out]
    set_zero_shot_head(model, names, background=BACKGROUND)
    transform = create_clip_transform(**resolve_input_data_config(model))
    frames = StoredFrames(model.num_frames, folder=setup.frames)
    unlabelled = VideoList(videos.paths, (0,) * len(videos), tuple(model.pretrained_cfg["label_names"]))
    said = measure(model.eval(), VideoDataset(unlabelled, transform, frames)).probabilities
    others = torch.tensor([label in out for label in videos.labels])
    none = said[:, len(names) :].sum(dim=1)
    confidence = said[:, : len(names)].max(dim=1).values
    return {
        "known": int((~others).sum()),
        "others": int(others.sum()),
        "auc_background": area_under_curve(1 - none[~others], 1 - none[others]),
        "auc_probability": area_under_curve(confidence[~others], confidence[others]),
    }


def to_markdown(results: Sequence[dict[str, Any]]) -> str:
    """Return the tables as Markdown."""
    digits = {r["kind"]: r for r in results if r["part"] == "digits"}
    lines = [
        "# Several labels, none of them, calibration",
        "",
        "Written by `python benchmarks/several_labels.py`; percent unless said otherwise.",
    ]
    if digits:
        several = digits.get("two labels")
        lines += [
            "",
            "## MotionDigits: digit and motion as two labels of a video",
            "",
            f"{DIGITS['train']} video files, {DIGITS_EPOCHS} epochs of `inti-models train` from the shipped weights "
            "(those of before, at (2, 5), which saw other clips of MotionDigits) with a new head; measured on "
            f"{DIGITS['validation']} files of held-out scans, calibrated on {DIGITS['calibration']} others.",
            "",
            "| head | exact match | digit | motion | calibration error | after |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        if several:
            for name, when, key in (
                ("22 labels, those from 0.5 on", "before", "exact_match"),
                ("22 labels, from fitted thresholds on", "after", "exact_match"),
                ("22 labels, the best digit and the best motion", "after", "exact_match_of_best_two"),
            ):
                lines.append(_digits_line(name, several, several[when][key]))
        if "combinations" in digits:
            row = digits["combinations"]
            lines.append(_digits_line("120 combinations, the best", row, row["before"]["exact_match"]))
        if several:
            b = several["before"]
            lines += [
                "",
                f"mAP {b['macro_ap']:.2f}, micro AP {b['micro_ap']:.2f}, micro F1 {b['micro_f1']:.2f} at 0.5. Nothing "
                "tells 22 labels that a video has one digit and one motion: an exact match needs both to reach their "
                "thresholds and no other to do so, which the combinations have by design. Where it is known that there "
                "are two, the best of each is read.",
            ]
    kinds = list(dict.fromkeys(r["kind"] for r in results if r["part"] == "none"))
    if kinds:
        lines += [
            "",
            f"## J-HMDB without {LEFT_OUT} of its 21 classes: none of them?",
            "",
            f"InTI at {SIZE} pixels from the image model, about {CLIPS} clips a fold, mean and range of the "
            "folds. Area under the ROC curve (0.5: chance) of the highest probability, clips of the 16 classes "
            "against those of the others, of the fold that was held out. Calibration error of the clips of the "
            "16 classes, after with the temperature of the other half of them. A model that is right about one "
            "clip in five is as sure of what it never saw: its probability does not tell the two apart.",
            "",
            "The calibration error is that of the most probable class; of binary cross-entropy (bce) that of all pairs "
            "of a clip and a class, most of which are easy, so that the two rows are not to be compared in it.",
            "",
            "| loss | folds | top-1 | area under the curve | calibration error | after |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for kind in kinds:
            rows = [r for r in results if r["part"] == "none" and r["kind"] == kind]
            keys = ("top1", "auc_probability", "error_before", "error_after")
            cells = [_mean_and_range([r[key] for r in rows], 3 if key.startswith("auc") else 1) for key in keys]
            lines.append(f"| {kind} | {len(rows)} | {' | '.join(cells)} |")
    for row in (r for r in results if r["part"] == "background"):
        lines += [
            "",
            "## Prompts of the background",
            "",
            f"A miniature CLIP with **random** weights, {len(BACKGROUND)} prompts, {row['known']} clips of the 16 "
            f"classes and {row['others']} of the others: area under the curve {row['auc_background']:.3f} of the "
            f"probability of none of these, {row['auc_probability']:.3f} of the highest probability of a word. This "
            "runs the machinery on real clips; a CLIP that knows words was not at hand, and how well prompts of the "
            "background work with one is **not measured**.",
        ]
    return "\n".join(lines) + "\n"


def _digits_line(name: str, row: dict[str, Any], exact: float) -> str:
    before, after = row["before"], row["after"]
    errors = f"{before['calibration_error']:.1f} | {after['calibration_error']:.1f}"
    return f"| {name} | {exact:.1f} | {before['digit']:.1f} | {before['motion']:.1f} | {errors} |"


def _mean_and_range(values: Sequence[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{sum(values) / len(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of J-HMDB")
    parser.add_argument("--images", type=Path, required=True, help="weights of the image model")
    parser.add_argument("--frames", type=Path, required=True, help="its frames, stored by real_videos.py")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/several_labels"))
    parts = ("digits", "none", "background")
    parser.add_argument(
        "--only", choices=parts, nargs="*", default=parts, help="parts to run; none to write the tables"
    )
    parser.add_argument("--results", type=Path, default=FILE, help="JSON; the tables are written beside it")
    args = parser.parse_args()
    setup = Setup(args.data, args.images, args.frames)
    # In processes of their own: the precision of the first training is that of its process.
    stages = [[row for row in ROWS if row.part == part] for part in ("digits", "none") if part in args.only]
    finished = partial(collect, args.results, (*ROWS, BACKGROUND_ROW), args.work_dir)
    run_rows(stages, partial(run, setup=setup), finished, args.work_dir, 1)
    if "background" in args.only and not (folder := args.work_dir / BACKGROUND_ROW.id).exists():
        folder.mkdir(parents=True)
        finish(BACKGROUND_ROW, folder, {"part": "background", **background(setup, folder / "clip")})
    text = to_markdown(finished())
    write_text(args.results.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
