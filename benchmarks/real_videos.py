"""Real videos: one image ViT, adapted to small data sets in every way that the paper compares, on all folds.

    python benchmarks/real_videos.py --data jhmdb egogestar --images cifar10 --digits runs/accuracy

The small architecture of the package at 48 pixels learns images (CIFAR-10) once. Each row adapts it to a data set with
the same clips, optimiser and augmentation, and is measured on the fold that was held out. `--model` takes any other
model of the zoo, with its own weights. A row is written to ``results/real_videos.json`` when it is finished, with what
was right clip by clip; a rerun runs the rows that are not there, from the middle of a row if it was stopped in one.

A data set is a folder with a folder of videos for each class. Its folds, by the first that fits:

- ``clips.csv`` with columns file, class and fold,
- the official splits of HMDB51 (``*_test_split1.txt`` ...) and UCF101 (``trainlist01.txt``, ``testlist01.txt`` ...), in
  the folder, beside it or in a folder there,
- three folds of which no two share a source: what a file of UCF101 calls a group (``_g07_``), else its name up to
  ``_<class>_``, without numbers at the end, in lower case (HMDB51 and J-HMDB name a film so).

Clips are mirrored in training unless a class has left or right in its name.
"""

import argparse
import csv
import dataclasses
import io
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import accuracy
import numpy as np
import torch
import torch.nn.functional as F
from experiments import (
    adapt,
    collect,
    file_name,
    finish,
    fit,
    mean_and_spread,
    measure,
    paired_difference,
    run_rows,
    throughput,
    with_interval,
    with_spread,
    write_results,
)
from PIL import Image
from timm.data import resolve_input_data_config
from torch import Tensor, nn
from tqdm import tqdm

from inti_models import load
from inti_models.data import FrameSampling, create_clip_transform, create_train_transform, find_videos
from inti_models.data.augmentation import seeded
from inti_models.data.datasets import VideoDataset
from inti_models.data.lists import VideoList
from inti_models.data.sample_times import sample_times
from inti_models.data.video import Clips, read_clips
from inti_models.files import replacing, write_text
from inti_models.models.flops import count_flops
from inti_models.models.registry import create_model
from inti_models.weights.checkpoint_filter import load_checkpoint
from inti_models.weights.tensor_files import save_checkpoint

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "real_videos.json"
ARCHITECTURE, SIZE = "inti_vit_t8_32_motiondigits", 48
STORED_FRAMES, STORED_SIDE = 40, 64  # of each clip in the work folder: evenly spaced, shorter side in pixels
FOLDS = 3
BATCH, LR, SMOOTHING = 16, 5e-4, 0.1
IMAGE_EPOCHS, IMAGE_BATCH, IMAGE_LR = 12, 128, 2e-3
THROUGHPUT_BATCH = 32


@dataclass(frozen=True)
class Row:
    """One model, trained on all folds of a data set but one, and measured on that.

    Attributes:
        data: name of the data set.
        name: of the row in the table.
        fold: held out.
        seed: of the order of clips and all that is random.
        method: see `experiments.METHODS`.
        model_args: of the zoo's model.
        start: "images", "digits" (the weights of the row of benchmarks/accuracy.py that is this model), or "model"
            (the zoo's own).
    """

    data: str
    name: str
    fold: int
    seed: int
    method: str = "as it is"
    model_args: dict[str, Any] = field(default_factory=dict)
    start: str = "images"

    @property
    def id(self) -> str:
        return file_name(f"{self.data} {self.start} {self.name} fold{self.fold} seed{self.seed}")


@dataclass(frozen=True)
class Training:
    """What differs between data sets in the training of a row; for the arguments, see `create_train_transform`.

    Attributes:
        clips: to train on, about.
        size: of the small model's frames, in pixels.
        crop_mode: of the frames that are measured: "center", or "squash" for the whole frame.
    """

    clips: int = 12_000
    size: int = SIZE
    scale: tuple[float, float] = (0.4, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    auto_augment: str | None = None
    crop_mode: str = "center"


# A gesture is drawn over the whole frame, and 160 clips show few hands and places. At the size of MotionDigits, whose
# weights these rows start from, InTI is right on 32.1% of fold 0, at 48 pixels on 17.0% (seed 0).
TRAINING = {
    "egogestar": Training(size=32, scale=(0.6, 1.0), ratio=(1.0, 1.6), auto_augment="rand-m7-inc1", crop_mode="squash"),
}

# What the weights of a row start from -> in words.
STARTS = {"images": "from the image model", "digits": "from MotionDigits", "model": "from the model's own weights"}

NAIVE = accuracy.NAIVE
NAIVE_ROW = "naive, every frame"  # which the others are compared with


def methods_of(*rows: accuracy.Row) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> method and arguments of the model, of rows that are those of MotionDigits too."""
    return {row.name: (row.method, row.model_args) for row in rows}


MAIN = methods_of(*accuracy.ADAPTATION)
# Another schedule, with as many seeds: a tenth cheaper, as only one frame passes block 6.
SCHEDULES = methods_of(*(row for row in accuracy.SCHEDULE if row.name == "InTI (2, 4, 5)"))
SIDE: dict[str, tuple[str, dict[str, Any]]] = {
    "fixed mean (2, 5)": ("as it is", {"compress_at": [2, 5], "weighting": "uniform"}),
    "naive, mean before the norm": ("as it is", {"compress_at": [6, 6, 6], "weighting": "uniform"}),
    "random frames, same GFLOPs": ("random frames", NAIVE),
    "random tokens, same GFLOPs": ("random tokens", NAIVE),
    "unchanged tokens dropped, same GFLOPs": ("changed tokens", NAIVE),
    "ToMe across frames": ("merge frames", {}),
    **methods_of(accuracy.REFERENCE, *accuracy.TEMPORAL),
}


@dataclass(frozen=True)
class Setup:
    """What all rows share.

    Attributes:
        work_dir: of runs, frames made smaller, and the image model.
        data: name -> folder of a data set.
        images: folder of CIFAR-10's ``train.parquet`` and ``test.parquet``.
        digits: work folder of benchmarks/accuracy.py.
        model: name in the zoo, with a tag for weights.
        size: of frames in pixels; None for those of the data set, or of another model.
        clips: to train a row on, about; None for those of the data set.
    """

    work_dir: Path
    data: dict[str, Path]
    images: Path | None
    digits: Path | None
    model: str = ARCHITECTURE
    size: int | None = None
    clips: int | None = None

    def model_args(self, data: str = "") -> dict[str, Any]:
        """Arguments of every model of a data set; without one, of the image model."""
        size = self.size
        if size is None and self.model == ARCHITECTURE:
            size = TRAINING.get(data, Training()).size
        return {} if size is None else {"img_size": size}


# Data sets and their folds


@dataclass(frozen=True)
class Folds:
    """The videos of a data set, and the indices to train and to measure on, of each fold."""

    videos: VideoList
    train: tuple[tuple[int, ...], ...]
    test: tuple[tuple[int, ...], ...]

    def part(self, indices: Sequence[int]) -> VideoList:
        videos = self.videos
        return VideoList(
            tuple(videos.paths[i] for i in indices), tuple(videos.labels[i] for i in indices), videos.class_names
        )


@lru_cache
def read_folds(folder: Path) -> Folds:
    """The folds of a data set; see above."""
    if (folder / "clips.csv").is_file():
        videos = find_videos(folder / "clips.csv")
        with (folder / "clips.csv").open(newline="", encoding="utf-8") as file:
            fold_of = {str(folder / row["file"]): int(row["fold"]) for row in csv.DictReader(file)}
        return _held_out(videos, [fold_of[path] for path in videos.paths])
    videos = find_videos(folder)
    if (official := _official_splits(folder, videos)) is not None:
        return official
    return _held_out(videos, assign_folds([source_of(path) for path in videos.paths], videos.labels, FOLDS))


def _held_out(videos: VideoList, fold_of: Sequence[int]) -> Folds:
    numbers = sorted(set(fold_of))
    test = tuple(tuple(i for i, fold in enumerate(fold_of) if fold == number) for number in numbers)
    train = tuple(tuple(i for i, fold in enumerate(fold_of) if fold != number) for number in numbers)
    return Folds(videos, train, test)


def _official_splits(folder: Path, videos: VideoList) -> Folds | None:
    """The splits of HMDB51 or UCF101, where their files are there."""
    places = [folder, folder.parent, *(path for path in folder.parent.iterdir() if path.is_dir() and path != folder)]
    index = {Path(path).stem: i for i, path in enumerate(videos.paths)}
    for place in places:
        parts: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"train": [], "test": []})
        for file in sorted(place.glob("*_test_split[0-9].txt")):  # a line "name.avi 1": 1 is train, 2 test, 0 neither
            for name, use in (line.split() for line in file.read_text(encoding="utf-8").splitlines()):
                if use in "12":
                    parts[file.stem[-1]]["train" if use == "1" else "test"].append(name)
        for file in sorted(place.glob("t*list0[0-9].txt")):
            names = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            parts[file.stem[-1]]["train" if file.name.startswith("train") else "test"] += names
        if parts:
            stems = [
                {use: tuple(index[Path(name).stem] for name in split[use] if Path(name).stem in index) for use in split}
                for _, split in sorted(parts.items())
            ]
            return Folds(videos, tuple(s["train"] for s in stems), tuple(s["test"] for s in stems))
    return None


def source_of(path: str) -> str:
    """The film or group that a file of UCF101, HMDB51 or J-HMDB is from.

    >>> source_of("wave/Return_of_the_King_4_wave_u_cm_np1_fr_goo_32.avi"), source_of("Biking/v_Biking_g07_c01.avi")
    ('return_of_the_king', 'Biking g07')
    """
    file = Path(path)
    if match := re.search(r"_(g\d+)_c\d+$", file.stem):
        return f"{file.parent.name} {match[1]}"
    return re.sub(r"[\d_]+$", "", file.stem.split(f"_{file.parent.name}_")[0]).lower()


def assign_folds(groups: Sequence[str], labels: Sequence[int], folds: int) -> list[int]:
    """A fold for each clip, the same for all of a group; the clips of each class are spread over the folds.

    Groups, the largest first, go to the fold that has the fewest clips of their classes.
    """
    contents: dict[str, Counter[int]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        contents[group][label] += 1
    held: list[Counter[int]] = [Counter() for _ in range(folds)]
    fold_of = {}
    for group, classes in sorted(contents.items(), key=lambda item: (-item[1].total(), item[0])):
        best = min(range(folds), key=lambda f: (sum(held[f][c] * n for c, n in classes.items()), held[f].total()))
        fold_of[group] = best
        held[best] += classes
    return [fold_of[group] for group in groups]


@dataclass(frozen=True, kw_only=True)
class StoredFrames(FrameSampling):
    """Clips from frames that `store` has put into a folder: the same times, rounded to the frames that are there."""

    folder: Path

    def read(self, path, num_clips=1, generator=None, limits=None, stop=None) -> Clips:  # type: ignore[override]
        frames = np.load(stored(self.folder, str(path)), mmap_mode="r")  # F 3 H W
        times = sample_times(self.num_frames, len(frames), num_clips=num_clips, generator=generator)
        picked = torch.from_numpy(frames[times.long().numpy()])  # V T 3 H W
        return cast(Clips, _Frames(picked))


@dataclass(frozen=True)
class _Frames:
    frames: Tensor


def stored(folder: Path, path: str) -> Path:
    """The file with the frames of a video."""
    return folder / Path(path).parent.name / f"{Path(path).stem}.npy"


def store(videos: VideoList, folder: Path) -> None:
    """Decode each video once, to `STORED_FRAMES` evenly spaced frames with a shorter side of `STORED_SIDE` pixels."""

    def one(path: str) -> None:
        target = stored(folder, path)
        if target.exists():
            return
        frames = read_clips(path, STORED_FRAMES).frames[0]
        scale = STORED_SIDE / min(frames.shape[-2:])
        size = [round(side * scale) for side in frames.shape[-2:]]
        small = F.interpolate(frames.float(), size=size, mode="bicubic", antialias=True).round().clamp(0, 255).byte()
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary, open(temporary, "wb") as file:
            np.save(file, small.numpy())

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in tqdm(pool.map(one, videos.paths), total=len(videos), desc="decode", unit="video"):
            pass


class Images:
    """CIFAR-10 as clips of one frame."""

    def __init__(self, file: Path, transform: Any, train: bool, seed: int = 0) -> None:
        from pyarrow import parquet

        table = parquet.read_table(file)
        self.images = np.stack(
            [np.asarray(Image.open(io.BytesIO(_bytes(cell.as_py()))).convert("RGB")) for cell in table["image"]]
        )
        self.labels = [int(label) for label in table["label"].to_pylist()]
        self.class_names = tuple(map(str, range(10)))
        self.transform, self.train, self.seed = transform, train, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Any) -> tuple[Tensor, int, str]:
        index, draw = key if self.train else (key, 0)
        clip = torch.from_numpy(self.images[index]).permute(2, 0, 1)[None]  # 1 3 H W
        with seeded(self.seed, index, draw):
            sample = self.transform(clip)
        return (sample if self.train else sample[None]), self.labels[index], ""


def _bytes(cell: Any) -> bytes:
    return cell["bytes"] if isinstance(cell, dict) else cell


# Rows


def plan(setup: Setup, main: int, side: int) -> list[Row]:
    """All rows, the most telling first.

    Args:
        setup: see `Setup`.
        main: seeds of the main rows.
        side: seeds of the side rows.
    """
    start = "images" if setup.images else "model"

    def rows(methods: dict[str, tuple[str, dict[str, Any]]], seeds: range, start: str) -> list[Row]:
        return [
            Row(data, name, fold, seed, method, args, start)
            for seed in seeds
            for data, folder in setup.data.items()
            for fold in range(len(read_folds(folder).test))
            for name, (method, args) in methods.items()
        ]

    compared = {**MAIN, **SCHEDULES}
    first = rows(compared, range(main), start)
    if setup.digits is not None:
        first += [row for row in rows(compared, range(main), "digits") if row.data == "egogestar"]
    return first + rows(SIDE, range(side), start)


def image_model(setup: Setup) -> Path:
    """The weights of the image model; trained if they are not there."""
    folder = setup.work_dir / "images"
    weights = folder / "model.safetensors"
    if weights.exists():
        return weights
    assert setup.images is not None
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model: Any = create_model(setup.model, compress_at=(), num_frames=1, num_classes=10, **setup.model_args())
    config = resolve_input_data_config(model)
    train = create_train_transform(**config, scale=(0.3, 1.0))
    progress = fit(
        model,
        Images(setup.images / "train.parquet", train, train=True),
        folder,
        seed=0,
        smoothing=SMOOTHING,
        epochs=IMAGE_EPOCHS,
        batch_size=IMAGE_BATCH,
        lr=IMAGE_LR,
        warmup_epochs=1,
    )
    test = Images(setup.images / "test.parquet", create_clip_transform(**{**config, "crop_pct": 1.0}), train=False)
    save_checkpoint(model, weights)
    result = {"top1": round(measure(model, test).top1, 2), "minutes": round(progress.seconds / 60, 1)}
    write_text(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return weights


def build(row: Row, setup: Setup, num_classes: int, with_weights: bool = True) -> nn.Module:
    """The model of a row before training."""
    inti = create_model(setup.model, **setup.model_args(row.data))
    gflops = count_flops(inti, _clip(inti)).gflops
    torch.manual_seed(row.seed)  # after what draws weights of its own
    args = {**setup.model_args(row.data), **row.model_args}
    model: Any
    if with_weights and row.start == "digits":  # what was trained there is the adapted model
        assert setup.digits is not None
        model = adapt(zoo_model(row, setup), row.method, gflops)
        load_checkpoint(model, setup.digits / digits_row(row).id / "model.safetensors")
        model.reset_classifier(num_classes)
        return model
    if not with_weights:
        model = zoo_model(row, setup)
    elif row.start == "model":
        model = load(setup.model, **args)
    else:
        model = create_model(setup.model, num_classes=10, **args)
        load_checkpoint(model, setup.work_dir / "images" / "model.safetensors")
    model.reset_classifier(num_classes)
    return adapt(model, row.method, gflops)


def digits_row(row: Row) -> accuracy.Row:
    """The row of benchmarks/accuracy.py that trains the same model with the same seed."""
    rows = (other for stage in accuracy.plan() for other in stage if other.table in ("adaptation", "schedule"))
    return next(other for other in rows if (other.name, other.seed) == (row.name, row.seed))


def zoo_model(row: Row, setup: Setup) -> Any:
    """The model of a row as the zoo makes it: it says which frames and pixels the row takes."""
    return create_model(setup.model, **setup.model_args(row.data), **row.model_args)


def _clip(model: Any, batch: int = 1) -> tuple[int, ...]:
    return batch, model.num_frames, model.in_chans, *model.patch_embed.img_size


def run(row: Row, work_dir: Path, setup: Setup) -> None:
    """Train and measure a row, and write ``result.json``."""
    folder = work_dir / row.id
    folder.mkdir(parents=True, exist_ok=True)
    folds = read_folds(setup.data[row.data])
    names = folds.videos.class_names
    model: Any = build(row, setup, len(names))
    twin = zoo_model(row, setup)
    config, frames = (
        resolve_input_data_config(twin),
        StoredFrames(twin.num_frames, folder=work_dir / "frames" / row.data),
    )
    sided = any(re.search(r"\b(left|right)\b", name) for name in names)
    training = TRAINING.get(row.data, Training())
    augment = create_train_transform(
        **config,
        scale=training.scale,
        ratio=training.ratio,
        auto_augment=training.auto_augment,
        hflip=0.0 if sided else 0.5,
    )
    train = VideoDataset(folds.part(folds.train[row.fold]), augment, frames, train=True, seed=row.seed)
    cost = count_flops(model, _clip(twin))  # before it is compiled
    updates = len(train) // BATCH
    progress = fit(
        model,
        train,
        folder,
        seed=row.seed,
        smoothing=SMOOTHING,
        epochs=max(1, round((setup.clips or training.clips) / (updates * BATCH))),
        batch_size=BATCH,
        lr=LR,
        warmup_epochs=1,
    )
    if training.crop_mode == "squash":
        config |= {"crop_mode": "squash", "crop_pct": 1.0}
    test = VideoDataset(folds.part(folds.test[row.fold]), create_clip_transform(**config), frames)
    evaluation = measure(model.eval(), test)
    correct = (evaluation.probabilities.argmax(dim=1) == evaluation.labels).int().tolist()
    result = {
        **dataclasses.asdict(row),
        "model": setup.model,
        "pixels": config["input_size"][-1],
        "clips": progress.updates * BATCH,
        "top1": round(evaluation.top1, 2),
        "correct": "".join(map(str, correct)),
        "gflops": round(cost.gflops, 5),
        "train_minutes": round(progress.seconds / 60, 2),
    }
    save_checkpoint(model, folder / "model.safetensors")
    finish(row, folder, result)


# Results and tables


def measure_throughput(results: list[dict[str, Any]], setup: Setup) -> None:
    """Clips a second of each kind of model, all in turns, into the results."""
    rows: dict[str, Row] = {}
    for result in results:
        rows.setdefault(_kind(result), Row(**{f.name: result[f.name] for f in dataclasses.fields(Row)}))
    models: dict[str, Any] = {kind: build(row, setup, 10, with_weights=False).eval() for kind, row in rows.items()}
    shapes = {kind: _clip(zoo_model(row, setup), THROUGHPUT_BATCH) for kind, row in rows.items()}
    speeds = throughput(models, lambda kind: torch.zeros(shapes[kind]))
    for result in results:
        result["clips_per_second"] = speeds[_kind(result)]
    write_results(FILE, results)


def _kind(result: dict[str, Any]) -> str:
    return f"{result['data']} {result['name']}"


def correctness(results: Sequence[dict[str, Any]], name: str, seeds: Sequence[int], folds: Sequence[int]) -> np.ndarray:
    """1 where a row is right, (seeds, clips of all folds)."""
    of = {(r["seed"], r["fold"]): r["correct"] for r in results if r["name"] == name}
    return np.array([[int(c) for fold in folds for c in of[seed, fold]] for seed in seeds])


def complete_seeds(table: Sequence[dict[str, Any]], name: str) -> list[int]:
    """The seeds for which a row has all folds of its table."""
    folds_of = defaultdict(set)
    for r in table:
        if r["name"] == name:
            folds_of[r["seed"]].add(r["fold"])
    return sorted(seed for seed, folds in folds_of.items() if folds == {r["fold"] for r in table})


def difference(table: Sequence[dict[str, Any]], name: str, reference: str) -> tuple[float, float, float] | None:
    """`paired_difference` of two rows of a table, for the seeds that both have; None if there are none."""
    seeds = [seed for seed in complete_seeds(table, name) if seed in complete_seeds(table, reference)]
    if not seeds:
        return None
    folds = sorted({r["fold"] for r in table})
    return paired_difference(correctness(table, name, seeds, folds), correctness(table, reference, seeds, folds))


def tables_of(results: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(Data set, start) -> the rows of that table."""
    tables: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for r in results:
        tables[r["data"], r["start"]].append(r)
    return tables


def summarize(results: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(Data set, start) -> a summary of each row whose folds are all there, for the seeds for which they are."""
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, table in tables_of(results).items():
        folds = sorted({r["fold"] for r in table})
        for name in dict.fromkeys(r["name"] for r in table):
            seeds = complete_seeds(table, name)
            if not seeds:
                continue
            one = next(r for r in table if r["name"] == name)
            correct = correctness(table, name, seeds, folds)
            mean, spread = mean_and_spread(correct.mean(axis=1) * 100)
            summary = {"name": name, "seeds": len(seeds), "clips": correct.shape[1], "top1": mean, "spread": spread}
            if name != NAIVE_ROW and (against := difference(table, name, NAIVE_ROW)):
                summary["difference"] = against
            summary |= {cost: one[cost] for cost in ("gflops", "clips_per_second")}
            tables.setdefault(key, []).append(summary)
    return tables


def to_markdown(tables: dict[tuple[str, str], list[dict[str, Any]]], device: str) -> str:
    """The tables as Markdown."""
    lines = [
        "# Accuracy on real videos",
        "",
        "Written by `python benchmarks/real_videos.py`. Top-1 in percent over all folds (each clip is measured once, "
        "by a model that was trained without its fold), mean ± standard deviation over seeds. *Against naive*: the "
        "difference on the same clips and seeds, and its 95% bootstrap interval over clips. GFLOPs of a clip by fvcore "
        f"(multiply-adds); clips/s at batch {THROUGHPUT_BATCH}, float32, one thread of {device}, all models in turns.",
    ]
    for (data, start), rows in tables.items():
        lines += ["", f"## {data}, {STARTS[start]}", ""]
        lines.append("| model | seeds | clips | GFLOPs | clips/s | top-1 % | against naive |")
        lines.append("|---|---:|---:|---:|---:|---:|---:|")
        for row in rows:
            top1 = with_spread(row["top1"], row["spread"])
            difference = with_interval(row["difference"]) if "difference" in row else "-"
            speed = row["clips_per_second"] or "-"
            cells = (row["name"], row["seeds"], row["clips"], f"{row['gflops']:.4f}", speed, top1, difference)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of data sets")
    parser.add_argument("--images", type=Path, help="folder of CIFAR-10's train.parquet and test.parquet")
    parser.add_argument("--digits", type=Path, help="work folder of benchmarks/accuracy.py, for a second start")
    parser.add_argument("--model", default=ARCHITECTURE, help="model of the zoo; with --images without its weights")
    parser.add_argument("--size", type=int, help="pixels; by default those of the data set, or another model's own")
    parser.add_argument("--seeds", type=int, nargs=2, default=(3, 1), metavar=("MAIN", "SIDE"))
    names = [*MAIN, *SCHEDULES, *SIDE]
    parser.add_argument(
        "--rows", nargs="+", choices=names, default=names, metavar="NAME", help="to run; all by default"
    )
    parser.add_argument(
        "--starts", nargs="+", choices=STARTS, default=list(STARTS), help="of rows, to run; all by default"
    )
    parser.add_argument("--clips", type=int, help="to train a row on, about; by default those of the data set")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/real_videos"))
    parser.add_argument("--jobs", type=int, default=2, help="rows at once; each gets its part of the cores")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto takes a GPU where there is one")
    parser.add_argument("--report-only", action="store_true", help="write the tables of the rows that are finished")
    args = parser.parse_args()
    if args.model == ARCHITECTURE and args.images is None and not args.report_only:
        parser.error("the small model has no weights for images; pass --images, or another --model")
    if args.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    setup = Setup(
        args.work_dir,
        {folder.name: folder.absolute() for folder in args.data},
        args.images,
        args.digits,
        args.model,
        args.size,
        args.clips,
    )
    rows = plan(setup, *args.seeds)
    if not args.report_only:
        for name, folder in setup.data.items():
            store(read_folds(folder).videos, args.work_dir / "frames" / name)
        if args.images is not None:
            image_model(setup)
        finished = partial(collect, FILE, rows, args.work_dir)
        chosen = [row for row in rows if row.name in args.rows and row.start in args.starts]
        run_rows([chosen], partial(run, setup=setup), finished, args.work_dir, args.jobs)
    results = collect(FILE, rows, args.work_dir)
    if not results:
        parser.error("no row is finished; run without --report-only first")
    measure_throughput(results, setup)
    text = to_markdown(summarize(results), results[0]["device"])
    write_text(RESULTS / "real_videos.md", text)
    print(text)


if __name__ == "__main__":
    main()
